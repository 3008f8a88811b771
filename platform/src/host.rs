// SPDX-License-Identifier: MIT OR Apache-2.0
//! The untrusted side: host devices, host events and the other processors.

/// Which of the guest's two serial lines a byte belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Console {
    /// COM1, the user's terminal.
    Terminal,
    /// COM2, the output of `--exec` alone.
    Command,
}

/// The untrusted host's devices. A reply is an allegation until its reader has checked it.
///
/// Native: QEMU's devices by port. SNP: GHCB IOIO and MMIO events. TDX: TDVMCALL.
pub trait HostAccess {
    /// Sends one byte of guest console output to the host. May drop it if the host does not take it in bounded time.
    fn transmit(&self, console: Console, byte: u8);
    /// The next byte of console input, if the host has one.
    fn receive(&self, console: Console) -> Option<u8>;
    /// A register of the host's MC146818, the clock that a PC has at ports 70h and 71h; all ones if there is none. Read at
    /// start alone: what it says is where the guest's own clock begins.
    fn clock_register(&self, register: u8) -> u8;
}

/// What the host can tell a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostEvent {
    /// Another processor wants this one's attention, or the armed deadline came. The run loop looks at its own state.
    Kick,
    /// Console input waits.
    ConsoleInput,
    /// The host asks for an orderly shutdown (the power button).
    PowerButton,
    /// The host's operator presses the NMI button, with which a guest that hangs is made to tell where.
    Nmi,
    /// Something else, with the vector that came; counted.
    Unexpected(u8),
}

/// The host's interrupts, taken after a [`crate::ExitReason::HostInterrupt`] exit or a wait.
pub trait HostEvents {
    /// Takes and acknowledges one event, or `None` when nothing is pending.
    fn take(&mut self) -> Option<HostEvent>;
}

/// Makes another processor leave its guest or its wait. Usable from any processor.
pub trait Waker {
    /// Kicks processor `index`. Never blocks; a kick to oneself is allowed. What the sender wrote before is visible to the
    /// target when it wakes: a backend whose kick does not serialise (an x2APIC ICR write) fences first.
    fn kick(&self, index: u32);
}
