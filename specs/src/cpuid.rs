// SPDX-License-Identifier: MIT OR Apache-2.0
//! CPUID leaves and feature bits (APM vol. 3, appendix E; SDM vol. 2A, CPUID).
//!
//! The two vendors share most of the bits. Where only one defines a bit, its comment says so. Bits that no document
//! defines have no name, so that a policy made of names can never let one through.

#![allow(missing_docs, reason = "the architecture's own names")]

use bitflags::bitflags;

/// The four registers that CPUID returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Registers {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl Registers {
    /// What a leaf without contents returns.
    pub const ZERO: Self = Self::new(0, 0, 0, 0);

    /// The registers in the order of the manuals.
    pub const fn new(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Self {
        Self { eax, ebx, ecx, edx }
    }
}

/// Leaf numbers.
pub mod leaf {
    /// Highest basic leaf and vendor.
    pub const VENDOR: u32 = 0x0;
    /// Family, model, stepping; features.
    pub const FEATURES: u32 = 0x1;
    /// Cache descriptors. Intel.
    pub const CACHE_DESCRIPTORS: u32 = 0x2;
    /// Cache parameters by subleaf. Intel.
    pub const CACHE: u32 = 0x4;
    /// MONITOR and MWAIT.
    pub const MONITOR: u32 = 0x5;
    /// Power management.
    pub const POWER: u32 = 0x6;
    /// Structured extended features.
    pub const EXTENDED_FEATURES: u32 = 0x7;
    /// Extended topology: threads and cores by subleaf.
    pub const TOPOLOGY: u32 = 0xb;
    /// Processor extended state.
    pub const XSAVE: u32 = 0xd;
    /// Time-stamp counter and its crystal. Intel.
    pub const TSC: u32 = 0x15;
    /// Processor frequency in MHz. Intel.
    pub const FREQUENCY: u32 = 0x16;

    /// Start of the range that hardware leaves to hypervisors (APM vol. 3, E.3.9: reserved for hypervisor use).
    pub const HYPERVISOR: u32 = 0x4000_0000;
    /// Parados's own: how pages are shared with the host (`docs/page-conversion.md`).
    pub const HYPERVISOR_PAGES: u32 = 0x4000_0002;
    /// TSC and APIC timer frequency in kHz: not in a manual; a convention of VMware that several hypervisors keep and that
    /// FreeBSD, illumos and unikernels read under any hypervisor.
    pub const HYPERVISOR_TIMING: u32 = 0x4000_0010;

    /// Highest extended leaf; vendor (AMD).
    pub const EXTENDED_VENDOR: u32 = 0x8000_0000;
    /// Extended features.
    pub const EXTENDED: u32 = 0x8000_0001;
    /// First of three leaves with the processor's name.
    pub const NAME: u32 = 0x8000_0002;
    /// L1 caches and TLBs. AMD.
    pub const L1_CACHE: u32 = 0x8000_0005;
    /// L2 and L3 caches and TLBs.
    pub const L2_CACHE: u32 = 0x8000_0006;
    /// Advanced power management.
    pub const ADVANCED_POWER: u32 = 0x8000_0007;
    /// Address sizes, core count.
    pub const ADDRESS_SIZES: u32 = 0x8000_0008;
    /// SVM. AMD.
    pub const SVM: u32 = 0x8000_000a;
    /// EDX of [`SVM`]: virtual NMIs.
    pub const SVM_EDX_VNMI: u32 = 1 << 25;
    /// TLBs for 1 GiB pages. AMD.
    pub const TLB_1G: u32 = 0x8000_0019;
    /// Performance hints. AMD.
    pub const PERFORMANCE: u32 = 0x8000_001a;
    /// Cache parameters by subleaf. AMD, with topology extensions.
    pub const CACHE_PROPERTIES: u32 = 0x8000_001d;
    /// APIC id, core and node. AMD, with topology extensions.
    pub const TOPOLOGY_EXTENSIONS: u32 = 0x8000_001e;
    /// Memory encryption. AMD.
    pub const MEMORY_ENCRYPTION: u32 = 0x8000_001f;
    /// Extended features 2. AMD.
    pub const EXTENDED_2: u32 = 0x8000_0021;
}

/// `AuthenticAMD` as leaf 0 spells it in EBX, EDX, ECX.
pub const VENDOR_AMD: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];
/// `GenuineIntel` as leaf 0 spells it in EBX, EDX, ECX.
pub const VENDOR_INTEL: [u32; 3] = [0x756e_6547, 0x4965_6e69, 0x6c65_746e];

bitflags! {
    /// Leaf 1, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf1Ecx: u32 {
        const SSE3 = 1 << 0;
        const PCLMULQDQ = 1 << 1;
        const DTES64 = 1 << 2;
        const MONITOR = 1 << 3;
        const DS_CPL = 1 << 4;
        const VMX = 1 << 5;
        const SMX = 1 << 6;
        const EIST = 1 << 7;
        const TM2 = 1 << 8;
        const SSSE3 = 1 << 9;
        const CNXT_ID = 1 << 10;
        const SDBG = 1 << 11;
        const FMA = 1 << 12;
        const CMPXCHG16B = 1 << 13;
        const XTPR = 1 << 14;
        const PDCM = 1 << 15;
        const PCID = 1 << 17;
        const DCA = 1 << 18;
        const SSE4_1 = 1 << 19;
        const SSE4_2 = 1 << 20;
        const X2APIC = 1 << 21;
        const MOVBE = 1 << 22;
        const POPCNT = 1 << 23;
        const TSC_DEADLINE = 1 << 24;
        const AES = 1 << 25;
        const XSAVE = 1 << 26;
        /// A copy of CR4.OSXSAVE.
        const OSXSAVE = 1 << 27;
        const AVX = 1 << 28;
        const F16C = 1 << 29;
        const RDRAND = 1 << 30;
        /// Zero on hardware; reserved for hypervisors (APM vol. 3, E.3.2).
        const HYPERVISOR = 1 << 31;
    }

    /// Leaf 1, EDX; leaf 8000_0001h, EDX repeats bits 0–9, 12–17, 23 and 24 on AMD.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf1Edx: u32 {
        const FPU = 1 << 0;
        const VME = 1 << 1;
        const DE = 1 << 2;
        const PSE = 1 << 3;
        const TSC = 1 << 4;
        const MSR = 1 << 5;
        const PAE = 1 << 6;
        const MCE = 1 << 7;
        const CMPXCHG8B = 1 << 8;
        /// A copy of the enable bit of IA32_APIC_BASE.
        const APIC = 1 << 9;
        const SYSENTER = 1 << 11;
        const MTRR = 1 << 12;
        const PGE = 1 << 13;
        const MCA = 1 << 14;
        const CMOV = 1 << 15;
        const PAT = 1 << 16;
        const PSE36 = 1 << 17;
        const PSN = 1 << 18;
        const CLFLUSH = 1 << 19;
        const DS = 1 << 21;
        const ACPI = 1 << 22;
        const MMX = 1 << 23;
        const FXSR = 1 << 24;
        const SSE = 1 << 25;
        const SSE2 = 1 << 26;
        const SS = 1 << 27;
        /// More than one logical processor in the package.
        const HTT = 1 << 28;
        const TM = 1 << 29;
        const PBE = 1 << 31;
    }

    /// Leaf 6, EAX: thermal and power management.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf6Eax: u32 {
        /// The APIC timer runs at a constant rate in every power state.
        const ARAT = 1 << 2;
    }

    /// Leaf 6, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf6Ecx: u32 {
        const APERFMPERF = 1 << 0;
    }

    /// Leaf 7, subleaf 0, EBX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf7Ebx: u32 {
        const FSGSBASE = 1 << 0;
        const TSC_ADJUST = 1 << 1;
        const SGX = 1 << 2;
        const BMI1 = 1 << 3;
        const HLE = 1 << 4;
        const AVX2 = 1 << 5;
        const FDP_EXCPTN_ONLY = 1 << 6;
        const SMEP = 1 << 7;
        const BMI2 = 1 << 8;
        const ERMS = 1 << 9;
        const INVPCID = 1 << 10;
        const RTM = 1 << 11;
        const PQM = 1 << 12;
        const ZERO_FCS_FDS = 1 << 13;
        const MPX = 1 << 14;
        const PQE = 1 << 15;
        const AVX512F = 1 << 16;
        const AVX512DQ = 1 << 17;
        const RDSEED = 1 << 18;
        const ADX = 1 << 19;
        const SMAP = 1 << 20;
        const AVX512_IFMA = 1 << 21;
        const CLFLUSHOPT = 1 << 23;
        const CLWB = 1 << 24;
        const INTEL_PT = 1 << 25;
        const AVX512PF = 1 << 26;
        const AVX512ER = 1 << 27;
        const AVX512CD = 1 << 28;
        const SHA = 1 << 29;
        const AVX512BW = 1 << 30;
        const AVX512VL = 1 << 31;
    }

    /// Leaf 7, subleaf 0, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf7Ecx: u32 {
        const PREFETCHWT1 = 1 << 0;
        const AVX512_VBMI = 1 << 1;
        const UMIP = 1 << 2;
        const PKU = 1 << 3;
        /// A copy of CR4.PKE.
        const OSPKE = 1 << 4;
        const WAITPKG = 1 << 5;
        const AVX512_VBMI2 = 1 << 6;
        const CET_SS = 1 << 7;
        const GFNI = 1 << 8;
        const VAES = 1 << 9;
        const VPCLMULQDQ = 1 << 10;
        const AVX512_VNNI = 1 << 11;
        const AVX512_BITALG = 1 << 12;
        const TME = 1 << 13;
        const AVX512_VPOPCNTDQ = 1 << 14;
        const LA57 = 1 << 16;
        const RDPID = 1 << 22;
        const KEY_LOCKER = 1 << 23;
        const BUS_LOCK_DETECT = 1 << 24;
        const CLDEMOTE = 1 << 25;
        const MOVDIRI = 1 << 27;
        const MOVDIR64B = 1 << 28;
        const ENQCMD = 1 << 29;
        const SGX_LC = 1 << 30;
        const PKS = 1 << 31;
    }

    /// Leaf 7, subleaf 0, EDX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf7Edx: u32 {
        const AVX512_4VNNIW = 1 << 2;
        const AVX512_4FMAPS = 1 << 3;
        const FSRM = 1 << 4;
        const UINTR = 1 << 5;
        const AVX512_VP2INTERSECT = 1 << 8;
        const MD_CLEAR = 1 << 10;
        const SERIALIZE = 1 << 14;
        const HYBRID = 1 << 15;
        const PCONFIG = 1 << 18;
        const ARCH_LBR = 1 << 19;
        const CET_IBT = 1 << 20;
        const AMX_BF16 = 1 << 22;
        const AVX512_FP16 = 1 << 23;
        const AMX_TILE = 1 << 24;
        const AMX_INT8 = 1 << 25;
        const IBRS_IBPB = 1 << 26;
        const STIBP = 1 << 27;
        const L1D_FLUSH = 1 << 28;
        const ARCH_CAPABILITIES = 1 << 29;
        const CORE_CAPABILITIES = 1 << 30;
        const SSBD = 1 << 31;
    }

    /// Leaf 7, subleaf 1, EAX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Leaf7Sub1Eax: u32 {
        const AVX_VNNI = 1 << 4;
        const AVX512_BF16 = 1 << 5;
        const CMPCCXADD = 1 << 7;
        /// Fast zero-length REP MOVSB.
        const FZLRM = 1 << 10;
        /// Fast short REP STOSB.
        const FSRS = 1 << 11;
        /// Fast short REP CMPSB and SCASB.
        const FSRCS = 1 << 12;
        const FRED = 1 << 17;
        const AVX_IFMA = 1 << 23;
        const LAM = 1 << 26;
    }

    /// Leaf 0Dh, subleaf 1, EAX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct LeafXsaveEax: u32 {
        const XSAVEOPT = 1 << 0;
        const XSAVEC = 1 << 1;
        /// XGETBV with ECX = 1.
        const XGETBV1 = 1 << 2;
        const XSAVES = 1 << 3;
        const XFD = 1 << 4;
    }

    /// Leaf 8000_0001h, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ExtendedEcx: u32 {
        const LAHF_SAHF = 1 << 0;
        const CMP_LEGACY = 1 << 1;
        const SVM = 1 << 2;
        const EXT_APIC_SPACE = 1 << 3;
        const ALT_MOV_CR8 = 1 << 4;
        /// LZCNT.
        const ABM = 1 << 5;
        const SSE4A = 1 << 6;
        const MISALIGNED_SSE = 1 << 7;
        const PREFETCHW = 1 << 8;
        const OSVW = 1 << 9;
        const IBS = 1 << 10;
        const XOP = 1 << 11;
        const SKINIT = 1 << 12;
        const WDT = 1 << 13;
        const LWP = 1 << 15;
        const FMA4 = 1 << 16;
        const TCE = 1 << 17;
        const NODEID_MSR = 1 << 19;
        const TBM = 1 << 21;
        const TOPOLOGY_EXTENSIONS = 1 << 22;
        const PERFCTR_CORE = 1 << 23;
        const PERFCTR_NB = 1 << 24;
        const DATA_BREAKPOINT = 1 << 26;
        const PERF_TSC = 1 << 27;
        const PERFCTR_LLC = 1 << 28;
        const MONITORX = 1 << 29;
        const ADDR_MASK = 1 << 30;
    }

    /// Leaf 8000_0001h, EDX, those bits that do not repeat [`Leaf1Edx`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct ExtendedEdx: u32 {
        const SYSCALL = 1 << 11;
        const NX = 1 << 20;
        const MMX_EXT = 1 << 22;
        /// Fast FXSAVE and FXRSTOR: EFER.FFXSR.
        const FFXSR = 1 << 25;
        const PAGE_1G = 1 << 26;
        const RDTSCP = 1 << 27;
        const LONG_MODE = 1 << 29;
        const AMD_3DNOW_EXT = 1 << 30;
        const AMD_3DNOW = 1 << 31;
    }

    /// Leaf 8000_0007h, EDX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct AdvancedPowerEdx: u32 {
        const INVARIANT_TSC = 1 << 8;
    }

    /// Leaf 8000_0008h, EBX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct AddressSizesEbx: u32 {
        const CLZERO = 1 << 0;
        const IRPERF = 1 << 1;
        /// XRSTOR and FXRSTOR always restore the error pointers.
        const XSAVE_ERROR_POINTERS = 1 << 2;
        const INVLPGB = 1 << 3;
        const RDPRU = 1 << 4;
        const MCOMMIT = 1 << 8;
        const WBNOINVD = 1 << 9;
        const IBPB = 1 << 12;
        const IBRS = 1 << 14;
        const STIBP = 1 << 15;
        const EFER_LMSLE_UNSUPPORTED = 1 << 20;
        const PPIN = 1 << 23;
        const SSBD = 1 << 24;
        const VIRT_SSBD = 1 << 25;
        const SSB_NO = 1 << 26;
        const PSFD = 1 << 28;
        const BTC_NO = 1 << 29;
    }

    /// Leaf 8000_001Ah, EAX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PerformanceEax: u32 {
        const FP128 = 1 << 0;
        const MOVU = 1 << 1;
        const FP256 = 1 << 2;
    }

    /// Leaf 8000_0021h, EAX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Extended2Eax: u32 {
        const NO_NESTED_DATA_BREAKPOINT = 1 << 0;
        const LFENCE_SERIALIZING = 1 << 2;
        const NULL_SELECTOR_CLEARS_BASE = 1 << 6;
        const UPPER_ADDRESS_IGNORE = 1 << 7;
        const AUTOMATIC_IBRS = 1 << 8;
        const FSRS = 1 << 10;
        const FSRCS = 1 << 11;
        const PREFETCH_CTL_MSR = 1 << 13;
        const SRSO_NO = 1 << 29;
    }

    /// XCR0, and the component list of leaf 0Dh in EDX:EAX (APM vol. 2, 11.5.2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Xcr0: u64 {
        const X87 = 1 << 0;
        const SSE = 1 << 1;
        const AVX = 1 << 2;
        const BNDREGS = 1 << 3;
        const BNDCSR = 1 << 4;
        const OPMASK = 1 << 5;
        const ZMM_HI256 = 1 << 6;
        const HI16_ZMM = 1 << 7;
        const PKRU = 1 << 9;
        const TILE_CFG = 1 << 17;
        const TILE_DATA = 1 << 18;
    }
}

impl Xcr0 {
    /// The three components of AVX-512, which XCR0 enables together or not at all.
    pub const AVX512: Self = Self::OPMASK.union(Self::ZMM_HI256).union(Self::HI16_ZMM);
}

/// Bytes of the legacy region and the header of an XSAVE area (APM vol. 2, 11.5.4).
pub const XSAVE_HEADER_END: u32 = 512 + 64;
/// Leaf 0Dh, subleaf ≥ 2, ECX: the component belongs to XSS, not to XCR0.
pub const XSAVE_SUPERVISOR: u32 = 1 << 0;
/// Leaf 0Dh, subleaf ≥ 2, ECX: the component is aligned to 64 bytes in the compacted format.
pub const XSAVE_ALIGNED: u32 = 1 << 1;

/// Level types of leaf 0Bh, ECX bits 15:8.
pub mod level {
    /// No such level: the list ends.
    pub const INVALID: u32 = 0;
    /// Threads of a core.
    pub const THREAD: u32 = 1;
    /// Cores of a package.
    pub const CORE: u32 = 2;
}
