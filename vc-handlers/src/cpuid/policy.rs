// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which features a guest may see: allow-lists made of named bits, per vendor, as data.
//!
//! A bit is allowed if the guest can use the feature with no help from us, or with help that exists. What needs an MSR,
//! an exit or a state component that Parados does not handle is not listed, and neither is anything that no manual
//! names, so a processor newer than this table shows the guest nothing new.
//!
//! Left out on purpose, besides virtualization and encryption:
//! - MONITOR and MWAIT: idle must be HLT, which is cheap to wait on;
//! - performance counters, branch records, last-branch and processor trace: they would show what Parados does;
//! - speculation controls (IBRS, STIBP, SSBD, …): their MSRs are not switched yet;
//! - XSAVES and CET: XSS is not switched yet; TSC_ADJUST: the guest's time-stamp counter cannot be moved;
//! - TSX, MPX, AMX, user interrupts, key locker: rare, or withdrawn by their makers.

use specs::cpuid::{
    AddressSizesEbx, Extended2Eax, ExtendedEcx, ExtendedEdx, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx,
    Leaf7Sub1Eax, LeafXsaveEax, PerformanceEax, Registers, Xcr0, leaf,
};

use super::RawCpuid;
use crate::Vendor;

/// Defines [`Features`], and what is done to all of its registers alike.
macro_rules! features {
    ($($register:ident: $bits:ident,)+) => {
        /// Every register of CPUID that is a set of features.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub(super) struct Features {
            $(pub(super) $register: $bits,)+
        }

        impl Features {
            const NOTHING: Self = Self { $($register: $bits::empty(),)+ };

            fn both(&self, other: &Self) -> Self {
                Self { $($register: self.$register & other.$register,)+ }
            }

            fn either(&self, other: &Self) -> Self {
                Self { $($register: self.$register | other.$register,)+ }
            }

            fn without(&self, other: &Self) -> Self {
                Self { $($register: self.$register - other.$register,)+ }
            }
        }
    };
}

features! {
    leaf1_ecx: Leaf1Ecx,
    leaf1_edx: Leaf1Edx,
    leaf7_ebx: Leaf7Ebx,
    leaf7_ecx: Leaf7Ecx,
    leaf7_edx: Leaf7Edx,
    leaf7_sub1_eax: Leaf7Sub1Eax,
    xsave: LeafXsaveEax,
    extended_ecx: ExtendedEcx,
    extended_edx: ExtendedEdx,
    address_sizes_ebx: AddressSizesEbx,
    performance_eax: PerformanceEax,
    extended2_eax: Extended2Eax,
}

/// What either vendor's guest may see.
const COMMON: Features = Features {
    leaf1_ecx: Leaf1Ecx::SSE3
        .union(Leaf1Ecx::PCLMULQDQ)
        .union(Leaf1Ecx::SSSE3)
        .union(Leaf1Ecx::FMA)
        .union(Leaf1Ecx::CMPXCHG16B)
        .union(Leaf1Ecx::PCID)
        .union(Leaf1Ecx::SSE4_1)
        .union(Leaf1Ecx::SSE4_2)
        .union(Leaf1Ecx::MOVBE)
        .union(Leaf1Ecx::POPCNT)
        .union(Leaf1Ecx::AES)
        .union(Leaf1Ecx::XSAVE)
        .union(Leaf1Ecx::AVX)
        .union(Leaf1Ecx::F16C)
        .union(Leaf1Ecx::RDRAND),
    leaf1_edx: Leaf1Edx::FPU
        .union(Leaf1Edx::VME)
        .union(Leaf1Edx::DE)
        .union(Leaf1Edx::PSE)
        .union(Leaf1Edx::TSC)
        .union(Leaf1Edx::MSR)
        .union(Leaf1Edx::PAE)
        .union(Leaf1Edx::CMPXCHG8B)
        .union(Leaf1Edx::SYSENTER)
        .union(Leaf1Edx::PGE)
        .union(Leaf1Edx::CMOV)
        .union(Leaf1Edx::PSE36)
        .union(Leaf1Edx::CLFLUSH)
        .union(Leaf1Edx::MMX)
        .union(Leaf1Edx::FXSR)
        .union(Leaf1Edx::SSE)
        .union(Leaf1Edx::SSE2)
        .union(Leaf1Edx::SS),
    leaf7_ebx: Leaf7Ebx::FSGSBASE
        .union(Leaf7Ebx::BMI1)
        .union(Leaf7Ebx::AVX2)
        .union(Leaf7Ebx::FDP_EXCPTN_ONLY)
        .union(Leaf7Ebx::SMEP)
        .union(Leaf7Ebx::BMI2)
        .union(Leaf7Ebx::ERMS)
        .union(Leaf7Ebx::INVPCID)
        .union(Leaf7Ebx::ZERO_FCS_FDS)
        .union(Leaf7Ebx::AVX512F)
        .union(Leaf7Ebx::AVX512DQ)
        .union(Leaf7Ebx::RDSEED)
        .union(Leaf7Ebx::ADX)
        .union(Leaf7Ebx::SMAP)
        .union(Leaf7Ebx::AVX512_IFMA)
        .union(Leaf7Ebx::CLFLUSHOPT)
        .union(Leaf7Ebx::CLWB)
        .union(Leaf7Ebx::AVX512PF)
        .union(Leaf7Ebx::AVX512ER)
        .union(Leaf7Ebx::AVX512CD)
        .union(Leaf7Ebx::SHA)
        .union(Leaf7Ebx::AVX512BW)
        .union(Leaf7Ebx::AVX512VL),
    leaf7_ecx: Leaf7Ecx::AVX512_VBMI
        .union(Leaf7Ecx::UMIP)
        .union(Leaf7Ecx::PKU)
        .union(Leaf7Ecx::AVX512_VBMI2)
        .union(Leaf7Ecx::GFNI)
        .union(Leaf7Ecx::VAES)
        .union(Leaf7Ecx::VPCLMULQDQ)
        .union(Leaf7Ecx::AVX512_VNNI)
        .union(Leaf7Ecx::AVX512_BITALG)
        .union(Leaf7Ecx::AVX512_VPOPCNTDQ)
        .union(Leaf7Ecx::RDPID)
        .union(Leaf7Ecx::MOVDIRI)
        .union(Leaf7Ecx::MOVDIR64B),
    leaf7_edx: Leaf7Edx::AVX512_4VNNIW
        .union(Leaf7Edx::AVX512_4FMAPS)
        .union(Leaf7Edx::FSRM)
        .union(Leaf7Edx::AVX512_VP2INTERSECT)
        .union(Leaf7Edx::SERIALIZE)
        .union(Leaf7Edx::AVX512_FP16),
    leaf7_sub1_eax: Leaf7Sub1Eax::AVX_VNNI
        .union(Leaf7Sub1Eax::AVX512_BF16)
        .union(Leaf7Sub1Eax::CMPCCXADD)
        .union(Leaf7Sub1Eax::FZLRM)
        .union(Leaf7Sub1Eax::FSRS)
        .union(Leaf7Sub1Eax::FSRCS)
        .union(Leaf7Sub1Eax::AVX_IFMA),
    xsave: LeafXsaveEax::XSAVEOPT.union(LeafXsaveEax::XSAVEC).union(LeafXsaveEax::XGETBV1),
    extended_ecx: ExtendedEcx::LAHF_SAHF.union(ExtendedEcx::ABM).union(ExtendedEcx::PREFETCHW),
    extended_edx: ExtendedEdx::SYSCALL
        .union(ExtendedEdx::NX)
        .union(ExtendedEdx::PAGE_1G)
        .union(ExtendedEdx::RDTSCP)
        .union(ExtendedEdx::LONG_MODE),
    address_sizes_ebx: AddressSizesEbx::WBNOINVD,
    ..Features::NOTHING
};

/// What an AMD guest may see besides.
const AMD: Features = Features {
    extended_ecx: COMMON
        .extended_ecx
        .union(ExtendedEcx::ALT_MOV_CR8)
        .union(ExtendedEcx::SSE4A)
        .union(ExtendedEcx::MISALIGNED_SSE)
        .union(ExtendedEcx::OSVW)
        .union(ExtendedEcx::XOP)
        .union(ExtendedEcx::FMA4)
        .union(ExtendedEcx::TBM)
        .union(ExtendedEcx::TOPOLOGY_EXTENSIONS),
    extended_edx: COMMON
        .extended_edx
        .union(ExtendedEdx::MMX_EXT)
        .union(ExtendedEdx::FFXSR)
        .union(ExtendedEdx::AMD_3DNOW_EXT)
        .union(ExtendedEdx::AMD_3DNOW),
    address_sizes_ebx: COMMON
        .address_sizes_ebx
        .union(AddressSizesEbx::CLZERO)
        .union(AddressSizesEbx::XSAVE_ERROR_POINTERS)
        .union(AddressSizesEbx::EFER_LMSLE_UNSUPPORTED)
        .union(AddressSizesEbx::SSB_NO)
        .union(AddressSizesEbx::BTC_NO),
    performance_eax: PerformanceEax::FP128.union(PerformanceEax::MOVU).union(PerformanceEax::FP256),
    extended2_eax: Extended2Eax::NO_NESTED_DATA_BREAKPOINT
        .union(Extended2Eax::LFENCE_SERIALIZING)
        .union(Extended2Eax::NULL_SELECTOR_CLEARS_BASE)
        .union(Extended2Eax::FSRS)
        .union(Extended2Eax::FSRCS)
        .union(Extended2Eax::SRSO_NO),
    ..COMMON
};

/// What every guest sees, whatever the model: these are emulated. MCE, MCA, MTRR and PAT are there because no operating
/// system is tested without them; the hypervisor bit, because an operating system that knows of it works around less.
const ALWAYS: Features = Features {
    leaf1_ecx: Leaf1Ecx::X2APIC.union(Leaf1Ecx::TSC_DEADLINE).union(Leaf1Ecx::HYPERVISOR),
    leaf1_edx: Leaf1Edx::MCE.union(Leaf1Edx::APIC).union(Leaf1Edx::MTRR).union(Leaf1Edx::MCA).union(Leaf1Edx::PAT),
    ..Features::NOTHING
};

/// Features whose instructions use the upper halves of the YMM registers.
const NEEDS_AVX: Features = Features {
    leaf1_ecx: Leaf1Ecx::AVX.union(Leaf1Ecx::FMA).union(Leaf1Ecx::F16C),
    leaf7_ebx: Leaf7Ebx::AVX2.union(NEEDS_AVX512.leaf7_ebx),
    leaf7_ecx: Leaf7Ecx::VAES.union(Leaf7Ecx::VPCLMULQDQ).union(NEEDS_AVX512.leaf7_ecx),
    leaf7_sub1_eax: Leaf7Sub1Eax::AVX_VNNI.union(Leaf7Sub1Eax::AVX_IFMA).union(NEEDS_AVX512.leaf7_sub1_eax),
    extended_ecx: ExtendedEcx::XOP.union(ExtendedEcx::FMA4),
    ..NEEDS_AVX512
};

/// Features whose instructions use the mask registers or the ZMM registers.
const NEEDS_AVX512: Features = Features {
    leaf7_ebx: Leaf7Ebx::AVX512F
        .union(Leaf7Ebx::AVX512DQ)
        .union(Leaf7Ebx::AVX512_IFMA)
        .union(Leaf7Ebx::AVX512PF)
        .union(Leaf7Ebx::AVX512ER)
        .union(Leaf7Ebx::AVX512CD)
        .union(Leaf7Ebx::AVX512BW)
        .union(Leaf7Ebx::AVX512VL),
    leaf7_ecx: Leaf7Ecx::AVX512_VBMI
        .union(Leaf7Ecx::AVX512_VBMI2)
        .union(Leaf7Ecx::AVX512_VNNI)
        .union(Leaf7Ecx::AVX512_BITALG)
        .union(Leaf7Ecx::AVX512_VPOPCNTDQ),
    leaf7_edx: Leaf7Edx::AVX512_4VNNIW
        .union(Leaf7Edx::AVX512_4FMAPS)
        .union(Leaf7Edx::AVX512_VP2INTERSECT)
        .union(Leaf7Edx::AVX512_FP16),
    leaf7_sub1_eax: Leaf7Sub1Eax::AVX512_BF16,
    ..Features::NOTHING
};

impl Features {
    /// What the processor model has. A leaf above the model's highest counts as empty, whatever the instruction returns
    /// for it.
    pub(super) fn of_model(raw: &impl RawCpuid) -> Self {
        let one = read(raw, leaf::FEATURES, 0);
        let seven = read(raw, leaf::EXTENDED_FEATURES, 0);
        // EAX of subleaf 0 is the highest subleaf.
        let seven_one = if seven.eax >= 1 { read(raw, leaf::EXTENDED_FEATURES, 1) } else { Registers::ZERO };
        let extended = read(raw, leaf::EXTENDED, 0);
        Self {
            leaf1_ecx: Leaf1Ecx::from_bits_truncate(one.ecx),
            leaf1_edx: Leaf1Edx::from_bits_truncate(one.edx),
            leaf7_ebx: Leaf7Ebx::from_bits_truncate(seven.ebx),
            leaf7_ecx: Leaf7Ecx::from_bits_truncate(seven.ecx),
            leaf7_edx: Leaf7Edx::from_bits_truncate(seven.edx),
            leaf7_sub1_eax: Leaf7Sub1Eax::from_bits_truncate(seven_one.eax),
            xsave: LeafXsaveEax::from_bits_truncate(read(raw, leaf::XSAVE, 1).eax),
            extended_ecx: ExtendedEcx::from_bits_truncate(extended.ecx),
            extended_edx: ExtendedEdx::from_bits_truncate(extended.edx),
            address_sizes_ebx: AddressSizesEbx::from_bits_truncate(read(raw, leaf::ADDRESS_SIZES, 0).ebx),
            performance_eax: PerformanceEax::from_bits_truncate(read(raw, leaf::PERFORMANCE, 0).eax),
            extended2_eax: Extended2Eax::from_bits_truncate(read(raw, leaf::EXTENDED_2, 0).eax),
        }
    }

    /// What a guest sees on `model`, when it may use the XSAVE components `wanted`; and the components that remain.
    pub(super) fn for_guest(model: &Self, vendor: Vendor, wanted: Xcr0) -> (Self, Xcr0) {
        let mut features = model.both(match vendor {
            Vendor::Amd => &AMD,
            Vendor::Intel => &COMMON,
        });
        let components = features.settle_components(wanted);
        (features.either(&ALWAYS), components)
    }

    /// Makes features and state components agree: neither is offered without the other.
    fn settle_components(&mut self, wanted: Xcr0) -> Xcr0 {
        let base = Xcr0::X87 | Xcr0::SSE;
        if !self.leaf1_ecx.contains(Leaf1Ecx::XSAVE) || !wanted.contains(base) {
            self.leaf1_ecx.remove(Leaf1Ecx::XSAVE);
            self.xsave = LeafXsaveEax::empty();
            *self = self.without(&NEEDS_AVX);
            self.leaf7_ecx.remove(Leaf7Ecx::PKU);
            return Xcr0::empty();
        }
        let mut components = base;
        if wanted.contains(Xcr0::AVX) && self.leaf1_ecx.contains(Leaf1Ecx::AVX) {
            components |= Xcr0::AVX;
        } else {
            *self = self.without(&NEEDS_AVX);
        }
        if wanted.contains(Xcr0::AVX512) && self.leaf7_ebx.contains(Leaf7Ebx::AVX512F) {
            components |= Xcr0::AVX512;
        } else {
            *self = self.without(&NEEDS_AVX512);
        }
        if wanted.contains(Xcr0::PKRU) && self.leaf7_ecx.contains(Leaf7Ecx::PKU) {
            components |= Xcr0::PKRU;
        } else {
            self.leaf7_ecx.remove(Leaf7Ecx::PKU);
        }
        components
    }
}

/// A leaf of the model, empty above the model's highest: hardware may answer such a leaf with another one's contents.
pub(super) fn read(raw: &impl RawCpuid, number: u32, subleaf: u32) -> Registers {
    let range = if number < leaf::EXTENDED_VENDOR { leaf::VENDOR } else { leaf::EXTENDED_VENDOR };
    let last = raw.read(range, 0).eax;
    // Without extended leaves, 8000_0000h itself answers with something else.
    if number > last || last >> 16 != range >> 16 { Registers::ZERO } else { raw.read(number, subleaf) }
}
