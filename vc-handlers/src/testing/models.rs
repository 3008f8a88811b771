// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processor models for the tests of CPUID and of what depends on it.

use std::collections::BTreeMap;

use specs::cpuid::{Registers, VENDOR_AMD, VENDOR_INTEL, Xcr0};

use crate::Vendor;
use crate::cpuid::{CpuidTable, PolicyConfig, RawCpuid};

/// A model: some leaves, and what all others return.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) leaves: BTreeMap<(u32, u32), Registers>,
    pub(crate) others: Registers,
}

impl RawCpuid for Model {
    fn read(&self, leaf: u32, subleaf: u32) -> Registers {
        self.leaves.get(&(leaf, subleaf)).copied().unwrap_or(self.others)
    }
}

impl Model {
    fn new(vendor: Vendor, last_basic: u32, last_extended: u32, others: Registers) -> Self {
        let [ebx, edx, ecx] = match vendor {
            Vendor::Amd => VENDOR_AMD,
            Vendor::Intel => VENDOR_INTEL,
        };
        let mut model = Self { leaves: BTreeMap::new(), others };
        model.set(0, 0, Registers::new(last_basic, ebx, ecx, edx));
        model.set(0x8000_0000, 0, Registers::new(last_extended, ebx, ecx, edx));
        model
    }

    pub(crate) fn set(&mut self, leaf: u32, subleaf: u32, registers: Registers) {
        self.leaves.insert((leaf, subleaf), registers);
    }

    /// Every bit of every feature register set, in every leaf that there could be; XSAVE components that do not overlap.
    pub(crate) fn all_ones(vendor: Vendor) -> Self {
        let mut model = Self::new(vendor, 0xffff, 0x8000_ffff, Registers::new(!0, !0, !0, !0));
        for number in 2..64 {
            let aligned = if number % 2 == 0 { 2 } else { 0 };
            model.set(0xd, number, Registers::new(200, 576 + 256 * (number - 2), aligned, 0));
        }
        model
    }

    /// A first-generation EPYC with about the features that an emulator gives it; the topology of another machine. The
    /// figures are made up where no test depends on them.
    pub(crate) fn epyc() -> Self {
        let mut model = Self::new(Vendor::Amd, 0xd, 0x8000_001e, Registers::ZERO);
        model.set(1, 0, Registers::new(0x0080_0f12, 0x0302_0800, 0x76d8_320b, 0x178b_fbff));
        model.set(7, 0, Registers::new(0, 0x209c_01a9, 0, 0));
        model.set(0xd, 0, Registers::new(7, 832, 832, 0));
        model.set(0xd, 1, Registers::new(5, 0, 0, 0));
        model.set(0xd, 2, Registers::new(256, 576, 0, 0));
        model.set(0x8000_0001, 0, Registers::new(0x0080_0f12, 0, 0x0040_01f7, 0x2fd3_fbff));
        model.set(0x8000_0002, 0, Registers::new(0x2044_4d41, 0x4359_5045, 0x6f72_5020, 0x7365_6372));
        model.set(0x8000_0005, 0, Registers::new(0x01ff_01ff, 0x01ff_01ff, 0x2008_0140, 0x4004_0140));
        model.set(0x8000_0006, 0, Registers::new(0, 0x4200_4200, 0x0200_8140, 0x0100_9140));
        model.set(0x8000_0007, 0, Registers::new(0, 0, 0, 0x100));
        model.set(0x8000_0008, 0, Registers::new(0x3028, 0x204, 0x3003, 0));
        model.set(0x8000_000a, 0, Registers::new(1, 16, 0, 1));
        model.set(0x8000_001d, 0, Registers::new(0x0000_4121, 0x01c0_003f, 0x3f, 1));
        model.set(0x8000_001d, 1, Registers::new(0x0000_4122, 0x00c0_003f, 0xff, 1));
        model.set(0x8000_001d, 2, Registers::new(0x0000_4143, 0x01c0_003f, 0x3ff, 0));
        model.set(0x8000_001d, 3, Registers::new(0x0000_c163, 0x03c0_003f, 0x1fff, 6));
        model.set(0x8000_001e, 0, Registers::new(0, 0x100, 0, 0));
        model
    }

    /// After an Intel server with AVX-512 and protection keys; MPX lies between AVX and AVX-512 in its XSAVE area.
    pub(crate) fn skylake() -> Self {
        let mut model = Self::new(Vendor::Intel, 0x16, 0x8000_0008, Registers::ZERO);
        model.set(1, 0, Registers::new(0x0005_0654, 0x0010_0800, 0x7ffe_fbff, 0xbfeb_fbff));
        model.set(2, 0, Registers::new(0x7603_6301, 0x00f0_b6ff, 0, 0x00c3_0000));
        model.set(4, 0, Registers::new(0x1c00_4121, 0x01c0_003f, 0x3f, 0));
        model.set(4, 1, Registers::new(0x1c00_4122, 0x01c0_003f, 0x3f, 0));
        model.set(4, 2, Registers::new(0x1c00_4143, 0x03c0_003f, 0x3ff, 0));
        model.set(4, 3, Registers::new(0x1c03_c163, 0x0280_003f, 0x4fff, 4));
        model.set(7, 0, Registers::new(0, 0xd39f_fffb, 0x0000_0808, 0xbc00_0400));
        model.set(0xd, 0, Registers::new(0x2ff, 2696, 2696, 0));
        model.set(0xd, 1, Registers::new(0xf, 0, 0x100, 0));
        model.set(0xd, 2, Registers::new(256, 576, 0, 0));
        model.set(0xd, 3, Registers::new(64, 960, 0, 0));
        model.set(0xd, 4, Registers::new(64, 1024, 0, 0));
        model.set(0xd, 5, Registers::new(64, 1088, 0, 0));
        model.set(0xd, 6, Registers::new(512, 1152, 0, 0));
        model.set(0xd, 7, Registers::new(1024, 1664, 0, 0));
        model.set(0xd, 9, Registers::new(8, 2688, 0, 0));
        model.set(0x8000_0001, 0, Registers::new(0, 0, 0x121, 0x2c10_0800));
        model.set(0x8000_0006, 0, Registers::new(0, 0, 0x0100_6040, 0));
        model.set(0x8000_0008, 0, Registers::new(0x302e, 0, 0, 0));
        model
    }

    /// An old model without XSAVE, whose CPUID ends early.
    pub(crate) fn opteron() -> Self {
        let mut model = Self::new(Vendor::Amd, 1, 0x8000_0008, Registers::ZERO);
        model.set(1, 0, Registers::new(0x0000_0f51, 0x0000_0800, 0x0000_0001, 0x078b_fbff));
        model.set(0x8000_0001, 0, Registers::new(0x0f51, 0, 0, 0x2193_fbff));
        model.set(0x8000_0008, 0, Registers::new(0x3028, 0, 0, 0));
        model
    }

    /// The guest's CPUID on this model.
    pub(crate) fn table(&self, config: &PolicyConfig) -> CpuidTable {
        CpuidTable::new(self, config).unwrap()
    }
}

/// Two vCPUs, a TSC of 2 GHz, every XSAVE component.
pub(crate) fn config() -> PolicyConfig {
    PolicyConfig {
        processors: 2,
        tsc_hz: 2_000_000_000,
        apic_timer_hz: 1_000_000_000,
        invariant_tsc: true,
        page_conversion: false,
        components: Xcr0::all(),
    }
}

/// The guest's CPUID on a model with every feature that the policy allows.
pub(crate) fn everything(vendor: Vendor) -> CpuidTable {
    Model::all_ones(vendor).table(&config())
}
