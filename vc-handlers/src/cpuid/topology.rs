// SPDX-License-Identifier: MIT OR Apache-2.0
//! The topology that the guest sees: one package, one core for each vCPU, one thread for each core.
//!
//! APIC ids are vCPU indices. What the model says of sharing and core counts describes another machine and is replaced;
//! what it says of cache sizes stays.

use specs::cpuid::{Registers, level};

/// One package of `processors` cores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Topology {
    /// 1–255.
    pub(super) processors: u32,
}

impl Topology {
    /// Bits of an APIC id that number the cores.
    pub(super) const fn core_bits(self) -> u32 {
        self.processors.next_power_of_two().trailing_zeros()
    }

    /// Leaf 0Bh (SDM vol. 2A, CPUID, leaf 0Bh; APM vol. 3, E.3.7), for the vCPU `apic_id`.
    pub(super) const fn levels(self, subleaf: u32, apic_id: u32) -> Registers {
        let number = subleaf & 0xff;
        match subleaf {
            0 => Registers::new(0, 1, number | level::THREAD << 8, apic_id),
            1 => Registers::new(self.core_bits(), self.processors, number | level::CORE << 8, apic_id),
            _ => Registers::new(0, 0, number | level::INVALID << 8, apic_id),
        }
    }

    /// A subleaf of leaf 4 (SDM vol. 2A), corrected.
    pub(super) const fn intel_cache(self, told: Registers) -> Registers {
        if told.eax & 0x1f == 0 {
            return Registers::ZERO;
        }
        let ids = (1 << self.core_bits()) - 1;
        let sharing = if shared(told) { ids } else { 0 };
        // Bits 31:26 hold the highest core number, six bits only.
        let cores = if ids > 0x3f { 0x3f } else { ids };
        Registers { eax: told.eax & 0x3ff | sharing << 14 | cores << 26, ..told }
    }

    /// A subleaf of leaf 8000_001Dh (APM vol. 3, E.4.15), corrected.
    pub(super) const fn amd_cache(self, told: Registers) -> Registers {
        if told.eax & 0x1f == 0 {
            return Registers::ZERO;
        }
        let sharing = if shared(told) { self.processors - 1 } else { 0 };
        Registers { eax: told.eax & 0x3ff | sharing << 14, edx: told.edx & 3, ..told }
    }

    /// Leaf 8000_001Eh (APM vol. 3, E.4.16): APIC id, core, and node 0 of 1.
    pub(super) const fn amd_core(apic_id: u32) -> Registers {
        Registers::new(apic_id, apic_id & 0xff, 0, 0)
    }
}

/// Whether all cores share this cache: the third level and beyond.
const fn shared(told: Registers) -> bool {
    told.eax >> 5 & 7 >= 3
}
