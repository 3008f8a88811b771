// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the code that enters and leaves a case shares with the rest.

use core::mem::offset_of;

/// Registers on the way in and out, at a fixed place for the code that has no registers to spare.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exchange {
    /// In encoding order.
    pub(crate) gprs: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) ss: u64,
    pub(crate) ds: u64,
    pub(crate) es: u64,
    pub(crate) gs: u64,
    /// ESP and SS for LSS, EIP and CS for a far jump.
    pub(crate) far_stack: [u8; 8],
    pub(crate) far_code: [u8; 8],
    /// How the case ended.
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) cr2: u64,
    /// Limits and bases, selectors and CR0 as the case left them.
    pub(crate) gdtr: [u8; 16],
    pub(crate) idtr: [u8; 16],
    pub(crate) ldtr: u64,
    pub(crate) tr: u64,
    pub(crate) cr0: u64,
    /// What the case runs under, outside long mode.
    pub(crate) case_cr3: u64,
    pub(crate) case_cr4: u64,
    pub(crate) way: u64,
    /// What Rust runs under.
    pub(crate) host_rsp: u64,
    pub(crate) host_cr0: u64,
    pub(crate) host_cr3: u64,
    pub(crate) host_cr4: u64,
    /// Descriptor-table registers.
    pub(crate) long_gdtr: [u8; 16],
    pub(crate) legacy_gdtr: [u8; 16],
    pub(crate) legacy_idtr: [u8; 16],
    pub(crate) real_idtr: [u8; 16],
}

/// [`Exchange::way`]: protected mode, by a far jump.
pub(crate) const WAY_PROTECTED: u64 = 0;
/// Virtual-8086 mode, by IRET.
pub(crate) const WAY_VIRTUAL: u64 = 1;
/// Real mode.
pub(crate) const WAY_REAL: u64 = 2;

/// Where the fields are, for assembly.
pub(crate) mod at {
    use super::{Exchange, offset_of};
    pub(crate) const RIP: usize = offset_of!(Exchange, rip);
    pub(crate) const CS: usize = offset_of!(Exchange, cs);
    pub(crate) const FLAGS: usize = offset_of!(Exchange, rflags);
    pub(crate) const SS: usize = offset_of!(Exchange, ss);
    pub(crate) const DS: usize = offset_of!(Exchange, ds);
    pub(crate) const ES: usize = offset_of!(Exchange, es);
    pub(crate) const GS: usize = offset_of!(Exchange, gs);
    pub(crate) const FAR_STACK: usize = offset_of!(Exchange, far_stack);
    pub(crate) const FAR_CODE: usize = offset_of!(Exchange, far_code);
    pub(crate) const VECTOR: usize = offset_of!(Exchange, vector);
    pub(crate) const ERROR: usize = offset_of!(Exchange, error);
    pub(crate) const CR2: usize = offset_of!(Exchange, cr2);
    pub(crate) const GDTR: usize = offset_of!(Exchange, gdtr);
    pub(crate) const IDTR: usize = offset_of!(Exchange, idtr);
    pub(crate) const LDTR: usize = offset_of!(Exchange, ldtr);
    pub(crate) const TR: usize = offset_of!(Exchange, tr);
    pub(crate) const CR0: usize = offset_of!(Exchange, cr0);
    pub(crate) const CASE_CR3: usize = offset_of!(Exchange, case_cr3);
    pub(crate) const CASE_CR4: usize = offset_of!(Exchange, case_cr4);
    pub(crate) const WAY: usize = offset_of!(Exchange, way);
    pub(crate) const HOST_RSP: usize = offset_of!(Exchange, host_rsp);
    pub(crate) const HOST_CR0: usize = offset_of!(Exchange, host_cr0);
    pub(crate) const HOST_CR3: usize = offset_of!(Exchange, host_cr3);
    pub(crate) const HOST_CR4: usize = offset_of!(Exchange, host_cr4);
    pub(crate) const LONG_GDTR: usize = offset_of!(Exchange, long_gdtr);
    pub(crate) const LEGACY_GDTR: usize = offset_of!(Exchange, legacy_gdtr);
    pub(crate) const LEGACY_IDTR: usize = offset_of!(Exchange, legacy_idtr);
    pub(crate) const REAL_IDTR: usize = offset_of!(Exchange, real_idtr);
}

/// The one exchange.
// SAFETY: the name is this program's own.
#[unsafe(no_mangle)]
pub(crate) static mut COMPARE_EXCHANGE: Exchange = Exchange {
    gprs: [0; 16],
    rip: 0,
    cs: 0,
    rflags: 0,
    ss: 0,
    ds: 0,
    es: 0,
    gs: 0,
    far_stack: [0; 8],
    far_code: [0; 8],
    vector: 0,
    error: 0,
    cr2: 0,
    gdtr: [0; 16],
    idtr: [0; 16],
    ldtr: 0,
    tr: 0,
    cr0: 0,
    case_cr3: 0,
    case_cr4: 0,
    way: 0,
    host_rsp: 0,
    host_cr0: 0,
    host_cr3: 0,
    host_cr4: 0,
    long_gdtr: [0; 16],
    legacy_gdtr: [0; 16],
    legacy_idtr: [0; 16],
    real_idtr: [0; 16],
};

/// Changes the exchange.
pub(crate) fn change(with: impl FnOnce(&mut Exchange)) {
    let pointer = &raw mut COMPARE_EXCHANGE;
    // SAFETY: there is one processor, and assembly touches the exchange only while a case runs, which no closure starts.
    with(unsafe { &mut *pointer });
}

/// What the exchange holds.
pub(crate) fn get() -> Exchange {
    let pointer = &raw const COMPARE_EXCHANGE;
    // SAFETY: as in `change`.
    unsafe { pointer.read_volatile() }
}

/// An operand of LGDT or LIDT in 64-bit mode, which serves 32-bit code as well.
pub(crate) fn table(base: u64, limit: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(limit.to_le_bytes().into_iter().chain(base.to_le_bytes())).for_each(|(to, from)| *to = from);
    bytes
}
