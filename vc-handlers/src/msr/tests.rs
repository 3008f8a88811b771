// SPDX-License-Identifier: MIT OR Apache-2.0
//! The MSR table, row by row, on both vendors.

use platform::SwitchedMsr;
use specs::msr::{efer, misc_enable};

use super::state::{MISC_ENABLE, MTRR_DEF_TYPE};
use super::table::{Of, ROWS};
use super::*;
use crate::Vendor;
use crate::control::cr0;
use crate::cpuid::CpuidTable;
use crate::testing::models::{Model, config, everything};
use crate::testing::{FakeCpu, FakeEnv};

const VENDORS: [Vendor; 2] = [Vendor::Amd, Vendor::Intel];
const FAULT: Outcome = Outcome::Inject(Exception::GENERAL_PROTECTION);

/// One vCPU that executes RDMSR and WRMSR.
struct Guest<'t> {
    vcpu: VcpuContext<'t>,
    cpu: FakeCpu,
    env: FakeEnv,
}

impl<'t> Guest<'t> {
    fn new(table: &'t CpuidTable) -> Self {
        Self { vcpu: VcpuContext::new(table, 0), cpu: FakeCpu::long_mode(), env: FakeEnv::default() }
    }

    fn run(&mut self, direction: Direction) -> Outcome {
        handle(MsrAccess { direction }, 2, &mut self.vcpu, &mut self.cpu, &mut self.env)
    }

    /// `None` if it faulted.
    fn read(&mut self, index: u32) -> Option<u64> {
        // The upper half of RCX does not count, and those of RAX and RDX are cleared.
        self.cpu.set_gpr(Gpr::Rcx, 0xdead_beef << 32 | u64::from(index));
        self.cpu.set_gpr(Gpr::Rax, u64::MAX);
        self.cpu.set_gpr(Gpr::Rdx, u64::MAX);
        match self.run(Direction::Read) {
            Outcome::Complete(2) => Some(self.cpu.pair()),
            other => {
                assert_eq!(other, FAULT, "{index:#x}");
                assert_eq!(self.cpu.gpr(Gpr::Rax), u64::MAX, "a fault leaves the registers alone");
                None
            }
        }
    }

    fn write(&mut self, index: u32, value: u64) -> Option<()> {
        self.cpu.set_pair(index, value);
        match self.run(Direction::Write) {
            Outcome::Complete(2) => Some(()),
            other => {
                assert_eq!(other, FAULT, "{index:#x}");
                None
            }
        }
    }

    /// Writes and reads back.
    fn round(&mut self, index: u32, value: u64) -> Option<u64> {
        self.write(index, value)?;
        self.read(index)
    }
}

#[test]
fn the_table_is_sorted_and_has_each_msr_once_a_vendor() {
    for pair in ROWS.windows(2) {
        let (row, next) = (&pair[0], &pair[1]);
        assert!(row.first <= row.last, "{:#x}", row.first);
        let vendors_share =
            row.of == Of::Amd && next.of == Of::Intel && (row.first, row.last) == (next.first, next.last);
        assert!(row.last < next.first || vendors_share, "{:#x} before {:#x}", row.first, next.first);
        assert!(!is_apic(row.first) && !is_apic(row.last), "{:#x} belongs to the APIC", row.first);
    }
}

/// Every row does on RDMSR and on WRMSR of zero and of all-ones what it says, and nothing else changes.
#[test]
fn every_row_does_what_it_says() {
    for vendor in VENDORS {
        let table = everything(vendor);
        for row in ROWS {
            for index in [row.first, row.last] {
                let mut guest = Guest::new(&table);
                if !table::find(index, table.facts()).is_some_and(|found| std::ptr::eq(found, row)) {
                    let other = if row.of == Of::Intel { Vendor::Intel } else { Vendor::Amd };
                    assert_ne!(other, vendor, "{index:#x} must be found");
                    continue;
                }
                let tsc = guest.env.clock.tsc.get();
                let before = guest.read(index);
                match row.read {
                    Read::Fault => assert_eq!(before, None, "{index:#x}"),
                    Read::Value(value) => assert_eq!(before, Some(value), "{index:#x}"),
                    Read::Tsc => assert_eq!(before, Some(tsc), "{index:#x}"),
                    Read::Stored(_) | Read::Switched(_) => assert!(before.is_some(), "{index:#x}"),
                }
                let (zero, ones) = (guest.write(index, 0), guest.write(index, u64::MAX));
                match row.write {
                    Write::Fault => assert_eq!((zero, ones), (None, None), "{index:#x}"),
                    Write::Ignore | Write::Unsupported => {
                        assert_eq!((zero, ones), (Some(()), Some(())), "{index:#x}")
                    }
                    Write::Zero => assert_eq!((zero, ones), (Some(()), None), "{index:#x}"),
                    Write::Stored { .. } | Write::Mtrr { .. } => {
                        assert_eq!((zero, ones), (Some(()), None), "{index:#x}")
                    }
                    Write::Switched(..) => {}
                }
                if let Read::Value(_) | Read::Tsc = row.read {
                    assert_eq!(guest.read(index), before, "{index:#x} keeps its value");
                }
                let counted = matches!(row.write, Write::Unsupported);
                let expected = if counted { vec![Oddity::IgnoredMsrWrite(index); 2] } else { vec![] };
                assert_eq!(guest.env.oddities, expected, "{index:#x}");
            }
        }
    }
}

#[test]
fn an_msr_of_the_other_vendor_does_not_exist() {
    for vendor in VENDORS {
        let table = everything(vendor);
        for row in
            ROWS.iter().filter(|row| matches!((row.of, vendor), (Of::Amd, Vendor::Intel) | (Of::Intel, Vendor::Amd)))
        {
            if row.first == msr::BIOS_SIGN_ID {
                continue;
            }
            let mut guest = Guest::new(&table);
            assert_eq!(guest.read(row.first), None, "{:#x}", row.first);
            assert_eq!(guest.env.oddities, [Oddity::UnknownMsr(row.first)]);
        }
    }
}

#[test]
fn an_unknown_msr_faults_and_is_counted() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    for index in [0x2, 0x1234, 0x7ff, 0x900, 0x4000_0000, 0xc000_0085, 0xc001_0130, 0xc001_0131, u32::MAX] {
        guest.env.oddities.clear();
        assert_eq!(guest.read(index), None);
        assert_eq!(guest.write(index, 0), None);
        assert_eq!(guest.env.oddities, [Oddity::UnknownMsr(index); 2]);
    }
}

#[test]
fn user_code_gets_a_fault_and_learns_nothing() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    guest.cpu.set_cpl(3);
    assert_eq!(guest.read(msr::TSC), None);
    assert_eq!(guest.write(msr::FS_BASE, 1), None);
    assert_eq!(guest.cpu.switched_msr(SwitchedMsr::FsBase), 0);
    assert!(guest.env.oddities.is_empty());
}

#[test]
fn apic_msrs_go_to_the_apic_alone() {
    let table = everything(Vendor::Intel);
    let mut guest = Guest::new(&table);
    for index in [msr::TSC_DEADLINE, 0x800, 0x808, 0x8ff] {
        assert_eq!(guest.round(index, 5), None, "the APIC refuses");
        guest.env.apic.insert(index, 0);
        assert_eq!(guest.round(index, 0x1_0000_0005), Some(0x1_0000_0005));
    }
    assert!(guest.env.oddities.is_empty());
}

#[test]
fn the_apic_bit_of_cpuid_follows_the_base_msr() {
    let table = everything(Vendor::Intel);
    let mut guest = Guest::new(&table);
    assert_eq!(guest.write(msr::APIC_BASE, 0xfee0_0100), None);
    assert!(guest.vcpu.apic_enabled, "a refused write changes nothing");
    guest.env.apic.insert(msr::APIC_BASE, 0xfee0_0900);
    assert_eq!(guest.round(msr::APIC_BASE, 0xfee0_0100), Some(0xfee0_0100));
    assert!(!guest.vcpu.apic_enabled);
    assert_eq!(guest.write(msr::APIC_BASE, 0xfee0_0900), Some(()));
    assert!(guest.vcpu.apic_enabled);
}

/// The values of kvm-unit-tests' `msr` test: what it writes must read back.
#[test]
fn architectural_msrs_hold_what_is_written() {
    const ADDRESS: u64 = 0x1234_5678_9abc;
    const NON_CANONICAL: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    for vendor in VENDORS {
        let table = everything(vendor);
        let mut guest = Guest::new(&table);
        for (index, value) in [
            (msr::SYSENTER_CS, 0x1234),
            (msr::SYSENTER_ESP, ADDRESS),
            (msr::SYSENTER_EIP, ADDRESS),
            (msr::PAT, 0x0707_0707),
            (msr::FS_BASE, ADDRESS),
            (msr::GS_BASE, ADDRESS),
            (msr::KERNEL_GS_BASE, ADDRESS),
            (msr::LSTAR, ADDRESS),
            (msr::CSTAR, ADDRESS),
            (msr::SFMASK, 0xffff_ffff),
            (msr::STAR, 0xaaaa_bbbb_cccc_dddd),
            (msr::TSC_AUX, 0xffff_ffff),
            (msr::DEBUGCTL, 3),
        ] {
            assert_eq!(guest.round(index, value), Some(value), "{vendor:?} {index:#x}");
        }
        for index in [msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE, msr::LSTAR, msr::CSTAR] {
            assert_eq!(guest.write(index, NON_CANONICAL), None, "{vendor:?} {index:#x}");
            assert_eq!(guest.write(index, 0x8000_0000_0000), None, "{vendor:?} {index:#x}");
            assert_eq!(guest.round(index, 0xffff_8000_0000_0000), Some(0xffff_8000_0000_0000));
        }
        assert_eq!(guest.write(msr::SFMASK, 1 << 32), None);
        assert_eq!(guest.write(msr::SYSENTER_CS, 1 << 32), None);
        assert_eq!(guest.write(msr::DEBUGCTL, 1 << 6), None);
    }
}

#[test]
fn the_vendors_differ_on_sysenter_and_tsc_aux() {
    let (amd, intel) = (everything(Vendor::Amd), everything(Vendor::Intel));
    let (mut amd, mut intel) = (Guest::new(&amd), Guest::new(&intel));
    assert_eq!(intel.write(msr::SYSENTER_EIP, 0x8000_0000_0000), None);
    assert_eq!(amd.round(msr::SYSENTER_EIP, 0x8000_0000_0000), Some(0xffff_8000_0000_0000));
    assert_eq!(intel.write(msr::TSC_AUX, 1 << 32), None);
    assert_eq!(amd.round(msr::TSC_AUX, 0x1_0000_0007), Some(7));
    assert_eq!(amd.write(msr::DEBUGCTL, 0x3f), Some(()));
    assert_eq!(intel.write(msr::DEBUGCTL, 0x4), None);
}

#[test]
fn pat_takes_memory_types_only() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    for kind in 0..=255 {
        let valid = matches!(kind, 0 | 1 | 4..=7);
        for entry in 0..8 {
            assert_eq!(guest.write(msr::PAT, kind << (8 * entry)).is_some(), valid, "type {kind} in entry {entry}");
        }
    }
}

#[test]
fn efer_shows_no_svm_and_keeps_long_mode_while_paging() {
    for vendor in VENDORS {
        let table = everything(vendor);
        let mut guest = Guest::new(&table);
        let running = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        assert_eq!(guest.read(msr::EFER), Some(running));
        assert_eq!(guest.write(msr::EFER, running | efer::SVME), None, "SVM is hidden");
        assert_eq!(guest.write(msr::EFER, running | efer::LMSLE), None);
        assert_eq!(guest.write(msr::EFER, running | efer::TCE), None);
        assert_eq!(guest.write(msr::EFER, running | 1 << 1), None, "reserved");
        assert_eq!(guest.write(msr::EFER, running | 1 << 63), None, "reserved");
        assert_eq!(guest.write(msr::EFER, running & !efer::LME), None, "paging is on");
        assert_eq!(guest.round(msr::EFER, efer::LME), Some(efer::LME | efer::LMA), "LMA is the processor's own");
        let fast = efer::LME | efer::LMA | efer::FFXSR;
        assert_eq!(guest.round(msr::EFER, fast), (vendor == Vendor::Amd).then_some(fast));

        guest.cpu = FakeCpu::protected_mode();
        assert_eq!(guest.round(msr::EFER, efer::LME | efer::LMA | efer::NXE), Some(efer::LME | efer::NXE));
        assert_eq!(guest.round(msr::EFER, 0), Some(0));
        guest.cpu.state.cr0 |= cr0::PG;
        assert_eq!(guest.write(msr::EFER, efer::LME), None, "paging without long mode");
        assert_eq!(guest.round(msr::EFER, efer::NXE), Some(efer::NXE));
    }
}

#[test]
fn msrs_of_hidden_features_do_not_exist() {
    let mut model = Model::opteron();
    let mut extended = model.leaves[&(0x8000_0001, 0)];
    // Neither long mode nor NX.
    extended.edx &= !(1 << 29 | 1 << 20);
    model.set(0x8000_0001, 0, extended);
    let table = model.table(&config());
    let mut guest = Guest::new(&table);
    guest.cpu = FakeCpu::protected_mode();
    for index in [msr::STAR, msr::LSTAR, msr::SFMASK, msr::FS_BASE, msr::KERNEL_GS_BASE, msr::TSC_AUX, msr::OSVW_STATUS]
    {
        assert_eq!(guest.read(index), None, "{index:#x}");
        assert_eq!(guest.write(index, 0), None, "{index:#x}");
    }
    assert_eq!(guest.write(msr::EFER, efer::LME), None);
    assert_eq!(guest.write(msr::EFER, efer::NXE), None);
    assert_eq!(guest.round(msr::EFER, efer::SCE), Some(efer::SCE));
}

#[test]
fn mtrrs_are_as_firmware_leaves_them() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    assert_eq!(guest.read(msr::MTRR_CAP), Some(0x508));
    assert_eq!(guest.read(msr::MTRR_DEF_TYPE), Some(0xc06));
    assert_eq!(MTRR_DEF_TYPE, 0xc06);
    let write_back = Some(0x0606_0606_0606_0606);
    assert_eq!(guest.read(0x250), write_back);
    assert_eq!(guest.read(0x258), write_back);
    assert_eq!(guest.read(0x259), Some(0), "no memory at A0000h");
    assert!((0x268..=0x26f).all(|index| guest.read(index) == write_back));
    assert!((0x200..=0x20f).all(|index| guest.read(index) == Some(0)));
    for hole in [0x210, 0x24f, 0x251, 0x257, 0x25a, 0x267, 0x270] {
        assert_eq!(guest.read(hole), None, "{hole:#x}");
    }
}

#[test]
fn every_mtrr_keeps_its_own_value_and_refuses_reserved_bits() {
    let table = everything(Vendor::Intel);
    let mut guest = Guest::new(&table);
    let all: Vec<u32> =
        (0x200..=0x20f).chain([0x250, 0x258, 0x259]).chain(0x268..=0x26f).chain([msr::MTRR_DEF_TYPE]).collect();
    let value = |index: u32| match index {
        0x2ff => 0x800,
        0x200..=0x20f if index.is_multiple_of(2) => u64::from(index) << 12 | 6,
        0x200..=0x20f => u64::from(index) << 12 | 0x800,
        // Any mix of valid types, different for each.
        _ => [0, 1, 4, 5, 6].map(|kind| kind << (8 * (index % 8)))[(index % 5) as usize],
    };
    for &index in &all {
        assert_eq!(guest.write(index, value(index)), Some(()), "{index:#x}");
    }
    for &index in &all {
        assert_eq!(guest.read(index), Some(value(index)), "{index:#x}");
    }
    for (index, bad) in [
        (0x200, 2),
        (0x200, 7),
        (0x200, 1 << 8),
        (0x200, 1 << 40),
        (0x201, 1),
        (0x201, 1 << 10),
        (0x201, 1 << 40),
        (0x250, 2),
        (0x26f, 7 << 56),
        (0x2ff, 3),
        (0x2ff, 1 << 8),
        (0x2ff, 1 << 12),
    ] {
        assert_eq!(guest.write(index, bad), None, "{bad:#x} to {index:#x}");
        assert_eq!(guest.read(index), Some(value(index)), "{index:#x} keeps its value");
    }
    assert_eq!(guest.round(0x201, 0xff_ffff_f800), Some(0xff_ffff_f800), "40 address bits");
}

#[test]
fn misc_enable_keeps_its_read_only_bits() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    assert_eq!(guest.read(msr::MISC_ENABLE), Some(0x1801));
    let written = 0x4_00c5_0809;
    let kept = misc_enable::PERFMON | misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE;
    assert_eq!(guest.round(msr::MISC_ENABLE, written), Some(written & !kept | MISC_ENABLE & kept));
    assert_eq!(guest.round(msr::MISC_ENABLE, misc_enable::PERFMON), Some(0x1800));
    for reserved in [1, 2, 4, 5, 6, 8, 9, 10, 13, 17, 19, 24, 33, 35, 63] {
        assert_eq!(guest.write(msr::MISC_ENABLE, 1 << reserved), None, "bit {reserved}");
    }
}

#[test]
fn machine_check_promises_no_banks_and_has_none() {
    for vendor in VENDORS {
        let table = everything(vendor);
        let mut guest = Guest::new(&table);
        assert_eq!(guest.read(msr::MCG_CAP), Some(0));
        assert_eq!(guest.round(msr::MCG_STATUS, 0), Some(0));
        for index in 0x400..=0x47f {
            assert_eq!((guest.read(index), guest.write(index, 0)), (None, None));
        }
        assert!(guest.env.oddities.is_empty(), "an expected fault is no surprise");
        assert_eq!(guest.read(0x17b), None, "no MCG_CTL without MCG_CTL_P");
    }
}

/// What the boot of stock Linux reads or sets on an AMD processor without being ready for a fault.
#[test]
fn linux_on_amd_finds_its_model_specific_registers() {
    let table = Model::epyc().table(&config());
    let mut guest = Guest::new(&table);
    assert_eq!(guest.read(msr::BIOS_SIGN_ID), Some(0xffff_ffff), "no update is newer");
    assert_eq!(guest.read(msr::SYSCFG), Some(0), "no fixed-range extensions, no memory encryption");
    let hwcr = guest.read(msr::HWCR).unwrap();
    assert_ne!(hwcr & 1 << 24, 0, "or Linux calls it a firmware bug");
    assert_eq!(guest.round(msr::HWCR, hwcr | 1 << 6), Some(hwcr | 1 << 6));
    assert_eq!(guest.round(msr::HWCR, 0), Some(1 << 24));
    assert_eq!(guest.round(msr::NB_CFG, 1 << 46), Some(1 << 46));
    assert_ne!(guest.round(msr::DE_CFG, 2).unwrap() & 2, 0, "LFENCE serializes");
    assert_eq!(guest.read(msr::VM_CR), Some(0x18), "SVM is disabled and locked");
    assert_eq!(guest.read(msr::INT_PENDING), Some(0), "no C1E");
    assert_eq!((guest.read(msr::MMIO_CFG_BASE), guest.read(msr::TOP_MEM2)), (Some(0), Some(0)));
    assert_eq!(guest.round(msr::K7_EVNTSEL0, 0xabcd), Some(0), "no counter remembers: Linux sees that there is none");
    assert_eq!(guest.round(msr::K7_PERFCTR0 + 3, 0xabcd), Some(0));
    assert_eq!(guest.write(msr::PATCH_LOADER, 0x1234), Some(()));
    assert_eq!(
        (guest.read(msr::SMM_ADDR), guest.read(msr::DC_CFG), guest.read(msr::CU_CFG2)),
        (Some(0), Some(0), Some(0))
    );
    assert_eq!(guest.read(msr::LS_CFG), None, "no speculative-store-bypass control");
    assert!(guest.env.oddities.is_empty());

    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    assert_eq!((guest.read(msr::OSVW_ID_LENGTH), guest.read(msr::OSVW_STATUS)), (Some(4), Some(0)));
}

/// What the boot of stock Linux reads or sets on an Intel processor without being ready for a fault.
#[test]
fn linux_on_intel_finds_its_model_specific_registers() {
    let table = Model::skylake().table(&config());
    let mut guest = Guest::new(&table);
    assert_eq!(guest.round(msr::BIOS_SIGN_ID, 0), Some(0xffff_ffff << 32), "no update is newer");
    assert_eq!(guest.read(msr::FEATURE_CONTROL), Some(1), "locked, VMX off");
    assert_eq!(guest.write(msr::FEATURE_CONTROL, 5), None);
    assert_eq!(guest.round(msr::MISC_FEATURES_ENABLES, 0), Some(0));
    assert_eq!(guest.read(msr::PLATFORM_INFO), Some(0), "no CPUID faulting");
    assert_eq!(guest.read(msr::SMI_COUNT), Some(0));
    for index in [0x606, 0x611, 0x619, 0x639, 0x641, 0x64d] {
        assert_eq!(guest.read(index), Some(0), "RAPL {index:#x}");
    }
    assert!(guest.env.oddities.is_empty());
}

#[test]
fn windows_reads_the_platform_id() {
    let table = everything(Vendor::Intel);
    assert_eq!(Guest::new(&table).read(msr::PLATFORM_ID), Some(0));
}

#[test]
fn windows_starts_a_microcode_update() {
    let table = everything(Vendor::Intel);
    let mut guest = Guest::new(&table);
    assert_eq!(guest.write(msr::BIOS_UPDT_TRIG, 0xffff_8000_1234_5678), Some(()));
    assert_eq!(guest.read(msr::BIOS_UPDT_TRIG), None, "write-only");
    assert!(guest.env.oddities.is_empty());
}

#[test]
fn windows_reads_the_microcode_revision() {
    for (vendor, value) in [(Vendor::Amd, 0xffff_ffff), (Vendor::Intel, 0xffff_ffff_0000_0000)] {
        assert_eq!(Guest::new(&everything(vendor)).read(msr::BIOS_SIGN_ID), Some(value));
    }
}

#[test]
fn windows_reads_mtrr_and_machine_check_abilities() {
    for vendor in VENDORS {
        let table = everything(vendor);
        let mut guest = Guest::new(&table);
        assert_eq!((guest.read(msr::MTRR_CAP), guest.read(msr::MTRR_DEF_TYPE)), (Some(0x508), Some(0xc06)));
        assert_eq!((guest.read(msr::MCG_CAP), guest.read(msr::MCG_STATUS)), (Some(0), Some(0)));
    }
}

#[test]
fn windows_finds_feature_control_locked() {
    let table = everything(Vendor::Intel);
    assert_eq!(Guest::new(&table).read(msr::FEATURE_CONTROL), Some(1));
}

#[test]
fn windows_changes_misc_enable() {
    let table = everything(Vendor::Intel);
    let mut guest = Guest::new(&table);
    let value = guest.read(msr::MISC_ENABLE).unwrap() | misc_enable::XTPR_DISABLE;
    assert_eq!(guest.round(msr::MISC_ENABLE, value), Some(value));
}

#[test]
fn the_bus_ratio_is_not_zero() {
    let table = everything(Vendor::Intel);
    assert_eq!(Guest::new(&table).read(msr::EBC_FREQUENCY_ID), Some(1 << 24));
}

#[test]
fn the_oldest_machine_check_registers_read_zero() {
    for vendor in VENDORS {
        let table = everything(vendor);
        let mut guest = Guest::new(&table);
        assert_eq!((guest.read(msr::P5_MC_ADDR), guest.read(msr::P5_MC_TYPE)), (Some(0), Some(0)));
    }
}

#[test]
fn the_old_performance_counters_take_writes_and_count_nothing() {
    for (vendor, select, counter) in
        [(Vendor::Amd, msr::K7_EVNTSEL0, msr::K7_PERFCTR0), (Vendor::Intel, msr::PERFEVTSEL0, msr::PMC0)]
    {
        let table = everything(vendor);
        let mut guest = Guest::new(&table);
        assert_eq!((guest.round(select, 0x5300c0), guest.round(counter, 1)), (Some(0), Some(0)));
    }
}

#[test]
fn power_control_takes_writes_and_keeps_nothing() {
    let table = everything(Vendor::Intel);
    let mut guest = Guest::new(&table);
    assert_eq!(guest.round(msr::POWER_CTL, 2), Some(0));
    assert!(guest.env.oddities.is_empty());
}

/// A ratio of 1, so that whoever divides one by the other gets a frequency.
#[test]
fn the_two_rate_counters_run_alike() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    let (mperf, aperf) = (guest.read(msr::MPERF), guest.read(msr::APERF));
    assert_eq!(mperf, aperf);
    assert_ne!(mperf, Some(0));
}

#[test]
fn a_write_to_the_tsc_is_counted_and_has_no_effect() {
    let table = everything(Vendor::Amd);
    let mut guest = Guest::new(&table);
    let before = guest.read(msr::TSC);
    assert_eq!(before, Some(guest.env.clock.tsc.get()));
    assert_eq!(guest.round(msr::TSC, 0), before);
    assert_eq!(guest.env.oddities, [Oddity::IgnoredMsrWrite(msr::TSC)]);
    assert_eq!(guest.round(msr::TSC_ADJUST, 0), Some(0));
    assert_eq!(guest.write(msr::TSC_ADJUST, 1), None, "CPUID does not promise it");
}
