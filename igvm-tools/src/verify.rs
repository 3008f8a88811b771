// SPDX-License-Identifier: MIT OR Apache-2.0
//! Evidence from a running guest against the image that it should have been launched from.
//!
//! First the signature and its chain of certificates: without them the fields prove nothing, since anybody can write a
//! report. Then every field, against the image and against what the user expects. A verdict is no error: it says field by
//! field what agrees, what differs and what is only told.
//!
//! Evidence, certificates and images may all be hostile.

use crate::build::Platform;
use crate::error::Error;
use crate::file;
use image_abi::attestation::{DOMAIN, NONCE_BYTES};
use ring::digest;
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

mod amd;
mod certificates;
mod quote;
mod snp;
mod tdx;
#[cfg(test)]
mod tests;

/// How to judge the signature.
#[derive(Clone, Debug)]
pub struct Trust<'a> {
    /// A folder with certificates.
    pub certificates: Option<&'a Path>,
    /// The root that a chain has to end at, instead of one of AMD's.
    pub root: Option<&'a Path>,
    /// Evidence without a checked signature is good enough.
    pub without_signature: bool,
    /// When the certificates have to be valid.
    pub now: SystemTime,
}

/// What the user expects beyond the image.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// REPORT_DATA: usually a hash over a nonce and a key.
    pub report_data: Option<Vec<u8>>,
    /// HOST_DATA of SNP.
    pub host_data: Option<Vec<u8>>,
    /// The VMPL that asked for an SNP report.
    pub vmpl: Option<u32>,
    /// The guest policy of a configuration, and the platform that it is for.
    pub policy: Option<(Platform, u64)>,
    /// RTMR0 to RTMR3 of TDX.
    pub rtmrs: [Option<Vec<u8>>; 4],
}

impl Expected {
    fn rtmr(&self, number: usize) -> Option<&[u8]> {
        self.rtmrs.get(number).and_then(|rtmr| rtmr.as_deref())
    }

    /// What is expected of a field that evidence of a platform does not have.
    fn absent_on(&self, platform: Platform) -> Option<&'static str> {
        let of_snp = [(self.vmpl.is_some(), "VMPL"), (self.host_data.is_some(), "host data")];
        let of_tdx = [(self.rtmrs.iter().any(Option::is_some), "RTMR")];
        let absent = if platform == Platform::Tdx { of_snp.as_slice() } else { &of_tdx };
        absent.iter().find(|(wanted, _)| *wanted).map(|(_, field)| *field)
    }
}

/// The REPORT_DATA of a report that Parados gives for a nonce.
pub fn report_data(nonce: &[u8]) -> Result<Vec<u8>, String> {
    if !NONCE_BYTES.contains(&nonce.len()) {
        let (least, most) = (NONCE_BYTES.start(), NONCE_BYTES.end());
        return Err(format!("{} bytes, expected {least} to {most}", nonce.len()));
    }
    Ok(digest::digest(&digest::SHA512, &[DOMAIN, nonce].concat()).as_ref().to_vec())
}

/// How a field was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As expected.
    Agrees,
    /// Not as expected.
    Differs,
    /// Nothing was expected.
    Told,
}

/// A field and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The field's name.
    pub name: String,
    /// How it was found.
    pub outcome: Outcome,
    /// What it says.
    pub value: String,
    /// What was expected, if something else.
    pub expected: Option<String>,
}

/// What came of it all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the evidence is.
    pub evidence: String,
    /// Whether somebody vouches for the evidence; `None` if nobody looked.
    pub signature: Option<bool>,
    /// Whether it had to be looked at.
    pub without_signature: bool,
    /// Field by field.
    pub checks: Vec<Check>,
}

impl Check {
    fn told(name: impl fmt::Display, value: impl fmt::Display) -> Self {
        Self { name: name.to_string(), outcome: Outcome::Told, value: value.to_string(), expected: None }
    }

    fn agrees(name: impl fmt::Display, value: impl fmt::Display) -> Self {
        Self { outcome: Outcome::Agrees, ..Self::told(name, value) }
    }

    fn differs(name: impl fmt::Display, value: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self { outcome: Outcome::Differs, expected: Some(expected.to_string()), ..Self::told(name, value) }
    }

    fn compare<T: PartialEq + fmt::Display>(name: impl fmt::Display, value: T, expected: T) -> Self {
        if value == expected { Self::agrees(name, value) } else { Self::differs(name, value, expected) }
    }

    /// Bytes against what is expected of them, if anything is.
    fn bytes(name: impl fmt::Display, value: &[u8], expected: Option<&[u8]>) -> Self {
        match expected {
            Some(expected) => Self::compare(name, hex::encode(value), hex::encode(expected)),
            None => Self::told(name, hex::encode(value)),
        }
    }
}

/// Judges evidence. The paths serve messages.
pub fn verify(
    (evidence_path, evidence): (&Path, &[u8]),
    (image_path, image): (&Path, &[u8]),
    trust: &Trust<'_>,
    expected: &Expected,
) -> Result<Verdict, Error> {
    let image = file::parse(image_path, image)?;
    let of_evidence = |flaw: crate::error::Flaw| flaw.of(evidence_path);
    let tdx = match evidence {
        _ if tdx::is_tdreport(evidence) => Some(tdx::Evidence::tdreport(evidence).map_err(of_evidence)?),
        _ if tdx::is_quote(evidence) => Some(tdx::Evidence::quote(evidence).map_err(of_evidence)?),
        _ => None,
    };
    let platform = if tdx.is_some() { Platform::Tdx } else { Platform::Snp };
    if let Some((wanted, _)) = expected.policy.filter(|(wanted, _)| *wanted != platform) {
        let (wanted, platform) = (wanted.name(), platform.name());
        return Err(Error::file(
            evidence_path,
            format_args!("from {platform}, but the policy to expect is for {wanted}"),
        ));
    }
    // Left out in silence, it would seem to have been found.
    if let Some(field) = expected.absent_on(platform) {
        let (platform, other) = if tdx.is_some() { ("tdx", "snp") } else { ("snp", "tdx") };
        return Err(Error::file(
            evidence_path,
            format_args!("from {platform}, but the {field} to expect is for {other}"),
        ));
    }
    let mut verdict = Verdict {
        evidence: String::new(),
        signature: None,
        without_signature: trust.without_signature,
        checks: Vec::new(),
    };
    if let Some(tdx) = tdx {
        verdict.evidence.clone_from(&tdx.name);
        if let Some(folder) = trust.certificates {
            if tdx::is_tdreport(evidence) {
                let message = "only its own machine can check a TDREPORT: pass --no-signature, or a quote";
                return Err(Error::file(evidence_path, message));
            }
            let signature = quote::Signature::parse(evidence).map_err(of_evidence)?;
            let mut store = certificates::Store::read(folder, trust.root, &quote::INTEL)?;
            store.add(signature.certificates).map_err(of_evidence)?;
            signature.check(&store, trust.now, &mut verdict);
            let fine = verdict.differing().next().is_none();
            verdict.signature = Some(fine);
            if !fine {
                return Ok(verdict);
            }
        }
        tdx.check_fields(&image, expected, &mut verdict).map_err(|flaw| flaw.of(image_path))?;
        return Ok(verdict);
    }
    if evidence.len() != snp::REPORT_BYTES {
        let (bytes, own, theirs) = (evidence.len(), snp::REPORT_BYTES, tdx::TDREPORT_BYTES);
        return Err(Error::data(
            evidence_path,
            format_args!(
                "{bytes} bytes, expected an SNP report of {own}, a TDREPORT of {theirs}, or a TDX quote of version 4 or 5"
            ),
        ));
    }
    let report = snp::Report::parse(evidence).map_err(of_evidence)?;
    verdict.evidence = format!("SNP attestation report, version {}", report.version());
    if let Some(folder) = trust.certificates {
        let store = certificates::Store::read(folder, trust.root, &amd::AMD)?;
        report.check_signature(&store, trust.now, &mut verdict);
        let fine = verdict.differing().next().is_none();
        verdict.signature = Some(fine);
        if !fine {
            // What the fields say is nobody's word.
            return Ok(verdict);
        }
    }
    report.check_fields(&image, expected, &mut verdict).map_err(|flaw| flaw.of(image_path))?;
    Ok(verdict)
}

/// What a verdict says of evidence whose signature nobody checked.
const NOT_CHECKED: &str = "SIGNATURE NOT CHECKED";

impl Verdict {
    fn add(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// The fields that are not as expected.
    pub fn differing(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.outcome == Outcome::Differs)
    }

    /// Whether the evidence is good enough: signed, or not required to be, and nothing differs.
    pub fn passes(&self) -> bool {
        self.signature.unwrap_or(self.without_signature) && self.differing().next().is_none()
    }

    fn conclusion(&self) -> String {
        let agreeing = self.checks.iter().filter(|check| check.outcome == Outcome::Agrees).count();
        let differing: Vec<_> = self.differing().map(|check| check.name.as_str()).collect();
        match (self.passes(), differing.is_empty()) {
            (true, _) if self.signature.is_none() => format!("{agreeing} fields agree; {NOT_CHECKED}"),
            (true, _) => format!("verified: {agreeing} fields agree"),
            (false, false) => format!("REFUSED: {}", differing.join(", ")),
            (false, true) => "REFUSED: the signature was not checked (--certs DIR, or --no-signature)".to_owned(),
        }
    }

    /// The same as JSON.
    pub fn to_json(&self) -> Value {
        let check = |check: &Check| {
            let outcome = match check.outcome {
                Outcome::Agrees => "agrees",
                Outcome::Differs => "differs",
                Outcome::Told => "told",
            };
            json!({ "name": check.name, "outcome": outcome, "value": check.value, "expected": check.expected })
        };
        json!({
            "evidence": self.evidence,
            "signature": match self.signature {
                Some(true) => "verified",
                Some(false) => "refused",
                None => "not checked",
            },
            "passes": self.passes(),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.evidence)?;
        if self.signature.is_none() {
            writeln!(f, "{NOT_CHECKED}")?;
        }
        for Check { name, outcome, value, expected } in &self.checks {
            let mark = match outcome {
                Outcome::Agrees => "ok",
                Outcome::Differs => "DIFFERS",
                Outcome::Told => "-",
            };
            writeln!(f, "{mark:<8} {name:<16} {value}")?;
            if let Some(expected) = expected {
                writeln!(f, "{:<8} {:<16} {expected}", "", "expected")?;
            }
        }
        writeln!(f, "{}", self.conclusion())
    }
}
