// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a payload finds in memory when it starts, in its own boot protocol: boot parameters, command line, memory map,
//! descriptor table, page tables.
//!
//! All of it lies in [`BOOT_STRUCTURES`], which payloads stay out of, and is the guest's own memory afterwards.

use devices::memory_map::{Entry, MemoryMap};
use image_abi::{BOOT_STRUCTURES, COMMAND_LINE_LIMIT, Range, START_PAGE, payload};
use platform::{DescriptorTable, Gpa, GuestMemory, Reason, Slip, VcpuState, Visibility};
use specs::linux_boot::{self, zero_page};
use specs::{multiboot, pvh};
use zerocopy::IntoBytes;

use crate::{Launch, bios, entry};

const PAGE: u64 = 4096;
/// Zero page, start information or Multiboot information.
const INFORMATION: u64 = BOOT_STRUCTURES.start;
/// Descriptor table of the 64-bit protocol; module and memory-map lists of the others.
const TABLES: u64 = INFORMATION + PAGE;
const MEMORY_LIST: u64 = TABLES + PAGE / 2;
/// Root, one table of 1 GiB slots, four tables of 2 MiB pages.
const PAGE_TABLES: u64 = TABLES + PAGE;
const COMMAND_LINE: u64 = PAGE_TABLES + 6 * PAGE;

const _: () = assert!(COMMAND_LINE + COMMAND_LINE_LIMIT < START_PAGE);

/// The longest command line of x86 Linux, without its terminating zero (`COMMAND_LINE_SIZE` is 2048).
const LINUX_COMMAND_LINE: u64 = 2047;

/// Page-table entry: present, writable.
const TABLE: u64 = 0b11;
/// The same as a 2 MiB page.
const LARGE: u64 = TABLE | 1 << 7;

/// What all protocols pass on.
#[derive(Clone, Copy, Debug)]
pub struct BootInformation<'a> {
    /// The payload's kind, entry, RAM disk and place.
    pub launch: &'a Launch,
    /// The guest's memory.
    pub map: &'a MemoryMap,
    /// Where ACPI's root pointer lies.
    pub rsdp: u64,
    /// Frequency of the guest's time-stamp counter.
    pub tsc_hz: u64,
    /// The command line.
    pub command_line: &'a [u8],
    /// A bzImage's first part, with its setup header.
    pub setup_header: &'a [u8],
}

impl BootInformation<'_> {
    /// Writes the boot structures and returns the state in which the boot processor starts. `BadPayload`: of a kind that is unknown;
    /// `BadMachine`: a part of the structures is not memory.
    #[inline(never)]
    pub fn place(&self, memory: &impl GuestMemory) -> Result<VcpuState, Reason> {
        let line = self.command_line.get(..COMMAND_LINE_LIMIT as usize).unwrap_or(self.command_line);
        write(memory, COMMAND_LINE, line)?;
        let mut end = COMMAND_LINE + line.len() as u64;
        if self.launch.block.payload_kind == payload::LINUX {
            end = self.tell_tsc_frequency(memory, end)?;
        }
        let cut = u64::from(Slip::CutLine.is_planted() && end > COMMAND_LINE);
        write(memory, end - cut, &[0])?;
        match self.launch.block.payload_kind {
            payload::LINUX => self.linux(memory),
            payload::PVH => self.pvh(memory),
            payload::MULTIBOOT => self.multiboot(memory),
            _ => Err(Reason::BadPayload),
        }
    }

    /// The memory map's lines.
    fn entries(&self) -> &[Entry] {
        match self.map.entries() {
            [rest @ .., _] if Slip::ShortMap.is_planted() => rest,
            all => all,
        }
    }

    fn initrd(&self) -> Range {
        self.launch.block.initrd
    }

    /// Appends `tsc_early_khz=` to the command line that ends at `end`, and returns its new end.
    ///
    /// Linux takes the frequency of an AMD processor's TSC from no CPUID leaf and measures it against the 8254, each of
    /// whose registers costs an exit: slow, and wrong when an exit takes long (it then gives the TSC up). This parameter
    /// spares it that. A command line that says something about the TSC, or has no room, is left alone.
    fn tell_tsc_frequency(&self, memory: &impl GuestMemory, end: u64) -> Result<u64, Reason> {
        let said = self.command_line.split(|&byte| byte == b' ').any(|word| word.starts_with(b"tsc"));
        let parameter = Parameter::new(b" tsc_early_khz=", self.tsc_hz / 1000);
        let room = end + parameter.bytes().len() as u64 <= COMMAND_LINE + LINUX_COMMAND_LINE;
        if said || !room {
            return Ok(end);
        }
        write(memory, end, parameter.bytes())?;
        Ok(end + parameter.bytes().len() as u64)
    }

    /// boot.rst, "64-bit Boot Protocol".
    fn linux(&self, memory: &impl GuestMemory) -> Result<VcpuState, Reason> {
        write(memory, INFORMATION, &self.zero_page())?;
        // Null twice, then the kernel's code and data segments at the selectors that it expects.
        let gdt: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
        write(memory, TABLES, gdt.as_bytes())?;
        identity_map(memory)?;
        let gdt = DescriptorTable { base: TABLES, limit: (size_of::<[u64; 4]>() - 1) as u16 };
        Ok(entry::linux_64(self.launch.block.entry, INFORMATION, PAGE_TABLES, gdt))
    }

    fn zero_page(&self) -> [u8; zero_page::BYTES] {
        let mut page = [0; zero_page::BYTES];
        let header = self.setup_header.get(linux_boot::SETUP_HEADER_OFFSET..).unwrap_or(&[]);
        put(&mut page, linux_boot::SETUP_HEADER_OFFSET, header);
        let initrd = self.initrd();
        put(&mut page, zero_page::TYPE_OF_LOADER, &[linux_boot::LOADER_UNDEFINED]);
        put(&mut page, zero_page::RAMDISK_IMAGE, &(initrd.start as u32).to_le_bytes());
        put(&mut page, zero_page::RAMDISK_SIZE, &(initrd.bytes as u32).to_le_bytes());
        put(&mut page, zero_page::CMD_LINE_PTR, &(COMMAND_LINE as u32).to_le_bytes());
        put(&mut page, zero_page::EXT_RAMDISK_IMAGE, &((initrd.start >> 32) as u32).to_le_bytes());
        put(&mut page, zero_page::EXT_RAMDISK_SIZE, &((initrd.bytes >> 32) as u32).to_le_bytes());
        put(&mut page, zero_page::ACPI_RSDP_ADDR, &self.rsdp.to_le_bytes());
        put(&mut page, zero_page::SENTINEL, &[0]);
        let entries = self.entries();
        put(&mut page, zero_page::E820_ENTRIES, &[entries.len() as u8]);
        for (index, entry) in entries.iter().enumerate() {
            let entry = linux_boot::E820Entry {
                start: entry.start.into(),
                bytes: (entry.end - entry.start).into(),
                kind: (entry.kind as u32).into(),
            };
            let offset = zero_page::E820_TABLE + index * size_of::<linux_boot::E820Entry>();
            put(&mut page, offset, entry.as_bytes());
        }
        page
    }

    fn pvh(&self, memory: &impl GuestMemory) -> Result<VcpuState, Reason> {
        let initrd = self.initrd();
        let module = pvh::Module { start: initrd.start, bytes: initrd.bytes, ..pvh::Module::default() };
        write(memory, TABLES, module.as_bytes())?;
        let mut at = MEMORY_LIST;
        for entry in self.entries() {
            let line = pvh::MemoryMapEntry {
                start: entry.start,
                bytes: entry.end - entry.start,
                kind: entry.kind as u32,
                reserved: 0,
            };
            write(memory, at, line.as_bytes())?;
            at += size_of_val(&line) as u64;
        }
        let information = pvh::StartInfo {
            magic: pvh::START_MAGIC,
            version: pvh::START_VERSION,
            flags: 0,
            module_count: u32::from(initrd.bytes != 0),
            modules: TABLES,
            command_line: COMMAND_LINE,
            rsdp: self.rsdp,
            memory_map: MEMORY_LIST,
            memory_map_entries: self.entries().len() as u32,
            reserved: 0,
        };
        write(memory, INFORMATION, information.as_bytes())?;
        Ok(entry::protected_mode(self.launch.block.entry, 0, INFORMATION as u32))
    }

    fn multiboot(&self, memory: &impl GuestMemory) -> Result<VcpuState, Reason> {
        use multiboot::info_flag::{COMMAND_LINE as LINE, MEMORY, MEMORY_MAP, MODULES};
        let initrd = self.initrd();
        let module = multiboot::Module {
            start: (initrd.start as u32).into(),
            end: (initrd.end() as u32).into(),
            string: (COMMAND_LINE as u32).into(),
            ..multiboot::Module::default()
        };
        write(memory, TABLES, module.as_bytes())?;
        let mut at = MEMORY_LIST;
        for entry in self.entries() {
            let line = multiboot::MemoryMapEntry {
                size: multiboot::MEMORY_MAP_ENTRY_SIZE.into(),
                start: entry.start.into(),
                bytes: (entry.end - entry.start).into(),
                kind: (entry.kind as u32).into(),
            };
            write(memory, at, line.as_bytes())?;
            at += size_of_val(&line) as u64;
        }
        let modules = u32::from(initrd.bytes != 0);
        let information = multiboot::Info {
            flags: (MEMORY | LINE | MEMORY_MAP | if modules == 0 { 0 } else { MODULES }).into(),
            mem_lower: kib_from(self.entries(), 0).into(),
            mem_upper: kib_from(self.entries(), 1 << 20).into(),
            cmdline: (COMMAND_LINE as u32).into(),
            mods_count: modules.into(),
            mods_addr: (TABLES as u32).into(),
            mmap_length: ((at - MEMORY_LIST) as u32).into(),
            mmap_addr: (MEMORY_LIST as u32).into(),
            ..multiboot::Info::default()
        };
        write(memory, INFORMATION, information.as_bytes())?;
        bios::place(memory, &self.launch.block.payload).map_err(|_| Reason::BadMachine)?;
        Ok(entry::protected_mode(self.launch.block.entry, multiboot::LOADER_MAGIC, INFORMATION as u32))
    }
}

/// A command-line parameter with a number, made without allocating.
struct Parameter {
    bytes: [u8; 40],
    length: usize,
}

impl Parameter {
    fn new(name: &[u8], value: u64) -> Self {
        let mut parameter = Self { bytes: [0; 40], length: 0 };
        name.iter().for_each(|&byte| parameter.push(byte));
        let digits = value.checked_ilog10().unwrap_or(0);
        for place in (0..=digits).rev() {
            parameter.push(b'0' + (value / 10u64.pow(place) % 10) as u8);
        }
        parameter
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
            self.length += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// KiB of memory without a hole from `start` on.
fn kib_from(entries: &[Entry], start: u64) -> u32 {
    let first = entries
        .iter()
        .find(|entry| entry.kind == devices::memory_map::Kind::Ram && entry.start <= start && start < entry.end);
    first.map_or(0, |entry| u32::try_from((entry.end - start) / 1024).unwrap_or(u32::MAX))
}

/// Tables that map the first 4 GiB to themselves in 2 MiB pages.
fn identity_map(memory: &impl GuestMemory) -> Result<(), Reason> {
    let slot = |table: u64, index: u64| PAGE_TABLES + table * PAGE + index * 8;
    write(memory, slot(0, 0), &((PAGE_TABLES + PAGE) | TABLE).to_le_bytes())?;
    for gib in 0..4 {
        write(memory, slot(1, gib), &((PAGE_TABLES + (2 + gib) * PAGE) | TABLE).to_le_bytes())?;
        for index in 0..512 {
            write(memory, slot(2 + gib, index), &(gib << 30 | index << 21 | LARGE).to_le_bytes())?;
        }
    }
    Ok(())
}

fn write(memory: &impl GuestMemory, gpa: u64, bytes: &[u8]) -> Result<(), Reason> {
    memory.copy_out(Gpa(gpa), Visibility::Private, bytes).map_err(|_| Reason::BadMachine)
}

/// Copies `bytes` to `offset`, as far as the page goes.
fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    let room = page.get_mut(offset..).unwrap_or(&mut []);
    for (to, from) in room.iter_mut().zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_becomes_a_parameter() {
        assert_eq!(Parameter::new(b" tsc_early_khz=", 2_596_304).bytes(), b" tsc_early_khz=2596304");
        assert_eq!(Parameter::new(b"x=", 0).bytes(), b"x=0");
        assert_eq!(Parameter::new(b" tsc_early_khz=", u64::MAX).bytes().len(), 15 + 20);
    }
}
