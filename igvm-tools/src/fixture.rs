// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tiny ELF files and kernels, made field by field for the tests.

use crate::elf::Class;
use image_abi::IMAGE_BASE;
use specs::{multiboot_header as multiboot, pvh};

/// A program header with its bytes.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) virtual_address: u64,
    pub(crate) physical_address: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) memory_bytes: u64,
    pub(crate) align: u64,
}

impl Segment {
    pub(crate) fn load(flags: u32, address: u64, data: Vec<u8>) -> Self {
        let memory_bytes = data.len() as u64;
        Self { kind: 1, flags, virtual_address: address, physical_address: address, data, memory_bytes, align: 0x1000 }
    }

    pub(crate) fn note(data: Vec<u8>) -> Self {
        Self { kind: 4, align: 4, ..Self::load(4, 0, data) }
    }
}

/// An ELF file to be.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) class: Class,
    pub(crate) machine: u16,
    pub(crate) kind: u16,
    pub(crate) entry: u64,
    pub(crate) segments: Vec<Segment>,
}

impl Program {
    /// The file's bytes: headers, then the segments' data, each at a multiple of 16.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let wide = self.class == Class::Elf64;
        let (header, entry_size) = if wide { (64u64, 56u64) } else { (52, 32) };
        let word = |value: u64| if wide { value.to_le_bytes().to_vec() } else { (value as u32).to_le_bytes().to_vec() };
        let mut data_at = (header + entry_size * self.segments.len() as u64).next_multiple_of(16);
        let mut file = b"\x7fELF".to_vec();
        file.extend([if wide { 2 } else { 1 }, 1, 1]);
        file.resize(16, 0);
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend([word(self.entry), word(header), word(0)].concat());
        file.extend(0u32.to_le_bytes());
        for half in [header, entry_size, self.segments.len() as u64, 0, 0, 0] {
            file.extend((half as u16).to_le_bytes());
        }
        let mut data = Vec::new();
        for segment in &self.segments {
            let length = segment.data.len() as u64;
            file.extend(segment.kind.to_le_bytes());
            if wide {
                file.extend(segment.flags.to_le_bytes());
            }
            for value in [data_at, segment.virtual_address, segment.physical_address, length, segment.memory_bytes] {
                file.extend(word(value));
            }
            if !wide {
                file.extend(segment.flags.to_le_bytes());
            }
            file.extend(word(segment.align));
            data.push((data_at, &segment.data));
            data_at = (data_at + length).next_multiple_of(16);
        }
        for (at, bytes) in data {
            file.resize(at as usize, 0);
            file.extend(bytes);
        }
        file
    }
}

/// A paravisor: a page and a half of code, a page of constants, data with two pages of bss.
pub(crate) fn paravisor() -> Program {
    let mut data = Segment::load(6, IMAGE_BASE + 0x4000, vec![0xdd; 0x100]);
    data.memory_bytes = 0x2800;
    Program {
        class: Class::Elf64,
        machine: 62,
        kind: 2,
        entry: IMAGE_BASE + 0x40,
        segments: vec![
            Segment::load(5, IMAGE_BASE, vec![0xcc; 0x1800]),
            Segment::load(4, IMAGE_BASE + 0x3000, b"constants".to_vec()),
            data,
        ],
    }
}

/// What a test wants different about a bzImage.
#[derive(Clone)]
pub(crate) struct BzImage {
    pub(crate) protocol: u16,
    pub(crate) xloadflags: u16,
    pub(crate) loadflags: u8,
    pub(crate) pref_address: u64,
    pub(crate) init_size: u32,
    pub(crate) initrd_addr_max: u32,
    pub(crate) relocatable: bool,
    pub(crate) kernel: Vec<u8>,
    /// Bytes after the kernel, as a signature leaves them.
    pub(crate) tail: usize,
}

impl Default for BzImage {
    fn default() -> Self {
        Self {
            protocol: 0x20f,
            xloadflags: 0x7f,
            loadflags: 1,
            pref_address: 16 << 20,
            init_size: 8 << 20,
            initrd_addr_max: 0x7fff_ffff,
            relocatable: true,
            kernel: (0..0x3010u32).map(|n| (n % 251) as u8).collect(),
            tail: 0,
        }
    }
}

impl BzImage {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; 3 * 512];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x1f1, &[2]);
        put(0x1f4, &(self.kernel.len() as u32 / 16).to_le_bytes());
        put(0x1fe, &0xaa55u16.to_le_bytes());
        put(0x200, &[0xeb, 0x6a]);
        put(0x202, b"HdrS");
        put(0x206, &self.protocol.to_le_bytes());
        put(0x211, &[self.loadflags]);
        put(0x22c, &self.initrd_addr_max.to_le_bytes());
        put(0x230, &0x20_0000u32.to_le_bytes());
        put(0x234, &[u8::from(self.relocatable), 21]);
        put(0x236, &self.xloadflags.to_le_bytes());
        put(0x238, &2047u32.to_le_bytes());
        put(0x258, &self.pref_address.to_le_bytes());
        put(0x260, &self.init_size.to_le_bytes());
        file.extend(&self.kernel);
        file.extend(vec![0x55; self.tail]);
        file
    }
}

/// A Xen note with the PVH entry; other notes can go before it.
pub(crate) fn pvh_note(entry: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, entry.len() as u32, pvh::NOTE_PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(pvh::NOTE_NAME);
    note.extend(entry);
    note
}

/// A PVH program at 1 MiB, linked high, with a bss.
pub(crate) fn pvh_program(class: Class) -> Program {
    let mut code = Segment::load(5, 0x10_0000, vec![0x90; 0x1234]);
    if class == Class::Elf64 {
        code.virtual_address = 0xffff_ffff_8010_0000;
    }
    code.memory_bytes = 0x5000;
    let entry = match class {
        Class::Elf32 => 0x10_0020u32.to_le_bytes().to_vec(),
        Class::Elf64 => 0x10_0020u64.to_le_bytes().to_vec(),
    };
    let machine = if class == Class::Elf64 { 62 } else { 3 };
    let mut notes = vec![0; 12];
    notes[8] = 1;
    notes.extend(pvh_note(&entry));
    Program { class, machine, kind: 2, entry: 0x10_0000, segments: vec![code, Segment::note(notes)] }
}

/// A Multiboot header.
pub(crate) fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = multiboot::HEADER_MAGIC;
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    [magic, flags, checksum].iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
}

/// A Multiboot program of two segments at 4 MiB, the second one bss alone.
pub(crate) fn multiboot_program(class: Class) -> Program {
    let mut code = multiboot_header(0, &[]);
    code.resize(0x900, 0x90);
    let mut bss = Segment::load(6, 0x40_0900, Vec::new());
    bss.memory_bytes = 0x3000;
    let machine = if class == Class::Elf64 { 62 } else { 3 };
    Program { class, machine, kind: 2, entry: 0x40_0010, segments: vec![Segment::load(7, 0x40_0000, code), bss] }
}
