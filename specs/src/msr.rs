// SPDX-License-Identifier: MIT OR Apache-2.0
//! Model-specific register numbers (APM vol. 2, appendix A; SDM vol. 4).

macro_rules! numbers {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: u32 = $number;)+
    };
}

numbers! {
    /// Machine check address of the Pentium; an alias of MC0_ADDR on AMD.
    P5_MC_ADDR = 0x0;
    /// Machine check type of the Pentium; an alias of MC0_STATUS on AMD.
    P5_MC_TYPE = 0x1;
    /// Time-stamp counter.
    TSC = 0x10;
    /// Platform ID, bits 52:50. Intel.
    PLATFORM_ID = 0x17;
    /// Local APIC base and mode.
    APIC_BASE = 0x1b;
    /// Bus configuration. Intel.
    EBL_CR_POWERON = 0x2a;
    /// Bus frequency of the Pentium 4. Intel.
    EBC_FREQUENCY_ID = 0x2c;
    /// System management interrupts since reset. Intel.
    SMI_COUNT = 0x34;
    /// Enables VMX and SGX; locked by firmware. Intel.
    FEATURE_CONTROL = 0x3a;
    /// Difference between the time-stamp counter and a clock that no write disturbs.
    TSC_ADJUST = 0x3b;
    /// Protected processor inventory number, control. Intel.
    PPIN_CTL = 0x4e;
    /// Starts a microcode update. Intel.
    BIOS_UPDT_TRIG = 0x79;
    /// Microcode revision: Intel in bits 63:32, AMD (PATCH_LEVEL) in bits 31:0.
    BIOS_SIGN_ID = 0x8b;
    /// First of two performance counters. Intel.
    PMC0 = 0xc1;
    /// Platform information: ratios, CPUID faulting. Intel.
    PLATFORM_INFO = 0xce;
    /// Limits of UMWAIT. Intel.
    UMWAIT_CONTROL = 0xe1;
    /// Counts at the processor's highest rate.
    MPERF = 0xe7;
    /// Counts at the processor's actual rate.
    APERF = 0xe8;
    /// What MTRRs there are.
    MTRR_CAP = 0xfe;
    /// Ring 3 MONITOR and CPUID faulting. Intel.
    MISC_FEATURES_ENABLES = 0x140;
    /// SYSENTER: code segment.
    SYSENTER_CS = 0x174;
    /// SYSENTER: stack pointer.
    SYSENTER_ESP = 0x175;
    /// SYSENTER: instruction pointer.
    SYSENTER_EIP = 0x176;
    /// Machine check: banks and abilities.
    MCG_CAP = 0x179;
    /// Machine check: global status.
    MCG_STATUS = 0x17a;
    /// First of two performance event selectors. Intel.
    PERFEVTSEL0 = 0x186;
    /// Miscellaneous processor features. Intel.
    MISC_ENABLE = 0x1a0;
    /// Branch recording and single-step on branches.
    DEBUGCTL = 0x1d9;
    /// First of four: last branch and last interrupt, from and to.
    LAST_BRANCH_FROM = 0x1db;
    /// Power control. Intel.
    POWER_CTL = 0x1fc;
    /// First of the variable-range MTRRs, base and mask in turn.
    MTRR_PHYS_BASE0 = 0x200;
    /// Fixed-range MTRR: 0–7FFFFh.
    MTRR_FIX_64K_00000 = 0x250;
    /// Fixed-range MTRR: 80000h–9FFFFh.
    MTRR_FIX_16K_80000 = 0x258;
    /// Fixed-range MTRR: A0000h–BFFFFh.
    MTRR_FIX_16K_A0000 = 0x259;
    /// First of eight fixed-range MTRRs: C0000h–FFFFFh.
    MTRR_FIX_4K_C0000 = 0x268;
    /// Page attribute table.
    PAT = 0x277;
    /// MTRR enables and default type.
    MTRR_DEF_TYPE = 0x2ff;
    /// First of the machine check banks: control, status, address, miscellaneous.
    MC0_CTL = 0x400;
    /// RAPL: units. Intel.
    RAPL_POWER_UNIT = 0x606;
    /// RAPL: energy of the package. Intel.
    PKG_ENERGY_STATUS = 0x611;
    /// RAPL: energy of the memory. Intel.
    DRAM_ENERGY_STATUS = 0x619;
    /// RAPL: energy of the cores. Intel.
    PP0_ENERGY_STATUS = 0x639;
    /// RAPL: energy of the graphics. Intel.
    PP1_ENERGY_STATUS = 0x641;
    /// RAPL: energy of the platform. Intel.
    PLATFORM_ENERGY_STATUS = 0x64d;
    /// Deadline of the local APIC's timer.
    TSC_DEADLINE = 0x6e0;
    /// First of the local APIC's registers in x2APIC mode.
    X2APIC_FIRST = 0x800;
    /// Last of the numbers that belong to the x2APIC.
    X2APIC_LAST = 0x8ff;

    /// Extended feature enables.
    EFER = 0xc000_0080;
    /// SYSCALL: segments.
    STAR = 0xc000_0081;
    /// SYSCALL: target in 64-bit mode.
    LSTAR = 0xc000_0082;
    /// SYSCALL: target in compatibility mode.
    CSTAR = 0xc000_0083;
    /// SYSCALL: flags to clear.
    SFMASK = 0xc000_0084;
    /// Base of FS.
    FS_BASE = 0xc000_0100;
    /// Base of GS.
    GS_BASE = 0xc000_0101;
    /// The other base of GS, for SWAPGS.
    KERNEL_GS_BASE = 0xc000_0102;
    /// What RDTSCP and RDPID return besides the time.
    TSC_AUX = 0xc000_0103;

    /// First of four performance event selectors. AMD.
    K7_EVNTSEL0 = 0xc001_0000;
    /// First of four performance counters. AMD.
    K7_PERFCTR0 = 0xc001_0004;
    /// System configuration. AMD.
    SYSCFG = 0xc001_0010;
    /// Hardware configuration. AMD.
    HWCR = 0xc001_0015;
    /// End of memory below 4 GiB. AMD.
    TOP_MEM = 0xc001_001a;
    /// End of memory above 4 GiB. AMD.
    TOP_MEM2 = 0xc001_001d;
    /// Northbridge configuration. AMD.
    NB_CFG = 0xc001_001f;
    /// Starts a microcode update. AMD.
    PATCH_LOADER = 0xc001_0020;
    /// Interrupt pending message. AMD.
    INT_PENDING = 0xc001_0055;
    /// Base of the memory-mapped PCI configuration space. AMD.
    MMIO_CFG_BASE = 0xc001_0058;
    /// Base of the SMM code. AMD.
    SMM_BASE = 0xc001_0111;
    /// Base of the SMM memory. AMD.
    SMM_ADDR = 0xc001_0112;
    /// Mask of the SMM memory. AMD.
    SMM_MASK = 0xc001_0113;
    /// SVM disable and lock. AMD.
    VM_CR = 0xc001_0114;
    /// Host save area of SVM. AMD.
    VM_HSAVE_PA = 0xc001_0117;
    /// How many errata OSVW_STATUS tells of. AMD.
    OSVW_ID_LENGTH = 0xc001_0140;
    /// Errata that the operating system has to work around. AMD.
    OSVW_STATUS = 0xc001_0141;
    /// Load-store configuration. AMD.
    LS_CFG = 0xc001_1020;
    /// Instruction cache configuration. AMD.
    IC_CFG = 0xc001_1021;
    /// Data cache configuration. AMD.
    DC_CFG = 0xc001_1022;
    /// Combined unit configuration. AMD.
    CU_CFG = 0xc001_1023;
    /// Decode configuration. AMD.
    DE_CFG = 0xc001_1029;
    /// Combined unit configuration 2. AMD.
    CU_CFG2 = 0xc001_102a;
}

/// IA32_APIC_BASE: the local APIC is enabled.
pub const APIC_BASE_ENABLE: u64 = 1 << 11;

/// EFER bits (APM vol. 2, 3.1.7).
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active; read-only.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const NXE: u64 = 1 << 11;
    /// SVM enable.
    pub const SVME: u64 = 1 << 12;
    /// Long mode segment limits.
    pub const LMSLE: u64 = 1 << 13;
    /// Fast FXSAVE and FXRSTOR.
    pub const FFXSR: u64 = 1 << 14;
    /// Translation cache extension.
    pub const TCE: u64 = 1 << 15;
}

/// IA32_MISC_ENABLE bits (SDM vol. 4, table 2-2).
pub mod misc_enable {
    /// Fast string operations.
    pub const FAST_STRINGS: u64 = 1 << 0;
    /// Automatic thermal control.
    pub const THERMAL_CONTROL: u64 = 1 << 3;
    /// Performance monitoring available; read-only.
    pub const PERFMON: u64 = 1 << 7;
    /// Branch trace storage unavailable; read-only.
    pub const BTS_UNAVAILABLE: u64 = 1 << 11;
    /// Event-based sampling unavailable; read-only.
    pub const PEBS_UNAVAILABLE: u64 = 1 << 12;
    /// Enhanced SpeedStep.
    pub const EIST: u64 = 1 << 16;
    /// MONITOR and MWAIT.
    pub const MONITOR: u64 = 1 << 18;
    /// CPUID ends at leaf 2.
    pub const LIMIT_CPUID: u64 = 1 << 22;
    /// xTPR messages disabled.
    pub const XTPR_DISABLE: u64 = 1 << 23;
    /// The NX page bit is disabled.
    pub const XD_DISABLE: u64 = 1 << 34;
}

/// MTRR fields (APM vol. 2, 7.7; SDM vol. 3A, 12.11).
pub mod mtrr {
    /// MTRR_CAP: fixed ranges exist.
    pub const CAP_FIXED: u64 = 1 << 8;
    /// MTRR_CAP: the write-combining type exists.
    pub const CAP_WRITE_COMBINING: u64 = 1 << 10;
    /// MTRR_DEF_TYPE: fixed ranges enabled.
    pub const FIXED_ENABLE: u64 = 1 << 10;
    /// MTRR_DEF_TYPE: MTRRs enabled.
    pub const ENABLE: u64 = 1 << 11;
    /// A range's mask: the range is valid.
    pub const VALID: u64 = 1 << 11;
    /// Memory type: write-back.
    pub const WRITE_BACK: u64 = 6;
}
