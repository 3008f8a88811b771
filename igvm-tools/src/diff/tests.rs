// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about comparisons.

use super::*;
use crate::launch_fixture::{self as fixture, Launch, every_kind, page, pattern, vmsa};
use igvm::{IgvmDirectiveHeader, IgvmInitializationHeader};
use igvm_defs::{IgvmPageDataFlags, IgvmPageDataType};

fn compared(one: &Launch, other: &Launch) -> Comparison {
    diff((Path::new("one"), &one.bytes()), (Path::new("other"), &other.bytes())).unwrap()
}

fn altered(alter: impl FnOnce(&mut Launch)) -> Comparison {
    let mut launch = every_kind();
    alter(&mut launch);
    compared(&every_kind(), &launch)
}

fn data(launch: &mut Launch, directive: usize) -> &mut Vec<u8> {
    match &mut launch.directives[directive] {
        IgvmDirectiveHeader::PageData { data, .. } => data,
        other => panic!("{other}"),
    }
}

fn flags(launch: &mut Launch, directive: usize) -> &mut IgvmPageDataFlags {
    match &mut launch.directives[directive] {
        IgvmDirectiveHeader::PageData { flags, .. } => flags,
        other => panic!("{other}"),
    }
}

fn texts(comparison: &Comparison) -> Vec<&str> {
    comparison.changes.iter().map(|change| change.what.as_str()).collect()
}

/// What is said of each change must be what the digests do.
#[test]
fn a_change_is_called_measured_exactly_if_a_digest_changed() {
    type Alter = Box<dyn FnOnce(&mut Launch)>;
    let mut cases: Vec<(Alter, &str)> = vec![
        (Box::new(|launch| data(launch, 0)[9] ^= 1), "0x100000-0x101000 1 page: content"),
        (Box::new(|launch| data(launch, 1)[9] ^= 1), "0x101000-0x102000 1 page: content"),
        (Box::new(|launch| data(launch, 3)[9] ^= 1), "0x103000-0x104000 1 page: content"),
        (Box::new(|launch| *data(launch, 2) = pattern(1)), "0x102000-0x103000 1 page: content"),
        (Box::new(|launch| *data(launch, 5) = pattern(1)), "0x105000-0x106000 1 page: without data → with data"),
        (Box::new(|launch| *data(launch, 5) = vec![0; 4096]), "0x105000-0x106000 1 page: without data → with data"),
        (Box::new(|launch| flags(launch, 0).set_unmeasured(true)), "0x100000-0x101000 1 page: with data → unmeasured"),
        (Box::new(|launch| flags(launch, 0).set_shared(true)), "0x100000-0x101000 1 page: with data → shared"),
        (Box::new(|launch| flags(launch, 2).set_unmeasured(true)), "0x102000-0x103000 1 page: flags or content"),
        (Box::new(|launch| drop(launch.directives.remove(1))), "0x101000-0x102000 1 page: removed"),
        (Box::new(|launch| drop(launch.directives.remove(11))), "0x10a000-0x10b000 1 page: removed"),
        (Box::new(|launch| launch.directives.swap(0, 1)), "order of pages, from 0x100000 on"),
        (Box::new(|launch| launch.directives.swap(5, 6)), "order of pages, from 0x105000 on"),
        (Box::new(|launch| launch.directives.swap(10, 11)), "the files differ, but not in what is loaded"),
        (Box::new(|launch| launch.directives[6] = vmsa(0x10_b000, 0, 0x3333)), "VP context 0: rip 0x1111 → 0x3333"),
        (Box::new(|launch| launch.directives[6] = vmsa(0x10_f000, 0, 0x1111)), "VP context 0: at 0x10b000 → 0x10f000"),
        (Box::new(|launch| drop(launch.directives.remove(12))), "VP context 1 removed"),
        (
            Box::new(|launch| {
                launch.initialization[0] = IgvmInitializationHeader::GuestPolicy {
                    policy: fixture::SNP_POLICY | 1 << 19,
                    compatibility_mask: 1,
                };
            }),
            "policy: now debug = true",
        ),
        (
            Box::new(|launch| {
                launch.directives.push(IgvmDirectiveHeader::RequiredMemory {
                    gpa: 0x20_0000,
                    compatibility_mask: 3,
                    number_of_bytes: 0x1000,
                    vtl2_protectable: false,
                });
            }),
            "added: required memory 0x200000-0x201000",
        ),
    ];
    cases.push((
        Box::new(|launch| launch.directives.push(page(0x30_0000, IgvmPageDataType::NORMAL, vec![]))),
        "0x300000-0x301000 1 page: added",
    ));
    for (alter, expected) in cases {
        let comparison = altered(alter);
        assert!(comparison.to_string().contains(expected), "{expected}: {comparison}");
        for platform in ["snp", "tdx"] {
            let said = comparison.changes.iter().any(|change| change.measured.iter().any(|own| own == platform));
            let changed = |effect: &Effect| effect.platform == platform && effect.before != effect.after;
            assert_eq!(said, comparison.effects.iter().any(changed), "{expected}, {platform}: {comparison}");
        }
        assert!(comparison.differs());
    }
}

#[test]
fn the_same_pages_elsewhere_in_the_file_are_the_same() {
    let bytes = every_kind().bytes();
    assert!(!diff((Path::new("one"), &bytes), (Path::new("other"), &bytes)).unwrap().differs());
    // Version 2 of the format has a longer header.
    let launch = every_kind();
    let mut moved = Vec::new();
    let revision = igvm::IgvmRevision::V2 { arch: igvm::Arch::X64, page_size: 4096 };
    let (platforms, initialization) = (launch.platforms, launch.initialization);
    let file = igvm::IgvmFile::new(revision, platforms, initialization, launch.directives).unwrap();
    file.serialize(&mut moved).unwrap();
    let comparison = diff((Path::new("one"), &bytes), (Path::new("other"), &moved)).unwrap();
    assert_eq!(texts(&comparison), ["format version 1 → 2"]);
    assert!(comparison.effects.iter().all(|effect| effect.before == effect.after));
    assert!(comparison.to_string().contains("tdx MRTD: same"));
}

#[test]
fn neighbouring_pages_and_platforms_share_a_line() {
    let comparison = altered(|launch| {
        *data(launch, 0) = pattern(50);
        *data(launch, 1) = pattern(51);
        launch.directives.extend((0..8).map(|n| page(0x40_0000 + (n << 12), IgvmPageDataType::NORMAL, pattern(9))));
    });
    // The two differ in what measures them.
    assert_eq!(
        texts(&comparison),
        ["0x100000-0x101000 1 page: content", "0x101000-0x102000 1 page: content", "0x400000-0x408000 8 pages: added"]
    );
    let [content, unmeasured, added] = &comparison.changes[..] else { panic!("{comparison}") };
    assert_eq!((&content.measured, &added.measured), (&content.platforms, &added.platforms));
    assert_eq!(content.platforms, ["snp", "tdx"]);
    assert!(unmeasured.measured.is_empty());
    assert!(comparison.to_string().contains("content  [snp, tdx; not measured]"));
}

#[test]
fn platforms_and_id_blocks_that_come_and_go_are_named() {
    let comparison = compared(&every_kind(), &fixture::small());
    assert!(texts(&comparison).contains(&"no longer for platform tdx"), "{comparison}");
    let gone = comparison.effects.iter().find(|effect| effect.number == "MRTD").unwrap();
    assert!(gone.before.is_some() && gone.after.is_none());
    let comparison = compared(&fixture::small(), &every_kind());
    assert!(texts(&comparison).contains(&"now for platform tdx"), "{comparison}");
    use crate::sign::{Block, Identity, Signer};
    let (path, bytes) = (Path::new("image"), fixture::small().bytes());
    let sign = |svn| {
        let block = Block::new(path, &bytes, &Identity { svn, ..Identity::default() }).unwrap();
        block.sign(path, &bytes, Signer::Ephemeral, None).unwrap().image
    };
    let comparison = diff((path, &bytes), (path, &sign(1))).unwrap();
    assert_eq!(texts(&comparison), ["ID block added"]);
    let comparison = diff((path, &sign(1)), (path, &sign(2))).unwrap();
    assert_eq!(texts(&comparison)[0], "ID block: guest SVN 1 → 2");
    assert!(texts(&comparison)[1].starts_with("ID block: ID key "));
    assert!(comparison.effects.iter().all(|effect| effect.before == effect.after));
}

#[test]
fn our_own_images_are_compared_by_what_pages_are_for() {
    use crate::tests::images;
    let (one, other) = images("console=ttyS0", "console=ttyS0 quiet");
    let comparison = diff((Path::new("one"), &one), (Path::new("other"), &other)).unwrap();
    let texts = texts(&comparison);
    assert!(texts.iter().any(|text| text.contains("command line, 1 page: content")), "{comparison}");
    assert!(texts.iter().any(|text| text.contains("launch block, 1 page: content")), "{comparison}");
    assert!(comparison.changes.iter().all(|change| change.platforms == ["native"] && change.measured.is_empty()));
}

#[test]
fn damaged_images_never_make_a_comparison_panic() {
    let bytes = every_kind().bytes();
    let head = file::read(&bytes).unwrap().data_start;
    let mut compared = 0;
    for at in 24..head {
        for flip in [1, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            file::seal(&mut damaged);
            if let Ok(comparison) = diff((Path::new("one"), &bytes), (Path::new("other"), &damaged)) {
                compared += 1;
                let _ = (comparison.to_string(), comparison.to_json());
            }
        }
    }
    assert!(compared > 0);
}
