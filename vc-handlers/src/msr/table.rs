// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MSRs that a guest has, one row each.
//!
//! A row is here because an architecture manual demands it, or because Linux or Windows touch the MSR by processor model
//! without being ready for a fault. The second kind is what other hypervisors found to be needed; for Windows that is
//! PLATFORM_ID, MISC_ENABLE, FEATURE_CONTROL, BIOS_UPDT_TRIG, BIOS_SIGN_ID, the MTRRs, MCG_CAP and MCG_STATUS. Windows
//! itself has not yet run under Parados. Rows that fault are here so that a probe that expects the fault is not counted
//! as a surprise.

use platform::SwitchedMsr;
use specs::msr::{self, misc_enable, mtrr};

use super::check::{Check, Mtrr};
use super::state::{HWCR_TSC_FREQ_SEL, Slot};
use crate::Vendor;
use crate::cpuid::Facts;

/// Whose processors have the MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Of {
    Both,
    Amd,
    Intel,
    /// Both, if CPUID shows long mode.
    LongMode,
    /// Both, if CPUID shows RDTSCP or RDPID.
    TscAux,
    /// AMD, if CPUID shows OSVW.
    Osvw,
}

/// What RDMSR does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Read {
    Fault,
    Value(u64),
    Stored(Slot),
    Switched(SwitchedMsr),
    /// The guest's time-stamp counter.
    Tsc,
}

/// What WRMSR does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Write {
    Fault,
    /// Nothing, and nothing is missing.
    Ignore,
    /// Nothing, though hardware would do something: counted.
    Unsupported,
    /// Accepts zero only.
    Zero,
    /// Stores the writable bits; `kept` ones keep their value whatever is written; a one in any other bit faults.
    Stored {
        slot: Slot,
        writable: u64,
        kept: u64,
    },
    Mtrr {
        slot: Slot,
        check: Mtrr,
    },
    Switched(SwitchedMsr, Check),
}

/// One MSR, or consecutive ones that behave alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) of: Of,
    pub(super) read: Read,
    pub(super) write: Write,
}

/// The row for `index` on the guest's processor.
pub(super) fn find(index: u32, facts: &Facts) -> Option<&'static Row> {
    let start = ROWS.partition_point(|row| row.last < index);
    // Two neighbours may share an index, one for each vendor.
    ROWS.get(start..)?.iter().take(2).find(|row| row.first <= index && index <= row.last && exists(row.of, facts))
}

fn exists(of: Of, facts: &Facts) -> bool {
    match of {
        Of::Both => true,
        Of::Amd => facts.vendor == Vendor::Amd,
        Of::Intel => facts.vendor == Vendor::Intel,
        Of::LongMode => facts.long_mode,
        Of::TscAux => facts.tsc_aux,
        Of::Osvw => facts.osvw,
    }
}

const fn row(first: u32, of: Of, read: Read, write: Write) -> Row {
    Row { first, last: first, of, read, write }
}

const fn range(first: u32, last: u32, of: Of, read: Read, write: Write) -> Row {
    Row { first, last, of, read, write }
}

const fn switched(index: u32, of: Of, register: SwitchedMsr, check: Check) -> Row {
    row(index, of, Read::Switched(register), Write::Switched(register, check))
}

const fn mtrrs(first: u32, last: u32, slot: Slot, check: Mtrr) -> Row {
    range(first, last, Of::Both, Read::Stored(slot), Write::Mtrr { slot, check })
}

/// No microcode update is newer than this revision, so no operating system tries one.
const NEWEST_MICROCODE: u64 = 0xffff_ffff;
/// FEATURE_CONTROL, locked with everything off; PPIN_CTL, locked out: bit 0 of each.
const LOCKED: u64 = 1;
/// EBC_FREQUENCY_ID, bits 31:24: a core-to-bus ratio that is not zero, for whoever divides by it.
const BUS_RATIO: u64 = 1 << 24;
/// VM_CR: SVM disabled, and the bit that disables it locked (APM vol. 2, 15.30.1), as by firmware.
const SVM_DISABLED: u64 = 1 << 4 | 1 << 3;
/// Errata numbers that OSVW_STATUS answers for; with all bits zero, none needs a workaround. Without an answer Linux goes
/// by model and works around errata 400 and others that hardware below has, or not: not the guest's business.
const OSVW_LENGTH: u64 = 4;
/// DE_CFG bit 1: LFENCE serializes. Linux sets it, reads it back, and then trusts LFENCE.
const LFENCE_SERIALIZING: u64 = 1 << 1;
/// NB_CFG bit 46: extended configuration space through CF8h. Linux sets it on every processor.
const CF8_EXTENDED: u64 = 1 << 46;
/// HWCR bits 3, 6, 8 and 18 (disable TLB cache, disable flush filter, ignore FERR, machine check write enable), which
/// guests set and nothing here depends on.
const HWCR_WRITABLE: u64 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 18;

const MISC_ENABLE_WRITABLE: u64 = misc_enable::FAST_STRINGS
    | misc_enable::THERMAL_CONTROL
    | misc_enable::EIST
    | misc_enable::MONITOR
    | misc_enable::LIMIT_CPUID
    | misc_enable::XTPR_DISABLE
    | misc_enable::XD_DISABLE;
const MISC_ENABLE_KEPT: u64 = misc_enable::PERFMON | misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE;

/// Sorted by index. Eight variable ranges, write-combining and fixed ranges: 508h.
#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    range(msr::P5_MC_ADDR, msr::P5_MC_TYPE, Of::Both, Read::Value(0), Write::Fault),
    row(msr::TSC, Of::Both, Read::Tsc, Write::Unsupported),
    row(msr::PLATFORM_ID, Of::Intel, Read::Value(0), Write::Fault),
    row(msr::EBL_CR_POWERON, Of::Intel, Read::Value(0), Write::Ignore),
    row(msr::EBC_FREQUENCY_ID, Of::Intel, Read::Value(BUS_RATIO), Write::Fault),
    row(msr::SMI_COUNT, Of::Intel, Read::Value(0), Write::Fault),
    row(msr::FEATURE_CONTROL, Of::Intel, Read::Value(LOCKED), Write::Fault),
    row(msr::TSC_ADJUST, Of::Both, Read::Value(0), Write::Zero),
    row(msr::PPIN_CTL, Of::Intel, Read::Value(LOCKED), Write::Fault),
    row(msr::BIOS_UPDT_TRIG, Of::Intel, Read::Fault, Write::Ignore),
    row(msr::BIOS_SIGN_ID, Of::Amd, Read::Value(NEWEST_MICROCODE), Write::Ignore),
    row(msr::BIOS_SIGN_ID, Of::Intel, Read::Value(NEWEST_MICROCODE << 32), Write::Ignore),
    range(msr::PMC0, msr::PMC0 + 1, Of::Intel, Read::Value(0), Write::Ignore),
    row(msr::PLATFORM_INFO, Of::Intel, Read::Value(0), Write::Zero),
    row(msr::UMWAIT_CONTROL, Of::Intel, Read::Value(0), Write::Ignore),
    range(msr::MPERF, msr::APERF, Of::Both, Read::Tsc, Write::Ignore),
    row(msr::MTRR_CAP, Of::Both, Read::Value(8 | mtrr::CAP_FIXED | mtrr::CAP_WRITE_COMBINING), Write::Fault),
    row(msr::MISC_FEATURES_ENABLES, Of::Intel, Read::Value(0), Write::Zero),
    switched(msr::SYSENTER_CS, Of::Both, SwitchedMsr::SysenterCs, Check::Low32),
    switched(msr::SYSENTER_ESP, Of::Both, SwitchedMsr::SysenterEsp, Check::Sysenter),
    switched(msr::SYSENTER_EIP, Of::Both, SwitchedMsr::SysenterEip, Check::Sysenter),
    row(msr::MCG_CAP, Of::Both, Read::Value(0), Write::Fault),
    row(msr::MCG_STATUS, Of::Both, Read::Value(0), Write::Zero),
    range(msr::PERFEVTSEL0, msr::PERFEVTSEL0 + 1, Of::Intel, Read::Value(0), Write::Ignore),
    row(msr::MISC_ENABLE, Of::Both, Read::Stored(Slot::MiscEnable),
        Write::Stored { slot: Slot::MiscEnable, writable: MISC_ENABLE_WRITABLE, kept: MISC_ENABLE_KEPT }),
    switched(msr::DEBUGCTL, Of::Both, SwitchedMsr::DebugCtl, Check::DebugCtl),
    range(msr::LAST_BRANCH_FROM, msr::LAST_BRANCH_FROM + 3, Of::Both, Read::Value(0), Write::Fault),
    row(msr::POWER_CTL, Of::Intel, Read::Value(0), Write::Ignore),
    mtrrs(msr::MTRR_PHYS_BASE0, msr::MTRR_PHYS_BASE0 + 15, Slot::MtrrPhys, Mtrr::Variable),
    mtrrs(msr::MTRR_FIX_64K_00000, msr::MTRR_FIX_64K_00000, Slot::MtrrFixed64K, Mtrr::Fixed),
    mtrrs(msr::MTRR_FIX_16K_80000, msr::MTRR_FIX_16K_A0000, Slot::MtrrFixed16K, Mtrr::Fixed),
    mtrrs(msr::MTRR_FIX_4K_C0000, msr::MTRR_FIX_4K_C0000 + 7, Slot::MtrrFixed4K, Mtrr::Fixed),
    switched(msr::PAT, Of::Both, SwitchedMsr::Pat, Check::Pat),
    mtrrs(msr::MTRR_DEF_TYPE, msr::MTRR_DEF_TYPE, Slot::MtrrDefType, Mtrr::Default),
    // MCG_CAP promises no banks.
    range(msr::MC0_CTL, msr::MC0_CTL + 0x7f, Of::Both, Read::Fault, Write::Fault),
    row(msr::RAPL_POWER_UNIT, Of::Intel, Read::Value(0), Write::Fault),
    row(msr::PKG_ENERGY_STATUS, Of::Intel, Read::Value(0), Write::Fault),
    row(msr::DRAM_ENERGY_STATUS, Of::Intel, Read::Value(0), Write::Fault),
    row(msr::PP0_ENERGY_STATUS, Of::Intel, Read::Value(0), Write::Fault),
    row(msr::PP1_ENERGY_STATUS, Of::Intel, Read::Value(0), Write::Fault),
    row(msr::PLATFORM_ENERGY_STATUS, Of::Intel, Read::Value(0), Write::Fault),

    switched(msr::EFER, Of::Both, SwitchedMsr::Efer, Check::Efer),
    switched(msr::STAR, Of::LongMode, SwitchedMsr::Star, Check::Any),
    switched(msr::LSTAR, Of::LongMode, SwitchedMsr::Lstar, Check::Canonical),
    switched(msr::CSTAR, Of::LongMode, SwitchedMsr::Cstar, Check::Canonical),
    switched(msr::SFMASK, Of::LongMode, SwitchedMsr::Sfmask, Check::Low32),
    switched(msr::FS_BASE, Of::LongMode, SwitchedMsr::FsBase, Check::Canonical),
    switched(msr::GS_BASE, Of::LongMode, SwitchedMsr::GsBase, Check::Canonical),
    switched(msr::KERNEL_GS_BASE, Of::LongMode, SwitchedMsr::KernelGsBase, Check::Canonical),
    switched(msr::TSC_AUX, Of::TscAux, SwitchedMsr::TscAux, Check::TscAux),

    range(msr::K7_EVNTSEL0, msr::K7_EVNTSEL0 + 3, Of::Amd, Read::Value(0), Write::Ignore),
    range(msr::K7_PERFCTR0, msr::K7_PERFCTR0 + 3, Of::Amd, Read::Value(0), Write::Ignore),
    row(msr::SYSCFG, Of::Amd, Read::Value(0), Write::Ignore),
    row(msr::HWCR, Of::Amd, Read::Stored(Slot::Hwcr),
        Write::Stored { slot: Slot::Hwcr, writable: HWCR_WRITABLE, kept: HWCR_TSC_FREQ_SEL }),
    row(msr::TOP_MEM, Of::Amd, Read::Value(0), Write::Ignore),
    row(msr::TOP_MEM2, Of::Amd, Read::Value(0), Write::Ignore),
    row(msr::NB_CFG, Of::Amd, Read::Stored(Slot::NbCfg),
        Write::Stored { slot: Slot::NbCfg, writable: CF8_EXTENDED, kept: 0 }),
    row(msr::PATCH_LOADER, Of::Amd, Read::Fault, Write::Ignore),
    row(msr::INT_PENDING, Of::Amd, Read::Value(0), Write::Ignore),
    row(msr::MMIO_CFG_BASE, Of::Amd, Read::Value(0), Write::Ignore),
    range(msr::SMM_BASE, msr::SMM_MASK, Of::Amd, Read::Value(0), Write::Fault),
    row(msr::VM_CR, Of::Amd, Read::Value(SVM_DISABLED), Write::Ignore),
    row(msr::VM_HSAVE_PA, Of::Amd, Read::Value(0), Write::Fault),
    row(msr::OSVW_ID_LENGTH, Of::Osvw, Read::Value(OSVW_LENGTH), Write::Fault),
    row(msr::OSVW_STATUS, Of::Osvw, Read::Value(0), Write::Fault),
    // Linux takes a readable LS_CFG for a working speculative-store-bypass control.
    range(msr::LS_CFG, msr::IC_CFG, Of::Amd, Read::Fault, Write::Fault),
    range(msr::DC_CFG, msr::CU_CFG, Of::Amd, Read::Value(0), Write::Ignore),
    row(msr::DE_CFG, Of::Amd, Read::Value(LFENCE_SERIALIZING), Write::Ignore),
    row(msr::CU_CFG2, Of::Amd, Read::Value(0), Write::Ignore),
];
