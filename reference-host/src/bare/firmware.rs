// SPDX-License-Identifier: MIT OR Apache-2.0
//! What QEMU tells us: the PVH start information, and fw_cfg (QEMU docs/specs/fw_cfg) for the RAM and the processors.

use super::console::{in_byte, out_byte, out_word};
use super::physical;
use reference_host::memory::{RAM_RANGES, Range};
use reference_host::options::Options;
use reference_host::report::Stop;
use reference_host::start_info;
use specs::pvh::{Module, StartInfo};
use zerocopy::{FromBytes, IntoBytes};

/// fw_cfg: the selector and the data port.
const FW_CFG_SELECTOR: u16 = 0x510;
const FW_CFG_DATA: u16 = 0x511;
/// fw_cfg: how many processors are there.
const FW_CFG_PROCESSORS: u16 = 5;
/// fw_cfg: the directory of files.
const FW_CFG_FILES: u16 = 0x19;
/// The file that holds the machine's memory map: entries of 20 bytes.
const MEMORY_MAP_FILE: &[u8] = b"etc/e820";
/// An entry's type: RAM.
const E820_RAM: u32 = 1;
/// The longest command line that is read.
const COMMAND_LINE_BYTES: usize = 256;
/// Data ports of the two 8259s, which take the mask.
const PIC_MASKS: [u16; 2] = [0x21, 0xa1];

/// What the boot loader passes.
pub(super) struct Boot {
    /// The command line.
    pub(super) options: Options,
    /// Where the IGVM file is.
    pub(super) image: Range,
}

/// Reads the start information at a physical address, and what it points to.
pub(super) fn boot_parameters(start: u64) -> Result<Boot, Stop> {
    let info: StartInfo = physical::read(start)?;
    start_info::check(&info)?;
    let module: Module = physical::read(info.modules)?;
    let end = module.start.checked_add(module.bytes).ok_or(Stop::Machine("the module wraps around"))?;
    let mut line = [0u8; COMMAND_LINE_BYTES];
    let mut length = 0;
    for (slot, address) in line.iter_mut().zip(info.command_line..) {
        *slot = physical::read(address)?;
        if *slot == 0 {
            break;
        }
        length += 1;
    }
    let options = Options::parse(line.get(..length).unwrap_or(&[]))?;
    Ok(Boot { options, image: Range { start: module.start, end } })
}

fn fw_cfg_select(key: u16) {
    out_word(FW_CFG_SELECTOR, key);
}

fn fw_cfg_read<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    bytes.fill_with(|| in_byte(FW_CFG_DATA));
    bytes
}

/// How many processors the machine has; at least this one.
pub(super) fn processors() -> u32 {
    fw_cfg_select(FW_CFG_PROCESSORS);
    u32::from(u16::from_le_bytes(fw_cfg_read())).max(1)
}

/// The selector and size of the memory map's file.
fn memory_map_file() -> Option<(u16, u32)> {
    fw_cfg_select(FW_CFG_FILES);
    let count = u32::from_be_bytes(fw_cfg_read());
    for _ in 0..count {
        let size = u32::from_be_bytes(fw_cfg_read());
        let select = u16::from_be_bytes(fw_cfg_read());
        let _reserved: [u8; 2] = fw_cfg_read();
        let name: [u8; 56] = fw_cfg_read();
        if name.strip_prefix(MEMORY_MAP_FILE).is_some_and(|rest| rest.first() == Some(&0)) {
            return Some((select, size));
        }
    }
    None
}

/// The machine's RAM, sorted, and how many ranges of it there are.
///
/// The start information has a map too, but that is SeaBIOS's, which takes out what the firmware keeps for itself.
pub(super) fn ram() -> Result<([Range; RAM_RANGES], usize), Stop> {
    let (select, size) = memory_map_file().ok_or(Stop::Machine("QEMU's fw_cfg has no memory map"))?;
    fw_cfg_select(select);
    let mut ranges = [Range::default(); RAM_RANGES];
    let mut count = 0;
    for _ in 0..size / 20 {
        let start = u64::from_le_bytes(fw_cfg_read());
        let bytes = u64::from_le_bytes(fw_cfg_read());
        let kind = u32::from_le_bytes(fw_cfg_read());
        if kind == E820_RAM
            && let Some(slot) = ranges.get_mut(count)
        {
            *slot = Range { start, end: start.saturating_add(bytes) };
            count += 1;
        }
    }
    if let Some(used) = ranges.get_mut(..count) {
        used.sort_unstable_by_key(|range| range.start);
    }
    Ok((ranges, count))
}

/// Masks both 8259s: SeaBIOS leaves the timer running and unmasked, with vectors that mean exceptions.
pub(super) fn silence_interrupt_controllers() {
    for port in PIC_MASKS {
        out_byte(port, 0xff);
    }
}

/// A structure of another program's, at any address.
pub(super) trait Plain: FromBytes + IntoBytes {}
impl<T: FromBytes + IntoBytes> Plain for T {}
