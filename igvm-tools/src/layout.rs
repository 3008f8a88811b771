// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where everything of Parados's own goes: the image's memory map.
//!
//! From `image_abi::IMAGE_BASE` on, in this order: the ELF's segments where they are linked; an absent guard page; the
//! boot stack; the launch block with the boot descriptor table and the setup header; the command line; the two parameter
//! areas; for SEV-SNP the CPUID page and the secrets page; for TDX the mailbox; the page tables. The page tables come last because their number
//! follows from where everything else ends.

use crate::build::Platform;
use crate::context::GDT;
use crate::error::{Flaw, ensure};
use crate::paravisor::Paravisor;
use crate::payload::Payload;
use crate::{PAGE, page_tables, page_up};
use image_abi::{
    Digest, IMAGE_BASE, LaunchBlock, MAGIC, PAYLOAD_DIGESTS, PAYLOAD_RANGES, PLACED_RANGES, REGION_LIMIT, RESET_PAGE,
    Range,
};
use std::borrow::Cow;
use zerocopy::IntoBytes;

/// What a page-table entry allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: a guard page.
    Absent,
    /// Read.
    Read,
    /// Read and execute.
    Execute,
    /// Read and write.
    Write,
}

/// How a region gets its content.
#[derive(Clone, Debug)]
pub(crate) enum Fill<'a> {
    /// The loader leaves it alone.
    Nothing,
    /// From the image: these bytes, then zeroes.
    Pages(Cow<'a, [u8]>),
    /// By the loader, from the parameter area with this index.
    Parameter(u32),
    /// By the firmware, which leaves its secrets there.
    Secrets,
    /// By the host, with what CPUID answers; the firmware checks it.
    Cpuid,
}

/// Whole pages of the image.
#[derive(Clone, Debug)]
pub(crate) struct Region<'a> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) access: Access,
    pub(crate) fill: Fill<'a>,
}

/// The image without its payload.
#[derive(Clone, Debug)]
pub(crate) struct Layout<'a> {
    /// In ascending order, without overlap.
    pub(crate) regions: Vec<Region<'a>>,
    /// What the launch block page says.
    pub(crate) block: LaunchBlock,
    /// Where the launch block is.
    pub(crate) launch_block: u64,
    /// Where the boot descriptor table is.
    pub(crate) gdt: u64,
    /// What stands behind that in the launch block's page.
    pub(crate) setup_header: &'a [u8],
}

/// The boot processor's stack.
const STACK_BYTES: u64 = 32 << 10;

/// The descriptor table's place in the launch block's page.
const GDT_OFFSET: usize = 0x800;
const _: () = assert!(size_of::<LaunchBlock>() <= GDT_OFFSET);

/// The setup header's place in the same page.
const SETUP_HEADER_OFFSET: usize = GDT_OFFSET + size_of_val(&GDT);
/// It ends as far behind 202h as a byte can say, so there is always room for it.
const SETUP_HEADER_LIMIT: usize = 0x202 + 0xff;
const _: () = assert!(SETUP_HEADER_OFFSET + SETUP_HEADER_LIMIT <= PAGE as usize);

/// Parameter area with the memory map.
pub(crate) const MEMORY_MAP_AREA: u32 = 0;
/// Parameter area with the processor count.
pub(crate) const PROCESSOR_COUNT_AREA: u32 = 1;

/// Stacks regions one upon the other.
struct Stacker<'a> {
    regions: Vec<Region<'a>>,
    end: u64,
}

impl<'a> Stacker<'a> {
    fn push(&mut self, bytes: u64, access: Access, fill: Fill<'a>) -> Range {
        let start = self.end;
        self.end = page_up(start + bytes);
        if bytes > 0 {
            self.regions.push(Region { start, end: self.end, access, fill });
        }
        Range { start: if bytes > 0 { start } else { 0 }, bytes }
    }
}

/// Lays the image out around a paravisor, for a payload (none: the image stands alone).
pub(crate) fn lay_out<'a>(
    paravisor: &Paravisor<'a>,
    payload: Option<&Payload<'a>>,
    initrd: Range,
    digests: [Digest; PAYLOAD_DIGESTS],
    command_line: &[u8],
    flags: u32,
    platform: Platform,
) -> Result<Layout<'a>, Flaw> {
    let parts = paravisor.parts.iter();
    let regions: Vec<_> = parts
        .map(|part| Region {
            start: part.start,
            end: part.end,
            access: part.access,
            fill: Fill::Pages(part.content.clone()),
        })
        .collect();
    let span = |access| {
        let of_kind = || regions.iter().filter(|region| region.access == access);
        let start = of_kind().map(|region| region.start).min().unwrap_or(0);
        Range { start, bytes: of_kind().map(|region| region.end).max().unwrap_or(0) - start }
    };
    let (text, rodata) = (span(Access::Execute), span(Access::Read));
    let end = regions.iter().map(|region| region.end).max().unwrap_or(IMAGE_BASE);
    let mut stacker = Stacker { regions, end };
    stacker.push(PAGE, Access::Absent, Fill::Nothing);
    let stack = stacker.push(STACK_BYTES, Access::Write, Fill::Pages(Cow::Borrowed(&[])));
    // Filled in below, once it is known what it says.
    let launch_block = stacker.push(PAGE, Access::Read, Fill::Nothing).start;
    let header = payload.map_or(&[][..], |payload| payload.setup_header);
    ensure!(
        header.len() <= SETUP_HEADER_LIMIT,
        "a setup header of {} bytes, expected {SETUP_HEADER_LIMIT} at most",
        header.len()
    );
    let setup_header = match header.len() as u64 {
        0 => Range::default(),
        bytes => Range { start: launch_block + SETUP_HEADER_OFFSET as u64, bytes },
    };
    let command_line = place_command_line(&mut stacker, command_line);
    let memory_map = stacker.push(PAGE, Access::Write, Fill::Parameter(MEMORY_MAP_AREA));
    let processor_count = stacker.push(PAGE, Access::Write, Fill::Parameter(PROCESSOR_COUNT_AREA));
    let special = if platform == Platform::Snp { PAGE } else { 0 };
    let cpuid_page = stacker.push(special, Access::Read, Fill::Cpuid);
    let secrets_page = stacker.push(special, Access::Read, Fill::Secrets);
    let mailbox = if platform == Platform::Tdx { PAGE } else { 0 };
    let mailbox = stacker.push(mailbox, Access::Write, Fill::Pages(Cow::Borrowed(&[])));
    let page_tables = place_page_tables(&mut stacker, platform);
    ensure!(
        stacker.end <= IMAGE_BASE + REGION_LIMIT,
        "the image would end at {:#x}, expected at most {:#x}",
        stacker.end,
        IMAGE_BASE + REGION_LIMIT
    );
    let block = LaunchBlock {
        magic: MAGIC,
        image: Range { start: IMAGE_BASE, bytes: stacker.end - IMAGE_BASE },
        text,
        rodata,
        page_tables,
        stack,
        memory_map,
        processor_count,
        setup_header,
        command_line,
        initrd,
        entry: payload.map_or(0, |payload| payload.entry),
        payload_kind: payload.map_or(image_abi::payload::NONE, |payload| payload.kind),
        flags,
        payload: ranges(payload)?,
        placed: [Range::default(); PLACED_RANGES],
        cpuid_page,
        secrets_page,
        mailbox,
        td_attributes: 0,
        digests,
    };
    let (regions, gdt) = (stacker.regions, launch_block + GDT_OFFSET as u64);
    let mut layout = Layout { regions, block, launch_block, gdt, setup_header: header };
    layout.write_launch_block();
    Ok(layout)
}

impl Layout<'_> {
    /// Says which pages outside the image the loader fills. `pages` are their addresses, ascending.
    pub(crate) fn note_placed(&mut self, pages: impl Iterator<Item = u64>) -> Result<(), Flaw> {
        let image = self.block.image;
        let mut runs: Vec<Range> = Vec::new();
        for page in pages.filter(|page| !(image.start..image.end()).contains(page)) {
            match runs.last_mut() {
                Some(run) if run.end() == page => run.bytes += PAGE,
                _ => runs.push(Range { start: page, bytes: PAGE }),
            }
        }
        let count = runs.len();
        ensure!(count <= PLACED_RANGES, "{count} separate runs of pages, expected at most {PLACED_RANGES}");
        for (slot, run) in self.block.placed.iter_mut().zip(runs) {
            *slot = run;
        }
        self.write_launch_block();
        Ok(())
    }

    /// Says which attributes a TD has to have.
    pub(crate) fn note_attributes(&mut self, attributes: u64) {
        self.block.td_attributes = attributes;
        self.write_launch_block();
    }

    fn write_launch_block(&mut self) {
        let page = launch_page(&self.block, self.setup_header);
        if let Some(region) = self.regions.iter_mut().find(|region| region.start == self.launch_block) {
            region.fill = Fill::Pages(Cow::Owned(page));
        }
    }
}

/// A terminating zero always follows, though it is not counted.
fn place_command_line(stacker: &mut Stacker<'_>, text: &[u8]) -> Range {
    if text.is_empty() {
        return Range::default();
    }
    let terminated = [text, &[0]].concat();
    let range = stacker.push(terminated.len() as u64, Access::Read, Fill::Pages(Cow::Owned(terminated)));
    Range { bytes: text.len() as u64, ..range }
}

/// The tables map themselves, so their number depends on where they end: try until it fits.
fn place_page_tables(stacker: &mut Stacker<'_>, platform: Platform) -> Range {
    let root = stacker.end;
    let mut count = page_tables::pages_for(root);
    while page_tables::pages_for(root + count * PAGE) > count {
        count += 1;
    }
    let own = Region { start: root, end: root + count * PAGE, access: Access::Write, fill: Fill::Nothing };
    let mut regions: Vec<_> = stacker.regions.iter().map(|region| (region.start, region.end, region.access)).collect();
    regions.push((own.start, own.end, own.access));
    let absent = (platform == Platform::Tdx).then_some(RESET_PAGE);
    let tables = page_tables::build(root, own.end, &regions, absent);
    stacker.push(count * PAGE, Access::Write, Fill::Pages(Cow::Owned(tables)))
}

fn launch_page(block: &LaunchBlock, setup_header: &[u8]) -> Vec<u8> {
    let mut page = block.as_bytes().to_vec();
    page.resize(GDT_OFFSET, 0);
    page.extend_from_slice(GDT.as_bytes());
    page.extend_from_slice(setup_header);
    page
}

fn ranges(payload: Option<&Payload<'_>>) -> Result<[Range; PAYLOAD_RANGES], Flaw> {
    let list = payload.map_or(&[][..], |payload| &payload.ranges);
    ensure!(
        list.len() <= PAYLOAD_RANGES,
        "{} separate ranges of memory, expected at most {PAYLOAD_RANGES}",
        list.len()
    );
    let mut array = [Range::default(); PAYLOAD_RANGES];
    for (slot, range) in array.iter_mut().zip(list) {
        *slot = *range;
    }
    Ok(array)
}
