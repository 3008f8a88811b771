// SPDX-License-Identifier: MIT OR Apache-2.0
//! The instructions that are tested, as data: opcode, operands and what makes them different from MOV.

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};

/// What ModRM's register field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// A general-purpose register.
    Register,
    /// A vector register.
    Vector,
    /// A segment register that may be loaded: DS, ES or GS.
    Segment,
    /// An opcode extension.
    Digit(u8),
    /// There is no ModRM byte: string instructions and `moffs`.
    None,
}

/// Bytes after the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Immediate {
    /// None.
    None,
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Two bytes, and a zero: the operands of ENTER without nesting.
    Frame,
    /// As many as the operand, four at most.
    Operand,
}

/// What a generator must see to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// Registers that divide without #DE, often.
    Divide,
    /// The register operand is a bit's number.
    Bit,
    /// RSI, RDI and RCX.
    String,
    /// The stack, and an operand size of its own in 64-bit mode.
    Stack,
    /// The operand is an address of code.
    Branch,
    /// The operand is an address of code with a selector.
    FarBranch,
    /// The stack alone: something is pushed.
    Push,
    /// The stack alone: something is popped.
    Pop,
    /// An address of code is popped.
    Return,
    /// An address of code in the instruction; the address after it is pushed.
    CallDirect,
    /// RBP takes the stack pointer's place.
    Leave,
    /// A comparison value in RDX:RAX.
    Compare,
    /// The operand is a selector.
    Selector,
    /// Base and limit of a descriptor table.
    Table {
        /// The interrupt descriptor table.
        interrupts: bool,
    },
    /// The low half of CR0.
    Status,
    /// The selector of a local descriptor table or of a task.
    System,
    /// Displacement without ModRM.
    Offset,
    /// VEX: the map, the implied prefix, W.
    Vex {
        /// 1 for 0F, 2 for 0F38.
        map: u8,
        /// 0–3 for none, 66, F3, F2.
        prefix: u8,
        /// VEX.W.
        wide: bool,
        /// A third operand is in VEX.vvvv.
        third: bool,
    },
}

/// How flags end up undefined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Undefined {
    /// None does.
    Nothing,
    /// AF (APM vol. 3: AND, OR, XOR, TEST).
    Adjust,
    /// AF always, OF and CF by the count (APM vol. 3: SHL, SHR, SAR, SHLD, SHRD).
    Shift,
    /// OF by the count (APM vol. 3: ROL, ROR, RCL, RCR).
    Rotate,
    /// SF, ZF, AF and PF (APM vol. 3: MUL, IMUL).
    Multiply,
    /// All six (APM vol. 3: DIV, IDIV).
    Divide,
    /// OF, SF, AF and PF (APM vol. 3: BT and others).
    Bit,
    /// All but ZF (APM vol. 3: BSF, BSR).
    Scan,
}

/// One encoding of one instruction.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "named like the parts of an encoding")]
pub struct Form {
    pub family: &'static str,
    /// Escape bytes and opcode. With sizes of which 1 is one, the others have the last byte plus one.
    pub opcode: &'static [u8],
    /// Added to the opcode's last byte at random below this: condition codes.
    pub variants: u8,
    pub field: Field,
    /// Operand sizes; for vectors the bytes in memory.
    pub sizes: &'static [u8],
    pub immediate: Immediate,
    /// An implied prefix: 66, F2 or F3. Excludes prefixes for the operand size.
    pub prefix: Option<u8>,
    pub lockable: bool,
    pub kind: Kind,
    pub undefined: Undefined,
    /// Exists in 64-bit mode alone.
    pub long_only: bool,
    /// Not for processes, where the kernel emulates some of these.
    pub machine_only: bool,
}

const ALL: &[u8] = &[1, 2, 4, 8];
const WIDE: &[u8] = &[2, 4, 8];
const BYTE: &[u8] = &[1];

const PLAIN: Form = Form {
    family: "",
    opcode: &[],
    variants: 1,
    field: Field::Register,
    sizes: ALL,
    immediate: Immediate::None,
    prefix: None,
    lockable: false,
    kind: Kind::Plain,
    undefined: Undefined::Nothing,
    long_only: false,
    machine_only: false,
};

const fn form(family: &'static str, opcode: &'static [u8]) -> Form {
    Form { family, opcode, ..PLAIN }
}

const fn digit(family: &'static str, opcode: &'static [u8], digit: u8) -> Form {
    Form { field: Field::Digit(digit), ..form(family, opcode) }
}

/// Two operands, by the number in the opcode (APM vol. 3, table A-1).
fn binary(forms: &mut Vec<Form>, family: &'static str, opcodes: [&'static [u8]; 2], number: u8) {
    let lockable = number != 7;
    let undefined = if matches!(number, 1 | 4 | 6) { Undefined::Adjust } else { Undefined::Nothing };
    let [store, load] = opcodes;
    forms.push(Form { lockable, undefined, ..form(family, store) });
    forms.push(Form { undefined, ..form(family, load) });
    let base = Form { lockable, undefined, ..digit(family, &[0x80], number) };
    forms.push(Form { immediate: Immediate::Operand, ..base });
    forms.push(Form { immediate: Immediate::Byte, sizes: WIDE, opcode: &[0x83], ..base });
}

fn arithmetic(forms: &mut Vec<Form>) {
    binary(forms, "add", [&[0x00], &[0x02]], 0);
    binary(forms, "or", [&[0x08], &[0x0a]], 1);
    binary(forms, "adc", [&[0x10], &[0x12]], 2);
    binary(forms, "sbb", [&[0x18], &[0x1a]], 3);
    binary(forms, "and", [&[0x20], &[0x22]], 4);
    binary(forms, "sub", [&[0x28], &[0x2a]], 5);
    binary(forms, "xor", [&[0x30], &[0x32]], 6);
    binary(forms, "cmp", [&[0x38], &[0x3a]], 7);
    let undefined = Undefined::Adjust;
    forms.push(Form { undefined, ..form("test", &[0x84]) });
    forms.push(Form { undefined, immediate: Immediate::Operand, ..digit("test", &[0xf6], 0) });
    let lockable = true;
    forms.push(Form { lockable, ..digit("not", &[0xf6], 2) });
    forms.push(Form { lockable, ..digit("neg", &[0xf6], 3) });
    forms.push(Form { lockable, ..digit("inc", &[0xfe], 0) });
    forms.push(Form { lockable, ..digit("dec", &[0xfe], 1) });
    let undefined = Undefined::Multiply;
    forms.push(Form { undefined, ..digit("mul", &[0xf6], 4) });
    forms.push(Form { undefined, ..digit("imul", &[0xf6], 5) });
    forms.push(Form { undefined, sizes: WIDE, ..form("imul r, m", &[0x0f, 0xaf]) });
    forms.push(Form { undefined, sizes: WIDE, immediate: Immediate::Operand, ..form("imul r, m, i", &[0x69]) });
    forms.push(Form { undefined, sizes: WIDE, immediate: Immediate::Byte, ..form("imul r, m, i", &[0x6b]) });
    let (undefined, kind) = (Undefined::Divide, Kind::Divide);
    forms.push(Form { undefined, kind, ..digit("div", &[0xf6], 6) });
    forms.push(Form { undefined, kind, ..digit("idiv", &[0xf6], 7) });
}

fn shifts(forms: &mut Vec<Form>) {
    for (number, family) in ["rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar"].into_iter().enumerate() {
        let undefined = if number < 4 { Undefined::Rotate } else { Undefined::Shift };
        let by = |opcode, immediate| Form { undefined, immediate, ..digit(family, opcode, number as u8) };
        forms.push(by(&[0xc0], Immediate::Byte));
        forms.push(by(&[0xd0], Immediate::None));
        forms.push(by(&[0xd2], Immediate::None));
    }
    for (family, byte, register) in
        [("shld", &[0x0f, 0xa4], &[0x0f, 0xa5]), ("shrd", &[0x0f, 0xac], &[0x0f, 0xad])] as [(_, &[u8; 2], &[u8; 2]); 2]
    {
        let undefined = Undefined::Shift;
        forms.push(Form { undefined, sizes: WIDE, immediate: Immediate::Byte, ..form(family, byte) });
        forms.push(Form { undefined, sizes: WIDE, ..form(family, register) });
    }
    let bits: [(&str, &[u8]); 4] =
        [("bt", &[0x0f, 0xa3]), ("bts", &[0x0f, 0xab]), ("btr", &[0x0f, 0xb3]), ("btc", &[0x0f, 0xbb])];
    for (number, (family, opcode)) in bits.into_iter().enumerate() {
        let base = Form { undefined: Undefined::Bit, sizes: WIDE, lockable: number != 0, ..PLAIN };
        forms.push(Form { family, opcode, kind: Kind::Bit, ..base });
        let field = Field::Digit(number as u8 + 4);
        forms.push(Form { family, opcode: &[0x0f, 0xba], field, immediate: Immediate::Byte, ..base });
    }
}

fn scans(forms: &mut Vec<Form>) {
    for (family, opcode) in [("bsf", &[0x0f, 0xbc]), ("bsr", &[0x0f, 0xbd])] as [(_, &[u8; 2]); 2] {
        forms.push(Form { undefined: Undefined::Scan, sizes: WIDE, ..form(family, opcode) });
    }
}

fn moves(forms: &mut Vec<Form>) {
    forms.push(form("mov", &[0x88]));
    forms.push(form("mov", &[0x8a]));
    forms.push(Form { immediate: Immediate::Operand, ..digit("mov m, i", &[0xc6], 0) });
    let offset = Form { field: Field::None, kind: Kind::Offset, ..PLAIN };
    forms.push(Form { family: "mov moffs", opcode: &[0xa0], ..offset });
    forms.push(Form { family: "mov moffs", opcode: &[0xa2], ..offset });
    forms.push(Form { sizes: WIDE, field: Field::Segment, ..form("mov m, sreg", &[0x8c]) });
    forms.push(Form { sizes: &[2], field: Field::Segment, kind: Kind::Selector, ..form("mov sreg, m", &[0x8e]) });
    for (family, opcode) in [
        ("movzx m8", &[0x0f, 0xb6]),
        ("movzx m16", &[0x0f, 0xb7]),
        ("movsx m8", &[0x0f, 0xbe]),
        ("movsx m16", &[0x0f, 0xbf]),
    ] as [(_, &[u8; 2]); 4]
    {
        forms.push(Form { sizes: WIDE, ..form(family, opcode) });
    }
    // Vendors differ in the 16-bit form.
    forms.push(Form { sizes: &[4, 8], long_only: true, ..form("movsxd", &[0x63]) });
    forms.push(Form { sizes: &[4, 8], ..form("movnti", &[0x0f, 0xc3]) });
    forms.push(Form { sizes: WIDE, ..form("movbe", &[0x0f, 0x38, 0xf0]) });
    forms.push(Form { sizes: WIDE, ..form("movbe", &[0x0f, 0x38, 0xf1]) });
    forms.push(Form { sizes: WIDE, variants: 16, ..form("cmovcc", &[0x0f, 0x40]) });
    forms.push(Form { sizes: BYTE, variants: 16, ..digit("setcc", &[0x0f, 0x90], 0) });
    forms.push(Form { lockable: true, ..form("xchg", &[0x86]) });
    forms.push(Form { lockable: true, ..form("xadd", &[0x0f, 0xc0]) });
    forms.push(Form { lockable: true, kind: Kind::Compare, ..form("cmpxchg", &[0x0f, 0xb0]) });
    let wide = Form { lockable: true, kind: Kind::Compare, ..digit("", &[0x0f, 0xc7], 1) };
    forms.push(Form { family: "cmpxchg8b", sizes: &[4], ..wide });
    forms.push(Form { family: "cmpxchg16b", sizes: &[8], ..wide });
}

fn strings(forms: &mut Vec<Form>) {
    let base = Form { field: Field::None, kind: Kind::String, ..PLAIN };
    for (family, opcode) in
        [("movs", &[0xa4]), ("cmps", &[0xa6]), ("stos", &[0xaa]), ("lods", &[0xac]), ("scas", &[0xae])]
            as [(_, &[u8; 1]); 5]
    {
        forms.push(Form { family, opcode, ..base });
    }
    // Without the right to use ports these fault.
    forms.push(Form { family: "ins", opcode: &[0x6c], sizes: &[1, 2, 4], ..base });
    forms.push(Form { family: "outs", opcode: &[0x6e], sizes: &[1, 2, 4], ..base });
}

fn others(forms: &mut Vec<Form>) {
    let stack = Form { kind: Kind::Stack, sizes: WIDE, ..PLAIN };
    forms.push(Form { family: "push", opcode: &[0xff], field: Field::Digit(6), ..stack });
    forms.push(Form { family: "pop", opcode: &[0x8f], field: Field::Digit(0), ..stack });
    let branch = Form { kind: Kind::Branch, ..stack };
    forms.push(Form { family: "call", opcode: &[0xff], field: Field::Digit(2), ..branch });
    forms.push(Form { family: "jmp", opcode: &[0xff], field: Field::Digit(4), ..branch });
    let far = Form { kind: Kind::FarBranch, sizes: WIDE, machine_only: true, ..PLAIN };
    forms.push(Form { family: "jmp far", opcode: &[0xff], field: Field::Digit(5), ..far });
    forms.push(Form { sizes: &[4], ..digit("clflush", &[0x0f, 0xae], 7) });
    for number in 0..4 {
        forms.push(Form { sizes: &[4], ..digit("prefetch", &[0x0f, 0x18], number) });
    }
    implied_stack(forms);
    system(forms);
}

/// System instructions, of which level 3 may do none that loads.
fn system(forms: &mut Vec<Form>) {
    let base = Form { sizes: &[2, 4], ..PLAIN };
    let loads: [(&str, &[u8], u8, Kind); 5] = [
        ("lgdt", &[0x0f, 0x01], 2, Kind::Table { interrupts: false }),
        ("lidt", &[0x0f, 0x01], 3, Kind::Table { interrupts: true }),
        ("lmsw", &[0x0f, 0x01], 6, Kind::Status),
        ("lldt", &[0x0f, 0x00], 2, Kind::System),
        ("ltr", &[0x0f, 0x00], 3, Kind::System),
    ];
    for (family, opcode, number, kind) in loads {
        forms.push(Form { family, opcode, field: Field::Digit(number), kind, ..base });
    }
    let stores: [(&str, &[u8], u8); 5] = [
        ("sgdt", &[0x0f, 0x01], 0),
        ("sidt", &[0x0f, 0x01], 1),
        ("smsw", &[0x0f, 0x01], 4),
        ("sldt", &[0x0f, 0x00], 0),
        ("str", &[0x0f, 0x00], 1),
    ];
    for (family, opcode, number) in stores {
        forms.push(Form { family, opcode, field: Field::Digit(number), machine_only: true, ..base });
    }
}

/// Instructions that reach memory through the stack pointer or RBP alone.
fn implied_stack(forms: &mut Vec<Form>) {
    let base = Form { field: Field::None, sizes: WIDE, ..PLAIN };
    let push = Form { kind: Kind::Push, ..base };
    forms.push(Form { family: "push r", opcode: &[0x50], variants: 8, ..push });
    forms.push(Form { family: "push i", opcode: &[0x68], immediate: Immediate::Operand, ..push });
    forms.push(Form { family: "push i", opcode: &[0x6a], immediate: Immediate::Byte, ..push });
    forms.push(Form { family: "pop r", opcode: &[0x58], variants: 8, kind: Kind::Pop, ..base });
    forms.push(Form {
        family: "call i",
        opcode: &[0xe8],
        immediate: Immediate::Operand,
        kind: Kind::CallDirect,
        ..base
    });
    let back = Form { kind: Kind::Return, ..base };
    forms.push(Form { family: "ret", opcode: &[0xc3], ..back });
    forms.push(Form { family: "ret i", opcode: &[0xc2], immediate: Immediate::Word, ..back });
    forms.push(Form { family: "enter", opcode: &[0xc8], immediate: Immediate::Frame, ..push });
    forms.push(Form { family: "leave", opcode: &[0xc9], kind: Kind::Leave, ..base });
}

/// SSE moves and their AVX forms: family, opcode byte, implied prefix, bytes in memory.
const VECTORS: [(&str, u8, u8, u8); 27] = [
    ("movups", 0x10, 0, 16),
    ("movups", 0x11, 0, 16),
    ("movupd", 0x10, 1, 16),
    ("movupd", 0x11, 1, 16),
    ("movdqu", 0x6f, 2, 16),
    ("movdqu", 0x7f, 2, 16),
    ("lddqu", 0xf0, 3, 16),
    ("movaps", 0x28, 0, 16),
    ("movaps", 0x29, 0, 16),
    ("movapd", 0x28, 1, 16),
    ("movapd", 0x29, 1, 16),
    ("movdqa", 0x6f, 1, 16),
    ("movdqa", 0x7f, 1, 16),
    ("movntps", 0x2b, 0, 16),
    ("movntpd", 0x2b, 1, 16),
    ("movntdq", 0xe7, 1, 16),
    ("movss", 0x10, 2, 4),
    ("movss", 0x11, 2, 4),
    ("movsd", 0x10, 3, 8),
    ("movsd", 0x11, 3, 8),
    ("movq", 0x7e, 2, 8),
    ("movq", 0xd6, 1, 8),
    ("movlp", 0x12, 0, 8),
    ("movlp", 0x13, 1, 8),
    ("movhp", 0x16, 1, 8),
    ("movhp", 0x17, 0, 8),
    ("movhp", 0x16, 0, 8),
];

fn vectors(forms: &mut Vec<Form>) {
    let bytes = |length| match length {
        4 => &[4][..],
        8 => &[8][..],
        _ => &[16][..],
    };
    let base = Form { field: Field::Vector, ..PLAIN };
    for (family, opcode, prefix, length) in VECTORS {
        let implied = [None, Some(0x66), Some(0xf3), Some(0xf2)][usize::from(prefix)];
        let escaped: &'static [u8] = Vec::leak(vec![0x0f, opcode]);
        forms.push(Form { family, opcode: escaped, sizes: bytes(length), prefix: implied, ..base });
        let named: &'static str = String::leak(format!("v{family}"));
        let third = matches!(opcode, 0x12 | 0x16);
        let kind = Kind::Vex { map: 1, prefix, wide: false, third };
        let sizes = if length == 16 { &[16, 32][..] } else { bytes(length) };
        forms.push(Form { family: named, opcode: Vec::leak(vec![opcode]), sizes, kind, ..base });
    }
    let prefix = Some(0x66);
    forms.push(Form { family: "movntdqa", opcode: &[0x0f, 0x38, 0x2a], sizes: &[16], prefix, ..base });
    let kind = Kind::Vex { map: 2, prefix: 1, wide: false, third: false };
    forms.push(Form { family: "vmovntdqa", opcode: &[0x2a], sizes: &[16, 32], kind, ..base });
    for opcode in [0x6e, 0x7e] {
        let escaped: &'static [u8] = Vec::leak(vec![0x0f, opcode]);
        let single: &'static [u8] = Vec::leak(vec![opcode]);
        forms.push(Form { family: "movd", opcode: escaped, sizes: &[4], prefix, ..base });
        let kind = Kind::Vex { map: 1, prefix: 1, wide: false, third: false };
        forms.push(Form { family: "vmovd", opcode: single, sizes: &[4], kind, ..base });
        let kind = Kind::Vex { map: 1, prefix: 1, wide: true, third: false };
        forms.push(Form { family: "vmovq", opcode: single, sizes: &[8], kind, long_only: true, ..base });
    }
}

/// All forms, those of a family next to each other.
pub fn all() -> Vec<Form> {
    let mut forms = Vec::new();
    moves(&mut forms);
    arithmetic(&mut forms);
    shifts(&mut forms);
    scans(&mut forms);
    strings(&mut forms);
    others(&mut forms);
    vectors(&mut forms);
    forms
}
