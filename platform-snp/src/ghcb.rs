// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GHCB page (GHCB 2.0, 4.1): one request at a time, and the host's answer to it.
//!
//! Hostile party: the host, which can write the page at any time, and the guest, which cannot reach it only because nothing
//! tells it of shared addresses. Each field of an answer is read once, and only fields that the request expects.
//!
//! Requests are functions of their own, because the image is to be small and an exit costs far more than a call.

use core::sync::atomic::{AtomicU64, Ordering};

use specs::ghcb::{answer, exit as own, page};
use specs::svm::{exit, ioio};

use crate::instructions::{vmgexit, vmgexit_unless_rung};
use crate::local::Local;

/// A page that the host may read and write at any time.
#[repr(C, align(4096))]
pub(crate) struct SharedPage([AtomicU64; 512]);

impl SharedPage {
    /// A page for tests.
    #[cfg(test)]
    pub(crate) const fn zeroed() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Eight bytes at an offset, which is a multiple of eight.
    pub(crate) fn word(&self, offset: usize) -> u64 {
        self.0.get(offset / 8).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Writes eight bytes.
    pub(crate) fn set_word(&self, offset: usize, value: u64) {
        if let Some(word) = self.0.get(offset / 8) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The first word, on which guest and host race.
    pub(crate) fn first(&self) -> &AtomicU64 {
        let [first, ..] = &self.0;
        first
    }

    /// Where it is.
    pub(crate) fn address(&self) -> u64 {
        core::ptr::from_ref(self).expose_provenance() as u64
    }

    /// Zeroes all of it.
    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Writes bytes at its start, and zeros behind them.
    pub(crate) fn fill(&self, bytes: &[u8]) {
        let words = bytes.chunks(8).map(|bytes| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        let words = words.chain(core::iter::repeat(0));
        self.0.iter().zip(words).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
    }

    /// Copies bytes from its start, each once.
    pub(crate) fn copy(&self, bytes: &mut [u8]) {
        self.copy_from(0, bytes);
    }

    /// Copies bytes from an offset, which is a multiple of eight.
    fn copy_from(&self, offset: usize, bytes: &mut [u8]) {
        for (word, bytes) in self.0.iter().skip(offset / 8).zip(bytes.chunks_mut(8)) {
            let word = word.load(Ordering::Relaxed).to_le_bytes();
            bytes.iter_mut().zip(word).for_each(|(to, from)| *to = from);
        }
    }
}

/// Why the host did not do what it was asked to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// There is no GHCB yet.
    NoGhcb,
    /// An exception would follow on a processor: the thing does not exist.
    Exception,
    /// SW_EXITINFO1 and 2 of any other answer than success.
    Answer(u64, u64),
    /// An answer without the field that it must have.
    MissingField(usize),
}

/// One request: its fields and which of them are valid.
pub(crate) struct Request {
    page: &'static SharedPage,
    valid: [u64; 2],
}

/// The version that requests name (GHCB 2.0), in the page's last eight bytes, with a usage of 0.
const VERSION_WORD: usize = 0xff8;
const VERSION: u64 = crate::msr_protocol::VERSION << 16;

impl Request {
    /// A request with its code and information words.
    pub(crate) fn new(local: &Local, code: u64, info1: u64, info2: u64) -> Result<Self, Refusal> {
        let page = local.ghcb().ok_or(Refusal::NoGhcb)?;
        let mut request = Self { page, valid: [0; 2] };
        page.set_word(VERSION_WORD, VERSION);
        for (field, value) in [(page::SW_EXIT_CODE, code), (page::SW_EXIT_INFO1, info1), (page::SW_EXIT_INFO2, info2)] {
            request.set(field, value);
        }
        Ok(request)
    }

    /// Fills in a field.
    pub(crate) fn set(&mut self, field: usize, value: u64) {
        self.page.set_word(field, value);
        if let Some(bits) = self.valid.get_mut(field / 512) {
            *bits |= 1 << (field / 8 % 64);
        }
    }

    fn arm(&self, local: &Local) {
        for (word, bits) in self.valid.iter().enumerate() {
            self.page.set_word(page::VALID_BITMAP + 8 * word, *bits);
        }
        local.set_msr(self.page.address());
    }

    /// Hands the request to the host; SW_EXITINFO2 of its answer.
    pub(crate) fn send(self, local: &Local) -> Result<u64, Refusal> {
        self.arm(local);
        vmgexit();
        self.answer()
    }

    /// The same, unless the doorbell has rung; `None` if it has.
    pub(crate) fn send_unless_rung(self, local: &Local, doorbell: &SharedPage) -> Option<Result<u64, Refusal>> {
        self.arm(local);
        vmgexit_unless_rung(core::ptr::from_ref(doorbell).cast()).then(|| self.answer())
    }

    fn answer(&self) -> Result<u64, Refusal> {
        let (info1, info2) = (self.page.word(page::SW_EXIT_INFO1), self.page.word(page::SW_EXIT_INFO2));
        match info1 & 0xffff_ffff {
            answer::OK => Ok(info2),
            answer::EXCEPTION => Err(Refusal::Exception),
            _ => Err(Refusal::Answer(info1, info2)),
        }
    }
}

/// A field that the host must have filled in.
fn returned(page: &SharedPage, field: usize) -> Result<u64, Refusal> {
    let bits = page.word(page::VALID_BITMAP + field / 512 * 8);
    if bits >> (field / 8 % 64) & 1 == 0 {
        return Err(Refusal::MissingField(field));
    }
    Ok(page.word(field))
}

/// The size bits of a port access.
const fn size(bytes: u8) -> u64 {
    match bytes {
        1 => ioio::SIZE_8,
        2 => ioio::SIZE_16,
        _ => ioio::SIZE_32,
    }
}

/// IN of 1, 2 or 4 bytes.
#[inline(never)]
pub(crate) fn port_read(port: u16, bytes: u8) -> Result<u32, Refusal> {
    let local = Local::current();
    let info1 = u64::from(port) << ioio::PORT_SHIFT | ioio::IN | size(bytes);
    let mut request = Request::new(local, exit::IOIO, info1, 0)?;
    request.set(page::RAX, 0);
    let page = request.page;
    request.send(local)?;
    let ones = u32::MAX >> (32 - 8 * u32::from(bytes.min(4)));
    Ok(returned(page, page::RAX)? as u32 & ones)
}

/// OUT.
#[inline(never)]
pub(crate) fn port_write(port: u16, bytes: u8, value: u32) -> Result<(), Refusal> {
    let local = Local::current();
    let info1 = u64::from(port) << ioio::PORT_SHIFT | size(bytes);
    let mut request = Request::new(local, exit::IOIO, info1, 0)?;
    request.set(page::RAX, value.into());
    request.send(local).map(drop)
}

/// OUTS of bytes, as many at once as the page's buffer holds.
pub(crate) fn port_write_all(port: u16, bytes: &[u8]) -> Result<(), Refusal> {
    let local = Local::current();
    let info1 = u64::from(port) << ioio::PORT_SHIFT | ioio::SIZE_8 | ioio::STRING | ioio::REPEAT;
    for piece in bytes.chunks(page::SHARED_BUFFER_BYTES) {
        let mut request = Request::new(local, exit::IOIO, info1, piece.len() as u64)?;
        for (index, word) in piece.chunks(8).enumerate() {
            let value = word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            request.page.set_word(page::SHARED_BUFFER + 8 * index, value);
        }
        request.set(page::SW_SCRATCH, request.page.address() + page::SHARED_BUFFER as u64);
        request.send(local)?;
    }
    Ok(())
}

/// INS of bytes, as many at once as the page's buffer holds.
pub(crate) fn port_read_all(port: u16, bytes: &mut [u8]) -> Result<(), Refusal> {
    let local = Local::current();
    let info1 = u64::from(port) << ioio::PORT_SHIFT | ioio::IN | ioio::SIZE_8 | ioio::STRING | ioio::REPEAT;
    for piece in bytes.chunks_mut(page::SHARED_BUFFER_BYTES) {
        let mut request = Request::new(local, exit::IOIO, info1, piece.len() as u64)?;
        request.set(page::SW_SCRATCH, request.page.address() + page::SHARED_BUFFER as u64);
        let page = request.page;
        request.send(local)?;
        page.copy_from(page::SHARED_BUFFER, piece);
    }
    Ok(())
}

/// SNP_GUEST_REQUEST: the message in one shared page to the firmware, its answer into the other. SW_EXITINFO2, whose halves are the
/// host's and the firmware's word.
pub(crate) fn guest_request(request: u64, answer: u64) -> Result<u64, Refusal> {
    let local = Local::current();
    Request::new(local, own::GUEST_REQUEST, request, answer)?.send(local)
}

/// RDMSR at the host.
#[inline(never)]
pub(crate) fn msr_read(number: u32) -> Result<u64, Refusal> {
    let local = Local::current();
    let mut request = Request::new(local, exit::MSR, 0, 0)?;
    request.set(page::RCX, number.into());
    let page = request.page;
    request.send(local)?;
    Ok(returned(page, page::RAX)? & 0xffff_ffff | returned(page, page::RDX)? << 32)
}

/// WRMSR at the host.
#[inline(never)]
pub(crate) fn msr_write(number: u32, value: u64) -> Result<(), Refusal> {
    let local = Local::current();
    let mut request = Request::new(local, exit::MSR, 1, 0)?;
    request.set(page::RCX, number.into());
    request.set(page::RAX, value & 0xffff_ffff);
    request.set(page::RDX, value >> 32);
    request.send(local).map(drop)
}

/// A write of 4 bytes to a device's register in memory.
#[inline(never)]
pub(crate) fn memory_write(gpa: u64, value: u32) -> Result<(), Refusal> {
    let local = Local::current();
    let mut request = Request::new(local, own::MMIO_WRITE, gpa, 4)?;
    request.page.set_word(page::SHARED_BUFFER, value.into());
    request.set(page::SW_SCRATCH, request.page.address() + page::SHARED_BUFFER as u64);
    request.send(local).map(drop)
}

/// Gives this processor's VMPL a VMSA (operation "create"), with its features.
pub(crate) fn create(apic_id: u32, vmpl: u8, vmsa: u64, features: u64) -> Result<(), Refusal> {
    const CREATE: u64 = 1;
    let local = Local::current();
    let info1 = CREATE | u64::from(vmpl) << 16 | u64::from(apic_id) << 32;
    let mut request = Request::new(local, own::AP_CREATION, info1, vmsa)?;
    request.set(page::RAX, features);
    request.send(local).map(drop)
}

/// Tells the host where the doorbell is.
pub(crate) fn set_doorbell(gpa: u64) -> Result<(), Refusal> {
    const SET: u64 = 1;
    let local = Local::current();
    Request::new(local, own::HV_DOORBELL, SET, gpa)?.send(local).map(drop)
}

/// Runs a less privileged VMPL, unless the doorbell has rung; whether it ran.
pub(crate) fn run_vmpl(local: &Local, doorbell: &SharedPage, vmpl: u8) -> Result<bool, Refusal> {
    match Request::new(local, own::RUN_VMPL, vmpl.into(), 0)?.send_unless_rung(local, doorbell) {
        None => Ok(false),
        Some(answer) => answer.map(|_| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_written_to_a_page_are_read_again_and_nothing_is_left_behind_them() {
        let page = Box::new(SharedPage::zeroed());
        page.fill(&[0xff; 4096]);
        let bytes: Vec<u8> = (1..=21).collect();
        page.fill(&bytes);
        let mut read = [0; 32];
        page.copy(&mut read);
        assert_eq!((&read[..21], &read[21..]), (&bytes[..], &[0; 11][..]));
        let mut read = [0; 3];
        page.copy_from(8, &mut read);
        assert_eq!(read, [9, 10, 11]);
        page.copy_from(4096, &mut read);
        assert_eq!((read, page.word(4088)), ([9, 10, 11], 0), "nothing is outside");
    }
}
