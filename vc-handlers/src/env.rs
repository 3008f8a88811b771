// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine around the handlers: devices, guest memory, the local APIC and time.

use platform::{Clock, Gpa, GuestMemory, PageRange, Visibility};
use vmm_interface::InterruptMessage;

use crate::emulate::Emulation;

/// Names a device access that will be answered later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token(pub u32);

/// Where a device access goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A port of the I/O space.
    Port(u16),
    /// A guest-physical address that is not memory.
    Mmio(Gpa),
}

/// What the access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Read.
    Read,
    /// Write this value; bits beyond the width are zero.
    Write(u64),
}

/// One access to a device, as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceRequest {
    /// Port or address.
    pub target: Target,
    /// Bytes: 1, 2 or 4 for a port, 1, 2, 4 or 8 for MMIO. Never crosses a page.
    pub width: u8,
    /// Read or write.
    pub operation: Operation,
}

/// The answer to a [`DeviceRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceReply {
    /// Done. For a read, the value; bits beyond the width are zero. Absent devices read as all-ones.
    Done(u64),
    /// The answer comes later. What remains of the instruction is given to [`Env::park`].
    Defer(Token),
}

/// How far a conversion of pages came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conversion {
    /// So many pages from the start are on the other side; more may follow.
    Pages(u64),
    /// Not now: try again.
    Busy,
    /// The host did not convert the first page, which is as it was.
    Refused,
    /// The first page is no memory of the guest's.
    NotMemory,
    /// The first page is on that side already.
    WrongState,
    /// Parados has no memory left for the tables that it needs.
    Exhausted,
    /// The host lied; the VM cannot go on.
    Broken,
}

/// What handlers may do besides touching the vCPU's registers.
pub trait Env {
    /// The guest's memory.
    type Memory: GuestMemory;
    /// Time.
    type Clock: Clock;

    /// The guest's memory.
    fn memory(&self) -> &Self::Memory;
    /// Time.
    fn clock(&self) -> &Self::Clock;
    /// Performs a device access, the local APIC's page included.
    fn access(&mut self, request: DeviceRequest) -> DeviceReply;
    /// Keeps what remains of an instruction whose device gave [`DeviceReply::Defer`], until [`crate::resume`] takes it
    /// with the answer. At most one for each vCPU; called right before the outcome [`crate::Outcome::Defer`]. INIT drops it.
    fn park(&mut self, emulation: Emulation);
    /// Whether an aligned MMIO access at `gpa` reaches emulated hardware or nothing, rather than guest memory. A page that
    /// is memory answers false: the faulting instruction is then retried or emulated on memory.
    fn is_mmio(&self, gpa: Gpa) -> bool;
    /// RDMSR of a local APIC register: IA32_APIC_BASE, IA32_TSC_DEADLINE, 800h–8FFh. `None` is #GP.
    fn apic_msr_read(&mut self, index: u32) -> Option<u64>;
    /// WRMSR to a local APIC register. `None` is #GP.
    fn apic_msr_write(&mut self, index: u32, value: u64) -> Option<()>;
    /// Sends an interrupt message from this vCPU, and returns how many processors take it. A machine without other
    /// processors reaches nobody.
    fn send(&mut self, message: &InterruptMessage) -> u32 {
        let _ = message;
        0
    }
    /// Moves pages at the start of `range` to the host's side or back, as many as can be done at once. A machine without this
    /// has no such memory.
    fn convert(&mut self, range: PageRange, to: Visibility) -> Conversion {
        let _ = (range, to);
        Conversion::NotMemory
    }
    /// The guest did something odd that real hardware lets pass or faults; counted for the statistics.
    fn oddity(&mut self, oddity: Oddity);
}

/// Things worth counting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Oddity {
    /// An MSR that is not in the table; the guest got #GP.
    UnknownMsr(u32),
    /// A write to an MSR whose effect is not emulated; it had none.
    IgnoredMsrWrite(u32),
    /// A port that no device and no list of absent devices names.
    UnknownPort(u16),
    /// An MMIO address that no device and no list of absent devices names.
    UnknownMmio(Gpa),
    /// An instruction that the emulator does not know; the guest got #UD.
    NotEmulated(Gpa),
    /// The bytes at RIP do not fit the exit that the hardware reported; the exit was retried.
    Mismatch,
}
