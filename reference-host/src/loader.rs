// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out an IGVM file's directives for the native platform: places pages, fills parameter areas, finds the processor
//! state. Directives for other platforms (other compatibility masks) are skipped.
//!
//! The guest's memory is written only where a directive says so, and no page twice. Parameter areas are filled in place:
//! where an area will be inserted is looked up ahead, so no second copy of it is needed.

use crate::context::{CONTEXT_BYTES, Context};
use crate::image::{Header, Image};
use crate::memory::{BLOCK, GuestMap, PAGE, PageSet};
use crate::report::{BadImage, Stop};
use igvm_defs::{
    IGVM_NATIVE_PLATFORM_VERSION, IGVM_VHS_MEMORY_MAP_ENTRY, IGVM_VHS_PAGE_DATA, IGVM_VHS_PARAMETER,
    IGVM_VHS_PARAMETER_AREA, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_REQUIRED_MEMORY, IGVM_VHS_SUPPORTED_PLATFORM,
    IGVM_VHS_VP_CONTEXT, IGVM_VHT_OPTIONAL_BIT, IgvmPageDataType, IgvmPlatformType, IgvmVariableHeaderType,
    MemoryMapEntryType,
};
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

/// Loads the image and returns the boot processor's state.
pub fn load(
    image: &Image<'_>,
    machine: &Machine,
    ram: &mut impl GuestRam,
    placed: &mut PageSet<'_>,
) -> Result<Context, Stop> {
    let mask = native_mask(image)?;
    let mut loader = Loader { image, machine, ram, placed, mask, areas: [None; AREAS], context: None };
    for header in image.headers() {
        loader.carry_out(&header?)?;
    }
    loader.context.ok_or_else(|| {
        let what = "end of the directives";
        Stop::Image(BadImage { what, offset: 0, expectation: "expected a context for the boot processor" })
    })
}

/// The compatibility mask of the native platform in this file.
fn native_mask(image: &Image<'_>) -> Result<u32, BadImage> {
    let mut other = BadImage { what: "supported platforms", offset: 0, expectation: "expected at least one" };
    for header in image.headers() {
        let header = header?;
        if header.kind != IgvmVariableHeaderType::IGVM_VHT_SUPPORTED_PLATFORM.0 {
            continue;
        }
        let platform: IGVM_VHS_SUPPORTED_PLATFORM = header.read()?;
        if platform.compatibility_mask.count_ones() != 1 {
            return Err(header.bad("compatibility mask", "expected exactly one bit"));
        }
        match platform.platform_type {
            IgvmPlatformType::NATIVE if platform.platform_version == IGVM_NATIVE_PLATFORM_VERSION => {
                return Ok(platform.compatibility_mask);
            }
            IgvmPlatformType::NATIVE => return Err(header.bad("platform version", "expected 1 for native")),
            IgvmPlatformType::SEV_SNP => {
                other = header.bad("SEV-SNP image", "expected native: this host has no SNP model")
            }
            IgvmPlatformType::TDX => other = header.bad("TDX image", "expected native: this host has no TDX model"),
            _ => other = header.bad("image for another platform", "expected native"),
        }
    }
    Err(other)
}

struct Loader<'a, 'b, R> {
    image: &'a Image<'a>,
    machine: &'a Machine,
    ram: &'a mut R,
    placed: &'a mut PageSet<'b>,
    mask: u32,
    areas: [Option<Area>; AREAS],
    context: Option<Context>,
}

impl<R: GuestRam> Loader<'_, '_, R> {
    fn carry_out(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        use IgvmVariableHeaderType as Type;
        match Type(header.kind) {
            // Read by `native_mask`.
            Type::IGVM_VHT_SUPPORTED_PLATFORM => Ok(()),
            // Policies bind only isolated guests. Regions may be moved, but need not be.
            Type::IGVM_VHT_GUEST_POLICY
            | Type::IGVM_VHT_RELOCATABLE_REGION
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

    fn applies(&self, mask: u32) -> bool {
        mask & self.mask != 0
    }

    fn page_data(&mut self, header: &Header<'_>) -> Result<(), BadImage> {
        let page: IGVM_VHS_PAGE_DATA = header.read()?;
        if !self.applies(page.compatibility_mask) {
            return Ok(());
        }
        if page.data_type != IgvmPageDataType::NORMAL || page.reserved != 0 || page.flags.reserved() != 0 {
            return Err(header.bad("page data type", "expected normal data on the native platform"));
        }
        let bytes = if page.flags.is_2mb_page() { BLOCK } else { PAGE };
        self.claim(header, page.gpa, bytes, bytes)?;
        let result = if page.file_offset == 0 {
            self.ram.zero(page.gpa, bytes)
        } else {
            self.ram.write(page.gpa, self.image.data(page.file_offset, bytes as usize, header)?)
        };
        result.map_err(|OutsideRam| outside(header))
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
        match self.areas.iter_mut().flatten().find(known) {
            Some(area) => {
                area.inserted = true;
                Ok(())
            }
            None => Err(header.bad("parameter area index", "expected a declared area that is not inserted yet")),
        }
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
        self.ram.write(area.gpa.saturating_add(start), value).map_err(|OutsideRam| outside(header))?;
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
        if context.vp_index != 0 || context.gpa.get() != 0 {
            return Err(header.bad("processor context", "expected one for the boot processor only, without an address"));
        }
        if self.context.is_some() {
            return Err(header.bad("processor context", "expected only one"));
        }
        self.context = Some(Context::parse(self.image.data(context.file_offset, CONTEXT_BYTES, header)?, header)?);
        Ok(())
    }
}

const fn outside(header: &Header<'_>) -> BadImage {
    header.bad("guest-physical address", "expected RAM that the VM has; give it more memory")
}
