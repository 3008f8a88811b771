// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole PC: every device and interrupt controller outside the processors, its ports and addresses, and its wires.
//!
//! ```text
//! guest access ──▶ Pc ──RangeMap, match──▶ device ──Line──▶ Pic ────pic_output──▶ LINT0 of the local APICs
//!                                             │     └─────▶ IoApic ────send─────▶ local APICs
//!                                             └──transmit, request──▶ PcHost
//! ```
//!
//! ISA interrupt n reaches input n of the 8259s and pin n of the IOAPIC, but for the timer, IRQ 0, which reaches
//! [`TIMER_PIN`]. The local APICs belong to the vCPUs and are not here; neither is memory.
//!
//! Nothing here waits or allocates after [`Pc::new`]. Several vCPUs share a `Pc` behind a lock that is not its own.
//!
//! Hostile parties: the guest, which may access anything in any width, and the host, which feeds the consoles.

mod map;
mod parts;
#[cfg(test)]
mod tests;
mod wires;

use core::ops::RangeInclusive;

use map::Id;
use parts::Parts;
use platform::Slip;
use vmm_interface::{Console, DispatchError, Instant, InterruptMessage, Lifecycle, RangeMap, Register};
pub use wires::TIMER_PIN;
use wires::{Around, Time, Wires};

use crate::acpi::IOAPIC_BASE;
use crate::chipset::{is_absent_mmio, is_absent_port};

/// The IOAPIC's page.
pub const IOAPIC: RangeInclusive<u64> = IOAPIC_BASE..=IOAPIC_BASE + 0xfff;

/// What kind of PC it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PcConfig {
    /// How many processors there are.
    pub processors: u32,
    /// Bytes of memory below 4 GiB, counted from address 0.
    pub memory_below_4g: u64,
    /// Bytes of memory above 4 GiB.
    pub memory_above_4g: u64,
    /// Whether kvm-unit-tests' devices exist.
    pub test_devices: bool,
    /// Whether COM2 exists.
    pub command_console: bool,
    /// Seconds since 1970 at [`Instant`] zero; 0 if unknown.
    pub unix_time: u64,
}

/// What the PC needs from its surroundings. Nothing here may call back into the PC.
pub trait PcHost {
    /// The current time. Asked for at most once in a call to the PC.
    fn now(&self) -> Instant;
    /// A byte of console output.
    fn transmit(&mut self, console: Console, byte: u8);
    /// An interrupt message from the IOAPIC to the local APICs. False if no processor takes it.
    fn send(&mut self, message: &InterruptMessage) -> bool;
    /// The INTR wire of the 8259s, which leads to the boot processor's LINT0, has changed.
    fn pic_output(&mut self, asserted: bool);
    /// The guest ends the VM. The first request wins.
    fn request(&mut self, change: Lifecycle);
}

/// What became of an access.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<T> {
    /// A device took it.
    Found(T),
    /// Nothing is there, and that is known: all-ones, or an ignored write.
    Absent(T),
    /// Nothing is there, and nobody expected an access: the same answer, worth counting.
    Unknown(T),
}

impl<T> Answer<T> {
    /// What the guest sees, however it came about.
    pub fn value(self) -> T {
        match self {
            Self::Found(value) | Self::Absent(value) | Self::Unknown(value) => value,
        }
    }

    /// The same, with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Found(value) => Answer::Found(change(value)),
            Self::Absent(value) => Answer::Absent(change(value)),
            Self::Unknown(value) => Answer::Unknown(change(value)),
        }
    }
}

/// The two address spaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Space {
    Port,
    Mmio,
}

/// The PC.
#[derive(Debug)]
pub struct Pc {
    ports: RangeMap<Id>,
    mmio: RangeMap<Id>,
    parts: Parts,
    wires: Wires,
    deadline: Instant,
}

impl Pc {
    /// Builds the machine.
    pub fn new(config: &PcConfig) -> Result<Self, DispatchError> {
        Ok(Self {
            ports: map::ports(config)?,
            mmio: map::mmio(config)?,
            parts: Parts::new(config)?,
            wires: Wires::new(),
            deadline: Instant::NEVER,
        })
    }

    /// Leaves timer and 8259s as a BIOS does: 18.2 ticks a second, which interrupt the boot processor at vector 8.
    pub fn start_as_bios(&mut self, host: &mut impl PcHost) {
        // Channel 0 in mode 2 with the longest count. Then the command words, which forget the edge that it began with.
        let timer = [(0x43, 0x34), (0x40, 0), (0x40, 0)];
        let primary = [(0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0x21, 0xfa)];
        let secondary = [(0xa0, 0x11), (0xa1, 0x70), (0xa1, 0x02), (0xa1, 0x01), (0xa1, 0xff)];
        for (port, value) in timer.into_iter().chain(primary).chain(secondary) {
            let _ = self.port_write(port, 1, value, host);
        }
    }

    /// IN. Widths are 1, 2 and 4.
    pub fn port_read(&mut self, port: u16, width: u8, host: &mut impl PcHost) -> Answer<u32> {
        self.read(Space::Port, port.into(), width.min(4), host).map(|value| value as u32)
    }

    /// OUT. Bits of `value` beyond the width are ignored.
    pub fn port_write(&mut self, port: u16, width: u8, value: u32, host: &mut impl PcHost) -> Answer<()> {
        self.write(Space::Port, port.into(), width.min(4), value.into(), host)
    }

    /// A load from an address that is not memory. Widths are 1 to 8.
    pub fn mmio_read(&mut self, gpa: u64, width: u8, host: &mut impl PcHost) -> Answer<u64> {
        self.read(Space::Mmio, gpa, width.min(8), host)
    }

    /// A store to an address that is not memory. Bits of `value` beyond the width are ignored.
    pub fn mmio_write(&mut self, gpa: u64, width: u8, value: u64, host: &mut impl PcHost) -> Answer<()> {
        self.write(Space::Mmio, gpa, width.min(8), value, host)
    }

    /// A local APIC has broadcast the end of a level-triggered interrupt.
    pub fn end_of_interrupt(&mut self, vector: u8, host: &mut impl PcHost) {
        self.wires.end_of_interrupt(vector, host);
    }

    /// The interrupt acknowledge cycle of a processor that takes an external interrupt: the 8259s' vector.
    pub fn pic_acknowledge(&mut self, host: &mut impl PcHost) -> u8 {
        let vector = self.wires.pic.acknowledge();
        self.wires.sync_pic(host);
        vector
    }

    /// The vector that [`Self::pic_acknowledge`] would return now.
    pub fn pic_next_vector(&self) -> u8 {
        self.wires.pic.next_vector()
    }

    /// Whether the 8259s assert INTR.
    pub fn pic_output(&self) -> bool {
        self.wires.pic.output()
    }

    /// When [`Self::expire`] wants to be called; [`Instant::NEVER`] if nothing waits. Any other call may move it.
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Lets the devices catch up with the time. Bounded work however late, harmless when early.
    pub fn expire(&mut self, host: &mut impl PcHost) {
        self.parts.expire(&mut Around::new(&mut self.wires, host, &Time::default()));
        self.deadline = self.parts.deadline();
    }

    /// Whether [`Self::receive`] would take a byte. Changes only by guest accesses and by `receive`.
    pub fn console_has_room(&self, console: Console) -> bool {
        self.parts.has_room(console)
    }

    /// A byte of console input. False if it is lost: no such port, or no room, which the guest sees as an overrun.
    pub fn receive(&mut self, console: Console, byte: u8, host: &mut impl PcHost) -> bool {
        let Some(uart) = self.parts.uart(console) else {
            return false;
        };
        let taken = uart.receive(byte, &mut Around::new(&mut self.wires, host, &Time::default()));
        self.deadline = self.parts.deadline();
        taken
    }

    /// The host presses the power button.
    pub fn power_button(&mut self, host: &mut impl PcHost) {
        self.parts.power.press_power_button(&mut Around::new(&mut self.wires, host, &Time::default()));
        self.deadline = self.parts.deadline();
    }

    /// Whether the guest has masked NMIs by port 70h.
    pub const fn nmi_masked(&self) -> bool {
        self.parts.nmi_masked()
    }

    #[inline]
    fn find(&mut self, space: Space, address: u64, width: u8) -> Option<(Id, u64)> {
        match space {
            Space::Port => self.ports.find(address, width),
            Space::Mmio => self.mmio.find(address, width),
        }
    }

    /// Compiled into both of its callers: a driver polls ports, and a call costs registers to save.
    #[inline(always)]
    fn read(&mut self, space: Space, address: u64, width: u8, host: &mut impl PcHost) -> Answer<u64> {
        match self.find(space, address, width) {
            Some((id, offset)) if width == 1 || !id.is_eight_bit() => {
                Answer::Found(self.read_part(id, Register { offset, width }, &Time::default(), host))
            }
            _ => self.read_bytes(space, address, width, host),
        }
    }

    /// Splits an access that no single device takes into bytes, as a bus does.
    #[cold]
    fn read_bytes(&mut self, space: Space, address: u64, width: u8, host: &mut impl PcHost) -> Answer<u64> {
        let mut value = Register { offset: 0, width }.ones();
        let (mut found, time) = (false, Time::default());
        for lane in 0..width {
            let part = address.checked_add(lane.into()).and_then(|at| self.find(space, at, 1));
            if let Some((id, offset)) = part {
                let byte = self.read_part(id, Register { offset, width: 1 }, &time, host) & 0xff;
                value = value & !(0xff << (8 * lane)) | byte << (8 * lane);
                found = true;
            }
        }
        if width == 2 && Slip::ThirdByte.is_planted() {
            value |= 1 << 16;
        }
        if found { Answer::Found(value) } else { nobody(space, address, width).map(|()| value) }
    }

    fn write(&mut self, space: Space, address: u64, width: u8, value: u64, host: &mut impl PcHost) -> Answer<()> {
        match self.find(space, address, width) {
            Some((id, offset)) if width == 1 || !id.is_eight_bit() => {
                let at = Register { offset, width };
                self.write_part(id, at, value & at.ones(), &Time::default(), host);
                Answer::Found(())
            }
            _ => self.write_bytes(space, address, width, value, host),
        }
    }

    #[cold]
    fn write_bytes(&mut self, space: Space, address: u64, width: u8, value: u64, host: &mut impl PcHost) -> Answer<()> {
        let (mut found, time) = (false, Time::default());
        for (lane, byte) in (0..width).zip(value.to_le_bytes()) {
            let part = address.checked_add(lane.into()).and_then(|at| self.find(space, at, 1));
            if let Some((id, offset)) = part {
                self.write_part(id, Register { offset, width: 1 }, byte.into(), &time, host);
                found = true;
            }
        }
        if found { Answer::Found(()) } else { nobody(space, address, width) }
    }

    #[inline]
    fn read_part(&mut self, id: Id, at: Register, time: &Time, host: &mut impl PcHost) -> u64 {
        if id.is_interrupt_controller() {
            return self.read_controller(id, at, host);
        }
        let value = self.parts.read(id, at, &mut Around::new(&mut self.wires, host, time));
        if id.read_moves_deadline() {
            self.deadline = self.parts.deadline();
        }
        value
    }

    #[inline(never)]
    fn read_controller(&mut self, id: Id, at: Register, host: &mut impl PcHost) -> u64 {
        let Some(port) = pic_port(id, at) else {
            return self.wires.ioapic.read(at.offset, at.width);
        };
        let value = self.wires.pic.read(port);
        self.wires.sync_pic(host);
        value.into()
    }

    fn write_part(&mut self, id: Id, at: Register, value: u64, time: &Time, host: &mut impl PcHost) {
        match pic_port(id, at) {
            Some(port) => {
                let [byte, ..] = value.to_le_bytes();
                self.wires.pic.write(port, byte);
                self.wires.sync_pic(host);
            }
            None if id == Id::IoApic => self.write_ioapic(at, value, host),
            None => self.parts.write(id, at, value, &mut Around::new(&mut self.wires, host, time)),
        }
        if id.has_deadline() {
            self.deadline = self.parts.deadline();
        }
    }

    fn write_ioapic(&mut self, at: Register, value: u64, host: &mut impl PcHost) {
        let message = self.wires.ioapic.write(at.offset, at.width, value);
        self.wires.send(message, host);
    }
}

/// The 8259 or ELCR port behind a register, if it is one.
const fn pic_port(id: Id, at: Register) -> Option<u16> {
    let first = match id {
        Id::Pic1 => 0x20,
        Id::Pic2 => 0xa0,
        Id::EdgeLevel => 0x4d0,
        _ => return None,
    };
    Some(first | (at.offset & 1) as u16)
}

/// The answer where no device is.
fn nobody(space: Space, address: u64, width: u8) -> Answer<()> {
    let known = match space {
        Space::Port => u16::try_from(address).is_ok_and(|port| is_absent_port(port, width)),
        Space::Mmio => is_absent_mmio(address, width),
    };
    if known { Answer::Absent(()) } else { Answer::Unknown(()) }
}
