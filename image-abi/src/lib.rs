// SPDX-License-Identifier: MIT OR Apache-2.0
//! The launch block: one page in which `igvm-tools` tells the image what was placed where; and the page in which a TDX image
//! starts.
//!
//! The block is part of the image and, on confidential platforms, of its measurement: whoever could change it could
//! change the code that reads it. The memory map and the processor count are *not* in it, because the host fills them in
//! at launch; the block only says where.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use static_assertions::const_assert;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the image and everything that Parados owns begins in guest-physical memory.
pub const IMAGE_BASE: u64 = 128 << 20;

/// What Parados may take from [`IMAGE_BASE`] on, whatever the VM's size. Payloads stay out of it.
pub const REGION_LIMIT: u64 = 32 << 20;

/// Guest memory in which Parados builds what the guest's entry protocol wants (boot parameters, start information,
/// descriptor and page tables) before the guest's first instruction. Payloads stay out of it.
///
/// It ends below 9F000h, where an extended BIOS data area could begin, and leaves the low addresses to payloads that are
/// linked there.
pub const BOOT_STRUCTURES: Range = Range { start: 0x9_0000, bytes: 0xf000 };

/// The last page of [`BOOT_STRUCTURES`]: where other processors start, on platforms that start them in real mode. Wiped
/// before the guest runs.
pub const START_PAGE: u64 = BOOT_STRUCTURES.end() - 4096;

/// The note by which a paravisor's ELF says which platform it is for (System V ABI, chapter 5, note section): it is no part of the
/// image. The name, padded to the note's words.
pub const NOTE_NAME: [u8; 8] = *b"Parados\0";

/// The note's type. Its descriptor is the platform's name, eight bytes with zeroes behind.
pub const NOTE_PLATFORM: u32 = 1;

/// TDX: the page with the reset vector, where every processor of a TD starts (TDXBASE, initial state of TD vCPUs).
pub const RESET_PAGE: u64 = (4 << 30) - 4096;

/// [`ResetParameters::magic`].
/// A Parados that extends runtime registers (RTMR0 to RTMR3) takes another one: by this one verifiers expect zeroes in them.
pub const RESET_MAGIC: [u8; 8] = *b"PARESET\x01";

/// TDX: what `igvm-tools` tells the code in [`RESET_PAGE`], at the start of that page. A TD's processors start in one fixed state,
/// so there are no registers in which to say it. Addresses are below 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResetParameters {
    /// [`RESET_MAGIC`].
    pub magic: [u8; 8],
    /// The paravisor's entry point, in 32-bit mode without paging.
    pub entry: u32,
    /// The launch block.
    pub launch_block: u32,
}

/// TDX: where the boot processor calls the others, which wait for it since the launch. In a page of its own; zero at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mailbox {
    /// The index of the processor that is called. It sets it to zero when it has read the rest.
    pub processor: u32,
    /// Zero.
    pub reserved: u32,
    /// The top of its stack.
    pub stack: u64,
    /// Where it goes, in long mode on the image's page tables.
    pub entry: u64,
}

/// Payloads lie below this: above it, a PC may have devices instead of memory.
pub const PAYLOAD_LIMIT: u64 = 2 << 30;

/// The longest command line, so that it fits into [`BOOT_STRUCTURES`] beside everything else.
pub const COMMAND_LINE_LIMIT: u64 = 16 << 10;

/// [`LaunchBlock::magic`].
pub const MAGIC: [u8; 8] = *b"PARADOS\x01";

/// How many ranges a payload can occupy.
pub const PAYLOAD_RANGES: usize = 8;

/// How many [`Digest`]s there can be: one for each range of the payload and one for the RAM disk.
pub const PAYLOAD_DIGESTS: usize = PAYLOAD_RANGES + 1;

/// Bytes of guest-physical memory, `start` and `bytes` both zero if absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    /// The first byte.
    pub start: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// How many runs of pages outside the image a loader can fill: the payload's, its RAM disk, and what lies apart.
pub const PLACED_RANGES: usize = 16;

/// A part of the payload that the loader placed without measuring it, and what it has to be.
///
/// Such a part begins with a page and has its last page to itself. What follows it there is nobody's word: Parados clears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Digest {
    /// Which bytes; none if this is no part at all.
    pub range: Range,
    /// Their SHA-384.
    pub sha384: [u8; 48],
}

impl Digest {
    /// No part of any payload.
    pub const NONE: Self = Self { range: Range { start: 0, bytes: 0 }, sha384: [0; 48] };
}

/// [`LaunchBlock::payload_kind`]: how the guest is entered.
pub mod payload {
    /// No payload: the image only starts and stops.
    pub const NONE: u32 = 0;
    /// Linux bzImage, 64-bit boot protocol.
    pub const LINUX: u32 = 1;
    /// An ELF with a PVH entry note.
    pub const PVH: u32 = 2;
    /// An ELF with a Multiboot 1 header.
    pub const MULTIBOOT: u32 = 3;
}

/// [`LaunchBlock::flags`].
pub mod flag {
    /// The guest's machine has the devices that kvm-unit-tests expects.
    pub const TEST_DEVICES: u32 = 1 << 0;
    /// COM2 exists, and the guest reports the status of one command through it.
    pub const COMMAND: u32 = 1 << 1;
    /// Print exit statistics when the VM ends.
    pub const STATISTICS: u32 = 1 << 2;
    /// The image may write log lines to the host.
    pub const DEBUG_LOG: u32 = 1 << 3;
    /// Fill a page of Parados's own memory with [`super::canary`], for tests that look for it.
    pub const CANARY: u32 = 1 << 4;
    /// The guest can read the exit statistics, in a window of MMIO.
    pub const GUEST_STATISTICS: u32 = 1 << 5;
    /// The guest may share pages with the host and take them back, by hypercall.
    pub const PAGE_CONVERSION: u32 = 1 << 6;
    /// All bits that mean something.
    pub const ALL: u32 = TEST_DEVICES
        | COMMAND
        | STATISTICS
        | DEBUG_LOG
        | CANARY
        | GUEST_STATISTICS
        | PAGE_CONVERSION
        | super::log_level::MASK;
}

/// A pattern that nobody has by chance, and that a test guest can tell without having a copy of it: each word proves
/// itself.
pub mod canary {
    /// How many words a canary has: a page.
    pub const WORDS: u32 = 512;

    /// The upper half of word `index`.
    const fn proof(index: u32) -> u32 {
        let mixed = (index ^ 0x5afe_c0de).wrapping_mul(0x9e37_79b1);
        (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b) | 1
    }

    /// Word `index` of a canary.
    pub const fn word(index: u32) -> u64 {
        (proof(index) as u64) << 32 | index as u64
    }

    /// Whether a value is a word of a canary.
    pub const fn is_word(value: u64) -> bool {
        (value as u32) < WORDS && proof(value as u32) == (value >> 32) as u32
    }
}

/// What an operator gets who asks for a report with a nonce of his own.
///
/// The nonce is the host's to choose, and what Parados puts into a report in somebody else's name must not be: the same 64 bytes
/// could be the digest of a key. So a report holds a digest that can only have been made of a nonce: REPORT_DATA is the SHA-512
/// of [`attestation::DOMAIN`] and the nonce's bytes.
pub mod attestation {
    /// What precedes the nonce.
    pub const DOMAIN: &[u8] = b"parados-nonce-1:";
    /// How many bytes a nonce has.
    pub const NONCE_BYTES: core::ops::RangeInclusive<usize> = 16..=64;
    /// The file of fw_cfg that holds the nonce, in hexadecimal digits.
    pub const FILE: &str = "opt/parados/nonce";
}

/// How much each module of the image logs: three bits of [`LaunchBlock::flags`] for each, from bit 8 on. Zero is
/// [`log_level::DEFAULT`], other values are one more than the level's index in [`log_level::NAMES`].
pub mod log_level {
    /// The modules, in the order of their bits.
    pub const MODULES: [&str; 5] = ["image", "core", "handlers", "devices", "platform"];
    /// The levels; each includes the ones before it.
    pub const NAMES: [&str; 6] = ["off", "error", "warning", "info", "debug", "trace"];
    /// The index of the level of a module about which nothing is said.
    pub const DEFAULT: usize = 3;
    const FIRST: usize = 8;
    const BITS: usize = 3;
    /// All bits that hold levels.
    pub const MASK: u32 = ((1 << (BITS * MODULES.len())) - 1) << FIRST;

    /// The flags for a level, both by their index.
    pub const fn flags(module: usize, level: usize) -> u32 {
        if module < MODULES.len() && level < NAMES.len() { (level as u32 + 1) << (FIRST + BITS * module) } else { 0 }
    }

    /// `flags` with the levels of `others`, where those say something.
    pub const fn overruled(flags: u32, others: u32) -> u32 {
        let (mut result, mut module) = (flags, 0);
        while module < MODULES.len() {
            let mask = ((1 << BITS) - 1) << (FIRST + BITS * module);
            if others & mask != 0 {
                result = result & !mask | others & mask;
            }
            module += 1;
        }
        result
    }

    /// The index of a module's level; [`DEFAULT`] also where the bits mean nothing.
    pub const fn of(flags: u32, module: usize) -> usize {
        if module >= MODULES.len() {
            return DEFAULT;
        }
        match (flags >> (FIRST + BITS * module)) as usize & ((1 << BITS) - 1) {
            value @ 1..=6 => value - 1,
            _ => DEFAULT,
        }
    }
}

/// The launch block, at the start of a read-only page of its own (the descriptor table that the boot processor starts with
/// lies further up in it). The boot processor finds its address in RDI. All addresses are guest-physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LaunchBlock {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Everything of Parados that the image placed: `start` is [`IMAGE_BASE`], the heap begins at its end.
    pub image: Range,
    /// The image's code, executable and read-only. Whole pages, like all ranges down to `processor_count`.
    pub text: Range,
    /// The image's constants, read-only.
    pub rodata: Range,
    /// The page-table pages made at build time; the first is the root.
    pub page_tables: Range,
    /// The boot processor's stack, without the absent page below it.
    pub stack: Range,
    /// The parameter area that the loader fills with IGVM memory map entries.
    pub memory_map: Range,
    /// The parameter area that the loader fills with the processor count, a `u32`.
    pub processor_count: Range,
    /// A copy of the bzImage's first bytes, up to the end of its setup header ([`payload::LINUX`] alone): the header
    /// itself begins 1F1h into it.
    pub setup_header: Range,
    /// The command line, without the terminating zero that follows it in memory.
    pub command_line: Range,
    /// The initial RAM disk, or the first module.
    pub initrd: Range,
    /// Where the guest starts: the payload's entry point in its own protocol's mode.
    pub entry: u64,
    /// One of [`payload`].
    pub payload_kind: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// All that the payload occupies, with the room that it needs to unpack itself; `initrd` is apart. A Linux kernel
    /// is one range, which begins at its load address.
    pub payload: [Range; PAYLOAD_RANGES],
    /// On platforms whose memory has to be accepted: the pages outside the image that the loader fills, in ascending order.
    /// They are accepted when the image starts; all other memory is not.
    pub placed: [Range; PLACED_RANGES],
    /// SEV-SNP: the page in which the firmware checked what CPUID answers.
    pub cpuid_page: Range,
    /// SEV-SNP: the page in which the firmware left its secrets.
    pub secrets_page: Range,
    /// TDX: the page with the [`Mailbox`].
    pub mailbox: Range,
    /// TDX: the attributes that the TD has to have, of those that a policy decides.
    pub td_attributes: u64,
    /// What of the payload and the RAM disk is not measured, for Parados to check. Where no entry names them, they are measured.
    pub digests: [Digest; PAYLOAD_DIGESTS],
}

impl LaunchBlock {
    /// Whether a bit of [`flag`] is set.
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

impl Range {
    /// One past the last byte; saturates.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

const_assert!(size_of::<LaunchBlock>() <= 4096);

#[cfg(test)]
mod tests {
    use super::canary;

    #[test]
    fn canary_words_prove_themselves() {
        for index in 0..canary::WORDS {
            let word = canary::word(index);
            assert!(canary::is_word(word));
            for bit in 0..64 {
                assert!(!canary::is_word(word ^ 1 << bit), "{word:#x}, bit {bit}");
            }
        }
        for value in [0, 1, u64::MAX, 0x1_0000_0000] {
            assert!(!canary::is_word(value));
        }
    }
}
