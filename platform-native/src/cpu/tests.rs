// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of an exit, on a VMCB that no processor runs.

use alloc::boxed::Box;
use alloc::vec::Vec;

use platform::{Exception, RamMap};
use platform_shared::clock::{TscClock, tsc};
use zerocopy::FromZeros;

use super::*;
use crate::interrupts::descriptor_table;
use crate::machine::Parts;
use crate::memory::{GuestRam, NativeMemory};

const RIP: u64 = 0x20_9f8b;

fn cpu() -> NativeCpu {
    let native = Native::new(Parts {
        memory: NativeMemory::new(GuestRam { ram: RamMap::default(), views: None }),
        clock: TscClock::new(tsc(), 1_000_000_000).unwrap(),
        processors: 1,
        nested_root: 0,
        descriptor_table: Box::leak(Box::new(descriptor_table(false))),
        has_xsave: false,
        apic_hz: 1_000_000_000,
        flushed: Vec::new().into_boxed_slice(),
    });
    let mut cpu = NativeCpu::new(Box::leak(Box::new(native)), 0, Box::leak(Box::new(Vmcb::new_zeroed())));
    cpu.saved_mut().rip = RIP;
    cpu
}

/// The exit with a code, while this was to be injected.
fn exit_with(cpu: &mut NativeCpu, code: u64, int_info: u64) -> ExitReason {
    cpu.control_mut().exit_code = code;
    cpu.control_mut().exit_int_info = int_info;
    cpu.after_exit().reason
}

fn is_broken(reason: ExitReason) -> bool {
    matches!(reason, ExitReason::Broken(..))
}

/// A guest that wrote a reserved bit of CR3 at the same place twice ended its VM.
#[test]
fn a_refused_cr3_may_be_tried_again() {
    let mut cpu = cpu();
    for _ in 0..5 {
        assert!(!is_broken(exit_with(&mut cpu, exit::INVALID_LOW, 0)));
        cpu.inject(Event::Exception(Exception::GENERAL_PROTECTION));
        // The processor has delivered it, and nothing that followed was an exit.
    }
}

#[test]
fn an_entry_that_is_refused_twice_is_broken() {
    let mut cpu = cpu();
    assert!(!is_broken(exit_with(&mut cpu, exit::INVALID_LOW, 0)));
    assert!(is_broken(exit_with(&mut cpu, exit::INVALID_LOW, 0)));
}

#[test]
fn an_entry_that_is_refused_with_its_event_is_broken() {
    let mut cpu = cpu();
    assert!(!is_broken(exit_with(&mut cpu, exit::INVALID_LOW, 0)));
    cpu.inject(Event::Exception(Exception::GENERAL_PROTECTION));
    let undelivered = cpu.control().event_injection;
    assert!(is_broken(exit_with(&mut cpu, exit::INVALID_LOW, undelivered)));
}

/// A guest that jumped to a code segment with both L and D ended its VM, from level 3 if its kernel had such a segment.
#[test]
fn a_code_segment_with_l_and_d_goes_on_as_64_bit_code() {
    let mut cpu = cpu();
    cpu.saved_mut().efer = EFER_LMA | EFER_SVME;
    cpu.saved_mut().cs.attributes = 0x6fb;
    cpu.saved_mut().ss.attributes = 0x4f3;
    assert_eq!(exit_with(&mut cpu, exit::INVALID_LOW, 0), ExitReason::InterruptWindow);
    assert_eq!((cpu.saved().cs.attributes, cpu.saved().cpl), (0x2fb, 3));
    // Whatever else is wrong is looked at as ever.
    assert!(!is_broken(exit_with(&mut cpu, exit::INVALID_LOW, 0)));
    assert!(is_broken(exit_with(&mut cpu, exit::INVALID_LOW, 0)));
}

/// A handler of NMIs behind a task gate began with a #DB at its second NMI, and the guest crashed.
#[test]
fn a_return_to_another_task_keeps_its_trap_flag() {
    let mut cpu = cpu();
    cpu.inject(Event::Nmi);
    cpu.saved_mut().rflags = RFLAGS_NT | 2;
    exit_with(&mut cpu, exit::IRET, 0);
    assert_eq!(cpu.rflags(), RFLAGS_NT | 2);
    assert!(!cpu.injection_state().nmi, "the IRET has not been executed yet");
    exit_with(&mut cpu, exit::INTR, 0);
    assert!(!cpu.injection_state().nmi, "nor has it now");
    cpu.saved_mut().rip = 0x1000;
    exit_with(&mut cpu, exit::INTR, 0);
    assert!(cpu.injection_state().nmi);
}

#[test]
fn a_waiting_nmi_wants_an_exit_after_a_return_to_another_task() {
    let mut cpu = cpu();
    assert_eq!(cpu.timer_deadline(Instant::NEVER), Instant::NEVER);
    cpu.task_return = Some(RIP);
    cpu.request_nmi_window(true);
    assert!(cpu.timer_deadline(Instant::NEVER) < Instant::NEVER);
    assert_eq!(cpu.timer_deadline(Instant(0)), Instant(0));
}

/// Under a flood of NMIs each kick let the next NMI in before the IRET of the last one, until the guest's stack was full.
#[test]
fn an_exit_before_the_iret_keeps_nmis_blocked() {
    let mut cpu = cpu();
    cpu.inject(Event::Nmi);
    cpu.saved_mut().rflags = 2;
    cpu.saved_mut().efer = EFER_LMA;
    for _ in 0..3 {
        exit_with(&mut cpu, exit::IRET, 0);
        assert!(!cpu.injection_state().nmi);
        exit_with(&mut cpu, exit::INTR, 0);
        assert!(!cpu.injection_state().nmi, "the IRET has not been executed");
        assert_ne!(cpu.control().intercept_misc1 & Misc1::IRET.bits(), 0);
        assert_eq!(cpu.rflags(), 2);
    }
    exit_with(&mut cpu, exit::IRET, 0);
    cpu.saved_mut().rip = 0x1000;
    cpu.saved_mut().dr6 = DR6_SINGLE_STEP;
    exit_with(&mut cpu, exit::EXCEPTION_0 + DEBUG_VECTOR, 0);
    assert!(cpu.injection_state().nmi);
    assert_eq!(cpu.control().intercept_misc1 & Misc1::IRET.bits(), 0);
}

#[test]
fn a_return_within_a_task_is_stepped() {
    for (rflags, efer) in [(2, EFER_LMA), (RFLAGS_NT, EFER_LMA), (2, 0), (RFLAGS_NT | RFLAGS_VM, 0)] {
        let mut cpu = cpu();
        cpu.inject(Event::Nmi);
        cpu.saved_mut().rflags = rflags;
        cpu.saved_mut().efer = efer;
        exit_with(&mut cpu, exit::IRET, 0);
        assert_eq!(cpu.rflags(), rflags | RFLAGS_TF);
    }
}

/// RF that a fault's handler had left set stayed set behind every instruction that Parados completed, so that a breakpoint on
/// the next one was missed.
#[test]
fn a_completed_instruction_clears_rf_and_an_element_of_a_repetition_does_not() {
    let mut cpu = cpu();
    cpu.saved_mut().rflags = RFLAGS_RF | RFLAGS_IF | RFLAGS_NT | 2;
    cpu.complete_instruction(RIP);
    assert_eq!(cpu.rflags(), RFLAGS_RF | RFLAGS_IF | RFLAGS_NT | 2);
    cpu.complete_instruction(RIP + 2);
    assert_eq!((cpu.rflags(), cpu.rip()), (RFLAGS_IF | RFLAGS_NT | 2, RIP + 2));
    // A trap behind it finds the flags as they are then.
    cpu.saved_mut().rflags = RFLAGS_RF | RFLAGS_TF | 2;
    cpu.complete_instruction(RIP);
    cpu.complete_instruction(RIP + 4);
    assert_eq!(cpu.rflags(), RFLAGS_TF | 2);
}

/// An NMI that came within a shadow was lost for good if the instruction there made an exit of its own: the exit ended the step
/// that was to open the window, and nobody asked again.
#[test]
fn an_exit_in_a_shadow_does_not_lose_the_nmi_that_waits() {
    let mut cpu = cpu();
    cpu.saved_mut().rflags = RFLAGS_IF | 2;
    cpu.control_mut().interrupt_state = SHADOW;
    exit_with(&mut cpu, exit::INTR, 0);
    assert!(!cpu.injection_state().nmi);
    cpu.request_nmi_window(true);
    assert_eq!((cpu.prepare_entry(), cpu.rflags()), (Entry::Run, RFLAGS_IF | RFLAGS_TF | 2));
    exit_with(&mut cpu, exit::IOIO, 0);
    cpu.complete_instruction(RIP + 2);
    assert!(cpu.unsettled);
    assert_eq!((cpu.prepare_entry(), cpu.rflags()), (Entry::Window, RFLAGS_IF | 2));
}

/// The frame of an exception that an instruction in a shadow raised had the step's trap flag.
#[test]
fn an_nmi_that_waits_for_a_queued_event_wants_an_exit_behind_it_and_no_step() {
    let mut cpu = cpu();
    cpu.saved_mut().rflags = RFLAGS_IF | 2;
    cpu.control_mut().interrupt_state = SHADOW;
    exit_with(&mut cpu, exit::INTR, 0);
    cpu.request_nmi_window(true);
    cpu.inject(Event::Exception(Exception::GENERAL_PROTECTION));
    cpu.saved_mut().rflags = RFLAGS_IF | 2;
    assert_eq!((cpu.prepare_entry(), cpu.rflags()), (Entry::DeliverOnly, RFLAGS_IF | 2));
    cpu.control_mut().interrupt_state = 0;
    exit_with(&mut cpu, exit::INTR, 0);
    assert_eq!(cpu.prepare_entry(), Entry::Window);
}

#[test]
fn a_shadow_that_is_left_behind_needs_no_second_look() {
    let mut cpu = cpu();
    cpu.control_mut().interrupt_state = SHADOW;
    exit_with(&mut cpu, exit::INTR, 0);
    assert!(cpu.unsettled);
    assert_eq!(cpu.prepare_entry(), Entry::Run);
    assert!(cpu.unsettled);
    cpu.control_mut().interrupt_state = 0;
    cpu.saved_mut().rip = RIP + 1;
    exit_with(&mut cpu, exit::INTR, 0);
    assert!(cpu.prepare_entry() == Entry::Run && !cpu.unsettled);
}
