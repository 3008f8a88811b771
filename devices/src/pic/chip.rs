// SPDX-License-Identifier: MIT OR Apache-2.0
//! One 8259A: requests, priorities, service, and its two registers.

/// What the chip makes of the next write with A0 set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    Icw2,
    Icw3,
    Icw4,
    /// Initialization is over: OCW1, the mask.
    Mask,
}

mod regs {
    //! Bits of the command words (8259A data sheet, figures 7 and 8).

    /// ICW1: marks the word as ICW1.
    pub(super) const ICW1: u8 = 1 << 4;
    /// ICW1: this chip is alone, there is no ICW3.
    pub(super) const ICW1_SINGLE: u8 = 1 << 1;
    /// ICW1: ICW4 follows.
    pub(super) const ICW1_NEEDS_ICW4: u8 = 1;
    /// ICW4: automatic end of interrupt.
    pub(super) const ICW4_AUTO_EOI: u8 = 1 << 1;
    /// ICW4: special fully nested mode.
    pub(super) const ICW4_SPECIAL_NESTED: u8 = 1 << 4;
    /// OCW3: marks the word as OCW3.
    pub(super) const OCW3: u8 = 1 << 3;
    /// OCW3: `OCW3_SPECIAL_MASK` is meant.
    pub(super) const OCW3_SET_SPECIAL_MASK: u8 = 1 << 6;
    /// OCW3: special mask mode on.
    pub(super) const OCW3_SPECIAL_MASK: u8 = 1 << 5;
    /// OCW3: the next read polls.
    pub(super) const OCW3_POLL: u8 = 1 << 2;
    /// OCW3: `OCW3_IN_SERVICE` is meant.
    pub(super) const OCW3_SET_READ: u8 = 1 << 1;
    /// OCW3: reads give the ISR, not the IRR.
    pub(super) const OCW3_IN_SERVICE: u8 = 1;
    /// Answer to a poll: an interrupt was there.
    pub(super) const POLL_INTERRUPT: u8 = 1 << 7;
}

/// One 8259A.
#[derive(Debug)]
pub(super) struct Chip {
    // Wiring.
    /// The present level of each input.
    lines: u8,
    /// Inputs that are level-triggered (ELCR).
    level_triggered: u8,

    // Guest-visible state.
    /// Rising edges that have not been acknowledged. An input that falls takes its request back.
    latch: u8,
    in_service: u8,
    mask: u8,
    /// The input that has the lowest priority; the one after it has the highest.
    lowest: u8,
    /// ICW2: the upper five bits of the vector.
    vector_base: u8,
    /// ICW3: inputs with a chip behind them, or this chip's number.
    cascade: u8,
    icw1: u8,
    icw4: u8,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    read_in_service: bool,
    poll: bool,
    expect: Expect,
}

const fn bit(input: u8) -> u8 {
    1 << (input & 7)
}

impl Chip {
    /// As firmware leaves it: initialized, everything masked.
    pub(super) const fn new(vector_base: u8, cascade: u8) -> Self {
        Self {
            lines: 0,
            level_triggered: 0,
            latch: 0,
            in_service: 0,
            mask: 0xff,
            lowest: 7,
            vector_base,
            cascade,
            icw1: regs::ICW1 | regs::ICW1_NEEDS_ICW4,
            icw4: 0,
            rotate_on_auto_eoi: false,
            special_mask: false,
            read_in_service: false,
            poll: false,
            expect: Expect::Mask,
        }
    }

    pub(super) const fn level_triggered(&self) -> u8 {
        self.level_triggered
    }

    pub(super) const fn set_level_triggered(&mut self, inputs: u8) {
        self.level_triggered = inputs;
    }

    pub(super) const fn set_line(&mut self, input: u8, level: bool) {
        if level {
            self.latch |= bit(input) & !self.lines;
            self.lines |= bit(input);
        } else {
            self.latch &= !bit(input);
            self.lines &= !bit(input);
        }
    }

    /// Whether ICW3 says that another chip answers for this input.
    pub(super) const fn cascades(&self, input: u8) -> bool {
        self.icw1 & regs::ICW1_SINGLE == 0 && self.cascade & bit(input) != 0
    }

    /// Whether ICW3 gave this chip that number on the cascade bus.
    pub(super) const fn is_numbered(&self, number: u8) -> bool {
        self.icw1 & regs::ICW1_SINGLE == 0 && self.cascade & 7 == number
    }

    pub(super) const fn vector(&self, input: u8) -> u8 {
        self.vector_base | (input & 7)
    }

    /// The IRR.
    const fn requests(&self) -> u8 {
        (self.latch & !self.level_triggered) | (self.lines & self.level_triggered)
    }

    /// Place in the present order of priorities, 0 the highest.
    const fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest).wrapping_sub(1) & 7
    }

    fn highest(&self, inputs: u8) -> Option<u8> {
        (0..8).map(|rank: u8| (self.lowest + 1 + rank) & 7).find(|&input| inputs & bit(input) != 0)
    }

    /// In-service inputs that count for priorities: in special mask mode a masked one does not.
    const fn effective_in_service(&self) -> u8 {
        if self.special_mask { self.in_service & !self.mask } else { self.in_service }
    }

    /// The input that drives INT, if any does.
    pub(super) fn pending(&self) -> Option<u8> {
        if self.expect != Expect::Mask {
            return None;
        }
        let candidate = self.highest(self.requests() & !self.mask)?;
        let Some(served) = self.highest(self.effective_in_service()) else {
            return Some(candidate);
        };
        // The chip behind a cascade input sorts out its own priorities in special fully nested mode.
        let again = candidate == served && self.icw4 & regs::ICW4_SPECIAL_NESTED != 0 && self.cascades(candidate);
        (again || self.rank(candidate) < self.rank(served)).then_some(candidate)
    }

    /// The INTA sequence, or a poll. `None` if the request went away meanwhile: the chip then answers as input 7,
    /// without taking it into service.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let input = self.pending()?;
        self.latch &= !bit(input);
        if self.icw4 & regs::ICW4_AUTO_EOI == 0 {
            self.in_service |= bit(input);
        } else if self.rotate_on_auto_eoi {
            self.lowest = input;
        }
        Some(input)
    }

    pub(super) fn read(&mut self, a0: bool) -> u8 {
        if core::mem::take(&mut self.poll) {
            return self.acknowledge().map_or(0, |input| regs::POLL_INTERRUPT | input);
        }
        match (a0, self.read_in_service) {
            (true, _) => self.mask,
            (false, true) => self.in_service,
            (false, false) => self.requests(),
        }
    }

    pub(super) fn write(&mut self, a0: bool, value: u8) {
        match (a0, self.expect) {
            (false, _) if value & regs::ICW1 != 0 => self.initialize(value),
            (false, _) if value & regs::OCW3 != 0 => self.set_modes(value),
            (false, _) => self.end_or_rotate(value),
            (true, Expect::Icw2) => self.set_vector_base(value),
            (true, Expect::Icw3) => self.set_cascade(value),
            (true, Expect::Icw4) => self.set_icw4(value),
            (true, Expect::Mask) => self.mask = value,
        }
    }

    /// ICW1. The trigger mode in it is ignored, as in every PC since the ELCR.
    const fn initialize(&mut self, icw1: u8) {
        self.icw1 = icw1;
        self.icw4 = 0;
        self.latch = 0;
        self.in_service = 0;
        self.mask = 0;
        self.lowest = 7;
        self.rotate_on_auto_eoi = false;
        self.special_mask = false;
        self.read_in_service = false;
        self.poll = false;
        self.expect = Expect::Icw2;
    }

    const fn set_vector_base(&mut self, icw2: u8) {
        self.vector_base = icw2 & 0xf8;
        self.expect = if self.icw1 & regs::ICW1_SINGLE == 0 { Expect::Icw3 } else { self.after_icw3() };
    }

    const fn set_cascade(&mut self, icw3: u8) {
        self.cascade = icw3;
        self.expect = self.after_icw3();
    }

    const fn after_icw3(&self) -> Expect {
        if self.icw1 & regs::ICW1_NEEDS_ICW4 != 0 { Expect::Icw4 } else { Expect::Mask }
    }

    /// ICW4. The processor is always an x86, whatever bit 0 says, and there are no buffers.
    const fn set_icw4(&mut self, icw4: u8) {
        self.icw4 = icw4;
        self.expect = Expect::Mask;
    }

    /// OCW2.
    fn end_or_rotate(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 => drop(self.end_highest()),
            0b011 => self.in_service &= !bit(input),
            0b101 => self.lowest = self.end_highest().unwrap_or(self.lowest),
            0b111 => {
                self.in_service &= !bit(input);
                self.lowest = input;
            }
            0b110 => self.lowest = input,
            _ => {} // 010: no operation
        }
    }

    /// Non-specific EOI.
    fn end_highest(&mut self) -> Option<u8> {
        let input = self.highest(self.effective_in_service())?;
        self.in_service &= !bit(input);
        Some(input)
    }

    /// OCW3.
    const fn set_modes(&mut self, value: u8) {
        if value & regs::OCW3_SET_SPECIAL_MASK != 0 {
            self.special_mask = value & regs::OCW3_SPECIAL_MASK != 0;
        }
        if value & regs::OCW3_SET_READ != 0 {
            self.read_in_service = value & regs::OCW3_IN_SERVICE != 0;
        }
        self.poll = value & regs::OCW3_POLL != 0;
    }
}
