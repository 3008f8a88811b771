// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's CPUID as one flat table, built at start-up.
//!
//! CPUID is the exit that a guest takes most often. Answering it is a look-up by leaf number in an array that all vCPUs
//! share, plus corrections for the few leaves that depend on the vCPU or on a control register.

use platform::{Control, GuestCpu, SHARED_BIT, Slip};
use specs::cpuid::{
    AdvancedPowerEdx, ExtendedEcx, ExtendedEdx, Leaf1Ecx, Leaf1Edx, Leaf6Eax, Leaf7Ebx, Leaf7Ecx, Registers,
    VENDOR_AMD, VENDOR_INTEL, Xcr0, leaf,
};

use super::policy::{self, Features};
use super::topology::Topology;
use super::xsave::Xsave;
use super::{PolicyConfig, PolicyError, RawCpuid, frequency};
use crate::Vendor;
use crate::control::cr4;

/// Bits of a guest-physical address, the same on every platform.
pub const PHYSICAL_BITS: u32 = 40;
/// Bits of a linear address: five-level paging is hidden.
const LINEAR_BITS: u32 = 48;
// A guest can name a shared page.
const _: () = assert!(SHARED_BIT == 1 << (PHYSICAL_BITS - 1));
/// What leaf 4000_0000h calls us, in EBX, ECX, EDX.
const SIGNATURE: [[u8; 4]; 3] = [*b"Para", *b"dosP", *b"arad"];

/// EAX bit 0: the calls exist. EBX: the number of the bit in a shared page's address.
const PAGE_CONVERSION: Registers = Registers { eax: 1, ebx: SHARED_BIT.trailing_zeros(), ecx: 0, edx: 0 };

const BASIC: usize = leaf::FREQUENCY as usize + 1;
const EXTENDED: usize = (leaf::EXTENDED_2 - leaf::EXTENDED_VENDOR) as usize + 1;
/// More cache subleaves than any processor has.
const CACHES: usize = 8;

/// Basic leaves that more than their number decides.
const BASIC_SPECIAL: u32 =
    1 << leaf::FEATURES | 1 << leaf::CACHE | 1 << leaf::EXTENDED_FEATURES | 1 << leaf::TOPOLOGY | 1 << leaf::XSAVE;

/// The highest basic leaf: AMD's processors end with XSAVE, Intel's go on to the frequencies.
const fn last_basic(vendor: Vendor) -> u32 {
    match vendor {
        Vendor::Amd => leaf::XSAVE,
        Vendor::Intel => leaf::FREQUENCY,
    }
}

const fn last_extended(vendor: Vendor) -> u32 {
    match vendor {
        Vendor::Amd => leaf::EXTENDED_2,
        Vendor::Intel => leaf::ADDRESS_SIZES,
    }
}

/// What other handlers ask of the policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) vendor: Vendor,
    pub(crate) long_mode: bool,
    pub(crate) nx: bool,
    pub(crate) ffxsr: bool,
    pub(crate) rdtscp: bool,
    /// RDTSCP or RDPID exists, and so does TSC_AUX.
    pub(crate) tsc_aux: bool,
    pub(crate) osvw: bool,
    /// CR4 bits that the guest may set.
    pub(crate) cr4: u64,
    /// Components that XCR0 may enable.
    pub(crate) xcr0: Xcr0,
}

/// The guest's CPUID. Read-only once built; shared by all vCPUs.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    facts: Facts,
    topology: Topology,
    basic: [Registers; BASIC],
    extended: [Registers; EXTENDED],
    extended_features_1: Registers,
    /// Leaf 4 or leaf 8000_001Dh, whichever the vendor has.
    caches: [Registers; CACHES],
    signature: Registers,
    timing: Registers,
    page_conversion: Registers,
    xsave: Xsave,
}

impl CpuidTable {
    /// Applies the policy to the processor model that `raw` reads.
    pub fn new(raw: &impl RawCpuid, config: &PolicyConfig) -> Result<Self, PolicyError> {
        let vendor = vendor_of(raw)?;
        if !(1..=255).contains(&config.processors) {
            return Err(PolicyError::Processors);
        }
        if config.tsc_hz == 0 || config.apic_timer_hz == 0 {
            return Err(PolicyError::Frequency);
        }
        let topology = Topology { processors: config.processors };
        let model = Features::of_model(raw);
        let told = policy::read(raw, leaf::XSAVE, 0);
        let wanted = config.components & Xcr0::from_bits_truncate(u64::from(told.eax) | u64::from(told.edx) << 32);
        let (features, offered) = Features::for_guest(&model, vendor, wanted);

        let mut table = Self {
            facts: facts(vendor, &features, offered),
            topology,
            basic: [Registers::ZERO; BASIC],
            extended: [Registers::ZERO; EXTENDED],
            extended_features_1: Registers { eax: features.leaf7_sub1_eax.bits(), ..Registers::ZERO },
            caches: [Registers::ZERO; CACHES],
            signature: signature(),
            timing: frequency::kilohertz(config.tsc_hz, config.apic_timer_hz),
            page_conversion: if config.page_conversion { PAGE_CONVERSION } else { Registers::ZERO },
            xsave: Xsave::new(raw, offered, features.xsave)?,
        };
        table.fill_basic(raw, config, &features);
        table.fill_extended(raw, config, &features)?;
        table.fill_caches(raw, &features);
        Ok(table)
    }

    fn fill_basic(&mut self, raw: &impl RawCpuid, config: &PolicyConfig, features: &Features) {
        let vendor = self.facts.vendor;
        let words = match vendor {
            Vendor::Amd => VENDOR_AMD,
            Vendor::Intel => VENDOR_INTEL,
        };
        let [ebx, edx, ecx] = words;
        self.set(leaf::VENDOR, Registers::new(last_basic(vendor), ebx, ecx, edx));

        let told = policy::read(raw, leaf::FEATURES, 0);
        let mut edx = features.leaf1_edx;
        edx.set(Leaf1Edx::HTT, config.processors > 1);
        // CLFLUSH line size from the model; the number of logical processors; the APIC id comes at each query.
        let ebx = told.ebx & 0xff00 | config.processors << 16;
        self.set(leaf::FEATURES, Registers::new(told.eax, ebx, features.leaf1_ecx.bits(), edx.bits()));
        self.set(leaf::POWER, Registers::new(Leaf6Eax::ARAT.bits(), 0, 0, 0));
        let seven = Registers::new(1, features.leaf7_ebx.bits(), features.leaf7_ecx.bits(), features.leaf7_edx.bits());
        self.set(leaf::EXTENDED_FEATURES, seven);
        if vendor == Vendor::Intel {
            self.set(leaf::CACHE_DESCRIPTORS, policy::read(raw, leaf::CACHE_DESCRIPTORS, 0));
            self.set(leaf::TSC, frequency::tsc(config.tsc_hz, config.apic_timer_hz));
            self.set(leaf::FREQUENCY, frequency::megahertz(config.tsc_hz));
        }
    }

    fn fill_extended(
        &mut self,
        raw: &impl RawCpuid,
        config: &PolicyConfig,
        features: &Features,
    ) -> Result<(), PolicyError> {
        let vendor = self.facts.vendor;
        let amd = vendor == Vendor::Amd;
        let one = self.basic.get(leaf::FEATURES as usize).copied().unwrap_or_default();
        let same = self.basic.first().copied().filter(|_| amd).unwrap_or_default();
        self.set(leaf::EXTENDED_VENDOR, Registers { eax: last_extended(vendor), ..same });

        let mut ecx = features.extended_ecx;
        ecx.set(ExtendedEcx::CMP_LEGACY, amd && config.processors > 1);
        ecx.set(ExtendedEcx::SVM, Slip::ShownSvm.is_planted());
        // APM vol. 3, E.4.2: these repeat leaf 1.
        let repeated = if amd { one.edx & 0x0183_f3ff } else { 0 };
        let eax = if amd { one.eax } else { 0 };
        self.set(leaf::EXTENDED, Registers::new(eax, 0, ecx.bits(), features.extended_edx.bits() | repeated));
        for number in leaf::NAME..leaf::NAME + 3 {
            self.set(number, policy::read(raw, number, 0));
        }
        let mut l2 = policy::read(raw, leaf::L2_CACHE, 0);
        if amd {
            self.set(leaf::L1_CACHE, policy::read(raw, leaf::L1_CACHE, 0));
            self.set(leaf::TLB_1G, policy::read(raw, leaf::TLB_1G, 0));
        } else {
            l2 = Registers { ecx: l2.ecx, ..Registers::ZERO };
        }
        self.set(leaf::L2_CACHE, l2);
        if config.invariant_tsc {
            self.set(
                leaf::ADVANCED_POWER,
                Registers { edx: AdvancedPowerEdx::INVARIANT_TSC.bits(), ..Registers::ZERO },
            );
        }

        if policy::read(raw, leaf::ADDRESS_SIZES, 0).eax & 0xff < PHYSICAL_BITS {
            return Err(PolicyError::AddressSize);
        }
        let cores = if amd { (config.processors - 1) | self.topology.core_bits() << 12 } else { 0 };
        let sizes = PHYSICAL_BITS | LINEAR_BITS << 8;
        self.set(leaf::ADDRESS_SIZES, Registers::new(sizes, features.address_sizes_ebx.bits(), cores, 0));
        self.set(leaf::PERFORMANCE, Registers { eax: features.performance_eax.bits(), ..Registers::ZERO });
        self.set(leaf::EXTENDED_2, Registers { eax: features.extended2_eax.bits(), ..Registers::ZERO });
        Ok(())
    }

    fn fill_caches(&mut self, raw: &impl RawCpuid, features: &Features) {
        let number = match self.facts.vendor {
            Vendor::Intel => leaf::CACHE,
            Vendor::Amd if features.extended_ecx.contains(ExtendedEcx::TOPOLOGY_EXTENSIONS) => leaf::CACHE_PROPERTIES,
            Vendor::Amd => return,
        };
        for (subleaf, cache) in (0..).zip(&mut self.caches) {
            let told = policy::read(raw, number, subleaf);
            *cache = match self.facts.vendor {
                Vendor::Intel => self.topology.intel_cache(told),
                Vendor::Amd => self.topology.amd_cache(told),
            };
            if cache.eax == 0 {
                break;
            }
        }
    }

    /// Stores a leaf that this vendor has; another one stays empty.
    fn set(&mut self, number: u32, registers: Registers) {
        let vendor = self.facts.vendor;
        if number <= last_basic(vendor) {
            if let Some(slot) = self.basic.get_mut(number as usize) {
                *slot = registers;
            }
        } else if (leaf::EXTENDED_VENDOR..=last_extended(vendor)).contains(&number)
            && let Some(slot) = self.extended.get_mut((number - leaf::EXTENDED_VENDOR) as usize)
        {
            *slot = registers;
        }
    }

    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The vendor whose processor the guest sees.
    pub fn vendor(&self) -> Vendor {
        self.facts.vendor
    }

    /// The XSAVE components that the guest may enable; empty without XSAVE.
    pub fn components(&self) -> Xcr0 {
        self.xsave.offered()
    }

    /// Leaf 1 EAX, which a processor also holds in RDX after INIT (SDM vol. 3A, table 10-1).
    pub fn signature(&self) -> u32 {
        self.basic.get(1).map_or(0, |leaf| leaf.eax)
    }

    /// What CPUID returns to the vCPU `apic_id`.
    #[inline(always)]
    pub(crate) fn query(
        &self,
        number: u32,
        subleaf: u32,
        apic_id: u32,
        apic_enabled: bool,
        cpu: &impl GuestCpu,
    ) -> Registers {
        if let Some(&registers) = self.basic.get(number as usize) {
            if BASIC_SPECIAL >> number & 1 == 0 {
                return registers;
            }
            return self.basic_special(number, subleaf, registers, apic_id, apic_enabled, cpu);
        }
        self.above_basic(number, subleaf, apic_id)
    }

    #[inline(never)]
    fn above_basic(&self, number: u32, subleaf: u32, apic_id: u32) -> Registers {
        match self.extended.get(number.wrapping_sub(leaf::EXTENDED_VENDOR) as usize) {
            Some(&registers) => match number {
                leaf::CACHE_PROPERTIES if self.facts.vendor == Vendor::Amd => self.cache(subleaf),
                leaf::TOPOLOGY_EXTENSIONS if self.has_topology_extensions() => Topology::amd_core(apic_id),
                _ if number > last_extended(self.facts.vendor) => self.beyond(number),
                _ => registers,
            },
            None => self.beyond(number),
        }
    }

    #[inline(never)]
    fn basic_special(
        &self,
        number: u32,
        subleaf: u32,
        registers: Registers,
        apic_id: u32,
        apic_enabled: bool,
        cpu: &impl GuestCpu,
    ) -> Registers {
        match number {
            leaf::FEATURES => {
                let osxsave = cpu.control(Control::Cr4) & cr4::OSXSAVE != 0;
                Registers {
                    ebx: registers.ebx | apic_id << 24,
                    ecx: registers.ecx | if osxsave { Leaf1Ecx::OSXSAVE.bits() } else { 0 },
                    edx: registers.edx & if apic_enabled { !0 } else { !Leaf1Edx::APIC.bits() },
                    ..registers
                }
            }
            leaf::EXTENDED_FEATURES => match subleaf {
                0 => {
                    let ospke = cpu.control(Control::Cr4) & cr4::PKE != 0;
                    Registers { ecx: registers.ecx | if ospke { Leaf7Ecx::OSPKE.bits() } else { 0 }, ..registers }
                }
                1 => self.extended_features_1,
                _ => Registers::ZERO,
            },
            leaf::XSAVE => self.xsave.leaf(subleaf, cpu.xcr0()),
            leaf::TOPOLOGY => self.topology.levels(subleaf, apic_id),
            leaf::CACHE if self.facts.vendor == Vendor::Intel => self.cache(subleaf),
            _ => registers,
        }
    }

    fn cache(&self, subleaf: u32) -> Registers {
        self.caches.get(subleaf as usize).copied().unwrap_or(Registers::ZERO)
    }

    fn has_topology_extensions(&self) -> bool {
        let bits = self.extended.get(1).map_or(0, |registers| registers.ecx);
        bits & ExtendedEcx::TOPOLOGY_EXTENSIONS.bits() != 0
    }

    /// A leaf outside the two ranges: ours, or nobody's. AMD answers nobody's with zeros, Intel with the highest basic
    /// leaf (SDM vol. 2A, CPUID, "Input limits"); both leave the hypervisors' range empty.
    #[cold]
    fn beyond(&self, number: u32) -> Registers {
        match number {
            leaf::HYPERVISOR => self.signature,
            leaf::HYPERVISOR_PAGES => self.page_conversion,
            leaf::HYPERVISOR_TIMING => self.timing,
            _ if number >> 28 == leaf::HYPERVISOR >> 28 => Registers::ZERO,
            _ if self.facts.vendor == Vendor::Intel => self.basic.last().copied().unwrap_or(Registers::ZERO),
            _ => Registers::ZERO,
        }
    }
}

fn vendor_of(raw: &impl RawCpuid) -> Result<Vendor, PolicyError> {
    let told = raw.read(leaf::VENDOR, 0);
    match [told.ebx, told.edx, told.ecx] {
        VENDOR_AMD => Ok(Vendor::Amd),
        VENDOR_INTEL => Ok(Vendor::Intel),
        _ => Err(PolicyError::Vendor),
    }
}

fn signature() -> Registers {
    let [ebx, ecx, edx] = SIGNATURE.map(u32::from_le_bytes);
    Registers::new(leaf::HYPERVISOR_TIMING, ebx, ecx, edx)
}

fn facts(vendor: Vendor, features: &Features, xcr0: Xcr0) -> Facts {
    let bit = |present: bool, bit: u64| if present { bit } else { 0 };
    let (one, edx) = (features.leaf1_ecx, features.leaf1_edx);
    let (seven_b, seven_c) = (features.leaf7_ebx, features.leaf7_ecx);
    let rdtscp = features.extended_edx.contains(ExtendedEdx::RDTSCP);
    Facts {
        vendor,
        long_mode: features.extended_edx.contains(ExtendedEdx::LONG_MODE),
        nx: features.extended_edx.contains(ExtendedEdx::NX),
        ffxsr: features.extended_edx.contains(ExtendedEdx::FFXSR),
        rdtscp,
        tsc_aux: rdtscp || seven_c.contains(Leaf7Ecx::RDPID),
        osvw: features.extended_ecx.contains(ExtendedEcx::OSVW),
        cr4: cr4::ALWAYS
            | bit(edx.contains(Leaf1Edx::VME), cr4::VME | cr4::PVI)
            | bit(edx.contains(Leaf1Edx::DE), cr4::DE)
            | bit(edx.contains(Leaf1Edx::PSE), cr4::PSE)
            | bit(edx.contains(Leaf1Edx::PGE), cr4::PGE)
            | bit(edx.contains(Leaf1Edx::FXSR), cr4::OSFXSR)
            | bit(edx.contains(Leaf1Edx::SSE), cr4::OSXMMEXCPT)
            | bit(one.contains(Leaf1Ecx::PCID), cr4::PCIDE)
            | bit(one.contains(Leaf1Ecx::XSAVE), cr4::OSXSAVE)
            | bit(seven_b.contains(Leaf7Ebx::FSGSBASE), cr4::FSGSBASE)
            | bit(seven_b.contains(Leaf7Ebx::SMEP), cr4::SMEP)
            | bit(seven_b.contains(Leaf7Ebx::SMAP), cr4::SMAP)
            | bit(seven_c.contains(Leaf7Ecx::UMIP), cr4::UMIP)
            | bit(seven_c.contains(Leaf7Ecx::PKU), cr4::PKE),
        xcr0,
    }
}
