// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes `igvm-tools inspect`: any file, read, examined and shown.
//!
//! Claimed:
//! - a refusal is one line that names the file and an offset in it, and is the file's fault;
//! - what is shown adds up: pages are counted once each and overlap no other of their platform, extents lie in order, nothing ends above the end of memory;
//! - text and JSON come out whatever the file says, the JSON whole;
//! - memory is taken in proportion to the file.

use std::collections::BTreeMap;
use std::path::Path;

use igvm_tools::{Kind, inspect};
use platform::Slip;

use crate::input::Input;
use crate::{Target, loader, memory_use};

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "inspect",
    run: play,
    planted: &[
        ("a large page counts as a small one", |data| Slip::SmallPage.planted(|| play(data))),
        ("a refusal of a page forgets its offset", |data| Slip::NoOffset.planted(|| play(data))),
    ],
    longest: 4096,
    mutations: 100_000,
};

/// Bytes from the heap for each byte of the file, and at least: the dearest is a header of 8 bytes that says nothing, which
/// becomes 60, in vectors that double.
const HEAP_PER_BYTE: usize = 64;
const HEAP_AT_LEAST: usize = 64 << 10;

fn play(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let file = loader::file(kind, input.rest());
    let path = Path::new("input.igvm");
    let limit = HEAP_AT_LEAST + HEAP_PER_BYTE * file.len();
    let result = memory_use::at_most(limit, || inspect(path, &file));
    let shown = match result {
        Ok(inspection) => inspection,
        Err(error) => {
            let text = error.to_string();
            assert_eq!(error.kind(), Kind::Data, "{text}");
            return check_refusal(&text);
        }
    };
    assert_eq!(shown.file_bytes, file.len() as u64);
    check_map(&shown, &file);
    let text = shown.to_string();
    assert!(text.len() < 4096 + 64 * file.len(), "{} bytes of text about a file of {}", text.len(), file.len());
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "a control character is shown");
    let json = shown.to_json().to_string();
    let depth = json.bytes().fold(0i64, |depth, byte| depth + i64::from(byte == b'{') - i64::from(byte == b'}'));
    assert_eq!(depth, 0, "{json}");
}

fn check_refusal(text: &str) {
    assert!(text.starts_with("input.igvm: "), "{text}");
    assert!(!text.contains('\n') && text.len() < 300, "{text}");
    // Two refusals concern the file as a whole.
    let whole = text.contains("expected at least 24") || text.contains("no platform header");
    assert!(whole || text.contains("offset"), "no offset: {text}");
}

fn check_map(shown: &igvm_tools::Inspection, file: &[u8]) {
    let mut counted = 0;
    for extent in &shown.map {
        assert!(extent.start <= extent.end, "{extent:x?}");
        let pages = extent.data_pages + extent.zero_pages;
        counted += pages;
        if pages > 0 {
            let bytes = extent.end - extent.start;
            let in_memory = extent.what == "reset page" || extent.end <= shown.memory_end;
            assert!(bytes >= pages << 12 && in_memory, "{extent:x?}, end {:#x}", shown.memory_end);
        }
    }
    assert!(shown.map.windows(2).all(|pair| pair[0].start <= pair[1].start), "{:x?}", shown.map);
    let pages = &shown.pages;
    // Platforms may have a page each at one address, of which the map shows one.
    let parsed = igvm_tools::file::parse(Path::new("input"), file).expect("a file that was inspected");
    let bytes = |large| if large { 2 << 20 } else { 1u64 << 12 };
    let distinct: BTreeMap<u64, u64> =
        parsed.pages().map(|(_, page)| (page.gpa, bytes(page.flags.is_2mb_page()))).collect();
    assert_eq!(counted, distinct.len() as u64, "pages in the map, {pages:?}");
    let with_pages = shown.map.iter().filter(|extent| extent.data_pages + extent.zero_pages > 0);
    let mapped: u64 = with_pages.map(|extent| extent.end - extent.start).sum();
    assert_eq!(mapped, distinct.values().sum::<u64>(), "bytes in the map, {pages:?}");
    assert_eq!(parsed.pages().count() as u64, pages.data + pages.zero, "{pages:?}");
    for platform in &shown.platforms {
        let own = parsed.pages().filter(|(_, page)| page.compatibility_mask & platform.mask != 0);
        let mut spans: Vec<_> = own.map(|(_, page)| (page.gpa, page.gpa + bytes(page.flags.is_2mb_page()))).collect();
        spans.sort_unstable();
        assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{} has two pages at one place", platform.name);
    }
    for part in &shown.parts {
        assert!(part.parts.is_empty() && part.platforms.len() == 1, "{:?}", part.platforms);
        check_part(part, &parsed);
    }
    assert!(shown.parts.is_empty() || shown.parts.len() == shown.platforms.len());
    let kinds = pages.secrets + pages.cpuid;
    assert!(kinds <= pages.data + pages.zero && pages.large <= pages.data + pages.zero, "{pages:?}");
    assert!(!shown.headers.is_empty() && !shown.platforms.is_empty());
}

/// A platform's part counts the pages that are its own.
fn check_part(part: &igvm_tools::Inspection, parsed: &igvm_tools::file::File<'_>) {
    let mask = part.platforms.first().map_or(0, |platform| platform.mask);
    let own = parsed.pages().filter(|(_, page)| page.compatibility_mask & mask != 0).count() as u64;
    assert_eq!(part.pages.data + part.pages.zero, own, "{:?}", part.platforms);
    let drawn: u64 = part.map.iter().map(|extent| extent.data_pages + extent.zero_pages).sum();
    assert_eq!(drawn, own, "one platform has one page at one place");
}
