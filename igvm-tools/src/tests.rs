// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about whole images, built from tiny inputs.

use crate::build::{ImageSpec, Platform, build};
use crate::elf::Class;
use crate::error::{Error, Kind};
use crate::file;
use crate::fixture::{self, BzImage, Program, Segment};
use crate::inspect::{Inspection, inspect};
use crate::page_tables::{Mapping, walk};
use igvm::{IgvmDirectiveHeader, IgvmFile};
use image_abi::{BOOT_STRUCTURES, IMAGE_BASE, LaunchBlock, REGION_LIMIT, Range, flag, payload};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use zerocopy::FromBytes;

/// A folder of its own for a test, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("igvm-tools-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a test puts into an image.
struct Inputs {
    paravisor: Vec<u8>,
    kernel: Option<Vec<u8>>,
    initrd: Option<Vec<u8>>,
    command_line: &'static str,
    measured: bool,
}

impl Inputs {
    fn alone() -> Self {
        Self { paravisor: fixture::paravisor().bytes(), kernel: None, initrd: None, command_line: "", measured: true }
    }

    fn kernel(kernel: Vec<u8>) -> Self {
        Self { kernel: Some(kernel), command_line: "console=ttyS0", ..Self::alone() }
    }

    fn linux() -> Self {
        Self { initrd: Some(vec![0x1d; 0x2345]), ..Self::kernel(BzImage::default().bytes()) }
    }

    fn spec(&self, folder: &Folder) -> ImageSpec {
        ImageSpec {
            platform: Platform::Native,
            paravisor: folder.file("paravisor.elf", &self.paravisor),
            kernel: self.kernel.as_ref().map(|bytes| folder.file("kernel", bytes)),
            initrd: self.initrd.as_ref().map(|bytes| folder.file("initrd", bytes)),
            command_line: self.command_line.to_owned(),
            measured: self.measured,
            flags: flag::DEBUG_LOG,
            guest_policy: None,
        }
    }

    fn build(&self) -> Result<Built, Error> {
        build(&self.spec(&Folder::new())).map(|image| Built::new(image.bytes))
    }

    fn refusal(&self) -> String {
        let error = self.build().map(|_| ()).unwrap_err();
        assert_eq!(error.exit_status(), 65, "{error}");
        assert!(!error.to_string().contains('\n'));
        error.to_string()
    }
}

/// An image as a loader sees it.
struct Built {
    bytes: Vec<u8>,
    igvm: IgvmFile,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Built {
    fn new(bytes: Vec<u8>) -> Self {
        let igvm = IgvmFile::new_from_binary(&bytes, None).unwrap();
        let page = |directive: &IgvmDirectiveHeader| match directive {
            IgvmDirectiveHeader::PageData { gpa, data, .. } => {
                let mut page = data.clone();
                page.resize(4096, 0);
                Some((*gpa, page))
            }
            _ => None,
        };
        let pages: BTreeMap<_, _> = igvm.directives().iter().filter_map(page).collect();
        Self { bytes, igvm, pages }
    }

    fn memory(&self, range: Range) -> Vec<u8> {
        (range.start..range.end()).map(|at| self.pages[&(at & !0xfff)][(at & 0xfff) as usize]).collect()
    }

    fn context(&self) -> igvm_defs::IgvmNativeVpContextX64 {
        let context = self.igvm.directives().iter().find_map(|directive| match directive {
            IgvmDirectiveHeader::X64NativeVpContext { context, .. } => Some(**context),
            _ => None,
        });
        context.unwrap()
    }

    fn block(&self) -> LaunchBlock {
        LaunchBlock::read_from_prefix(&self.pages[&self.context().rdi]).unwrap().0
    }

    fn mapping(&self, address: u64) -> Option<Mapping> {
        let word = |at: u64| {
            let page = self.pages.get(&(at & !0xfff))?;
            Some(u64::from_le_bytes(page[(at & 0xfff) as usize..][..8].try_into().unwrap()))
        };
        walk(word, self.context().cr3, address)
    }

    fn access(&self, address: u64) -> &'static str {
        match self.mapping(address) {
            None => "---",
            Some(mapping) => {
                assert!(address & !(mapping.bytes - 1) == mapping.page, "not an identity map at {address:#x}");
                match (mapping.writable, mapping.executable) {
                    (false, false) => "r--",
                    (false, true) => "r-x",
                    (true, false) => "rw-",
                    (true, true) => "rwx",
                }
            }
        }
    }

    fn inspection(&self) -> Inspection {
        inspect(Path::new("image"), &self.bytes).unwrap()
    }
}

/// Two images that differ in their command lines.
pub(crate) fn images(one: &'static str, other: &'static str) -> (Vec<u8>, Vec<u8>) {
    let image = |command_line| Inputs { command_line, ..Inputs::linux() }.build().unwrap().bytes;
    (image(one), image(other))
}

fn all_kinds() -> Vec<Inputs> {
    vec![
        Inputs::alone(),
        Inputs::linux(),
        Inputs::kernel(fixture::pvh_program(Class::Elf32).bytes()),
        Inputs::kernel(fixture::pvh_program(Class::Elf64).bytes()),
        Inputs::kernel(fixture::multiboot_program(Class::Elf32).bytes()),
        Inputs::kernel(fixture::multiboot_program(Class::Elf64).bytes()),
    ]
}

#[test]
fn every_segment_of_the_elf_is_in_place_with_its_permission() {
    let image = Inputs::linux().build().unwrap();
    for segment in fixture::paravisor().segments {
        let expected = match segment.flags {
            4 => "r--",
            5 => "r-x",
            _ => "rw-",
        };
        let mut content = segment.data.clone();
        content.resize(segment.memory_bytes as usize, 0);
        let range = Range { start: segment.physical_address, bytes: segment.memory_bytes };
        assert_eq!(image.memory(range), content);
        for page in (range.start..range.end()).step_by(4096) {
            assert_eq!(image.access(page), expected, "{page:#x}");
        }
    }
}

#[test]
fn nothing_is_both_writable_and_executable_and_only_code_is_executable() {
    for inputs in all_kinds() {
        let image = inputs.build().unwrap();
        let text = image.block().text;
        let all = (0..4u64 << 30).step_by(2 << 20);
        let fine = (0..2 << 20).step_by(4096).chain((IMAGE_BASE..IMAGE_BASE + (4 << 20)).step_by(4096));
        for address in all.chain(fine) {
            let executable = image.mapping(address).is_some_and(|mapping| mapping.executable);
            let in_text = (text.start..text.end()).contains(&address);
            assert_eq!(executable, in_text, "{address:#x}");
            assert_ne!(image.access(address), "rwx");
        }
    }
}

#[test]
fn the_low_four_gib_are_mapped_but_page_zero_and_the_guard() {
    let image = Inputs::linux().build().unwrap();
    let block = image.block();
    assert_eq!(image.access(0), "---");
    assert_eq!(image.access(0xfff), "---");
    assert_eq!(image.access(0x1000), "rw-");
    assert_eq!(image.access(block.stack.start - 1), "---");
    assert_eq!(image.access(block.stack.start), "rw-");
    assert_eq!(image.access(block.stack.end() - 1), "rw-");
    assert_eq!(image.access(block.page_tables.start), "rw-");
    assert_eq!(image.access(block.page_tables.end() - 1), "rw-");
    assert_eq!(image.access(block.image.end()), "rw-");
    assert_eq!(image.access(image.context().rdi), "r--");
    assert_eq!(image.access((4 << 30) - 1), "rw-");
    assert_eq!(image.access(4 << 30), "---");
    // Between the segments of the fixture.
    assert_eq!(image.access(IMAGE_BASE + 0x2000), "---");
    for (address, uncached) in
        [(0xfebf_ffff, false), (0xfec0_0000, true), (0xfee0_0000, true), (0xfeef_ffff, true), (0xff00_0000, false)]
    {
        assert_eq!(image.mapping(address).unwrap().uncached, uncached, "{address:#x}");
    }
}

#[test]
fn accessed_and_dirty_bits_are_preset() {
    let image = Inputs::alone().build().unwrap();
    let tables = image.memory(image.block().page_tables);
    for entry in tables.chunks_exact(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap())) {
        assert!(entry & 1 == 0 || entry & 0x20 != 0, "{entry:#x}");
        // A writable leaf, recognisable by its NX bit, is dirty.
        assert!(entry & (1 << 63 | 3) != (1 << 63 | 3) || entry & 0x40 != 0, "{entry:#x}");
    }
}

#[test]
fn an_image_across_a_large_page_boundary_still_maps_itself() {
    let mut program = fixture::paravisor();
    for memory_bytes in (0x1e_0000..0x1f_f000).step_by(0x1000).chain([0x50_0000]) {
        program.segments[2].memory_bytes = memory_bytes;
        let image = Inputs { paravisor: program.bytes(), ..Inputs::alone() }.build().unwrap();
        let block = image.block();
        for page in (block.stack.start..block.image.end()).step_by(4096) {
            let mapping = image.mapping(page).unwrap();
            assert_eq!((mapping.page, mapping.bytes), (page, 4096));
        }
        assert_eq!(block.page_tables.end(), block.image.end());
    }
}

#[test]
fn the_boot_processor_starts_at_the_entry_with_a_stack_and_the_launch_block() {
    let image = Inputs::linux().build().unwrap();
    let (context, block) = (image.context(), image.block());
    assert_eq!(context.rip, IMAGE_BASE + 0x40);
    assert_eq!(context.rsp, block.stack.end());
    assert_eq!(block.stack.bytes, 32 << 10);
    assert_eq!(context.cr3, block.page_tables.start);
    assert_eq!(context.cr3 % 4096, 0);
    let gdt = image.memory(Range { start: context.gdtr_base, bytes: u64::from(context.gdtr_limit) + 1 });
    let descriptor = |selector: u16| u64::from_le_bytes(gdt[usize::from(selector)..][..8].try_into().unwrap());
    for (selector, attributes) in
        [(context.code_selector, context.code_attributes), (context.data_selector, context.data_attributes)]
    {
        assert_eq!((descriptor(selector) >> 40) as u16 & 0xf0ff, attributes);
    }
}

#[test]
fn the_launch_block_describes_a_linux_guest() {
    let image = Inputs::linux().build().unwrap();
    let block = image.block();
    let file = BzImage::default().bytes();
    assert_eq!(block.magic, image_abi::MAGIC);
    assert_eq!(block.payload_kind, payload::LINUX);
    assert_eq!(block.flags, flag::DEBUG_LOG);
    assert_eq!(block.image.start, IMAGE_BASE);
    assert_eq!(block.payload[0], Range { start: 16 << 20, bytes: 8 << 20 });
    assert_eq!(block.payload[1], Range::default());
    assert_eq!(block.entry, (16 << 20) + 0x200);
    assert_eq!(image.memory(block.setup_header), file[..0x26c]);
    assert_eq!(image.memory(Range { start: 16 << 20, bytes: 0x3010 }), BzImage::default().kernel);
    assert_eq!(image.memory(block.command_line), b"console=ttyS0");
    assert_eq!(image.memory(Range { start: block.command_line.end(), bytes: 1 }), [0]);
    assert_eq!(image.memory(block.initrd), vec![0x1d; 0x2345]);
    assert_eq!(block.initrd.start, IMAGE_BASE - 0x3000);
}

#[test]
fn an_image_without_payload_says_so() {
    let image = Inputs::alone().build().unwrap();
    let block = image.block();
    assert_eq!((block.payload_kind, block.entry), (payload::NONE, 0));
    assert_eq!(block.initrd, Range::default());
    assert_eq!(block.command_line, Range::default());
    assert_eq!(block.setup_header, Range::default());
    assert!(image.pages.keys().all(|page| (block.image.start..block.image.end()).contains(page)));
}

#[test]
fn parameters_are_the_memory_map_and_the_processor_count_only() {
    let image = Inputs::linux().build().unwrap();
    let block = image.block();
    let mut inserted = BTreeMap::new();
    let mut filled = Vec::new();
    for directive in image.igvm.directives() {
        match directive {
            IgvmDirectiveHeader::MemoryMap(parameter) => filled.push(("map", parameter.parameter_area_index)),
            IgvmDirectiveHeader::VpCount(parameter) => filled.push(("count", parameter.parameter_area_index)),
            IgvmDirectiveHeader::ParameterInsert(insert) => {
                inserted.insert(insert.parameter_area_index, insert.gpa);
            }
            IgvmDirectiveHeader::PageData { .. }
            | IgvmDirectiveHeader::ParameterArea { .. }
            | IgvmDirectiveHeader::RequiredMemory { .. }
            | IgvmDirectiveHeader::X64NativeVpContext { .. } => {}
            other => panic!("QEMU would refuse {other}"),
        }
    }
    let placed: Vec<_> = filled.iter().map(|(what, area)| (*what, inserted[area])).collect();
    assert_eq!(placed, [("map", block.memory_map.start), ("count", block.processor_count.start)]);
    for area in [block.memory_map, block.processor_count] {
        assert_eq!(area.bytes, 4096);
        assert!(!image.pages.contains_key(&area.start));
        assert_eq!(image.access(area.start), "rw-");
    }
}

#[test]
fn pages_ascend_and_no_two_things_share_memory() {
    for inputs in all_kinds() {
        let image = inputs.build().unwrap();
        let block = image.block();
        let order = image.igvm.directives().iter().filter_map(|directive| match directive {
            IgvmDirectiveHeader::PageData { gpa, .. } => Some(*gpa),
            _ => None,
        });
        assert!(order.collect::<Vec<_>>().is_sorted_by(|low, high| low < high));
        let mut ranges: Vec<_> =
            block.payload.into_iter().chain([block.initrd, block.image, BOOT_STRUCTURES]).collect();
        ranges.retain(|range| range.bytes > 0);
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end() <= pair[1].start), "{ranges:x?}");
    }
}

#[test]
fn every_range_that_is_used_is_required_to_be_memory() {
    for inputs in all_kinds() {
        let image = inputs.build().unwrap();
        let block = image.block();
        let required = image.igvm.directives().iter().filter_map(|directive| match directive {
            IgvmDirectiveHeader::RequiredMemory { gpa, number_of_bytes, .. } => {
                Some(*gpa..*gpa + u64::from(*number_of_bytes))
            }
            _ => None,
        });
        let required: Vec<_> = required.collect();
        for range in block.payload.iter().chain([&block.initrd, &block.image]).filter(|range| range.bytes > 0) {
            assert!(required.iter().any(|memory| memory.start <= range.start && range.end() <= memory.end));
        }
    }
}

#[test]
fn the_same_content_gives_the_same_bytes_in_another_folder() {
    for inputs in all_kinds() {
        let (one, other) = (inputs.build().unwrap(), inputs.build().unwrap());
        assert!(one.bytes == other.bytes);
    }
}

#[test]
fn zero_pages_take_no_file_data() {
    let image = Inputs::alone().build().unwrap();
    let stack = image.block().stack;
    let file = file::read(&image.bytes).unwrap();
    for (_, page) in file.pages().filter(|(_, page)| (stack.start..stack.end()).contains(&page.gpa)) {
        assert_eq!(page.file_offset, 0);
    }
    assert_eq!(file.version, 2);
}

#[test]
fn the_size_without_payload_is_that_of_the_image_alone() {
    let alone = Inputs::alone().build().unwrap();
    let size = alone.inspection().image_bytes.unwrap();
    assert_eq!(size, alone.bytes.len() as u64);
    let with = Inputs::linux().build().unwrap().inspection().image_bytes.unwrap();
    // The command line is a page of the image; the setup header shares one with the launch block.
    assert_eq!(with, size + 4096 + 32);
}

#[test]
fn inspection_names_what_is_where() {
    let image = Inputs::linux().build().unwrap();
    let (inspection, block) = (image.inspection(), image.block());
    let find = |what: &str| inspection.map.iter().find(|extent| extent.what == what).unwrap();
    for (what, start, access) in [
        ("code", block.text.start, "r-x"),
        ("constants", block.rodata.start, "r--"),
        ("boot stack", block.stack.start, "rw-"),
        ("launch block", image.context().rdi, "r--"),
        ("memory map parameter", block.memory_map.start, "rw-"),
        ("VP count parameter", block.processor_count.start, "rw-"),
        ("page tables", block.page_tables.start, "rw-"),
        ("kernel", 16 << 20, "rw-"),
        ("initrd", block.initrd.start, "rw-"),
    ] {
        assert_eq!((find(what).start, find(what).access), (start, access), "{what}");
    }
    assert_eq!(inspection.memory_end, IMAGE_BASE + (2 << 20));
    let text = inspection.to_string();
    assert!(text.contains("image.native.bytes"), "{text}");
    let json = inspection.to_json();
    assert_eq!(json["figures"][0]["name"], "image.native.bytes");
    assert_eq!(json["launch_block"]["policy"][0], "debug_log");
    assert_eq!(json["starts"][0]["registers"]["rdi"], image.context().rdi);
}

#[test]
fn foreign_programs_are_not_taken_for_the_paravisor() {
    type Edit<'a> = &'a dyn Fn(&mut Program);
    let change = |change: Edit<'_>| {
        let mut program = fixture::paravisor();
        change(&mut program);
        Inputs { paravisor: program.bytes(), ..Inputs::alone() }.refusal()
    };
    let cases: [(Edit<'_>, &str); 11] = [
        (&|program| program.machine = 183, "arm64"),
        (&|program| program.class = Class::Elf32, "expected x86-64 (Elf64)"),
        (&|program| program.kind = 3, "static executable"),
        (&|program| program.segments[0].flags = 7, "p_flags 0x7"),
        (&|program| program.segments[2].flags = 5, "2 executable segments"),
        (&|program| program.entry = IMAGE_BASE + 0x3000, "e_entry"),
        (&|program| program.segments[1].physical_address = 0x10_0000, "differs from p_paddr"),
        (&|program| program.segments[2].memory_bytes = REGION_LIMIT, "occupies"),
        (&|program| program.segments[1] = Segment::load(4, IMAGE_BASE + 0x1900, vec![1]), "share a page"),
        (&|program| program.segments[1].kind = 7, "PT_TLS"),
        (&|program| program.segments[0].align = 16, "p_align"),
    ];
    for (edit, expected) in cases {
        let message = change(edit);
        assert!(message.contains("paravisor.elf: ") && message.contains(expected), "{message}");
    }
    let message = Inputs { paravisor: vec![0x7f; 10], ..Inputs::alone() }.refusal();
    assert!(message.contains("not an ELF file"), "{message}");
}

#[test]
fn a_segment_inside_a_page_keeps_its_place() {
    let mut program = fixture::paravisor();
    program.segments[1] = Segment::load(4, IMAGE_BASE + 0x3010, b"x".to_vec());
    let image = Inputs { paravisor: program.bytes(), ..Inputs::alone() }.build().unwrap();
    assert_eq!(image.memory(Range { start: IMAGE_BASE + 0x300f, bytes: 3 }), b"\0x\0");
    assert_eq!(image.block().rodata, Range { start: IMAGE_BASE + 0x3000, bytes: 0x1000 });
}

#[test]
fn a_missing_file_is_a_usage_error_that_names_it() {
    let folder = Folder::new();
    let mut spec = Inputs::linux().spec(&folder);
    spec.initrd = Some(folder.0.join("nowhere"));
    let error = build(&spec).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().ends_with("nowhere: no such file or directory"), "{error}");
    spec.initrd = Some(folder.0.clone());
    let error = build(&spec).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("is a directory"), "{error}");
}

#[test]
fn impossible_wishes_are_usage_errors() {
    let folder = Folder::new();
    let refuse = |change: &dyn Fn(&mut ImageSpec), expected: &str| {
        let mut spec = Inputs::linux().spec(&folder);
        change(&mut spec);
        let error = build(&spec).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_status(), 64);
        assert!(error.to_string().contains(expected), "{error}");
    };
    refuse(&|spec| spec.flags = 1 << 31, "flags 0x80000000");
    refuse(&|spec| spec.command_line = "a\0b".to_owned(), "zero byte");
    refuse(&|spec| spec.command_line = "x".repeat(2048), "at most 2047");
    refuse(&|spec| spec.command_line = "x".repeat(20000), "at most 16384");
    refuse(&|spec| spec.kernel = None, "without a kernel");
}

mod config;
mod digests;
mod hostile;
mod payloads;
mod snp;
mod tdx;
