// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices that read and write memory by themselves: there are none. Neither the RMP nor encryption stands between QEMU's
//! devices and the guest's private memory, or the host's; so a guest, which is hostile, cannot let a PCI function master the
//! bus (PCI 3.0, 6.2.2).

/// The command register and its bus-master bit.
const COMMAND: u64 = 4;
const BUS_MASTER: u64 = 1 << 2;

/// What is written at an offset of a function's configuration space, without that bit.
pub fn without_bus_master(offset: u64, value: u64) -> u64 {
    match COMMAND.checked_sub(offset) {
        Some(bytes) if bytes < 8 => value & !(BUS_MASTER << (bytes * 8)),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_is_gone_however_it_is_written() {
        assert_eq!(without_bus_master(4, 0x0507), 0x0503);
        assert_eq!(without_bus_master(0, 7 << 32 | 0x8086), 3 << 32 | 0x8086, "eight bytes from the start");
        assert_eq!(without_bus_master(2, 7 << 16), 3 << 16);
        assert_eq!(without_bus_master(3, 7 << 8), 3 << 8);
    }

    #[test]
    fn other_registers_are_the_guests() {
        for offset in [5, 6, 8, 0x10, 0x404] {
            assert_eq!(without_bus_master(offset, u64::MAX), u64::MAX, "{offset:#x}");
        }
        assert_eq!(without_bus_master(0, 0xffff), 0xffff);
    }
}
