// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes what a payload finds when it starts: the boot structures of Linux, PVH and Multiboot, and the processor's state.
//!
//! The input is a launch (kind, entry, RAM disk, a range of the payload), the size of the memory, the TSC's frequency, the
//! beginning of a bzImage and a command line. A reader of its own, made from the protocols' documents, finds its way from the
//! registers at the entry, as a kernel would. Claimed:
//! - nothing is written but the boot structures, and with Multiboot the interrupt vectors and their handlers, unless the
//!   payload lies there;
//! - the memory map is the guest's, entry by entry; the RAM disk, the command line and the RSDP are where they are said to be;
//! - the command line is the given one up to its limit, with the TSC's frequency behind it if it is Linux's, has room and says
//!   nothing about the TSC;
//! - Linux's zero page has the kernel's own setup header but for the loader's fields, and zeros where nothing is said;
//! - the page tables map the first 4 GiB to themselves, and code and data segments are flat;
//! - nothing is taken from the heap.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use devices::memory_map::MemoryMap;
use image_abi::{
    BOOT_STRUCTURES, COMMAND_LINE_LIMIT, Digest, IMAGE_BASE, LaunchBlock, MAGIC, PAYLOAD_DIGESTS, Range as Span,
    payload,
};
use paravisor_core::{BootInformation, Launch};
use platform::{
    Gpa, Gpr, GuestMemory, MemoryError, Reason, SegmentAttributes, SegmentRegister, Slip, VcpuState, Visibility,
};

use crate::Target;
use crate::input::Input;
use crate::memory_use::without_heap;

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "start",
    run: play,
    planted: &[
        ("the memory map lacks its last entry", |data| Slip::ShortMap.planted(|| play(data))),
        ("the command line loses its last byte", |data| Slip::CutLine.planted(|| play(data))),
    ],
    longest: 4096,
    mutations: 60_000,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Interrupt vectors and the BIOS's data.
const LOW: Range<u64> = 0..0x500;
/// The handlers of the timer and of everything else.
const TIMER: Range<u64> = 0xf_fea5..0xf_feba;
const DUMMY: Range<u64> = 0xf_ff53..0xf_ff54;
/// A setup header is at most as long as the byte at 201h can say.
const LONGEST_HEADER: usize = 0x202 + 0xff;
/// boot.rst: the longest command line.
const LINUX_LINE: usize = 2047;

/// The guest's first MiB, which watches what is written.
struct FirstMib {
    bytes: RefCell<Vec<u8>>,
    allowed: [Range<u64>; 4],
    astray: Cell<Option<(u64, usize)>>,
}

impl FirstMib {
    fn number(&self, at: u64, width: usize) -> u64 {
        self.bytes(at, width).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let at = usize::try_from(at).expect("an address");
        self.bytes.borrow().get(at..at + length).unwrap_or_else(|| panic!("{at:#x} is not in the first MiB")).to_vec()
    }

    /// A text up to its zero.
    fn text(&self, at: u64) -> Vec<u8> {
        (at..BOOT_STRUCTURES.end()).map(|at| self.number(at, 1) as u8).take_while(|byte| *byte != 0).collect()
    }
}

impl GuestMemory for FirstMib {
    fn copy_in(&self, _: Gpa, _: Visibility, _: &mut [u8]) -> Result<(), MemoryError> {
        panic!("nothing is there to be read yet");
    }

    fn copy_out(&self, gpa: Gpa, visibility: Visibility, data: &[u8]) -> Result<(), MemoryError> {
        assert_eq!(visibility, Visibility::Private);
        let end = gpa.0 + data.len() as u64;
        if self.allowed.iter().any(|range| range.start <= gpa.0 && end <= range.end) {
            self.bytes.borrow_mut()[gpa.0 as usize..end as usize].copy_from_slice(data);
        } else {
            self.astray.set(Some((gpa.0, data.len())));
        }
        Ok(())
    }

    fn compare_exchange(&self, _: Gpa, _: Visibility, _: usize, _: u128, _: u128) -> Result<u128, MemoryError> {
        Err(MemoryError::NotMemory)
    }
}

/// A launch that the input describes and the core accepts.
fn launch(input: &mut Input<'_>) -> Option<Launch> {
    let kind = input.byte();
    let low = MIB * (132 + u64::from(input.half()) % 1916);
    let high = if kind & 0x10 == 0 { 0 } else { MIB * u64::from(input.half()) };
    let mut span = |wanted: bool, unit: u64| match wanted {
        true => Span { start: unit * u64::from(input.half()), bytes: u64::from(input.word() & 0x3ff_ffff) },
        false => Span::default(),
    };
    let (initrd, own) = (span(kind & 4 == 0, 0x2_0000), span(kind & 8 == 0, 0x2_0000));
    let fourth = span(kind & 0x20 != 0, 0x40);
    let mut block = LaunchBlock {
        magic: MAGIC,
        image: Span { start: IMAGE_BASE, bytes: 600 << 10 },
        text: Span::default(),
        rodata: Span::default(),
        page_tables: Span::default(),
        stack: Span::default(),
        memory_map: Span::default(),
        processor_count: Span::default(),
        setup_header: Span::default(),
        command_line: Span::default(),
        initrd,
        entry: input.word().into(),
        payload_kind: u32::from(kind & 3),
        flags: 0,
        payload: Default::default(),
        placed: Default::default(),
        cpuid_page: Span::default(),
        secrets_page: Span::default(),
        mailbox: Span::default(),
        td_attributes: 0,
        digests: [Digest::NONE; PAYLOAD_DIGESTS],
    };
    (block.payload[0], block.payload[3]) = (own, fourth);
    let entry = |start: u64, bytes: u64| [start / 4096, bytes / 4096, 0].map(u64::to_le_bytes).concat();
    let map = [entry(0, low), entry(4 * GIB, high)].concat();
    Launch::new(&block, &map, 1 + u32::from(input.byte() & 63)).ok()
}

fn play(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(launch) = launch(&mut input) else { return };
    let map = MemoryMap::new(launch.low_end, launch.high_bytes, &[launch.region]).expect("a map of accepted memory");
    let (rsdp, tsc_hz) = (u64::from(input.half()) << 4, input.integer());
    let probes: [u32; 4] = std::array::from_fn(|_| input.word());
    let rest = {
        let length = usize::from(input.half()) % (LONGEST_HEADER + 1);
        let all = input.rest();
        all.split_at(length.min(all.len()))
    };
    let boot = BootInformation { launch: &launch, map: &map, rsdp, tsc_hz, setup_header: rest.0, command_line: rest.1 };
    let has_bios = launch.block.payload_kind == payload::MULTIBOOT && !has_low_payload(&launch);
    let only_if = |range: Range<u64>| if has_bios { range } else { 0..0 };
    let memory = FirstMib {
        bytes: RefCell::new(vec![0; MIB as usize]),
        allowed: [BOOT_STRUCTURES.start..BOOT_STRUCTURES.end(), only_if(LOW), only_if(TIMER), only_if(DUMMY)],
        astray: Cell::new(None),
    };
    let state = match without_heap(|| boot.place(&memory)) {
        Ok(state) => state,
        Err(reason) => {
            let known = [payload::LINUX, payload::PVH, payload::MULTIBOOT].contains(&launch.block.payload_kind);
            assert!(reason == Reason::BadPayload && !known, "{reason:?}");
            return;
        }
    };
    assert_eq!(memory.astray.get(), None, "a write outside of the boot structures");
    assert_eq!((state.rip, state.rflags), (launch.block.entry, 2));
    match launch.block.payload_kind {
        payload::LINUX => check_linux(&boot, &memory, &state, &probes),
        payload::PVH => check_pvh(&boot, &memory, &state),
        _ => check_multiboot(&boot, &memory, &state, has_bios),
    }
}

fn has_low_payload(launch: &Launch) -> bool {
    launch.block.payload.iter().any(|range| range.bytes > 0 && range.start < LOW.end)
}

/// The command line as it should stand there, up to the first zero.
fn expected_line(boot: &BootInformation<'_>) -> Vec<u8> {
    let mut line = boot.command_line[..boot.command_line.len().min(COMMAND_LINE_LIMIT as usize)].to_vec();
    if boot.launch.block.payload_kind == payload::LINUX {
        let says = boot.command_line.starts_with(b"tsc") || boot.command_line.windows(4).any(|word| word == b" tsc");
        let told = format!(" tsc_early_khz={}", boot.tsc_hz / 1000);
        if !says && line.len() + told.len() <= LINUX_LINE {
            line.extend(told.bytes());
        }
    }
    line.iter().copied().take_while(|byte| *byte != 0).collect()
}

/// The guest's map, as numbers.
fn expected_map(boot: &BootInformation<'_>) -> Vec<(u64, u64, u64)> {
    boot.map.entries().iter().map(|entry| (entry.start, entry.end - entry.start, entry.kind as u64)).collect()
}

/// `count` entries of `size` bytes with start, length and kind at an offset.
fn read_map(memory: &FirstMib, at: u64, count: u64, size: u64) -> Vec<(u64, u64, u64)> {
    let entry = |at| (memory.number(at, 8), memory.number(at + 8, 8), memory.number(at + 16, 4));
    (0..count).map(|index| entry(at + index * size)).collect()
}

fn check_linux(boot: &BootInformation<'_>, memory: &FirstMib, state: &VcpuState, probes: &[u32]) {
    let page = state.gprs[Gpr::Rsi as usize];
    let field = |offset: u64, width| memory.number(page + offset, width);
    let wide = |low: u64, high: u64| field(low, 4) | field(high, 4) << 32;
    let initrd = boot.launch.block.initrd;
    assert_eq!((wide(0x218, 0xc0), wide(0x21c, 0xc4)), (initrd.start, initrd.bytes), "the RAM disk");
    assert_eq!(memory.text(wide(0x228, 0xc8)), expected_line(boot), "the command line");
    assert_eq!((field(0x70, 8), field(0x1ef, 1), field(0x210, 1)), (boot.rsdp, 0, 0xff));
    assert_eq!(read_map(memory, page + 0x2d0, field(0x1e8, 1), 20), expected_map(boot), "the memory map");
    let table = 0x2d0..0x2d0 + 20 * field(0x1e8, 1);
    let loaders = [0x70..0x78, 0xc0..0xcc, 0x1e8..0x1e9, 0x210..0x211, 0x218..0x220, 0x228..0x22c, table];
    for (at, byte) in (0u64..).zip(memory.bytes(page, 4096)) {
        let own = boot.setup_header.get(at as usize).filter(|_| at >= 0x1f1).copied().unwrap_or(0);
        assert!(
            byte == own || loaders.iter().any(|range| range.contains(&at)),
            "{byte:#x} at {at:#x} of the zero page"
        );
    }
    assert_eq!((state.cr0 & 0x8000_0001, state.cr4, state.efer), (0x8000_0001, 0x20, 0x500), "long mode");
    for probe in probes.iter().map(|probe| u64::from(*probe)).chain([0, 4 * GIB - 1]) {
        assert_eq!(walk(memory, state.cr3, probe), probe, "the identity map");
    }
    for (register, selector, long) in [(SegmentRegister::Cs, 0x10, true), (SegmentRegister::Ds, 0x18, false)] {
        let segment = state.segments[register as usize];
        let descriptor = memory.number(state.gdtr.base + selector, 8);
        // Base, limit and granularity of a flat segment; the accessed bit may be set.
        assert_eq!(descriptor & !(0b1111 << 40 | 0b0110 << 52), 0x008f_9000_0000_ffff, "{descriptor:#x}");
        assert_eq!((descriptor >> 53 & 1 == 1, descriptor >> 43 & 1 == 1), (long, long), "{descriptor:#x}");
        assert_eq!((u64::from(segment.selector), segment.base), (selector, 0));
        assert_eq!(segment.attributes.contains(SegmentAttributes::LONG), long);
    }
    assert_eq!(state.gdtr.limit, 31);
}

/// Where a linear address is mapped to, writable at each level.
fn walk(memory: &FirstMib, root: u64, address: u64) -> u64 {
    let mut table = root;
    for shift in [39, 30, 21, 12] {
        let entry = memory.number(table + (address >> shift & 511) * 8, 8);
        assert_eq!(entry & 3, 3, "{entry:#x} for {address:#x}");
        table = entry & !0xfff;
        if entry & 0x80 != 0 {
            let mask = (1 << shift) - 1;
            assert_eq!(table & mask, 0, "{entry:#x} for {address:#x}");
            return table | address & mask;
        }
    }
    table | address & 0xfff
}

/// 32-bit protected mode with flat segments, and the address in EBX.
fn check_protected_mode(state: &VcpuState) -> u64 {
    assert_eq!((state.cr0 & 0x8000_0001, state.efer, state.cr4), (1, 0, 0), "protected mode without paging");
    for register in [SegmentRegister::Cs, SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Ss] {
        let segment = state.segments[register as usize];
        assert_eq!((segment.base, segment.limit), (0, u32::MAX));
        assert!(segment.attributes.contains(SegmentAttributes::DEFAULT_BIG));
    }
    state.gprs[Gpr::Rbx as usize]
}

fn check_pvh(boot: &BootInformation<'_>, memory: &FirstMib, state: &VcpuState) {
    let information = check_protected_mode(state);
    let field = |offset: u64, width| memory.number(information + offset, width);
    let initrd = boot.launch.block.initrd;
    assert_eq!((field(0, 4), field(4, 4), field(8, 4)), (0x336e_c578, 1, 0));
    assert_eq!(field(12, 4), u64::from(initrd.bytes > 0), "modules");
    if initrd.bytes > 0 {
        let module = field(16, 8);
        assert_eq!((memory.number(module, 8), memory.number(module + 8, 8)), (initrd.start, initrd.bytes));
    }
    assert_eq!(memory.text(field(24, 8)), expected_line(boot), "the command line");
    assert_eq!(field(32, 8), boot.rsdp);
    assert_eq!(read_map(memory, field(40, 8), field(48, 4), 24), expected_map(boot), "the memory map");
}

fn check_multiboot(boot: &BootInformation<'_>, memory: &FirstMib, state: &VcpuState, has_bios: bool) {
    let information = check_protected_mode(state);
    assert_eq!(state.gprs[Gpr::Rax as usize], 0x2bad_b002);
    let field = |offset: u64| memory.number(information + offset, 4);
    let initrd = boot.launch.block.initrd;
    let has_module = initrd.bytes > 0;
    assert_eq!(field(0), 0b100_0101 | u64::from(has_module) << 3, "flags");
    let upper = boot.map.entries().iter().find(|entry| entry.start == MIB).expect("memory from 1 MiB on");
    assert_eq!((field(4), field(8)), (640, (upper.end - MIB) / 1024));
    assert_eq!(memory.text(field(16)), expected_line(boot), "the command line");
    assert_eq!(field(20), u64::from(has_module));
    if has_module && initrd.end() < 4 * GIB {
        let module = field(24);
        assert_eq!((memory.number(module, 4), memory.number(module + 4, 4)), (initrd.start, initrd.end()));
    }
    assert_eq!(field(44) % 24, 0);
    let map = read_map(memory, field(48) + 4, field(44) / 24, 24);
    assert_eq!(map, expected_map(boot), "the memory map");
    assert!((0..field(44) / 24).all(|index| memory.number(field(48) + index * 24, 4) == 20), "sizes of entries");
    if has_bios {
        for vector in 0..256 {
            let handler = memory.number(vector * 4 + 2, 2) * 16 + memory.number(vector * 4, 2);
            assert_eq!(handler, if vector == 8 { TIMER.start } else { DUMMY.start }, "vector {vector}");
        }
        assert_eq!((memory.number(TIMER.end - 1, 1), memory.number(DUMMY.start, 1)), (0xcf, 0xcf), "IRET");
    }
}
