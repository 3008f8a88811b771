// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a Multiboot payload finds of a BIOS (Multiboot Specification 0.6.96, section 3.2: the loader leaves the 8259s as a
//! BIOS programs them, and other state in normal working order, as if it could be called).
//!
//! There is no BIOS here. But its timer ticks on a PC, so that real-mode code which sets IF and halts wakes up; and that
//! needs an interrupt vector table and a handler, at the addresses that every compatible BIOS since the PC/AT uses. Calls
//! of its services return at once and have done nothing.
//!
//! The handlers lie in the segment that the memory map reserves, behind the ACPI tables, which fill less than its lower half.

use image_abi::Range;
use platform::{Gpa, GuestMemory, MemoryError, Visibility};

/// The BIOS's segment.
const SEGMENT: u16 = 0xf000;
/// The timer's handler, and the one of vectors that nobody serves.
const TIMER: u16 = 0xfea5;
const DUMMY: u16 = 0xff53;
/// IRQ 0.
const TIMER_VECTOR: usize = 8;
const VECTORS: usize = 256;
/// The interrupt vector table and the BIOS data area behind it.
const LOW: Range = Range { start: 0, bytes: 0x500 };

/// Counts the tick at 40h:6Ch, then the guest's own hook, then ends the interrupt.
const TIMER_CODE: [u8; 21] = [
    0x50, // push ax
    0x1e, // push ds
    0xb8, 0x40, 0x00, // mov ax, 40h
    0x8e, 0xd8, // mov ds, ax
    0x66, 0xff, 0x06, 0x6c, 0x00, // inc dword [6Ch]
    0xcd, 0x1c, // int 1Ch
    0xb0, 0x20, // mov al, 20h
    0xe6, 0x20, // out 20h, al
    0x1f, // pop ds
    0x58, // pop ax
    0xcf, // iret
];
const DUMMY_CODE: [u8; 1] = [0xcf]; // iret

/// Writes the table and its handlers, unless the payload has a use of its own for that memory.
pub(crate) fn place(memory: &impl GuestMemory, payload: &[Range]) -> Result<(), MemoryError> {
    let taken = |range: &Range| range.bytes != 0 && range.start < LOW.end() && LOW.start < range.end();
    if payload.iter().any(taken) {
        return Ok(());
    }
    let mut table = [0; 4 * VECTORS];
    for (vector, entry) in table.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let [low, high] = if vector == TIMER_VECTOR { TIMER } else { DUMMY }.to_le_bytes();
        let [segment_low, segment_high] = SEGMENT.to_le_bytes();
        *entry = [low, high, segment_low, segment_high];
    }
    let code = |offset: u16| Gpa(u64::from(SEGMENT) << 4 | u64::from(offset));
    memory.copy_out(code(TIMER), Visibility::Private, &TIMER_CODE)?;
    memory.copy_out(code(DUMMY), Visibility::Private, &DUMMY_CODE)?;
    memory.copy_out(Gpa(LOW.start), Visibility::Private, &table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vc_handlers::testing::FakeMemory;

    fn far(memory: &FakeMemory, vector: u64) -> u64 {
        let entry = memory.get(4 * vector, 4);
        let word = |at: usize| u64::from(u16::from_le_bytes([entry[at], entry[at + 1]]));
        (word(2) << 4) + word(0)
    }

    /// kvm-unit-tests' `realmode` halts with interrupts on and waits for the tick that a BIOS leaves behind.
    #[test]
    fn the_timer_has_a_handler_that_ends_its_interrupt_and_the_rest_return() {
        let memory = FakeMemory::new(0, 1 << 20);
        place(&memory, &[Range { start: 1 << 20, bytes: 4096 }]).unwrap();
        let timer = far(&memory, 8);
        assert_eq!(timer, 0xf_fea5);
        assert!(timer + TIMER_CODE.len() as u64 <= far(&memory, 9), "the handlers lie apart");
        let code = memory.get(timer, TIMER_CODE.len());
        assert!(code.windows(4).any(|four| four == [0xb0, 0x20, 0xe6, 0x20]), "no EOI: {code:x?}");
        for vector in (0..256).filter(|vector| *vector != 8) {
            assert_eq!(memory.get(far(&memory, vector), 1), [0xcf], "vector {vector}");
        }
        assert_eq!(memory.get(0x400, 0x100), [0; 0x100]);
    }

    #[test]
    fn a_payload_in_low_memory_keeps_it() {
        for start in [0, 0x3ff, 0x4ff] {
            let memory = FakeMemory::new(0, 1 << 20);
            place(&memory, &[Range::default(), Range { start, bytes: 16 }]).unwrap();
            assert_eq!(memory.get(0, 0x500), [0; 0x500], "{start:x}");
        }
        let memory = FakeMemory::new(0, 1 << 20);
        place(&memory, &[Range { start: 0x500, bytes: 16 }]).unwrap();
        assert_ne!(memory.get(0, 4), [0; 4]);
    }
}
