// SPDX-License-Identifier: MIT OR Apache-2.0
//! Raising #VC in the guest: QEMU's event injection pushes no error code for vector 29, so the model does what the
//! processor would (APM vol. 2, 8.9.3 and 15.35.5), in long mode.

use specs::svm::{VmcbSave, VmcbSegment};

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
    /// Not in long mode, which is not modelled.
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
        return Err(Undeliverable::Mode);
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
    let (code, dpl) = code_segment(save, memory, (low >> 16) as u16)?;
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

/// The handler's code segment and privilege level.
fn code_segment(
    save: &VmcbSave,
    memory: &mut impl Supervisor,
    selector: u16,
) -> Result<(VmcbSegment, u8), Undeliverable> {
    let table = if selector & 4 != 0 { &save.ldtr } else { &save.gdtr };
    let offset = u64::from(selector & !7);
    if offset == 0 || offset + 7 > u64::from(table.limit) {
        return Err(Undeliverable::Code);
    }
    let descriptor = memory.read(table.base.wrapping_add(offset)).ok_or(Undeliverable::Code)?;
    let needed = CODE_PRESENT | CODE_SEGMENT | CODE_LONG;
    if descriptor & needed != needed {
        return Err(Undeliverable::Code);
    }
    let own = (descriptor >> 45 & 3) as u8;
    if own > save.cpl {
        return Err(Undeliverable::Code);
    }
    let level = if descriptor & CODE_CONFORMING != 0 { save.cpl } else { own };
    // As VMCBs hold them: the access byte, and the flags behind it.
    let attributes = (descriptor >> 40 & 0xff | descriptor >> 44 & 0xf00) as u16;
    let segment = VmcbSegment { selector: selector & !3 | u16::from(level), attributes, limit: u32::MAX, base: 0 };
    Ok((segment, level))
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
        let mut save = specs::svm::Vmcb::new_zeroed().save;
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
