// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small machine for tests: 8 MiB of memory with an RMP of booleans, and devices that remember.

use crate::{Action, Devices, Hardware, Host, NotShared};
use specs::ghcb::page;
use specs::sev::result;

pub(crate) const GHCB: u64 = 0x5000;
const PAGES: usize = 2048;

pub(crate) fn host() -> Host {
    Host::new(47, 3)
}

pub(crate) struct Memory {
    bytes: Vec<u8>,
    private: Vec<bool>,
    /// Whole 2 MiB pages, which cannot be changed in part.
    large: Vec<bool>,
    /// How often each page has changed hands.
    updates: Vec<u32>,
    pub(crate) remapped: Vec<(u64, u64)>,
    pub(crate) occupied: u32,
}

impl Memory {
    pub(crate) fn is_private(&self, gpa: u64) -> bool {
        self.private[(gpa / 4096) as usize]
    }

    pub(crate) fn updates(&self, gpa: u64) -> u32 {
        self.updates[(gpa / 4096) as usize]
    }

    fn range(&self, gpa: u64, bytes: usize) -> Result<std::ops::Range<usize>, NotShared> {
        let start = usize::try_from(gpa).map_err(|_| NotShared)?;
        let end = start.checked_add(bytes).filter(|end| *end <= self.bytes.len()).ok_or(NotShared)?;
        let pages = start / 4096..end.div_ceil(4096);
        if self.private[pages].iter().any(|private| *private) { Err(NotShared) } else { Ok(start..end) }
    }
}

impl Hardware for Memory {
    fn rmpupdate(&mut self, gpa: u64, large: bool, assign: bool) -> u32 {
        let region = (gpa >> 21) as usize;
        let first = (gpa / 4096) as usize;
        let count = if large { 512 } else { 1 };
        if self.large[region] != large
            && (self.large[region] || (large && self.private[first..first + 512].contains(&true)))
        {
            return result::FAIL_OVERLAP;
        }
        self.large[region] = large && assign;
        self.private[first..first + count].fill(assign);
        self.updates[first..first + count].iter_mut().for_each(|times| *times += 1);
        result::SUCCESS
    }

    fn snatch(&mut self, gpa: u64) {
        self.large[(gpa >> 21) as usize] = false;
        self.rmpupdate(gpa, false, false);
        self.rmpupdate(gpa, false, true);
    }

    fn remap(&mut self, gpa: u64, to: u64) {
        self.remapped.push((gpa, to));
    }

    fn occupy(&mut self) {
        self.occupied += 1;
    }

    fn psmash(&mut self, gpa: u64) -> u32 {
        self.large[(gpa >> 21) as usize] = false;
        result::SUCCESS
    }

    fn is_ram(&self, gpa: u64, bytes: u64) -> bool {
        gpa.checked_add(bytes).is_some_and(|end| end <= self.bytes.len() as u64)
    }

    fn read_shared(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), NotShared> {
        let range = self.range(gpa, into.len())?;
        into.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn write_shared(&mut self, gpa: u64, from: &[u8]) -> Result<(), NotShared> {
        let range = self.range(gpa, from.len())?;
        self.bytes[range].copy_from_slice(from);
        Ok(())
    }
}

#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) written: Vec<(u16, u8, u32)>,
    pub(crate) memory_written: Vec<(u64, u8, u64)>,
    pub(crate) msr_written: Vec<(u32, u64)>,
    pub(crate) interrupts: Vec<(u32, u8)>,
    pub(crate) certificates: Vec<u8>,
}

impl Devices for Recorder {
    fn port_read(&mut self, _: u8, port: u16, _: u8) -> u32 {
        port.into()
    }

    fn port_write(&mut self, _: u8, port: u16, bytes: u8, value: u32) {
        self.written.push((port, bytes, value));
    }

    fn memory_read(&mut self, gpa: u64, _: u8) -> u64 {
        gpa
    }

    fn memory_write(&mut self, gpa: u64, bytes: u8, value: u64) {
        self.memory_written.push((gpa, bytes, value));
    }

    fn cpuid(&mut self, leaf: u32, _: u32) -> [u32; 4] {
        [leaf, leaf + 1, leaf + 2, leaf + 3]
    }

    fn msr_read(&mut self, msr: u32) -> Option<u64> {
        (msr == 0x10).then_some(0x1122_3344_5566_7788)
    }

    fn msr_write(&mut self, msr: u32, value: u64) -> bool {
        self.msr_written.push((msr, value));
        true
    }

    fn interrupt(&mut self, command: u32, destination: u8) {
        self.interrupts.push((command, destination));
    }

    fn guest_request(&mut self, _: &[u8; 4096], response: &mut [u8; 4096]) -> Option<u32> {
        response.fill(0xab);
        Some(0)
    }

    fn certificates(&self) -> &[u8] {
        &self.certificates
    }
}

pub(crate) struct Machine {
    pub(crate) memory: Memory,
    pub(crate) devices: Recorder,
}

impl Default for Machine {
    fn default() -> Self {
        let memory = Memory {
            bytes: vec![0; PAGES * 4096],
            private: vec![false; PAGES],
            large: vec![false; PAGES / 512],
            updates: vec![0; PAGES],
            remapped: Vec::new(),
            occupied: 0,
        };
        Self { memory, devices: Recorder::default() }
    }
}

impl Machine {
    pub(crate) fn halves(&mut self) -> (&mut Memory, &mut Recorder) {
        (&mut self.memory, &mut self.devices)
    }
}

/// A request through the GHCB page.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    fields: Vec<(usize, u64)>,
    buffer: Vec<u8>,
    usage: u32,
    registered: bool,
    private: bool,
}

/// The page afterwards.
pub(crate) struct Reply {
    pub(crate) page: Vec<u8>,
    pub(crate) info1: u64,
    pub(crate) info2: u64,
    pub(crate) action: Action,
}

impl Request {
    pub(crate) fn new(code: u64) -> Self {
        let fields = vec![(page::SW_EXIT_CODE, code), (page::SW_EXIT_INFO1, 0), (page::SW_EXIT_INFO2, 0)];
        Self { fields, buffer: Vec::new(), usage: 0, registered: true, private: false }
    }

    pub(crate) fn info(mut self, info1: u64, info2: u64) -> Self {
        self.fields[1].1 = info1;
        self.fields[2].1 = info2;
        self
    }

    pub(crate) fn infos(&self) -> (u64, u64) {
        (self.fields[1].1, self.fields[2].1)
    }

    pub(crate) fn field(mut self, offset: usize, value: u64) -> Self {
        self.fields.push((offset, value));
        self
    }

    pub(crate) fn scratch_inside(self, buffer: &[u8]) -> Self {
        let with = self.field(page::SW_SCRATCH, GHCB + 0x800);
        Self { buffer: buffer.to_vec(), ..with }
    }

    pub(crate) fn usage(self, usage: u32) -> Self {
        Self { usage, ..self }
    }

    pub(crate) fn unregistered(self) -> Self {
        Self { registered: false, ..self }
    }

    pub(crate) fn on_private_page(self) -> Self {
        Self { private: true, ..self }
    }

    pub(crate) fn run(&self, machine: &mut Machine) -> Reply {
        self.run_at(0, &mut host(), machine)
    }

    /// From a VMPL, to a host that remembers.
    pub(crate) fn run_at(&self, vmpl: u8, host: &mut Host, machine: &mut Machine) -> Reply {
        if self.registered {
            host.context(0, vmpl).unwrap().registered = Some(GHCB);
        }
        if !self.private {
            let mut bytes = vec![0; 4096];
            for (offset, value) in &self.fields {
                bytes[*offset..offset + 8].copy_from_slice(&value.to_le_bytes());
                bytes[page::VALID_BITMAP + offset / 64] |= 1 << (offset / 8 % 8);
            }
            bytes[0x800..0x800 + self.buffer.len()].copy_from_slice(&self.buffer);
            bytes[page::USAGE..page::USAGE + 4].copy_from_slice(&self.usage.to_le_bytes());
            machine.memory.write_shared(GHCB, &bytes).unwrap();
        }
        let mut msr = GHCB;
        let action = host.vmgexit(0, vmpl, &mut msr, &mut machine.memory, &mut machine.devices);
        let page = machine.memory.bytes[GHCB as usize..GHCB as usize + 4096].to_vec();
        let mut reply = Reply { page, info1: 0, info2: 0, action };
        (reply.info1, reply.info2) = (reply.word(page::SW_EXIT_INFO1), reply.word(page::SW_EXIT_INFO2));
        reply
    }
}

impl Reply {
    pub(crate) fn word(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.page[offset..offset + 8].try_into().unwrap())
    }

    pub(crate) fn is_valid(&self, offset: usize) -> bool {
        self.page[page::VALID_BITMAP + offset / 64] >> (offset / 8 % 8) & 1 != 0
    }
}
