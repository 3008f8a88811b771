// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest exits for: all that a confidential platform would intercept, and each SVM instruction. An unintercepted
//! VMSAVE would write any physical address.

use specs::vmcb::{Misc1, Misc2};

/// #UD and #GP: QEMU pushes RFLAGS without the resume flag that a processor sets in the image for every fault (APM vol. 2,
/// 8.2), and raises these where a processor raises #DB and #SS.
pub(crate) const ALWAYS_EXCEPTIONS: u32 = 1 << 6 | 1 << 13;

/// Writes to CR0 and CR4 (APM vol. 2, table B-1). QEMU ends a guest that sets a reserved bit there with `VMEXIT_INVALID`,
/// where a processor raises #GP, and lets it use what CPUID hides.
pub(crate) const ALWAYS_CR: u32 = 1 << 16 | 1 << (16 + 4);

/// What every guest exits for: all that a confidential platform would intercept, and each SVM instruction. Besides,
/// what QEMU gets wrong: it loads descriptor tables with bases that are not canonical, and INT1 is #UD or worse.
pub(crate) const ALWAYS_1: Misc1 = Misc1::INTR
    .union(Misc1::NMI)
    .union(Misc1::SMI)
    .union(Misc1::INIT)
    .union(Misc1::VINTR)
    .union(Misc1::IDTR_WRITE)
    .union(Misc1::GDTR_WRITE)
    .union(Misc1::LDTR_WRITE)
    .union(Misc1::TR_WRITE)
    .union(Misc1::RDPMC)
    .union(Misc1::CPUID)
    .union(Misc1::RSM)
    .union(Misc1::INVD)
    .union(Misc1::HLT)
    .union(Misc1::INVLPGA)
    .union(Misc1::IOIO)
    .union(Misc1::MSR)
    .union(Misc1::FERR_FREEZE)
    .union(Misc1::SHUTDOWN);
/// The rest of [`ALWAYS_1`].
pub(crate) const ALWAYS_2: Misc2 = Misc2::VMRUN
    .union(Misc2::VMMCALL)
    .union(Misc2::VMLOAD)
    .union(Misc2::VMSAVE)
    .union(Misc2::STGI)
    .union(Misc2::CLGI)
    .union(Misc2::SKINIT)
    .union(Misc2::ICEBP)
    .union(Misc2::WBINVD)
    .union(Misc2::MONITOR)
    .union(Misc2::MWAIT)
    .union(Misc2::MWAIT_ARMED)
    .union(Misc2::XSETBV)
    .union(Misc2::RDPRU);
