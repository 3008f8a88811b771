// SPDX-License-Identifier: MIT OR Apache-2.0
//! General-purpose registers as operands of system instructions.

use iced_x86::Register;
use platform::{Gpr, GuestCpu, SegmentAttributes, SegmentRegister};
use specs::msr::efer;

/// The register that a decoded operand names, without its width.
pub(crate) fn general(register: Register) -> Option<Gpr> {
    let number = u8::try_from(register.full_register().number()).ok()?;
    register.is_gpr().then(|| Gpr::from_encoding(number))
}

/// The operand of a MOV to a control or debug register: 64 bits in 64-bit mode, else 32, whatever the prefixes say.
pub(crate) fn get_word(register: Gpr, cpu: &impl GuestCpu) -> u64 {
    let value = cpu.gpr(register);
    if is_64bit(cpu) { value } else { value & 0xffff_ffff }
}

/// Stores the operand of a MOV from a control or debug register.
pub(crate) fn put_word(register: Gpr, value: u64, cpu: &mut impl GuestCpu) {
    let bytes = if is_64bit(cpu) { 8 } else { 4 };
    put(register, bytes, value, cpu);
}

/// Stores to a register of 2, 4 or 8 bytes. A 32-bit result clears the upper half, a 16-bit one leaves the rest.
pub(crate) fn put(register: Gpr, bytes: usize, value: u64, cpu: &mut impl GuestCpu) {
    let value = match bytes {
        2 => cpu.gpr(register) & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    };
    cpu.set_gpr(register, value);
}

/// Whether the guest runs 64-bit code.
pub(crate) fn is_64bit(cpu: &impl GuestCpu) -> bool {
    cpu.system().efer & efer::LMA != 0 && cpu.segment(SegmentRegister::Cs).attributes.contains(SegmentAttributes::LONG)
}
