// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's fw_cfg (docs/specs/fw_cfg.rst), by the traditional interface through the GHCB: a file that the host's operator has left
//! there.
//!
//! A host without the device, or that refuses its ports, has no files. Hostile party: the host, whose directory may say
//! anything.

use crate::ghcb::{Refusal, port_read_all, port_write};

/// The selector, and the data, byte by byte.
const SELECTOR: u16 = 0x510;
const DATA: u16 = 0x511;
const SIGNATURE: u16 = 0;
const DIRECTORY: u16 = 0x19;

/// The most files that anybody looks through.
const MOST_FILES: u32 = 1024;
/// An entry of the directory: size and selector, both big-endian, two reserved bytes, and the name with zeros behind it.
const ENTRY: usize = 64;
const NAME: usize = 8;

/// Copies a file, or its beginning if there is less room; the size that the host gives.
pub(crate) fn file(name: &str, content: &mut [u8]) -> Result<Option<usize>, Refusal> {
    let mut word = [0; 4];
    select(SIGNATURE)?;
    port_read_all(DATA, &mut word)?;
    if &word != b"QEMU" {
        return Ok(None);
    }
    select(DIRECTORY)?;
    port_read_all(DATA, &mut word)?;
    for _ in 0..u32::from_be_bytes(word).min(MOST_FILES) {
        let mut entry = [0; ENTRY];
        port_read_all(DATA, &mut entry)?;
        let Some((selector, size)) = entry_of(&entry, name) else { continue };
        select(selector)?;
        let wanted = content.len().min(size);
        port_read_all(DATA, content.get_mut(..wanted).unwrap_or_default())?;
        return Ok(Some(size));
    }
    Ok(None)
}

fn select(item: u16) -> Result<(), Refusal> {
    port_write(SELECTOR, 2, item.into())
}

/// Selector and size, if the entry has this name.
fn entry_of(entry: &[u8; ENTRY], name: &str) -> Option<(u16, usize)> {
    let &[a, b, c, d, high, low, _, _, ..] = entry;
    let rest = entry.get(NAME..)?.strip_prefix(name.as_bytes())?;
    rest.iter()
        .all(|byte| *byte == 0)
        .then(|| (u16::from_be_bytes([high, low]), u32::from_be_bytes([a, b, c, d]) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8]) -> [u8; ENTRY] {
        let mut entry = [0; ENTRY];
        entry[..8].copy_from_slice(&[0, 0, 1, 2, 0, 0x21, 0xff, 0xff]);
        entry[NAME..NAME + name.len()].copy_from_slice(name);
        entry
    }

    #[test]
    fn a_file_is_found_by_its_whole_name() {
        assert_eq!(entry_of(&entry(b"opt/x"), "opt/x"), Some((0x21, 0x102)));
        for other in [&b"opt/xy"[..], b"opt/", b"", b"opt/x\0y"] {
            assert_eq!(entry_of(&entry(other), "opt/x"), None, "{other:?}");
        }
        let long = "n".repeat(56);
        assert_eq!(entry_of(&entry(long.as_bytes()), &long), Some((0x21, 0x102)), "without a zero at its end");
        assert_eq!(entry_of(&entry(b""), &"n".repeat(57)), None);
    }
}
