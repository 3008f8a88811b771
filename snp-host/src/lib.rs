// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a host does for an SEV-SNP guest: the GHCB protocols with KVM's answers, page states, processors.
//!
//! Follows the GHCB specification as Linux's arch/x86/kvm/svm/sev.c implements it. The guest is hostile here: every value
//! from it is copied once, checked, and bounds no loop by itself. The host is not trusted either, so it gets no more than
//! hardware would give it: [`Hardware`] is everything, and no method of it reaches a private page or a VMSA.
//!
//! ```compile_fail,E0599
//! fn host(hardware: &mut impl snp_host::Hardware) { hardware.read_private(0, &mut [0; 8]); }
//! ```
//! ```compile_fail,E0599
//! fn host(hardware: &mut impl snp_host::Hardware) { hardware.vmsa(0).rip = 0; }
//! ```
//!
//! One idea a module: [`apic`] commands between processors, [`ghcb`] the page as bytes, [`msr_protocol`], [`exits`] the page protocol, [`page_state`],
//! [`doorbell`] interrupts for guests that take no others, [`hostile`] a host that does harm.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod apic;
pub mod doorbell;
pub mod exits;
pub mod ghcb;
pub mod hostile;
pub mod msr_protocol;
pub mod page_state;
#[cfg(test)]
mod testing;

use apic::{Commands, Signal};
use hostile::Plot;
use specs::ghcb::feature;
use specs::sev::VMPLS;

/// The most virtual processors.
pub const PROCESSORS: usize = 64;

/// An access to memory that is not the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotShared;

/// The processor's side of the fence: what it lets a host do.
pub trait Hardware {
    /// RMPUPDATE of the page at a guest-physical address: to the guest, or back. The result is the instruction's code.
    fn rmpupdate(&mut self, gpa: u64, large: bool, assign: bool) -> u32;
    /// RMPUPDATE twice, which nobody asked for: a page of 4 KiB goes, and comes back.
    fn snatch(&mut self, gpa: u64);
    /// Nested page tables that lead from the 2 MiB around one address to those around another.
    fn remap(&mut self, gpa: u64, to: u64);
    /// Once the less privileged VMPL that runs next has exited, another processor runs its VMSA.
    fn occupy(&mut self);
    /// PSMASH.
    fn psmash(&mut self, gpa: u64) -> u32;
    /// Whether the address is RAM of the guest's.
    fn is_ram(&self, gpa: u64, bytes: u64) -> bool;
    /// Copies from pages that are the host's.
    fn read_shared(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), NotShared>;
    /// Copies to pages that are the host's.
    fn write_shared(&mut self, gpa: u64, from: &[u8]) -> Result<(), NotShared>;
}

/// The machine's devices.
pub trait Devices {
    /// IN of 1, 2 or 4 bytes, for a VMPL.
    fn port_read(&mut self, vmpl: u8, port: u16, bytes: u8) -> u32;
    /// OUT.
    fn port_write(&mut self, vmpl: u8, port: u16, bytes: u8, value: u32);
    /// A read of 1, 2, 4 or 8 bytes of emulated memory.
    fn memory_read(&mut self, gpa: u64, bytes: u8) -> u64;
    /// A write.
    fn memory_write(&mut self, gpa: u64, bytes: u8, value: u64);
    /// CPUID as this host answers it: EAX to EDX.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// RDMSR; `None` is a #GP.
    fn msr_read(&mut self, msr: u32) -> Option<u64>;
    /// WRMSR; false is a #GP.
    fn msr_write(&mut self, msr: u32, value: u64) -> bool;
    /// A fixed interrupt from this processor to others: the lower word of the command, as an xAPIC has it, and the
    /// destination.
    fn interrupt(&mut self, command: u32, destination: u8);
    /// SNP_GUEST_REQUEST: hands a guest's message to the firmware. `None`: there is none here. Otherwise its status, and
    /// the response if that is 0.
    fn guest_request(&mut self, request: &[u8; 4096], response: &mut [u8; 4096]) -> Option<u32>;
    /// The table of certificates that goes with an extended request's answer; empty if the host has none.
    fn certificates(&self) -> &[u8];
}

/// What follows from a VMGEXIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The guest goes on.
    Resume,
    /// The processor sleeps until something wakes it, and then goes on.
    Halt,
    /// The processor waits for a start-up by another one.
    Hold,
    /// The guest gives up: reason set and code.
    Terminate(u8, u8),
    /// Another VMPL of this processor runs.
    Run(u8),
    /// A processor gets a VMSA.
    Create(Creation),
    /// Processors are told something.
    Signal(Signal),
    /// This processor's NMI is handled: the next one may come.
    NmiComplete,
}

/// SNP AP creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation {
    /// Of the processor.
    pub apic_id: u32,
    /// Of the VMSA.
    pub vmpl: u8,
    /// Where the VMSA is, and the features that it has by the guest's word; `None` destroys.
    pub vmsa: Option<(u64, u64)>,
    /// Start at once, or at the next INIT.
    pub at_once: bool,
}

/// What the host keeps for each processor and VMPL.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// Where the guest has registered its GHCB.
    pub registered: Option<u64>,
    /// DR7, as the guest last wrote it through the host.
    pub dr7: u64,
    /// Where the guest wants to be told of interrupts.
    pub doorbell: Option<u64>,
    /// There is a VMSA for it.
    pub created: bool,
}

/// The host.
pub struct Host {
    /// Where the C-bit is.
    c_bit: u8,
    /// What it says that it can do: bits of `specs::ghcb::feature`.
    features: u64,
    processors: u32,
    contexts: [[Context; VMPLS]; PROCESSORS],
    /// SEV_FEATURES of each VMPL's VMSAs, which are the same on all processors.
    vmsa_features: [Option<u64>; VMPLS],
    commands: [Commands; PROCESSORS],
    /// For numbers that no processor has.
    nobody: Commands,
    /// Which register the IOAPIC's window shows.
    ioapic_selects: u8,
    plot: Plot,
}

/// What this host can do.
const FEATURES: u64 =
    feature::SNP | feature::AP_CREATION | feature::RESTRICTED_INJECTION | feature::APIC_ID_LIST | feature::MULTI_VMPL;

/// Versions of the GHCB protocol.
pub(crate) const VERSIONS: core::ops::RangeInclusive<u64> = 1..=2;

impl Host {
    /// A host like KVM.
    pub const fn new(c_bit: u8, processors: u32) -> Self {
        let none = Context { registered: None, dr7: 0x400, doorbell: None, created: false };
        let idle = Commands::RESET;
        Self {
            c_bit,
            features: FEATURES,
            processors,
            contexts: [[none; VMPLS]; PROCESSORS],
            vmsa_features: [None; VMPLS],
            commands: [idle; PROCESSORS],
            nobody: idle,
            ioapic_selects: 0,
            plot: Plot::NONE,
        }
    }

    /// Tells the host what it has launched: SEV_FEATURES of VMPL0.
    pub const fn launched(&mut self, features: u64) {
        self.vmsa_features = [Some(features), None, None, None];
    }

    /// The GHCB MSR's value at a processor's reset.
    pub const fn initial_msr(&self) -> u64 {
        msr_protocol::sev_info(self.c_bit)
    }

    pub(crate) fn context(&mut self, processor: u32, vmpl: u8) -> Option<&mut Context> {
        self.contexts.get_mut(usize::try_from(processor).ok()?)?.get_mut(usize::from(vmpl))
    }

    /// A VMSA that was to come with INIT has come.
    pub fn created(&mut self, processor: u32, vmpl: u8) {
        if let Some(context) = self.context(processor, vmpl) {
            context.created = true;
        }
    }

    /// Whether a VMSA's features are those of its VMPL on other processors. The first one says which they are.
    pub(crate) fn same_features(&mut self, vmpl: u8, features: u64) -> bool {
        let known = self.vmsa_features.get_mut(usize::from(vmpl));
        known.is_some_and(|known| *known.get_or_insert(features) == features)
    }

    /// Whether `vmpl` may ask to run `target`: one with a VMSA, or its own more privileged software.
    pub(crate) fn may_run(&mut self, processor: u32, vmpl: u8, target: u64) -> bool {
        let Ok(target) = u8::try_from(target) else { return false };
        let created = self.context(processor, target).is_some_and(|context| context.created);
        target != vmpl && (target == 0 || created)
    }

    /// A VMGEXIT. `msr` is the GHCB MSR, which may be answered in.
    pub fn vmgexit(
        &mut self,
        processor: u32,
        vmpl: u8,
        msr: &mut u64,
        hardware: &mut impl Hardware,
        devices: &mut impl Devices,
    ) -> Action {
        if self.plot.is_idle() {
            return self.honest(processor, vmpl, msr, hardware, devices);
        }
        self.plotted(processor, vmpl, msr, hardware, devices)
    }

    /// A VMGEXIT, answered as KVM does.
    fn honest(
        &mut self,
        processor: u32,
        vmpl: u8,
        msr: &mut u64,
        hardware: &mut impl Hardware,
        devices: &mut impl Devices,
    ) -> Action {
        if *msr & specs::ghcb::msr::FUNCTION == specs::ghcb::msr::GPA {
            exits::handle(self, processor, vmpl, *msr, hardware, devices)
        } else {
            msr_protocol::handle(self, processor, vmpl, msr, hardware, devices)
        }
    }
}
