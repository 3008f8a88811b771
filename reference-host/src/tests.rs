// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads files that the `igvm` crate wrote, whole and damaged, into a guest that is a vector.

use crate::context::Context;
use crate::handover::Slot;
use crate::image::Image;
use crate::loader::{GuestRam, Launch, Machine, OutsideRam, PageKind, Platform, load, load_snp};
use crate::memory::{GuestMap, PAGE, PageSet};
use crate::report::Stop;
use igvm::{Arch, IgvmDirectiveHeader as Directive, IgvmFile, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmNativeVpContextX64,
    IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType,
};
use zerocopy::FromZeros;

const MEMORY: u64 = 4 << 20;
const TABLES: u64 = 0x20_0000;
const PARAMETERS: u64 = 0x30_0000;

struct Ram(Vec<u8>);

impl Ram {
    fn slice(&mut self, gpa: u64, bytes: u64) -> Result<&mut [u8], OutsideRam> {
        self.0.get_mut(gpa as usize..(gpa + bytes) as usize).ok_or(OutsideRam)
    }
}

impl GuestRam for Ram {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), OutsideRam> {
        self.slice(gpa, bytes.len() as u64)?.copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, gpa: u64, bytes: u64) -> Result<(), OutsideRam> {
        self.slice(gpa, bytes)?.fill(0);
        Ok(())
    }

    fn read(&self, gpa: u64) -> Result<u64, OutsideRam> {
        let bytes = self.0.get(gpa as usize..gpa as usize + 8).ok_or(OutsideRam)?;
        Ok(u64::from_le_bytes(bytes.try_into().unwrap()))
    }
}

fn platform(kind: IgvmPlatformType) -> IgvmPlatformHeader {
    IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: 1,
        highest_vtl: 0,
        platform_type: kind,
        platform_version: 1,
        shared_gpa_boundary: 0,
    })
}

fn page(gpa: u64, data: Vec<u8>) -> Directive {
    Directive::PageData {
        gpa,
        compatibility_mask: 1,
        flags: IgvmPageDataFlags::new(),
        data_type: IgvmPageDataType::NORMAL,
        data,
    }
}

fn registers() -> IgvmNativeVpContextX64 {
    let mut state = IgvmNativeVpContextX64::new_zeroed();
    state.rip = 0x10_0000;
    state.rflags = 2;
    state.cr0 = 0x8001_0033;
    state.cr3 = TABLES;
    state.cr4 = 0x620;
    state.efer = 0xd00;
    (state.code_selector, state.code_attributes, state.code_limit) = (0x08, 0xa09b, u32::MAX);
    (state.data_selector, state.data_attributes, state.data_limit) = (0x10, 0xc093, u32::MAX);
    state
}

fn context(state: IgvmNativeVpContextX64) -> Directive {
    Directive::X64NativeVpContext { compatibility_mask: 1, vp_index: 0, context: Box::new(state) }
}

/// A top page table; the lower ones do not matter before the switch.
fn tables(entry: u64) -> Directive {
    let mut data = 1u64.to_le_bytes().to_vec();
    data.extend(entry.to_le_bytes().repeat(511));
    page(TABLES, data)
}

fn parameters() -> Vec<Directive> {
    let at = |byte_offset| IGVM_VHS_PARAMETER { parameter_area_index: 7, byte_offset };
    vec![
        Directive::ParameterArea { number_of_bytes: PAGE, parameter_area_index: 7, initial_data: vec![] },
        Directive::VpCount(at(0xffc)),
        Directive::MemoryMap(at(0)),
        Directive::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
            gpa: PARAMETERS,
            compatibility_mask: 1,
            parameter_area_index: 7,
        }),
    ]
}

fn good() -> Vec<Directive> {
    let mut directives = vec![tables(0)];
    directives.push(page(0x10_0000, vec![0xf4; PAGE as usize]));
    directives.push(page(0x10_1000, vec![]));
    directives.extend(parameters());
    directives.push(context(registers()));
    directives
}

fn file(directives: Vec<Directive>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let platforms = vec![platform(IgvmPlatformType::NATIVE)];
    IgvmFile::new(IgvmRevision::V1, platforms, vec![], directives).unwrap().serialize(&mut bytes).unwrap();
    bytes
}

fn load_into(ram: &mut Ram, file: &[u8]) -> Result<(Context, Slot), Stop> {
    let machine = Machine { map: GuestMap::new(MEMORY), processors: 3 };
    let mut bits = vec![0; PageSet::bytes(&machine.map) as usize];
    let mut placed = PageSet::new(machine.map, &mut bits);
    let context = load(&Image::parse(file)?, &machine, ram, &mut placed)?;
    let slot = Slot::find(ram, &context)?;
    Ok((context, slot))
}

fn refusal(file: &[u8]) -> &'static str {
    match load_into(&mut Ram(vec![0xaa; MEMORY as usize]), file) {
        Err(Stop::Image(bad)) => bad.what,
        other => panic!("{other:?}"),
    }
}

fn refused(directives: Vec<Directive>) -> &'static str {
    refusal(&file(directives))
}

#[test]
fn pages_and_parameters_arrive_and_nothing_else_changes() {
    let mut ram = Ram(vec![0xaa; MEMORY as usize]);
    let (context, slot) = load_into(&mut ram, &file(good())).unwrap();
    assert_eq!(context.registers().rip, 0x10_0000);
    assert_eq!((slot.page(), slot.entry()), (1 << 39, (1 << 39) + PAGE + 8));
    assert_eq!(ram.read(0x10_0000), Ok(0xf4f4_f4f4_f4f4_f4f4));
    assert_eq!(ram.read(0x10_1000), Ok(0));
    assert_eq!(ram.read(0x10_2000), Ok(0xaaaa_aaaa_aaaa_aaaa));
    // The memory map: one range of 1024 pages, then the end.
    let map: Vec<u64> = (0..6).map(|word| ram.read(PARAMETERS + 8 * word).unwrap()).collect();
    assert_eq!(map, [0, MEMORY / PAGE, 0, 0, 0, 0]);
    assert_eq!(ram.read(PARAMETERS + 0xff8), Ok(3 << 32));
}

#[test]
fn version_2_of_the_format_is_read_too() {
    let mut bytes = Vec::new();
    let revision = IgvmRevision::V2 { arch: Arch::X64, page_size: PAGE as u32 };
    let platforms = vec![platform(IgvmPlatformType::NATIVE)];
    IgvmFile::new(revision, platforms, vec![], good()).unwrap().serialize(&mut bytes).unwrap();
    assert!(load_into(&mut Ram(vec![0; MEMORY as usize]), &bytes).is_ok());
}

#[test]
fn every_truncation_is_refused() {
    let whole = file(good());
    for length in (0..whole.len()).step_by(101) {
        refusal(&whole[..length]);
    }
    refusal(&[&whole[..], &[0]].concat());
}

#[test]
fn every_damaged_header_byte_is_noticed() {
    let whole = file(good());
    for position in 0..headers(&whole) {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x40;
        refusal(&damaged);
    }
}

/// Random damage behind a right checksum: whatever happens, nothing panics and nothing outside the guest is written.
#[test]
fn damage_with_a_right_checksum_never_panics() {
    let whole = file(good());
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    let headers = headers(&whole);
    for _ in 0..20_000 {
        let mut damaged = whole.clone();
        for _ in 0..1 + random() % 3 {
            damaged[random() % headers] = random() as u8;
        }
        repair_checksum(&mut damaged, headers);
        let _ = load_into(&mut Ram(vec![0; MEMORY as usize]), &damaged);
    }
}

/// How many bytes of the file are headers.
fn headers(file: &[u8]) -> usize {
    let field = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    field(8) + field(12)
}

/// Bit by bit, so that it shares nothing with the code under test.
fn repair_checksum(file: &mut [u8], headers: usize) {
    file[20..24].fill(0);
    let mut crc = !0u32;
    for byte in &file[..headers] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    file[20..24].copy_from_slice(&(!crc).to_le_bytes());
}

fn isolated(kind: IgvmPlatformType, directives: Vec<Directive>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = IgvmFile::new(IgvmRevision::V1, vec![platform(kind)], vec![], directives).unwrap();
    file.serialize(&mut bytes).unwrap();
    bytes
}

#[test]
fn images_for_platforms_without_a_model_are_refused_by_name() {
    let bytes = isolated(IgvmPlatformType::TDX, vec![page(0x10_0000, vec![1; PAGE as usize])]);
    let refused = crate::loader::platform(&Image::parse(&bytes).unwrap(), None).unwrap_err();
    assert_eq!(refused.what, "TDX image");
}

#[test]
fn a_file_for_several_platforms_is_for_the_one_that_is_wanted() {
    let with_mask = |mask, kind| {
        let IgvmPlatformHeader::SupportedPlatform(header) = platform(kind);
        IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM { compatibility_mask: mask, ..header })
    };
    let both = vec![with_mask(1, IgvmPlatformType::NATIVE), with_mask(2, IgvmPlatformType::SEV_SNP)];
    let mut bytes = Vec::new();
    let pages = vec![page(0x10_0000, vec![1; PAGE as usize])];
    IgvmFile::new(IgvmRevision::V1, both, vec![], pages).unwrap().serialize(&mut bytes).unwrap();
    let image = Image::parse(&bytes).unwrap();
    let choose = |wanted| crate::loader::platform(&image, wanted);
    assert_eq!(choose(None), Ok(Platform::Native));
    assert_eq!(
        [Platform::Native, Platform::Snp].map(|wanted| choose(Some(wanted))),
        [Ok(Platform::Native), Ok(Platform::Snp)]
    );
    let alone = isolated(IgvmPlatformType::SEV_SNP, vec![page(0x10_0000, vec![1; PAGE as usize])]);
    let alone = Image::parse(&alone).unwrap();
    let refused = crate::loader::platform(&alone, Some(Platform::Native)).unwrap_err();
    assert_eq!(refused.expectation, "expected the one that is to be loaded");
}

/// What a launch was told.
#[derive(Default)]
struct Launched {
    pages: Vec<(u64, u64, PageKind)>,
    filled: Vec<PageKind>,
    contexts: Vec<(u64, u16, u8)>,
    policies: Vec<u64>,
    id_blocks: Vec<u32>,
}

impl Launch for Launched {
    fn policy(&mut self, policy: u64) -> Result<(), &'static str> {
        self.policies.push(policy);
        Ok(())
    }

    fn id_block(&mut self, block: &igvm_defs::IGVM_VHS_SNP_ID_BLOCK) -> Result<(), &'static str> {
        self.id_blocks.push(block.guest_svn);
        Ok(())
    }

    fn fill(&mut self, kind: PageKind, page: &mut [u8; PAGE as usize]) {
        self.filled.push(kind);
        page.fill(0x5a);
    }

    fn page(&mut self, gpa: u64, bytes: u64, kind: PageKind) -> Result<(), &'static str> {
        self.pages.push((gpa, bytes, kind));
        Ok(())
    }

    fn context(&mut self, gpa: u64, index: u16, vmsa: &[u8; PAGE as usize]) -> Result<(), &'static str> {
        self.contexts.push((gpa, index, vmsa[0xca]));
        Ok(())
    }
}

fn special(gpa: u64, data_type: IgvmPageDataType, flags: IgvmPageDataFlags) -> Directive {
    Directive::PageData { gpa, compatibility_mask: 1, flags, data_type, data: vec![] }
}

#[test]
fn a_launch_sees_every_page_in_the_order_of_the_file() {
    let none = IgvmPageDataFlags::new();
    let mut vmsa = igvm::snp_defs::SevVmsa::new_zeroed();
    vmsa.vmpl = 2;
    let context = Directive::SnpVpContext { gpa: 0x7000, compatibility_mask: 1, vp_index: 3, vmsa: Box::new(vmsa) };
    let mut directives = vec![
        special(0x3000, IgvmPageDataType::SECRETS, none),
        page(0x2000, vec![1; PAGE as usize]),
        special(0x4000, IgvmPageDataType::CPUID_DATA, none),
        special(0x5000, IgvmPageDataType::NORMAL, none.with_unmeasured(true)),
        special(0x6000, IgvmPageDataType::NORMAL, none.with_shared(true)),
        context,
    ];
    directives.splice(1..1, parameters());
    let bytes = isolated(IgvmPlatformType::SEV_SNP, directives);
    let image = Image::parse(&bytes).unwrap();
    assert_eq!(crate::loader::platform(&image, None), Ok(Platform::Snp));
    let mut ram = Ram(vec![0xee; MEMORY as usize]);
    let machine = Machine { map: GuestMap::new(MEMORY), processors: 1 };
    let mut bits = vec![0; PageSet::bytes(&machine.map) as usize];
    let mut launched = Launched::default();
    let mut placed = PageSet::new(machine.map, &mut bits);
    load_snp(&image, &machine, &mut ram, &mut placed, &mut launched).unwrap();
    let pages: Vec<_> = launched.pages.iter().map(|(gpa, _, kind)| (*gpa, *kind)).collect();
    use PageKind::{Cpuid, Normal, Secrets, Shared, Unmeasured};
    let expected = [
        (0x3000, Secrets),
        (PARAMETERS, Unmeasured),
        (0x2000, Normal),
        (0x4000, Cpuid),
        (0x5000, Unmeasured),
        (0x6000, Shared),
    ];
    assert_eq!(pages, expected);
    assert_eq!(launched.filled, [Secrets, Cpuid]);
    assert_eq!(launched.contexts, [(0x7000, 3, 2)]);
    assert_eq!((ram.0[0x3000], ram.0[0x2000], ram.0[0x5000]), (0x5a, 1, 0));
}

#[test]
fn special_pages_are_not_for_a_native_machine() {
    let mut directives = good();
    directives.insert(0, special(0x30_8000, IgvmPageDataType::SECRETS, IgvmPageDataFlags::new()));
    assert_eq!(refused(directives), "page data type");
}

#[test]
fn pages_outside_ram_or_placed_twice_are_refused() {
    for gpa in [MEMORY, 0xa0000, 0xf_f000, 1 << 40, 0x10_0000] {
        let mut directives = good();
        directives.insert(0, page(gpa, vec![1; PAGE as usize]));
        assert_eq!(refused(directives), "guest-physical address", "{gpa:#x}");
    }
}

#[test]
fn a_parameter_that_does_not_fit_is_refused() {
    for (position, offset) in [(1, 0xffd), (1, u32::MAX), (2, 0xfd8)] {
        let mut list = parameters();
        let at = IGVM_VHS_PARAMETER { parameter_area_index: 7, byte_offset: offset };
        list[position] = if position == 1 { Directive::VpCount(at) } else { Directive::MemoryMap(at) };
        let mut directives = vec![tables(0)];
        directives.extend(list);
        directives.push(context(registers()));
        // The `igvm` crate refuses some of these itself; then there is no file to try.
        if IgvmFile::new(IgvmRevision::V1, vec![platform(IgvmPlatformType::NATIVE)], vec![], directives.clone()).is_ok()
        {
            assert_eq!(refused(directives), "parameter", "{offset:#x}");
        }
    }
}

#[test]
fn a_context_must_exist_and_be_in_64_bit_mode() {
    let mut directives = good();
    directives.pop();
    assert_eq!(refused(directives), "end of the directives");
    let changes: [fn(&mut IgvmNativeVpContextX64); 7] = [
        |state| state.cr0 = 0x11,
        |state| state.efer = 0,
        |state| state.cr4 |= 1 << 17,
        |state| state.rip = 1 << 63,
        |state| state.code_attributes = 0xc09b,
        |state| state.data_selector = state.code_selector,
        |state| state.rflags |= 1 << 8,
    ];
    for change in changes {
        let mut state = registers();
        change(&mut state);
        let mut directives = good();
        directives.pop();
        directives.push(context(state));
        assert_eq!(refused(directives), "processor context");
    }
}

#[test]
fn a_top_table_without_a_free_entry_is_refused() {
    let mut directives = good();
    directives[0] = tables(3);
    assert_eq!(refused(directives), "top page table");
    let mut state = registers();
    state.cr3 = 2 * MEMORY;
    let mut directives = good();
    directives.pop();
    directives.push(context(state));
    assert_eq!(refused(directives), "top page table");
}

/// Loads a TDX image: its policy, and the page at the reset vector.
fn tdx(directives: Vec<Directive>) -> Result<(u64, [u8; PAGE as usize]), Stop> {
    let policy = igvm::IgvmInitializationHeader::GuestPolicy { policy: 5, compatibility_mask: 1 };
    let platform = vec![platform(IgvmPlatformType::TDX)];
    let mut bytes = Vec::new();
    IgvmFile::new(IgvmRevision::V1, platform, vec![policy], directives).unwrap().serialize(&mut bytes).unwrap();
    let map = GuestMap::new(MEMORY);
    let mut bits = vec![0; PageSet::bytes(&map) as usize];
    let (mut placed, mut reset) = (PageSet::new(map, &mut bits), [0; PAGE as usize]);
    let machine = Machine { map, processors: 1 };
    let mut ram = Ram(vec![0; MEMORY as usize]);
    let policy = crate::loader::load_tdx(&Image::parse(&bytes).unwrap(), &machine, &mut ram, &mut placed, &mut reset)?;
    assert!(placed.contains(0x10_0000) && ram.0[0x10_0000] == 1, "other pages lie in RAM");
    Ok((policy, reset))
}

#[test]
fn the_page_at_the_reset_vector_lies_where_no_ram_is() {
    let ordinary = || page(0x10_0000, vec![1; PAGE as usize]);
    let reset = || page(crate::tdx::RESET_PAGE, vec![0xcc; PAGE as usize]);
    assert_eq!(tdx(vec![ordinary(), reset()]), Ok((5, [0xcc; PAGE as usize])));
    let refused = |directives| match tdx(directives) {
        Err(Stop::Image(bad)) => bad.expectation,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(vec![ordinary()]), "expected a page at the reset vector");
    let empty = page(crate::tdx::RESET_PAGE, vec![]);
    assert_eq!(refused(vec![ordinary(), empty]), "expected it to lie behind the headers");
    let below = page(crate::tdx::RESET_PAGE - PAGE, vec![1; PAGE as usize]);
    assert_eq!(refused(vec![below]), "expected RAM that the VM has; give it more memory");
}

#[test]
fn the_start_of_a_td_is_played_only_if_it_is_asked_for() {
    let bytes = isolated(IgvmPlatformType::TDX, vec![page(0x10_0000, vec![1; PAGE as usize])]);
    let image = Image::parse(&bytes).unwrap();
    assert_eq!(crate::loader::platform(&image, Some(Platform::Tdx)), Ok(Platform::Tdx));
    assert!(crate::loader::platform(&image, Some(Platform::Snp)).is_err());
}
