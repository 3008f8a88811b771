// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes cases: an encoding of a form, and registers with which its operand lies where it is wanted.

mod address;

use alloc::vec;
use alloc::vec::Vec;

use crate::forms::{Field, Form, Immediate, Kind, Undefined};
use crate::layout::{self, CODE, CODE_SIZE, DATA_SIZE, Mode};
use crate::random::Random;
use crate::state::{Case, State};

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const DF: u64 = 1 << 10;
const AC: u64 = 1 << 18;
/// Reserved bit 1.
const FIXED: u64 = 2;
/// IF, as every process has it.
const INTERRUPTS: u64 = 0x200;

const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// The LOCK prefix.
const LOCK: u8 = 0xf0;
/// Segment override prefixes.
const PREFIX_ES: u8 = 0x26;
const PREFIX_SS: u8 = 0x36;
const PREFIX_DS: u8 = 0x3e;
const PREFIX_GS: u8 = 0x65;

/// What a cell of the table has in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell {
    /// The form's family.
    pub family: &'static str,
    /// Operand size in bytes.
    pub size: u8,
    /// Which of the mode's address sizes.
    pub address: u8,
    /// The mode.
    pub mode: Mode,
}

/// Who runs the cases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Site {
    /// A process, at level 3.
    Process,
    /// A machine of its own, at level 0. Its processor is QEMU's, which checks no segment limits and no alignment, so that
    /// cases stay clear of these.
    Machine(Tables),
}

impl Site {
    fn has(self, form: &Form, mode: Mode) -> bool {
        match self {
            Self::Process => !form.machine_only,
            // QEMU's processor takes the operand size for the other one in 16-bit code.
            Self::Machine(_) => !(form.family == "movbe" && mode.is_16bit()),
        }
    }
}

/// The machine's own tables, which the cases' instructions load again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the registers' own names")]
pub struct Tables {
    pub gdt: u64,
    pub gdt_limit: u16,
    pub idt: u64,
    pub idt_limit: u16,
    /// The selector of the local descriptor table.
    pub local: u16,
    /// The selector of a task that may be entered.
    pub task: u16,
    /// The selector of the code.
    pub code: u16,
}

/// All cells of a form in some modes.
pub fn cells(form: &Form, modes: &[Mode], site: Site) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &mode in modes {
        for &size in form.sizes {
            if exists(form, mode, size) && site.has(form, mode) {
                for address in mode.address_sizes() {
                    cells.push(Cell { family: form.family, size, address, mode });
                }
            }
        }
    }
    cells
}

/// Whether the mode has this form at this operand size.
fn exists(form: &Form, mode: Mode, size: u8) -> bool {
    let is_general = !matches!(form.field, Field::Vector);
    match (form.kind, mode) {
        _ if form.long_only && !mode.is_long() => false,
        // These bytes are LES and LDS there.
        (Kind::Vex { .. }, _) if mode.is_untyped() => false,
        // Real mode's exceptions use the stack of the case, which therefore has to be memory.
        (Kind::Push | Kind::Pop | Kind::Return | Kind::CallDirect | Kind::Leave, Mode::Real) => false,
        // Stack instructions have no 32-bit form in 64-bit mode. Vendors differ in 16-bit branches there.
        (Kind::Stack | Kind::Push | Kind::Pop | Kind::Leave, Mode::Long) => size != 4,
        (Kind::Branch | Kind::Return | Kind::CallDirect, Mode::Long) => size == 8,
        // The code lies beyond 64 KiB there.
        (Kind::FarBranch, Mode::Long) => size != 2,
        _ => !is_general || size < 8 || mode.is_long(),
    }
}

/// Bytes of an instruction, in order.
#[derive(Default)]
struct Encoding {
    prefixes: Vec<u8>,
    rex: u8,
    needs_rex: bool,
    opcode: Vec<u8>,
    address: Vec<u8>,
    immediate: Vec<u8>,
    /// The displacement in `address` counts from the next instruction.
    relative: bool,
}

impl Encoding {
    fn bytes(&self, form: &Form, size: u8, mode: Mode, third: u8) -> Vec<u8> {
        let mut bytes = self.prefixes.clone();
        if let Kind::Vex { map, prefix, wide, .. } = form.kind {
            let rest = (!third & 0xf) << 3 | u8::from(size == 32) << 2 | prefix;
            let [r, x, b] = [4, 2, 1].map(|bit| if self.rex & bit == 0 { 1_u8 } else { 0 });
            if map == 1 && !wide && x == 1 && b == 1 {
                bytes.extend([0xc5, r << 7 | rest]);
            } else {
                bytes.extend([0xc4, r << 7 | x << 6 | b << 5 | map, u8::from(wide) << 7 | rest]);
            }
        } else {
            bytes.extend(form.prefix);
            if mode.is_long() && (self.rex != 0 || self.needs_rex) {
                bytes.push(0x40 | self.rex);
            }
        }
        bytes.extend(&self.opcode);
        bytes.extend(&self.address);
        bytes.extend(&self.immediate);
        bytes
    }
}

/// Makes one case after another.
pub struct Generator<'a> {
    random: &'a mut Random,
    form: &'a Form,
    cell: Cell,
    mode: Mode,
    site: Site,
    state: State,
    encoding: Encoding,
    /// The operand does not lie at its target but nowhere.
    is_wild: bool,
    /// LOCK stands before what must not have it.
    is_wrongly_locked: bool,
    regions: Vec<u64>,
}

impl<'a> Generator<'a> {
    /// A case of `form` in `cell`.
    pub fn case(random: &'a mut Random, form: &'a Form, cell: Cell, site: Site) -> Case {
        let mode = cell.mode;
        let mut state = State { ds: layout::DS.selector(), es: layout::ES.selector(), ..State::default() };
        state.gs = layout::GS.selector();
        if mode.is_untyped() {
            (state.ds, state.es, state.gs) = (layout::DATA_SELECTOR, layout::DATA_SELECTOR, layout::GS_SELECTOR);
        } else if site != Site::Process && mode.is_long() {
            // QEMU's processor adds the base of DS and ES in 64-bit mode too, if a prefix names them.
            (state.ds, state.es) = (layout::FLAT, layout::FLAT);
        } else if site == Site::Process && !mode.is_long() && random.one_in(12) {
            let other = [layout::DOWN, layout::CONSTANT, layout::DOWN16];
            state.ds = random.pick(&other).selector();
        }
        state.gprs = core::array::from_fn(|_| random.operand());
        let fixed = if site == Site::Process { FIXED | INTERRUPTS } else { FIXED };
        state.rflags = fixed | random.word() & (CF | PF | AF | ZF | SF | OF | DF);
        if random.one_in(16) {
            state.rflags |= AC;
        }
        for value in &mut state.vectors {
            value.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&random.word().to_le_bytes()));
        }
        let near_border = random.one_in(8);
        state.rip = if near_border { 0xff0 + random.below(16) } else { 0x100 + random.below(64) };
        Generator {
            random,
            form,
            cell,
            mode,
            site,
            state,
            encoding: Encoding::default(),
            is_wild: false,
            is_wrongly_locked: false,
            regions: Vec::new(),
        }
        .build()
    }

    fn is(&self, kind: Kind) -> bool {
        self.form.kind == kind
    }

    fn build(mut self) -> Case {
        self.opcode();
        let target = self.target();
        self.regions.push(target.max(0) as u64);
        let memory = self.memory(target);
        match self.form.kind {
            Kind::String => self.string(target),
            Kind::Offset => self.offset(target),
            Kind::Push | Kind::Pop | Kind::Return | Kind::CallDirect | Kind::Leave => self.stack(target),
            _ => self.modrm(target),
        }
        self.operands(target);
        let third = if matches!(self.form.kind, Kind::Vex { third: true, .. }) { self.vector_number() } else { 0 };
        let mut bytes = self.encoding.bytes(self.form, self.cell.size, self.mode, third);
        if self.encoding.relative {
            let at = bytes.len() - self.encoding.immediate.len() - 4;
            let wanted = i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let next = (CODE + self.state.rip) as i32 + bytes.len() as i32;
            bytes[at..at + 4].copy_from_slice(&wanted.wrapping_sub(next).to_le_bytes());
        }
        // Only an access that the guest's own tables allow is reported by its address.
        let told = (0..0x2000).contains(&target) && !self.is_wild && self.random.one_in(2);
        let told = told.then_some(target as u64);
        Case {
            mode: self.mode,
            undefined_flags: self.undefined(&bytes),
            undefined_result: self.is_undefined(&bytes),
            is_string: self.is(Kind::String),
            reads_and_writes: self.form.lockable
                || matches!(self.form.undefined, Undefined::Shift | Undefined::Rotate | Undefined::Bit),
            stores_before_fault: self.form.immediate == Immediate::Frame,
            is_wrongly_locked: self.is_wrongly_locked,
            bytes,
            state: self.state,
            memory,
            regions: core::mem::take(&mut self.regions),
            partly_memory: !self.is(Kind::String)
                && self.random.one_in(2)
                && (self.site == Site::Process || !self.is_wrongly_locked),
            told,
            told_write: self.random.one_in(2),
        }
    }

    /// Prefixes for sizes, LOCK and REP, and the opcode.
    fn opcode(&mut self) {
        let form = self.form;
        let [usual, _] = self.mode.address_sizes();
        let mut prefixes = Vec::new();
        if self.cell.address != usual {
            prefixes.push(0x67);
        }
        let is_general = !matches!(form.field, Field::Vector);
        let is_16bit = self.mode.is_16bit();
        // QEMU's processor takes MOVNTI with this prefix, which is an invalid opcode.
        let is_invalid = form.family == "movnti" && self.site != Site::Process;
        if is_general && !is_invalid && matches!((self.cell.size, is_16bit), (2, false) | (4, true)) {
            prefixes.push(0x66);
        }
        let wide_by_itself = matches!(
            form.kind,
            Kind::Stack | Kind::Branch | Kind::Push | Kind::Pop | Kind::Return | Kind::CallDirect | Kind::Leave
        );
        if is_general && self.cell.size == 8 && !wide_by_itself {
            self.encoding.rex |= 8;
        }
        if form.lockable && matches!(form.field, Field::Register | Field::Digit(_)) {
            if self.random.one_in(4) {
                prefixes.push(LOCK);
            }
        } else if self.may_be_wrongly_locked() && self.random.one_in(32) {
            prefixes.push(LOCK);
            self.is_wrongly_locked = true;
        }
        let is_port = matches!(form.family, "ins" | "outs");
        // Nothing would be accessed with a count of zero.
        let may_repeat = if self.site == Site::Process { !is_port } else { !self.is_wrongly_locked };
        if self.is(Kind::String) && may_repeat && !self.random.one_in(3) {
            prefixes.push(self.random.pick(&[0xf3, 0xf2]));
        }
        if self.random.one_in(4) {
            // The stack of real mode is no device (see `exists`).
            let of_stack = if self.mode == Mode::Real { PREFIX_DS } else { PREFIX_SS };
            prefixes.push(self.random.pick(&[PREFIX_DS, PREFIX_ES, of_stack, PREFIX_GS]));
        }
        // Their order does not matter.
        for last in (1..prefixes.len()).rev() {
            let other = self.random.below(last as u64 + 1) as usize;
            prefixes.swap(last, other);
        }
        self.encoding.prefixes = prefixes;
        self.encoding.opcode = form.opcode.to_vec();
        let variant = self.random.below(u64::from(form.variants)) as u8;
        let wide = form.sizes.first() == Some(&1) && self.cell.size > 1;
        if let Some(last) = self.encoding.opcode.last_mut() {
            *last += variant + u8::from(wide);
        }
    }

    /// QEMU's processor takes LOCK before nearly everything, so that #UD comes from the emulator alone: the instruction must
    /// reach it. With some vector moves it does not, for they then touch no memory.
    fn may_be_wrongly_locked(&self) -> bool {
        let touches = !matches!(self.form.field, Field::Vector) && !matches!(self.form.family, "prefetch" | "clflush");
        self.site == Site::Process || touches
    }

    /// Where the operand shall lie, as an offset in the data.
    fn target(&mut self) -> i64 {
        let size = i64::from(self.cell.size.max(8));
        let near = |random: &mut Random, border: i64| border - size + random.below(2 * size as u64) as i64;
        let target = match self.random.below(32) {
            0..=2 => near(self.random, 0x1000),
            3 | 4 => near(self.random, 0x2000),
            5 => near(self.random, DATA_SIZE as i64),
            6 => near(self.random, 0),
            7 => near(self.random, self.random_limit()),
            8 | 9 => 0x2000 + self.random.below(0x1000) as i64,
            10 | 11 => 0x1000 + self.random.below(0x1000) as i64,
            12 => DATA_SIZE as i64 + self.random.below(0x1000) as i64,
            _ => 0x40 + self.random.below(0xf00) as i64,
        };
        let alignment = self.random.pick(&[1, 1, 2, 4, 8, 16, 32, 32]);
        let target = if self.random.one_in(2) { target } else { target & -alignment };
        match self.site {
            Site::Process => target,
            // Far enough from the segments' start for strings that go down, and for bit strings.
            // Real mode has no absent pages; what lies behind the data there has no value of the case.
            Site::Machine(_) if self.mode == Mode::Real => target.clamp(layout::LOWEST, DATA_SIZE as i64 - 0x40),
            Site::Machine(_) => target.max(layout::LOWEST),
        }
    }

    fn random_limit(&self) -> i64 {
        [0x800, 0x1800, 0x2800, 0x2020][(self.state.gprs[0] & 3) as usize]
    }

    /// An interesting value at the operand.
    fn memory(&mut self, target: i64) -> Vec<(u64, Vec<u8>)> {
        let mut value: Vec<u8> = (0..4).flat_map(|_| self.random.operand().to_le_bytes()).collect();
        match self.form.kind {
            Kind::Branch | Kind::Return => {
                let base = if self.mode.is_long() { CODE } else { 0 };
                value[..8].copy_from_slice(&(base + self.landing()).to_le_bytes());
            }
            Kind::FarBranch => {
                let base = if self.mode.is_long() { CODE } else { 0 };
                let landing = base + self.landing();
                value[..8].copy_from_slice(&landing.to_le_bytes());
                let selector = self.code_selector();
                value[usize::from(self.cell.size)..][..2].copy_from_slice(&selector.to_le_bytes());
            }
            Kind::Compare if self.random.one_in(2) => {
                value[..8].copy_from_slice(&self.state.gprs[0].to_le_bytes());
                let half = usize::from(self.cell.size);
                if self.form.family.ends_with('b') {
                    value[half..half + 8].copy_from_slice(&self.state.gprs[2].to_le_bytes());
                }
            }
            Kind::Selector => {
                let known =
                    [layout::DS, layout::GS, layout::CS32, layout::CONSTANT, layout::DOWN].map(|it| it.selector());
                // Returning to level 3, the processor itself clears null selectors of other levels.
                let odd = [0, 3, 4, 7, 0x57, 0xfff8, 0xffff, 0x80, 0xc, 0x26, 0x2c];
                let selector = if self.random.one_in(2) { self.random.pick(&known) } else { self.random.pick(&odd) };
                value[..2].copy_from_slice(&selector.to_le_bytes());
            }
            _ => {
                if let Site::Machine(tables) = self.site {
                    self.system_operand(&tables, &mut value);
                }
            }
        }
        let start = target.clamp(0, DATA_SIZE as i64);
        let end = (target + value.len() as i64).clamp(start, DATA_SIZE as i64);
        let part = value[(start - target).clamp(0, 32) as usize..][..(end - start) as usize].to_vec();
        vec![(start as u64, part)]
    }

    /// Where a far branch may go: to the same code, or nowhere.
    fn code_selector(&mut self) -> u16 {
        let Site::Machine(tables) = self.site else { return 0 };
        let odd = [0, 3, layout::FLAT, tables.local, layout::DS.selector(), 0xfff8];
        if self.mode.is_untyped() || !self.random.one_in(4) { tables.code } else { self.random.pick(&odd) }
    }

    /// What a system instruction may load without taking the machine's own ground away.
    fn system_operand(&mut self, tables: &Tables, value: &mut [u8]) {
        let mut put = |at: usize, bytes: &[u8]| value[at..at + bytes.len()].copy_from_slice(bytes);
        let spare = self.random.below(0x100) as u16;
        match self.form.kind {
            Kind::Table { interrupts } => {
                let (base, limit) =
                    if interrupts { (tables.idt, tables.idt_limit) } else { (tables.gdt, tables.gdt_limit) };
                put(0, &(limit + spare).to_le_bytes());
                put(2, &base.to_le_bytes());
                // A 16-bit operand has a base of 24 bits; the byte above does not count.
                if self.cell.size == 2 && !self.mode.is_long() && base < 1 << 24 {
                    put(5, &[spare as u8]);
                }
            }
            Kind::Status => put(0, &(self.random.word() as u16 & !1).to_le_bytes()),
            Kind::System => {
                let wanted = if self.form.family == "ltr" { tables.task } else { tables.local };
                let odd = [0, 3, 8, 0x10, tables.task, tables.local, wanted | 3, wanted | 4, 0xfff8];
                // QEMU's processor takes a null selector for a task, and stops at the next exception.
                let odd = if self.form.family == "ltr" { &odd[2..] } else { &odd };
                let selector = if self.random.one_in(2) { wanted } else { self.random.pick(odd) };
                put(0, &selector.to_le_bytes());
            }
            _ => {}
        }
    }

    /// Where a branch goes, as an offset in the code.
    fn landing(&mut self) -> u64 {
        let beyond = self.site == Site::Process && self.random.one_in(16) && !self.mode.is_long();
        // Not into the instruction itself, which would run again.
        if beyond { CODE_SIZE + self.random.below(0x1000) } else { self.random.below(0x100) }
    }

    /// Points RSP, or RBP for LEAVE, so that what is pushed or popped lies at `target`.
    fn stack(&mut self, target: i64) {
        let pushed = matches!(self.form.kind, Kind::Push | Kind::CallDirect);
        let above = if pushed { i64::from(self.cell.size) } else { 0 };
        let pointer = self.offset_of(target + above, None);
        let register = if self.is(Kind::Leave) { RBP } else { RSP };
        self.state.gprs[register] = if self.mode.is_long() { pointer } else { pointer & 0xffff_ffff };
    }

    fn vector_number(&mut self) -> u8 {
        self.random.below(if self.mode.is_long() { 16 } else { 8 }) as u8
    }

    fn string(&mut self, target: i64) {
        let source = self.offset_of(target, self.segment_prefix());
        self.set_low(RSI, source);
        let lowest = if self.site == Site::Process { 0x40 } else { layout::LOWEST };
        let other = if self.random.one_in(4) {
            target + self.random.below(64) as i64 - 32
        } else {
            lowest + self.random.below(0x1c00) as i64
        };
        let other = if matches!(self.form.family, "stos" | "scas" | "ins") { target } else { other };
        // Which operand of CMPS faults if both do is not told by any manual, and varies with the prefixes.
        let other = if self.form.family == "cmps" { 0x800 + (self.random.below(0x400) as i64 & -8) } else { other };
        self.regions.push(other.max(0) as u64);
        let destination = self.offset_of(other, None);
        self.set_low(RDI, destination);
        let count = self.random.below(40);
        self.set_low(RCX, count);
        if let (Site::Machine(_), "ins" | "outs") = (self.site, self.form.family) {
            let port = layout::PORT + self.random.below(5 - u64::from(self.cell.size));
            self.state.gprs[RDX] = self.state.gprs[RDX] & !0xffff | port;
        }
    }

    /// Immediates, and registers that the instruction uses besides its address.
    fn operands(&mut self, target: i64) {
        let length = match self.form.immediate {
            Immediate::None => 0,
            Immediate::Byte => 1,
            Immediate::Word => 2,
            Immediate::Frame => 3,
            Immediate::Operand => usize::from(self.cell.size.min(4)),
        };
        let immediate = match self.form.immediate {
            Immediate::Frame => {
                // QEMU's processor does not look at the new top of the stack.
                let large = if self.site == Site::Process { [0x2000, 0x1_0000] } else { [0x80; 2] };
                let size = self.random.pick(&[0x80, 0x80, large[0], large[1]]);
                self.random.below(size)
            }
            _ if self.is(Kind::CallDirect) => {
                let length = (self.encoding.prefixes.len() + self.encoding.opcode.len() + length) as u64;
                self.landing().wrapping_sub(self.state.rip + length)
            }
            _ => self.random.operand(),
        };
        self.encoding.immediate.extend(&immediate.to_le_bytes()[..length]);
        if let Some(count) = self.encoding.immediate.first_mut()
            && matches!(self.form.undefined, Undefined::Shift | Undefined::Rotate)
            && self.random.one_in(3)
        {
            *count = 1;
        }
        let address_register = self.used_registers();
        if matches!(self.form.kind, Kind::Stack | Kind::Branch) && !address_register.contains(&RSP) {
            let near = if self.random.one_in(4) { target } else { 0x40 + self.random.below(0x1f00) as i64 };
            self.regions.push((near & !1).max(0) as u64);
            let stack = self.offset_of(near & !1, None);
            self.state.gprs[RSP] = if self.mode.is_long() { stack } else { stack & 0xffff_ffff };
        }
        if self.mode.is_long() && self.cell.address == 4 && address_register.contains(&RSP) {
            // The address uses the low half, the stack all of it.
            self.state.gprs[RSP] &= 0xffff_ffff;
        }
        if self.is(Kind::Divide) && !self.random.one_in(8) {
            // A quotient that fits, as far as the registers are free.
            if !address_register.contains(&2) {
                self.state.gprs[2] = if self.form.family == "idiv" && self.state.gprs[0] >> 63 != 0 {
                    u64::MAX
                } else {
                    self.random.below(3)
                };
            }
            if self.cell.size == 1 && !address_register.contains(&0) {
                self.state.gprs[0] = self.state.gprs[0] & !0xff00 | self.random.below(4) << 8;
            }
        }
    }

    /// Whether the manuals leave the result itself undefined.
    fn is_undefined(&self, bytes: &[u8]) -> bool {
        matches!(self.form.family, "shld" | "shrd") && self.count(bytes) > 8 * u64::from(self.cell.size)
    }

    /// By how much a shift or rotate moves.
    fn count(&self, bytes: &[u8]) -> u64 {
        let by_one = self.encoding.opcode.first().is_some_and(|opcode| matches!(opcode, 0xd0 | 0xd1));
        let count = if by_one {
            1
        } else if self.form.immediate == Immediate::Byte {
            u64::from(bytes.last().copied().unwrap_or(0))
        } else {
            self.state.gprs[RCX] & 0xff
        };
        count & if self.cell.size == 8 { 63 } else { 31 }
    }

    /// The flags that the manuals leave undefined for these operands.
    fn undefined(&self, bytes: &[u8]) -> u64 {
        let bits = 8 * u64::from(self.cell.size);
        let count = self.count(bytes);
        if self.is_undefined(bytes) {
            return CF | PF | AF | ZF | SF | OF;
        }
        match self.form.undefined {
            Undefined::Nothing => 0,
            Undefined::Adjust => AF,
            Undefined::Shift | Undefined::Rotate if count == 0 => 0,
            Undefined::Rotate => {
                if count == 1 {
                    0
                } else {
                    OF
                }
            }
            Undefined::Shift => {
                let overflow = if count == 1 { 0 } else { OF };
                let carry = if count >= bits { CF } else { 0 };
                AF | overflow | carry
            }
            Undefined::Multiply => SF | ZF | AF | PF,
            Undefined::Divide => CF | PF | AF | ZF | SF | OF,
            Undefined::Bit => OF | SF | AF | PF,
            Undefined::Scan => CF | OF | SF | AF | PF,
        }
    }
}
