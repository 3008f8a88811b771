// SPDX-License-Identifier: MIT OR Apache-2.0
//! What firmware would have left in the battery-backed bytes: the equipment and memory sizes that old software looks for.

/// The 128 bytes.
pub(super) type Cmos = [u8; 128];

/// A floating-point unit; no floppy, no monochrome display.
const EQUIPMENT: u8 = 0x02;
/// Conventional memory in KiB.
const BASE_MEMORY: u16 = 640;

fn put(cmos: &mut Cmos, at: usize, bytes: &[u8]) {
    if let Some(place) = cmos.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn saturated(value: u64) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes()
}

/// The contents for a machine with that much memory below and above 4 GiB, in bytes. The clock's registers stay zero.
pub(super) fn initial(memory_below_4g: u64, memory_above_4g: u64) -> Cmos {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let mut cmos = [0; 128];
    let extended = saturated(memory_below_4g.saturating_sub(MIB) / KIB);
    let above_16m = saturated(memory_below_4g.saturating_sub(16 * MIB) / (64 * KIB));
    let [low, middle, high, ..] = (memory_above_4g / (64 * KIB)).min(0xff_ffff).to_le_bytes();
    put(&mut cmos, 0x14, &[EQUIPMENT]);
    put(&mut cmos, 0x15, &BASE_MEMORY.to_le_bytes());
    put(&mut cmos, 0x17, &extended);
    put(&mut cmos, 0x30, &extended);
    put(&mut cmos, 0x34, &above_16m);
    put(&mut cmos, 0x5b, &[low, middle, high]);
    // The checksum of 10h–2Dh, high byte first.
    let sum = cmos.iter().take(0x2e).skip(0x10).map(|&byte| u16::from(byte)).sum::<u16>();
    put(&mut cmos, 0x2e, &sum.to_be_bytes());
    cmos
}
