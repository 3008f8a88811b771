// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about files that other projects' programs made; how, stands beside them in `vectors/foreign`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use igvm_tools::extract::take_apart;
use igvm_tools::measure::{VmsaPlace, Zeroes};
use igvm_tools::sign::{Block, Identity, Loader, Signer};
use igvm_tools::{diff, inspect, measure};
use std::path::{Path, PathBuf};

/// From `igvm-wrap` of virtfw-igvm-tools 0.2.6: a firmware of two pages, for native and SNP.
fn virtfw() -> (PathBuf, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/foreign/virtfw.igvm");
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn a_wrapped_firmware_is_shown_as_its_tool_made_it() {
    let (path, bytes) = virtfw();
    let inspection = inspect(&path, &bytes).unwrap();
    let platforms: Vec<_> = inspection.platforms.iter().map(|platform| platform.name.as_str()).collect();
    assert_eq!(platforms, ["native", "snp"]);
    let pages = inspection.pages;
    assert_eq!((pages.data, pages.zero, pages.secrets, pages.cpuid), (4, 7, 1, 1));
    let extents: Vec<_> = inspection.map.iter().map(|extent| (extent.start, extent.end)).collect();
    assert_eq!(extents, [(0xf_e000, 0x10_0000), (0x80_0000, 0x80_7000), (0xffff_e000, 0x1_0000_0000)]);
}

/// The digests are what `vectors/foreign/digests.py` prints.
#[test]
fn a_wrapped_firmware_measures_as_sev_snp_measure_says() {
    let (path, bytes) = virtfw();
    let measurements = measure(&path, &bytes).unwrap();
    let digests = measurements.snp().unwrap().digests.iter().map(|own| hex::encode(own.digest));
    assert_eq!(
        digests.collect::<Vec<_>>(),
        [
            "752ea7ba70f599af72dc85def3ca701b8307c776916849b6a8a5851a43ace4a755139e90abfd5b20fa8c1f1ab151a174",
            "7216a5a4d7d9d79687d517cccf929b2ddc667385ce4a1fecadd0bf9ed7e709b2dce03bf008c980abb24df389c3fa5997",
            "9330a0f202652d297dc2a42d23f0193bad4151b07dd945df276d28e9e139b51a83602819abbcdd8c00d36ee01a7aa28f",
            "300440b89bb70797b0879007efd5e144e971af888f351dbd0c2618721a7f88ecda2a411968f93e6d7c16e72bb05f132b",
        ]
    );
}

/// The `sev` crate's own pages and VMSAs, and its digest, by `vectors/foreign/sev`: a third program for the whole chain.
#[test]
fn a_firmware_with_two_processors_measures_as_the_sev_crate_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/foreign/sev.igvm");
    let bytes = std::fs::read(&path).unwrap();
    let digest = measure(&path, &bytes).unwrap().snp().unwrap().digest(VmsaPlace::Kvm, Zeroes::Type).copied();
    let expected = "a93de3dda9405400ae559a702d10437ac2a96391c135b6d11b1679987aa518a551caf5415ab0f53602bb139dc2c1a609";
    assert_eq!(hex::encode(digest.unwrap()), expected);
    let start = inspect(&path, &bytes).unwrap().starts.pop().unwrap();
    assert_eq!(
        (start.mode, start.registers[..2].to_vec()),
        ("real mode", vec![("rip", 0xfff0), ("cs base", 0xffff_0000)])
    );
}

#[test]
fn a_wrapped_firmware_can_be_signed_compared_and_taken_to_pieces() {
    let (path, bytes) = virtfw();
    let identity = Identity { loader: Some(Loader::Qemu), ..Identity::default() };
    let block = Block::new(&path, &bytes, &identity).unwrap();
    let signed = block.sign(&path, &bytes, Signer::Ephemeral, None).unwrap();
    // What it was made with can still read it.
    igvm::IgvmFile::new_from_binary(&signed.image, None).unwrap();
    let comparison = diff((&path, &bytes), (&path, &signed.image)).unwrap();
    let changes: Vec<_> = comparison.changes.iter().map(|change| change.what.as_str()).collect();
    assert_eq!(changes, ["ID block added"]);
    assert!(comparison.effects.iter().all(|effect| effect.before == effect.after));
    let pieces = take_apart(&path, &signed.image, Some("snp")).unwrap().to_string();
    let names: Vec<_> = pieces.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names, ["vp-0.bin", "00000000000fe000-pages.bin", "00000000ffffe000-pages.bin", "id-block.bin"]);
}

/// A program that shares nothing with ours, for files of ours with unmeasured pages, parameters and several platforms. Without a
/// Python there is nobody to ask.
#[test]
fn a_script_of_fifty_lines_comes_to_the_same_mrtd() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mrtd.igvm");
    let (_, bytes) = virtfw();
    // The same pages for TDX: type 3 instead of 2 in the SNP platform's header, and a checksum that fits.
    let mut bytes = bytes;
    let platform = bytes.windows(16).position(|window| window[..8] == [1, 0, 0, 0, 16, 0, 0, 0] && window[13] == 2);
    bytes[platform.unwrap() + 13] = 3;
    igvm_tools::file::seal(&mut bytes);
    std::fs::write(&file, &bytes).unwrap();
    let expected = measure(&file, &bytes).unwrap().tdx().unwrap().mrtd;
    let Ok(output) = std::process::Command::new("python3").arg(folder.join("mrtd.py")).arg(&file).output() else {
        return;
    };
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.trim(), hex::encode(expected), "{}", String::from_utf8_lossy(&output.stderr));
}
