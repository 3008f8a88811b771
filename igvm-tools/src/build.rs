// SPDX-License-Identifier: MIT OR Apache-2.0
//! From an ELF, a payload and a policy to an IGVM file.
//!
//! The directives come in the order that loaders need: memory that must exist, the parameter areas and what fills them,
//! where they go, the pages in ascending order, the boot processor's state. The file is read back before it is handed
//! out, by the `igvm` crate's parser and by our own.

use crate::context::{self, Start};
use crate::error::{Error, Flaw};
use crate::inspect::{Inspection, examine};
use crate::layout::{Fill, Layout, MEMORY_MAP_AREA, PROCESSOR_COUNT_AREA, lay_out};
use crate::measure::sha384;
use crate::paravisor::{self, Paravisor};
use crate::payload::{self, Payload};
use crate::{PAGE, file, input, page_down, page_up, policy, snp_image, tdx_image};
use igvm::{Arch, IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType,
    IgvmPlatformType,
};
use image_abi::{COMMAND_LINE_LIMIT, Digest, PAYLOAD_DIGESTS, Range, flag};
use platform::Slip;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What an image is started by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// A machine, or a hypervisor, that protects nothing.
    Native,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

impl Platform {
    /// All of them, in the order in which a combined image has them.
    pub const ALL: [Self; 3] = [Self::Native, Self::Snp, Self::Tdx];

    /// The name that commands and configurations use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        }
    }

    /// Whether the payload is measured page by page unless a configuration says otherwise. The firmware takes long over a page,
    /// so Parados does it in its stead; where nobody measures, there is nothing to judge by.
    pub const fn measures_payload(self) -> bool {
        matches!(self, Self::Native)
    }
}

impl std::str::FromStr for Platform {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|platform| platform.name() == name);
        found.ok_or_else(|| Error::usage(format_args!("unknown platform '{name}': native, snp or tdx")))
    }
}

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// What the image is started by.
    pub platform: Platform,
    /// The paravisor's ELF file.
    pub paravisor: PathBuf,
    /// The guest's kernel: a bzImage, a PVH ELF or a Multiboot program.
    pub kernel: Option<PathBuf>,
    /// Its RAM disk, or its first module.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub command_line: String,
    /// Whether the launch measures kernel and RAM disk page by page. Otherwise it measures their digests, by which Parados
    /// judges them.
    pub measured: bool,
    /// Bits of `image_abi::flag`.
    pub flags: u32,
    /// What the platform's firmware is told to allow; `None` where there is none.
    pub guest_policy: Option<u64>,
}

/// A finished image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The IGVM file.
    pub bytes: Vec<u8>,
    /// What is in it.
    pub report: Inspection,
    /// What it was made of.
    pub inputs: Vec<Input>,
}

/// A file that went into an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What for.
    pub what: &'static str,
    /// How long it is.
    pub bytes: u64,
    /// SHA-384 of all of it.
    pub sha384: [u8; 48],
}

/// The one platform of an image.
pub(crate) const COMPATIBILITY_MASK: u32 = 1;

/// The only native platform version (IGVM, `IGVM_NATIVE_PLATFORM_VERSION`).
const NATIVE_VERSION: u16 = 1;

/// What the files of an [`ImageSpec`] hold. A file that the specification names and that is missing here counts as absent.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The paravisor's ELF file.
    pub paravisor: &'a [u8],
    /// The guest's kernel.
    pub kernel: Option<&'a [u8]>,
    /// Its RAM disk, or its first module.
    pub initrd: Option<&'a [u8]>,
}

/// Builds an image. The same content gives the same bytes, wherever the files lie.
pub fn build(spec: &ImageSpec) -> Result<Image, Error> {
    check_spec(spec)?;
    let paravisor = input::read(&spec.paravisor)?;
    let kernel = spec.kernel.as_deref().map(input::read).transpose()?;
    let initrd = spec.initrd.as_deref().map(input::read).transpose()?;
    let contents = Contents { paravisor: &paravisor, kernel: kernel.as_deref(), initrd: initrd.as_deref() };
    build_from(spec, &contents)
}

/// Builds an image from files that were read already; the specification's paths serve messages only.
pub fn build_from(spec: &ImageSpec, contents: &Contents<'_>) -> Result<Image, Error> {
    check_spec(spec)?;
    let paravisor = paravisor::parse(contents.paravisor).map_err(|flaw| flaw.of(&spec.paravisor))?;
    paravisor.check_platform(spec.platform).map_err(|flaw| flaw.of(&spec.paravisor))?;
    let payload = match (&spec.kernel, contents.kernel) {
        (Some(path), Some(bytes)) => Some(payload::read(path, bytes)?),
        _ => None,
    };
    if let Some(payload) = &payload {
        check_command_line(spec.command_line.len(), payload.command_line_limit)?;
    }
    let initrd = place_initrd(spec, payload.as_ref(), contents.initrd)?;
    let ImageSpec { measured, flags, platform, guest_policy, .. } = *spec;
    let command_line = &spec.command_line;
    let parts = Parts { paravisor, payload, initrd, command_line, measured, flags, platform, guest_policy };
    let (bytes, report) =
        parts.assemble().map_err(|flaw| flaw.of(spec.kernel.as_deref().unwrap_or(&spec.paravisor)))?;
    Ok(Image { bytes, report, inputs: contents.inputs() })
}

impl Contents<'_> {
    fn inputs(&self) -> Vec<Input> {
        let all = [("paravisor", Some(self.paravisor)), ("kernel", self.kernel), ("initrd", self.initrd)];
        let input = |what, bytes: &[u8]| Input { what, bytes: bytes.len() as u64, sha384: sha384(bytes) };
        all.into_iter().filter_map(|(what, bytes)| Some(input(what, bytes?))).collect()
    }
}

fn check_spec(spec: &ImageSpec) -> Result<(), Error> {
    if spec.flags & !flag::ALL != 0 {
        return Err(Error::usage(format_args!("flags {:#x}: expected bits of {:#x}", spec.flags, flag::ALL)));
    }
    if spec.command_line.contains('\0') {
        return Err(Error::usage("the command line contains a zero byte, which would end it"));
    }
    if spec.kernel.is_none() && (spec.initrd.is_some() || !spec.command_line.is_empty()) {
        return Err(Error::usage("an initrd or a command line without a kernel to take it"));
    }
    check_command_line(spec.command_line.len(), COMMAND_LINE_LIMIT)
}

fn check_command_line(length: usize, limit: u64) -> Result<(), Error> {
    if length as u64 > limit {
        return Err(Error::usage(format_args!(
            "the command line has {length} bytes, the kernel takes at most {limit}"
        )));
    }
    Ok(())
}

/// A RAM disk and where it goes.
type Placed<'a> = (Range, &'a [u8]);

fn place_initrd<'a>(
    spec: &ImageSpec,
    payload: Option<&Payload<'_>>,
    bytes: Option<&'a [u8]>,
) -> Result<Option<Placed<'a>>, Error> {
    let (Some(path), Some(payload), Some(bytes)) = (&spec.initrd, payload, bytes) else {
        return Ok(None);
    };
    if bytes.is_empty() {
        return Err(Error::data(path, "is empty, expected a RAM disk or module"));
    }
    let range = payload.place_initrd(bytes.len() as u64).map_err(|flaw| flaw.of(path))?;
    Ok(Some((range, bytes)))
}

/// All that an image is made of, checked one by one.
pub(crate) struct Parts<'a> {
    pub(crate) paravisor: Paravisor<'a>,
    pub(crate) payload: Option<Payload<'a>>,
    pub(crate) initrd: Option<Placed<'a>>,
    pub(crate) command_line: &'a str,
    pub(crate) measured: bool,
    pub(crate) flags: u32,
    pub(crate) platform: Platform,
    pub(crate) guest_policy: Option<u64>,
}

impl Parts<'_> {
    pub(crate) fn assemble(&self) -> Result<(Vec<u8>, Inspection), Flaw> {
        let initrd = self.initrd.map(|(range, _)| range).unwrap_or_default();
        let command_line = self.command_line.as_bytes();
        let mut pages = self.payload_pages();
        let digests = self.digests(&pages);
        let payload = self.payload.as_ref();
        let mut told = digests;
        if Slip::Unjudged.is_planted()
            && let Some(last) = told.iter_mut().rfind(|digest| digest.range.bytes > 0)
        {
            *last = Digest::NONE;
        }
        let mut layout = lay_out(&self.paravisor, payload, initrd, told, command_line, self.flags, self.platform)?;
        if self.platform != Platform::Native {
            layout.note_placed(pages.keys().copied())?;
        }
        if self.platform == Platform::Tdx {
            layout.note_attributes(policy::td_attributes(self.guest_policy.unwrap_or(0)));
        }
        let mut directives = self.required_memory(&layout);
        directives.extend(parameters(&layout));
        own_pages(&mut pages, &layout);
        pages.extend(tdx_image::reset_page(&self.paravisor, &layout));
        let judged = |gpa: u64| digests.iter().any(|digest| pages_of(&digest.range).contains(&gpa));
        directives.extend(pages.into_iter().map(|(gpa, content)| page_directive(gpa, content, judged(gpa))));
        directives.extend(snp_image::special_pages(&layout));
        directives.extend(self.boot_context(&layout));
        serialize(self.headers(), directives)
    }

    /// The platform, and what is told its firmware.
    fn headers(&self) -> (IgvmPlatformHeader, Vec<IgvmInitializationHeader>) {
        match self.platform {
            Platform::Snp => (snp_image::platform(), vec![guest_policy(self.guest_policy.unwrap_or(0))]),
            Platform::Tdx => (tdx_image::platform(), vec![guest_policy(self.guest_policy.unwrap_or(0))]),
            Platform::Native => (native_platform(), Vec::new()),
        }
    }

    /// The image's own memory, rounded up to what its page tables map, and the payload's with its working room.
    fn required_memory(&self, layout: &Layout<'_>) -> Vec<IgvmDirectiveHeader> {
        let image = layout.block.image;
        let own = Range { start: image.start, bytes: image.bytes.next_multiple_of(2 << 20) };
        let payload = self.payload.iter().flat_map(|payload| payload.ranges.iter().copied());
        let initrd = self.initrd.map(|(range, _)| range);
        let mut ranges: Vec<_> = payload.chain(initrd).chain([own]).collect();
        ranges.sort_by_key(|range| range.start);
        ranges
            .iter()
            .map(|range| {
                let gpa = page_down(range.start);
                // Payloads lie below 2 GiB, so the length fits.
                let number_of_bytes = (page_up(range.end()) - gpa) as u32;
                IgvmDirectiveHeader::RequiredMemory {
                    gpa,
                    compatibility_mask: COMPATIBILITY_MASK,
                    number_of_bytes,
                    vtl2_protectable: false,
                }
            })
            .collect()
    }

    /// The payload's pages by address; segments may share one.
    fn payload_pages(&self) -> Pages {
        let mut pages = BTreeMap::new();
        for chunk in self.payload.iter().flat_map(|payload| &payload.chunks) {
            fill(&mut pages, chunk.start, chunk.data, chunk.bytes);
        }
        if let Some((range, bytes)) = self.initrd {
            fill(&mut pages, range.start, bytes, range.bytes);
        }
        pages
    }

    /// What Parados is to judge the payload by: nothing if the launch measures all of it.
    fn digests(&self, pages: &Pages) -> [Digest; PAYLOAD_DIGESTS] {
        let mut digests = [Digest::NONE; PAYLOAD_DIGESTS];
        if !self.measured {
            let kernel = self.payload.iter().flat_map(Payload::loaded);
            let initrd = self.initrd.map(|(range, _)| range);
            for (slot, range) in digests.iter_mut().zip(kernel.chain(initrd)) {
                *slot = Digest { range, sha384: digest(pages, &range) };
            }
        }
        digests
    }

    /// The boot processor's first state; a TD's processors have only one.
    fn boot_context(&self, layout: &Layout<'_>) -> Option<IgvmDirectiveHeader> {
        let start = Start {
            entry: self.paravisor.entry,
            stack_top: layout.block.stack.end(),
            launch_block: layout.launch_block,
            page_table_root: layout.block.page_tables.start,
            gdt: layout.gdt,
        };
        match self.platform {
            Platform::Native => Some(IgvmDirectiveHeader::X64NativeVpContext {
                compatibility_mask: COMPATIBILITY_MASK,
                vp_index: 0,
                context: Box::new(context::native(start)),
            }),
            Platform::Snp => Some(snp_image::context(&start)),
            Platform::Tdx => None,
        }
    }
}

/// Pages by address. One without content is zero.
type Pages = BTreeMap<u64, Vec<u8>>;

/// All of Parados's own pages.
fn own_pages(pages: &mut Pages, layout: &Layout<'_>) {
    for region in &layout.regions {
        if let Fill::Pages(content) = &region.fill {
            fill(pages, region.start, content, region.end - region.start);
        }
    }
}

/// The addresses of all pages that a range touches.
fn pages_of(range: &Range) -> std::ops::Range<u64> {
    page_down(range.start)..page_up(range.end())
}

/// SHA-384 of what will be in memory.
fn digest(pages: &Pages, range: &Range) -> [u8; 48] {
    let mut bytes = Vec::new();
    for page in pages_of(range).step_by(PAGE as usize) {
        bytes.extend(pages.get(&page).map_or(&[][..], Vec::as_slice));
        bytes.resize((page + PAGE - range.start) as usize, 0);
    }
    bytes.truncate(range.bytes as usize);
    sha384(&bytes)
}

/// Lays bytes, and zeroes after them, over pages. A page without any content stays empty.
fn fill(pages: &mut Pages, start: u64, data: &[u8], bytes: u64) {
    let end = start + bytes.max(data.len() as u64);
    let mut rest = data;
    let mut address = start;
    while address < end {
        let page = page_down(address);
        let content = pages.entry(page).or_default();
        let offset = (address - page) as usize;
        let (piece, later) = rest.split_at(rest.len().min(PAGE as usize - offset));
        rest = later;
        if piece.iter().any(|byte| *byte != 0) {
            content.resize(PAGE as usize, 0);
            if let Some(target) = content.get_mut(offset..offset + piece.len()) {
                target.copy_from_slice(piece);
            }
        }
        address = page + PAGE;
    }
}

/// The two parameter areas: declared, filled, placed.
fn parameters(layout: &Layout<'_>) -> Vec<IgvmDirectiveHeader> {
    let at_start = |parameter_area_index| IGVM_VHS_PARAMETER { parameter_area_index, byte_offset: 0 };
    let area = |parameter_area_index| IgvmDirectiveHeader::ParameterArea {
        number_of_bytes: PAGE,
        parameter_area_index,
        initial_data: Vec::new(),
    };
    let mut directives = vec![
        area(MEMORY_MAP_AREA),
        area(PROCESSOR_COUNT_AREA),
        IgvmDirectiveHeader::MemoryMap(at_start(MEMORY_MAP_AREA)),
        IgvmDirectiveHeader::VpCount(at_start(PROCESSOR_COUNT_AREA)),
    ];
    for region in &layout.regions {
        if let Fill::Parameter(parameter_area_index) = region.fill {
            directives.push(IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
                gpa: region.start,
                compatibility_mask: COMPATIBILITY_MASK,
                parameter_area_index,
            }));
        }
    }
    directives
}

fn page_directive(gpa: u64, data: Vec<u8>, unmeasured: bool) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask: COMPATIBILITY_MASK,
        flags: IgvmPageDataFlags::new().with_unmeasured(unmeasured),
        data_type: IgvmPageDataType::NORMAL,
        data,
    }
}

fn guest_policy(policy: u64) -> IgvmInitializationHeader {
    IgvmInitializationHeader::GuestPolicy { policy, compatibility_mask: COMPATIBILITY_MASK }
}

fn native_platform() -> IgvmPlatformHeader {
    IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: COMPATIBILITY_MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::NATIVE,
        platform_version: NATIVE_VERSION,
        shared_gpa_boundary: 0,
    })
}

/// Version 2 of the format: native platforms and contexts belong to it.
fn serialize(
    (platform, initialization): (IgvmPlatformHeader, Vec<IgvmInitializationHeader>),
    directives: Vec<IgvmDirectiveHeader>,
) -> Result<(Vec<u8>, Inspection), Flaw> {
    let revision = IgvmRevision::V2 { arch: Arch::X64, page_size: PAGE as u32 };
    let refused = |error: igvm::Error| Flaw::new(format_args!("the igvm crate refuses the image: {error}"));
    let built = IgvmFile::new(revision, vec![platform], initialization, directives).map_err(refused)?;
    let mut bytes = Vec::new();
    built.serialize(&mut bytes).map_err(refused)?;
    let read_back = IgvmFile::new_from_binary(&bytes, None).map_err(refused)?;
    if read_back.platforms() != built.platforms() || !same(read_back.directives(), built.directives()) {
        return Err(Flaw::new("the image does not read back as it was written"));
    }
    let report = examine(&file::read(&bytes)?, file::EVERYBODY)?;
    Ok((bytes, report))
}

fn same(read: &[IgvmDirectiveHeader], written: &[IgvmDirectiveHeader]) -> bool {
    read == written
}
