// SPDX-License-Identifier: MIT OR Apache-2.0
//! What VMRUN loads from a VMSA and #VMEXIT stores in it (APM vol. 2, 15.35.3 and table B-4), with QEMU's VMCB as the place
//! where the processor's state lives meanwhile.

use core::mem::offset_of;
use specs::svm::event;
use specs::vmcb::{VirtualInterrupt, VmcbSave};
use specs::vmsa::{SevFeatures, Vmsa, vintr};

/// An exit stores nothing in a VMSA from here on: only the upper halves of the YMM registers, which this hardware has not, and
/// what the host or the guest's owner writes.
pub const STORED: usize = offset_of!(Vmsa, ymm_high);
/// Bytes of an FXSAVE area (APM vol. 1, 11.4.4).
pub const FX_BYTES: usize = 512;
/// x87 tag word: all registers empty.
const TAGS_EMPTY: u16 = 0xffff;

/// Copies everything that a VMCB, or VMLOAD, takes. General registers are in encoding order; RAX and RSP are the VMCB's.
pub fn load(vmsa: &Vmsa, save: &mut VmcbSave, registers: &mut [u64; 16]) {
    (save.es, save.cs, save.ss, save.ds, save.fs, save.gs) = (vmsa.es, vmsa.cs, vmsa.ss, vmsa.ds, vmsa.fs, vmsa.gs);
    (save.gdtr, save.ldtr, save.idtr, save.tr) = (vmsa.gdtr, vmsa.ldtr, vmsa.idtr, vmsa.tr);
    (save.cr0, save.cr2, save.cr3, save.cr4, save.efer) = (vmsa.cr0, vmsa.cr2, vmsa.cr3, vmsa.cr4, vmsa.efer);
    (save.dr6, save.dr7, save.g_pat, save.cpl) = (vmsa.dr6, vmsa.dr7, vmsa.g_pat, vmsa.cpl);
    (save.rflags, save.rip, save.rsp, save.rax) = (vmsa.rflags, vmsa.rip, vmsa.rsp, vmsa.rax);
    (save.star, save.lstar, save.cstar, save.sfmask) = (vmsa.star, vmsa.lstar, vmsa.cstar, vmsa.sfmask);
    (save.sysenter_cs, save.sysenter_esp, save.sysenter_eip) = (vmsa.sysenter_cs, vmsa.sysenter_esp, vmsa.sysenter_eip);
    save.kernel_gs_base = vmsa.kernel_gs_base;
    let [r8, r9, r10, r11, r12, r13, r14, r15] = vmsa.r8;
    let low = [0, vmsa.rcx, vmsa.rdx, vmsa.rbx, 0, vmsa.rbp, vmsa.rsi, vmsa.rdi];
    let [a, b, c, d, e, f, g, h] = low;
    *registers = [a, b, c, d, e, f, g, h, r8, r9, r10, r11, r12, r13, r14, r15];
}

/// The reverse of [`load`].
pub fn store(save: &VmcbSave, registers: &[u64; 16], vmsa: &mut Vmsa) {
    (vmsa.es, vmsa.cs, vmsa.ss, vmsa.ds, vmsa.fs, vmsa.gs) = (save.es, save.cs, save.ss, save.ds, save.fs, save.gs);
    (vmsa.gdtr, vmsa.ldtr, vmsa.idtr, vmsa.tr) = (save.gdtr, save.ldtr, save.idtr, save.tr);
    (vmsa.cr0, vmsa.cr2, vmsa.cr3, vmsa.cr4, vmsa.efer) = (save.cr0, save.cr2, save.cr3, save.cr4, save.efer);
    (vmsa.dr6, vmsa.dr7, vmsa.g_pat, vmsa.cpl) = (save.dr6, save.dr7, save.g_pat, save.cpl);
    (vmsa.rflags, vmsa.rip, vmsa.rsp, vmsa.rax) = (save.rflags, save.rip, save.rsp, save.rax);
    (vmsa.star, vmsa.lstar, vmsa.cstar, vmsa.sfmask) = (save.star, save.lstar, save.cstar, save.sfmask);
    (vmsa.sysenter_cs, vmsa.sysenter_esp, vmsa.sysenter_eip) = (save.sysenter_cs, save.sysenter_esp, save.sysenter_eip);
    vmsa.kernel_gs_base = save.kernel_gs_base;
    let [_, rcx, rdx, rbx, _, rbp, rsi, rdi, high @ ..] = *registers;
    (vmsa.rcx, vmsa.rdx, vmsa.rbx, vmsa.rbp, vmsa.rsi, vmsa.rdi) = (rcx, rdx, rbx, rbp, rsi, rdi);
    vmsa.r8 = high;
}

/// The x87 and SSE state as FXRSTOR takes it.
pub fn fx_from(vmsa: &Vmsa, area: &mut [u8; FX_BYTES]) {
    area.fill(0);
    let mut set = |at: usize, bytes: &[u8]| {
        if let Some(slot) = area.get_mut(at..at + bytes.len()) {
            slot.copy_from_slice(bytes);
        }
    };
    // FXSAVE has one bit a register: not empty.
    let tags = (0..8).fold(0u8, |tags, register| tags | u8::from(vmsa.x87_ftw >> (register * 2) & 3 != 3) << register);
    set(0, &vmsa.x87_fcw.to_le_bytes());
    set(2, &vmsa.x87_fsw.to_le_bytes());
    set(4, &[tags]);
    set(6, &vmsa.x87_fop.to_le_bytes());
    set(8, &vmsa.x87_rip.to_le_bytes());
    set(16, &vmsa.x87_dp.to_le_bytes());
    set(24, &(vmsa.mxcsr & MXCSR_KNOWN).to_le_bytes());
    let (registers, _) = area.as_chunks_mut::<16>();
    for ([a, b, c, d, e, f, g, h, i, j, ..], from) in registers.iter_mut().skip(X87).zip(vmsa.x87.as_chunks().0) {
        [*a, *b, *c, *d, *e, *f, *g, *h, *i, *j] = *from;
    }
    registers.iter_mut().skip(XMM).zip(&vmsa.xmm).for_each(|(to, from)| *to = *from);
}

/// Where the registers are in an FXSAVE area, in units of 16 bytes.
const X87: usize = 2;
const XMM: usize = 10;

/// MXCSR bits that FXRSTOR accepts.
const MXCSR_KNOWN: u32 = 0xffff;

/// The reverse of [`fx_from`].
pub fn fx_to(area: &[u8; FX_BYTES], vmsa: &mut Vmsa) {
    let word = |at: usize| u16::from_le_bytes([byte(area, at), byte(area, at + 1)]);
    let long = |at: usize| (0..8).fold(0, |value, index| value | u64::from(byte(area, at + index)) << (index * 8));
    let tags = byte(area, 4);
    vmsa.x87_ftw = (0..8)
        .filter(|register| tags >> register & 1 != 0)
        .fold(TAGS_EMPTY, |all, register| all & !(3 << (register * 2)));
    (vmsa.x87_fcw, vmsa.x87_fsw, vmsa.x87_fop) = (word(0), word(2), word(6));
    (vmsa.x87_rip, vmsa.x87_dp, vmsa.mxcsr) = (long(8), long(16), long(24) as u32);
    let (registers, _) = area.as_chunks::<16>();
    for (to, [from @ .., _, _, _, _, _, _]) in
        vmsa.x87.as_chunks_mut::<10>().0.iter_mut().zip(registers.iter().skip(X87))
    {
        *to = *from;
    }
    vmsa.xmm.iter_mut().zip(registers.iter().skip(XMM)).for_each(|(to, from)| *to = *from);
}

fn byte(area: &[u8; FX_BYTES], at: usize) -> u8 {
    area.get(at).copied().unwrap_or(0)
}

/// The VMCB's virtual interrupt control while a VMSA runs. With alternate injection it is the VMSA's, otherwise the host's to
/// fill in (APM vol. 2, 15.36.16).
pub fn interrupt_control(vmsa: &Vmsa) -> u64 {
    let masking = VirtualInterrupt::V_INTR_MASKING.bits();
    if vmsa.sev_features & SevFeatures::ALTERNATE_INJECTION.bits() == 0 {
        return masking | vmsa.vintr_ctrl & TASK_PRIORITY;
    }
    masking | vmsa.vintr_ctrl & (TASK_PRIORITY | vintr::V_IRQ | vintr::PRIORITY | vintr::V_IGN_TPR | vintr::VECTOR)
}

/// The first vector that no exception has.
const FIRST_INTERRUPT: u64 = 32;

/// V_TPR as QEMU has it: four bits of class.
const TASK_PRIORITY: u64 = 0xf;

/// What an exit writes back to VINTR_CTRL.
pub const fn stored_interrupt_control(vmsa: u64, vmcb: u64, shadow: bool) -> u64 {
    let keep = vmsa & !(TASK_PRIORITY | vintr::V_IRQ | vintr::INTERRUPT_SHADOW);
    keep | vmcb & (TASK_PRIORITY | vintr::V_IRQ) | if shadow { vintr::INTERRUPT_SHADOW } else { 0 }
}

/// Whether IRET goes to another task (APM vol. 2, 12.4.3).
pub const fn returns_to_task(save: &VmcbSave) -> bool {
    const PE: u64 = 1 << 0;
    const EFER_LMA: u64 = 1 << 10;
    const VM: u64 = 1 << 17;
    const NT: u64 = 1 << 14;
    save.cr0 & PE != 0 && save.efer & EFER_LMA == 0 && save.rflags & (NT | VM) == NT
}

/// The virtual interrupt control and EXITINTINFO after an exit. A processor that takes the requested interrupt clears V_IRQ
/// (APM vol. 2, 15.21.4); if a fault cuts the delivery off, QEMU 7.2 lets it stand, so that what EXITINTINFO tells would come
/// twice, and calls the interrupt an exception there.
pub const fn after_delivery(interrupts: u64, exit_int_info: u64) -> (u64, u64) {
    let vector = (interrupts & vintr::VECTOR) >> 32;
    let (told, kind) = (exit_int_info & (event::VALID | 0xff), exit_int_info & event::TYPE_MASK);
    let interrupt = matches!(kind, event::TYPE_INTERRUPT | event::TYPE_EXCEPTION) && vector >= FIRST_INTERRUPT;
    if interrupts & vintr::V_IRQ == 0 || told != event::VALID | vector || !interrupt {
        return (interrupts, exit_int_info);
    }
    (interrupts & !vintr::V_IRQ, event::VALID | event::TYPE_INTERRUPT | vector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::{FromBytes, FromZeros, IntoBytes};

    #[test]
    fn only_an_iret_of_protected_mode_goes_to_another_task() {
        let mut save = VmcbSave::new_zeroed();
        (save.cr0, save.rflags) = (1, 1 << 14);
        assert!(returns_to_task(&save));
        for (cr0, efer, rflags) in [(0, 0, 1 << 14), (1, 1 << 10, 1 << 14), (1, 0, 0), (1, 0, 1 << 14 | 1 << 17)] {
            (save.cr0, save.efer, save.rflags) = (cr0, efer, rflags);
            assert!(!returns_to_task(&save), "{cr0:x} {efer:x} {rflags:x}");
        }
    }

    /// A VMSA whose bytes are all different from their neighbours.
    fn vmsa() -> Vmsa {
        let bytes: Vec<u8> = (0..4096u32).map(|at| (at * 7 + at / 256) as u8).collect();
        let mut vmsa = Vmsa::read_from_bytes(&bytes).unwrap();
        vmsa.x87_ftw = 0x3f0f;
        vmsa.mxcsr = 0x1f80;
        vmsa
    }

    #[test]
    fn what_is_loaded_is_stored_again() {
        let before = vmsa();
        let mut save = specs::vmcb::Vmcb::new_zeroed().save;
        let mut registers = [0; 16];
        let mut area = [0; FX_BYTES];
        load(&before, &mut save, &mut registers);
        fx_from(&before, &mut area);
        let mut after = Vmsa::new_zeroed();
        store(&save, &registers, &mut after);
        fx_to(&area, &mut after);
        // Whatever neither function touches is zero afterwards; everything else is as it was.
        let pairs = before.as_bytes().iter().zip(after.as_bytes()).enumerate();
        let lost: Vec<_> = pairs.filter(|(_, (before, after))| before != after).map(|(at, _)| at).collect();
        let untouched = |at: &usize| {
            let kept = [0x00..0xa0, 0xcb..0xcc, 0xd0..0xd8, 0x148..0x180, 0x1d8..0x1e0, 0x1f8..0x248, 0x268..0x270];
            let more = [0x308..0x320, 0x328..0x380, 0x400..0x414, 0x418..0x570];
            !kept.iter().chain(&more).any(|range| range.contains(at))
        };
        assert!(lost.iter().all(untouched), "{lost:x?}");
        assert_eq!((after.rip, after.rax, after.r8, after.xmm), (before.rip, before.rax, before.r8, before.xmm));
        assert_eq!(after.x87_ftw, 0x3f0f);
        assert!(after.as_bytes()[STORED..].iter().all(|byte| *byte == 0), "what is not stored need not be written");
        assert_ne!(after.as_bytes()[STORED - 1], 0);
    }

    #[test]
    fn only_alternate_injection_takes_interrupts_from_the_vmsa() {
        let mut vmsa = Vmsa::new_zeroed();
        vmsa.vintr_ctrl = vintr::V_IRQ | 4 << 16 | 0x41 << 32 | 3 | vintr::BUSY;
        assert_eq!(interrupt_control(&vmsa), 1 << 24 | 3);
        vmsa.sev_features = SevFeatures::ALTERNATE_INJECTION.bits();
        assert_eq!(interrupt_control(&vmsa), 1 << 24 | 1 << 8 | 4 << 16 | 0x41 << 32 | 3);
    }

    #[test]
    fn an_exit_writes_back_priority_request_and_shadow_alone() {
        let before = vintr::V_IRQ | 4 << 16 | 0x41 << 32 | 3;
        let after = stored_interrupt_control(before, 1 << 24 | 5, true);
        assert_eq!(after, 4 << 16 | 0x41 << 32 | 5 | vintr::INTERRUPT_SHADOW);
        assert_eq!(stored_interrupt_control(before, vintr::V_IRQ | 3, false), before);
    }

    #[test]
    fn an_interrupt_whose_delivery_was_cut_off_is_not_requested_as_well() {
        let requested = vintr::V_IRQ | 0x41 << 32 | 3;
        let taken = 0x41 << 32 | 3;
        let interrupt = event::VALID | event::TYPE_INTERRUPT | 0x41;
        for told in [interrupt, event::VALID | event::TYPE_EXCEPTION | 0x41] {
            assert_eq!(after_delivery(requested, told), (taken, interrupt));
        }
        for other in [0, 0x41, interrupt + 1, event::VALID | event::TYPE_SOFTWARE | 0x41] {
            assert_eq!(after_delivery(requested, other), (requested, other));
        }
        // Without a request, or for an exception's vector, it is what it says.
        let fault = event::VALID | event::TYPE_EXCEPTION | 14;
        assert_eq!(after_delivery(taken, interrupt), (taken, interrupt));
        assert_eq!(after_delivery(vintr::V_IRQ | 14 << 32, fault), (vintr::V_IRQ | 14 << 32, fault));
    }
}
