// SPDX-License-Identifier: MIT OR Apache-2.0
//! TDX's MRTD: one SHA-384 over a record for each page that is added and one for each 256 bytes that are measured
//! (TDXABI, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND).
//!
//! Attributes, XFAM and the owner's values are no part of MRTD: a verifier compares them in the report.
//!
//! Runtime registers are zero at launch. Of Parados's images, told by their reset page, more is known: they never call
//! TDG.MR.RTMR.EXTEND. All that they could extend one with is measured or has its digest in a measured page.

use super::{Tdx, to_array};
use crate::PAGE;
use crate::error::Flaw;
use crate::file::File;
use crate::launch::{self, Step};
use image_abi::{RESET_MAGIC, RESET_PAGE};
use ring::digest::{Context, SHA384};

/// A record: 16 bytes of name, 8 of address, zeroes.
type Record = [u8; 128];

/// What one TDH.MR.EXTEND covers.
const CHUNK: usize = 256;

/// What one TDH.MR.EXTEND hashes: its record, then the memory.
const EXTEND: usize = size_of::<Record>() + CHUNK;

/// An MRTD in the making. What a page adds is put together first: a call of the hash function for each record would cost more than
/// some of them take.
struct Mrtd {
    context: Context,
    add: Record,
    extend: [[u8; EXTEND]; PAGE as usize / CHUNK],
}

impl Mrtd {
    fn new() -> Self {
        let mut extend = [0; EXTEND];
        name(&mut extend, b"MR.EXTEND");
        let mut add = [0; size_of::<Record>()];
        name(&mut add, b"MEM.PAGE.ADD");
        Self { context: Context::new(&SHA384), add, extend: [extend; PAGE as usize / CHUNK] }
    }

    fn add(&mut self, gpa: u64) {
        address(&mut self.add, gpa);
        self.context.update(&self.add);
    }

    fn extend(&mut self, gpa: u64, page: &[u8]) {
        let chunks = page.chunks_exact(CHUNK).zip((gpa..).step_by(CHUNK));
        for (extend, (chunk, at)) in self.extend.iter_mut().zip(chunks) {
            address(extend, at);
            if let Some((_, memory)) = extend.split_first_chunk_mut::<{ size_of::<Record>() }>() {
                memory.copy_from_slice(chunk);
            }
        }
        self.context.update(self.extend.as_flattened());
    }
}

/// Writes a record's name.
fn name(record: &mut [u8], name: &[u8]) {
    record.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
}

/// Writes a record's address.
fn address(record: &mut [u8], gpa: u64) {
    if let Some((_, rest)) = record.split_first_chunk_mut::<16>()
        && let Some((address, _)) = rest.split_first_chunk_mut()
    {
        *address = gpa.to_le_bytes();
    }
}

/// The measurements of a file for the platform of a mask.
pub(super) fn measure(file: &File<'_>, mask: u32) -> Result<Tdx, Flaw> {
    let (mut mrtd, mut extends_none) = (Mrtd::new(), false);
    launch::walk(file, mask, |step| match step {
        Step::Page { gpa, measured, content, .. } => {
            mrtd.add(gpa);
            // TDX fills no page by itself: pages of SNP's kinds are ordinary ones here.
            if measured {
                mrtd.extend(gpa, content.unwrap_or(&[0; PAGE as usize]));
                // MRTD vouches for what the image is.
                extends_none |= gpa == RESET_PAGE && content.is_some_and(|content| content.starts_with(&RESET_MAGIC));
            }
        }
        Step::Parameter { gpa } => mrtd.add(gpa),
        // A TD's processors start in a fixed state.
        Step::Context { .. } => {}
    })?;
    Ok(Tdx {
        mrtd: to_array(&mrtd.context.finish()),
        rtmr: [[0; 48]; 4],
        extends_none,
        policy: file.guest_policy(mask),
    })
}
