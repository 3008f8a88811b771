// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads an IGVM file (crate `igvm_defs` is the format's definition), on the assumption that every byte may be wrong.
//!
//! Nothing is copied out of the file and nothing is remembered: the headers are walked as often as needed. Versions 1 and 2
//! of the fixed header are known; version 2 must be for x86-64 with 4 KiB pages.

use crate::report::BadImage;
use core::mem::{offset_of, size_of};
use igvm_defs::{
    IGVM_FIXED_HEADER, IGVM_FIXED_HEADER_V2, IGVM_FORMAT_VERSION_1, IGVM_FORMAT_VERSION_2, IGVM_MAGIC_VALUE,
    IGVM_VHS_VARIABLE_HEADER, IGVM_VHT_RANGE_DIRECTIVE, IGVM_VHT_RANGE_INIT, IGVM_VHT_RANGE_PLATFORM, IgvmArchitecture,
};
use platform::Slip;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// An IGVM file whose fixed header and checksum are right.
pub struct Image<'a> {
    file: &'a [u8],
    headers: core::ops::Range<usize>,
}

/// One variable header.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// Where it is in the file.
    pub offset: u64,
    /// Its type, as `IgvmVariableHeaderType` numbers them.
    pub kind: u32,
    body: &'a [u8],
}

/// The sections, in the order in which their headers must come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Platform,
    Initialization,
    Directive,
}

const fn bad(what: &'static str, offset: usize, expectation: &'static str) -> BadImage {
    BadImage { what, offset: offset as u64, expectation }
}

impl<'a> Image<'a> {
    /// Checks the fixed header and the checksum over all headers.
    pub fn parse(file: &'a [u8]) -> Result<Self, BadImage> {
        let Ok((fixed, _)) = IGVM_FIXED_HEADER::read_from_prefix(file) else {
            return Err(bad("fixed header", 0, "expected at least 24 bytes"));
        };
        if fixed.magic != IGVM_MAGIC_VALUE {
            return Err(bad("magic number", 0, "expected the letters IGVM"));
        }
        let fixed_bytes = fixed_header_bytes(fixed.format_version, file)?;
        if fixed.total_file_size as usize != file.len() {
            let offset = offset_of!(IGVM_FIXED_HEADER, total_file_size);
            return Err(bad("file size", offset, "expected the size of this file; it is truncated or has a tail"));
        }
        let start = fixed.variable_header_offset as usize;
        let offset = offset_of!(IGVM_FIXED_HEADER, variable_header_offset);
        if start < fixed_bytes || !start.is_multiple_of(8) {
            return Err(bad("variable header offset", offset, "expected a multiple of 8 behind the fixed header"));
        }
        let Some(end) = start.checked_add(fixed.variable_header_size as usize).filter(|end| *end <= file.len()) else {
            return Err(bad("variable headers", offset, "expected them to end within the file"));
        };
        let image = Self { file, headers: start..end };
        if image.checksum(fixed_bytes) != Some(fixed.checksum) {
            let offset = offset_of!(IGVM_FIXED_HEADER, checksum);
            return Err(bad("checksum", offset, "expected the CRC-32 of the headers; the file is damaged"));
        }
        Ok(image)
    }

    /// The variable headers, in the order of the file.
    pub fn headers(&self) -> Headers<'a> {
        let rest = self.file.get(self.headers.clone()).unwrap_or(&[]);
        Headers { rest, offset: self.headers.start, section: Section::Platform }
    }

    /// File data that a header names; `offset` counts from the start of the file.
    pub fn data(&self, offset: u32, bytes: usize, named_by: &Header<'_>) -> Result<&'a [u8], BadImage> {
        let start = offset as usize;
        if start < self.headers.end {
            return Err(named_by.bad("file offset", "expected it to lie behind the headers"));
        }
        start
            .checked_add(bytes)
            .and_then(|end| self.file.get(start..end))
            .ok_or(named_by.bad("file offset", "expected the data to end within the file"))
    }

    /// The CRC-32 of both headers with the checksum field taken as zero.
    fn checksum(&self, fixed_bytes: usize) -> Option<u32> {
        let field = offset_of!(IGVM_FIXED_HEADER, checksum);
        let mut crc = Crc32::new();
        crc.update(self.file.get(..field)?);
        crc.update(&[0; size_of::<u32>()]);
        crc.update(self.file.get(field + size_of::<u32>()..fixed_bytes)?);
        crc.update(self.file.get(self.headers.clone())?);
        Some(crc.finish())
    }
}

/// The size of the fixed header, which depends on the version; checks what version 2 adds.
fn fixed_header_bytes(version: u32, file: &[u8]) -> Result<usize, BadImage> {
    match version {
        IGVM_FORMAT_VERSION_1 => Ok(size_of::<IGVM_FIXED_HEADER>()),
        IGVM_FORMAT_VERSION_2 => {
            let Ok((fixed, _)) = IGVM_FIXED_HEADER_V2::read_from_prefix(file) else {
                return Err(bad("fixed header", 0, "expected at least 32 bytes"));
            };
            if fixed.architecture != IgvmArchitecture::X64 {
                let offset = offset_of!(IGVM_FIXED_HEADER_V2, architecture);
                return Err(bad("architecture", offset, "expected x86-64"));
            }
            if fixed.page_size != 4096 {
                return Err(bad("page size", offset_of!(IGVM_FIXED_HEADER_V2, page_size), "expected 4096"));
            }
            Ok(size_of::<IGVM_FIXED_HEADER_V2>())
        }
        _ => Err(bad("format version", offset_of!(IGVM_FIXED_HEADER, format_version), "expected 1 or 2")),
    }
}

impl Header<'_> {
    /// The structure that the header holds, whose size must be exact.
    pub fn read<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T, BadImage> {
        T::read_from_bytes(self.body).map_err(|_| self.bad("header length", "expected the size that its type has"))
    }

    /// An error about this header.
    pub fn bad(&self, what: &'static str, expectation: &'static str) -> BadImage {
        let astray = if what == "header type" && Slip::Offset.is_planted() { 1 << 20 } else { 0 };
        BadImage { what, offset: self.offset + astray, expectation }
    }
}

/// Walks the variable headers; after an error there are no more.
pub struct Headers<'a> {
    rest: &'a [u8],
    offset: usize,
    section: Section,
}

impl<'a> Headers<'a> {
    fn step(&mut self) -> Result<Header<'a>, BadImage> {
        let truncated = bad("variable header", self.offset, "expected it to end within the headers");
        let (head, rest) = IGVM_VHS_VARIABLE_HEADER::read_from_prefix(self.rest).map_err(|_| truncated)?;
        let body = rest.get(..head.length as usize).ok_or(truncated)?;
        // The next header begins at a multiple of 8; the padding is part of this one and must be zero.
        let padded = body.len().next_multiple_of(8);
        let padding = rest.get(body.len()..padded).ok_or(truncated)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(bad("padding of a variable header", self.offset, "expected zeros"));
        }
        let header = Header { offset: self.offset as u64, kind: head.typ.0, body };
        let section = section(header.kind)
            .ok_or(header.bad("header type", "expected a platform, initialization or directive header"))?;
        if section < self.section {
            return Err(header.bad("order of headers", "expected platform, then initialization, then directives"));
        }
        self.section = section;
        self.offset += size_of::<IGVM_VHS_VARIABLE_HEADER>() + padded;
        self.rest = rest.get(padded..).unwrap_or(&[]);
        Ok(header)
    }
}

/// The section that a header type belongs to.
fn section(kind: u32) -> Option<Section> {
    let kind = kind & !igvm_defs::IGVM_VHT_OPTIONAL_BIT;
    if IGVM_VHT_RANGE_PLATFORM.contains(&kind) {
        Some(Section::Platform)
    } else if IGVM_VHT_RANGE_INIT.contains(&kind) {
        Some(Section::Initialization)
    } else if IGVM_VHT_RANGE_DIRECTIVE.contains(&kind) {
        Some(Section::Directive)
    } else {
        None
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<Header<'a>, BadImage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let header = self.step();
        if header.is_err() {
            self.rest = &[];
        }
        Some(header)
    }
}

/// CRC-32 as in IEEE 802.3 (reflected polynomial EDB88320h), a byte at a time.
struct Crc32(u32);

/// What eight shifts make of each byte.
static CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 != 0 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        // Evaluated at compile time, where an index out of bounds is an error.
        #[allow(clippy::indexing_slicing, reason = "compile time")]
        {
            table[byte] = value;
        }
        byte += 1;
    }
    table
}

impl Crc32 {
    const fn new() -> Self {
        Self(!0)
    }

    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let index = self.0 as u8 ^ byte;
            self.0 = self.0 >> 8 ^ CRC_TABLE.get(usize::from(index)).copied().unwrap_or(0);
        }
    }

    const fn finish(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string_is_the_published_one() {
        let mut crc = Crc32::new();
        crc.update(b"123456789");
        assert_eq!(crc.finish(), 0xcbf4_3926);
    }
}
