// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about payloads that are judged by digests instead of being measured.

use super::*;
use crate::measure::sha384;
use crate::{page_down, page_up};
use image_abi::Digest;
use std::collections::BTreeSet;

fn hashed(inputs: Inputs) -> Built {
    Inputs { measured: false, ..inputs }.build().unwrap()
}

fn digests(image: &Built) -> Vec<Digest> {
    image.block().digests.into_iter().filter(|digest| digest.range.bytes > 0).collect()
}

/// The pages that a launch does not measure.
fn unmeasured(image: &Built) -> BTreeSet<u64> {
    let file = file::read(&image.bytes).unwrap();
    file.pages().filter(|(_, page)| page.flags.unmeasured()).map(|(_, page)| page.gpa).collect()
}

#[test]
fn a_measured_payload_has_no_digest_and_all_pages_are_measured() {
    for inputs in all_kinds() {
        let image = inputs.build().unwrap();
        assert_eq!((digests(&image), unmeasured(&image)), (vec![], BTreeSet::new()));
        assert!(!image.inspection().to_string().contains("SHA-384"));
    }
}

#[test]
fn the_unmeasured_pages_are_those_that_digests_name() {
    for inputs in all_kinds() {
        let image = hashed(inputs);
        let mut named = BTreeSet::new();
        for Digest { range, sha384: digest } in digests(&image) {
            assert_eq!(digest, sha384(&image.memory(range)));
            let pages: Vec<_> = (page_down(range.start)..page_up(range.end())).step_by(4096).collect();
            // Parados clears what follows in the last page, so nothing of another part may lie there.
            assert!(pages.iter().all(|page| named.insert(*page)), "{range:x?} shares a page");
            let tail = Range { start: range.end(), bytes: page_up(range.end()) - range.end() };
            assert!(image.memory(tail).iter().all(|byte| *byte == 0), "{range:x?}");
            assert!(range.start.is_multiple_of(4096));
        }
        assert_eq!(unmeasured(&image), named);
    }
}

/// Whoever has the files needs no tool but sha384sum.
#[test]
fn the_digests_are_those_of_the_files_own_bytes() {
    let image = hashed(Inputs::linux());
    let [kernel, initrd] = digests(&image).try_into().unwrap();
    let block = image.block();
    assert_eq!(kernel.range, Range { start: 16 << 20, bytes: BzImage::default().kernel.len() as u64 });
    assert_eq!(kernel.sha384, sha384(&BzImage::default().kernel));
    assert_eq!((initrd.range, initrd.sha384), (block.initrd, sha384(&Inputs::linux().initrd.unwrap())));
    let shown = image.inspection().to_string();
    for (digest, what) in [(kernel, "kernel at 0x1000000-0x1003010"), (initrd, "initrd at")] {
        assert!(shown.contains(&format!("SHA-384   {}  {what}", hex::encode(digest.sha384))), "{shown}");
    }
}

#[test]
fn all_bytes_of_the_file_are_judged_and_zeroes_behind_them_are_measured() {
    let image = hashed(Inputs::kernel(fixture::pvh_program(Class::Elf64).bytes()));
    let [only] = digests(&image).try_into().unwrap();
    assert_eq!(only.range, Range { start: 0x10_0000, bytes: 0x1234 });
    assert_eq!(unmeasured(&image), [0x10_0000, 0x10_1000].into());
    assert!(image.pages.contains_key(&0x10_2000), "zeroes have a page of their own");
}

#[test]
fn parts_of_a_program_that_lie_apart_are_judged_apart() {
    let mut program = fixture::pvh_program(Class::Elf64);
    let far = |address: u64, bytes: Vec<u8>| Segment::load(6, address, bytes);
    program.segments.insert(1, far(0x20_0800, vec![7; 0x900]));
    program.segments.insert(2, far(0x20_1180, vec![8; 0x10]));
    // Nothing of the file is here.
    program.segments.insert(3, Segment { memory_bytes: 0x3000, ..far(0x30_0000, vec![]) });
    let image = hashed(Inputs::kernel(program.bytes()));
    let ranges: Vec<_> = digests(&image).into_iter().map(|digest| digest.range).collect();
    let expected = [(0x10_0000, 0x1234), (0x20_0000, 0x1190)].map(|(start, bytes)| Range { start, bytes });
    assert_eq!(ranges, expected);
}

#[test]
fn an_image_alone_has_nothing_to_judge() {
    assert_eq!(digests(&hashed(Inputs::alone())), []);
}
