// SPDX-License-Identifier: MIT OR Apache-2.0
//! TDX evidence: a TDREPORT, or the body of a quote, against an image.
//!
//! Sources: TDXABI, TDREPORT_STRUCT; Intel TDX DCAP Quoting Library API, quote formats 4 and 5. A TDREPORT is
//! authenticated by a MAC that only its own machine can check, a quote by a signature (`quote.rs`).

use super::{Check, Expected, Verdict};
use crate::error::{Flaw, ensure};
use crate::file::File;
use crate::measure::{compute, sha384};
use crate::policy;

/// TDXABI, TDREPORT_STRUCT.
pub(super) const TDREPORT_BYTES: usize = 1024;

/// The TEE type of TDX, in a TDREPORT's first byte and in a quote's header.
const TEE_TDX: u8 = 0x81;

const HEADER_BYTES: usize = 48;

/// The fields, wherever they came from.
pub(super) struct Evidence {
    /// What it is.
    pub(super) name: String,
    attributes: u64,
    xfam: u64,
    mrtd: [u8; 48],
    config_id: [u8; 48],
    owner: [u8; 48],
    owner_config: [u8; 48],
    rtmr: [[u8; 48]; 4],
    report_data: [u8; 64],
    mrseam: [u8; 48],
    mrsignerseam: [u8; 48],
    tcb_svn: [u8; 16],
    /// TEE_INFO_HASH and what it should be, in a TDREPORT.
    info_hash: Option<([u8; 48], [u8; 48])>,
}

/// Takes fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (field, rest) = self.0.split_first_chunk().ok_or_else(|| Flaw::new("ends within a field"))?;
        self.0 = rest;
        Ok(*field)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Flaw> {
        self.0 = self.0.get(bytes..).ok_or_else(|| Flaw::new("ends within a field"))?;
        Ok(())
    }
}

/// Whether bytes look like a TDREPORT.
pub(super) fn is_tdreport(bytes: &[u8]) -> bool {
    bytes.len() == TDREPORT_BYTES && bytes.first() == Some(&TEE_TDX)
}

/// Whether bytes look like a quote from a TD.
pub(super) fn is_quote(bytes: &[u8]) -> bool {
    matches!(bytes, [4 | 5, 0, _, _, TEE_TDX, 0, 0, 0, ..]) && bytes.len() > HEADER_BYTES
}

impl Evidence {
    pub(super) fn tdreport(bytes: &[u8]) -> Result<Self, Flaw> {
        ensure!(is_tdreport(bytes), "{} bytes, expected {TDREPORT_BYTES} of a TDREPORT", bytes.len());
        let [_, subtype, version, _] = Fields(bytes).take()?;
        ensure!(subtype == 0, "report subtype at offset 0x1 is {subtype}, expected 0");
        ensure!(version <= 1, "report version at offset 0x2 is {version}, expected 0 or 1");
        let mut fields = Fields(bytes);
        fields.skip(32 + 48)?;
        let info_hash = fields.take()?;
        let report_data = fields.take()?;
        // TEE_TCB_INFO, after 32 reserved bytes and the MAC: first which of its fields are valid.
        fields.skip(32 + 32 + 8)?;
        let (tcb_svn, mrseam, mrsignerseam) = (fields.take()?, fields.take()?, fields.take()?);
        let info = bytes.get(512..).unwrap_or_default();
        let mut fields = Fields(info);
        Ok(Self {
            name: "TDREPORT".to_owned(),
            attributes: u64::from_le_bytes(fields.take()?),
            xfam: u64::from_le_bytes(fields.take()?),
            mrtd: fields.take()?,
            config_id: fields.take()?,
            owner: fields.take()?,
            owner_config: fields.take()?,
            rtmr: [fields.take()?, fields.take()?, fields.take()?, fields.take()?],
            report_data,
            mrseam,
            mrsignerseam,
            tcb_svn,
            info_hash: Some((info_hash, sha384(info))),
        })
    }

    pub(super) fn quote(bytes: &[u8]) -> Result<Self, Flaw> {
        ensure!(is_quote(bytes), "not a quote of version 4 or 5 from a TD");
        let mut fields = Fields(bytes);
        let [version, _] = fields.take()?;
        fields.skip(HEADER_BYTES - 2)?;
        if version == 5 {
            let kind = u16::from_le_bytes(fields.take()?);
            ensure!(matches!(kind, 2 | 3), "quote body type at offset 0x30 is {kind}, expected 2 or 3 (TD)");
            fields.skip(4)?;
        }
        let (tcb_svn, mrseam, mrsignerseam) = (fields.take()?, fields.take()?, fields.take()?);
        // SEAMATTRIBUTES.
        fields.skip(8)?;
        Ok(Self {
            name: format!("quote, version {version}"),
            attributes: u64::from_le_bytes(fields.take()?),
            xfam: u64::from_le_bytes(fields.take()?),
            mrtd: fields.take()?,
            config_id: fields.take()?,
            owner: fields.take()?,
            owner_config: fields.take()?,
            rtmr: [fields.take()?, fields.take()?, fields.take()?, fields.take()?],
            report_data: fields.take()?,
            mrseam,
            mrsignerseam,
            tcb_svn,
            info_hash: None,
        })
    }

    /// Every field against the image and against what the user expects.
    pub(super) fn check_fields(
        &self,
        image: &File<'_>,
        expected: &Expected,
        verdict: &mut Verdict,
    ) -> Result<(), Flaw> {
        let measured = compute(image)?;
        let Some(tdx) = measured.tdx() else {
            return Err(Flaw::new("not an image for tdx, which the evidence is from"));
        };
        if let Some((told, computed)) = &self.info_hash {
            verdict.add(Check::bytes("TEE info hash", told, Some(computed)));
        }
        verdict.add(Check::bytes("MRTD", &self.mrtd, Some(&tdx.mrtd)));
        let words = policy::words(&policy::TDX_ATTRIBUTES, self.attributes).join(", ");
        verdict.add(Check::told("attributes", format_args!("{:#x} ({words})", self.attributes)));
        self.check_attributes("", tdx.policy, verdict);
        self.check_attributes(" wanted", expected.policy.map(|(_, policy)| policy), verdict);
        verdict.add(Check::bytes("report data", &self.report_data, expected.report_data.as_deref()));
        for (number, (rtmr, at_launch)) in self.rtmr.iter().zip(&tdx.rtmr).enumerate() {
            let unextended = tdx.extends_none.then_some(at_launch.as_slice());
            verdict.add(Check::bytes(format_args!("RTMR{number}"), rtmr, expected.rtmr(number).or(unextended)));
        }
        verdict.add(Check::told("XFAM", format_args!("{:#x}", self.xfam)));
        for (name, value) in [
            ("MRCONFIGID", &self.config_id),
            ("MROWNER", &self.owner),
            ("MROWNERCONFIG", &self.owner_config),
            ("MRSEAM", &self.mrseam),
        ] {
            verdict.add(Check::bytes(name, value, None));
        }
        // Zero: a module of Intel's own.
        verdict.add(Check::bytes("MRSIGNERSEAM", &self.mrsignerseam, Some(&[0; 48])));
        verdict.add(Check::bytes("TEE TCB SVN", &self.tcb_svn, None));
        Ok(())
    }

    /// A policy says three of the attributes; the host chooses the others.
    fn check_attributes(&self, suffix: &str, wanted: Option<u64>, verdict: &mut Verdict) {
        let Some(wanted) = wanted else { return };
        for (name, bit) in policy::TDX.bits {
            let attribute = policy::TDX_ATTRIBUTES.bits.iter().find(|(own, _)| own == name);
            let Some((_, place)) = attribute else { continue };
            let (value, wanted) = (self.attributes >> place & 1 == 1, wanted >> bit & 1 == 1);
            verdict.add(Check::compare(format_args!("{name}{suffix}"), value, wanted));
        }
    }
}
