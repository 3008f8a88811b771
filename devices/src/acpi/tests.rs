// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables as a guest would find and read them: from the RSDP down, trusting nothing but the specification.

use super::*;
use crate::chipset::ECAM_BASE;

const DESCRIPTION: Description = Description { processors: 2, command_console: true, low_memory_end: 0x4000_0000 };

/// A guest's view: the buffer, addressed as guest-physical memory.
struct Memory {
    bytes: Vec<u8>,
    tables: Tables,
}

impl Memory {
    fn of(description: &Description) -> Self {
        let mut bytes = vec![0xEE; BYTES];
        let tables = build(description, &mut bytes, BASE).unwrap();
        Self { bytes, tables }
    }

    fn at(&self, address: u64, length: usize) -> &[u8] {
        let offset = usize::try_from(address - BASE).unwrap();
        assert!(offset + length <= self.tables.used, "within what build says it used");
        &self.bytes[offset..offset + length]
    }

    fn u8(&self, address: u64) -> u8 {
        self.at(address, 1)[0]
    }

    fn u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.at(address, 2).try_into().unwrap())
    }

    fn u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.at(address, 4).try_into().unwrap())
    }

    fn u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.at(address, 8).try_into().unwrap())
    }

    /// A table's bytes, its checksum tested.
    fn table(&self, address: u64) -> &[u8] {
        let table = self.at(address, self.u32(address + 4) as usize);
        assert_eq!(sum(table), 0, "checksum of {:?}", &table[..4]);
        table
    }

    fn roots(&self) -> Vec<u64> {
        let xsdt = self.u64(self.tables.rsdp + 24);
        let table = self.table(xsdt);
        assert_eq!(&table[..4], b"XSDT");
        table[36..].chunks_exact(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap())).collect()
    }

    fn find(&self, signature: &[u8; 4]) -> u64 {
        self.roots().into_iter().find(|root| self.at(*root, 4) == signature).unwrap()
    }

    fn dsdt(&self) -> &[u8] {
        self.table(self.u32(self.find(b"FACP") + 40).into())
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

#[test]
fn rsdp_is_found_by_a_scan_and_both_checksums_hold() {
    let memory = Memory::of(&DESCRIPTION);
    let found = (0..BYTES).step_by(16).find(|at| memory.bytes[*at..].starts_with(b"RSD PTR ")).unwrap();
    assert_eq!(BASE + found as u64, memory.tables.rsdp);
    assert_eq!(sum(memory.at(memory.tables.rsdp, 20)), 0);
    assert_eq!(sum(memory.at(memory.tables.rsdp, 36)), 0);
    assert_eq!(memory.u8(memory.tables.rsdp + 15), 2);
}

#[test]
fn rsdt_and_xsdt_name_the_same_tables() {
    let memory = Memory::of(&DESCRIPTION);
    let rsdt = memory.table(memory.u32(memory.tables.rsdp + 16).into());
    assert_eq!(&rsdt[..4], b"RSDT");
    let short: Vec<u64> =
        rsdt[36..].chunks_exact(4).map(|entry| u32::from_le_bytes(entry.try_into().unwrap()).into()).collect();
    assert_eq!(short, memory.roots());
    let signatures: Vec<_> = short.iter().map(|root| memory.table(*root)[..4].to_vec()).collect();
    assert_eq!(signatures, [b"FACP", b"APIC", b"MCFG"]);
}

#[test]
fn fadt_describes_the_power_block_and_the_reset_register() {
    let memory = Memory::of(&DESCRIPTION);
    let fadt = memory.find(b"FACP");
    assert_eq!(memory.u32(fadt + 4), 276);
    assert_eq!((memory.u8(fadt + 8), memory.u8(fadt + 131)), (6, 5), "ACPI 6.5");
    assert_eq!(memory.u16(fadt + 46), 9, "SCI");
    assert_eq!(memory.u32(fadt + 48), 0, "no SMI command port");
    for (old, new, port, bits) in
        [(56, 148, 0x600, 32), (64, 172, 0x604, 16), (76, 208, 0x608, 32), (80, 220, 0x620, 128)]
    {
        assert_eq!(memory.u32(fadt + old), port);
        assert_eq!(memory.u8(fadt + new), 1, "system I/O");
        assert_eq!(memory.u8(fadt + new + 1), bits);
        assert_eq!(memory.u64(fadt + new + 4), u64::from(port));
    }
    assert_eq!(memory.at(fadt + 88, 5), [4, 2, 0, 4, 16]);
    assert_eq!(memory.u8(fadt + 108), 0x32, "century");
    assert_eq!(memory.u16(fadt + 109), 0b111);
    assert_eq!(memory.u32(fadt + 112), 0x465);
    assert_eq!(memory.at(fadt + 116, 4), [1, 8, 0, 1]);
    assert_eq!(memory.u64(fadt + 120), 0xCF9);
    assert_eq!(memory.u8(fadt + 128), 6);
    assert_eq!(u64::from(memory.u32(fadt + 40)), memory.u64(fadt + 140), "both DSDT pointers");
}

#[test]
fn facs_is_aligned_and_complete() {
    let memory = Memory::of(&DESCRIPTION);
    let facs = u64::from(memory.u32(memory.find(b"FACP") + 36));
    assert_eq!(facs % 64, 0);
    assert_eq!(memory.at(facs, 4), b"FACS");
    assert_eq!(memory.u32(facs + 4), 64);
    assert_eq!(memory.at(facs + 8, 24), [0; 24]);
}

/// The entries of the MADT, as type and bytes.
fn madt_entries(memory: &Memory) -> Vec<(u8, Vec<u8>)> {
    let madt = memory.table(memory.find(b"APIC"));
    let mut rest = &madt[44..];
    let mut entries = Vec::new();
    while let [kind, length, ..] = *rest {
        assert!(length >= 2);
        let (entry, tail) = rest.split_at(length.into());
        entries.push((kind, entry.to_vec()));
        rest = tail;
    }
    assert!(rest.is_empty());
    entries
}

#[test]
fn madt_lists_processors_ioapic_and_overrides() {
    let memory = Memory::of(&DESCRIPTION);
    let madt = memory.find(b"APIC");
    assert_eq!((memory.u32(madt + 36), memory.u32(madt + 40)), (0xFEE0_0000, 1));
    let entries: Vec<_> = madt_entries(&memory).into_iter().map(|(_, entry)| entry).collect();
    let expected: [&[u8]; 6] = [
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0, 8, 1, 1, 1, 0, 0, 0],
        &[1, 12, 0, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0],
        &[2, 10, 0, 0, 2, 0, 0, 0, 0b0101, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 0b1101, 0],
        &[4, 6, 0xFF, 0, 0, 1],
    ];
    assert_eq!(entries, expected);
}

#[test]
fn the_255th_processor_has_the_last_apic_id() {
    let memory = Memory::of(&Description { processors: 255, ..DESCRIPTION });
    let processors: Vec<_> = madt_entries(&memory).into_iter().filter(|(kind, _)| *kind == 0).collect();
    assert_eq!(processors.len(), 255);
    assert_eq!(processors.last().unwrap().1, [0, 8, 254, 254, 1, 0, 0, 0]);
}

#[test]
fn mcfg_gives_bus_0_at_the_ecam_base() {
    let memory = Memory::of(&DESCRIPTION);
    let mcfg = memory.find(b"MCFG");
    assert_eq!(memory.u32(mcfg + 4), 60);
    assert_eq!(memory.u64(mcfg + 44), ECAM_BASE);
    assert_eq!(memory.at(mcfg + 52, 8), [0; 8]);
}

#[test]
fn dsdt_has_the_devices_that_exist_and_no_others() {
    let with = Memory::of(&DESCRIPTION);
    let without = Memory::of(&Description { command_console: false, processors: 1, ..DESCRIPTION });
    let pnp = |id: u16| [&b"_HID\x0C\x41\xD0"[..], &id.to_be_bytes()].concat();
    for id in [0x0A08, 0x0C02, 0x0000, 0x0100, 0x0B00, 0x0501] {
        assert!(contains(with.dsdt(), &pnp(id)), "PNP{id:04X}");
    }
    assert!(!contains(with.dsdt(), &pnp(0x0303)), "no keyboard");
    assert!(contains(with.dsdt(), b"COM2") && !contains(without.dsdt(), b"COM2"));
    assert!(contains(with.dsdt(), b"C001") && !contains(without.dsdt(), b"C001"));
    for state in [b"_S0_", b"_S5_"] {
        let package = [&b"\x08"[..], state, b"\x12\x88\x00\x00\x04\x00\x00\x00\x00"].concat();
        assert!(contains(with.dsdt(), &package), "{}", state.escape_ascii());
    }
}

/// Walks the terms of a term list made of scopes, devices and names, checking that every length ends where the next
/// term begins; returns the devices' names, parents first.
fn walk(mut code: &[u8], devices: &mut Vec<String>) {
    while !code.is_empty() {
        let body = match code {
            [0x08, _, _, _, _, rest @ ..] => {
                code = &rest[data_length(rest)..];
                continue;
            }
            [0x10, rest @ ..] | [0x5B, 0x82, rest @ ..] => rest,
            other => panic!("unknown term {:#x?}", &other[..other.len().min(8)]),
        };
        let length = package_length(body);
        let inside = &body[3..length];
        if code[0] == 0x10 {
            walk(&inside[5..], devices);
        } else {
            devices.push(String::from_utf8(inside[..4].to_vec()).unwrap());
            walk(&inside[4..], devices);
        }
        code = &body[length..];
    }
}

fn package_length(code: &[u8]) -> usize {
    assert_eq!(code[0] >> 6, 2, "the three-byte form");
    usize::from(code[0] & 0xF) | usize::from(code[1]) << 4 | usize::from(code[2]) << 12
}

fn data_length(code: &[u8]) -> usize {
    match code[0] {
        0x00 | 0x01 => 1,
        0x0A => 2,
        0x0B => 3,
        0x0C => 5,
        0x0D => 1 + code.iter().position(|byte| *byte == 0).unwrap(),
        0x11 | 0x12 => 1 + package_length(&code[1..]),
        other => panic!("unknown data {other:#x}"),
    }
}

#[test]
fn aml_nests_without_gaps_and_names_every_processor_once() {
    for processors in [1, 2, 16, 255] {
        let memory = Memory::of(&Description { processors, ..DESCRIPTION });
        let mut devices = Vec::new();
        walk(&memory.dsdt()[36..], &mut devices);
        let others = ["MBRD", "PCI0", "LPCB", "PIC_", "PIT_", "RTC_", "COM1", "COM2"];
        assert_eq!(devices.len(), processors as usize + others.len());
        assert_eq!(devices[processors as usize..], others);
        devices.sort();
        devices.dedup();
        assert_eq!(devices.len(), processors as usize + others.len());
    }
}

#[test]
fn a_buffer_one_byte_short_is_refused() {
    let used = Memory::of(&DESCRIPTION).tables.used;
    let mut buffer = vec![0; used];
    assert_eq!(build(&DESCRIPTION, &mut buffer, BASE).map(|tables| tables.used), Ok(used));
    for room in 0..used {
        let outcome = build(&DESCRIPTION, &mut buffer[..room], BASE);
        assert!(matches!(outcome, Err(AcpiError::TooSmall)), "{room} bytes: {outcome:?}");
    }
}

#[test]
fn a_base_where_no_guest_looks_is_refused() {
    let mut buffer = vec![0; BYTES];
    for base in [0, 0xF_0008, 0xD_0000, 0xF_0010, 0x10_0000, u64::MAX] {
        assert_eq!(build(&DESCRIPTION, &mut buffer, base), Err(AcpiError::Misplaced), "{base:#x}");
    }
    assert!(build(&DESCRIPTION, &mut buffer, 0xE_0000).is_ok());
}

#[test]
fn impossible_processor_counts_are_refused() {
    let mut buffer = vec![0; 0x2_0000];
    for processors in [0, 256, u32::MAX] {
        let description = Description { processors, ..DESCRIPTION };
        assert_eq!(build(&description, &mut buffer, 0xE_0000), Err(AcpiError::Processors));
    }
}

#[test]
fn tables_of_255_processors_fit_their_area_with_room() {
    let memory = Memory::of(&Description { processors: 255, ..DESCRIPTION });
    assert!(memory.tables.used < BYTES / 2, "{} bytes", memory.tables.used);
}

/// For inspection by hand with `iasl -d`: set `ACPI_DUMP` to a directory and run with `--ignored`.
#[test]
#[ignore = "writes files; run by hand"]
fn dump() {
    let directory = std::path::PathBuf::from(std::env::var_os("ACPI_DUMP").unwrap());
    for processors in [2, 255] {
        let memory = Memory::of(&Description { processors, ..DESCRIPTION });
        let mut tables = memory.roots();
        tables.push(memory.u32(memory.find(b"FACP") + 40).into());
        tables.push(memory.u64(memory.tables.rsdp + 24));
        tables.push(memory.u32(memory.tables.rsdp + 16).into());
        for table in tables {
            let bytes = memory.table(table);
            let name = format!("{}-{processors}.aml", String::from_utf8_lossy(&bytes[..4]));
            std::fs::write(directory.join(name), bytes).unwrap();
        }
        let facs = memory.at(memory.u32(memory.find(b"FACP") + 36).into(), 64);
        std::fs::write(directory.join(format!("FACS-{processors}.aml")), facs).unwrap();
    }
}
