// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes tables into a caller's buffer, in order, without allocating.
//!
//! An overflow is remembered rather than returned at each step: the writer then swallows everything, and
//! [`Writer::finish`] reports it. So the code that describes a table reads like the table.
//! It runs once, so what it calls often is not inlined: that halves the code.

use specs::acpi::{SDT_CHECKSUM, SDT_LENGTH, SdtHeader};
use zerocopy::{Immutable, IntoBytes};

use super::AcpiError;

/// Who made the tables, and which revision of them.
const OEM_ID: [u8; 6] = *b"PARADO";
const OEM_TABLE_ID: [u8; 8] = *b"PARADOSV";
const CREATOR_ID: [u8; 4] = *b"PRDS";

/// A position in the buffer, as an offset from its start.
pub(super) type Mark = usize;

/// The buffer and how much of it is written.
pub(super) struct Writer<'a> {
    buffer: &'a mut [u8],
    base: u64,
    used: usize,
    overflow: bool,
}

impl<'a> Writer<'a> {
    /// Writes into `buffer`, which the guest will find at `base`.
    pub(super) fn new(buffer: &'a mut [u8], base: u64) -> Self {
        Self { buffer, base, used: 0, overflow: false }
    }

    /// The bytes used, if everything fitted.
    pub(super) fn finish(self) -> Result<usize, AcpiError> {
        if self.overflow { Err(AcpiError::TooSmall) } else { Ok(self.used) }
    }

    /// The present position.
    pub(super) fn mark(&self) -> Mark {
        self.used
    }

    /// The guest-physical address of a position.
    pub(super) fn address(&self, mark: Mark) -> u64 {
        self.base + mark as u64
    }

    /// Appends bytes.
    #[inline(never)]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let end = self.used.saturating_add(bytes.len());
        match self.buffer.get_mut(self.used..end) {
            Some(room) if !self.overflow => {
                room.copy_from_slice(bytes);
                self.used = end;
            }
            _ => self.overflow = true,
        }
    }

    /// Appends a layout.
    pub(super) fn put(&mut self, value: &(impl IntoBytes + Immutable)) {
        self.bytes(value.as_bytes());
    }

    /// Appends zeros until the guest-physical address is a multiple of `alignment`.
    #[inline(never)]
    pub(super) fn align(&mut self, alignment: u64) {
        while !self.overflow && !self.address(self.used).is_multiple_of(alignment) {
            self.bytes(&[0]);
        }
    }

    /// Replaces bytes that were written before.
    #[inline(never)]
    pub(super) fn patch(&mut self, at: Mark, bytes: &[u8]) {
        match self.buffer.get_mut(at..at.saturating_add(bytes.len())) {
            Some(room) if !self.overflow => room.copy_from_slice(bytes),
            _ => self.overflow = true,
        }
    }

    /// Sets the byte at `checksum` so that `bytes` bytes from `start` sum to zero.
    #[inline(never)]
    pub(super) fn checksum(&mut self, start: Mark, bytes: usize, checksum: Mark) {
        self.patch(checksum, &[0]);
        let sum = self
            .buffer
            .get(start..start.saturating_add(bytes))
            .map(|covered| covered.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)));
        if let Some(sum) = sum {
            self.patch(checksum, &[sum.wrapping_neg()]);
        }
    }

    /// Writes a system description table, its length and checksum included; returns its address.
    pub(super) fn table(&mut self, signature: [u8; 4], revision: u8, body: impl FnOnce(&mut Self)) -> u64 {
        self.align(16);
        let start = self.mark();
        self.put(&SdtHeader {
            signature,
            length: 0,
            revision,
            checksum: 0,
            oem_id: OEM_ID,
            oem_table_id: OEM_TABLE_ID,
            oem_revision: 1,
            creator_id: CREATOR_ID,
            creator_revision: 1,
        });
        body(self);
        let bytes = self.mark() - start;
        self.patch(start + SDT_LENGTH, &(bytes as u32).to_le_bytes());
        self.checksum(start, bytes, start + SDT_CHECKSUM);
        self.address(start)
    }

    /// The OEM ID, for the RSDP.
    pub(super) const fn oem_id() -> [u8; 6] {
        OEM_ID
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_sums_to_zero_and_states_its_length() {
        let mut buffer = [0xAA; 64];
        let mut writer = Writer::new(&mut buffer, 0x1000);
        assert_eq!(writer.table(*b"TEST", 1, |writer| writer.bytes(&[1, 2, 3])), 0x1000);
        assert_eq!(writer.finish(), Ok(39));
        assert_eq!(buffer[4..8], 39_u32.to_le_bytes());
        assert_eq!(buffer[..39].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn an_overflow_anywhere_is_reported_at_the_end() {
        for room in 0..39 {
            let mut buffer = [0; 39];
            let mut writer = Writer::new(&mut buffer[..room], 0x1000);
            writer.table(*b"TEST", 1, |writer| writer.bytes(&[1, 2, 3]));
            writer.align(64);
            assert_eq!(writer.finish(), Err(AcpiError::TooSmall));
        }
    }
}
