// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reader of IGVM files, version 1 and 2, that trusts nothing in them.
//!
//! Source: the structures of the `igvm_defs` crate. The `igvm` crate's parser is made for files of one's own: it stops at
//! the first wrong header without saying where, copies every page, and a wild file offset makes it panic. This one keeps
//! offsets, borrows the file, and refuses with a line that says what was expected where. It reads no header content that
//! inspection has no use for (signatures, relocation).

use crate::PAGE;
use crate::error::{Error, Flaw, ensure};
use igvm_defs::{
    IGVM_FIXED_HEADER, IGVM_FIXED_HEADER_V2, IGVM_MAGIC_VALUE, IGVM_VHS_ERROR_RANGE, IGVM_VHS_GUEST_POLICY,
    IGVM_VHS_PAGE_DATA, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_AREA, IGVM_VHS_PARAMETER_INSERT,
    IGVM_VHS_REQUIRED_MEMORY, IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_SUPPORTED_PLATFORM, IGVM_VHS_VARIABLE_HEADER,
    IGVM_VHS_VP_CONTEXT, IgvmVariableHeaderType as Type,
};
use platform::Slip;
use std::collections::BTreeMap;
use std::path::Path;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A header type with this bit may be skipped by who does not know it.
const IGNORABLE: u32 = 1 << 31;

/// The largest parameter area: nobody writes more than a few pages of parameters.
const PARAMETER_AREA_LIMIT: u64 = 16 << 20;

/// What a variable header says.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// A platform that the file is for.
    Platform(IGVM_VHS_SUPPORTED_PLATFORM),
    /// A page.
    Page(IGVM_VHS_PAGE_DATA),
    /// The first state of a processor.
    Context(IGVM_VHS_VP_CONTEXT),
    /// A buffer that the loader fills.
    ParameterArea(IGVM_VHS_PARAMETER_AREA),
    /// What the loader fills it with; the header's type tells.
    Parameter(IGVM_VHS_PARAMETER),
    /// Where the buffer goes.
    ParameterInsert(IGVM_VHS_PARAMETER_INSERT),
    /// Memory that must exist.
    RequiredMemory(IGVM_VHS_REQUIRED_MEMORY),
    /// Pages for error reports.
    ErrorRange(IGVM_VHS_ERROR_RANGE),
    /// What the guest's owner allows; its bits depend on the platform.
    GuestPolicy(IGVM_VHS_GUEST_POLICY),
    /// A signed launch digest for SNP; the header says the rest.
    SnpIdBlock,
    /// A header that is counted but not looked into.
    Other,
}

/// A variable header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Its place in the file.
    pub offset: usize,
    /// What it takes in the file, with its type, length and padding.
    pub bytes: usize,
    /// `IGVM_VHT_…`.
    pub kind: u32,
    /// What it says.
    pub content: Content,
}

/// An IGVM file that was checked as far as this crate looks into it.
#[derive(Clone, Debug)]
pub struct File<'a> {
    bytes: &'a [u8],
    /// 1 or 2.
    pub version: u32,
    /// CRC-32 of the headers.
    pub checksum: u32,
    /// Where the variable headers begin.
    pub headers_start: usize,
    /// Where they end, and the data begins.
    pub data_start: usize,
    /// The variable headers, in file order.
    pub headers: Vec<Header>,
}

/// Reads a file.
pub fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<File<'a>, Error> {
    read(bytes).map_err(|flaw| flaw.of(path))
}

/// Reads a file whose name does not matter.
pub(crate) fn read(bytes: &[u8]) -> Result<File<'_>, Flaw> {
    let mut file = fixed_header(bytes)?;
    let mut offset = file.headers_start;
    while offset < file.data_start {
        let header = variable_header(&file, offset)?;
        offset += header.bytes;
        file.headers.push(header);
    }
    check_order(&file)?;
    check_parameters(&file)?;
    check_overlap(&file)?;
    Ok(file)
}

fn fixed_header(bytes: &[u8]) -> Result<File<'_>, Flaw> {
    let Ok((header, _)) = IGVM_FIXED_HEADER::read_from_prefix(bytes) else {
        return Err(Flaw::new(format_args!("not an IGVM file: has {} bytes, expected at least 24", bytes.len())));
    };
    ensure!(
        header.magic == IGVM_MAGIC_VALUE,
        "not an IGVM file: magic at offset 0x0 is {:#010x}, expected {IGVM_MAGIC_VALUE:#010x}",
        header.magic
    );
    let version = header.format_version;
    ensure!(matches!(version, 1 | 2), "format_version at offset 0x4 is {version}, expected 1 or 2");
    ensure!(
        header.total_file_size as usize == bytes.len(),
        "truncated or padded: total_file_size at offset 0x10 is {}, expected the file's {}",
        header.total_file_size,
        bytes.len()
    );
    let fixed = if version == 1 { 24 } else { 32 };
    let (start, size) = (header.variable_header_offset as usize, header.variable_header_size as usize);
    let end = start.saturating_add(size);
    ensure!(
        start >= fixed && start % 8 == 0 && size % 8 == 0 && end <= bytes.len(),
        "variable headers at offset {start:#x}, {size:#x} bytes: expected multiples of 8 between {fixed:#x} and {:#x}",
        bytes.len()
    );
    if version == 2 {
        let Ok((more, _)) = IGVM_FIXED_HEADER_V2::read_from_prefix(bytes) else {
            let end = bytes.len();
            return Err(Flaw::new(format_args!("truncated at offset {end:#x}, expected a header of {fixed} bytes")));
        };
        let (architecture, page_size) = (more.architecture.0, more.page_size);
        let name = if architecture == 1 { " (AArch64)" } else { "" };
        ensure!(architecture == 0, "architecture at offset 0x18 is {architecture}{name}, expected 0 (x86-64)");
        ensure!(page_size == PAGE as u32, "page_size at offset 0x1c is {page_size}, expected {PAGE}");
    }
    let checksum = checksum(bytes, start, end);
    ensure!(
        header.checksum == checksum,
        "bad checksum: {:#010x} at offset 0x14, expected {checksum:#010x}, the headers' CRC-32",
        header.checksum
    );
    Ok(File { bytes, version, checksum, headers_start: start, data_start: end, headers: Vec::new() })
}

/// CRC-32 over the fixed header, its own checksum field taken as zero, and the variable headers.
fn checksum(bytes: &[u8], start: usize, end: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..20).unwrap_or_default());
    hasher.update(&[0; 4]);
    // In version 2 the fixed header goes on after the checksum.
    let rest = if bytes.get(4) == Some(&2) { 24..32 } else { 24..24 };
    hasher.update(bytes.get(rest).unwrap_or_default());
    hasher.update(bytes.get(start..end).unwrap_or_default());
    hasher.finalize()
}

/// Corrects the checksum of a file whose headers were changed. What is no IGVM file stays as it is.
pub fn seal(bytes: &mut [u8]) {
    let Ok((header, _)) = IGVM_FIXED_HEADER::read_from_prefix(bytes) else { return };
    let start = header.variable_header_offset as usize;
    let sum = checksum(bytes, start, start.saturating_add(header.variable_header_size as usize));
    if let Some(field) = bytes.get_mut(20..24) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
}

fn variable_header(file: &File<'_>, offset: usize) -> Result<Header, Flaw> {
    let rest = file.bytes.get(offset..file.data_start).unwrap_or_default();
    let Ok((IGVM_VHS_VARIABLE_HEADER { typ, length }, body)) = IGVM_VHS_VARIABLE_HEADER::read_from_prefix(rest) else {
        return Err(Flaw::new(format_args!("header at offset {offset:#x} runs past the headers' end")));
    };
    let kind = typ.0;
    ensure!(
        length as usize <= body.len(),
        "header at offset {offset:#x}: length {length:#x}, expected at most the {:#x} bytes that are left",
        body.len()
    );
    let padded = (length as usize).next_multiple_of(8).min(body.len());
    let (body, padding) = body.split_at(padded).0.split_at(length as usize);
    ensure!(padding.iter().all(|byte| *byte == 0), "header at offset {offset:#x}: the padding after it is not zero");
    let at = Place { offset, kind };
    let content = match typ {
        Type::IGVM_VHT_SUPPORTED_PLATFORM => Content::Platform(at.platform(body)?),
        Type::IGVM_VHT_PAGE_DATA => Content::Page(at.page(file, body)?),
        Type::IGVM_VHT_VP_CONTEXT => Content::Context(at.context(file, body)?),
        Type::IGVM_VHT_PARAMETER_AREA => Content::ParameterArea(at.parameter_area(file, body)?),
        Type::IGVM_VHT_PARAMETER_INSERT => {
            let insert: IGVM_VHS_PARAMETER_INSERT = at.structure(body)?;
            at.aligned(insert.gpa)?;
            Content::ParameterInsert(insert)
        }
        Type::IGVM_VHT_REQUIRED_MEMORY => {
            let memory: IGVM_VHS_REQUIRED_MEMORY = at.structure(body)?;
            at.aligned(memory.gpa)?;
            at.aligned(u64::from(memory.number_of_bytes))?;
            Content::RequiredMemory(memory)
        }
        Type::IGVM_VHT_ERROR_RANGE => Content::ErrorRange(at.structure(body)?),
        Type::IGVM_VHT_GUEST_POLICY => Content::GuestPolicy(at.structure(body)?),
        Type::IGVM_VHT_SNP_ID_BLOCK => {
            at.structure::<IGVM_VHS_SNP_ID_BLOCK>(body)?;
            Content::SnpIdBlock
        }
        _ if is_parameter(kind) => Content::Parameter(at.structure(body)?),
        _ => {
            ensure!(
                kind & IGNORABLE != 0 || name(kind).is_some(),
                "header at offset {offset:#x}: unknown type {kind:#x}, expected one of IGVM 1.0 or one marked as optional"
            );
            Content::Other
        }
    };
    Ok(Header { offset, bytes: size_of::<IGVM_VHS_VARIABLE_HEADER>() + padded, kind, content })
}

/// Where a header is and what it claims to be, for messages.
struct Place {
    offset: usize,
    kind: u32,
}

impl Place {
    fn structure<T: FromBytes + KnownLayout + Immutable>(&self, body: &[u8]) -> Result<T, Flaw> {
        T::read_from_bytes(body).map_err(|_| {
            Flaw::new(format_args!(
                "header at offset {:#x}: length {:#x}, expected {:#x} for {}",
                self.offset,
                body.len(),
                size_of::<T>(),
                name(self.kind).unwrap_or("this type")
            ))
        })
    }

    fn aligned(&self, value: u64) -> Result<(), Flaw> {
        ensure!(
            value.is_multiple_of(PAGE),
            "header at offset {:#x}: {value:#x} in {}, expected a multiple of {PAGE:#x}",
            self.offset,
            name(self.kind).unwrap_or("it")
        );
        Ok(())
    }

    /// Checks that file data exists; zero stands for none.
    fn data(&self, file: &File<'_>, offset: u32, bytes: u64) -> Result<(), Flaw> {
        let (start, end) = (u64::from(offset), u64::from(offset).saturating_add(bytes));
        ensure!(
            !Slip::NoOffset.is_planted() || offset == 0 || end <= file.bytes.len() as u64,
            "page data behind the file's end"
        );
        ensure!(
            offset == 0 || (start >= file.data_start as u64 && end <= file.bytes.len() as u64),
            "header at offset {:#x}: file_offset {offset:#x} with {bytes:#x} bytes, expected it between {:#x} and {:#x}",
            self.offset,
            file.data_start,
            file.bytes.len()
        );
        Ok(())
    }

    fn platform(&self, body: &[u8]) -> Result<IGVM_VHS_SUPPORTED_PLATFORM, Flaw> {
        let platform: IGVM_VHS_SUPPORTED_PLATFORM = self.structure(body)?;
        ensure!(
            platform.compatibility_mask.count_ones() == 1,
            "header at offset {:#x}: compatibility_mask {:#x}, expected exactly one bit",
            self.offset,
            platform.compatibility_mask
        );
        Ok(platform)
    }

    fn page(&self, file: &File<'_>, body: &[u8]) -> Result<IGVM_VHS_PAGE_DATA, Flaw> {
        let page: IGVM_VHS_PAGE_DATA = self.structure(body)?;
        let bytes = page_bytes(&page);
        ensure!(
            page.gpa.is_multiple_of(bytes),
            "header at offset {:#x}: gpa {:#x} of a page, expected a multiple of {bytes:#x}",
            self.offset,
            page.gpa
        );
        ensure!(
            page.gpa.checked_add(bytes).is_some(),
            "header at offset {:#x}: gpa {:#x} of a page, expected one within the address space",
            self.offset,
            page.gpa
        );
        self.data(file, page.file_offset, bytes)?;
        Ok(page)
    }

    fn context(&self, file: &File<'_>, body: &[u8]) -> Result<IGVM_VHS_VP_CONTEXT, Flaw> {
        let context: IGVM_VHS_VP_CONTEXT = self.structure(body)?;
        // Formats other than a list of registers take one page.
        self.data(file, context.file_offset, 1)?;
        Ok(context)
    }

    fn parameter_area(&self, file: &File<'_>, body: &[u8]) -> Result<IGVM_VHS_PARAMETER_AREA, Flaw> {
        let area: IGVM_VHS_PARAMETER_AREA = self.structure(body)?;
        self.aligned(area.number_of_bytes)?;
        ensure!(
            area.number_of_bytes <= PARAMETER_AREA_LIMIT,
            "header at offset {:#x}: parameter area of {:#x} bytes, expected at most {PARAMETER_AREA_LIMIT:#x}",
            self.offset,
            area.number_of_bytes
        );
        self.data(file, area.file_offset, area.number_of_bytes)?;
        Ok(area)
    }
}

/// Platforms first, then initialization, then directives.
fn check_order(file: &File<'_>) -> Result<(), Flaw> {
    let mut section = 0;
    for header in &file.headers {
        let own = match header.kind & !IGNORABLE {
            0..=0x100 => 0,
            0x101..=0x200 => 1,
            _ => 2,
        };
        ensure!(
            own >= section,
            "header at offset {:#x}: type {:#x} after a header of a later section",
            header.offset,
            header.kind
        );
        section = own;
    }
    ensure!(
        file.headers.iter().any(|header| matches!(header.content, Content::Platform(_))),
        "no platform header: the file is for no platform"
    );
    Ok(())
}

/// An area is declared before it is filled, filled within its bounds, and inserted once.
fn check_parameters(file: &File<'_>) -> Result<(), Flaw> {
    let mut areas = BTreeMap::new();
    for header in &file.headers {
        let offset = header.offset;
        match header.content {
            Content::ParameterArea(area) => {
                let known = areas.insert(area.parameter_area_index, area.number_of_bytes);
                ensure!(known.is_none(), "header at offset {offset:#x}: parameter area declared twice");
            }
            Content::Parameter(parameter) => {
                let bytes = areas.get(&parameter.parameter_area_index).copied().unwrap_or(0);
                ensure!(
                    u64::from(parameter.byte_offset) + 4 <= bytes,
                    "header at offset {offset:#x}: parameter at byte {:#x} of area {}, which has {bytes:#x} bytes",
                    parameter.byte_offset,
                    parameter.parameter_area_index
                );
            }
            Content::ParameterInsert(insert) => {
                let index = insert.parameter_area_index;
                ensure!(
                    areas.contains_key(&index),
                    "header at offset {offset:#x}: inserts parameter area {index}, which is not declared before"
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// No platform gets two pages at one place, be they from the file or for parameters, and no two platforms share a mask.
fn check_overlap(file: &File<'_>) -> Result<(), Flaw> {
    let mut masks = BTreeMap::new();
    for header in &file.headers {
        if let Content::Platform(platform) = header.content {
            let known = masks.insert(platform.compatibility_mask, header.offset);
            ensure!(
                known.is_none(),
                "header at offset {:#x}: compatibility_mask {:#x} of another platform, expected one of its own",
                header.offset,
                platform.compatibility_mask
            );
        }
    }
    for mask in masks.keys() {
        let mut pages = file.places(*mask);
        pages.sort_unstable();
        for pair in pages.windows(2) {
            if let [low, high] = pair {
                ensure!(
                    low.1 <= high.0,
                    "headers at offsets {:#x} and {:#x}: two pages at {:#x}, expected one",
                    low.2.min(high.2),
                    low.2.max(high.2),
                    high.0
                );
            }
        }
    }
    Ok(())
}

/// The mask of all platforms, and of what is in a file for none.
pub(crate) const EVERYBODY: u32 = u32::MAX;

/// Whether what has a compatibility mask is for a platform of another mask.
pub(crate) const fn is_for(own: u32, mask: u32) -> bool {
    own & mask != 0 || mask == EVERYBODY
}

/// What a page header covers.
pub(crate) fn page_bytes(page: &IGVM_VHS_PAGE_DATA) -> u64 {
    if page.flags.is_2mb_page() { 2 << 20 } else { PAGE }
}

impl<'a> File<'a> {
    /// The platforms that the file is for.
    pub fn platforms(&self) -> impl Iterator<Item = IGVM_VHS_SUPPORTED_PLATFORM> {
        self.headers.iter().filter_map(|header| match header.content {
            Content::Platform(platform) => Some(platform),
            _ => None,
        })
    }

    /// The headers for the platforms of a mask, in file order. What has no mask is for all; everybody is also nobody.
    pub(crate) fn headers_for(&self, mask: u32) -> impl Iterator<Item = &Header> {
        self.headers.iter().filter(move |header| match header.content {
            Content::Platform(platform) => is_for(platform.compatibility_mask, mask),
            Content::Page(page) => is_for(page.compatibility_mask, mask),
            Content::Context(context) => is_for(context.compatibility_mask, mask),
            Content::ParameterInsert(insert) => is_for(insert.compatibility_mask, mask),
            Content::RequiredMemory(memory) => is_for(memory.compatibility_mask, mask),
            Content::ErrorRange(range) => is_for(range.compatibility_mask, mask),
            Content::GuestPolicy(policy) => is_for(policy.compatibility_mask, mask),
            _ => true,
        })
    }

    /// The pages, in file order.
    pub fn pages(&self) -> impl Iterator<Item = (&Header, IGVM_VHS_PAGE_DATA)> {
        self.headers.iter().filter_map(|header| match header.content {
            Content::Page(page) => Some((header, page)),
            _ => None,
        })
    }

    /// Where a platform's pages and parameters go: first address, one past the last, offset of the header.
    fn places(&self, mask: u32) -> Vec<(u64, u64, usize)> {
        let mut areas = BTreeMap::new();
        let mut places = Vec::new();
        for header in &self.headers {
            let (gpa, bytes) = match header.content {
                Content::ParameterArea(area) => {
                    areas.insert(area.parameter_area_index, area.number_of_bytes);
                    continue;
                }
                Content::ParameterInsert(insert) if insert.compatibility_mask & mask != 0 => {
                    (insert.gpa, areas.get(&insert.parameter_area_index).copied().unwrap_or(0))
                }
                Content::Page(page) if page.compatibility_mask & mask != 0 => (page.gpa, page_bytes(&page)),
                _ => continue,
            };
            places.push((gpa, gpa.saturating_add(bytes), header.offset));
        }
        places
    }

    /// File data at an offset that a header names; `None` for none.
    pub fn data(&self, offset: u32, bytes: u64) -> Option<&'a [u8]> {
        let start = offset as usize;
        let end = start.checked_add(usize::try_from(bytes).ok()?)?;
        if offset == 0 { None } else { self.bytes.get(start..end) }
    }

    /// What the guest's owner allows on the platforms of a mask.
    pub fn guest_policy(&self, mask: u32) -> Option<u64> {
        self.headers.iter().find_map(|header| match header.content {
            Content::GuestPolicy(policy) if policy.compatibility_mask & mask != 0 => Some(policy.policy),
            _ => None,
        })
    }

    /// The ID block for the platforms of a mask.
    pub fn snp_id_block(&self, mask: u32) -> Option<IGVM_VHS_SNP_ID_BLOCK> {
        let blocks = self.headers.iter().filter(|header| matches!(header.content, Content::SnpIdBlock));
        let read = |header: &Header| IGVM_VHS_SNP_ID_BLOCK::read_from_prefix(self.body(header)).ok();
        blocks.filter_map(read).map(|(block, _)| block).find(|block| block.compatibility_mask & mask != 0)
    }

    /// A variable header without its type and length, with its padding.
    pub(crate) fn body(&self, header: &Header) -> &'a [u8] {
        let start = header.offset + size_of::<IGVM_VHS_VARIABLE_HEADER>();
        self.bytes.get(start..header.offset + header.bytes).unwrap_or_default()
    }

    /// How long the file is.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Whether a type is one of the parameters that the loader deposits.
fn is_parameter(kind: u32) -> bool {
    matches!(kind, 0x307..=0x30a | 0x30c | 0x30e..=0x310 | 0x312 | 0x313)
}

/// Header types in words.
pub(crate) fn name(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0x001 => "supported platform",
        0x101 => "guest policy",
        0x102 => "relocatable region",
        0x103 => "page table relocation",
        0x104 => "CoRIM document",
        0x105 => "CoRIM signature",
        0x106 => "CCA policy",
        0x107 => "version string",
        0x301 => "parameter area",
        0x302 => "page data",
        0x303 => "parameter insert",
        0x304 => "VP context",
        0x305 => "required memory",
        0x307 => "VP count parameter",
        0x308 => "SRAT parameter",
        0x309 => "MADT parameter",
        0x30a => "MMIO ranges parameter",
        0x30b => "SNP ID block",
        0x30c => "memory map parameter",
        0x30d => "error range",
        0x30e => "command line parameter",
        0x30f => "SLIT parameter",
        0x310 => "PPTT parameter",
        0x311 => "VBS measurement",
        0x312 => "device tree parameter",
        0x313 => "environment info parameter",
        _ => return None,
    })
}
