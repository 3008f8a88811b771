// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's power button (`system_powerdown`), which arrives as an SCI of its ICH9 (Intel I/O Controller Hub 9 data sheet,
//! 13.8.3) and becomes a press of the guest's own. How a port is reached is the backend's.
//!
//! Hostile party: a host may say at any time that the button is pressed, which it could do with a real one as well.

/// The LPC bridge's configuration space, 00:1f.0, through configuration mechanism 1.
const LPC: u32 = 0x8000_f800;
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// PMBASE, and what it is set to: firmware may not have run.
const PMBASE: u32 = 0x40;
const BASE: u16 = 0x600;
/// ACPI_CNTL: decode the block, SCI on IRQ 9.
const ACPI_CNTL: u32 = 0x44;
const ACPI_EN: u32 = 1 << 7;
/// PM1_STS (write 1 to clear) and PM1_EN.
const STATUS: u16 = BASE;
const ENABLE: u16 = BASE + 2;
const PRESSED: u16 = 1 << 8;
/// What a bus without the block reads as.
const ABSENT: u16 = 0xffff;

/// The pin of the host's IOAPIC where the SCI arrives, level-triggered.
pub const SCI_PIN: u32 = 9;

/// The host's ports in the widths of these registers.
pub trait Registers {
    /// Why the host did not do it.
    type Refusal;
    /// IN of two bytes.
    fn read_word(&self, port: u16) -> Result<u16, Self::Refusal>;
    /// OUT of two bytes.
    fn write_word(&self, port: u16, value: u16) -> Result<(), Self::Refusal>;
    /// OUT of four bytes.
    fn write_long(&self, port: u16, value: u32) -> Result<(), Self::Refusal>;
}

/// Makes the button raise an SCI.
pub fn initialise<R: Registers>(registers: &R) -> Result<(), R::Refusal> {
    for (register, value) in [(PMBASE, u32::from(BASE) | 1), (ACPI_CNTL, ACPI_EN)] {
        registers.write_long(ADDRESS, LPC | register)?;
        registers.write_long(DATA, value)?;
    }
    registers.write_word(STATUS, PRESSED)?;
    registers.write_word(ENABLE, PRESSED)
}

/// Whether the button was pressed since the last call. A host without one has none to press.
pub fn take(registers: &impl Registers) -> bool {
    let status = registers.read_word(STATUS).unwrap_or(ABSENT);
    // A write that the host refuses leaves the line raised, which costs that host's time.
    let _ = registers.write_word(STATUS, PRESSED);
    status != ABSENT && status & PRESSED != 0
}

#[cfg(test)]
mod tests {
    use core::cell::{Cell, RefCell};

    use super::*;

    /// A PM1 block whose status is as given, and what was written.
    struct Ports(Result<u16, ()>, RefCell<Vec<(u16, u32)>>, Cell<bool>);

    impl Ports {
        fn with(status: Result<u16, ()>) -> Self {
            Self(status, RefCell::default(), Cell::new(false))
        }

        fn write(&self, port: u16, value: u32) -> Result<(), ()> {
            self.1.borrow_mut().push((port, value));
            if self.2.get() { Err(()) } else { Ok(()) }
        }
    }

    impl Registers for Ports {
        type Refusal = ();

        fn read_word(&self, port: u16) -> Result<u16, ()> {
            assert_eq!(port, 0x600);
            self.0
        }

        fn write_word(&self, port: u16, value: u16) -> Result<(), ()> {
            self.write(port, value.into())
        }

        fn write_long(&self, port: u16, value: u32) -> Result<(), ()> {
            self.write(port, value)
        }
    }

    #[test]
    fn the_button_is_found_pressed_and_acknowledged() {
        let ports = Ports::with(Ok(0x0100 | 1));
        assert!(take(&ports));
        assert_eq!(*ports.1.borrow(), [(0x600, 0x100)], "write 1 to clear, and nothing else's bit");
        assert!(!take(&Ports::with(Ok(1))));
    }

    #[test]
    fn a_host_without_a_button_presses_none() {
        assert!(!take(&Ports::with(Ok(0xffff))));
        assert!(!take(&Ports::with(Err(()))));
    }

    #[test]
    fn the_block_is_placed_before_its_registers_are_used() {
        let ports = Ports::with(Ok(0));
        assert_eq!(initialise(&ports), Ok(()));
        let expected =
            [(0xcf8, 0x8000_f840), (0xcfc, 0x601), (0xcf8, 0x8000_f844), (0xcfc, 0x80), (0x600, 0x100), (0x602, 0x100)];
        assert_eq!(*ports.1.borrow(), expected);
        ports.2.set(true);
        assert_eq!(initialise(&ports), Err(()));
    }
}
