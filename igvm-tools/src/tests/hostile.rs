// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about hostile files: whatever is in them, there is an answer and no panic.

use super::*;
use crate::{elf, paravisor, payload};

fn image() -> Vec<u8> {
    Inputs::linux().build().unwrap().bytes
}

fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    file::seal(&mut bytes);
    bytes
}

fn refusal(bytes: &[u8]) -> String {
    let error = inspect(Path::new("x.igvm"), bytes).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_status(), 65);
    error.to_string()
}

/// The offset of the first header of a type.
fn header(bytes: &[u8], kind: u32) -> usize {
    file::read(bytes).unwrap().headers.iter().find(|header| header.kind == kind).unwrap().offset
}

fn patched(offset: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = image();
    bytes[offset..offset + with.len()].copy_from_slice(with);
    resealed(bytes)
}

/// Nobody loads such a page, but who inspects a file wants to know of it.
#[test]
fn a_page_for_no_platform_is_shown_all_the_same() {
    let bytes = image();
    let without_mask = inspect(Path::new("x.igvm"), &patched(header(&bytes, 0x302) + 16, &[0; 4])).unwrap();
    assert_eq!(without_mask.pages, inspect(Path::new("x.igvm"), &bytes).unwrap().pages);
}

#[test]
fn an_untouched_file_survives_resealing() {
    assert!(resealed(image()) == image());
}

#[test]
fn damage_is_named_with_its_offset() {
    let bytes = image();
    let (page, required, area) = (header(&bytes, 0x302), header(&bytes, 0x305), header(&bytes, 0x301));
    let (map, insert, platform) = (header(&bytes, 0x30c), header(&bytes, 0x303), header(&bytes, 1));
    let mut flipped = bytes.clone();
    flipped[40] ^= 0x10;
    let cases = [
        (bytes[..20].to_vec(), "x.igvm: not an IGVM file: has 20 bytes".to_owned()),
        (bytes[..100].to_vec(), "total_file_size at offset 0x10".to_owned()),
        (flipped, "bad checksum: 0x".to_owned()),
        (bytes[..bytes.len() - 1].to_vec(), format!("expected the file's {}", bytes.len() - 1)),
        (patched(0, b"ELF!"), "magic at offset 0x0".to_owned()),
        (patched(4, &[3]), "format_version at offset 0x4 is 3".to_owned()),
        (patched(24, &[1]), "architecture at offset 0x18 is 1 (AArch64), expected 0 (x86-64)".to_owned()),
        (patched(28, &[1]), "page_size at offset 0x1c is 4097, expected 4096".to_owned()),
        (patched(page + 8, &[1]), format!("header at offset {page:#x}: gpa")),
        (patched(page + 20, &[0xff; 4]), format!("header at offset {page:#x}: file_offset 0xffffffff")),
        (patched(page + 20, &[1, 0, 0, 0]), format!("header at offset {page:#x}: file_offset 0x1")),
        (patched(page + 4, &[0xff; 4]), format!("header at offset {page:#x}: length 0xffffffff")),
        (patched(page + 4, &[16]), format!("header at offset {page:#x}: length 0x10, expected 0x18 for page data")),
        (patched(page, &[0xff, 0xff, 0, 0]), "unknown type 0xffff".to_owned()),
        (patched(page, &[1, 0, 0, 0]), format!("header at offset {page:#x}")),
        (patched(required + 8, &[1]), format!("header at offset {required:#x}: ")),
        (patched(area + 8, &[0, 0, 0, 0, 0, 0, 0, 0x80]), "parameter area of 0x8000000000000000 bytes".to_owned()),
        (patched(map + 12, &[0xff, 0xff]), format!("header at offset {map:#x}: parameter at byte 0xffff")),
        (patched(insert + 20, &[7]), "inserts parameter area 7".to_owned()),
        (patched(platform + 8, &[3]), "expected exactly one bit".to_owned()),
    ];
    for (file, expected) in cases {
        let message = refusal(&file);
        assert!(message.contains(&expected), "{message}\nexpected {expected}");
    }
}

#[test]
fn parameters_over_pages_and_platforms_of_one_mask_are_refused() {
    let bytes = image();
    let (insert, page) = (header(&bytes, 0x303), header(&bytes, 0x302));
    let gpa: [u8; 8] = bytes[page + 8..page + 16].try_into().unwrap();
    let message = refusal(&patched(insert + 8, &gpa));
    assert!(message.contains(&format!("headers at offsets {insert:#x} and {page:#x}: two pages")), "{message}");
    let mut both = crate::launch_fixture::every_kind().bytes();
    let second = file::read(&both).unwrap().headers[1].offset;
    both[second + 8] = 1;
    let message = refusal(&resealed(both));
    assert!(message.contains(&format!("header at offset {second:#x}: compatibility_mask 0x1 of another")), "{message}");
}

#[test]
fn two_pages_at_one_place_are_refused() {
    let bytes = image();
    let first = header(&bytes, 0x302);
    let gpa: [u8; 8] = bytes[first + 8..first + 16].try_into().unwrap();
    let message = refusal(&patched(first + 32 + 8, &gpa));
    assert!(message.contains("two pages at 0x1000000, expected one"), "{message}");
}

#[test]
fn optional_headers_of_unknown_type_are_skipped() {
    let bytes = image();
    let last = file::read(&bytes).unwrap().headers.last().unwrap().offset;
    let changed = patched(last, &[0x34, 0x12, 0, 0x80]);
    let inspection = inspect(Path::new("x"), &changed).unwrap();
    assert_eq!(inspection.headers[&0x8000_1234], 1);
    assert!(inspection.starts.is_empty());
}

/// A fixed sequence of numbers, so that a failure can be repeated.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }

    /// A file with a few bytes changed or cut off, mostly within its first bytes.
    fn damage(&mut self, bytes: &[u8], head: usize) -> Vec<u8> {
        let mut damaged = bytes.to_vec();
        for _ in 0..=self.next(3) {
            let at = self.next(head.min(damaged.len()));
            damaged[at] = [0, 1, 0x7f, 0x80, 0xff, self.next(256) as u8][self.next(6)];
        }
        if self.next(8) == 0 {
            damaged.truncate(self.next(damaged.len()).max(1));
        }
        damaged
    }
}

#[test]
fn damaged_images_never_make_inspection_panic() {
    let (bytes, mut numbers) = (image(), Numbers(1));
    let head = file::read(&bytes).unwrap().data_start;
    let mut survived = 0;
    for _ in 0..20_000 {
        let mut damaged = numbers.damage(&bytes, head);
        let length = (damaged.len() as u32).to_le_bytes();
        if damaged.len() >= 32 {
            damaged[16..20].copy_from_slice(&length);
            damaged = resealed(damaged);
        }
        if let Ok(inspection) = inspect(Path::new("x"), &damaged) {
            survived += 1;
            let _ = (inspection.to_string(), inspection.to_json());
        }
    }
    assert!(survived > 0);
}

#[test]
fn damaged_images_never_make_measurement_panic() {
    let (bytes, mut numbers) = (crate::launch_fixture::every_kind().bytes(), Numbers(3));
    let head = file::read(&bytes).unwrap().data_start;
    let mut survived = 0;
    for _ in 0..2_000 {
        let mut damaged = numbers.damage(&bytes, head);
        let length = (damaged.len() as u32).to_le_bytes();
        if damaged.len() >= 32 {
            damaged[16..20].copy_from_slice(&length);
            damaged = resealed(damaged);
        }
        if let Ok(measurements) = crate::measure(Path::new("x"), &damaged) {
            survived += 1;
            let _ = (measurements.to_string(), measurements.to_json());
        }
    }
    assert!(survived > 0);
}

#[test]
fn damaged_programs_never_make_the_builder_panic() {
    let mut numbers = Numbers(2);
    let kernels = [
        BzImage::default().bytes(),
        fixture::pvh_program(Class::Elf64).bytes(),
        fixture::pvh_program(Class::Elf32).bytes(),
        fixture::multiboot_program(Class::Elf32).bytes(),
    ];
    let own = fixture::paravisor().bytes();
    for round in 0..40_000 {
        let damaged = numbers.damage(&kernels[round % kernels.len()], 0x280);
        if let Ok(payload) = payload::parse(&damaged)
            && payload.check_ranges().is_ok()
        {
            let _ = payload.place_initrd(1 << 20);
        }
        let damaged = numbers.damage(&own, 0x100);
        let _ = (elf::parse(&damaged).map(|_| ()), paravisor::parse(&damaged).map(|_| ()));
    }
}
