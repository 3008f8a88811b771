// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measurements as text for people and as JSON for programs.

use super::{LaunchDigest, Measurement, Measurements, Snp, Tdx, Value, VmsaPlace, Zeroes};
use crate::policy;
use serde_json::{Value as Json, json};
use std::fmt;

impl fmt::Display for Measurements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Measurement { platform, mask, value } in &self.platforms {
            match value {
                Value::Snp(snp) => {
                    writeln!(f, "{platform}, mask {mask:#x}")?;
                    show_snp(snp, f)?;
                }
                Value::Tdx(tdx) => {
                    writeln!(f, "{platform}, mask {mask:#x}")?;
                    show_tdx(tdx, f)?;
                }
                Value::None => writeln!(f, "{platform}, mask {mask:#x}: not measured")?,
            }
        }
        Ok(())
    }
}

fn show_snp(snp: &Snp, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for digest in &snp.digests {
        writeln!(f, "  launch digest  {}  {}", hex::encode(digest.digest), digest.describe())?;
    }
    if let Some(policy) = snp.policy {
        writeln!(f, "  policy         {policy:#x}: {}", policy::words(&policy::SNP, policy).join(", "))?;
    }
    if let Some(promised) = &snp.promised {
        let judged = match snp.find(promised) {
            Some(found) => found.describe(),
            None => "NOT a digest of this file".to_owned(),
        };
        writeln!(f, "  ID block       {}  {judged}", hex::encode(promised))?;
    }
    Ok(())
}

fn show_tdx(tdx: &Tdx, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "  MRTD           {}", hex::encode(tdx.mrtd))?;
    for (number, rtmr) in tdx.rtmr.iter().enumerate() {
        let when = if tdx.extends_none { "at launch and later: Parados extends none" } else { "at launch" };
        writeln!(f, "  RTMR{number}          {}  {when}", hex::encode(rtmr))?;
    }
    if let Some(policy) = tdx.policy {
        writeln!(f, "  policy         {policy:#x}: {}", policy::words(&policy::TDX, policy).join(", "))?;
    }
    Ok(())
}

impl LaunchDigest {
    /// Whose digest it is.
    pub fn describe(&self) -> String {
        let vmsa = match self.vmsa {
            VmsaPlace::File => "VMSA as in the file",
            VmsaPlace::Kvm => "VMSA as by KVM",
        };
        match self.zeroes {
            Zeroes::Data => vmsa.to_owned(),
            Zeroes::Type => format!("{vmsa}, zeroes as by QEMU"),
        }
    }
}

impl Measurements {
    /// The same as JSON. Digests are in hexadecimal.
    pub fn to_json(&self) -> Json {
        json!({ "measurements": self.platforms.iter().map(Measurement::to_json).collect::<Vec<_>>() })
    }
}

impl Measurement {
    fn to_json(&self) -> Json {
        let mut object = json!({ "platform": self.platform, "compatibility_mask": self.mask });
        let more = match &self.value {
            Value::Snp(snp) => json!({
                "launch_digests": snp.digests.iter().copied().map(LaunchDigest::to_json).collect::<Vec<_>>(),
                "policy": snp.policy.map(|policy| policy::to_json(&policy::SNP, policy)),
                "id_block_launch_digest": snp.promised.map(hex::encode),
            }),
            Value::Tdx(tdx) => json!({
                "mrtd": hex::encode(tdx.mrtd),
                "rtmr_at_launch": tdx.rtmr.map(hex::encode),
                "rtmr_expected": tdx.extends_none.then(|| tdx.rtmr.map(hex::encode)),
                "policy": tdx.policy.map(|policy| policy::to_json(&policy::TDX, policy)),
            }),
            Value::None => json!({ "measured": false }),
        };
        if let (Some(object), Json::Object(more)) = (object.as_object_mut(), more) {
            object.extend(more);
        }
        object
    }
}

impl LaunchDigest {
    fn to_json(self) -> Json {
        json!({
            "digest": hex::encode(self.digest),
            "vmsa": match self.vmsa {
                VmsaPlace::File => "file",
                VmsaPlace::Kvm => "kvm",
            },
            "zero_pages": match self.zeroes {
                Zeroes::Data => "data",
                Zeroes::Type => "type",
            },
        })
    }
}
