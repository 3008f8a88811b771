// SPDX-License-Identifier: MIT OR Apache-2.0
//! An inspection as text for people and as JSON for programs.

use super::{Extent, Inspection, Start, flag_names, owner, payload_name};
use crate::file;
use image_abi::{Digest, LaunchBlock, Range};
use serde_json::{Value, json};
use std::fmt;

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: usize = self.headers.values().sum();
        writeln!(
            f,
            "IGVM version {}, {} bytes, {headers} headers, checksum {:#010x}",
            self.version, self.file_bytes, self.checksum
        )?;
        for platform in &self.platforms {
            write!(f, "platform    {}, mask {:#x}, version {}", platform.name, platform.mask, platform.version)?;
            match platform.shared_gpa_boundary {
                0 => writeln!(f)?,
                boundary => writeln!(f, ", shared from {boundary:#x}")?,
            }
        }
        for (kind, count) in &self.headers {
            writeln!(f, "header      {count:>7} x {}", file::name(*kind).unwrap_or("optional, unknown"))?;
        }
        if self.parts.is_empty() {
            return self.write_body(f);
        }
        self.write_size(f)?;
        for part in &self.parts {
            let names: Vec<_> = part.platforms.iter().map(|platform| platform.name.as_str()).collect();
            writeln!(f, "\nfor {}", names.join(", "))?;
            part.write_body(f)?;
        }
        Ok(())
    }
}

impl Inspection {
    /// What there is for one platform.
    fn write_body(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages = &self.pages;
        write!(f, "pages       {} with data, {} zero", pages.data, pages.zero)?;
        for (count, what) in [
            (pages.unmeasured, "unmeasured"),
            (pages.shared, "shared"),
            (pages.secrets, "secrets"),
            (pages.cpuid, "CPUID"),
            (pages.large, "of 2 MiB"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        writeln!(f)?;
        for start in &self.starts {
            writeln!(f, "start       {}", start_line(start))?;
        }
        if let Some(block) = &self.launch_block {
            writeln!(f, "payload     {}", payload_line(block))?;
            for Digest { range, sha384 } in block.digests.iter().filter(|digest| digest.range.bytes > 0) {
                let (what, end) = (owner(block, range.start), range.end());
                writeln!(f, "  SHA-384   {}  {what} at {:#x}-{end:#x}", hex::encode(sha384), range.start)?;
            }
        }
        self.write_size(f)?;
        writeln!(f, "memory map, needs memory up to {:#x}", self.memory_end)?;
        memory_map(&self.map, f)
    }

    fn write_size(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.image_bytes {
            Some(bytes) => writeln!(f, "size        {} {bytes} (without payload)", self.figure_name()),
            None => Ok(()),
        }
    }
}

fn start_line(start: &Start) -> String {
    let who = start.processor.map_or_else(|| "every processor".to_owned(), |number| format!("processor {number}"));
    let registers: Vec<_> = start.registers.iter().map(|(name, value)| format!("{name} {value:#x}")).collect();
    format!("{}, {who}: {}, {}", start.platform, start.mode, registers.join(", "))
}

fn payload_line(block: &LaunchBlock) -> String {
    let flags = flag_names(block.flags);
    let flags = if flags.is_empty() { "none".to_owned() } else { flags.join(", ") };
    format!("{}, entry {:#x}; policy: {flags}", payload_name(block.payload_kind), block.entry)
}

/// One line for each extent, and one for each gap between neighbours that are close together.
fn memory_map(map: &[Extent], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut end = None;
    for extent in map {
        if let Some(end) = end.filter(|end| *end < extent.start) {
            writeln!(f, "  {end:#014x}-{:#014x} {:>10}      .", extent.start, size(extent.start - end))?;
        }
        writeln!(
            f,
            "  {:#014x}-{:#014x} {:>10}  {:3} {} ({} data, {} zero)",
            extent.start,
            extent.end,
            size(extent.end - extent.start),
            extent.access,
            extent.what,
            extent.data_pages,
            extent.zero_pages
        )?;
        end = Some(extent.end);
    }
    Ok(())
}

/// A size with the largest unit that leaves a whole number.
fn size(bytes: u64) -> String {
    match bytes {
        0 => "0 B".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

impl Inspection {
    /// What the file's size without payload is called.
    fn figure_name(&self) -> String {
        let platform = match self.platforms.as_slice() {
            [only] => only.name.as_str(),
            _ => "all",
        };
        format!("image.{platform}.bytes")
    }

    /// The same as JSON. Addresses are numbers.
    pub fn to_json(&self) -> Value {
        let platform = |platform: &super::PlatformHeader| {
            json!({
                "name": platform.name,
                "compatibility_mask": platform.mask,
                "version": platform.version,
                "shared_gpa_boundary": platform.shared_gpa_boundary,
            })
        };
        let header = |(kind, count): (&u32, &usize)| json!({"type": kind, "name": file::name(*kind), "count": count});
        let figure = |bytes: u64| json!({"name": self.figure_name(), "value": bytes, "unit": "bytes"});
        json!({
            "format_version": self.version,
            "file_bytes": self.file_bytes,
            "checksum": self.checksum,
            "platforms": self.platforms.iter().map(platform).collect::<Vec<_>>(),
            "headers": self.headers.iter().map(header).collect::<Vec<_>>(),
            "pages": {
                "data": self.pages.data,
                "zero": self.pages.zero,
                "unmeasured": self.pages.unmeasured,
                "shared": self.pages.shared,
                "secrets": self.pages.secrets,
                "cpuid": self.pages.cpuid,
                "large": self.pages.large,
            },
            "memory_end": self.memory_end,
            "memory_map": self.map.iter().map(extent_json).collect::<Vec<_>>(),
            "starts": self.starts.iter().map(start_json).collect::<Vec<_>>(),
            "launch_block": self.launch_block.as_ref().map(block_json),
            "by_platform": self.parts.iter().map(Self::to_json).collect::<Vec<_>>(),
            "figures": self.image_bytes.map(figure).into_iter().collect::<Vec<_>>(),
        })
    }
}

fn extent_json(extent: &Extent) -> Value {
    json!({
        "start": extent.start,
        "end": extent.end,
        "what": extent.what,
        "access": extent.access,
        "data_pages": extent.data_pages,
        "zero_pages": extent.zero_pages,
    })
}

fn start_json(start: &Start) -> Value {
    let registers: serde_json::Map<_, _> =
        start.registers.iter().map(|(name, value)| (name.replace(' ', "_"), json!(value))).collect();
    json!({
        "platform": start.platform,
        "processor": start.processor,
        "mode": start.mode,
        "registers": registers,
    })
}

fn block_json(block: &LaunchBlock) -> Value {
    let range = |range: &Range| json!({"start": range.start, "bytes": range.bytes});
    let digest = |digest: &Digest| {
        json!({
            "what": owner(block, digest.range.start),
            "start": digest.range.start,
            "bytes": digest.range.bytes,
            "sha384": hex::encode(digest.sha384),
        })
    };
    let used = block.payload.iter().filter(|range| range.bytes > 0);
    json!({
        "image": range(&block.image),
        "text": range(&block.text),
        "rodata": range(&block.rodata),
        "page_tables": range(&block.page_tables),
        "stack": range(&block.stack),
        "memory_map": range(&block.memory_map),
        "processor_count": range(&block.processor_count),
        "setup_header": range(&block.setup_header),
        "command_line": range(&block.command_line),
        "initrd": range(&block.initrd),
        "entry": block.entry,
        "payload_kind": payload_name(block.payload_kind),
        "payload": used.map(range).collect::<Vec<_>>(),
        "digests": block.digests.iter().filter(|digest| digest.range.bytes > 0).map(digest).collect::<Vec<_>>(),
        "policy": flag_names(block.flags),
    })
}
