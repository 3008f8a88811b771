// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out an IGVM file's directives for one platform: places pages, fills parameter areas, finds the processor state.
//! Directives for other platforms (other compatibility masks) are skipped. For SEV-SNP, each page is also reported to a
//! [`Launch`], in the order of the file, as the firmware would see it.
//!
//! The guest's memory is written only where a directive says so, and no page twice. Parameter areas are filled in place:
//! where an area will be inserted is looked up ahead, so no second copy of it is needed.

use crate::context::{CONTEXT_BYTES, Context};
use crate::image::{Header, Image};
use crate::memory::{BLOCK, GuestMap, PAGE, PageSet};
use crate::report::{BadImage, Stop};
use crate::tdx::RESET_PAGE;
use igvm_defs::{
    IGVM_NATIVE_PLATFORM_VERSION, IGVM_SEV_SNP_PLATFORM_VERSION, IGVM_TDX_PLATFORM_VERSION, IGVM_VHS_GUEST_POLICY,
    IGVM_VHS_MEMORY_MAP_ENTRY, IGVM_VHS_PAGE_DATA, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_AREA,
    IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_REQUIRED_MEMORY, IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_SUPPORTED_PLATFORM,
    IGVM_VHS_VP_CONTEXT, IGVM_VHT_OPTIONAL_BIT, IgvmPageDataType, IgvmPlatformType, IgvmVariableHeaderType,
    MemoryMapEntryType,
};
use platform::Slip;
use zerocopy::IntoBytes;

/// The guest's physical memory. An access outside the guest's RAM does nothing and is an error.
pub trait GuestRam {
    /// Copies `bytes` to `gpa`.
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), OutsideRam>;
    /// Zeroes `bytes` bytes from `gpa` on.
    fn zero(&mut self, gpa: u64, bytes: u64) -> Result<(), OutsideRam>;
    /// Reads eight bytes.
    fn read(&self, gpa: u64) -> Result<u64, OutsideRam>;
}

/// [`GuestRam`] was asked for something that the guest does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideRam;

/// What the host tells the guest in parameters.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The guest's RAM.
    pub map: GuestMap,
    /// How many processors the guest has.
    pub processors: u32,
}

/// What an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// A machine that protects nothing.
    Native,
    /// SEV-SNP.
    Snp,
    /// TDX, whose start alone is played.
    Tdx,
}

/// How a page gets into an SEV-SNP guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Measured with its content.
    Normal,
    /// Measured without it.
    Unmeasured,
    /// Not the guest's, but its to share.
    Shared,
    /// The firmware writes the guest's secrets there.
    Secrets,
    /// The host writes there what CPUID answers, and the firmware checks it.
    Cpuid,
}

/// Who launches an SEV-SNP guest from what the loader places.
pub trait Launch {
    /// The guest's policy, before any page.
    fn policy(&mut self, policy: u64) -> Result<(), &'static str>;
    /// What the guest's owner signed.
    fn id_block(&mut self, block: &IGVM_VHS_SNP_ID_BLOCK) -> Result<(), &'static str>;
    /// Fills a page of secrets or of CPUID answers.
    fn fill(&mut self, kind: PageKind, page: &mut [u8; PAGE as usize]);
    /// A page is in place.
    fn page(&mut self, gpa: u64, bytes: u64, kind: PageKind) -> Result<(), &'static str>;
    /// A processor's state: a VMSA.
    fn context(&mut self, gpa: u64, index: u16, vmsa: &[u8; PAGE as usize]) -> Result<(), &'static str>;
}

/// How many parameter areas an image can have.
const AREAS: usize = 16;

/// A parameter area that has been declared.
#[derive(Clone, Copy)]
struct Area {
    index: u32,
    bytes: u64,
    gpa: u64,
    inserted: bool,
}

/// Loads a native image and returns the boot processor's state.
pub fn load(
    image: &Image<'_>,
    machine: &Machine,
    ram: &mut impl GuestRam,
    placed: &mut PageSet<'_>,
) -> Result<Context, Stop> {
    let mask = platform_mask(image, Platform::Native)?;
    let mut loader = Loader {
        image,
        machine,
        ram,
        placed,
        mask,
        areas: [None; AREAS],
        context: None,
        launch: None,
        reset: None,
        guest_policy: 0,
    };
    loader.run()?;
    loader.context.ok_or_else(no_context)
}

/// Loads a TDX image and returns its policy. `reset` becomes the page at the reset vector, which has to be there.
pub fn load_tdx(
    image: &Image<'_>,
    machine: &Machine,
    ram: &mut impl GuestRam,
    placed: &mut PageSet<'_>,
    reset: &mut [u8; PAGE as usize],
) -> Result<u64, Stop> {
    let mask = platform_mask(image, Platform::Tdx)?;
    let reset = Some((reset, false));
    let (areas, context, launch) = ([None; AREAS], None, None);
    let mut loader = Loader { image, machine, ram, placed, mask, areas, context, launch, reset, guest_policy: 0 };
    loader.run()?;
    match loader.reset {
        Some((_, true)) => Ok(loader.guest_policy),
        _ => Err(Stop::Image(BadImage {
            what: "end of the directives",
            offset: 0,
            expectation: "expected a page at the reset vector",
        })),
    }
}

/// Loads an SEV-SNP image. Whether there is a processor state is for `launch` to know.
pub fn load_snp<'a>(
    image: &'a Image<'a>,
    machine: &'a Machine,
    ram: &'a mut impl GuestRam,
    placed: &'a mut PageSet<'_>,
    launch: &'a mut (dyn Launch + 'a),
) -> Result<(), Stop> {
    let mask = platform_mask(image, Platform::Snp)?;
    let launch = Some(launch);
    let (areas, context, reset) = ([None; AREAS], None, None);
    let mut loader = Loader { image, machine, ram, placed, mask, areas, context, launch, reset, guest_policy: 0 };
    loader.run()
}

/// The image says nothing of the boot processor.
pub fn no_context() -> Stop {
    let what = "end of the directives";
    Stop::Image(BadImage { what, offset: 0, expectation: "expected a context for the boot processor" })
}

/// The platform that this host is to be for a file: the one that is wanted, or the file's first that it can be.
pub fn platform(image: &Image<'_>, wanted: Option<Platform>) -> Result<Platform, BadImage> {
    if let Some(wanted) = wanted {
        return platform_mask(image, wanted).map(|_| wanted);
    }
    let mut other = BadImage { what: "supported platforms", offset: 0, expectation: "expected at least one" };
    for header in image.headers() {
        let header = header?;
        let Some(platform) = supported(&header)? else { continue };
        match platform.platform_type {
            IgvmPlatformType::NATIVE => return Ok(Platform::Native),
            IgvmPlatformType::SEV_SNP => return Ok(Platform::Snp),
            IgvmPlatformType::TDX => other = header.bad("TDX image", "expected native or SEV-SNP: no TDX model here"),
            _ => other = header.bad("image for another platform", "expected native or SEV-SNP"),
        }
    }
    Err(other)
}

/// A header that declares a platform.
fn supported(header: &Header<'_>) -> Result<Option<IGVM_VHS_SUPPORTED_PLATFORM>, BadImage> {
    if header.kind != IgvmVariableHeaderType::IGVM_VHT_SUPPORTED_PLATFORM.0 {
        return Ok(None);
    }
    let platform: IGVM_VHS_SUPPORTED_PLATFORM = header.read()?;
    if platform.compatibility_mask.count_ones() != 1 {
        return Err(header.bad("compatibility mask", "expected exactly one bit"));
    }
    Ok(Some(platform))
}

/// The compatibility mask of a platform in this file.
fn platform_mask(image: &Image<'_>, wanted: Platform) -> Result<u32, BadImage> {
    let (kind, version) = match wanted {
        Platform::Native => (IgvmPlatformType::NATIVE, IGVM_NATIVE_PLATFORM_VERSION),
        Platform::Snp => (IgvmPlatformType::SEV_SNP, IGVM_SEV_SNP_PLATFORM_VERSION),
        Platform::Tdx => (IgvmPlatformType::TDX, IGVM_TDX_PLATFORM_VERSION),
    };
    for header in image.headers() {
        let header = header?;
        let Some(platform) = supported(&header)?.filter(|platform| platform.platform_type == kind) else { continue };
        if platform.platform_version != version {
            return Err(header.bad("platform version", "expected 1"));
        }
        return Ok(platform.compatibility_mask);
    }
    Err(BadImage { what: "supported platforms", offset: 0, expectation: "expected the one that is to be loaded" })
}

struct Loader<'a, 'b, R> {
    image: &'a Image<'a>,
    machine: &'a Machine,
    ram: &'a mut R,
    placed: &'a mut PageSet<'b>,
    mask: u32,
    areas: [Option<Area>; AREAS],
    context: Option<Context>,
    launch: Option<&'a mut dyn Launch>,
    /// The page at the reset vector, where a platform has one, and whether the image has filled it.
    reset: Option<(&'a mut [u8; PAGE as usize], bool)>,
    guest_policy: u64,
}

impl<R: GuestRam> Loader<'_, '_, R> {
    fn run(&mut self) -> Result<(), Stop> {
        for header in self.image.headers() {
            self.carry_out(&header?)?;
        }
        Ok(())
    }

    /// Tells the launch of pages that are in place.
    fn launched(&mut self, header: &Header<'_>, gpa: u64, bytes: u64, kind: PageKind) -> Result<(), BadImage> {
        let Some(launch) = &mut self.launch else { return Ok(()) };
        launch.page(gpa, bytes, kind).map_err(|expectation| header.bad("page", expectation))
    }

    fn carry_out(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        use IgvmVariableHeaderType as Type;
        match Type(header.kind) {
            // Read by `platform_mask`.
            Type::IGVM_VHT_SUPPORTED_PLATFORM => Ok(()),
            Type::IGVM_VHT_SNP_ID_BLOCK if self.launch.is_some() => self.id_block(header),
            Type::IGVM_VHT_GUEST_POLICY => self.policy(header),
            // Regions may be moved, but need not be.
            Type::IGVM_VHT_RELOCATABLE_REGION
            | Type::IGVM_VHT_PAGE_TABLE_RELOCATION_REGION
            | Type::IGVM_VHT_VERSION_STRING => Ok(()),
            Type::IGVM_VHT_PAGE_DATA => self.page_data(header),
            Type::IGVM_VHT_PARAMETER_AREA => self.parameter_area(header),
            Type::IGVM_VHT_PARAMETER_INSERT => self.parameter_insert(header),
            Type::IGVM_VHT_VP_COUNT_PARAMETER => {
                self.parameter(header, 0, self.machine.processors.as_bytes()).map(|_| ())
            }
            // The only flag says that memory starts shared; a native guest's does not.
            Type::IGVM_VHT_ENVIRONMENT_INFO_PARAMETER => self.parameter(header, 0, &[0; 4]).map(|_| ()),
            Type::IGVM_VHT_MEMORY_MAP => self.memory_map(header),
            Type::IGVM_VHT_REQUIRED_MEMORY => self.required_memory(header),
            Type::IGVM_VHT_VP_CONTEXT => self.vp_context(header),
            Type(kind) if kind & IGVM_VHT_OPTIONAL_BIT != 0 => Ok(()),
            _ => Err(header.bad("header type", "expected one that this host knows, or one marked optional")),
        }
    }

    /// Policies bind only isolated guests.
    fn policy(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        let policy: IGVM_VHS_GUEST_POLICY = header.read()?;
        let applies = self.applies(policy.compatibility_mask);
        if applies {
            self.guest_policy = policy.policy;
        }
        let Some(launch) = self.launch.as_mut().filter(|_| applies) else { return Ok(()) };
        launch.policy(policy.policy).map_err(|expectation| header.bad("guest policy", expectation))
    }

    fn id_block(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        let block: IGVM_VHS_SNP_ID_BLOCK = header.read()?;
        let applies = self.applies(block.compatibility_mask);
        let Some(launch) = self.launch.as_mut().filter(|_| applies) else { return Ok(()) };
        launch.id_block(&block).map_err(|expectation| header.bad("ID block", expectation))
    }

    fn applies(&self, mask: u32) -> bool {
        mask & self.mask != 0
    }

    fn page_data(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        let page: IGVM_VHS_PAGE_DATA = header.read()?;
        if !self.applies(page.compatibility_mask) {
            return Ok(());
        }
        if page.reserved != 0 || page.flags.reserved() != 0 {
            return Err(header.bad("page data flags", "expected reserved bits to be zero"));
        }
        if page.gpa == RESET_PAGE && self.reset.is_some() {
            return self.reset_page(header, &page);
        }
        let kind = self.page_kind(header, &page)?;
        let bytes = if page.flags.is_2mb_page() { BLOCK } else { PAGE };
        self.claim(header, page.gpa, bytes, bytes)?;
        if let (PageKind::Secrets | PageKind::Cpuid, Some(launch)) = (kind, &mut self.launch) {
            if bytes != PAGE {
                return Err(header.bad("page data type", "expected a special page to have 4 KiB"));
            }
            let mut content = [0; PAGE as usize];
            launch.fill(kind, &mut content);
            self.ram.write(page.gpa, &content).map_err(|OutsideRam| outside(header))?;
            return self.launched(header, page.gpa, bytes, kind);
        }
        let result = if page.file_offset == 0 {
            self.ram.zero(page.gpa, bytes)
        } else {
            let gpa = if Slip::Shifted.is_planted() { page.gpa + PAGE } else { page.gpa };
            self.ram.write(gpa, self.image.data(page.file_offset, bytes as usize, header)?)
        };
        result.map_err(|OutsideRam| outside(header))?;
        self.launched(header, page.gpa, bytes, kind)
    }

    /// The page at the reset vector lies where a VM has no RAM, however much it has.
    fn reset_page(&mut self, header: &Header<'_>, page: &IGVM_VHS_PAGE_DATA) -> Result<(), BadImage> {
        let small = self.page_kind(header, page)? == PageKind::Normal && !page.flags.is_2mb_page();
        let content = self.image.data(page.file_offset, PAGE as usize, header)?;
        match &mut self.reset {
            Some((reset, filled @ false)) if small => {
                reset.copy_from_slice(content);
                *filled = true;
                Ok(())
            }
            _ => Err(header.bad("page at the reset vector", "expected one, measured, of 4 KiB")),
        }
    }

    fn page_kind(&self, header: &Header<'_>, page: &IGVM_VHS_PAGE_DATA) -> Result<PageKind, BadImage> {
        let snp = self.launch.is_some();
        match page.data_type {
            IgvmPageDataType::NORMAL if page.flags.shared() => Ok(PageKind::Shared),
            IgvmPageDataType::NORMAL if page.flags.unmeasured() => Ok(PageKind::Unmeasured),
            IgvmPageDataType::NORMAL => Ok(PageKind::Normal),
            IgvmPageDataType::SECRETS if snp => Ok(PageKind::Secrets),
            IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF if snp => Ok(PageKind::Cpuid),
            _ => Err(header.bad("page data type", "expected one that the platform has")),
        }
    }

    /// Notes that the pages are in use; refuses what is not RAM, not aligned, or in use already.
    fn claim(&mut self, header: &Header<'_>, gpa: u64, bytes: u64, align: u64) -> Result<(), BadImage> {
        if !gpa.is_multiple_of(align) {
            return Err(header.bad("guest-physical address", "expected a multiple of the page size"));
        }
        if !self.machine.map.is_ram(gpa, bytes) {
            return Err(outside(header));
        }
        for page in (gpa..gpa.saturating_add(bytes)).step_by(PAGE as usize) {
            if !self.placed.insert(page) {
                return Err(header.bad("guest-physical address", "expected a page that no other directive fills"));
            }
        }
        Ok(())
    }

    fn parameter_area(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        let area: IGVM_VHS_PARAMETER_AREA = header.read()?;
        if self.areas.iter().flatten().any(|known| known.index == area.parameter_area_index) {
            return Err(header.bad("parameter area index", "expected one that is not in use"));
        }
        // Where the area goes is said later in the file; one that goes nowhere on this platform needs no memory.
        let Some(gpa) = self.insertion(area.parameter_area_index)? else { return Ok(()) };
        let bytes = area.number_of_bytes;
        if bytes == 0 || !bytes.is_multiple_of(PAGE) {
            return Err(header.bad("parameter area size", "expected a multiple of the page size"));
        }
        self.claim(header, gpa, bytes, PAGE)?;
        let result = if area.file_offset == 0 {
            self.ram.zero(gpa, bytes)
        } else {
            let bytes = usize::try_from(bytes).map_err(|_| outside(header))?;
            self.ram.write(gpa, self.image.data(area.file_offset, bytes, header)?)
        };
        result.map_err(|OutsideRam| outside(header))?;
        let slot = self.areas.iter_mut().find(|slot| slot.is_none());
        let slot = slot.ok_or(header.bad("parameter area", "expected at most 16 of them"))?;
        *slot = Some(Area { index: area.parameter_area_index, bytes, gpa, inserted: false });
        Ok(())
    }

    /// Where the area with this index is inserted.
    fn insertion(&self, index: u32) -> Result<Option<u64>, BadImage> {
        for header in self.image.headers() {
            let header = header?;
            if header.kind == IgvmVariableHeaderType::IGVM_VHT_PARAMETER_INSERT.0 {
                let insert: IGVM_VHS_PARAMETER_INSERT = header.read()?;
                if insert.parameter_area_index == index && self.applies(insert.compatibility_mask) {
                    return Ok(Some(insert.gpa));
                }
            }
        }
        Ok(None)
    }

    fn parameter_insert(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        let insert: IGVM_VHS_PARAMETER_INSERT = header.read()?;
        if !self.applies(insert.compatibility_mask) {
            return Ok(());
        }
        let known = |area: &&mut Area| area.index == insert.parameter_area_index && !area.inserted;
        let Some(area) = self.areas.iter_mut().flatten().find(known) else {
            return Err(header.bad("parameter area index", "expected a declared area that is not inserted yet"));
        };
        area.inserted = true;
        // Only now is the area what the guest will find.
        let (gpa, bytes) = (area.gpa, area.bytes);
        self.launched(header, gpa, bytes, PageKind::Unmeasured)
    }

    /// Writes `value` at `skip` bytes behind the parameter's place; returns how many bytes are left behind it.
    fn parameter(&mut self, header: &Header<'_>, skip: u64, value: &[u8]) -> Result<u64, BadImage> {
        let parameter: IGVM_VHS_PARAMETER = header.read()?;
        let index = parameter.parameter_area_index;
        let Some(area) = self.areas.iter().flatten().find(|area| area.index == index) else {
            // An area that no insertion for this platform names takes no memory, so neither do its parameters.
            return match self.insertion(index)? {
                None => Ok(u64::MAX),
                Some(_) => Err(header.bad("parameter area index", "expected an area that is declared before")),
            };
        };
        if area.inserted {
            return Err(header.bad("parameter", "expected it before its area is inserted"));
        }
        let start = u64::from(parameter.byte_offset).saturating_add(skip);
        let end = start.saturating_add(value.len() as u64);
        let Some(left) = area.bytes.checked_sub(end) else {
            return Err(header.bad("parameter", "expected an area that is large enough for it"));
        };
        let low = if value.len() <= 8 && Slip::Low.is_planted() { 8 } else { 0 };
        self.ram
            .write(area.gpa.saturating_add(start).saturating_sub(low), value)
            .map_err(|OutsideRam| outside(header))?;
        Ok(left)
    }

    /// The guest's RAM, sorted, with an empty entry at the end.
    fn memory_map(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        let machine = *self.machine;
        let end = crate::memory::Range::default();
        for (position, range) in (0u64..).zip(machine.map.ranges().chain([end])) {
            let entry = IGVM_VHS_MEMORY_MAP_ENTRY {
                starting_gpa_page_number: range.start / PAGE,
                number_of_pages: range.bytes() / PAGE,
                entry_type: MemoryMapEntryType::MEMORY,
                flags: 0,
                reserved: 0,
            };
            self.parameter(header, position.saturating_mul(size_of_val(&entry) as u64), entry.as_bytes())?;
        }
        Ok(())
    }

    fn required_memory(&self, header: &Header<'_>) -> Result<(), BadImage> {
        let memory: IGVM_VHS_REQUIRED_MEMORY = header.read()?;
        if self.applies(memory.compatibility_mask)
            && !self.machine.map.contains(memory.gpa, memory.number_of_bytes.into())
        {
            return Err(header.bad("required memory", "expected a VM that has it; give it more memory"));
        }
        Ok(())
    }

    fn vp_context(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        let context: IGVM_VHS_VP_CONTEXT = header.read()?;
        if !self.applies(context.compatibility_mask) {
            return Ok(());
        }
        let data = self.image.data(context.file_offset, CONTEXT_BYTES, header)?;
        if let (Some(launch), Ok(vmsa)) = (&mut self.launch, data.try_into()) {
            let index = context.vp_index;
            let launched = launch.context(context.gpa.get(), index, vmsa);
            return launched.map_err(|expectation| header.bad("processor context", expectation));
        }
        if context.vp_index != 0 || context.gpa.get() != 0 {
            return Err(header.bad("processor context", "expected one for the boot processor only, without an address"));
        }
        if self.context.is_some() {
            return Err(header.bad("processor context", "expected only one"));
        }
        self.context = Some(Context::parse(data, header)?);
        Ok(())
    }
}

fn outside(header: &Header<'_>) -> BadImage {
    header.bad("guest-physical address", "expected RAM that the VM has; give it more memory")
}
