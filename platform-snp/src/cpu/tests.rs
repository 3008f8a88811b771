// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of a VMSA that no processor runs.

use alloc::boxed::Box;

use image_abi::{PLACED_RANGES, Range};
use platform::{Gpa, HostEvent, HostEvents, PAGE_SIZE, PageRange, PageViews, RamMap};
use platform_shared::clock::TscClock;
use platform_shared::heap::page_views;
use specs::sev::npf;
use specs::svm::exit;
use zerocopy::FromZeros;

use super::*;
use crate::acceptance::Acceptance;
use crate::attester::SnpAttester;
use crate::message::Channel;

const RIP: u64 = 0x20_9f8b;
const TOP: u64 = 1 << 46;

/// A processor that has been reset, of a VM with 16 MiB that nobody has touched; clocks and timers have 1 GHz.
pub(crate) fn cpu() -> SnpCpu {
    cpu_with(false)
}

fn cpu_with(vnmi: bool) -> SnpCpu {
    cpu_of(vnmi, None)
}

fn cpu_of(vnmi: bool, views: Option<PageViews>) -> SnpCpu {
    let mut ram = RamMap::default();
    ram.push(PageRange::new(Gpa(0), Gpa(16 << 20)).unwrap()).unwrap();
    let acceptance = Acceptance::new(ram, &[Range::default(); PLACED_RANGES], views).unwrap();
    let clock = TscClock::new(0, 1_000_000_000).unwrap();
    let attester = SnpAttester::new(Channel::closed(), 1_000_000_000);
    let snp: &'static Snp = Box::leak(Box::new(Snp::new(acceptance, clock, 1, 1_000_000_000, attester)));
    let doorbell: &'static SharedPage = Box::leak(Box::new(SharedPage::zeroed()));
    let vmsa = Box::leak(Box::new(Vmsa::new_zeroed()));
    let mut cpu = SnpCpu::new(snp, Local::boot(), doorbell, vmsa, TOP, vnmi);
    cpu.vmsa_mut().rip = RIP;
    cpu
}

#[test]
fn a_vmsa_is_held_and_asks_for_what_a_guest_needs() {
    let vmsa = *cpu().vmsa();
    assert_ne!(vmsa.vintr_ctrl & vintr::BUSY, 0);
    assert_eq!((vmsa.vmpl, vmsa.virtual_tom, vmsa.exit_code), (2, TOP, HANDLED));
    assert_eq!(vmsa.sev_features, 0b1_0111, "SNPActive, vTOM, ReflectVC, AlternateInjection");
    assert_ne!(vmsa.efer & EFER_SVME, 0);
    assert_eq!(snp_model::reserved::first_reserved_byte(&vmsa), None);
}

/// The host may enter VMPL0 at any time; what it finds then must not be an exit that has been handled.
#[test]
fn an_exit_is_found_once() {
    let mut cpu = cpu();
    cpu.vmsa_mut().exit_code = exit::CPUID;
    cpu.vmsa_mut().next_rip = RIP + 2;
    let first = cpu.take_record();
    assert_eq!((first.code, first.next_rip, first.rip), (exit::CPUID, RIP + 2, RIP));
    let again = cpu.take_record();
    assert_eq!((again.code, cpu.handle(&again)), (HANDLED, Some(HOST_INTERRUPT)));
}

#[test]
fn an_event_that_was_cut_off_is_injected_again_but_for_softwares() {
    let cut_off = |info: u64| {
        let mut cpu = cpu();
        cpu.vmsa_mut().exit_int_info = info;
        cpu.take_record();
        assert_eq!(cpu.vmsa().exit_int_info, 0);
        cpu.vmsa().event_injection
    };
    let fault = event::VALID | event::TYPE_EXCEPTION | event::ERROR_CODE_VALID | 14 | 2 << 32;
    let interrupt = event::VALID | event::TYPE_INTERRUPT | 0x51;
    for again in [fault, interrupt, event::VALID | event::TYPE_NMI | 2] {
        assert_eq!(cut_off(again), again);
    }
    let breakpoint = event::VALID | event::TYPE_EXCEPTION | 3;
    for not in [event::VALID | event::TYPE_SOFTWARE | 0x80, breakpoint, breakpoint + 1, fault & !event::VALID, 0] {
        assert_eq!(cut_off(not), 0, "{not:#x}");
    }
}

/// A host that intercepts exceptions made a page fault of a double fault, and of a third one exits without end.
#[test]
fn an_exception_that_cuts_a_delivery_off_is_what_the_processor_would_make_of_it() {
    let meets = |first: u64| {
        let mut cpu = cpu();
        cpu.vmsa_mut().exit_int_info = first;
        cpu.vmsa_mut().exit_code = exit::EXCEPTION_0 + 13;
        let record = cpu.take_record();
        let Some(Exit { reason, .. }) = cpu.handle(&record) else { panic!("{first:x}") };
        assert_eq!(cpu.vmsa().event_injection, 0, "{first:x}");
        reason
    };
    let exception = event::VALID | event::TYPE_EXCEPTION;
    let double = Exception { vector: 8, error_code: Some(0), fault_address: None };
    assert_eq!(meets(exception | event::ERROR_CODE_VALID | 14), ExitReason::Exception(double));
    assert_eq!(meets(exception | event::ERROR_CODE_VALID | 8), ExitReason::Shutdown);
    for alone in [event::VALID | event::TYPE_INTERRUPT | 0x51, exception | 3, 0] {
        assert_eq!(meets(alone), ExitReason::Exception(Exception::GENERAL_PROTECTION), "{alone:x}");
    }
}

#[test]
fn an_offer_is_a_request_of_its_class_until_the_guest_has_taken_it() {
    let mut cpu = cpu();
    let offer = |vector, over_priority| Some(Offer { vector, over_priority });
    assert!(cpu.offer_interrupt(offer(0x51, false)));
    let control = cpu.vmsa().vintr_ctrl;
    assert_eq!(control & !vintr::BUSY & !vintr::V_GIF, vintr::V_IRQ | 5 << 16 | 0x51 << 32);
    cpu.take_record();
    assert_eq!(cpu.take_delivered(), None, "still requested");
    // The processor clears the request when it delivers.
    cpu.vmsa_mut().vintr_ctrl &= !vintr::V_IRQ;
    cpu.take_record();
    assert_eq!((cpu.take_delivered(), cpu.take_delivered()), (Some(0x51), None));
    assert!(cpu.offer_interrupt(offer(0x08, true)));
    assert_ne!(cpu.vmsa().vintr_ctrl & vintr::V_IGN_TPR, 0);
    assert!(!cpu.offer_interrupt(None));
    assert_eq!(cpu.vmsa().vintr_ctrl & !vintr::BUSY & !vintr::V_GIF, 0);
    cpu.take_record();
    assert_eq!(cpu.take_delivered(), None, "what was taken back was not delivered");
}

#[test]
fn an_exception_is_injected_with_its_code_and_address() {
    let mut cpu = cpu();
    cpu.inject(Event::Exception(Exception::page_fault(6, 0xdead_b000)));
    assert_eq!(cpu.vmsa().event_injection, 0x6_8000_0b0e);
    assert_eq!((cpu.vmsa().cr2, cpu.rflags() & RFLAGS_RF), (0xdead_b000, RFLAGS_RF));
    assert!(cpu.injection_state().queued && !cpu.injection_state().nmi);
}

#[test]
fn a_completed_instruction_clears_rf_and_an_element_of_a_repetition_does_not() {
    let mut cpu = cpu();
    cpu.vmsa_mut().rflags = RFLAGS_RF | RFLAGS_IF | 2;
    cpu.complete_instruction(RIP);
    assert_eq!(cpu.rflags(), RFLAGS_RF | RFLAGS_IF | 2);
    cpu.complete_instruction(RIP + 2);
    assert_eq!((cpu.rflags(), cpu.rip()), (RFLAGS_IF | 2, RIP + 2));
}

#[test]
fn a_shadow_ends_with_its_instruction_and_begins_when_told() {
    let mut cpu = cpu();
    cpu.vmsa_mut().rflags = RFLAGS_IF | 2;
    cpu.vmsa_mut().vintr_ctrl |= vintr::INTERRUPT_SHADOW;
    assert!(!cpu.injection_state().interrupts);
    cpu.complete_instruction(RIP + 1);
    assert!(cpu.injection_state().interrupts);
    cpu.begin_shadow();
    cpu.complete_instruction(RIP + 3);
    assert!(!cpu.injection_state().interrupts && !cpu.injection_state().nmi);
}

/// A guest that executes VMGEXIT finds what a processor without SEV-ES does: VMMCALL, at the instruction.
#[test]
fn vmgexit_of_the_guest_is_a_hypercall_like_any_other() {
    let mut cpu = cpu();
    let record = Record { code: 0x403, info1: 0, info2: 0, next_rip: 0, rip: RIP };
    let expected = Exit { reason: ExitReason::Vmmcall, next_rip: RIP };
    assert_eq!((cpu.handle(&record), cpu.rip()), (Some(expected), RIP - 4));
}

#[test]
fn memory_that_is_nobodys_is_emulated() {
    let mut cpu = cpu();
    let record = Record { code: 0x404, info1: 0, info2: 0xfed0_0000, next_rip: 0, rip: RIP };
    let Some(Exit { reason: ExitReason::Memory(fault), .. }) = cpu.handle(&record) else { panic!("no fault") };
    assert_eq!(fault.gpa, Some(Gpa(0xfed0_0000)));
}

/// The guest has touched what lies from 6 to 8 MiB before.
fn accept_third(cpu: &SnpCpu) {
    let acceptance = cpu.snp.acceptance();
    acceptance.announce(3);
    acceptance.claim(3);
    acceptance.finish(3);
}

#[test]
fn accepted_memory_that_the_guest_has_no_right_to_is_emulated() {
    let mut cpu = cpu();
    accept_third(&cpu);
    let record = Record { code: exit::NPF, info1: npf::VMPL, info2: 6 << 20, next_rip: 0, rip: RIP };
    for _ in 0..2 {
        let Some(Exit { reason: ExitReason::Memory(fault), .. }) = cpu.handle(&record) else { panic!("no fault") };
        assert_eq!(fault.gpa, Some(Gpa(6 << 20)));
    }
}

/// What the guest has shared is not at its private address any more; what moves just now is for whoever moves it.
#[test]
fn a_private_address_of_shared_memory_is_nobodys() {
    let mut cpu = cpu_of(false, Some(page_views(16 << 20).unwrap()));
    accept_third(&cpu);
    let page = PageRange::new(Gpa(6 << 20), Gpa((6 << 20) + PAGE_SIZE)).unwrap();
    let record = Record { code: 0x404, info1: 0, info2: 6 << 20, next_rip: 0, rip: RIP };
    let views = cpu.snp.acceptance().views().unwrap();
    views.begin(page);
    assert_eq!((cpu.handle(&record), cpu.handle(&record)), (None, None), "it moves");
    views.finish(page, Visibility::Shared);
    for _ in 0..2 {
        let Some(Exit { reason: ExitReason::Memory(fault), .. }) = cpu.handle(&record) else { panic!("no fault") };
        assert_eq!(fault.gpa, Some(Gpa(6 << 20)));
    }
}

/// A page that was accepted and is not validated any more was taken by the host. Another processor may have accepted it since
/// the fault, so the second time counts.
#[test]
fn memory_that_the_host_took_away_ends_the_vm() {
    let mut cpu = cpu();
    accept_third(&cpu);
    let record = Record { code: 0x404, info1: 0, info2: 6 << 20, next_rip: 0, rip: RIP };
    assert_eq!(cpu.handle(&record), None, "once more");
    let Some(Exit { reason: ExitReason::Broken(reason, 0x60_0000), .. }) = cpu.handle(&record) else { panic!() };
    assert_eq!(reason, Reason::GuestMemory);
}

#[test]
fn state_comes_back_as_it_was_given() {
    let mut cpu = cpu();
    let mut state = VcpuState { rip: 0x1234, rflags: 2, efer: 0x500, cr0: 0x11, pat: 7, ..VcpuState::default() };
    state.gprs = core::array::from_fn(|index| 0x100 + index as u64);
    state.segments = core::array::from_fn(|index| Segment { selector: index as u16, limit: 9, ..Segment::default() });
    cpu.restore(&state);
    assert_eq!(cpu.save(), state);
    assert_eq!(cpu.vmsa().efer, 0x1500, "SVME is not the guest's");
    cpu.set_switched_msr(SwitchedMsr::Efer, 0x100);
    assert_eq!((cpu.vmsa().efer, cpu.switched_msr(SwitchedMsr::Efer)), (0x1100, 0x100), "nor by way of an exit");
    for register in Gpr::ALL {
        cpu.set_gpr(register, u64::from(register as u8) + 7);
        assert_eq!(cpu.gpr(register), u64::from(register as u8) + 7);
    }
}

/// INIT finds a processor in the middle of something.
#[test]
fn a_reset_forgets_what_was_under_way() {
    let mut cpu = cpu();
    let interrupt = event::VALID | event::TYPE_INTERRUPT | 0x51;
    (cpu.vmsa_mut().event_injection, cpu.vmsa_mut().exit_int_info) = (interrupt, interrupt);
    (cpu.vmsa_mut().exit_code, cpu.vmsa_mut().pcpu_id) = (exit::CPUID, 3);
    cpu.offer_interrupt(Some(Offer { vector: 0x61, over_priority: false }));
    cpu.begin_shadow();
    let state = cpu.save();
    cpu.restore(&state);
    let vmsa = *cpu.vmsa();
    assert_eq!((vmsa.event_injection, vmsa.exit_int_info, vmsa.pcpu_id), (0, 0, 0));
    assert_eq!(vmsa.vintr_ctrl, vintr::BUSY | vintr::V_GIF);
    let record = cpu.take_record();
    assert_eq!((record.code, cpu.take_delivered(), cpu.vmsa().event_injection), (HANDLED, None, 0));
    cpu.complete_instruction(RIP + 2);
    assert!(!cpu.shadowed());
}

#[test]
fn mmx_registers_are_the_x87_stack_seen_from_its_bottom() {
    let mut cpu = cpu();
    // The top is register 6: ST(0) is R6, ST(2) is R0.
    cpu.vmsa_mut().x87_fsw = 6 << 11 | 0x80;
    cpu.vmsa_mut().x87_ftw = 0xffff;
    cpu.vmsa_mut().x87[20..28].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
    cpu.vmsa_mut().x87[0..8].copy_from_slice(&6u64.to_le_bytes());
    assert_eq!((cpu.mmx(0), cpu.mmx(6)), (Some(0x1122_3344_5566_7788), Some(6)));
    assert_eq!((cpu.vmsa().x87_fsw, cpu.vmsa().x87_ftw), (0x80, 0), "the top is register 0, and none is empty");
    cpu.set_mmx(7, 0x99);
    assert_eq!(cpu.vmsa().x87[70..], [0x99, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!((cpu.mmx(7), cpu.mmx(6)), (Some(0x99), Some(6)));
    assert_eq!(cpu.mmx(8), None);
}

/// It was passed over in a loop, which a host that never stops ringing would have kept going: the caller counts events.
#[test]
fn a_spurious_vector_is_an_event_like_any_other() {
    let mut cpu = cpu();
    cpu.doorbell().first().store(crate::apic::SPURIOUS_VECTOR.into(), Ordering::Relaxed);
    assert_eq!(cpu.take(), Some(HostEvent::Unexpected(crate::apic::SPURIOUS_VECTOR)));
    assert_eq!(cpu.take(), None);
}

/// Without VNMI nobody tells when an NMI's handler has returned.
#[test]
fn an_nmi_is_injected_or_left_to_a_processor_that_keeps_it() {
    let mut plain = cpu();
    plain.inject(Event::Nmi);
    assert_eq!(plain.vmsa().event_injection, event::VALID | event::TYPE_NMI | 2);
    assert!(!plain.injection_state().nmi);

    let mut cpu = cpu_with(true);
    assert!(cpu.vmsa().vintr_ctrl & vintr::V_NMI_ENABLE != 0 && cpu.injection_state().nmi);
    cpu.inject(Event::Nmi);
    assert_eq!((cpu.vmsa().event_injection, cpu.vmsa().vintr_ctrl & vintr::V_NMI), (0, vintr::V_NMI));
    // It waited for the end of a shadow whose instruction was HLT, and the processor slept on.
    assert!(cpu.injection_state().queued && !cpu.injection_state().interrupts);
    // Two at once, from two processors, which kvm-unit-tests send with an interrupt behind them: it came before the second.
    assert!(cpu.injection_state().nmi);
    cpu.inject(Event::Nmi);
    assert_eq!(cpu.vmsa().event_injection, event::VALID | event::TYPE_NMI | 2);
    assert_eq!(cpu.vmsa().vintr_ctrl & vintr::V_NMI, vintr::V_NMI);
    cpu.inject(Event::Nmi);
    assert_eq!(cpu.vmsa().vintr_ctrl & vintr::V_NMI, vintr::V_NMI, "a third is the second");
    cpu.vmsa_mut().event_injection = event::VALID | event::TYPE_EXCEPTION | 6;
    assert!(!cpu.injection_state().nmi, "an exception comes first");
    cpu.vmsa_mut().event_injection = 0;
    // The guest has taken it and handles it.
    cpu.set_interrupt_bits(vintr::V_NMI, vintr::V_NMI_MASK);
    assert!(!cpu.injection_state().queued, "what waits for IRET wakes nobody");
    assert!(cpu.injection_state().nmi);
    cpu.inject(Event::Nmi);
    assert!(cpu.injection_state().nmi, "a further one is the one that is latched already");
    cpu.inject(Event::Nmi);
    assert_eq!(cpu.vmsa().vintr_ctrl & vintr::V_NMI, vintr::V_NMI);
    let state = cpu.save();
    cpu.restore(&state);
    assert_eq!(cpu.vmsa().vintr_ctrl, vintr::BUSY | vintr::V_GIF | vintr::V_NMI_ENABLE, "a reset forgets NMIs");
}

/// TSC_AUX had DebugCtl's place in the table of MSRs, where only two special cases before it kept it out.
#[test]
fn each_msr_has_a_place_of_its_own() {
    let mut cpu = cpu();
    let all = [
        SwitchedMsr::Efer,
        SwitchedMsr::Star,
        SwitchedMsr::Lstar,
        SwitchedMsr::Cstar,
        SwitchedMsr::Sfmask,
        SwitchedMsr::KernelGsBase,
        SwitchedMsr::FsBase,
        SwitchedMsr::GsBase,
        SwitchedMsr::SysenterCs,
        SwitchedMsr::SysenterEsp,
        SwitchedMsr::SysenterEip,
        SwitchedMsr::Pat,
        SwitchedMsr::DebugCtl,
        SwitchedMsr::TscAux,
    ];
    for (msr, value) in all.into_iter().zip(1..) {
        cpu.set_switched_msr(msr, value);
    }
    for (msr, value) in all.into_iter().zip(1..) {
        assert_eq!(cpu.switched_msr(msr), value, "{msr:?}");
    }
    assert_eq!(all.map(|msr| cpu.msr_slot(msr).is_none()).into_iter().filter(|none| *none).count(), 2);
}

/// An entry of the guest, which no test survives, would wait for its next exit with what waits for Parados.
#[test]
fn a_doorbell_that_has_rung_comes_before_the_guest() {
    let mut cpu = cpu();
    cpu.doorbell().first().store(0x41, Ordering::Relaxed);
    assert_eq!(cpu.run(), HOST_INTERRUPT);
}

#[test]
fn what_no_processor_tells_of_is_looked_at_again_soon() {
    let mut cpu = cpu();
    let now = Instant(1_000);
    assert_eq!(cpu.timer_deadline(Instant::NEVER, now), Instant::NEVER);
    cpu.request_interrupt_window(Some(5));
    assert_eq!(cpu.timer_deadline(Instant::NEVER, now), Instant(51_000));
    assert_eq!(cpu.timer_deadline(Instant(2_000), now), Instant(2_000));
    cpu.request_interrupt_window(None);
    cpu.request_nmi_window(true);
    assert_eq!(cpu.timer_deadline(Instant::NEVER, now), Instant(51_000));
}
