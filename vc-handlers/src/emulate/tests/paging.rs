// SPDX-License-Identifier: MIT OR Apache-2.0
//! The walk through the guest's page tables.

use platform::{GuestMemory, MemoryError, SystemRegisters, Visibility};

use super::*;
use crate::emulate::stop::Stop;
use crate::emulate::walk::{Intent, Privilege, translate};
use crate::testing::FakeMemory;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
const PT: u64 = 0x4000;
const FRAME: u64 = 0xab_cdef_e000;
const LINEAR: u64 = 0xffff_8a12_3456_7890;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const NX: u64 = 1 << 63;

/// Tables whose entry for [`LINEAR`] at each level has some bits, and a processor that uses them.
struct Tables {
    memory: FakeMemory,
    system: SystemRegisters,
}

fn slot(table: u64, level: u32) -> u64 {
    table + 8 * (LINEAR >> (12 + 9 * (level - 1)) & 511)
}

impl Tables {
    fn long(bits: [u64; 4]) -> Self {
        let memory = FakeMemory::new(0, 0x10000);
        let tables = [(PML4, 4, PDPT), (PDPT, 3, PD), (PD, 2, PT), (PT, 1, FRAME)];
        for ((table, level, next), bits) in tables.into_iter().zip(bits) {
            memory.put(slot(table, level), &(next | bits).to_le_bytes());
        }
        let system = SystemRegisters { cr0: 0x8005_0033, cr3: PML4, cr4: 0x20, efer: 0xd00, ..Default::default() };
        Self { memory, system }
    }

    fn user(mut self) -> Self {
        self.system.cpl = 3;
        self
    }

    fn cr4(mut self, bits: u64) -> Self {
        self.system.cr4 |= bits;
        self
    }

    fn walk(&self, intent: Intent) -> Result<Gpa, u32> {
        self.at(LINEAR, intent)
    }

    fn at(&self, linear: u64, intent: Intent) -> Result<Gpa, u32> {
        match translate(&self.memory, &self.system, linear, intent, Privilege::Current) {
            Ok(gpa) => Ok(gpa),
            Err(Stop::Fault(exception)) => {
                assert_eq!((exception.vector, exception.fault_address), (14, Some(linear)));
                Err(exception.error_code.unwrap())
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn entry(&self, table: u64, level: u32) -> u64 {
        u64::from_le_bytes(self.memory.get(slot(table, level), 8).try_into().unwrap())
    }
}

#[test]
fn four_levels_lead_to_the_frame() {
    let tables = Tables::long([P | W | U; 4]);
    assert_eq!(tables.walk(Intent::Read), Ok(Gpa(FRAME | 0x890)));
}

#[test]
fn accessed_and_dirty_bits_are_set_where_the_processor_sets_them() {
    let tables = Tables::long([P | W | U; 4]);
    tables.walk(Intent::Read).unwrap();
    let all = [(PML4, 4), (PDPT, 3), (PD, 2), (PT, 1)];
    for (table, level) in all {
        assert_eq!(tables.entry(table, level) & (A | D), A);
    }
    tables.walk(Intent::Write).unwrap();
    for (table, level) in all {
        assert_eq!(tables.entry(table, level) & (A | D), if level == 1 { A | D } else { A });
    }
    let tables = Tables::long([P | W | U, P | W | U, P | W | U, P]).user();
    assert!(tables.walk(Intent::Write).is_err());
    assert_eq!(tables.entry(PT, 1) & (A | D), 0, "a refused access leaves the leaf alone");
}

#[test]
fn absence_at_any_level_is_a_fault_without_the_present_bit() {
    for absent in 0..4 {
        let mut bits = [P | W | U; 4];
        bits[absent] = W | U;
        assert_eq!(Tables::long(bits).walk(Intent::Read), Err(0));
        assert_eq!(Tables::long(bits).walk(Intent::Write), Err(2));
        assert_eq!(Tables::long(bits).walk(Intent::Fetch), Err(0x10));
        assert_eq!(Tables::long(bits).user().walk(Intent::Write), Err(6));
    }
}

#[test]
fn rights_are_the_least_of_all_levels() {
    for weak in 0..4 {
        let with = |bits: u64| {
            let mut all = [P | W | U; 4];
            all[weak] = bits;
            Tables::long(all)
        };
        assert_eq!(with(P | U).user().walk(Intent::Write), Err(7));
        assert_eq!(with(P | U).walk(Intent::Write), Err(3), "CR0.WP is set");
        assert!(with(P | U).walk(Intent::Read).is_ok());
        assert_eq!(with(P | W).user().walk(Intent::Read), Err(5));
        assert_eq!(with(P | W | U | NX).walk(Intent::Fetch), Err(0x11));
        assert!(with(P | W | U | NX).walk(Intent::Write).is_ok());
    }
    let mut tables = Tables::long([P | U; 4]);
    tables.system.cr0 &= !(1 << 16);
    assert!(tables.walk(Intent::Write).is_ok(), "CR0.WP is clear");
}

#[test]
fn reserved_bits_fault_at_every_level() {
    for level in 0..4 {
        let with = |bits: u64| {
            let mut all = [P | W | U; 4];
            all[level] |= bits;
            Tables::long(all)
        };
        assert_eq!(with(1 << 40).walk(Intent::Read), Err(9), "beyond the physical address width");
        assert_eq!(with(1 << 51).walk(Intent::Read), Err(9));
        assert!(with(1 << 52).walk(Intent::Read).is_ok(), "available to software");
        let mut without = with(NX);
        without.system.efer &= !0x800;
        assert_eq!(without.walk(Intent::Write), Err(0xb), "NX without EFER.NXE");
    }
    assert_eq!(Tables::long([P | W | U | PS, P, P, P]).walk(Intent::Read), Err(9));
    assert_eq!(Tables::long([P, P | PS, P, P]).walk(Intent::Read), Err(9), "a 1 GiB page that is not aligned");
}

#[test]
fn large_pages_take_the_rest_of_the_address() {
    let large = Tables::long([P | W | U; 4]);
    large.memory.put(slot(PD, 2), &(0xab_cde0_0000_u64 | P | W | U | PS | 1 << 12).to_le_bytes());
    assert_eq!(large.walk(Intent::Read), Ok(Gpa(0xab_cde0_0000 | LINEAR & 0x1f_ffff)));
    let huge = Tables::long([P | W | U; 4]);
    huge.memory.put(slot(PDPT, 3), &(0xab_c000_0000_u64 | P | W | U | PS).to_le_bytes());
    assert_eq!(huge.walk(Intent::Read), Ok(Gpa(0xab_c000_0000 | LINEAR & 0x3fff_ffff)));
}

#[test]
fn smep_smap_and_keys_hold() {
    let (smep, smap, pke) = (1 << 20, 1 << 21, 1 << 22);
    let user_page = || Tables::long([P | W | U; 4]);
    assert_eq!(user_page().cr4(smep).walk(Intent::Fetch), Err(0x11));
    assert!(user_page().cr4(smep).user().walk(Intent::Fetch).is_ok());
    assert_eq!(user_page().cr4(smap).walk(Intent::Read), Err(1));
    let mut waived = user_page().cr4(smap);
    waived.system.rflags = 1 << 18;
    assert!(waived.walk(Intent::Read).is_ok());
    let implicit = translate(&waived.memory, &waived.system, LINEAR, Intent::Read, Privilege::System);
    assert!(implicit.is_err(), "AC waives nothing for the processor's own accesses");

    let keyed = |pkru| {
        let mut tables = Tables::long([P | W | U, P | W | U, P | W | U, P | W | U | 5 << 59]).cr4(pke);
        tables.system.pkru = pkru;
        tables
    };
    assert_eq!(keyed(1 << 10).walk(Intent::Read), Err(0x21));
    assert_eq!(keyed(2 << 10).user().walk(Intent::Write), Err(0x27));
    assert!(keyed(2 << 10).user().walk(Intent::Read).is_ok());
    assert!(keyed(3 << 10).walk(Intent::Fetch).is_ok());
    assert!(keyed(3 << 8).walk(Intent::Write).is_ok(), "another key");
}

#[test]
fn five_levels_are_walked_where_cr4_says_so() {
    let mut tables = Tables::long([P | W | U; 4]).cr4(1 << 12);
    let linear = 0x1234_8a12_3456_7890 & 0xff_ffff_ffff_ffff;
    tables.system.cr3 = 0x5000;
    tables.memory.put(0x5000 + 8 * (linear >> 48 & 511), &(PML4 | P | W | U).to_le_bytes());
    assert_eq!(tables.at(linear, Intent::Read), Ok(Gpa(FRAME | 0x890)));
}

#[test]
fn legacy_tables_have_two_levels_and_four_mebibyte_pages() {
    let memory = FakeMemory::new(0, 0x10000);
    let system = SystemRegisters { cr0: 0x8001_0011, cr3: 0x1000, cr4: 0x10, ..Default::default() };
    let mut tables = Tables { memory, system };
    tables.memory.put(0x1000 + 4 * 0x3fb, &(0x2000_u32 | 7).to_le_bytes());
    tables.memory.put(0x2000 + 4 * 0x200, &(0x00ab_c000_u32 | 7).to_le_bytes());
    assert_eq!(tables.at(0xfee0_0123, Intent::Write), Ok(Gpa(0xab_c123)));
    assert_eq!(tables.memory.get(0x2000 + 4 * 0x200, 1), [0x67]);
    // Bits 20:13 are address bits 39:32.
    tables.memory.put(0x1000 + 4 * 0x3fb, &(0xfec0_0087_u32 | 0x12 << 13).to_le_bytes());
    assert_eq!(tables.at(0xfee0_0123, Intent::Write), Ok(Gpa(0x12_fee0_0123)));
    tables.memory.put(0x1000 + 4 * 0x3fb, &(0xfec0_0087_u32 | 1 << 21).to_le_bytes());
    assert_eq!(tables.at(0xfee0_0123, Intent::Write), Err(0xb));
    // Without CR4.PSE the bit means nothing.
    tables.system.cr4 = 0;
    tables.memory.put(0x1000 + 4 * 0x3fb, &(0x2000_u32 | 0x87).to_le_bytes());
    assert_eq!(tables.at(0xfee0_0123, Intent::Write), Ok(Gpa(0xab_c123)));
}

#[test]
fn pae_tables_have_a_top_level_without_rights() {
    let memory = FakeMemory::new(0, 0x10000);
    let system = SystemRegisters { cr0: 0x8001_0011, cr3: 0x1020, cr4: 0x20, efer: 0x800, ..Default::default() };
    let tables = Tables { memory, system };
    tables.memory.put(0x1020 + 8 * 3, &(0x2000_u64 | 1).to_le_bytes());
    tables.memory.put(0x2000 + 8 * 0x1f7, &(0xab_fee0_0000_u64 | NX | 0x87).to_le_bytes());
    assert_eq!(tables.at(0xfee0_0123, Intent::Write), Ok(Gpa(0xab_fee0_0123)));
    assert_eq!(tables.at(0x7_fee0_0123, Intent::Write), Ok(Gpa(0xab_fee0_0123)), "linear addresses have 32 bits");
    assert_eq!(tables.at(0xfee0_0123, Intent::Fetch), Err(0x11));
    assert_eq!(tables.memory.get(0x1020 + 8 * 3, 1), [1], "no accessed bit at the top");
    tables.memory.put(0x1020 + 8 * 3, &(0x2000_u64 | 3).to_le_bytes());
    assert_eq!(tables.at(0xfee0_0123, Intent::Read), Err(9));
}

/// QEMU 7.2 sets an accessed bit at the top, and a 32-bit guest got a page fault at its first access to a device.
#[test]
fn pae_tables_may_have_an_accessed_bit_at_the_top() {
    let memory = FakeMemory::new(0, 0x10000);
    let system = SystemRegisters { cr0: 0x8001_0011, cr3: 0x1020, cr4: 0x20, ..Default::default() };
    let tables = Tables { memory, system };
    tables.memory.put(0x1020 + 8 * 3, &(0x2000_u64 | A | P).to_le_bytes());
    tables.memory.put(0x2000 + 8 * 0x1f7, &(0xfee0_0000_u64 | PS | W | P).to_le_bytes());
    assert_eq!(tables.at(0xfee0_00b0, Intent::Write), Ok(Gpa(0xfee0_00b0)));
}

#[test]
fn tables_outside_memory_read_as_reserved() {
    let mut tables = Tables::long([P | W | U; 4]);
    tables.system.cr3 = 0xfee0_0000;
    assert_eq!(tables.walk(Intent::Read), Err(9));
}

/// Memory in which another processor changes an entry whenever it is about to be marked.
struct Restless(FakeMemory);

impl GuestMemory for Restless {
    fn copy_in(&self, gpa: Gpa, view: Visibility, buffer: &mut [u8]) -> Result<(), MemoryError> {
        self.0.copy_in(gpa, view, buffer)
    }
    fn copy_out(&self, gpa: Gpa, view: Visibility, data: &[u8]) -> Result<(), MemoryError> {
        self.0.copy_out(gpa, view, data)
    }
    fn compare_exchange(&self, _: Gpa, _: Visibility, _: usize, current: u128, _: u128) -> Result<u128, MemoryError> {
        Ok(!current)
    }
}

#[test]
fn tables_that_never_stand_still_end_in_a_retry() {
    let Tables { memory, system } = Tables::long([P | W | U; 4]);
    let result = translate(&Restless(memory), &system, LINEAR, Intent::Read, Privilege::Current);
    assert_eq!(result, Err(Stop::Retry));
}

#[test]
fn faults_of_operands_reach_the_guest() {
    let mut guest = Guest::long(&[0x8a, 0x03]).gpr(Gpr::Rbx, 0x1_2345_6789);
    assert_eq!(guest.read(DEVICE), page_fault(0, 0x1_2345_6789));
    assert_eq!(guest.env.requests, []);
}
