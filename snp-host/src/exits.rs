// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page protocol: one request of the guest through its GHCB (GHCB 2.0, 4.1; inputs as KVM's `sev_es_validate_vmgexit`
//! wants them).

use crate::apic::{Handled, Signal};
use crate::ghcb::{Answer, Ghcb, Scratch};
use crate::{Action, Creation, Devices, Hardware, Host, NotShared, page_state};
use specs::ghcb::{exit as own, guest_request, malformed, page};
use specs::sev::VMPLS;
use specs::svm::{exit, ioio};

/// DR7 exits (APM vol. 2, appendix C).
const DR7_READ: u64 = exit::DR0_READ + 7;
const DR7_WRITE: u64 = exit::DR0_READ + 0x10 + 7;
/// What KVM answers to a hypercall that it does not have.
const NO_HYPERCALL: u64 = -1000i64 as u64;
/// CPUID leaf 0Dh, whose answer depends on XCR0.
const LEAF_XSAVE: u64 = 0xd;
/// Interrupt command register of an x2APIC.
const X2APIC_ICR: u32 = 0x830;
/// AP creation: operations in bits 15:0 of SW_EXITINFO1; 1 creates at once.
const CREATE_ON_INIT: u16 = 0;
const DESTROY: u16 = 2;
/// The longest access to emulated memory.
const MMIO_LIMIT: u64 = 8;

/// What is written back besides the two words of information.
#[derive(Default)]
struct Fields {
    list: [(usize, u64); 4],
    count: usize,
}

impl Fields {
    fn set(&mut self, offset: usize, value: u64) {
        if let Some(slot) = self.list.get_mut(self.count) {
            *slot = (offset, value);
            self.count += 1;
        }
    }
}

/// One exit under way.
struct Request<'a, H, D> {
    host: &'a mut Host,
    processor: u32,
    vmpl: u8,
    ghcb: Ghcb,
    code: u64,
    info1: u64,
    info2: u64,
    hardware: &'a mut H,
    devices: &'a mut D,
    fields: Fields,
    action: Action,
}

pub(crate) fn handle<H: Hardware, D: Devices>(
    host: &mut Host,
    processor: u32,
    vmpl: u8,
    gpa: u64,
    hardware: &mut H,
    devices: &mut D,
) -> Action {
    // KVM goes on without an answer if it cannot read the page: there is nowhere to put one.
    let Ok(ghcb) = Ghcb::read(gpa, hardware) else { return Action::Resume };
    let registered = host.context(processor, vmpl).is_some_and(|context| context.registered == Some(gpa));
    let code = ghcb.raw(page::SW_EXIT_CODE);
    let (info1, info2) = (ghcb.raw(page::SW_EXIT_INFO1), ghcb.raw(page::SW_EXIT_INFO2));
    let fields = Fields::default();
    let action = Action::Resume;
    let mut request = Request { host, processor, vmpl, ghcb, code, info1, info2, hardware, devices, fields, action };
    let answer = match request.check(registered) {
        Ok(()) => request.serve(),
        Err(reason) => Answer::Malformed(reason),
    };
    let (info1, info2) = answer.encode();
    request.fields_with(info1, info2)
}

impl<H: Hardware, D: Devices> Request<'_, H, D> {
    /// Writes the answer.
    fn fields_with(mut self, info1: u64, info2: u64) -> Action {
        let mut all = [(page::SW_EXIT_INFO1, info1), (page::SW_EXIT_INFO2, info2), (0, 0), (0, 0), (0, 0), (0, 0)];
        let given = self.fields.list.iter().take(self.fields.count);
        for (slot, field) in all.iter_mut().skip(2).zip(given) {
            *slot = *field;
        }
        let count = 2 + self.fields.count;
        // It was readable a moment ago, so only another processor of the guest can have taken it away: its own loss.
        let _ = self.ghcb.reply(self.hardware, all.get(..count).unwrap_or(&[]));
        core::mem::replace(&mut self.action, Action::Resume)
    }

    fn check(&self, registered: bool) -> Result<(), u64> {
        if !registered {
            return Err(malformed::NOT_REGISTERED);
        }
        if self.ghcb.usage() != 0 {
            return Err(malformed::USAGE);
        }
        let always = [page::SW_EXIT_CODE, page::SW_EXIT_INFO1, page::SW_EXIT_INFO2];
        let needed = self.needed().ok_or(malformed::INVALID_EVENT)?;
        if always.iter().chain(needed).all(|field| self.ghcb.has(*field)) {
            Ok(())
        } else {
            Err(malformed::MISSING_INPUT)
        }
    }

    /// The inputs of an event; `None` if it is unknown.
    fn needed(&self) -> Option<&'static [usize]> {
        use page::{CPL, RAX, RBX, RCX, RDX, SW_SCRATCH, XCR0};
        // CPL is a byte within its eight; the bitmap counts the eight.
        const CPL_WORD: usize = CPL & !7;
        Some(match self.code {
            exit::CPUID if self.ghcb.raw(RAX) & 0xffff_ffff == LEAF_XSAVE => &[RAX, RCX, XCR0],
            exit::CPUID => &[RAX, RCX],
            exit::MSR if self.info1 & 1 != 0 => &[RCX, RAX, RDX],
            exit::MSR | exit::RDPMC => &[RCX],
            exit::IOIO if self.info1 & ioio::STRING != 0 => &[SW_SCRATCH],
            exit::IOIO if self.info1 & ioio::IN == 0 => &[RAX],
            exit::VMMCALL => &[RAX, CPL_WORD],
            exit::MONITOR => &[RAX, RCX, RDX],
            exit::MWAIT | exit::MWAIT_ARMED => &[RAX, RCX],
            DR7_WRITE => &[RAX],
            own::MMIO_READ | own::MMIO_WRITE | own::PAGE_STATE_CHANGE => &[SW_SCRATCH],
            own::EXTENDED_GUEST_REQUEST => &[RAX, RBX],
            own::AP_CREATION if self.info1 as u16 != 2 => &[RAX],
            own::APIC_ID_LIST => &[RAX],
            exit::IOIO | exit::RDTSC | exit::RDTSCP | exit::INVD | exit::WBINVD | DR7_READ => &[],
            own::NMI_COMPLETE | own::AP_RESET_HOLD | own::AP_JUMP_TABLE | own::GUEST_REQUEST => &[],
            own::HV_DOORBELL | own::HV_IPI => &[],
            own::AP_CREATION | own::RUN_VMPL | own::FEATURES | own::TERMINATE | own::UNSUPPORTED => &[],
            _ => return None,
        })
    }

    fn serve(&mut self) -> Answer {
        match self.code {
            exit::CPUID => self.cpuid(),
            exit::MSR => self.msr(),
            exit::IOIO => self.port(),
            own::MMIO_READ | own::MMIO_WRITE => self.memory(),
            own::PAGE_STATE_CHANGE => page_state::change(&self.ghcb, self.hardware),
            own::GUEST_REQUEST | own::EXTENDED_GUEST_REQUEST => self.guest_request(),
            own::AP_CREATION => self.create(),
            own::RUN_VMPL => self.run_vmpl(),
            own::HV_DOORBELL => self.doorbell(),
            own::HV_IPI => {
                self.write_msr(X2APIC_ICR, self.info1);
                Answer::OK
            }
            own::NMI_COMPLETE => {
                self.action = Action::NmiComplete;
                Answer::OK
            }
            own::APIC_ID_LIST => self.apic_ids(),
            own::FEATURES => Answer::Ok { info2: self.host.features },
            own::TERMINATE => {
                self.action = Action::Terminate((self.info1 & 0xf) as u8, (self.info1 >> 4) as u8);
                Answer::OK
            }
            own::AP_RESET_HOLD => {
                self.action = Action::Hold;
                Answer::Ok { info2: 1 }
            }
            own::AP_JUMP_TABLE => Answer::Malformed(malformed::INVALID_INPUT),
            exit::VMMCALL => {
                self.fields.set(page::RAX, NO_HYPERCALL);
                Answer::OK
            }
            DR7_READ | DR7_WRITE => self.dr7(),
            exit::RDPMC => Answer::GeneralProtection,
            own::UNSUPPORTED => Answer::Malformed(malformed::INVALID_EVENT),
            // Nothing to do: caches are not modelled, MONITOR and MWAIT do nothing, the guest reads the TSC by itself.
            _ => Answer::OK,
        }
    }

    fn cpuid(&mut self) -> Answer {
        let (leaf, subleaf) = (self.ghcb.raw(page::RAX) as u32, self.ghcb.raw(page::RCX) as u32);
        let answers = self.devices.cpuid(leaf, subleaf);
        for (offset, value) in [page::RAX, page::RBX, page::RCX, page::RDX].into_iter().zip(answers) {
            self.fields.set(offset, value.into());
        }
        Answer::OK
    }

    fn msr(&mut self) -> Answer {
        let number = self.ghcb.raw(page::RCX) as u32;
        if self.info1 & 1 != 0 {
            let value = self.ghcb.raw(page::RAX) & 0xffff_ffff | self.ghcb.raw(page::RDX) << 32;
            return if self.write_msr(number, value) { Answer::OK } else { Answer::GeneralProtection };
        }
        let filtered = self.host.filter_msr_read(self.processor, number);
        let value = filtered.unwrap_or_else(|| self.devices.msr_read(number));
        let Some(value) = value else { return Answer::GeneralProtection };
        self.fields.set(page::RAX, value & 0xffff_ffff);
        self.fields.set(page::RDX, value >> 32);
        Answer::OK
    }

    fn write_msr(&mut self, number: u32, value: u64) -> bool {
        match self.host.filter_msr_write(self.processor, number, value, self.devices) {
            None => self.devices.msr_write(number, value),
            Some((done, signal)) => {
                self.signal(signal);
                done
            }
        }
    }

    fn signal(&mut self, signal: Option<Signal>) {
        if let Some(signal) = signal {
            self.action = Action::Signal(signal);
        }
    }

    fn port(&mut self) -> Answer {
        let bytes = match self.info1 & (ioio::SIZE_8 | ioio::SIZE_16 | ioio::SIZE_32) {
            ioio::SIZE_8 => 1,
            ioio::SIZE_16 => 2,
            ioio::SIZE_32 => 4,
            _ => return Answer::Malformed(malformed::INVALID_INPUT),
        };
        let port = (self.info1 >> ioio::PORT_SHIFT) as u16;
        let input = self.info1 & ioio::IN != 0;
        if self.info1 & ioio::STRING != 0 {
            return self.string(port, bytes, input);
        }
        if input {
            let read = u64::from(self.devices.port_read(self.vmpl, port, bytes));
            // KVM puts a short read into what RAX holds.
            let keep = if bytes < 4 { self.ghcb.raw(page::RAX) & !mask(bytes) } else { 0 };
            self.fields.set(page::RAX, keep | read & mask(bytes));
        } else {
            let value = self.ghcb.raw(page::RAX) & mask(bytes);
            self.devices.port_write(self.vmpl, port, bytes, value as u32);
        }
        Answer::OK
    }

    /// INS and OUTS: as many elements as SW_EXITINFO2 says, in the scratch area.
    fn string(&mut self, port: u16, bytes: u8, input: bool) -> Answer {
        let Some(length) = self.info2.checked_mul(bytes.into()) else { return Answer::SCRATCH };
        let Some(scratch) = Scratch::new(&self.ghcb, length) else { return Answer::SCRATCH };
        for element in 0..self.info2 {
            let at = element * u64::from(bytes);
            let moved = if input {
                let value = self.devices.port_read(self.vmpl, port, bytes).to_le_bytes();
                let value = value.get(..bytes.into()).unwrap_or(&[]);
                scratch.write(self.hardware, at, value)
            } else {
                let mut value = [0; 4];
                let slot = value.get_mut(..bytes.into()).unwrap_or(&mut []);
                let read = scratch.read(self.hardware, at, slot);
                read.map(|()| self.devices.port_write(self.vmpl, port, bytes, u32::from_le_bytes(value)))
            };
            if moved == Err(NotShared) {
                return Answer::SCRATCH;
            }
        }
        Answer::OK
    }

    fn memory(&mut self) -> Answer {
        let (gpa, length) = (self.info1, self.info2);
        if length == 0 || length > MMIO_LIMIT || !length.is_power_of_two() || gpa.checked_add(length).is_none() {
            return Answer::Malformed(malformed::INVALID_INPUT);
        }
        // RAM has no registers, and private RAM is none of a device's business.
        if self.hardware.is_ram(gpa & !0xfff, 4096) {
            return Answer::Malformed(malformed::INVALID_INPUT);
        }
        let Some(scratch) = Scratch::new(&self.ghcb, length) else { return Answer::SCRATCH };
        let mut value = [0; MMIO_LIMIT as usize];
        let moved = if self.code == own::MMIO_READ {
            let filtered = self.host.filter_read(self.processor, gpa);
            value = filtered.unwrap_or_else(|| self.devices.memory_read(gpa, length as u8)).to_le_bytes();
            scratch.write(self.hardware, 0, value.get(..length as usize).unwrap_or(&[]))
        } else {
            let slot = value.get_mut(..length as usize).unwrap_or(&mut []);
            let read = scratch.read(self.hardware, 0, slot);
            read.map(|()| self.write_device(gpa, length, u64::from_le_bytes(value)))
        };
        if moved.is_ok() { Answer::OK } else { Answer::SCRATCH }
    }

    fn write_device(&mut self, gpa: u64, length: u64, mut value: u64) {
        match self.host.filter_write(self.processor, gpa, length, &mut value, self.devices) {
            Handled::Forward => self.devices.memory_write(gpa, length as u8, value),
            Handled::Done(signal) => self.signal(signal),
        }
    }

    fn guest_request(&mut self) -> Answer {
        let (request, response) = (self.info1, self.info2);
        if (request | response) & 0xfff != 0 || request == response {
            return Answer::Malformed(malformed::INVALID_INPUT);
        }
        let (mut message, mut reply) = ([0; 4096], [0; 4096]);
        if self.hardware.read_shared(request, &mut message).is_err() {
            return Answer::Malformed(malformed::INVALID_INPUT);
        }
        if self.code == own::EXTENDED_GUEST_REQUEST
            && let Some(answer) = self.certificates()
        {
            return answer;
        }
        match self.devices.guest_request(&message, &mut reply) {
            None => Answer::Ok { info2: guest_request::GENERIC },
            Some(0) => match self.hardware.write_shared(response, &reply) {
                Ok(()) => Answer::OK,
                Err(NotShared) => Answer::Malformed(malformed::INVALID_INPUT),
            },
            Some(status) => Answer::Ok { info2: status.into() },
        }
    }

    /// Copies the certificates to where an extended request wants them. An answer ends the request: then the firmware has
    /// not seen the message, and the guest may send the same one again.
    fn certificates(&mut self) -> Option<Answer> {
        let (start, room) = (self.ghcb.raw(page::RAX), self.ghcb.raw(page::RBX));
        let table = self.devices.certificates();
        let needed = table.len().div_ceil(4096) as u64;
        if needed == 0 {
            self.fields.set(page::RBX, 0);
            return None;
        }
        if room < needed {
            self.fields.set(page::RBX, needed);
            return Some(Answer::Ok { info2: guest_request::INVALID_LENGTH });
        }
        if start & 0xfff != 0 || self.hardware.write_shared(start, table).is_err() {
            return Some(Answer::Malformed(malformed::INVALID_INPUT));
        }
        None
    }

    fn create(&mut self) -> Answer {
        let operation = self.info1 as u16;
        let vmpl = (self.info1 >> 16 & 0xf) as u8;
        let gpa = self.info2;
        let bad = Answer::Malformed(malformed::INVALID_INPUT);
        // Nobody makes processors for software above himself.
        let reserved = self.info1 & 0xfff0_0000;
        if operation > DESTROY || reserved != 0 || usize::from(vmpl) >= VMPLS || vmpl < self.vmpl {
            return bad;
        }
        let apic_id = (self.info1 >> 32) as u32;
        if apic_id >= self.host.processors {
            return bad;
        }
        let creation = Creation { apic_id, vmpl, vmsa: None, at_once: operation != CREATE_ON_INIT };
        let vmsa = if operation == DESTROY {
            None
        } else {
            // KVM refuses a VMSA at a multiple of 2 MiB because of an erratum.
            let placed = gpa.is_multiple_of(4096) && !gpa.is_multiple_of(2 << 20) && self.hardware.is_ram(gpa, 4096);
            let features = self.ghcb.raw(page::RAX);
            if !placed || !self.host.same_features(vmpl, features) {
                return bad;
            }
            Some((gpa, features))
        };
        let Some(context) = self.host.context(apic_id, vmpl) else { return bad };
        // One that is to come with INIT is not there yet.
        context.created = if creation.at_once { vmsa.is_some() } else { context.created };
        self.action = Action::Create(Creation { vmsa, ..creation });
        Answer::OK
    }

    fn run_vmpl(&mut self) -> Answer {
        let target = self.info1;
        if !self.host.may_run(self.processor, self.vmpl, target) {
            return Answer::Malformed(malformed::INVALID_INPUT);
        }
        self.action = Action::Run(target as u8);
        Answer::OK
    }

    fn doorbell(&mut self) -> Answer {
        let bad = Answer::Malformed(malformed::INVALID_INPUT);
        let gpa = self.info2;
        let usable = gpa.is_multiple_of(4096) && self.hardware.read_shared(gpa, &mut [0; 4]).is_ok();
        let Some(context) = self.host.context(self.processor, self.vmpl) else { return bad };
        match self.info1 {
            0 => return Answer::Ok { info2: u64::MAX },
            1 if usable => context.doorbell = Some(gpa),
            2 => return Answer::Ok { info2: context.doorbell.unwrap_or(u64::MAX) },
            3 => context.doorbell = None,
            _ => return bad,
        }
        Answer::OK
    }

    /// The number of processors and their APIC IDs, if the guest has given room.
    fn apic_ids(&mut self) -> Answer {
        let (pages, gpa) = (self.ghcb.raw(page::RAX), self.info1);
        if pages == 0 || !gpa.is_multiple_of(4096) {
            // One page holds more than there can be.
            self.fields.set(page::RAX, 1);
            return Answer::OK;
        }
        let ids = core::iter::once(self.host.processors).chain(0..self.host.processors);
        for (at, value) in (gpa..).step_by(4).zip(ids) {
            if self.hardware.write_shared(at, &value.to_le_bytes()).is_err() {
                return Answer::Malformed(malformed::INVALID_INPUT);
            }
        }
        Answer::OK
    }

    fn dr7(&mut self) -> Answer {
        let value = self.ghcb.raw(page::RAX);
        let Some(context) = self.host.context(self.processor, self.vmpl) else {
            return Answer::Malformed(malformed::INVALID_INPUT);
        };
        if self.code == DR7_WRITE {
            context.dr7 = value;
        } else {
            let dr7 = context.dr7;
            self.fields.set(page::RAX, dr7);
        }
        Answer::OK
    }
}

/// The low bytes of a register.
const fn mask(bytes: u8) -> u64 {
    match bytes {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{GHCB, Machine, Request as Ask, host};

    #[test]
    fn an_unregistered_page_is_not_served() {
        let reply =
            Ask::new(exit::CPUID).field(page::RAX, 0).field(page::RCX, 0).unregistered().run(&mut Machine::default());
        assert_eq!((reply.info1, reply.info2), (2, malformed::NOT_REGISTERED));
    }

    #[test]
    fn usage_missing_inputs_and_unknown_events_have_their_codes() {
        let mut machine = Machine::default();
        let cases = [
            (Ask::new(exit::CPUID).field(page::RAX, 0).field(page::RCX, 0).usage(1), malformed::USAGE),
            (Ask::new(exit::CPUID).field(page::RAX, 0), malformed::MISSING_INPUT),
            (Ask::new(exit::CPUID).field(page::RAX, 0xd).field(page::RCX, 0), malformed::MISSING_INPUT),
            (Ask::new(0x1234), malformed::INVALID_EVENT),
            (Ask::new(own::UNSUPPORTED), malformed::INVALID_EVENT),
            (Ask::new(own::MMIO_READ).info(0xfee0_0020, 3).scratch_inside(&[]), malformed::INVALID_INPUT),
            (Ask::new(own::MMIO_READ).info(0x1000, 4).scratch_inside(&[]), malformed::INVALID_INPUT),
            (Ask::new(own::GUEST_REQUEST).info(0x1000, 0x1000), malformed::INVALID_INPUT),
            (Ask::new(own::RUN_VMPL).info(4, 0), malformed::INVALID_INPUT),
            (Ask::new(own::RUN_VMPL).info(2, 0), malformed::INVALID_INPUT),
            (Ask::new(own::AP_CREATION).info(3 << 32 | 1, 0x7000).field(page::RAX, 1), malformed::INVALID_INPUT),
            (Ask::new(own::HV_DOORBELL).info(1, 0x8001), malformed::INVALID_INPUT),
            (Ask::new(own::HV_DOORBELL).info(1, 1 << 40), malformed::INVALID_INPUT),
            (Ask::new(own::AP_CREATION).info(1, 0x20_0000).field(page::RAX, 1), malformed::INVALID_INPUT),
            (Ask::new(exit::IOIO).info(0x0080_0000 | ioio::IN, 0), malformed::INVALID_INPUT),
        ];
        for (ask, code) in cases {
            let reply = ask.run(&mut machine);
            assert_eq!((reply.info1, reply.info2), (2, code), "{ask:?}");
        }
    }

    #[test]
    fn only_what_is_returned_is_valid_afterwards() {
        let reply = Ask::new(exit::CPUID).field(page::RAX, 7).field(page::RCX, 1).run(&mut Machine::default());
        assert_eq!([page::RAX, page::RBX, page::RCX, page::RDX].map(|at| reply.word(at)), [7, 8, 9, 10]);
        assert!(reply.is_valid(page::RAX) && reply.is_valid(page::SW_EXIT_INFO1));
        assert!(!reply.is_valid(page::SW_EXIT_CODE) && !reply.is_valid(page::RSP));
    }

    #[test]
    fn short_port_reads_keep_the_rest_of_rax() {
        let mut machine = Machine::default();
        let ask = Ask::new(exit::IOIO).info(0x0071_0000 | ioio::IN | ioio::SIZE_8, 0).field(page::RAX, 0x1234_5678);
        assert_eq!(ask.run(&mut machine).word(page::RAX), 0x1234_5671);
        let out = Ask::new(exit::IOIO).info(0x0070_0000 | ioio::SIZE_16, 0).field(page::RAX, 0xaaaa_bbcc);
        out.run(&mut machine);
        assert_eq!(machine.devices.written, [(0x70, 2, 0xbbcc)]);
    }

    #[test]
    fn strings_move_element_by_element_within_the_scratch_area() {
        let mut machine = Machine::default();
        let outs = ioio::STRING | ioio::REPEAT | ioio::SIZE_16 | 0x00e9_0000;
        Ask::new(exit::IOIO).info(outs, 2).scratch_inside(&[1, 2, 3, 4]).run(&mut machine);
        assert_eq!(machine.devices.written, [(0xe9, 2, 0x0201), (0xe9, 2, 0x0403)]);
        let ins =
            Ask::new(exit::IOIO).info(ioio::STRING | ioio::IN | ioio::SIZE_8 | 0x0042_0000, 3).scratch_inside(&[]);
        assert_eq!(ins.run(&mut machine).page[0x800..0x804], [0x42, 0x42, 0x42, 0]);
        let endless = Ask::new(exit::IOIO).info(ins.infos().0, u64::MAX).scratch_inside(&[]).run(&mut machine);
        assert_eq!((endless.info1, endless.info2), (2, malformed::SCRATCH));
        let long = Ask::new(exit::IOIO).info(ins.infos().0, 2033).scratch_inside(&[]).run(&mut machine);
        assert_eq!((long.info1, long.info2), (2, malformed::SCRATCH));
    }

    #[test]
    fn devices_memory_goes_through_the_scratch_area() {
        let mut machine = Machine::default();
        let reply = Ask::new(own::MMIO_READ).info(0xfee0_0030, 4).scratch_inside(&[]).run(&mut machine);
        assert_eq!(reply.page[0x800..0x808], [0x30, 0, 0xe0, 0xfe, 0, 0, 0, 0]);
        Ask::new(own::MMIO_WRITE).info(0xfee0_00b0, 4).scratch_inside(&[1, 2, 3, 4]).run(&mut machine);
        assert_eq!(machine.devices.memory_written, [(0xfee0_00b0, 4, 0x0403_0201)]);
    }

    #[test]
    fn an_unknown_msr_is_a_gp_in_the_guest() {
        let mut machine = Machine::default();
        let read = Ask::new(exit::MSR).field(page::RCX, 0xbad).run(&mut machine);
        assert_eq!((read.info1, read.info2), (1, 0x8000_0b0d));
        let known = Ask::new(exit::MSR).field(page::RCX, 0x10).run(&mut machine);
        assert_eq!((known.word(page::RAX), known.word(page::RDX)), (0x5566_7788, 0x1122_3344));
        let write =
            Ask::new(exit::MSR).info(1, 0).field(page::RCX, 0x10).field(page::RAX, 1 << 40 | 5).field(page::RDX, 6);
        assert_eq!(write.run(&mut machine).info1, 0);
        assert_eq!(machine.devices.msr_written, [(0x10, 6 << 32 | 5)]);
    }

    #[test]
    fn processors_and_vmpls_are_actions_for_whoever_runs_them() {
        let mut machine = Machine::default();
        let create =
            Ask::new(own::AP_CREATION).info(2 << 32 | 2 << 16 | 1, 0x7000).field(page::RAX, 1).run(&mut machine);
        let expected = Creation { apic_id: 2, vmpl: 2, vmsa: Some((0x7000, 1)), at_once: true };
        assert_eq!(create.action, Action::Create(expected));
        let destroy = Ask::new(own::AP_CREATION).info(2 << 32 | 2 << 16 | 2, 0).run(&mut machine);
        assert_eq!(destroy.action, Action::Create(Creation { vmsa: None, ..expected }));
        assert_eq!(Ask::new(own::TERMINATE).info(0x21, 0).run(&mut machine).action, Action::Terminate(1, 2));
        assert_eq!(Ask::new(own::AP_RESET_HOLD).run(&mut machine).action, Action::Hold);
    }

    fn create(apic_id: u64, vmpl: u64, operation: u64, features: u64) -> Ask {
        Ask::new(own::AP_CREATION).info(apic_id << 32 | vmpl << 16 | operation, 0x7000).field(page::RAX, features)
    }

    #[test]
    fn processors_of_a_vmpl_have_the_same_features() {
        let (mut host, mut machine) = (host(), Machine::default());
        host.launched(9);
        assert_eq!(create(1, 0, 1, 1).run_at(0, &mut host, &mut machine).info1, 2, "not those of the launch");
        assert_eq!(create(1, 0, 1, 9).run_at(0, &mut host, &mut machine).info1, 0);
        assert_eq!(create(0, 2, 1, 0x17).run_at(0, &mut host, &mut machine).info1, 0, "the first says which");
        assert_eq!(create(1, 2, 1, 0x7).run_at(0, &mut host, &mut machine).info1, 2);
        assert_eq!(create(1, 2, 1, 0x17).run_at(0, &mut host, &mut machine).info1, 0);
    }

    #[test]
    fn a_vmpl_creates_nothing_above_itself() {
        let (mut host, mut machine) = (host(), Machine::default());
        for (vmpl, expected) in [(0, 2), (1, 2), (2, 0), (3, 0)] {
            let reply = create(1, vmpl, 1, 1).run_at(2, &mut host, &mut machine);
            assert_eq!(reply.info1, expected, "VMPL{vmpl}");
        }
        assert_eq!(create(1, 4, 1, 1).run_at(0, &mut host, &mut machine).info1, 2, "there are four");
        assert_eq!(create(1, 0x12, 1, 1).run_at(0, &mut host, &mut machine).info1, 2, "a reserved bit");
    }

    #[test]
    fn what_waits_for_init_cannot_be_run_before() {
        let (mut host, mut machine) = (host(), Machine::default());
        let waiting = create(0, 1, 0, 1).run_at(0, &mut host, &mut machine);
        assert!(matches!(waiting.action, Action::Create(Creation { at_once: false, .. })));
        assert!(!host.may_run(0, 0, 1));
        host.created(0, 1);
        assert!(host.may_run(0, 0, 1));
        create(0, 1, 2, 0).run_at(0, &mut host, &mut machine);
        assert!(!host.may_run(0, 0, 1));
    }

    #[test]
    fn commands_to_other_processors_come_by_every_way_that_there_is() {
        let mut machine = Machine::default();
        let nmi = Action::Signal(Signal { targets: 4, kind: crate::apic::SignalKind::Nmi });
        let by_page = Ask::new(own::HV_IPI).info(2 << 32 | 0x400, 0).run(&mut machine);
        assert_eq!((by_page.action, by_page.info1), (nmi, 0));
        let ask = Ask::new(exit::MSR).info(1, 0);
        let by_msr = ask.field(page::RCX, 0x830).field(page::RAX, 0x400).field(page::RDX, 2).run(&mut machine);
        assert_eq!(by_msr.action, nmi);
        let mut host = host();
        for (register, value) in [(0x310u64, 2u32 << 24), (0x300, 0x400)] {
            let ask = Ask::new(own::MMIO_WRITE).info(0xfee0_0000 + register, 4).scratch_inside(&value.to_le_bytes());
            let reply = ask.run_at(0, &mut host, &mut machine);
            assert_eq!(reply.action, if register == 0x300 { nmi } else { Action::Resume });
        }
        assert!(machine.devices.memory_written.is_empty() && machine.devices.msr_written.is_empty());
        assert_eq!(Ask::new(own::NMI_COMPLETE).run(&mut machine).action, Action::NmiComplete);
    }

    #[test]
    fn a_private_page_is_no_ghcb() {
        let mut machine = Machine::default();
        machine.memory.rmpupdate(GHCB, false, true);
        let reply = Ask::new(exit::WBINVD).on_private_page().run(&mut machine);
        assert_eq!((reply.info1, reply.action), (0, Action::Resume));
    }

    #[test]
    fn the_apic_ids_are_listed_where_the_guest_wants_them() {
        let mut machine = Machine::default();
        let none = Ask::new(own::APIC_ID_LIST).info(0x9000, 0).field(page::RAX, 0).run(&mut machine);
        assert_eq!(none.word(page::RAX), 1, "pages needed");
        Ask::new(own::APIC_ID_LIST).info(0x9000, 0).field(page::RAX, 1).run(&mut machine);
        let mut list = [0; 16];
        machine.memory.read_shared(0x9000, &mut list).unwrap();
        assert_eq!(list, [3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn dr7_is_remembered() {
        let mut machine = Machine::default();
        assert_eq!(Ask::new(DR7_READ).run(&mut machine).word(page::RAX), 0x400);
    }

    #[test]
    fn a_message_goes_to_the_firmware_and_its_reply_comes_back() {
        let mut machine = Machine::default();
        let reply = Ask::new(own::GUEST_REQUEST).info(0x8000, 0x9000).run(&mut machine);
        assert_eq!((reply.info1, reply.info2), (0, 0));
        let mut response = [0; 4];
        machine.memory.read_shared(0x9000, &mut response).unwrap();
        assert_eq!(response, [0xab; 4]);
    }

    #[test]
    fn an_extended_request_brings_certificates_if_there_is_room() {
        let ask = |room, start| {
            Ask::new(own::EXTENDED_GUEST_REQUEST).info(0x8000, 0x9000).field(page::RAX, start).field(page::RBX, room)
        };
        let machine = |bytes: usize| {
            let mut machine = Machine::default();
            machine.devices.certificates = vec![0xce; bytes];
            machine
        };
        let mut two = machine(4097);
        let reply = ask(2, 0xa000).run(&mut two);
        assert_eq!((reply.info1, reply.info2), (0, 0));
        let mut copied = [0; 4098];
        two.memory.read_shared(0xa000, &mut copied).unwrap();
        assert!(copied[..4097].iter().all(|byte| *byte == 0xce) && copied[4097] == 0);
        let mut response = [0; 1];
        two.memory.read_shared(0x9000, &mut response).unwrap();
        assert_eq!(response, [0xab], "the answer itself");

        let mut small = machine(4097);
        let reply = ask(1, 0xa000).run(&mut small);
        assert_eq!((reply.info1, reply.info2, reply.word(page::RBX)), (0, guest_request::INVALID_LENGTH, 2));
        small.memory.read_shared(0x9000, &mut response).unwrap();
        assert_eq!(response, [0], "the firmware has not seen the message");

        let mut none = machine(0);
        let reply = ask(1, 0xa000).run(&mut none);
        assert_eq!((reply.info1, reply.info2, reply.word(page::RBX)), (0, 0, 0));
        for start in [0xa001, 0xffff_f000] {
            let reply = ask(2, start).run(&mut machine(4097));
            assert_eq!((reply.info1, reply.info2), (2, malformed::INVALID_INPUT), "{start:x}");
        }
    }
}
