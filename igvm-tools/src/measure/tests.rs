// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about measurements, against other people's programs.

use super::*;
use crate::file::seal;
use crate::launch_fixture::{self as fixture, Launch, SNP_MASK, TDX_MASK, every_kind, page, page_with, pattern, vmsa};
use igvm::IgvmDirectiveHeader;
use igvm::measurement::{generate_snp_measurement, generate_tdx_measurement};
use igvm_defs::{IgvmPageDataFlags, IgvmPageDataType};

fn measured(launch: &Launch) -> Measurements {
    measure(Path::new("image"), &launch.bytes()).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    let error = measure(Path::new("image"), bytes).unwrap_err();
    assert_eq!(error.exit_status(), 65);
    error.to_string()
}

/// The `igvm` crate's opinion.
fn foreign(launch: &Launch) -> (Digest, Digest) {
    let snp = generate_snp_measurement(&launch.initialization, &launch.directives, SNP_MASK).unwrap();
    (snp, generate_tdx_measurement(&launch.directives, TDX_MASK).unwrap())
}

#[test]
fn digests_are_those_of_sev_snp_measure_and_of_the_modules_rules() {
    // What `tests/vectors/measurements.py` prints.
    let measured = measured(&every_kind());
    for (vmsa, zeroes, expected) in [
        (
            VmsaPlace::File,
            Zeroes::Data,
            "55c54cd37fce8f9fb897e89b7daf20f0b07c7dcd911ee4a98fcd28b975390bd9ab1e21a1eeaa382b76326a5e2a7c944f",
        ),
        (
            VmsaPlace::File,
            Zeroes::Type,
            "3e735186a5f4f395beb73e3c61a872f59beb399579ce1c677a1b771c91e71e8b390c7595806325d7bc3b19804a2f53f9",
        ),
        (
            VmsaPlace::Kvm,
            Zeroes::Data,
            "83d3dd9647b3c930b2804911e7a409161b2b71d9d92b1488966261a838efacce4cb79d5ab3d1ff47b80575a2fead277e",
        ),
        (
            VmsaPlace::Kvm,
            Zeroes::Type,
            "bae71df6dfa70dd68f64eee12a0e595434c69a1bffca9978d1ded5f9fcbf2a1e192bc96984e02c42418e296960b8116e",
        ),
    ] {
        let found = measured.snp().unwrap().digest(vmsa, zeroes).unwrap();
        assert_eq!(hex::encode(found), expected, "{vmsa:?} {zeroes:?}");
    }
    let mrtd = "243b37bc04bf89b81d7cbd8d7c3910a60c0d4c423ff845baba04d6730e9a89acb06bdcca159f739388fbdcbd92e399a0";
    assert_eq!(hex::encode(measured.tdx().unwrap().mrtd), mrtd);
}

#[test]
fn digests_are_those_of_the_igvm_crate() {
    let shared = IgvmPageDataFlags::new().with_shared(true);
    let unmeasured = IgvmPageDataFlags::new().with_unmeasured(true);
    let mut reordered = every_kind();
    reordered.directives.reverse();
    // Parameter areas have to be declared first.
    reordered.directives.sort_by_key(|directive| match directive {
        IgvmDirectiveHeader::ParameterArea { .. } => 0,
        IgvmDirectiveHeader::MemoryMap(_) => 1,
        _ => 2,
    });
    let mut many = every_kind();
    many.directives = (0..600).map(|n| page(n << 12, IgvmPageDataType::NORMAL, pattern(n as usize))).collect();
    many.directives.push(vmsa(1 << 40, 0, 3));
    let mut odd = every_kind();
    odd.directives = vec![
        page_with(0x1000, IgvmPageDataType::SECRETS, unmeasured, vec![]),
        page_with(0x2000, IgvmPageDataType::NORMAL, shared, vec![]),
        page_with(0x3000, IgvmPageDataType::NORMAL, unmeasured, vec![]),
        page(0xf_ffff_ffff_f000, IgvmPageDataType::NORMAL, pattern(9)),
    ];
    let launches = [every_kind(), fixture::small(), reordered, many, odd];
    let mut seen = std::collections::BTreeSet::new();
    for launch in launches {
        let (measured, (snp, tdx)) = (measured(&launch), foreign(&launch));
        assert_eq!(measured.snp().unwrap().digest(VmsaPlace::File, Zeroes::Data), Some(&snp));
        if let Some(own) = measured.tdx() {
            assert_eq!(own.mrtd, tdx);
        }
        assert!(seen.insert(snp), "two launches with one digest");
    }
}

#[test]
fn single_steps_are_those_of_the_firmware() {
    // Computed with sev-snp-measure 0.0.13: GCTX().update_…(address), one step each.
    let cases = [
        (
            page(0, IgvmPageDataType::NORMAL, vec![0; 4096]),
            "9d13634b6014bb21cf059b2dc694e7bff01a8a7137041100cd2b695f3d10fb687267b97808b27f8f471d943bc6f53a20",
        ),
        (
            page(0x1000, IgvmPageDataType::SECRETS, vec![]),
            "ede71fa5ddc72c3de70c6ff1149b8ecb6ef08b74b1d3a72c2cece10bd140c06a6181343d33def7db6cc0da1ff9ba4805",
        ),
        (
            page(0x2000, IgvmPageDataType::CPUID_DATA, vec![]),
            "8247f0b6bd9552be4f11744b909bfba21d50069716443fef6ee71d4da846b8b21fdb2d0b23245bd2886b91b95f8b71d8",
        ),
    ];
    for (directive, expected) in cases {
        let launch = Launch { directives: vec![directive], ..every_kind() };
        let snp = measured(&launch).snp().unwrap().clone();
        assert_eq!(hex::encode(snp.digest(VmsaPlace::File, Zeroes::Data).unwrap()), expected);
    }
}

#[test]
fn every_byte_that_is_measured_counts_and_no_other() {
    let launch = every_kind();
    let original = measured(&launch);
    for (number, directive) in launch.directives.iter().enumerate() {
        let IgvmDirectiveHeader::PageData { data, flags, data_type, .. } = directive else { continue };
        for at in [0, 255, 256, 4095] {
            let mut changed = launch.clone();
            let mut content = data.clone();
            let Some(byte) = content.get_mut(at) else { continue };
            *byte ^= 1;
            if let IgvmDirectiveHeader::PageData { data, .. } = &mut changed.directives[number] {
                *data = content;
            }
            let changed = measured(&changed);
            let counts = !flags.shared() && !flags.unmeasured();
            let for_snp = counts && *data_type == IgvmPageDataType::NORMAL;
            assert_eq!(changed.snp() != original.snp(), for_snp, "directive {number}, byte {at}");
            assert_eq!(changed.tdx() != original.tdx(), counts, "directive {number}, byte {at}");
        }
    }
}

#[test]
fn a_large_page_counts_as_its_small_ones() {
    let mut bytes = Launch {
        directives: vec![
            page(2 << 20, IgvmPageDataType::NORMAL, vec![]),
            page(8 << 20, IgvmPageDataType::NORMAL, pattern(1)),
        ],
        ..every_kind()
    }
    .bytes();
    let small = (0..512).map(|n| page((2 << 20) + (n << 12), IgvmPageDataType::NORMAL, vec![]));
    let small = Launch {
        directives: small.chain([page(8 << 20, IgvmPageDataType::NORMAL, pattern(1))]).collect(),
        ..every_kind()
    };
    let file = file::read(&bytes).unwrap();
    let header = file.pages().next().unwrap().0.offset;
    // `flags` of the first page: 2 MiB.
    bytes[header + 8 + 16] |= 1;
    seal(&mut bytes);
    assert_eq!(measure(Path::new("image"), &bytes).unwrap(), measured(&small));
}

#[test]
fn a_file_without_dataless_pages_has_one_digest_for_each_place_of_the_vmsa() {
    let measured = measured(&fixture::small());
    let snp = measured.snp().unwrap();
    assert_eq!(snp.digests.len(), 2);
    // The VMSA comes last and at KVM's address anyway.
    assert_eq!(snp.digests[0].digest, snp.digests[1].digest);
    assert_eq!(snp.digest(VmsaPlace::Kvm, Zeroes::Type), Some(&snp.digests[1].digest));
    assert_eq!(measured.tdx(), None);
    assert!(measured.to_string().contains("smt = true, migration_agent = false, debug = false"));
}

#[test]
fn platforms_that_measure_nothing_say_so() {
    let mut launch = fixture::small();
    launch.platforms = vec![fixture::platform(1, igvm_defs::IgvmPlatformType::VSM_ISOLATION)];
    launch.initialization.clear();
    launch.directives.pop();
    let measured = measured(&launch);
    assert_eq!(measured.platforms[0].value, Value::None);
    assert!(measured.to_string().contains("vsm-isolation, mask 0x1: not measured"));
}

#[test]
fn a_vmsa_past_the_files_end_is_refused() {
    let mut bytes = fixture::small().bytes();
    let file = file::read(&bytes).unwrap();
    let header = file.headers.last().unwrap().offset;
    let offset = (bytes.len() - 1) as u32;
    bytes[header + 8 + 12..][..4].copy_from_slice(&offset.to_le_bytes());
    seal(&mut bytes);
    let message = refusal(&bytes);
    assert!(message.contains("VP context at file_offset") && message.contains("expected 0x1000 bytes"), "{message}");
}

/// A header of 32 bytes can stand for 2 MiB of zeroes, a small file for days of hashing.
#[test]
fn a_small_file_cannot_ask_for_endless_work() {
    let mut launch = fixture::small();
    launch.directives = (1..2_100).map(|n| page(n << 21, IgvmPageDataType::NORMAL, vec![])).collect();
    let mut bytes = launch.bytes();
    let offsets: Vec<_> = file::read(&bytes).unwrap().pages().map(|(header, _)| header.offset).collect();
    offsets.iter().for_each(|offset| bytes[offset + 8 + 16] |= 1);
    seal(&mut bytes);
    assert!(refusal(&bytes).contains("expected at most 1048576"), "{}", refusal(&bytes));
}

#[test]
fn unknown_page_types_are_refused() {
    let mut bytes = fixture::small().bytes();
    let header = file::read(&bytes).unwrap().pages().next().unwrap().0.offset;
    bytes[header + 8 + 20] = 9;
    seal(&mut bytes);
    assert!(refusal(&bytes).contains("data_type 9, expected 0 to 3"), "{}", refusal(&bytes));
}
