// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes what guests are loaded from: bzImages, PVH and Multiboot ELFs, and the host's word on what memory there is.
//!
//! Most inputs are a kernel file. Claimed of one that is accepted:
//! - what it occupies lies where a guest has memory, apart from Parados, from the video area and from the boot structures,
//!   and from itself; it is entered inside what it loads, and what it loads is the file's own bytes;
//! - its RAM disk lies beside all of that, below the limit that it names;
//! - the image that is built of it is loaded by the reference host, byte by byte as the kernel's headers say, and the launch
//!   block in it is accepted by the core;
//! - what of it the launch does not measure is what digests name, and the core refuses it with one byte changed;
//! - a refusal is one line; memory is taken in proportion to the file.
//!
//! The other inputs are a launch block and a memory map, of which it is claimed that the guest gets no memory that the host
//! did not promise, nothing of Parados's and nothing of the video area.

use std::path::{Path, PathBuf};

use igvm_tools::payload::{self, Payload};
use igvm_tools::{Contents, ImageSpec, Kind, Platform, build_from};
use image_abi::{
    BOOT_STRUCTURES, Digest, IMAGE_BASE, LaunchBlock, MAGIC, PAYLOAD_DIGESTS, PAYLOAD_LIMIT, REGION_LIMIT, Range,
};
use paravisor_core::{DigestError, Launch, judge_payload};
use platform::{Gpa, Slip};
use reference_host::image::Image;
use reference_host::loader::{Machine, load};
use reference_host::memory::{GuestMap, PageSet};

use crate::guest_ram::{SparseGuest, SparseRam};
use crate::input::Input;
use crate::{Target, memory_use};

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "payloads",
    run: play,
    planted: &[
        ("what a kernel needs beyond its file is not reserved", |data| Slip::Unreserved.planted(|| play(data))),
        ("a page with data goes to the next address", |data| Slip::Shifted.planted(|| play(data))),
        ("the guest gets the page before Parados's end", |data| Slip::Generous.planted(|| play(data))),
        ("a part of the payload is neither measured nor judged", |data| Slip::Unjudged.planted(|| play(data))),
        ("an entry point behind the file's bytes is taken", |data| Slip::Entry.planted(|| play(data))),
    ],
    longest: 6144,
    mutations: 60_000,
};

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
const VIDEO: std::ops::Range<u64> = 0xa_0000..0xc_0000;
const LEGACY: std::ops::Range<u64> = 0xa_0000..0x10_0000;
const PARADOS: std::ops::Range<u64> = IMAGE_BASE..IMAGE_BASE + REGION_LIMIT;
/// Images are built of payloads up to this size alone: others take seconds.
const SMALL: u64 = 1 << 20;
/// Bytes from the heap for each byte of the file, and at least.
const HEAP_PER_BYTE: usize = 16;
const HEAP_AT_LEAST: usize = 64 << 10;

fn play(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    if kind & 0x80 != 0 {
        return play_launch(&mut input);
    }
    let more = usize::from(input.byte()) << 6;
    let initrd = u64::from(input.half()) << (kind & 0xf);
    let mut file = input.rest().to_vec();
    file.resize(file.len() + more, 0);
    let path = Path::new("kernel");
    let limit = HEAP_AT_LEAST + HEAP_PER_BYTE * file.len();
    let payload = match memory_use::at_most(limit, || payload::read(path, &file)) {
        Ok(payload) => payload,
        Err(error) => {
            let text = error.to_string();
            assert_eq!(error.kind(), Kind::Data, "{text}");
            assert!(text.starts_with("kernel: ") && !text.contains('\n') && text.len() < 300, "{text}");
            return;
        }
    };
    check_payload(&payload, &file);
    if payload.ranges.iter().map(|range| range.bytes).sum::<u64>() <= SMALL {
        build(&payload, &file, (kind, more), initrd.min(SMALL));
    }
}

fn overlaps(one: &std::ops::Range<u64>, other: &std::ops::Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn span(range: &Range) -> std::ops::Range<u64> {
    range.start..range.end()
}

fn check_payload(payload: &Payload<'_>, file: &[u8]) {
    let boot = span(&BOOT_STRUCTURES);
    for range in payload.ranges.iter().map(span) {
        assert!(range.start < range.end && range.end <= PAYLOAD_LIMIT, "{range:x?}");
        for taken in [&PARADOS, &LEGACY, &boot] {
            assert!(!overlaps(&range, taken), "{range:x?} is in {taken:x?}");
        }
    }
    assert!(payload.ranges.windows(2).all(|pair| pair[0].end() <= pair[1].start), "{:x?}", payload.ranges);
    let bytes = file.as_ptr_range();
    for chunk in &payload.chunks {
        let own = chunk.start..chunk.start + chunk.bytes.max(chunk.data.len() as u64);
        let inside = payload.ranges.iter().any(|range| range.start <= own.start && own.end <= range.end());
        assert!(inside, "{own:x?} is outside of {:x?}", payload.ranges);
        let data = chunk.data.as_ptr_range();
        assert!(data.is_empty() || bytes.start <= data.start && data.end <= bytes.end);
    }
    for (number, one) in payload.chunks.iter().enumerate() {
        let apart =
            |other: &payload::Chunk<'_>| one.start + one.bytes <= other.start || other.start + other.bytes <= one.start;
        assert!(payload.chunks[number + 1..].iter().all(apart), "chunks overlap: {:x?}", payload.ranges);
    }
    let entered = payload.chunks.iter().any(|chunk| payload.entry.wrapping_sub(chunk.start) < chunk.data.len() as u64);
    assert!(entered, "entered at {:#x}, where nothing of the file is", payload.entry);
    assert!(payload.setup_header.len() <= file.len());
}

/// Builds the image, and starts it as far as that goes without a processor.
fn build(payload: &Payload<'_>, file: &[u8], (kind, more): (u8, usize), initrd: u64) {
    let initrd = vec![kind | 1; initrd as usize];
    let spec = ImageSpec {
        platform: Platform::Native,
        paravisor: "paravisor".into(),
        kernel: Some("kernel".into()),
        initrd: (!initrd.is_empty()).then(|| PathBuf::from("initrd")),
        command_line: "console=ttyS0".into(),
        measured: kind & 1 == 0,
        flags: u32::from(kind >> 4 & 7),
        guest_policy: None,
    };
    let paravisor = paravisor();
    let initrd = (!initrd.is_empty()).then_some(initrd.as_slice());
    let contents = Contents { paravisor: &paravisor, kernel: Some(file), initrd };
    let image = match build_from(&spec, &contents) {
        Ok(image) => image,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n') && !text.contains("paravisor: "), "{text}");
            return;
        }
    };
    let machine = Machine { map: GuestMap::new(2 * GIB), processors: 3 };
    let mut bits = vec![0; PageSet::bytes(&machine.map) as usize];
    let mut placed = PageSet::new(machine.map, &mut bits);
    let mut ram = SparseRam::new(2 * GIB);
    let parsed = Image::parse(&image.bytes).expect("the reference host refuses what igvm-tools built");
    let context = load(&parsed, &machine, &mut ram, &mut placed).expect("the reference host cannot load it");
    assert_eq!((ram.twice, ram.astray), (None, None));
    for chunk in &payload.chunks {
        assert!(ram.get(chunk.start, chunk.data.len()) == chunk.data, "the payload is not at {:#x}", chunk.start);
        let zeros = (chunk.bytes as usize - chunk.data.len()).min(2 * PAGE as usize);
        assert!(ram.get(chunk.start + chunk.data.len() as u64, zeros).iter().all(|byte| *byte == 0), "no zeros");
    }
    let block = image.report.launch_block.expect("a launch block");
    check_block(&block, payload, initrd, &ram);
    check_digests(&block, &image.bytes, spec.measured);
    let map = ram.get(block.memory_map.start, block.memory_map.bytes as usize);
    let count = ram.get(block.processor_count.start, 4);
    let count = u32::from_le_bytes(count.try_into().expect("four bytes"));
    assert_eq!(count, 3);
    assert!(context.registers().rdi != 0);
    Launch::new(&block, &map, count).expect("the core refuses what igvm-tools built");
    check_judgement(&block, ram, more);
}

fn check_block(block: &LaunchBlock, payload: &Payload<'_>, initrd: Option<&[u8]>, ram: &SparseRam) {
    assert_eq!((block.payload_kind, block.entry), (payload.kind, payload.entry));
    let mut taken: Vec<_> = block.payload.iter().chain([&block.image]).filter(|range| range.bytes > 0).collect();
    if let Some(bytes) = initrd {
        let range = &block.initrd;
        assert_eq!(range.bytes, bytes.len() as u64);
        assert!(range.start.is_multiple_of(PAGE) && range.end() <= payload.initrd_limit.min(PAYLOAD_LIMIT));
        assert!(ram.get(range.start, bytes.len()) == bytes, "the RAM disk is not at {:#x}", range.start);
        taken.push(range);
    }
    taken.push(&BOOT_STRUCTURES);
    taken.sort_by_key(|range| range.start);
    assert!(taken.windows(2).all(|pair| pair[0].end() <= pair[1].start), "{taken:x?}");
}

/// What is not measured is what the digests name.
fn check_digests(block: &LaunchBlock, image: &[u8], measured: bool) {
    let judged: Vec<_> = block.digests.iter().filter(|digest| digest.range.bytes > 0).map(|it| it.range).collect();
    assert!(judged.is_empty() || !measured);
    let file = igvm_tools::file::parse(Path::new("image"), image).expect("an image that was just built");
    for (_, page) in file.pages() {
        let is_judged = judged.iter().any(|range| range.start < page.gpa + PAGE && page.gpa < range.end());
        assert_eq!(page.flags.unmeasured(), is_judged, "the page at {:#x}", page.gpa);
    }
}

/// The core takes the payload as it was placed, and not with a byte changed.
fn check_judgement(block: &LaunchBlock, ram: SparseRam, at: usize) {
    let memory = SparseGuest::new(ram);
    let bytes: u64 = block.digests.iter().map(|digest| digest.range.bytes).sum();
    assert_eq!(judge_payload(&memory, block), Ok(bytes));
    let judged: Vec<_> = block.digests.iter().filter(|digest| digest.range.bytes > 0).collect();
    if !judged.is_empty() {
        let range = judged[at % judged.len()].range;
        memory.flip(range.start + at as u64 % range.bytes);
        assert_eq!(judge_payload(&memory, block), Err(DigestError::Mismatch(Gpa(range.start))));
    }
}

/// The least that can be an image: a page of code and a page of data.
fn paravisor() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let words = |file: &mut Vec<u8>, words: &[u64], width: usize| {
        words.iter().for_each(|word| file.extend(&word.to_le_bytes()[..width]));
    };
    words(&mut file, &[2, 62], 2);
    words(&mut file, &[1], 4);
    words(&mut file, &[IMAGE_BASE, 64, 0], 8);
    words(&mut file, &[0], 4);
    words(&mut file, &[64, 56, 2, 0, 0, 0], 2);
    for (flags, address) in [(5, IMAGE_BASE), (6, IMAGE_BASE + PAGE)] {
        words(&mut file, &[1, flags], 4);
        words(&mut file, &[176, address, address, 16, 0x1000, 0x1000], 8);
    }
    file.resize(192, 0xcc);
    file
}

/// A launch block and a memory map from the input.
fn play_launch(input: &mut Input<'_>) {
    let wish = input.byte();
    let mut range = || Range { start: input.integer(), bytes: input.integer() };
    let mut block = LaunchBlock {
        magic: MAGIC,
        image: Range { start: IMAGE_BASE, bytes: 600 << 10 },
        text: Range::default(),
        rodata: Range::default(),
        page_tables: Range::default(),
        stack: Range::default(),
        memory_map: Range::default(),
        processor_count: Range::default(),
        setup_header: Range::default(),
        command_line: Range::default(),
        initrd: range(),
        entry: 0,
        payload_kind: 1,
        flags: 0,
        payload: Default::default(),
        placed: Default::default(),
        cpuid_page: Range::default(),
        secrets_page: Range::default(),
        mailbox: Range::default(),
        td_attributes: 0,
        digests: [Digest::NONE; PAYLOAD_DIGESTS],
    };
    if wish & 1 != 0 {
        block.image = range();
    }
    if wish & 2 != 0 {
        block.payload[0] = range();
    }
    let count = if wish & 4 == 0 { 2 } else { input.word() };
    // Entries in units of MiB, or as they come.
    let mut map = Vec::new();
    if wish & 8 == 0 {
        while !input.is_empty() {
            let (start, bytes, kind) = (u64::from(input.half()), u64::from(input.half()), u16::from(input.byte() & 1));
            map.extend((start << 8).to_le_bytes());
            map.extend((bytes << 8).to_le_bytes());
            map.extend(u64::from(kind).to_le_bytes());
        }
    } else {
        map.extend(input.rest());
    }
    if let Ok(launch) = memory_use::without_heap(|| Launch::new(&block, &map, count)) {
        check_launch(&launch, &map);
    }
}

fn check_launch(launch: &Launch, map: &[u8]) {
    let promised: Vec<std::ops::Range<u64>> = map
        .chunks_exact(24)
        .map(|entry| {
            let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
            (word(0), word(8), entry[16] == 0 && entry[17] == 0)
        })
        .take_while(|(_, pages, _)| *pages != 0)
        .filter(|(_, _, is_memory)| *is_memory)
        .map(|(first, pages, _)| first * PAGE..(first + pages) * PAGE)
        .collect();
    let is_promised = |mut start: u64, end: u64| {
        // Neighbours count as one.
        promised.iter().for_each(|range| {
            if range.contains(&start) {
                start = range.end;
            }
        });
        start >= end
    };
    let region = launch.region.start().0..launch.region.end().0;
    assert!(region.start == IMAGE_BASE && region.end <= launch.low_end, "{region:x?}, low end {:#x}", launch.low_end);
    assert!(launch.block.image.end() <= region.end, "the image is larger than Parados's memory");
    assert!(is_promised(region.start, region.end), "Parados takes {region:x?}, which the host does not promise");
    for range in launch.ram.iter() {
        let range = range.start().0..range.end().0;
        assert!(!overlaps(&range, &region), "the guest gets {range:x?}, which is Parados's");
        assert!(!overlaps(&range, &VIDEO), "the guest gets {range:x?}, which is video memory");
        assert!(is_promised(range.start, range.end), "the guest gets {range:x?}, which the host does not promise");
    }
    for range in launch.block.payload.iter().chain([&launch.block.initrd]).filter(|range| range.bytes > 0) {
        assert!(launch.ram.contains(Gpa(range.start), range.bytes), "a payload at {range:x?}");
    }
    assert!((1..=255).contains(&launch.processors));
}
