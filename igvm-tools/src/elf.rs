// SPDX-License-Identifier: MIT OR Apache-2.0
//! ELF headers of both classes, as far as a loader needs them.
//!
//! Source: System V ABI, chapters 4 and 5 (object files, program loading), and the processor supplements for EM_386 and
//! EM_X86_64. The file may be hostile: every offset and size is checked against the file before it is used.

use crate::error::{Flaw, ensure};

/// `e_ident`: the magic number.
pub(crate) const MAGIC: [u8; 4] = *b"\x7fELF";

/// `e_machine`.
pub(crate) mod machine {
    pub(crate) const I386: u16 = 3;
    pub(crate) const X86_64: u16 = 62;
}

/// `e_type`: linked at fixed addresses.
pub(crate) const TYPE_EXECUTABLE: u16 = 2;

/// `p_type`.
pub(crate) mod segment_type {
    pub(crate) const LOAD: u32 = 1;
    pub(crate) const DYNAMIC: u32 = 2;
    pub(crate) const INTERPRETER: u32 = 3;
    pub(crate) const NOTE: u32 = 4;
    pub(crate) const TLS: u32 = 7;
}

/// `p_flags`.
pub(crate) mod segment_flag {
    pub(crate) const EXECUTE: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const READ: u32 = 4;
}

/// A note's three words: name size, descriptor size, type.
const NOTE_HEADER: usize = 12;

/// More program headers than any program here has use for.
const SEGMENTS_LIMIT: usize = 256;

/// `EI_CLASS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Elf32,
    Elf64,
}

/// A program header, with the bytes that it names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment<'a> {
    /// Position in the table, for messages.
    pub(crate) index: usize,
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) virtual_address: u64,
    pub(crate) physical_address: u64,
    /// `p_filesz` bytes from the file; no more than `memory_bytes` of them.
    pub(crate) data: &'a [u8],
    pub(crate) memory_bytes: u64,
    pub(crate) align: u64,
}

/// An ELF file.
#[derive(Clone, Debug)]
pub(crate) struct Elf<'a> {
    pub(crate) class: Class,
    pub(crate) kind: u16,
    pub(crate) machine: u16,
    pub(crate) entry: u64,
    pub(crate) segments: Vec<Segment<'a>>,
}

/// Reads little-endian integers of either class at file offsets.
struct Reader<'a> {
    bytes: &'a [u8],
    class: Class,
}

impl Reader<'_> {
    fn integer(&self, offset: usize, width: usize, what: &str) -> Result<u64, Flaw> {
        let field = offset.checked_add(width).and_then(|end| self.bytes.get(offset..end));
        let field = field.ok_or_else(|| {
            Flaw::new(format_args!(
                "truncated: {what} at offset {offset:#x} lies past the end ({:#x})",
                self.bytes.len()
            ))
        })?;
        Ok(field.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    fn half(&self, offset: usize, what: &str) -> Result<u16, Flaw> {
        Ok(self.integer(offset, 2, what)? as u16)
    }

    fn word(&self, offset: usize, what: &str) -> Result<u32, Flaw> {
        Ok(self.integer(offset, 4, what)? as u32)
    }

    /// A field that is a word in one class and a double word in the other, at different offsets.
    fn address(&self, base: usize, offset32: usize, offset64: usize, what: &str) -> Result<u64, Flaw> {
        let (offset, width) = match self.class {
            Class::Elf32 => (offset32, 4),
            Class::Elf64 => (offset64, 8),
        };
        self.integer(base.saturating_add(offset), width, what)
    }
}

/// Whether a file claims to be an ELF file.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Reads the headers of a little-endian ELF file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Elf<'_>, Flaw> {
    ensure!(is_elf(bytes), "not an ELF file: no ELF magic number at offset 0x0");
    let class = match bytes.get(4) {
        Some(1) => Class::Elf32,
        Some(2) => Class::Elf64,
        other => return Err(Flaw::new(format_args!("EI_CLASS at offset 0x4 is {other:?}, expected 1 or 2"))),
    };
    ensure!(bytes.get(5) == Some(&1), "EI_DATA at offset 0x5 says big-endian, expected 1 (little-endian)");
    let reader = Reader { bytes, class };
    let table = reader.address(0, 28, 32, "e_phoff")?;
    let (size_offset, count_offset, expected_size) = match class {
        Class::Elf32 => (42, 44, 32),
        Class::Elf64 => (54, 56, 56),
    };
    let entry_size = usize::from(reader.half(size_offset, "e_phentsize")?);
    let count = usize::from(reader.half(count_offset, "e_phnum")?);
    ensure!(count > 0, "e_phnum at offset {count_offset:#x} is 0: an object file, not a linked program");
    ensure!(
        count <= SEGMENTS_LIMIT,
        "e_phnum at offset {count_offset:#x} is {count}, expected at most {SEGMENTS_LIMIT}"
    );
    ensure!(
        entry_size == expected_size,
        "e_phentsize at offset {size_offset:#x} is {entry_size}, expected {expected_size}"
    );
    let mut segments = Vec::with_capacity(count);
    for index in 0..count {
        let base = usize::try_from(table).unwrap_or(usize::MAX).saturating_add(index * entry_size);
        segments.push(segment(&reader, index, base)?);
    }
    Ok(Elf {
        class,
        kind: reader.half(16, "e_type")?,
        machine: reader.half(18, "e_machine")?,
        entry: reader.address(0, 24, 24, "e_entry")?,
        segments,
    })
}

fn segment<'a>(reader: &Reader<'a>, index: usize, base: usize) -> Result<Segment<'a>, Flaw> {
    let flags_offset = match reader.class {
        Class::Elf32 => 24,
        Class::Elf64 => 4,
    };
    let kind = reader.word(base, "p_type")?;
    let file_bytes = reader.address(base, 16, 32, "p_filesz")?;
    let memory_bytes = reader.address(base, 20, 40, "p_memsz")?;
    let offset = reader.address(base, 4, 8, "p_offset")?;
    let physical_address = reader.address(base, 12, 24, "p_paddr")?;
    // Only what is used is checked: linkers put odd values into headers that nobody loads.
    let used = kind == segment_type::LOAD || kind == segment_type::NOTE;
    let range = offset.checked_add(file_bytes).and_then(|end| {
        let (start, end) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
        reader.bytes.get(start..end)
    });
    let data = match range {
        Some(data) => data,
        None if !used => &[],
        None => {
            return Err(Flaw::new(format_args!(
                "truncated: program header {index} at offset {base:#x} names file bytes {offset:#x} to {:#x}, the file ends at {:#x}",
                offset.saturating_add(file_bytes),
                reader.bytes.len()
            )));
        }
    };
    if kind == segment_type::LOAD {
        ensure!(
            file_bytes <= memory_bytes,
            "program header {index} at offset {base:#x}: p_filesz {file_bytes:#x} exceeds p_memsz {memory_bytes:#x}"
        );
        ensure!(
            physical_address.checked_add(memory_bytes).is_some(),
            "program header {index} at offset {base:#x}: p_paddr {physical_address:#x} plus p_memsz overflows"
        );
    }
    Ok(Segment {
        index,
        kind,
        flags: reader.word(base.saturating_add(flags_offset), "p_flags")?,
        virtual_address: reader.address(base, 8, 16, "p_vaddr")?,
        physical_address,
        data,
        memory_bytes,
        align: reader.address(base, 28, 48, "p_align")?,
    })
}

/// A note in a segment of them. A malformed one ends the search: what follows it cannot be found.
fn find_note<'a>(mut notes: &'a [u8], padding: usize, name: &[u8], kind: u32) -> Option<&'a [u8]> {
    while notes.len() >= NOTE_HEADER {
        let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at + 4)?.try_into().ok()?));
        let (name_bytes, descriptor_bytes, its_kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let its_name = notes.get(NOTE_HEADER..NOTE_HEADER.checked_add(name_bytes)?)?;
        let start = (NOTE_HEADER + name_bytes).checked_next_multiple_of(padding)?;
        let end = start.checked_add(descriptor_bytes)?;
        let descriptor = notes.get(start..end)?;
        if its_kind == kind && its_name == name {
            return Some(descriptor);
        }
        notes = notes.get(end.checked_next_multiple_of(padding)?..)?;
    }
    None
}

impl<'a> Elf<'a> {
    /// The segments that occupy memory.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = &Segment<'a>> {
        self.segments.iter().filter(|segment| segment.kind == segment_type::LOAD && segment.memory_bytes > 0)
    }

    /// Whether there is a segment of a kind.
    pub(crate) fn has(&self, kind: u32) -> bool {
        self.segments.iter().any(|segment| segment.kind == kind)
    }

    /// The descriptor of the first note with this name and type.
    pub(crate) fn note(&self, name: &[u8], kind: u32) -> Option<&'a [u8]> {
        let mut notes = self.segments.iter().filter(|segment| segment.kind == segment_type::NOTE);
        // Notes are padded to 4 bytes, in some 64-bit files to 8, which the segment's alignment tells.
        notes.find_map(|segment| find_note(segment.data, if segment.align == 8 { 8 } else { 4 }, name, kind))
    }

    /// The machine by name, for messages.
    pub(crate) fn machine_name(&self) -> String {
        match (self.machine, self.class) {
            (machine::X86_64, _) => "x86-64".to_owned(),
            (machine::I386, _) => "i386".to_owned(),
            (183, _) => "arm64".to_owned(),
            (40, _) => "arm".to_owned(),
            (243, _) => "RISC-V".to_owned(),
            (20 | 21, _) => "PowerPC".to_owned(),
            (22, _) => "s390".to_owned(),
            (258, _) => "LoongArch".to_owned(),
            (other, _) => format!("machine {other}"),
        }
    }
}
