// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about payloads: what is recognised, where it goes, what is refused and why.

use super::*;
use crate::fixture::{multiboot_header, multiboot_program, pvh_note, pvh_program};

fn refusal(kernel: Vec<u8>) -> String {
    let message = Inputs::kernel(kernel).refusal();
    assert!(message.contains("kernel: "), "{message}");
    message
}

fn linux(change: impl Fn(&mut BzImage)) -> Vec<u8> {
    let mut kernel = BzImage::default();
    change(&mut kernel);
    kernel.bytes()
}

fn with_initrd(kernel: Vec<u8>, bytes: usize) -> Inputs {
    Inputs { initrd: Some(vec![1; bytes]), ..Inputs::kernel(kernel) }
}

#[test]
fn a_pvh_program_is_loaded_at_its_physical_addresses_and_entered_by_its_note() {
    for class in [Class::Elf32, Class::Elf64] {
        let image = with_initrd(pvh_program(class).bytes(), 0x1001).build().unwrap();
        let block = image.block();
        assert_eq!((block.payload_kind, block.entry), (payload::PVH, 0x10_0020));
        assert_eq!(block.payload[0], Range { start: 0x10_0000, bytes: 0x5000 });
        let mut content = vec![0x90; 0x1234];
        content.resize(0x5000, 0);
        assert_eq!(image.memory(block.payload[0]), content);
        assert_eq!(block.initrd, Range { start: IMAGE_BASE - 0x2000, bytes: 0x1001 });
        assert_eq!(block.setup_header, Range::default());
    }
}

#[test]
fn a_multiboot_program_is_loaded_with_its_bss_zeroed() {
    for class in [Class::Elf32, Class::Elf64] {
        let image = Inputs::kernel(multiboot_program(class).bytes()).build().unwrap();
        let block = image.block();
        assert_eq!((block.payload_kind, block.entry), (payload::MULTIBOOT, 0x40_0010));
        assert_eq!(block.payload[0], Range { start: 0x40_0000, bytes: 0x3900 });
        assert_eq!(image.memory(Range { start: 0x40_08ff, bytes: 0x3001 })[0], 0x90);
        assert!(image.memory(Range { start: 0x40_0900, bytes: 0x3000 }).iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_multiboot_program_linked_high_is_entered_at_its_physical_address() {
    let mut program = multiboot_program(Class::Elf64);
    program.segments[0].virtual_address = 0xffff_ffff_c040_0000;
    program.entry = 0xffff_ffff_c040_0010;
    let image = Inputs::kernel(program.bytes()).build().unwrap();
    assert_eq!(image.block().entry, 0x40_0010);
}

#[test]
fn a_multiboot_header_with_addresses_outranks_the_elf() {
    let addresses = [0x20_0000 + 0x54, 0x20_0000, 0x20_0100, 0x20_0200, 0x20_0060];
    let mut program = multiboot_program(Class::Elf32);
    program.segments.truncate(1);
    program.segments[0].data = multiboot_header(1 << 16, &addresses);
    program.segments[0].data.resize(0x400, 0x90);
    let file = program.bytes();
    let offset = file.windows(4).position(|word| word == 0x1bad_b002u32.to_le_bytes()).unwrap();
    let image = Inputs::kernel(file.clone()).build().unwrap();
    let block = image.block();
    let start = offset - 0x54;
    assert_eq!(block.entry, 0x20_0060);
    assert_eq!(block.payload[0], Range { start: 0x20_0000, bytes: 0x200 });
    assert_eq!(image.memory(Range { start: 0x20_0000, bytes: 0x100 }), file[start..start + 0x100]);
}

#[test]
fn a_real_mode_program_below_640_kib_is_left_where_it_wants_to_be() {
    let mut program = multiboot_program(Class::Elf32);
    program.entry = 0x8010;
    program.segments = vec![Segment::load(7, 0x8000, program.segments[0].data.clone())];
    let image = Inputs::kernel(program.bytes()).build().unwrap();
    assert_eq!(image.block().payload[0].start, 0x8000);
}

#[test]
fn memory_with_another_owner_is_refused() {
    for (address, owner) in [
        (IMAGE_BASE - 0x800, "Parados itself"),
        (IMAGE_BASE + REGION_LIMIT - 1, "Parados itself"),
        (0x9_f800, "video memory"),
        (BOOT_STRUCTURES.end() - 1, "the structures"),
        ((2 << 30) - 0x100, "2 GiB"),
    ] {
        let mut program = multiboot_program(Class::Elf32);
        let code = program.segments[0].data.clone();
        program.entry = address;
        program.segments = vec![Segment::load(7, address, code)];
        let message = refusal(program.bytes());
        assert!(message.contains(owner), "{message}");
    }
}

#[test]
fn a_signature_after_the_kernel_is_not_loaded() {
    let image = Inputs::kernel(linux(|kernel| kernel.tail = 0x1000)).build().unwrap();
    let after = image.memory(Range { start: (16 << 20) + 0x3010, bytes: 0xff0 });
    assert!(after.iter().all(|byte| *byte == 0));
    assert!(!image.pages.contains_key(&((16 << 20) + 0x4000)));
}

#[test]
fn a_large_relocatable_kernel_goes_above_parados() {
    let large = |relocatable| {
        linux(|kernel| {
            kernel.init_size = 120 << 20;
            kernel.relocatable = relocatable;
        })
    };
    let block = Inputs::kernel(large(true)).build().unwrap().block();
    assert_eq!(block.payload[0], Range { start: IMAGE_BASE + REGION_LIMIT, bytes: 120 << 20 });
    assert_eq!(block.entry, block.payload[0].start + 0x200);
    let message = refusal(large(false));
    assert!(message.contains("overlaps Parados itself"), "{message}");
}

#[test]
fn an_initrd_goes_below_parados_if_it_fits_and_above_otherwise() {
    let kernel = |init_size| linux(|kernel| kernel.init_size = init_size);
    let place = |init_size, bytes| with_initrd(kernel(init_size), bytes).build().unwrap().block().initrd;
    // From 16 MiB on, 110 MiB of kernel leave 2 MiB below Parados.
    assert_eq!(place(110 << 20, 2 << 20).start, IMAGE_BASE - (2 << 20));
    assert_eq!(place(110 << 20, (2 << 20) + 1).start, IMAGE_BASE + REGION_LIMIT);
    let message = with_initrd(linux(|kernel| kernel.initrd_addr_max = 0x0110_0000), 0x1000).refusal();
    assert!(message.contains("initrd: 4096 bytes do not fit"), "{message}");
}

#[test]
fn an_initrd_above_stays_clear_of_what_the_kernel_has_there() {
    let mut program = multiboot_program(Class::Elf32);
    let mut high = Segment::load(6, IMAGE_BASE + REGION_LIMIT, vec![2]);
    high.memory_bytes = 0x1800;
    let mut low = Segment::load(6, 0x50_0000, vec![1]);
    low.memory_bytes = IMAGE_BASE - 0x50_0000;
    program.segments.extend([low, high]);
    let block = with_initrd(program.bytes(), 1).build().unwrap().block();
    assert_eq!(block.initrd.start, IMAGE_BASE + REGION_LIMIT + 0x2000);
}

#[test]
fn kernels_that_cannot_be_started_are_named() {
    let cases: [(Vec<u8>, &str); 12] = [
        (linux(|kernel| kernel.protocol = 0x20b), "boot protocol 2.11"),
        (linux(|kernel| kernel.xloadflags = 2), "32-bit kernel"),
        (linux(|kernel| kernel.loadflags = 0), "zImage"),
        (linux(|kernel| kernel.init_size = 0x1000), "init_size"),
        (linux(|kernel| kernel.init_size = u32::MAX), "init_size"),
        (linux(|kernel| kernel.pref_address = 0x1000), "pref_address"),
        (linux(|kernel| kernel.pref_address = u64::MAX), "pref_address"),
        (linux(|kernel| kernel.kernel.truncate(0x100)), "syssize"),
        (BzImage::default().bytes()[..0x1000].to_vec(), "truncated bzImage: has 4096 bytes"),
        (BzImage::default().bytes()[..0x240].to_vec(), "truncated bzImage: 576 bytes end within the setup header"),
        (Vec::new(), "is empty"),
        (b"IGVM and more".to_vec(), "an IGVM image"),
    ];
    for (kernel, expected) in cases {
        let message = refusal(kernel);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn files_for_other_architectures_are_named() {
    let mut arm64 = vec![0; 0x1000];
    arm64[0x38..0x3c].copy_from_slice(b"ARM\x64");
    assert!(refusal(arm64).contains("not a bzImage, PVH ELF or Multiboot ELF: a Linux Image for arm64"));
    let mut program = pvh_program(Class::Elf64);
    program.machine = 183;
    assert!(refusal(program.bytes()).contains("an ELF for arm64, expected i386 or x86-64"));
    program.segments.truncate(1);
    assert!(refusal(program.bytes()).contains("a 64-bit ELF for arm64 with neither"));
    assert!(refusal(vec![0x1f, 0x8b, 8, 0]).contains("gzip"));
}

#[test]
fn programs_with_wrong_entries_or_segments_are_refused() {
    let mut program = pvh_program(Class::Elf32);
    program.segments[1] = Segment::note(pvh_note(&0x50_0000u32.to_le_bytes()));
    assert!(refusal(program.bytes()).contains("entry point 0x500000 is not in any"));
    program.segments[1] = Segment::note(pvh_note(&[1, 2]));
    assert!(refusal(program.bytes()).contains("descriptor of 2 bytes"));
    let mut program = multiboot_program(Class::Elf32);
    program.segments[1].physical_address = 0x40_0100;
    assert!(refusal(program.bytes()).contains("overlap"));
    let mut program = multiboot_program(Class::Elf32);
    for index in 0..9 {
        program.segments.push(Segment::load(6, 0x100_0000 + index * 0x10_0000, vec![1]));
    }
    assert!(refusal(program.bytes()).contains("separate ranges"));
    let mut program = multiboot_program(Class::Elf32);
    program.segments[0].data[..12].copy_from_slice(&multiboot_header(1 << 7, &[]));
    assert!(refusal(program.bytes()).contains("require 0x80"));
}

#[test]
fn a_multiboot_header_with_a_wrong_sum_or_too_late_is_none() {
    let mut program = multiboot_program(Class::Elf32);
    program.segments[0].data[8] ^= 1;
    assert!(refusal(program.bytes()).contains("neither"));
    let mut program = multiboot_program(Class::Elf32);
    program.segments[0].data.splice(0..0, vec![0; 8192]);
    program.segments[0].memory_bytes += 8192;
    assert!(refusal(program.bytes()).contains("neither"));
}
