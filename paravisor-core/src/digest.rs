// SPDX-License-Identifier: MIT OR Apache-2.0
//! The payload, judged by the digests in the launch block before the guest starts.
//!
//! Firmware takes long over each page that it measures, and a payload has thousands. So an image may have its payload placed
//! unmeasured: the host then decides what is there. What has to be there is told by SHA-384 digests (FIPS 180-4) in the
//! launch block, which is measured itself. The bytes are read from the guest's private memory, where the host cannot change
//! them any more, and are the very ones that the guest will run.
//!
//! Hostile party: the host, which chose the bytes.

use image_abi::{Digest, LaunchBlock};
use platform::{Gpa, GuestMemory, MemoryError, PAGE_SIZE, Visibility};
use sha2::{Digest as _, Sha384};

/// Bytes that are copied at a time: a whole number of SHA-384's blocks, few enough for the boot stack.
const STEP: usize = 1024;

/// Why the payload is not to be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestError {
    /// A part that begins at this address is another one.
    Mismatch(Gpa),
    /// A part does not lie in the guest's memory.
    Memory,
}

impl From<MemoryError> for DigestError {
    fn from(_: MemoryError) -> Self {
        Self::Memory
    }
}

/// Checks every part of the payload that a digest names, and clears what follows it in its last page. Returns how many bytes
/// were looked at.
#[inline(never)]
pub fn judge_payload(memory: &impl GuestMemory, block: &LaunchBlock) -> Result<u64, DigestError> {
    let mut bytes = 0;
    for digest in block.digests.iter().filter(|digest| digest.range.bytes != 0) {
        check(memory, digest)?;
        bytes += digest.range.bytes;
    }
    Ok(bytes)
}

fn check(memory: &impl GuestMemory, digest: &Digest) -> Result<(), DigestError> {
    let (start, end) = (digest.range.start, digest.range.end());
    let (mut hasher, mut buffer) = (Sha384::new(), [0; STEP]);
    let mut at = start;
    while at < end {
        let length = (end - at).min(STEP as u64);
        let Some(part) = buffer.get_mut(..length as usize) else { return Err(DigestError::Memory) };
        memory.copy_in(Gpa(at), Visibility::Private, part)?;
        hasher.update(part);
        at += length;
    }
    if hasher.finalize().as_slice() != digest.sha384 {
        return Err(DigestError::Mismatch(Gpa(start)));
    }
    clear(memory, end)
}

/// Clears the rest of the page in which a part ends.
fn clear(memory: &impl GuestMemory, end: u64) -> Result<(), DigestError> {
    let zeroes = [0; STEP];
    let mut at = end;
    while !at.is_multiple_of(PAGE_SIZE) {
        let length = (PAGE_SIZE - at % PAGE_SIZE).min(STEP as u64);
        memory.copy_out(Gpa(at), Visibility::Private, zeroes.get(..length as usize).unwrap_or(&zeroes))?;
        at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::tests::block;
    use image_abi::Range;
    use vc_handlers::testing::FakeMemory;

    const START: u64 = 0x10_0000;

    /// Memory full of a pattern, and a block that promises `bytes` of it from START on.
    fn promise(bytes: u64) -> (FakeMemory, LaunchBlock) {
        let memory = FakeMemory::new(START, 0x4000);
        let content: Vec<u8> = (0..0x4000u32).map(|at| (at % 251) as u8 | 1).collect();
        memory.copy_out(Gpa(START), Visibility::Private, &content).unwrap();
        let mut block = block();
        let sha384 = Sha384::digest(&content[..bytes as usize]).into();
        block.digests[3] = Digest { range: Range { start: START, bytes }, sha384 };
        (memory, block)
    }

    fn flip(memory: &FakeMemory, at: u64) {
        let byte = memory.get(at, 1)[0];
        memory.copy_out(Gpa(at), Visibility::Private, &[byte ^ 0x20]).unwrap();
    }

    #[test]
    fn a_payload_as_promised_passes_whatever_its_length() {
        for bytes in [1, 127, 128, 1023, 1024, 1025, 4095, 4096, 4097, 0x3000, 0x3fff, 0x4000] {
            let (memory, block) = promise(bytes);
            assert_eq!(judge_payload(&memory, &block), Ok(bytes));
        }
    }

    /// FIPS 180-4's own example: a digest of another function would not be this one.
    #[test]
    fn the_digest_is_sha_384() {
        let (memory, mut block) = promise(3);
        memory.copy_out(Gpa(START), Visibility::Private, b"abc").unwrap();
        assert_eq!(judge_payload(&memory, &block), Err(DigestError::Mismatch(Gpa(START))));
        let words = [
            0xcb00753f45a35e8bu64,
            0xb5a03d699ac65007,
            0x272c32ab0eded163,
            0x1a8b605a43ff5bed,
            0x8086072ba1e7cc23,
            0x58baeca134c825a7,
        ];
        for (bytes, word) in block.digests[3].sha384.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
        assert_eq!(judge_payload(&memory, &block), Ok(3));
    }

    #[test]
    fn one_changed_byte_anywhere_is_noticed() {
        for at in [0, 1023, 1024, 0x2000, 0x3122] {
            let (memory, block) = promise(0x3123);
            flip(&memory, START + at);
            assert_eq!(judge_payload(&memory, &block), Err(DigestError::Mismatch(Gpa(START))), "{at:#x}");
        }
        let (memory, mut block) = promise(0x3123);
        block.digests[3].sha384[47] ^= 1;
        assert_eq!(judge_payload(&memory, &block), Err(DigestError::Mismatch(Gpa(START))));
    }

    /// The host fills whole pages, and the digest says nothing of what follows in the last one.
    #[test]
    fn what_the_host_put_behind_a_part_is_cleared_up_to_the_page_s_end() {
        for bytes in [1, 0x7ff, 0xfff, 0x1000, 0x1001] {
            let (memory, block) = promise(bytes);
            judge_payload(&memory, &block).unwrap();
            let end = bytes.next_multiple_of(0x1000);
            assert!(memory.get(START + bytes, (end - bytes) as usize).iter().all(|byte| *byte == 0), "{bytes:#x}");
            assert_ne!(memory.get(START + bytes - 1, 1), [0]);
            assert_ne!(memory.get(START + end, 1), [0], "{bytes:#x}: the next page is not the part's");
        }
    }

    #[test]
    fn a_part_that_is_not_memory_is_refused_and_without_digests_nothing_is_read() {
        let (memory, mut block) = promise(0x1000);
        for (start, bytes) in [(START - 1, 2), (START + 0x3fff, 2), (u64::MAX - 1, 5), (0, 1)] {
            block.digests[3].range = Range { start, bytes };
            assert_eq!(judge_payload(&memory, &block), Err(DigestError::Memory), "{start:#x}");
        }
        block.digests[3] = Digest::NONE;
        assert_eq!(judge_payload(&FakeMemory::new(0, 0x1000), &block), Ok(0));
    }
}
