// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in an IGVM file: headers, pages, a memory map, sizes; for Parados's own images also who owns what.
//!
//! Any tool's file can be shown. A file that carries our launch block is not thereby trusted: the block is read like
//! anything else, and serves to name ranges.

use crate::PAGE;
use crate::error::{Error, Flaw};
use crate::file::{self, Content, EVERYBODY, File, is_for, page_bytes};
use crate::page_tables::{self, Mapping};
use igvm_defs::{
    IGVM_VHS_PAGE_DATA, IGVM_VHS_SUPPORTED_PLATFORM, IgvmNativeVpContextX64, IgvmPageDataType, IgvmPlatformType,
};
use image_abi::{IMAGE_BASE, LaunchBlock, MAGIC, REGION_LIMIT, RESET_MAGIC, RESET_PAGE, Range, flag, payload};
use platform::Slip;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use zerocopy::FromBytes;

mod show;
mod start;

pub use start::Start;

/// What is in an IGVM file.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The file's length.
    pub file_bytes: u64,
    /// The format's version.
    pub version: u32,
    /// CRC-32 of the headers.
    pub checksum: u32,
    /// The platforms that it is for.
    pub platforms: Vec<PlatformHeader>,
    /// How many headers of each type there are, by type.
    pub headers: BTreeMap<u32, usize>,
    /// The pages, counted by what the loader does with them.
    pub pages: PageCounts,
    /// What lies where, ascending.
    pub map: Vec<Extent>,
    /// The first processor's first state, on each platform that says so.
    pub starts: Vec<Start>,
    /// Parados's launch block.
    pub launch_block: Option<LaunchBlock>,
    /// The file's length without what belongs to the payload (Parados's images).
    pub image_bytes: Option<u64>,
    /// Where the last byte of memory that the file needs ends: a VM with less cannot start.
    pub memory_end: u64,
    /// The same for each platform alone, if there are several: what they load lies in the same place.
    pub parts: Vec<Inspection>,
}

/// A platform that a file is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformHeader {
    /// In words; the number if it has none.
    pub name: String,
    /// The bit by which other headers refer to it.
    pub mask: u32,
    /// Its version.
    pub version: u16,
    /// The first shared address, if that is told by address.
    pub shared_gpa_boundary: u64,
}

/// Pages by kind. Large ones count once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// With content.
    pub data: u64,
    /// Without.
    pub zero: u64,
    /// Of both, those that are not measured.
    pub unmeasured: u64,
    /// Of both, those that are shared with the host.
    pub shared: u64,
    /// Pages that the platform fills: secrets.
    pub secrets: u64,
    /// Pages that the platform fills: CPUID.
    pub cpuid: u64,
    /// 2 MiB pages.
    pub large: u64,
}

/// Memory of one purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// What it is for.
    pub what: &'static str,
    /// What the boot page tables allow there, as in `r-x`; empty if that cannot be told.
    pub access: &'static str,
    /// Pages with content.
    pub data_pages: u64,
    /// Pages of zeroes.
    pub zero_pages: u64,
}

/// Takes a file apart. `path` serves messages only.
pub fn inspect(path: &Path, bytes: &[u8]) -> Result<Inspection, Error> {
    let file = file::parse(path, bytes)?;
    examine(&file, EVERYBODY).map_err(|flaw| flaw.of(path))
}

/// Reads and inspects a file, or what is in it for one platform.
pub fn inspect_file(path: &Path, platform: Option<&str>) -> Result<Inspection, Error> {
    let bytes = crate::input::read_image(path)?;
    let file = file::parse(path, &bytes)?;
    let mask = platform.map_or(Ok(EVERYBODY), |name| named(&file, name).map(|platform| platform.compatibility_mask));
    mask.and_then(|mask| examine(&file, mask)).map_err(|flaw| flaw.of(path))
}

/// The platform of a file that has this name.
pub(crate) fn named(file: &File<'_>, name: &str) -> Result<IGVM_VHS_SUPPORTED_PLATFORM, Flaw> {
    let found = file.platforms().find(|platform| platform_name(platform.platform_type) == name);
    found.ok_or_else(|| Flaw::new(format_args!("not for platform {name}, but for: {}", platform_names(file))))
}

/// The platforms of a file, in words.
pub(crate) fn platform_names(file: &File<'_>) -> String {
    file.platforms().map(|platform| platform_name(platform.platform_type)).collect::<Vec<_>>().join(", ")
}

/// How many platforms are shown one by one: more than there are kinds of. A page may be for all 32 that a file can have, and would
/// be shown as often.
const SHOWN_PLATFORMS: usize = 7;

/// What is in a file for the platforms of a mask.
pub(crate) fn examine(file: &File<'_>, mask: u32) -> Result<Inspection, Flaw> {
    let platforms = platforms(file, mask);
    let masks = platforms.iter().map(|platform| platform.mask);
    let several = (2..=SHOWN_PLATFORMS).contains(&platforms.len());
    let parts = if several { masks.map(|mask| alone(file, mask)).collect() } else { Vec::new() };
    Ok(Inspection { platforms, parts, ..alone(file, mask) })
}

/// The same, whether there are several platforms or not.
fn alone(file: &File<'_>, mask: u32) -> Inspection {
    let mut headers = BTreeMap::new();
    for header in file.headers_for(mask) {
        *headers.entry(header.kind).or_insert(0) += 1;
    }
    let memory = Memory::of(file, mask);
    let launch_block = memory.launch_block();
    let context = native_context(file, mask);
    let starts = start::starts(file, mask, &memory);
    Inspection {
        file_bytes: file.bytes() as u64,
        version: file.version,
        checksum: file.checksum,
        platforms: platforms(file, mask),
        headers,
        pages: count_pages(file, mask),
        map: map(file, mask, &memory, launch_block.as_ref(), context.as_ref()),
        starts,
        launch_block,
        image_bytes: launch_block.map(|block| image_bytes(file, mask, &block, &memory)),
        memory_end: memory_end(file, mask, &memory),
        parts: Vec::new(),
    }
}

/// A platform in words; the number if it has none.
pub(crate) fn platform_name(kind: IgvmPlatformType) -> String {
    match kind {
        IgvmPlatformType::NATIVE => "native".to_owned(),
        IgvmPlatformType::VSM_ISOLATION => "vsm-isolation".to_owned(),
        IgvmPlatformType::SEV_SNP => "snp".to_owned(),
        IgvmPlatformType::TDX => "tdx".to_owned(),
        IgvmPlatformType::SEV => "sev".to_owned(),
        IgvmPlatformType::SEV_ES => "sev-es".to_owned(),
        IgvmPlatformType::CCA => "cca".to_owned(),
        IgvmPlatformType(other) => format!("{other:#x}"),
    }
}

/// The pages for the platforms of a mask, in file order.
fn pages_for(file: &File<'_>, mask: u32) -> impl Iterator<Item = IGVM_VHS_PAGE_DATA> {
    file.pages().map(|(_, page)| page).filter(move |page| is_for(page.compatibility_mask, mask))
}

fn platforms(file: &File<'_>, mask: u32) -> Vec<PlatformHeader> {
    file.platforms()
        .filter(|platform| platform.compatibility_mask & mask != 0)
        .map(|platform| PlatformHeader {
            name: platform_name(platform.platform_type),
            mask: platform.compatibility_mask,
            version: platform.platform_version,
            shared_gpa_boundary: platform.shared_gpa_boundary,
        })
        .collect()
}

fn count_pages(file: &File<'_>, mask: u32) -> PageCounts {
    let mut counts = PageCounts::default();
    for page in pages_for(file, mask) {
        let kind = if page.file_offset == 0 { &mut counts.zero } else { &mut counts.data };
        *kind += 1;
        counts.unmeasured += u64::from(page.flags.unmeasured());
        counts.shared += u64::from(page.flags.shared());
        counts.large += u64::from(page.flags.is_2mb_page());
        match page.data_type {
            IgvmPageDataType::SECRETS => counts.secrets += 1,
            IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF => counts.cpuid += 1,
            _ => {}
        }
    }
    counts
}

/// The boot processor's state, if the file is for the native platform and has one.
fn native_context(file: &File<'_>, mask: u32) -> Option<IgvmNativeVpContextX64> {
    let wanted = |platform: &IGVM_VHS_SUPPORTED_PLATFORM| {
        platform.platform_type == IgvmPlatformType::NATIVE && platform.compatibility_mask & mask != 0
    };
    let native = file.platforms().find(wanted)?;
    let header = file.headers.iter().find_map(|header| match header.content {
        Content::Context(context) if context.compatibility_mask & native.compatibility_mask != 0 => Some(context),
        _ => None,
    })?;
    let bytes = file.data(header.file_offset, size_of::<IgvmNativeVpContextX64>() as u64)?;
    IgvmNativeVpContextX64::read_from_bytes(bytes).ok()
}

/// The pages by address. Where platforms of the mask differ, the last page in the file counts.
struct Memory<'a> {
    /// By first address: one past the last, and the content.
    pages: BTreeMap<u64, (u64, Option<&'a [u8]>)>,
}

impl<'a> Memory<'a> {
    fn of(file: &File<'a>, mask: u32) -> Self {
        let page = |page: IGVM_VHS_PAGE_DATA| {
            let bytes = if Slip::SmallPage.is_planted() { PAGE } else { page_bytes(&page) };
            (page.gpa, (page.gpa.saturating_add(bytes), file.data(page.file_offset, bytes)))
        };
        Self { pages: pages_for(file, mask).map(page).collect() }
    }

    /// Eight bytes at an aligned address.
    fn word(&self, address: u64) -> Option<u64> {
        let (start, (end, content)) = self.pages.range(..=address).next_back()?;
        if address >= *end {
            return None;
        }
        let Some(content) = content else { return Some(0) };
        let offset = usize::try_from(address - start).ok()?;
        content.get(offset..offset.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
    }

    /// Our launch block: at the start of a page in our own region.
    fn launch_block(&self) -> Option<LaunchBlock> {
        let mut own = self.pages.range(IMAGE_BASE..IMAGE_BASE + REGION_LIMIT);
        own.find_map(|(_, (_, content))| {
            let content = content.filter(|content| content.starts_with(&MAGIC))?;
            LaunchBlock::read_from_prefix(content).ok().map(|(block, _)| block)
        })
    }

    /// Whether there is the page in which our image for TDX starts.
    fn has_reset_page(&self) -> bool {
        self.word(RESET_PAGE) == Some(u64::from_le_bytes(RESET_MAGIC))
    }

    fn mapping(&self, root: u64, address: u64) -> Option<Mapping> {
        page_tables::walk(|entry| self.word(entry), root, address)
    }
}

fn map(
    file: &File<'_>,
    mask: u32,
    memory: &Memory<'_>,
    block: Option<&LaunchBlock>,
    context: Option<&IgvmNativeVpContextX64>,
) -> Vec<Extent> {
    // An image that builds on its tables before it uses them has their place in the launch block.
    let root = context.map(|context| context.cr3).or(block.map(|block| block.page_tables.start));
    let access = |address| root.map_or("", |root| permissions(memory.mapping(root, address)));
    let mut extents: Vec<Extent> = Vec::new();
    for (&start, &(end, content)) in &memory.pages {
        let is_data = content.is_some();
        let what = match block {
            _ if start == RESET_PAGE && memory.has_reset_page() => "reset page",
            Some(block) => owner(block, start),
            None => "pages",
        };
        let access = access(start);
        let (data_pages, zero_pages) = (u64::from(is_data), u64::from(!is_data));
        match extents.last_mut().filter(|last| last.end == start && last.what == what && last.access == access) {
            Some(last) => {
                last.end = end;
                last.data_pages += data_pages;
                last.zero_pages += zero_pages;
            }
            None => extents.push(Extent { start, end, what, access, data_pages, zero_pages }),
        }
    }
    extents.extend(parameters(file, mask).into_iter().map(|(start, end, what)| Extent {
        start,
        end,
        what,
        access: access(start),
        data_pages: 0,
        zero_pages: 0,
    }));
    extents.sort_by_key(|extent| extent.start);
    extents
}

/// Where parameter areas go, named after what is put there first.
fn parameters(file: &File<'_>, mask: u32) -> Vec<(u64, u64, &'static str)> {
    let mut areas: BTreeMap<u32, (u64, Option<&'static str>)> = BTreeMap::new();
    let mut placed = Vec::new();
    for header in file.headers_for(mask) {
        match header.content {
            Content::ParameterArea(area) => {
                areas.insert(area.parameter_area_index, (area.number_of_bytes, None));
            }
            Content::Parameter(parameter) => {
                if let Some((_, what)) = areas.get_mut(&parameter.parameter_area_index) {
                    what.get_or_insert(file::name(header.kind).unwrap_or("parameter"));
                }
            }
            Content::ParameterInsert(insert) => {
                if let Some((bytes, what)) = areas.get(&insert.parameter_area_index) {
                    placed.push((insert.gpa, insert.gpa.saturating_add(*bytes), what.unwrap_or("parameter area")));
                }
            }
            _ => {}
        }
    }
    placed
}

fn permissions(mapping: Option<Mapping>) -> &'static str {
    match mapping {
        None => "---",
        Some(Mapping { writable: false, executable: false, .. }) => "r--",
        Some(Mapping { writable: false, executable: true, .. }) => "r-x",
        Some(Mapping { writable: true, executable: false, .. }) => "rw-",
        Some(Mapping { writable: true, executable: true, .. }) => "rwx",
    }
}

/// Whose a page is, by the launch block.
pub(crate) fn owner(block: &LaunchBlock, address: u64) -> &'static str {
    let within = |range: &Range| address < range.end() && address.saturating_add(PAGE) > range.start && range.bytes > 0;
    let named = [
        (&block.text, "code"),
        (&block.rodata, "constants"),
        (&block.stack, "boot stack"),
        (&block.page_tables, "page tables"),
        (&block.cpuid_page, "CPUID page"),
        (&block.secrets_page, "secrets page"),
        (&block.mailbox, "mailbox"),
        (&block.command_line, "command line"),
        (&block.initrd, "initrd"),
    ];
    if let Some((_, name)) = named.iter().find(|(range, _)| within(range)) {
        return name;
    }
    if within(&block.image) {
        // The launch block does not list itself: it is the page between the stack and what comes after it.
        return if address == block.stack.end() { "launch block" } else { "data" };
    }
    if address == RESET_PAGE && block.mailbox.bytes > 0 {
        return "reset page";
    }
    if block.payload.iter().any(within) { "kernel" } else { "pages" }
}

/// What the file would take without its payload: headers of other addresses and the data that only they name.
fn image_bytes(file: &File<'_>, mask: u32, block: &LaunchBlock, memory: &Memory<'_>) -> u64 {
    let reset = memory.has_reset_page().then_some(RESET_PAGE);
    let own = block.image.start..block.image.end();
    let (mut bytes, mut data) = (file.headers_start as u64, BTreeSet::new());
    for header in file.headers_for(mask) {
        let (mine, offset, length) = match header.content {
            Content::Page(page) => {
                let mine = own.contains(&page.gpa) || reset == Some(page.gpa);
                (mine, page.file_offset, page_bytes(&page))
            }
            Content::RequiredMemory(memory) => (own.contains(&memory.gpa), 0, 0),
            Content::Context(context) => (true, context.file_offset, PAGE),
            Content::ParameterArea(area) => (true, area.file_offset, area.number_of_bytes),
            _ => (true, 0, 0),
        };
        if mine {
            bytes += header.bytes as u64;
            data.insert((offset, if offset == 0 { 0 } else { length }));
        }
    }
    bytes + data.iter().map(|(_, length)| length).sum::<u64>()
}

/// Where the highest page or piece of required memory ends; our reset page is where a VM has no memory, however large it is.
fn memory_end(file: &File<'_>, mask: u32, memory: &Memory<'_>) -> u64 {
    let reset = memory.has_reset_page().then_some(RESET_PAGE);
    let ends = file.headers_for(mask).map(|header| match header.content {
        Content::Page(page) if reset == Some(page.gpa) => 0,
        Content::Page(page) => page.gpa.saturating_add(page_bytes(&page)),
        Content::RequiredMemory(memory) => memory.gpa.saturating_add(u64::from(memory.number_of_bytes)),
        _ => 0,
    });
    ends.max().unwrap_or(0)
}

/// A payload's kind in words.
pub(crate) fn payload_name(kind: u32) -> &'static str {
    match kind {
        payload::NONE => "none",
        payload::LINUX => "linux",
        payload::PVH => "pvh",
        payload::MULTIBOOT => "multiboot",
        _ => "unknown",
    }
}

/// Flags in the words of the configuration.
pub(crate) fn flag_names(flags: u32) -> Vec<&'static str> {
    crate::config::POLICY.iter().filter(|(_, bit)| flags & bit != 0).map(|(name, _)| *name).collect()
}

const _: () =
    assert!(flag::ALL & !image_abi::log_level::MASK == 0b111_1111, "a new flag needs a key in the configuration");
