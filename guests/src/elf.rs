// SPDX-License-Identifier: MIT OR Apache-2.0
//! As much ELF64 as the floor's host needs to start another guest: segments to load, and the PVH entry in a note.

use specs::pvh::NOTE_PHYS32_ENTRY;

const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// A segment to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Physical address.
    pub address: u64,
    /// What comes from the file.
    pub bytes: &'a [u8],
    /// How many zeros follow.
    pub zeros: u64,
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn word(bytes: &[u8], offset: usize) -> Option<u64> {
    field(bytes, offset).map(u64::from_le_bytes)
}

/// The program headers, as their type and bytes.
fn headers(file: &[u8]) -> Option<impl Iterator<Item = (u32, &[u8])>> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let start = word(file, 32)? as usize;
    let size = usize::from(u16::from_le_bytes(field(file, 54)?)).max(56);
    let count = usize::from(u16::from_le_bytes(field(file, 56)?));
    let entries = file.get(start..)?.chunks_exact(size).take(count);
    Some(entries.filter_map(|header| Some((u32::from_le_bytes(field(header, 0)?), header))))
}

fn contents<'a>(file: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let start = word(header, 8)? as usize;
    file.get(start..start.checked_add(word(header, 32)? as usize)?)
}

/// The segments to load.
pub fn segments(file: &[u8]) -> Option<impl Iterator<Item = Segment<'_>>> {
    let segment = |header: &[u8]| {
        let bytes = contents(file, header)?;
        let zeros = word(header, 40)?.checked_sub(bytes.len() as u64)?;
        Some(Segment { address: word(header, 24)?, bytes, zeros })
    };
    Some(headers(file)?.filter(|(kind, _)| *kind == LOAD).filter_map(move |(_, header)| segment(header)))
}

/// The PVH entry point.
pub fn pvh_entry(file: &[u8]) -> Option<u32> {
    let notes = headers(file)?.filter(|(kind, _)| *kind == NOTE).filter_map(|(_, header)| contents(file, header));
    for mut notes in notes {
        while let Some(head) = field::<12>(notes, 0) {
            let [name, descriptor, kind] = [0, 4, 8].map(|at| field(&head, at).map_or(0, u32::from_le_bytes));
            let value = 12 + (name as usize).next_multiple_of(4);
            if kind == NOTE_PHYS32_ENTRY && notes.get(12..16) == Some(b"Xen\0") {
                return field(notes, value).map(u32::from_le_bytes);
            }
            notes = notes.get(value + (descriptor as usize).next_multiple_of(4)..).unwrap_or(&[]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut file = vec![0; 64 + 2 * 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = 2;
        let header = |kind: u8, start: u64, bytes: u64, memory: u64| {
            let mut header = vec![0; 56];
            header[0] = kind;
            header[8..16].copy_from_slice(&start.to_le_bytes());
            header[24..32].copy_from_slice(&0x20_0000u64.to_le_bytes());
            header[32..40].copy_from_slice(&bytes.to_le_bytes());
            header[40..48].copy_from_slice(&memory.to_le_bytes());
            header
        };
        file[64..120].copy_from_slice(&header(1, 176, 4, 6));
        file[120..176].copy_from_slice(&header(4, 180, 24, 24));
        file.extend(b"code");
        for value in [4u32, 8, 18] {
            file.extend(value.to_le_bytes());
        }
        file.extend(b"Xen\0");
        file.extend(0x20_0010u64.to_le_bytes());
        file
    }

    #[test]
    fn segments_and_entry_are_found() {
        let file = file();
        let found: Vec<_> = segments(&file).unwrap().collect();
        assert_eq!(found, [Segment { address: 0x20_0000, bytes: b"code", zeros: 2 }]);
        assert_eq!(pvh_entry(&file), Some(0x20_0010));
    }

    #[test]
    fn truncated_files_give_nothing() {
        let file = file();
        for length in 0..file.len() {
            let short = &file[..length];
            let _ = segments(short).map(Iterator::count);
            assert_eq!(pvh_entry(short).filter(|_| length < 200), None);
        }
    }
}
