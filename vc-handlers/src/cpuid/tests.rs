// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest sees of CPUID, on several models.

use specs::cpuid::{
    AddressSizesEbx, Extended2Eax, ExtendedEcx, ExtendedEdx, Leaf1Ecx, Leaf1Edx, Leaf6Ecx, Leaf7Ebx, Leaf7Ecx,
    Leaf7Edx, Leaf7Sub1Eax, LeafXsaveEax, XSAVE_HEADER_END,
};

use super::*;
use crate::Vendor;
use crate::control::cr4;
use crate::testing::FakeCpu;
use crate::testing::models::{Model, config, everything};

const VENDORS: [Vendor; 2] = [Vendor::Amd, Vendor::Intel];

/// Executes CPUID on vCPU `index`.
fn on(table: &CpuidTable, index: u32, cpu: &FakeCpu, leaf: u32, subleaf: u32) -> Registers {
    let mut cpu = cpu.clone();
    // The upper halves do not count.
    cpu.set_gpr(Gpr::Rax, 0xdead_beef << 32 | u64::from(leaf));
    cpu.set_gpr(Gpr::Rcx, 0xdead_beef << 32 | u64::from(subleaf));
    let vcpu = VcpuContext::new(table, index);
    assert_eq!(handle(7, &vcpu, &mut cpu), Outcome::Complete(7));
    let low = |register| u32::try_from(cpu.gpr(register)).expect("CPUID clears the upper halves");
    Registers::new(low(Gpr::Rax), low(Gpr::Rbx), low(Gpr::Rcx), low(Gpr::Rdx))
}

/// Executes CPUID on the first vCPU.
fn ask(table: &CpuidTable, leaf: u32, subleaf: u32) -> Registers {
    on(table, 0, &FakeCpu::long_mode(), leaf, subleaf)
}

fn enabled(xcr0: u64) -> FakeCpu {
    FakeCpu { xcr0, ..FakeCpu::long_mode() }
}

#[test]
fn features_that_parados_cannot_serve_never_appear() {
    for vendor in VENDORS {
        let table = everything(vendor);
        let one = ask(&table, 1, 0);
        let hidden = Leaf1Ecx::DTES64
            | Leaf1Ecx::MONITOR
            | Leaf1Ecx::DS_CPL
            | Leaf1Ecx::VMX
            | Leaf1Ecx::SMX
            | Leaf1Ecx::EIST
            | Leaf1Ecx::TM2
            | Leaf1Ecx::CNXT_ID
            | Leaf1Ecx::SDBG
            | Leaf1Ecx::XTPR
            | Leaf1Ecx::PDCM
            | Leaf1Ecx::DCA;
        assert_eq!(one.ecx & hidden.bits(), 0, "{vendor:?}");
        assert_eq!(one.ecx & !Leaf1Ecx::all().bits(), 0, "{vendor:?}: a bit without a name");
        let hidden = Leaf1Edx::PSN | Leaf1Edx::DS | Leaf1Edx::ACPI | Leaf1Edx::TM | Leaf1Edx::PBE;
        assert_eq!(one.edx & (hidden.bits() | !Leaf1Edx::all().bits()), 0, "{vendor:?}");
        assert_eq!(ask(&table, 6, 0).ecx & Leaf6Ecx::APERFMPERF.bits(), 0, "{vendor:?}");

        let seven = ask(&table, 7, 0);
        let hidden = Leaf7Ebx::TSC_ADJUST
            | Leaf7Ebx::SGX
            | Leaf7Ebx::HLE
            | Leaf7Ebx::RTM
            | Leaf7Ebx::PQM
            | Leaf7Ebx::MPX
            | Leaf7Ebx::PQE
            | Leaf7Ebx::INTEL_PT;
        assert_eq!(seven.ebx & (hidden.bits() | !Leaf7Ebx::all().bits()), 0, "{vendor:?}");
        let hidden = Leaf7Ecx::WAITPKG
            | Leaf7Ecx::CET_SS
            | Leaf7Ecx::TME
            | Leaf7Ecx::LA57
            | Leaf7Ecx::KEY_LOCKER
            | Leaf7Ecx::BUS_LOCK_DETECT
            | Leaf7Ecx::ENQCMD
            | Leaf7Ecx::SGX_LC
            | Leaf7Ecx::PKS;
        assert_eq!(seven.ecx & (hidden.bits() | !Leaf7Ecx::all().bits()), 0, "{vendor:?}");
        let hidden = Leaf7Edx::UINTR
            | Leaf7Edx::PCONFIG
            | Leaf7Edx::HYBRID
            | Leaf7Edx::ARCH_LBR
            | Leaf7Edx::CET_IBT
            | Leaf7Edx::AMX_TILE
            | Leaf7Edx::IBRS_IBPB
            | Leaf7Edx::ARCH_CAPABILITIES
            | Leaf7Edx::CORE_CAPABILITIES
            | Leaf7Edx::SSBD;
        assert_eq!(seven.edx & (hidden.bits() | !Leaf7Edx::all().bits()), 0, "{vendor:?}");
        let hidden = Leaf7Sub1Eax::FRED | Leaf7Sub1Eax::LAM;
        assert_eq!(ask(&table, 7, 1).eax & (hidden.bits() | !Leaf7Sub1Eax::all().bits()), 0, "{vendor:?}");

        let extended = ask(&table, 0x8000_0001, 0);
        let hidden = ExtendedEcx::SVM
            | ExtendedEcx::EXT_APIC_SPACE
            | ExtendedEcx::IBS
            | ExtendedEcx::SKINIT
            | ExtendedEcx::WDT
            | ExtendedEcx::LWP
            | ExtendedEcx::TCE
            | ExtendedEcx::NODEID_MSR
            | ExtendedEcx::PERFCTR_CORE
            | ExtendedEcx::PERFCTR_NB
            | ExtendedEcx::DATA_BREAKPOINT
            | ExtendedEcx::PERF_TSC
            | ExtendedEcx::PERFCTR_LLC
            | ExtendedEcx::MONITORX;
        assert_eq!(extended.ecx & (hidden.bits() | !ExtendedEcx::all().bits()), 0, "{vendor:?}");
        let sizes = ask(&table, 0x8000_0008, 0);
        let hidden = AddressSizesEbx::INVLPGB
            | AddressSizesEbx::RDPRU
            | AddressSizesEbx::MCOMMIT
            | AddressSizesEbx::IBPB
            | AddressSizesEbx::IBRS
            | AddressSizesEbx::PPIN
            | AddressSizesEbx::VIRT_SSBD;
        assert_eq!(sizes.ebx & (hidden.bits() | !AddressSizesEbx::all().bits()), 0, "{vendor:?}");
        let hidden = Extended2Eax::AUTOMATIC_IBRS | Extended2Eax::UPPER_ADDRESS_IGNORE | Extended2Eax::PREFETCH_CTL_MSR;
        let second = ask(&table, 0x8000_0021, 0).eax;
        assert_eq!(if vendor == Vendor::Amd { second & hidden.bits() } else { 0 }, 0);
    }
}

#[test]
fn virtualization_encryption_and_counters_have_empty_leaves() {
    for vendor in VENDORS {
        let table = everything(vendor);
        // MONITOR, direct cache access, performance counters, resource control.
        for leaf in [3, 5, 8, 9, 0xa, 0xc] {
            assert_eq!(ask(&table, leaf, 0), Registers::ZERO, "{vendor:?} leaf {leaf:#x}");
        }
        assert_eq!(ask(&table, 7, 2), Registers::ZERO);
    }
    let table = everything(Vendor::Amd);
    for leaf in [0x8000_000a, 0x8000_001b, 0x8000_001c, 0x8000_001f, 0x8000_0020, 0x8000_0022, 0x8000_0026] {
        assert_eq!(ask(&table, leaf, 0), Registers::ZERO, "leaf {leaf:#x}");
    }
    let table = everything(Vendor::Intel);
    // SGX, processor trace.
    for leaf in [0xf, 0x10, 0x12, 0x14] {
        assert_eq!(ask(&table, leaf, 0), Registers::ZERO, "leaf {leaf:#x}");
    }
}

#[test]
fn what_is_emulated_is_offered_on_the_poorest_model() {
    let table = Model::opteron().table(&config());
    let one = ask(&table, 1, 0);
    let wanted = Leaf1Ecx::X2APIC | Leaf1Ecx::TSC_DEADLINE | Leaf1Ecx::HYPERVISOR;
    assert_eq!(one.ecx & wanted.bits(), wanted.bits());
    let wanted = Leaf1Edx::MCE | Leaf1Edx::MCA | Leaf1Edx::MTRR | Leaf1Edx::PAT | Leaf1Edx::APIC;
    assert_eq!(one.edx & wanted.bits(), wanted.bits());
    assert_eq!(ask(&table, 6, 0), Registers::new(4, 0, 0, 0), "the APIC timer never stops");
    assert_eq!(ask(&table, 7, 0), Registers::new(1, 0, 0, 0));
}

#[test]
fn a_model_without_a_feature_keeps_it_from_the_guest() {
    let rich = everything(Vendor::Amd);
    let poor = Model::epyc().table(&config());
    let has = |table: &CpuidTable, leaf, pick: fn(Registers) -> u32, bit: u32| pick(ask(table, leaf, 0)) & bit != 0;
    for (leaf, pick, bit) in [
        (1, (|r| r.ecx) as fn(Registers) -> u32, Leaf1Ecx::PCID.bits()),
        (7, |r| r.ebx, Leaf7Ebx::INVPCID.bits()),
        (7, |r| r.ecx, Leaf7Ecx::RDPID.bits()),
        (0x8000_0001, |r| r.ecx, ExtendedEcx::XOP.bits()),
        (0x8000_0008, |r| r.ebx, AddressSizesEbx::CLZERO.bits()),
    ] {
        assert!(has(&rich, leaf, pick, bit), "leaf {leaf:#x} bit {bit:#x} is allowed");
        assert!(!has(&poor, leaf, pick, bit), "leaf {leaf:#x} bit {bit:#x} is not in the model");
    }
    assert!(has(&poor, 0x8000_0001, |r| r.edx, ExtendedEdx::RDTSCP.bits()));
    assert!(has(&poor, 7, |r| r.ebx, Leaf7Ebx::SMAP.bits()));
}

#[test]
fn what_a_model_returns_above_its_last_leaf_is_not_believed() {
    let mut model = Model::opteron();
    model.others = Registers::new(!0, !0, !0, !0);
    let table = model.table(&config());
    assert_eq!(ask(&table, 7, 0), Registers::new(1, 0, 0, 0));
    assert_eq!(ask(&table, 0xd, 0), Registers::ZERO);
    assert_eq!(ask(&table, 0x8000_0021, 0), Registers::ZERO);
    assert_eq!(ask(&table, 0x8000_001d, 0), Registers::ZERO);
}

#[test]
fn vendor_family_and_name_are_the_models() {
    for (model, name, last, last_extended) in
        [(Model::epyc(), *b"AuthenticAMD", 0xd, 0x8000_0021), (Model::skylake(), *b"GenuineIntel", 0x16, 0x8000_0008)]
    {
        let table = model.table(&config());
        let zero = ask(&table, 0, 0);
        let words = [zero.ebx, zero.edx, zero.ecx];
        assert_eq!(words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>(), name);
        assert_eq!((zero.eax, ask(&table, 0x8000_0000, 0).eax), (last, last_extended));
        assert_eq!(ask(&table, 1, 0).eax, model.read(1, 0).eax);
        assert_eq!(ask(&table, 0x8000_0002, 0), model.read(0x8000_0002, 0));
    }
    let table = Model::epyc().table(&config());
    let (one, extended) = (ask(&table, 1, 0), ask(&table, 0x8000_0001, 0));
    assert_eq!(extended.eax, one.eax);
    assert_eq!(extended.edx & 0x0183_f3ff, one.edx & 0x0183_f3ff, "AMD repeats leaf 1");
    let table = Model::skylake().table(&config());
    assert_eq!(ask(&table, 0x8000_0001, 0).edx, 0x2c10_0800, "Intel does not");
}

#[test]
fn leaves_out_of_range_answer_as_the_vendors_do() {
    let amd = Model::epyc().table(&config());
    let intel = Model::skylake().table(&config());
    let last = ask(&intel, 0x16, 0);
    assert_ne!(last, Registers::ZERO);
    for leaf in [0x17, 0x1f, 0x20, 0x1000, 0x3fff_ffff, 0x7fff_ffff, 0x8000_0009, 0x8000_0022, 0x8000_ffff, 0xffff_ffff]
    {
        assert_eq!(ask(&amd, leaf, 0), Registers::ZERO, "leaf {leaf:#x}");
        assert_eq!(ask(&intel, leaf, 0), last, "leaf {leaf:#x}");
    }
    for leaf in [0xe, 0xf, 0x15, 0x16] {
        assert_eq!(ask(&amd, leaf, 0), Registers::ZERO, "leaf {leaf:#x}");
    }
    for leaf in [0x4000_0001, 0x4000_0011, 0x4000_0100, 0x4fff_ffff] {
        assert_eq!(ask(&intel, leaf, 0), Registers::ZERO, "leaf {leaf:#x}");
    }
}

#[test]
fn the_hypervisor_is_ours_and_tells_its_frequencies() {
    for vendor in VENDORS {
        let table = everything(vendor);
        let leaf = ask(&table, 0x4000_0000, 0);
        let words = [leaf.ebx, leaf.ecx, leaf.edx];
        assert_eq!(words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>(), b"ParadosParad");
        assert_eq!(leaf.eax, 0x4000_0010);
        assert_eq!(ask(&table, 0x4000_0010, 0), Registers::new(2_000_000, 1_000_000, 0, 0));
    }
}

#[test]
fn intel_guests_compute_the_frequency_without_overflow() {
    for tsc_hz in [999_999_999, 1_000_000_000, 2_299_998_123, 2_700_000_000, 3_141_592_653, 5_999_999_999] {
        for apic_timer_hz in [1_000_000, 25_000_000, 62_500_000, 200_000_000, 999_999_937, 1_000_000_000] {
            let table = Model::skylake().table(&PolicyConfig { tsc_hz, apic_timer_hz, ..config() });
            let leaf = ask(&table, 0x15, 0);
            assert_eq!(leaf.ecx, apic_timer_hz);
            // As Linux does it, in 32 bits.
            let crystal_khz = leaf.ecx / 1000;
            let khz = crystal_khz.checked_mul(leaf.ebx).expect("the product must fit") / leaf.eax;
            let exact = u32::try_from(tsc_hz / 1000).unwrap();
            // Rounding of the crystal to kHz, of the fraction, and of the division.
            let tolerance = 3 + exact / 1_000_000 + (tsc_hz / u64::from(apic_timer_hz)) as u32;
            assert!(khz.abs_diff(exact) <= tolerance, "{tsc_hz} from {apic_timer_hz}: {khz} kHz, {leaf:?}");
        }
    }
    let table = Model::skylake().table(&PolicyConfig { tsc_hz: 2_299_998_123, ..config() });
    assert_eq!(ask(&table, 0x16, 0), Registers::new(2300, 2300, 100, 0));
}

#[test]
fn address_sizes_are_the_same_everywhere() {
    for model in [Model::epyc(), Model::skylake(), Model::opteron(), Model::all_ones(Vendor::Amd)] {
        assert_eq!(ask(&model.table(&config()), 0x8000_0008, 0).eax, 0x3028);
    }
}

#[test]
fn the_tsc_is_invariant_only_if_so_configured() {
    for vendor in VENDORS {
        let model = Model::all_ones(vendor);
        assert_eq!(ask(&model.table(&config()), 0x8000_0007, 0), Registers::new(0, 0, 0, 0x100));
        let varying = PolicyConfig { invariant_tsc: false, ..config() };
        assert_eq!(ask(&model.table(&varying), 0x8000_0007, 0), Registers::ZERO);
    }
}

#[test]
fn topology_leaves_agree_for_every_size_and_vcpu() {
    for vendor in VENDORS {
        for processors in 1..=255 {
            let table = Model::all_ones(vendor).table(&PolicyConfig { processors, ..config() });
            let width = u32::BITS - (processors - 1).leading_zeros();
            for index in [0, processors / 2, processors - 1] {
                let cpu = FakeCpu::long_mode();
                let one = on(&table, index, &cpu, 1, 0);
                assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff), (index, processors));
                assert_eq!(one.edx & Leaf1Edx::HTT.bits() != 0, processors > 1);
                assert_eq!(on(&table, index, &cpu, 0xb, 0), Registers::new(0, 1, 0x100, index));
                assert_eq!(on(&table, index, &cpu, 0xb, 1), Registers::new(width, processors, 0x201, index));
                assert_eq!(on(&table, index, &cpu, 0xb, 2), Registers::new(0, 0, 2, index));
                assert_eq!(on(&table, index, &cpu, 0xb, 0x105), Registers::new(0, 0, 5, index));
                assert!(index >> width == 0, "APIC ids fit into the width");
                if vendor == Vendor::Amd {
                    let sizes = on(&table, index, &cpu, 0x8000_0008, 0);
                    assert_eq!(sizes.ecx, width << 12 | (processors - 1));
                    assert_eq!(on(&table, index, &cpu, 0x8000_001e, 0), Registers::new(index, index, 0, 0));
                }
            }
        }
    }
}

#[test]
fn caches_keep_their_sizes_and_only_the_last_is_shared() {
    let config = PolicyConfig { processors: 6, ..config() };
    for (model, leaf, sharing) in [(Model::skylake(), 4, 7), (Model::epyc(), 0x8000_001d, 5)] {
        let table = model.table(&config);
        for subleaf in 0..4 {
            let (told, seen) = (model.read(leaf, subleaf), ask(&table, leaf, subleaf));
            assert_eq!((seen.ebx, seen.ecx), (told.ebx, told.ecx));
            assert_eq!(seen.eax & 0x3ff, told.eax & 0x3ff);
            assert_eq!(seen.eax >> 14 & 0xfff, if subleaf == 3 { sharing } else { 0 });
            assert_eq!(seen.eax >> 26, if leaf == 4 { 7 } else { 0 });
        }
        for subleaf in [4, 5, 100, u32::MAX] {
            assert_eq!(ask(&table, leaf, subleaf), Registers::ZERO);
        }
    }
    let table = Model::skylake().table(&PolicyConfig { processors: 255, ..config });
    assert_eq!(ask(&table, 4, 3).eax >> 26, 63, "six bits hold no more");
}

#[test]
fn copies_of_control_registers_follow_them() {
    let table = everything(Vendor::Amd);
    let mut cpu = FakeCpu::long_mode();
    assert_eq!(on(&table, 0, &cpu, 1, 0).ecx & Leaf1Ecx::OSXSAVE.bits(), 0);
    assert_eq!(on(&table, 0, &cpu, 7, 0).ecx & Leaf7Ecx::OSPKE.bits(), 0);
    cpu.state.cr4 |= cr4::OSXSAVE | cr4::PKE;
    assert_ne!(on(&table, 0, &cpu, 1, 0).ecx & Leaf1Ecx::OSXSAVE.bits(), 0);
    assert_ne!(on(&table, 0, &cpu, 7, 0).ecx & Leaf7Ecx::OSPKE.bits(), 0);
    let mut vcpu = VcpuContext::new(&table, 0);
    vcpu.apic_enabled = false;
    cpu.set_gpr(Gpr::Rax, 1);
    handle(0, &vcpu, &mut cpu);
    assert_eq!(cpu.gpr(Gpr::Rdx) as u32 & Leaf1Edx::APIC.bits(), 0);
}

/// Leaf 0Dh agrees with itself and with the features that need it, for every choice of components on every model.
#[test]
fn xsave_is_consistent() {
    let models = [
        Model::epyc(),
        Model::skylake(),
        Model::opteron(),
        Model::all_ones(Vendor::Amd),
        Model::all_ones(Vendor::Intel),
    ];
    for model in models {
        for bits in 0..0x400 {
            let components = Xcr0::from_bits_truncate(bits);
            let table = model.table(&PolicyConfig { components, ..config() });
            let (one, seven, zero) = (ask(&table, 1, 0), ask(&table, 7, 0), ask(&table, 0xd, 0));
            let offered = Xcr0::from_bits_retain(u64::from(zero.edx) << 32 | u64::from(zero.eax));
            assert_eq!(offered, table.components());
            assert!(components.contains(offered), "nothing that the platform does not switch");
            assert_eq!(one.ecx & Leaf1Ecx::XSAVE.bits() != 0, !offered.is_empty());
            assert!(offered.is_empty() || offered.contains(Xcr0::X87 | Xcr0::SSE));
            assert_eq!(one.ecx & Leaf1Ecx::AVX.bits() != 0, offered.contains(Xcr0::AVX));
            assert_eq!(seven.ebx & Leaf7Ebx::AVX512F.bits() != 0, offered.contains(Xcr0::AVX512));
            assert_eq!(offered.intersects(Xcr0::AVX512), offered.contains(Xcr0::AVX512), "all three or none");
            assert_eq!(seven.ecx & Leaf7Ecx::PKU.bits() != 0, offered.contains(Xcr0::PKRU));
            if !offered.contains(Xcr0::AVX) {
                assert_eq!(one.ecx & (Leaf1Ecx::FMA | Leaf1Ecx::F16C).bits(), 0);
                assert_eq!(seven.ebx & (Leaf7Ebx::AVX2 | Leaf7Ebx::AVX512F).bits(), 0);
                assert_eq!(seven.ecx & (Leaf7Ecx::VAES | Leaf7Ecx::VPCLMULQDQ).bits(), 0);
                let extended = ask(&table, 0x8000_0001, 0).ecx;
                assert_eq!(extended & (ExtendedEcx::XOP | ExtendedEcx::FMA4).bits(), 0);
            }
            if offered.is_empty() {
                assert!((0..64).all(|subleaf| ask(&table, 0xd, subleaf) == Registers::ZERO));
                continue;
            }
            let end = |set: u64| {
                let ends = (2..64).filter(|n| set >> n & 1 != 0).map(|n| {
                    let told = model.read(0xd, n);
                    told.ebx + told.eax
                });
                ends.fold(XSAVE_HEADER_END, u32::max)
            };
            assert_eq!(zero.ecx, end(offered.bits()), "room for everything");
            for live in [1, 3, offered.bits() & 7, offered.bits()] {
                assert_eq!(on(&table, 0, &enabled(live), 0xd, 0).ebx, end(live), "room for XCR0 = {live:#x}");
            }
            for number in 2..64 {
                let (told, seen) = (model.read(0xd, number), ask(&table, 0xd, number));
                let is_offered = offered.bits() >> number & 1 != 0;
                let expected = Registers::new(told.eax, told.ebx, told.ecx & 2, 0);
                assert_eq!(seen, if is_offered { expected } else { Registers::ZERO }, "component {number}");
            }
        }
    }
}

#[test]
fn the_compacted_size_counts_enabled_components_with_their_alignment() {
    let table = everything(Vendor::Intel);
    let one = |xcr0| on(&table, 0, &enabled(xcr0), 0xd, 1);
    assert_eq!(one(3).ebx, 576);
    // In the all-ones model component 2 (200 bytes) is aligned, 5 is not, 6 is, 7 is not, 9 is not.
    assert_eq!(one(7).ebx, 576 + 200);
    assert_eq!(one(0x2e7).ebx, (576_u32 + 200 + 200).next_multiple_of(64) + 200 + 200 + 200);
    let instructions = LeafXsaveEax::XSAVEOPT | LeafXsaveEax::XSAVEC | LeafXsaveEax::XGETBV1;
    assert_eq!(one(3).eax, instructions.bits(), "no XSAVES, no XFD");
    assert_eq!((one(3).ecx, one(3).edx), (0, 0), "no supervisor components");
    let without = Model::epyc().table(&config());
    assert_eq!(on(&without, 0, &enabled(7), 0xd, 1).ebx, 0, "no XSAVEC, no compacted size");
}

#[test]
fn impossible_xsave_areas_are_refused() {
    let whole = |component: Registers| {
        let mut model = Model::epyc();
        model.set(0xd, 2, component);
        CpuidTable::new(&model, &config()).err()
    };
    for (size, offset, flags) in
        [(0, 576, 0), (256, 575, 0), (256, 0, 0), (256, u32::MAX, 0), (u32::MAX, 576, 0), (256, 576, 1)]
    {
        assert_eq!(whole(Registers::new(size, offset, flags, 0)), Some(PolicyError::Xsave), "{size} at {offset}");
    }
    assert_eq!(whole(Registers::new(256, 576, 0, 0)), None);
    let mut model = Model::skylake();
    model.set(0xd, 6, Registers::new(512, 1151, 0, 0));
    assert_eq!(CpuidTable::new(&model, &config()).err(), Some(PolicyError::Xsave), "overlap");
}

#[test]
fn a_machine_that_no_guest_can_run_on_is_refused() {
    let refused = |config: &PolicyConfig| CpuidTable::new(&Model::epyc(), config).err();
    assert_eq!(refused(&PolicyConfig { processors: 0, ..config() }), Some(PolicyError::Processors));
    assert_eq!(refused(&PolicyConfig { processors: 256, ..config() }), Some(PolicyError::Processors));
    assert_eq!(refused(&PolicyConfig { tsc_hz: 0, ..config() }), Some(PolicyError::Frequency));
    assert_eq!(refused(&PolicyConfig { apic_timer_hz: 0, ..config() }), Some(PolicyError::Frequency));
    let mut narrow = Model::epyc();
    narrow.set(0x8000_0008, 0, Registers::new(0x3024, 0, 0, 0));
    assert_eq!(CpuidTable::new(&narrow, &config()).err(), Some(PolicyError::AddressSize));
    let other = |_: u32, _: u32| Registers::new(1, 0x4374_656e, 0x736c_7561, 0x4861_7275);
    assert_eq!(CpuidTable::new(&other, &config()).err(), Some(PolicyError::Vendor));
}

#[test]
fn no_leaf_panics_and_the_table_stays_within_a_page() {
    for vendor in VENDORS {
        let table = everything(vendor);
        for start in [0_u32, 0x3fff_fff0, 0x7fff_fff0, 0xffff_fff0] {
            for leaf in start..=start.saturating_add(0x120) {
                for subleaf in [0, 1, 2, 7, 8, 9, 10, 63, 64, 0x8000_0000, u32::MAX] {
                    ask(&table, leaf, subleaf);
                }
            }
        }
    }
    assert!(size_of::<CpuidTable>() <= 2048, "{}", size_of::<CpuidTable>());
}
