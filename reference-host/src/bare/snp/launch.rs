// SPDX-License-Identifier: MIT OR Apache-2.0
//! The launch of an image: each page goes through the firmware and into the RMP, in the order of the file.

use super::devices::native_cpuid;
use super::machine::Machine;
use crate::bare::physical::GuestMemory;
use core::arch::asm;
use igvm_defs::IGVM_VHS_SNP_ID_BLOCK;
use reference_host::loader::{GuestRam, Launch, OutsideRam, PageKind};
use reference_host::memory::{GuestMap, PAGE};
use reference_host::snp::cpuid;
use reference_host::snp::firmware::{Firmware, Page};
use snp_psp::{CpuidResult, NoEntropy, Refused};
use specs::sev::cpuid_page;
use specs::vmsa::Vmsa;
use zerocopy::FromZeros;

/// The guest policy's bit for debugging (SEV-SNP firmware ABI, "guest policy").
const POLICY_DEBUG: u64 = 1 << 19;
/// How many pages an image may ask to have shared.
const SHARED: usize = 64;

/// The firmware's and the host's part of a launch.
pub(super) struct Launcher<'a> {
    machine: &'a mut Machine,
    firmware: &'a mut Firmware,
    memory: GuestMemory,
    /// The boot processor, which the CPUID page is of.
    place: cpuid::Place,
    /// The boot processor's.
    pub(super) vmsa: Option<Vmsa>,
    shared: [u64; SHARED],
    shared_count: usize,
    /// The guest policy allows debugging.
    pub(super) debug: bool,
    /// The rule that the image broke.
    pub(super) refused: Option<Refused>,
}

impl<'a> Launcher<'a> {
    /// Of a VM with so many processors.
    pub(super) fn new(machine: &'a mut Machine, firmware: &'a mut Firmware, map: GuestMap, count: u32) -> Self {
        let memory = GuestMemory::new(map);
        Self {
            machine,
            firmware,
            memory,
            place: cpuid::Place { number: 0, count },
            vmsa: None,
            shared: [0; SHARED],
            shared_count: 0,
            debug: false,
            refused: None,
        }
    }

    /// The end of the launch: its digest, with everything that is left assigned to the guest.
    pub(super) fn finish(&mut self) -> Result<[u8; 48], Refused> {
        self.machine.assign_the_rest(self.shared.get(..self.shared_count).unwrap_or(&[]));
        self.firmware.finish()
    }

    /// Keeps a refusal for the report.
    fn accepted(&mut self, result: Result<(), Refused>) -> Result<(), &'static str> {
        result.map_err(|refused| {
            self.refused = Some(refused);
            "expected something that the firmware takes"
        })
    }

    fn share(&mut self, gpa: u64, bytes: u64) -> Result<(), &'static str> {
        for page in (gpa..gpa + bytes).step_by(PAGE as usize) {
            let slot = self.shared.get_mut(self.shared_count).ok_or("expected at most 64 shared pages")?;
            *slot = page;
            self.shared_count += 1;
        }
        Ok(())
    }
}

impl Launch for Launcher<'_> {
    fn policy(&mut self, policy: u64) -> Result<(), &'static str> {
        if self.firmware.is_launching() {
            return Err("expected only one");
        }
        self.debug = policy & POLICY_DEBUG != 0;
        let started = self.firmware.start(policy, &mut rdrand);
        self.accepted(started)
    }

    fn id_block(&mut self, block: &IGVM_VHS_SNP_ID_BLOCK) -> Result<(), &'static str> {
        self.firmware.id_block(block);
        Ok(())
    }

    fn fill(&mut self, kind: PageKind, page: &mut Page) {
        if kind == PageKind::Cpuid {
            let mut table = cpuid_page::Page::new_zeroed();
            cpuid::fill(&mut table, self.place.count, native_cpuid);
            page.copy_from_slice(zerocopy::IntoBytes::as_bytes(&table));
        }
    }

    fn page(&mut self, gpa: u64, bytes: u64, kind: PageKind) -> Result<(), &'static str> {
        if kind == PageKind::Shared {
            return self.share(gpa, bytes);
        }
        if !self.firmware.is_launching() {
            return Err("expected a guest policy before it");
        }
        let outside = |OutsideRam| "expected RAM";
        let mut page = [0; PAGE as usize];
        let processor = processor(self.place);
        for at in (gpa..gpa + bytes).step_by(PAGE as usize) {
            self.memory.copy_from(at, &mut page).map_err(outside)?;
            let placed = self.firmware.place(kind, at, &mut page, &processor);
            self.accepted(placed)?;
            if matches!(kind, PageKind::Secrets | PageKind::Cpuid) {
                self.memory.write(at, &page).map_err(outside)?;
            }
        }
        self.machine.launch(gpa, bytes, false)
    }

    fn context(&mut self, gpa: u64, index: u16, vmsa: &Page) -> Result<(), &'static str> {
        if index != 0 || self.vmsa.is_some() {
            return Err("expected one for the boot processor only");
        }
        if !self.firmware.is_launching() {
            return Err("expected a guest policy before it");
        }
        let placed = self.firmware.context(gpa, vmsa, &processor(self.place));
        self.accepted(placed)?;
        self.vmsa = Some(zerocopy::transmute!(*vmsa));
        Ok(())
    }
}

/// The processor that the firmware knows: the model's.
fn processor(place: cpuid::Place) -> impl Fn(u32, u32) -> CpuidResult {
    move |leaf, subleaf| {
        let [eax, ebx, ecx, edx] = cpuid::answer(leaf, subleaf, place, native_cpuid);
        CpuidResult { eax, ebx, ecx, edx }
    }
}

/// RDRAND, as often as it takes within reason (SDM vol. 1, 7.3.17.1).
fn rdrand(bytes: &mut [u8]) -> Result<(), NoEntropy> {
    let [.., features, _] = native_cpuid(1, 0);
    if features & 1 << 30 == 0 {
        return Err(NoEntropy);
    }
    for chunk in bytes.chunks_mut(8) {
        let word = (0..10).find_map(|_| {
            let (word, good): (u64, u8);
            // SAFETY: CPUID says that the instruction exists; it writes the register and flags.
            unsafe { asm!("rdrand {}", "setc {}", out(reg) word, out(reg_byte) good, options(nomem, nostack)) };
            (good != 0).then_some(word)
        });
        let word = word.ok_or(NoEntropy)?;
        chunk.iter_mut().zip(word.to_le_bytes()).for_each(|(to, from)| *to = from);
    }
    Ok(())
}
