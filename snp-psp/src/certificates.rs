// SPDX-License-Identifier: MIT OR Apache-2.0
//! The certificates that a host hands out with an extended guest request: a table of GUIDs, then the certificates.
//!
//! GHCB (56421), extended guest request, as virtee/sev `src/firmware/linux/host/types` and google/go-sev-guest
//! `abi/abi.go` read it. The GUIDs' bytes are in the order in which they are written down.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Which certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The chip's key, which signs reports.
    Vcek,
    /// The key between.
    Ask,
    /// The root.
    Ark,
}

impl Kind {
    /// Its GUID.
    pub fn guid(self) -> [u8; 16] {
        match self {
            Self::Vcek => 0x63da758d_e664_4564_adc5_f4b93be8accd_u128.to_be_bytes(),
            Self::Ask => 0x4ab7b379_bbac_4fe4_a02f_05aef327c782_u128.to_be_bytes(),
            Self::Ark => 0xc0b406a4_a803_4952_9743_3fb6014cd0ae_u128.to_be_bytes(),
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Entry {
    guid: [u8; 16],
    offset: U32,
    length: U32,
}

const ENTRY_BYTES: usize = 24;
const _: () = assert!(size_of::<Entry>() == ENTRY_BYTES);

/// Bytes that the table and its certificates take.
pub fn bytes(certificates: &[(Kind, &[u8])]) -> usize {
    // One more entry, of zeros, ends the table.
    let entries = (certificates.len() + 1) * ENTRY_BYTES;
    certificates.iter().fold(entries, |sum, (_, certificate)| sum.saturating_add(certificate.len()))
}

/// Writes the table into the host's buffer; `None` if it does not fit.
pub fn write(certificates: &[(Kind, &[u8])], buffer: &mut [u8]) -> Option<usize> {
    let used = bytes(certificates);
    let buffer = buffer.get_mut(..used)?;
    buffer.fill(0);
    let (table, mut rest) = buffer.split_at_mut_checked((certificates.len() + 1) * ENTRY_BYTES)?;
    let mut offset = table.len();
    for (entry, (kind, certificate)) in table.as_chunks_mut::<ENTRY_BYTES>().0.iter_mut().zip(certificates) {
        let length = certificate.len();
        let (to, left) = rest.split_at_mut_checked(length)?;
        to.copy_from_slice(certificate);
        let header = Entry {
            guid: kind.guid(),
            offset: U32::new(u32::try_from(offset).ok()?),
            length: U32::new(u32::try_from(length).ok()?),
        };
        *entry = zerocopy::transmute!(header);
        (offset, rest) = (offset + length, left);
    }
    Some(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ends_with_zeros_and_points_at_the_certificates() {
        let certificates: [(Kind, &[u8]); 2] = [(Kind::Vcek, b"vcek"), (Kind::Ask, b"askask")];
        let mut buffer = [0xff; 100];
        let used = write(&certificates, &mut buffer).unwrap();
        assert_eq!((used, bytes(&certificates)), (82, 82));
        assert_eq!(buffer[..4], [0x63, 0xda, 0x75, 0x8d]);
        assert_eq!(buffer[16..24], [72, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(buffer[40..48], [76, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(buffer[48..72], [0; 24]);
        assert_eq!(&buffer[72..82], b"vcekaskask");
        assert_eq!(buffer[82..], [0xff; 18]);
    }

    #[test]
    fn a_small_buffer_is_refused_untouched() {
        let mut buffer = [1; 75];
        assert_eq!(write(&[(Kind::Ark, b"1234")], &mut buffer[..51]), None);
        assert_eq!(buffer, [1; 75]);
        assert_eq!(write(&[(Kind::Ark, b"1234")], &mut buffer[..52]), Some(52));
        assert_eq!(write(&[], &mut []), None);
    }
}
