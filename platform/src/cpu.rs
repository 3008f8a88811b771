// SPDX-License-Identifier: MIT OR Apache-2.0
//! One virtual processor of the guest, as the backend runs it.

use crate::{
    Control, DescriptorTable, Event, Exit, Gpa, Gpr, Segment, SegmentRegister, SwitchedMsr, SystemRegisters,
    TableRegister,
};

/// What the guest can take at its next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InjectionState {
    /// An event is already queued for the next entry.
    pub queued: bool,
    /// RFLAGS.IF is set and no interrupt shadow holds.
    pub interrupts: bool,
    /// No NMI is being handled and no shadow holds.
    pub nmi: bool,
}

/// An interrupt that a processor delivers by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The vector.
    pub vector: u8,
    /// No task priority holds it back.
    pub over_priority: bool,
}

/// The whole state of a vCPU as plain data: start-up, reset, snapshot and debugger use it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the architecture's own names")]
pub struct VcpuState {
    /// In encoding order; see [`Gpr`].
    pub gprs: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pat: u64,
    pub dr6: u64,
    pub dr7: u64,
    /// In the order of [`SegmentRegister`].
    pub segments: [Segment; 8],
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
}

/// Runs the guest on this processor and reaches its registers. Registers may be fetched lazily and written back at the
/// next entry.
///
/// | method | native | SNP | TDX |
/// |---|---|---|---|
/// | `run` | VMRUN | run-VMPL VMGEXIT | TDG.VP.ENTER |
/// | GPRs | saved by the entry code, RAX and RSP in the VMCB | VMSA | L2_ENTER_GUEST_STATE |
/// | system registers | VMCB | VMSA | TDG.VP.RD/WR of VMCS fields |
/// | vector registers | live in the processor | live in the processor | live in the processor |
/// | `inject` | EVENTINJ | VMSA EVENT_INJ | VM-entry interruption information |
/// | `request_interrupt_window` | V_IRQ with VINTR intercept | V_IRQ | interrupt-window exiting |
pub trait GuestCpu {
    /// Enters the guest and returns when it exits. The exit is decoded; nothing has been emulated.
    fn run(&mut self) -> Exit;

    /// Tells where the code page at RIP lies, so that a backend whose hardware gives no next RIP finds the next instruction
    /// there by itself. `gpa` is the page's address, reached with the rights of a fetch. Backends whose hardware tells need
    /// not care.
    fn remember_code_page(&mut self, gpa: Gpa) {
        let _ = gpa;
    }

    /// The value of a general-purpose register.
    fn gpr(&self, register: Gpr) -> u64;
    /// Sets a general-purpose register, all 64 bits.
    fn set_gpr(&mut self, register: Gpr, value: u64);
    /// The instruction pointer.
    fn rip(&self) -> u64;
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, value: u64);
    /// The instruction that [`Self::complete_instruction`] completes next is one that holds interrupts and traps back for one
    /// more, as MOV to SS does. A backend that cannot do so may let an interrupt come between the two.
    fn begin_shadow(&mut self) {}
    /// Moves to `next_rip` because the instruction before it was completed in software: the interrupt shadow ends, RFLAGS.RF is
    /// cleared, and a pending single-step trap is raised. Where `next_rip` is the present one, as after an element of a
    /// repetition that is not the last, RF stays: the instruction goes on (APM vol. 2, 3.1.6).
    fn complete_instruction(&mut self, next_rip: u64);
    /// Sets the instruction pointer without completing an instruction (start-up, jumps, a partial REP).
    fn set_rip(&mut self, rip: u64);

    /// A control register.
    fn control(&self, register: Control) -> u64;
    /// Sets a control register. The caller has checked the value.
    fn set_control(&mut self, register: Control, value: u64);
    /// A debug register, 0–7; 4 and 5 are 6 and 7.
    fn debug(&self, number: u8) -> u64;
    /// Sets a debug register. The caller has checked the value.
    fn set_debug(&mut self, number: u8, value: u64);
    /// XCR0: live in hardware on native and TDX, in the VMSA on SNP. 1 where the processor lacks XSAVE.
    fn xcr0(&self) -> u64;
    /// Sets XCR0. The caller has checked the value against the components that the processor has.
    fn set_xcr0(&mut self, value: u64);
    /// A segment register with its hidden part.
    fn segment(&self, register: SegmentRegister) -> Segment;
    /// Sets a segment register with its hidden part.
    fn set_segment(&mut self, register: SegmentRegister, value: Segment);
    /// GDTR or IDTR.
    fn descriptor_table(&self, register: TableRegister) -> DescriptorTable;
    /// Sets GDTR or IDTR. The caller has checked that the base is canonical.
    fn set_descriptor_table(&mut self, register: TableRegister, value: DescriptorTable);
    /// CR0, CR3, CR4, EFER, RFLAGS and CPL at once.
    fn system(&self) -> SystemRegisters;
    /// An MSR that the processor holds for the guest. EFER reads as the guest wrote it.
    fn switched_msr(&mut self, msr: SwitchedMsr) -> u64;
    /// Sets an MSR that the processor holds for the guest. The caller has checked the value.
    fn set_switched_msr(&mut self, msr: SwitchedMsr, value: u64);

    /// The low 256 bits of vector register `number`, 0–15. Bits 255:128 read as zero where XCR0 lacks AVX, so
    /// [`Self::xcr0`] tells the width.
    fn vector(&self, number: u8) -> [u8; 32];
    /// Writes XMM register `number`, 0–15, as SSE instructions do: the bits above stay.
    fn set_xmm(&mut self, number: u8, value: [u8; 16]);
    /// Writes YMM register `number`, 0–15, as AVX instructions do: the bits above become zero. The caller has seen AVX in
    /// XCR0.
    fn set_ymm(&mut self, number: u8, value: [u8; 32]);

    /// Whether an x87 exception is pending, which the next x87 or MMX instruction raises as #MF.
    fn x87_exception(&self) -> bool {
        false
    }
    /// MMX register `number`, 0–7, read as an MMX instruction does: it marks the whole x87 stack as in use. `None` where the
    /// backend cannot reach it.
    fn mmx(&self, number: u8) -> Option<u64> {
        let _ = number;
        None
    }
    /// Writes MMX register `number`, as an MMX instruction does. Does nothing where [`Self::mmx`] gives `None`.
    fn set_mmx(&mut self, number: u8, value: u64) {
        let _ = (number, value);
    }

    /// What the guest can take now.
    fn injection_state(&self) -> InjectionState;
    /// Queues `event` for the next entry. At most one; the caller has looked at [`Self::injection_state`].
    fn inject(&mut self, event: Event);
    /// Asks for an [`crate::ExitReason::InterruptWindow`] exit as soon as the guest can take an interrupt of this
    /// priority class (its vector's upper four bits): RFLAGS.IF set, no shadow, class above the task priority.
    /// Classes from 16 on are above any.
    fn request_interrupt_window(&mut self, class: Option<u8>);
    /// Whether the processor delivers interrupts by itself; without it, nobody calls [`Self::offer_interrupt`].
    const DELIVERS: bool = false;
    /// Leaves an external interrupt to the processor, which delivers it as soon as the guest can take it: RFLAGS.IF set, no
    /// shadow, class above the task priority. `None` takes an offer back. False if nothing is offered now: then the caller
    /// asks for a window instead.
    fn offer_interrupt(&mut self, offer: Option<Offer>) -> bool {
        let _ = offer;
        false
    }
    /// The vector that was offered and that the guest has taken, once. Asked after each exit.
    #[inline(always)]
    fn take_delivered(&mut self) -> Option<u8> {
        None
    }
    /// Asks for an [`crate::ExitReason::NmiWindow`] exit as soon as the guest can take an NMI.
    fn request_nmi_window(&mut self, wanted: bool);

    /// The whole state as plain data.
    fn save(&mut self) -> VcpuState;
    /// Replaces the whole state; events, shadows and windows are cleared.
    fn restore(&mut self, state: &VcpuState);
}
