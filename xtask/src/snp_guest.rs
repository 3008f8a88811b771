// SPDX-License-Identifier: MIT OR Apache-2.0
//! An IGVM file that boots a stock Linux kernel as an *enlightened* SEV-SNP guest, without Parados: the foreign software
//! that judges the reference host's model. Nothing but tests and the bench starts it.
//!
//! What firmware would do is done at build time (page tables, memory map, ACPI tables, the confidential-computing blob of
//! Linux's arch/x86/include/asm/sev.h) or by forty instructions that validate memory and jump to the kernel: Linux before
//! 6.5 expects to find all of it accepted.

use igvm::snp_defs::{SevFeatures, SevSelector, SevVmsa};
use igvm::{Arch, IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType};
use specs::linux_boot::{E820Entry, SETUP_HEADER_OFFSET, e820, zero_page};
use specs::linux_image::{ENTRY_64_OFFSET, SetupHeader};
use std::collections::BTreeMap;
use std::path::Path;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::failure::{Failure, Result, status};
use crate::image::Payload;

const PAGE: u64 = 4096;
const LARGE: u64 = 2 << 20;
/// The model's C-bit. Real firmware asks CPUID; this test image is made for one host.
const C_BIT: u64 = 1 << 47;
const MASK: u32 = 1;

/// Where things are: above what the kernel's own trampoline wants, below the video memory.
const BOOT_PARAMETERS: u64 = 0x9_0000;
const COMMAND_LINE: u64 = 0x9_1000;
const DESCRIPTORS: u64 = 0x9_2000;
const TABLES: u64 = 0x9_3000;
const CODE: u64 = 0x9_a000;
const BLOB: u64 = 0x9_b000;
const SECRETS: u64 = 0x9_c000;
const CPUID: u64 = 0x9_d000;
const RANGES: u64 = 0x9_e000;
const RESERVED: std::ops::Range<u64> = BOOT_PARAMETERS..0xa_0000;
const ACPI_TABLES: std::ops::Range<u64> = 0x8_0000..0x9_0000;
const LEGACY: [std::ops::Range<u64>; 2] = [0..0x1000, 0xc_0000..0x10_0000];
const INITRD: u64 = 0x800_0000;

/// `setup_data` (BOOT): next, type, length; type 7 is the blob's address.
const SETUP_CC_BLOB: u32 = 7;

/// What leads a Linux kernel to the secrets page and the CPUID page (Linux, arch/x86/include/asm/sev.h, `cc_blob_sev_info`).
#[derive(Clone, Copy, Debug, Immutable, IntoBytes)]
#[repr(C)]
struct CcBlob {
    /// [`CC_BLOB_MAGIC`].
    magic: U32,
    version: U16,
    reserved: U16,
    secrets: U64,
    secrets_bytes: U32,
    reserved_14: U32,
    cpuid: U64,
    cpuid_bytes: U32,
    reserved_24: U32,
}

/// "AMDE".
const CC_BLOB_MAGIC: u32 = 0x4544_4d41;

/// Validates the ranges listed at RBX, each in four words (start, end, PVALIDATE's size, step; a start of all ones ends the
/// list), then jumps to R15. RSI is the kernel's. A page that cannot be validated ends the guest through the GHCB MSR.
const VALIDATE: [u8; 0x49] = [
    0x48, 0x8b, 0x3b, //                   next:   mov rdi, [rbx]
    0x48, 0x83, 0xff, 0xff, //                     cmp rdi, -1
    0x74, 0x2a, //                                 je done
    0x4c, 0x8b, 0x43, 0x08, //                     mov r8, [rbx + 8]
    0x4c, 0x39, 0xc7, //                   page:   cmp rdi, r8
    0x73, 0x1b, //                                 jae after
    0x48, 0x89, 0xf8, //                           mov rax, rdi
    0x8b, 0x4b, 0x10, //                           mov ecx, [rbx + 16]
    0xba, 0x01, 0x00, 0x00, 0x00, //               mov edx, 1
    0xf2, 0x0f, 0x01, 0xff, //                     pvalidate
    0x72, 0x13, //                                 jc failed
    0x85, 0xc0, //                                 test eax, eax
    0x75, 0x0f, //                                 jnz failed
    0x48, 0x03, 0x7b, 0x18, //                     add rdi, [rbx + 24]
    0xeb, 0xe0, //                                 jmp page
    0x48, 0x83, 0xc3, 0x20, //             after:  add rbx, 32
    0xeb, 0xcd, //                                 jmp next
    0x41, 0xff, 0xe7, //                   done:   jmp r15
    0xb9, 0x30, 0x01, 0x01, 0xc0, //       failed: mov ecx, 0xc0010130
    0xb8, 0x00, 0x11, 0x02, 0x00, //               mov eax, 0x21100, reason set 1, code 2
    0x31, 0xd2, //                                 xor edx, edx
    0x0f, 0x30, //                                 wrmsr
    0xf3, 0x0f, 0x01, 0xd9, //                     vmgexit
    0xf4, //                                       hlt
];

/// Pages with content, by address.
type Pages = BTreeMap<u64, Vec<u8>>;

/// The file for a payload and a VM with so much memory and so many processors.
pub(crate) fn build(payload: &Payload, memory: u64, processors: u32) -> Result<Vec<u8>> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| Failure::system(path.display(), error));
    let kernel = read(&payload.kernel)?;
    let initrd = payload.initrd.as_deref().map(read).transpose()?.unwrap_or_default();
    let bad = || Failure::data(format!("{}: no bzImage of protocol 2.12", payload.kernel.display()));
    let header = kernel.get(SETUP_HEADER_OFFSET..).ok_or_else(bad)?;
    let (header, _) = SetupHeader::read_from_prefix(header).map_err(|_| bad())?;
    let code = kernel.get(header.kernel_offset()..).ok_or_else(bad)?;
    let start = header.pref_address.get();
    let mut pages = Pages::new();
    put(&mut pages, start, code);
    put(&mut pages, INITRD, &initrd);
    put(&mut pages, COMMAND_LINE, &[payload.command_line.as_bytes(), &[0]].concat());
    put(&mut pages, DESCRIPTORS, &descriptors());
    put(&mut pages, TABLES, &page_tables());
    put(&mut pages, CODE, &VALIDATE);
    put(&mut pages, BLOB, &blob());
    let acpi = acpi_tables(memory, processors)?;
    put(&mut pages, ACPI_TABLES.start, &acpi);
    // A kernel that was not started by UEFI looks for the BIOS's data and for ROMs: there are none, but not noise either.
    for page in LEGACY.into_iter().flatten().step_by(PAGE as usize) {
        pages.insert(page, Vec::new());
    }
    put(&mut pages, BOOT_PARAMETERS, &boot_parameters(&kernel, &header, initrd.len() as u64, memory));
    let ranges = ranges(&pages, memory);
    put(&mut pages, RANGES, &ranges);
    serialize(pages, processor(start + ENTRY_64_OFFSET), true)
}

/// The file for the probe in `guests/`: an ELF that starts in 64-bit mode with private memory at its address and the same
/// memory shared 512 GiB above. Nothing but its own pages is validated. `task` is what it finds in RDI; `restricted` gives it
/// restricted injection.
pub(crate) fn build_probe(program: &Path, task: u64, restricted: bool) -> Result<Vec<u8>> {
    let file = std::fs::read(program).map_err(|error| Failure::system(program.display(), error))?;
    let bad = || Failure::data(format!("{}: not an ELF that can be loaded", program.display()));
    let entry = file.get(24..32).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes).ok_or_else(bad)?;
    let mut pages = Pages::new();
    for segment in guests::elf::segments(&file).ok_or_else(bad)? {
        put(&mut pages, segment.address, segment.bytes);
        put(&mut pages, segment.address + segment.bytes.len() as u64, &vec![0; segment.zeros as usize]);
    }
    put(&mut pages, DESCRIPTORS, &descriptors());
    let mut tables = page_tables();
    // The second 512 GiB of the root: the same without the C-bit, in tables behind the others.
    let public = TABLES + PROBE_TABLES * PAGE;
    put(&mut pages, public, &public_tables(public));
    if let Some(slot) = tables.get_mut(8..16) {
        slot.copy_from_slice(&(public | C_BIT | 0x23).to_le_bytes());
    }
    put(&mut pages, TABLES, &tables);
    let mut vmsa = processor(0);
    (vmsa.rip, vmsa.rdi) = (entry, task);
    vmsa.sev_features = vmsa.sev_features.with_restrict_injection(restricted);
    serialize(pages, vmsa, false)
}

/// How many pages `page_tables` takes.
const PROBE_TABLES: u64 = 6;

/// A directory-pointer table and four directories, whose leaves lack the C-bit.
fn public_tables(at: u64) -> Vec<u8> {
    let mut tables: Vec<u64> = (1..5).map(|index| (at + index * PAGE) | C_BIT | 0x23).collect();
    tables.resize(512, 0);
    tables.extend((0..4 * 512).map(|page| (page * LARGE) | 0xe3));
    words(&tables)
}

/// Lays bytes over pages.
fn put(pages: &mut Pages, start: u64, bytes: &[u8]) {
    let mut at = start;
    let mut rest = bytes;
    while !rest.is_empty() {
        let page = pages.entry(at & !(PAGE - 1)).or_insert_with(|| vec![0; PAGE as usize]);
        let offset = (at % PAGE) as usize;
        let (piece, later) = rest.split_at(rest.len().min(PAGE as usize - offset));
        if let Some(slot) = page.get_mut(offset..offset + piece.len()) {
            slot.copy_from_slice(piece);
        }
        (at, rest) = (at + piece.len() as u64, later);
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Null, nothing, `__BOOT_CS`, `__BOOT_DS` (BOOT, "64-bit Boot Protocol").
fn descriptors() -> Vec<u8> {
    words(&[0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff])
}

/// The first 512 GiB, to themselves, private: a root, one table below it with leaves of 1 GiB, and four directories with leaves
/// of 2 MiB for the first 4 GiB.
fn page_tables() -> Vec<u8> {
    const TABLE: u64 = C_BIT | 0x23;
    const LEAF: u64 = C_BIT | 0xe3;
    let table = |index: u64| (TABLES + index * PAGE) | TABLE;
    let mut tables = vec![table(1)];
    tables.resize(512, 0);
    tables.extend((2..6).map(table));
    tables.extend((4..512).map(|page| (page << 30) | LEAF));
    tables.extend((0..4 * 512).map(|page| (page * LARGE) | LEAF));
    words(&tables)
}

/// The blob, and behind it the `setup_data` that leads to it.
fn blob() -> Vec<u8> {
    let blob = CcBlob {
        magic: CC_BLOB_MAGIC.into(),
        version: 1.into(),
        reserved: 0.into(),
        secrets: SECRETS.into(),
        secrets_bytes: (PAGE as u32).into(),
        reserved_14: 0.into(),
        cpuid: CPUID.into(),
        cpuid_bytes: (PAGE as u32).into(),
        reserved_24: 0.into(),
    };
    let mut bytes = blob.as_bytes().to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(SETUP_CC_BLOB.to_le_bytes());
    bytes.extend(4u32.to_le_bytes());
    bytes.extend((BLOB as u32).to_le_bytes());
    bytes
}

/// Where RAM goes on, if it does not fit below 2 GiB: as the reference host has it.
const LOW_END: u64 = 2 << 30;
const HIGH_START: u64 = 4 << 30;

/// The RAM from 1 MiB on; an empty range if there is none above 4 GiB.
fn ram(memory: u64) -> [std::ops::Range<u64>; 2] {
    [1 << 20..memory.min(LOW_END), HIGH_START..HIGH_START + memory.saturating_sub(LOW_END)]
}

fn acpi_tables(memory: u64, processors: u32) -> Result<Vec<u8>> {
    let mut buffer = vec![0; (ACPI_TABLES.end - ACPI_TABLES.start) as usize];
    let description =
        devices::acpi::Description { processors, command_console: false, low_memory_end: memory.min(LOW_END) };
    let tables = devices::acpi::build_for_loader(&description, &mut buffer, ACPI_TABLES.start);
    let tables = tables.map_err(|error| Failure::new(status::FAILED, format!("ACPI tables: {error:?}")))?;
    buffer.truncate(tables.used);
    Ok(buffer)
}

fn boot_parameters(kernel: &[u8], header: &SetupHeader, initrd: u64, memory: u64) -> Vec<u8> {
    let mut page = vec![0; zero_page::BYTES];
    let mut header = *header;
    header.type_of_loader = specs::linux_boot::LOADER_UNDEFINED;
    header.cmd_line_ptr = (COMMAND_LINE as u32).into();
    header.ramdisk_image = (INITRD as u32).into();
    header.ramdisk_size = (initrd as u32).into();
    header.setup_data = (BLOB + size_of::<CcBlob>() as u64).into();
    // As much of the header as this kernel has; the rest of the page is not the header's.
    let end = header.end().min(SETUP_HEADER_OFFSET + size_of::<SetupHeader>()).min(kernel.len());
    let mut set = |at: usize, bytes: &[u8]| {
        if let Some(slot) = page.get_mut(at..at + bytes.len()) {
            slot.copy_from_slice(bytes);
        }
    };
    set(SETUP_HEADER_OFFSET, header.as_bytes().get(..end - SETUP_HEADER_OFFSET).unwrap_or_default());
    set(zero_page::ACPI_RSDP_ADDR, &ACPI_TABLES.start.to_le_bytes());
    let [low, high] = ram(memory);
    let mut map = vec![
        (0, ACPI_TABLES.start, e820::RAM),
        (ACPI_TABLES.start, ACPI_TABLES.end, e820::ACPI),
        (RESERVED.start, RESERVED.end, e820::RESERVED),
        (low.start, low.end, e820::RAM),
    ];
    if !high.is_empty() {
        map.push((high.start, high.end, e820::RAM));
    }
    set(zero_page::E820_ENTRIES, &[map.len() as u8]);
    for (index, (start, end, kind)) in map.into_iter().enumerate() {
        let entry = E820Entry { start: start.into(), bytes: (end - start).into(), kind: kind.into() };
        set(zero_page::E820_TABLE + index * size_of::<E820Entry>(), entry.as_bytes());
    }
    page
}

/// What is left to validate: all RAM that the file says nothing of, by 2 MiB pages where that is whole.
fn ranges(pages: &Pages, memory: u64) -> Vec<u8> {
    let own = [SECRETS, CPUID, RANGES];
    let [low, high] = ram(memory);
    let free = |page: u64| {
        let ram = page < 0xa_0000 || low.contains(&page) || high.contains(&page);
        ram && !own.contains(&page) && !pages.contains_key(&page)
    };
    let mut list: Vec<[u64; 4]> = Vec::new();
    let mut add = |start: u64, bytes: u64, size: u64| match list.last_mut() {
        Some([_, end, last, _]) if *end == start && *last == size => *end += bytes,
        _ => list.push([start, start + bytes, size, bytes]),
    };
    for head in (0..low.end).chain(high.clone()).step_by(LARGE as usize) {
        let small = (head..head + LARGE).step_by(PAGE as usize);
        if small.clone().all(free) {
            add(head, LARGE, 1);
        } else {
            small.filter(|page| free(*page)).for_each(|page| add(page, PAGE, 0));
        }
    }
    let mut bytes: Vec<u8> = list.iter().flat_map(|range| words(range)).collect();
    bytes.extend(words(&[u64::MAX; 4]));
    bytes
}

/// The boot processor: 64-bit mode as the boot protocol wants it, EFER.SVME as VMRUN does.
fn processor(entry: u64) -> SevVmsa {
    let segment = |selector, attrib| SevSelector { selector, attrib, limit: u32::MAX, base: 0 };
    let mut vmsa = SevVmsa::new_zeroed();
    vmsa.cs = segment(specs::linux_boot::BOOT_CS, 0xa9b);
    (vmsa.ss, vmsa.ds, vmsa.es) =
        (segment(specs::linux_boot::BOOT_DS, 0xc93), segment(specs::linux_boot::BOOT_DS, 0xc93), segment(0x18, 0xc93));
    (vmsa.fs, vmsa.gs) = (segment(specs::linux_boot::BOOT_DS, 0xc93), segment(specs::linux_boot::BOOT_DS, 0xc93));
    vmsa.gdtr = SevSelector { selector: 0, attrib: 0, limit: 0x1f, base: DESCRIPTORS };
    vmsa.ldtr = SevSelector { selector: 0, attrib: 0x82, limit: 0xffff, base: 0 };
    vmsa.tr = SevSelector { selector: 0, attrib: 0x8b, limit: 0xffff, base: 0 };
    vmsa.efer = 0x1500;
    (vmsa.cr0, vmsa.cr3, vmsa.cr4) = (0x8000_0033, C_BIT | TABLES, 0x20);
    (vmsa.dr6, vmsa.dr7) = (0xffff_0ff0, 0x400);
    (vmsa.rflags, vmsa.rip) = (2, CODE);
    (vmsa.rsi, vmsa.rbx, vmsa.r15) = (BOOT_PARAMETERS, RANGES, entry);
    vmsa.rsp = CODE + PAGE;
    vmsa.pat = 0x0007_0406_0007_0406;
    (vmsa.xcr0, vmsa.mxcsr, vmsa.x87_fcw) = (1, 0x1f80, 0x37f);
    vmsa.sev_features = SevFeatures::new().with_snp(true);
    vmsa
}

fn serialize(pages: Pages, vmsa: SevVmsa, special: bool) -> Result<Vec<u8>> {
    let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: 1,
        shared_gpa_boundary: 0,
    });
    // SMT allowed, and the bit that must be one.
    let policy = IgvmInitializationHeader::GuestPolicy { policy: 0x3_0000, compatibility_mask: MASK };
    let page = |gpa, data_type, data| IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask: MASK,
        flags: IgvmPageDataFlags::new(),
        data_type,
        data,
    };
    let mut directives: Vec<_> =
        pages.into_iter().map(|(gpa, data)| page(gpa, IgvmPageDataType::NORMAL, data)).collect();
    if special {
        directives.push(page(SECRETS, IgvmPageDataType::SECRETS, vec![]));
        directives.push(page(CPUID, IgvmPageDataType::CPUID_DATA, vec![]));
    }
    // Where KVM measures every VMSA, whatever its place.
    let vmsa = Box::new(vmsa);
    directives.push(IgvmDirectiveHeader::SnpVpContext {
        gpa: 0xffff_ffff_f000,
        compatibility_mask: MASK,
        vp_index: 0,
        vmsa,
    });
    let refused =
        |error: igvm::Error| Failure::new(status::FAILED, format!("the igvm crate refuses the file: {error}"));
    let revision = IgvmRevision::V2 { arch: Arch::X64, page_size: PAGE as u32 };
    let file = IgvmFile::new(revision, vec![platform], vec![policy], directives).map_err(refused)?;
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).map_err(refused)?;
    Ok(bytes)
}
