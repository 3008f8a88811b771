// SPDX-License-Identifier: MIT OR Apache-2.0
//! TDX's MRTD: one SHA-384 over a record for each page that is added and one for each 256 bytes that are measured
//! (TDXABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND).
//!
//! Attributes, XFAM and the owner's values are no part of MRTD: a verifier compares them in the report.

use super::{Tdx, to_array};
use crate::PAGE;
use crate::error::Flaw;
use crate::file::File;
use crate::launch::{self, Step};
use ring::digest::{Context, SHA384};

/// A record: 16 bytes of name, 8 of address, zeroes.
const RECORD_BYTES: usize = 128;

/// What one TDH.MR.EXTEND covers.
const CHUNK: usize = 256;

/// An MRTD in the making.
struct Mrtd(Context);

impl Mrtd {
    fn record(&mut self, name: &[u8], gpa: u64) {
        let mut record = [0; RECORD_BYTES];
        let (head, rest) = record.split_at_mut(16);
        head.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        rest.iter_mut().zip(gpa.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.0.update(&record);
    }

    fn add(&mut self, gpa: u64) {
        self.record(b"MEM.PAGE.ADD", gpa);
    }

    fn extend(&mut self, gpa: u64, page: &[u8]) {
        for (chunk, at) in page.chunks_exact(CHUNK).zip((gpa..).step_by(CHUNK)) {
            self.record(b"MR.EXTEND", at);
            self.0.update(chunk);
        }
    }
}

/// The measurements of a file for the platform of a mask.
pub(super) fn measure(file: &File<'_>, mask: u32) -> Result<Tdx, Flaw> {
    let mut mrtd = Mrtd(Context::new(&SHA384));
    launch::walk(file, mask, |step| match step {
        Step::Page { gpa, measured, content, .. } => {
            mrtd.add(gpa);
            // TDX fills no page by itself: pages of SNP's kinds are ordinary ones here.
            if measured {
                mrtd.extend(gpa, content.unwrap_or(&[0; PAGE as usize]));
            }
        }
        Step::Parameter { gpa } => mrtd.add(gpa),
        // A TD's processors start in a fixed state.
        Step::Context { .. } => {}
    })?;
    Ok(Tdx { mrtd: to_array(&mrtd.0.finish()), rtmr: [[0; 48]; 4], policy: file.guest_policy(mask) })
}
