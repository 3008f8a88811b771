// SPDX-License-Identifier: MIT OR Apache-2.0
//! Raising #VC in the guest: QEMU's event injection pushes no error code for vector 29, so the model does what the
//! processor would (APM vol. 2, 8.9.2, 8.9.3 and 15.35.5), in long mode and in protected mode with 32-bit gates.

use specs::svm::VmcbSegment;
use specs::vmcb::VmcbSave;

const CR0_PE: u64 = 1 << 0;
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_NT: u64 = 1 << 14;
const RFLAGS_RF: u64 = 1 << 16;
const RFLAGS_VM: u64 = 1 << 17;
const EFER_LMA: u64 = 1 << 10;
/// A gate: present, and its type without the lowest bit, which says that interrupts stay on.
const GATE_PRESENT: u64 = 1 << 47;
const GATE_TYPE: u64 = 0xe << 40;
const GATE_TRAP: u64 = 1 << 40;
/// A 64-bit task-state segment: the stacks for privilege levels, and the interrupt stacks.
const TSS_RSP0: u64 = 0x4;
const TSS_IST1: u64 = 0x24;
/// A 32-bit task-state segment: stack pointer and segment for each privilege level.
const TSS_ESP0: u64 = 0x4;
const TSS_SS0: u64 = 0x8;
/// Its type, without the bit that says busy; with it, the type of one of 64 bits.
const TSS_32: u16 = 0x9;
/// A stack's segment: present, data, writable, and 32-bit.
const STACK_NEEDED: u64 = 1 << 47 | 1 << 44 | 1 << 41;
const STACK_IS_CODE: u64 = 1 << 43;
const STACK_BIG: u16 = 1 << 10;
/// A descriptor: present, code, conforming, long.
const CODE_PRESENT: u64 = 1 << 47;
const CODE_SEGMENT: u64 = 3 << 43;
const CODE_CONFORMING: u64 = 1 << 42;
const CODE_LONG: u64 = 1 << 53;

/// The guest's virtual memory, as the supervisor sees it.
pub trait Supervisor {
    /// Reads, or says that a fault would come.
    fn read(&mut self, address: u64) -> Option<u64>;
    /// Writes.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Option<()>;
}

/// Why #VC cannot be raised; hardware would go on to #DF and shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undeliverable {
    /// In real mode or virtual-8086 mode, which are not modelled.
    Mode,
    /// No gate for the vector.
    Gate,
    /// The gate's code segment is not one.
    Code,
    /// No stack to push on.
    Stack(u64),
}

/// Pushes the frame and enters the handler.
pub fn deliver(
    save: &mut VmcbSave,
    memory: &mut impl Supervisor,
    vector: u8,
    error_code: u64,
) -> Result<(), Undeliverable> {
    if save.efer & EFER_LMA == 0 {
        return deliver_legacy(save, memory, vector, error_code);
    }
    let offset = u64::from(vector) * 16;
    if offset + 15 > u64::from(save.idtr.limit) {
        return Err(Undeliverable::Gate);
    }
    let at = save.idtr.base.wrapping_add(offset);
    let (Some(low), Some(high)) = (memory.read(at), memory.read(at.wrapping_add(8))) else {
        return Err(Undeliverable::Gate);
    };
    if low & GATE_PRESENT == 0 || low & GATE_TYPE != GATE_TYPE {
        return Err(Undeliverable::Gate);
    }
    let target = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
    let (code, dpl) = code_segment(save, memory, (low >> 16) as u16, CODE_LONG)?;
    let stack = stack(save, memory, low >> 32 & 7, dpl)?;
    let frame =
        [error_code, save.rip, save.cs.selector.into(), save.rflags | RFLAGS_RF, save.rsp, save.ss.selector.into()];
    let top = (stack & !0xf).wrapping_sub(size_of_val(&frame) as u64);
    let mut bytes = [0; 48];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(frame) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    memory.write(top, &bytes).ok_or(Undeliverable::Stack(top))?;
    if dpl < save.cpl {
        // A null selector, whose RPL is the new privilege level.
        save.ss = VmcbSegment { selector: dpl.into(), attributes: u16::from(dpl) << 5, limit: 0, base: 0 };
    }
    save.cs = code;
    save.cpl = dpl;
    save.rsp = top;
    save.rip = target;
    save.rflags &= !(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM);
    if low & GATE_TRAP == 0 {
        save.rflags &= !RFLAGS_IF;
    }
    Ok(())
}

/// The same in protected mode: gates of eight bytes, words of four.
fn deliver_legacy(
    save: &mut VmcbSave,
    memory: &mut impl Supervisor,
    vector: u8,
    error_code: u64,
) -> Result<(), Undeliverable> {
    if save.cr0 & CR0_PE == 0 || save.rflags & RFLAGS_VM != 0 {
        return Err(Undeliverable::Mode);
    }
    let offset = u64::from(vector) * 8;
    if offset + 7 > u64::from(save.idtr.limit) {
        return Err(Undeliverable::Gate);
    }
    let gate = memory.read(linear(save.idtr.base, offset)).ok_or(Undeliverable::Gate)?;
    if gate & GATE_PRESENT == 0 || gate & GATE_TYPE != GATE_TYPE {
        return Err(Undeliverable::Gate);
    }
    let target = gate & 0xffff | gate >> 32 & 0xffff_0000;
    let (code, dpl) = code_segment(save, memory, (gate >> 16) as u16, 0)?;
    if target > u64::from(code.limit) {
        return Err(Undeliverable::Code);
    }
    let (segment, pointer) = if dpl < save.cpl { legacy_stack(save, memory, dpl)? } else { (save.ss, save.rsp) };
    let frame = [
        error_code as u32,
        save.rip as u32,
        save.cs.selector.into(),
        (save.rflags | RFLAGS_RF) as u32,
        save.rsp as u32,
        save.ss.selector.into(),
    ];
    let words = if dpl < save.cpl { 6 } else { 4 };
    let width = if segment.attributes & STACK_BIG != 0 { 0xffff_ffff } else { 0xffff };
    let top = pointer.wrapping_sub(words * 4) & width;
    let mut bytes = [0; 24];
    for (slot, word) in bytes.chunks_exact_mut(4).zip(frame) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    let frame = bytes.get(..words as usize * 4).unwrap_or_default();
    let at = linear(segment.base, top);
    if top + words * 4 - 1 > u64::from(segment.limit) {
        return Err(Undeliverable::Stack(at));
    }
    memory.write(at, frame).ok_or(Undeliverable::Stack(at))?;
    (save.ss, save.cs, save.cpl) = (segment, code, dpl);
    save.rsp = pointer & !width | top;
    save.rip = target;
    save.rflags &= !(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM);
    if gate & GATE_TRAP == 0 {
        save.rflags &= !RFLAGS_IF;
    }
    Ok(())
}

/// Addresses wrap at 4 GiB.
const fn linear(base: u64, offset: u64) -> u64 {
    base.wrapping_add(offset) & 0xffff_ffff
}

/// The stack for a more privileged level, from a 32-bit task-state segment.
fn legacy_stack(save: &VmcbSave, memory: &mut impl Supervisor, dpl: u8) -> Result<(VmcbSegment, u64), Undeliverable> {
    let (pointer, selector) = (TSS_ESP0 + u64::from(dpl) * 8, TSS_SS0 + u64::from(dpl) * 8);
    let lost = Undeliverable::Stack(linear(save.tr.base, pointer));
    if save.tr.attributes & 0xd != TSS_32 || selector + 1 > u64::from(save.tr.limit) {
        return Err(lost);
    }
    let pointer = memory.read(linear(save.tr.base, pointer)).ok_or(lost)? & 0xffff_ffff;
    let selector = memory.read(linear(save.tr.base, selector)).ok_or(lost)? as u16;
    let found = descriptor(save, memory, selector).ok_or(lost)?;
    let privilege = (found >> 45 & 3) as u8;
    if found & STACK_NEEDED != STACK_NEEDED || found & STACK_IS_CODE != 0 || privilege != dpl {
        return Err(lost);
    }
    Ok((segment(found, selector), pointer))
}

/// A descriptor of the global or local table.
fn descriptor(save: &VmcbSave, memory: &mut impl Supervisor, selector: u16) -> Option<u64> {
    let table = if selector & 4 != 0 { &save.ldtr } else { &save.gdtr };
    let offset = u64::from(selector & !7);
    if selector & !3 == 0 || offset + 7 > u64::from(table.limit) {
        return None;
    }
    memory.read(table.base.wrapping_add(offset))
}

/// What a VMCB holds of a descriptor: the access byte and the flags behind it, the limit in bytes, the base.
const fn segment(descriptor: u64, selector: u16) -> VmcbSegment {
    let attributes = (descriptor >> 40 & 0xff | descriptor >> 44 & 0xf00) as u16;
    let pages = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    let limit = if descriptor & 1 << 55 != 0 { pages << 12 | 0xfff } else { pages };
    let base = descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000;
    VmcbSegment { selector, attributes, limit, base }
}

/// The handler's code segment and privilege level. `mode` is what it must have besides.
fn code_segment(
    save: &VmcbSave,
    memory: &mut impl Supervisor,
    selector: u16,
    mode: u64,
) -> Result<(VmcbSegment, u8), Undeliverable> {
    let descriptor = descriptor(save, memory, selector).ok_or(Undeliverable::Code)?;
    let needed = CODE_PRESENT | CODE_SEGMENT | mode;
    if descriptor & needed != needed {
        return Err(Undeliverable::Code);
    }
    let own = (descriptor >> 45 & 3) as u8;
    if own > save.cpl {
        return Err(Undeliverable::Code);
    }
    let level = if descriptor & CODE_CONFORMING != 0 { save.cpl } else { own };
    let loaded = segment(descriptor, selector & !3 | u16::from(level));
    // 64-bit code has no base and no limit.
    let loaded = if mode != 0 { VmcbSegment { limit: u32::MAX, base: 0, ..loaded } } else { loaded };
    Ok((loaded, level))
}

fn stack(save: &VmcbSave, memory: &mut impl Supervisor, ist: u64, dpl: u8) -> Result<u64, Undeliverable> {
    let offset = match ist {
        0 if dpl == save.cpl => return Ok(save.rsp),
        0 => TSS_RSP0 + u64::from(dpl) * 8,
        ist => TSS_IST1 + (ist - 1) * 8,
    };
    let at = save.tr.base.wrapping_add(offset);
    if offset + 7 > u64::from(save.tr.limit) {
        return Err(Undeliverable::Stack(at));
    }
    memory.read(at).ok_or(Undeliverable::Stack(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    /// 64 KiB from address 0.
    struct Flat(Vec<u8>);

    impl Supervisor for Flat {
        fn read(&mut self, address: u64) -> Option<u64> {
            let at = usize::try_from(address).ok()?;
            Some(u64::from_le_bytes(self.0.get(at..at.checked_add(8)?)?.try_into().ok()?))
        }

        fn write(&mut self, address: u64, bytes: &[u8]) -> Option<()> {
            let at = usize::try_from(address).ok()?;
            self.0.get_mut(at..at.checked_add(bytes.len())?)?.copy_from_slice(bytes);
            Some(())
        }
    }

    const IDT: u64 = 0x1000;
    const GDT: u64 = 0x2000;
    const TSS: u64 = 0x3000;
    const HANDLER: u64 = 0xffff_ffff_8123_4567;

    fn gate(ist: u64, kind: u64) -> [u64; 2] {
        let low = HANDLER & 0xffff | 0x10 << 16 | ist << 32 | kind << 40 | (HANDLER >> 16 & 0xffff) << 48;
        [low, HANDLER >> 32]
    }

    fn machine(gate: [u64; 2]) -> (VmcbSave, Flat) {
        let mut memory = Flat(vec![0; 0x1_0000]);
        let mut save = specs::vmcb::Vmcb::new_zeroed().save;
        (save.idtr.base, save.idtr.limit) = (IDT, 0xfff);
        (save.gdtr.base, save.gdtr.limit) = (GDT, 0x7f);
        (save.tr.base, save.tr.limit) = (TSS, 0x67);
        save.efer = EFER_LMA;
        (save.cs.selector, save.cs.attributes) = (0x10, 0xa9b);
        (save.ss.selector, save.ss.attributes) = (0x18, 0xc93);
        (save.rip, save.rsp, save.rflags) = (0x1111, 0x8009, 0x10346);
        for (word, at) in gate.iter().zip([IDT + 29 * 16, IDT + 29 * 16 + 8]) {
            memory.write(at, &word.to_le_bytes()).unwrap();
        }
        memory.write(GDT + 0x10, &0x00af_9b00_0000_ffffu64.to_le_bytes()).unwrap();
        memory.write(TSS + 4, &0x9000u64.to_le_bytes()).unwrap();
        memory.write(TSS + 0x2c, &0xa000u64.to_le_bytes()).unwrap();
        (save, memory)
    }

    fn frame(save: &VmcbSave, memory: &mut Flat) -> [u64; 6] {
        core::array::from_fn(|word| memory.read(save.rsp + word as u64 * 8).unwrap())
    }

    #[test]
    fn the_frame_is_on_the_same_stack_and_has_an_error_code() {
        let (mut save, mut memory) = machine(gate(0, 0x8e));
        deliver(&mut save, &mut memory, 29, 0x72).unwrap();
        assert_eq!((save.rip, save.rsp, save.cpl), (HANDLER, 0x8000 - 48, 0));
        assert_eq!(frame(&save, &mut memory), [0x72, 0x1111, 0x10, 0x10346, 0x8009, 0x18]);
        assert_eq!(save.rflags & (RFLAGS_TF | RFLAGS_IF | RFLAGS_RF), 0, "an interrupt gate");
        assert_eq!((save.cs.attributes, save.ss.selector), (0xa9b, 0x18));
    }

    #[test]
    fn a_trap_gate_leaves_interrupts_on() {
        let (mut save, mut memory) = machine(gate(0, 0x8f));
        deliver(&mut save, &mut memory, 29, 0).unwrap();
        assert_ne!(save.rflags & RFLAGS_IF, 0);
    }

    #[test]
    fn an_interrupt_stack_comes_from_the_tss() {
        let (mut save, mut memory) = machine(gate(2, 0x8e));
        deliver(&mut save, &mut memory, 29, 7).unwrap();
        assert_eq!(save.rsp, 0xa000 - 48);
        assert_eq!(save.ss.selector, 0x18, "the privilege level stays, and so does SS");
    }

    #[test]
    fn from_user_mode_the_stack_and_the_segments_change() {
        let (mut save, mut memory) = machine(gate(0, 0x8e));
        (save.cpl, save.cs.selector, save.ss.selector) = (3, 0x33, 0x2b);
        deliver(&mut save, &mut memory, 29, 7).unwrap();
        assert_eq!((save.cpl, save.rsp, save.cs.selector, save.ss.selector), (0, 0x9000 - 48, 0x10, 0));
        assert_eq!(frame(&save, &mut memory)[2], 0x33);
        assert_eq!(save.ss.attributes >> 5 & 3, 0, "QEMU takes the privilege level from here");
    }

    const HANDLER_32: u64 = 0x12_3456;

    /// A flat code segment at 10h, a stack at 18h with a base of 1000h.
    fn legacy(kind: u64) -> (VmcbSave, Flat) {
        let (mut save, mut memory) = machine([0; 2]);
        (save.efer, save.cr0) = (0, CR0_PE);
        let gate = HANDLER_32 & 0xffff | 0x10 << 16 | kind << 40 | (HANDLER_32 >> 16) << 48;
        memory.write(IDT + 29 * 8, &gate.to_le_bytes()).unwrap();
        memory.write(GDT + 0x10, &0x00cf_9b00_0000_ffffu64.to_le_bytes()).unwrap();
        memory.write(GDT + 0x18, &0x0040_9300_1000_ffffu64.to_le_bytes()).unwrap();
        memory.write(TSS + 4, &0x9000u32.to_le_bytes()).unwrap();
        memory.write(TSS + 8, &0x18u16.to_le_bytes()).unwrap();
        (save.cs.attributes, save.tr.attributes) = (0xc9b, 0x8b);
        save.ss = VmcbSegment { selector: 0x18, attributes: 0xc93, limit: u32::MAX, base: 0 };
        (save.rsp, save.rflags) = (0x8000, 0x346);
        (save, memory)
    }

    fn words(at: u64, count: usize, memory: &mut Flat) -> Vec<u32> {
        (0..count as u64).map(|word| memory.read(at + word * 4).unwrap() as u32).collect()
    }

    #[test]
    fn in_protected_mode_words_and_gates_are_half_as_long() {
        let (mut save, mut memory) = legacy(0x8e);
        deliver(&mut save, &mut memory, 29, 0x72).unwrap();
        assert_eq!((save.rip, save.rsp, save.cpl), (HANDLER_32, 0x8000 - 16, 0));
        assert_eq!(words(save.rsp, 4, &mut memory), [0x72, 0x1111, 0x10, 0x1_0346]);
        assert_eq!((save.cs.attributes, save.cs.limit, save.rflags & RFLAGS_IF), (0xc9b, u32::MAX, 0));
        let (mut save, mut memory) = legacy(0x8f);
        deliver(&mut save, &mut memory, 29, 0x72).unwrap();
        assert_ne!(save.rflags & RFLAGS_IF, 0, "a trap gate");
    }

    #[test]
    fn in_protected_mode_the_task_state_segment_has_pointer_and_segment() {
        let (mut save, mut memory) = legacy(0x8e);
        (save.cpl, save.cs.selector, save.ss.selector) = (3, 0x33, 0x2b);
        deliver(&mut save, &mut memory, 29, 7).unwrap();
        assert_eq!((save.cpl, save.rsp, save.ss.selector, save.ss.base), (0, 0x9000 - 24, 0x18, 0x1000));
        let frame = words(0x1000 + save.rsp, 6, &mut memory);
        assert_eq!(frame, [7, 0x1111, 0x33, 0x1_0346, 0x8000, 0x2b]);
    }

    #[test]
    fn a_small_stack_wraps_within_64_kib() {
        let (mut save, mut memory) = legacy(0x8e);
        save.ss.attributes = 0x93;
        save.rsp = 0x7_0010;
        deliver(&mut save, &mut memory, 29, 7).unwrap();
        assert_eq!((save.rsp, words(0, 1, &mut memory)[0]), (0x7_0000, 7));
    }

    #[test]
    fn protected_mode_has_its_own_ways_to_fail() {
        let fails = |change: &dyn Fn(&mut VmcbSave, &mut Flat)| {
            let (mut save, mut memory) = legacy(0x8e);
            change(&mut save, &mut memory);
            let rip = save.rip;
            let result = deliver(&mut save, &mut memory, 29, 7);
            assert_eq!(save.rip, rip);
            result.unwrap_err()
        };
        assert_eq!(fails(&|save, _| save.cr0 = 0), Undeliverable::Mode);
        assert_eq!(fails(&|save, _| save.rflags |= RFLAGS_VM), Undeliverable::Mode);
        assert_eq!(fails(&|save, _| save.idtr.limit = 29 * 8 + 6), Undeliverable::Gate);
        assert_eq!(fails(&|save, _| save.gdtr.limit = 0x10), Undeliverable::Code);
        assert_eq!(fails(&|save, _| save.ss.limit = 0x7000), Undeliverable::Stack(0x8000 - 16));
        assert_eq!(fails(&|save, _| (save.cpl, save.tr.attributes) = (3, 0x83)), Undeliverable::Stack(TSS + 4));
        let small_code = 0x0040_9b00_0000_ffffu64.to_le_bytes();
        assert_eq!(fails(&|_, memory| memory.write(GDT + 0x10, &small_code).unwrap()), Undeliverable::Code);
        let stack_of_three = 0x0040_f300_1000_ffffu64.to_le_bytes();
        let result = fails(&|save, memory| {
            save.cpl = 3;
            memory.write(GDT + 0x18, &stack_of_three).unwrap();
        });
        assert_eq!(result, Undeliverable::Stack(TSS + 4));
    }

    #[test]
    fn what_cannot_be_delivered_is_said_and_changes_nothing() {
        for (gate, change, expected) in [
            (gate(0, 0x0e), 0, Undeliverable::Gate),
            (gate(0, 0x85), 0, Undeliverable::Gate),
            (gate(0, 0x8e), 1, Undeliverable::Gate),
            (gate(0, 0x8e), 2, Undeliverable::Code),
            (gate(0, 0x8e), 3, Undeliverable::Stack(0xffff_0000 - 48)),
            (gate(2, 0x8e), 4, Undeliverable::Stack(TSS + 0x2c)),
            (gate(0, 0x8e), 5, Undeliverable::Mode),
        ] {
            let (mut save, mut memory) = machine(gate);
            match change {
                1 => save.idtr.limit = 29 * 16 + 14,
                2 => save.gdtr.limit = 0x16,
                3 => save.rsp = 0xffff_0000,
                4 => save.tr.limit = 0x20,
                5 => save.efer = 0,
                _ => {}
            }
            assert_eq!(deliver(&mut save, &mut memory, 29, 0), Err(expected));
            assert_eq!(save.rip, 0x1111);
        }
    }
}
