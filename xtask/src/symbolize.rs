// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask symbolize`: the calls behind a crash, from the registers and the stack that Parados printed.
//!
//! The image has neither an unwinder nor the tables for one: they stay in its ELF file, as `.debug_frame` (DWARF 5, 6.4). So
//! the ELF file must be the one that the image was made of.
//!
//! The lines may come from anywhere. Nothing in them is believed beyond arithmetic: an unwinding that leaves the stack or
//! the code ends.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use addr2line::Context;
use gimli::{
    BaseAddresses, CfaRule, DebugFrame, EndianSlice, LittleEndian, Register, RegisterRule, UnwindContext, UnwindSection,
};
use lexopt::Arg::{Long, Value};
use object::{Object, ObjectSection};

use crate::build::{self, TARGET};
use crate::failure::{Failure, Result, status};
use crate::options::{self, set};
use crate::say;

/// No stack of Parados is deeper.
const DEEPEST: usize = 64;

/// The registers that unwinding needs, with their numbers (System V ABI, AMD64 supplement, figure 3.36).
const NUMBERS: [(&str, u16); 8] =
    [("rbx", 3), ("rbp", 6), ("rsp", 7), ("r12", 12), ("r13", 13), ("r14", 14), ("r15", 15), ("rip", 16)];
/// How the line begins that says where a panic was.
const PLACE: &str = "panicked at";

const RSP: Register = Register(7);
const RIP: Register = Register(16);

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// What Parados printed.
#[derive(Debug, Default, PartialEq)]
struct Crash {
    /// The lines for people.
    words: Vec<String>,
    registers: HashMap<u16, u64>,
    stack: BTreeMap<u64, u64>,
}

/// The verb.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<u8> {
    let (mut file, mut elf) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) => set(&mut file, "FILE", PathBuf::from(name))?,
            Long("elf") => set(&mut elf, "elf", options::path(&mut parser)?)?,
            other => return Err(other.unexpected().into()),
        }
    }
    let text = match file {
        Some(file) => std::fs::read(&file).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?,
        None => {
            let mut text = Vec::new();
            std::io::stdin()
                .read_to_end(&mut text)
                .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
            text
        }
    };
    let elf = elf.unwrap_or_else(|| build::target_directory().join(TARGET).join("release/paravisor"));
    say::out(&report(&String::from_utf8_lossy(&text), &elf)?);
    Ok(status::OK)
}

/// The lines for people, and the calls below them.
pub(crate) fn report(text: &str, elf: &Path) -> Result<String> {
    let crash = parse(text);
    if crash.registers.len() < NUMBERS.len() {
        return Err(Failure::data("no crash of Parados in there: the lines `crash: registers` are missing"));
    }
    let bytes = std::fs::read(elf).map_err(|error| Failure::usage(format!("{}: {error}", elf.display())))?;
    let symbols = Symbols::new(&bytes).map_err(|error| Failure::data(format!("{}: {error}", elf.display())))?;
    let mut report = crash.words.iter().map(|line| format!("{line}\n")).collect::<String>();
    for (depth, address) in symbols.unwind(&crash).into_iter().enumerate() {
        report += &symbols.describe(depth, address);
    }
    Ok(report)
}

/// The last crash in the text.
fn parse(text: &str) -> Crash {
    let mut crash = Crash::default();
    for line in text.lines() {
        let Some((_, rest)) = line.split_once("crash: ") else { continue };
        let rest = rest.trim_end();
        if let Some(registers) = rest.strip_prefix("registers ") {
            let words: Vec<_> = registers.split(' ').collect();
            for pair in words.chunks_exact(2) {
                let [name, value] = pair else { continue };
                if let (Some((_, number)), Some(value)) =
                    (NUMBERS.iter().find(|(known, _)| known == name), number(value))
                {
                    crash.registers.insert(*number, value);
                }
            }
        } else if let Some((address, words)) = rest.strip_prefix("stack ").and_then(|rest| rest.split_once(": ")) {
            let Some(address) = number(address) else { continue };
            for (index, word) in (0..).zip(words.split(' ')) {
                crash.stack.extend(number(word).map(|word| (address.wrapping_add(8 * index), word)));
            }
        } else {
            if begins(rest, &crash) {
                crash = Crash::default();
            }
            crash.words.push(say::printable(rest.as_bytes()));
        }
    }
    crash
}

/// Whether a line for people is the first of a crash: where the panic was, or the reason if nothing panicked.
fn begins(line: &str, crash: &Crash) -> bool {
    let after_place = crash.registers.is_empty() && crash.words.last().is_some_and(|before| before.starts_with(PLACE));
    let is_reason = line.contains(" (reason 0x") && !line.starts_with("log: ");
    line.starts_with(PLACE) || is_reason && !after_place
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// What the ELF file knows.
struct Symbols<'a> {
    frames: DebugFrame<Slice<'a>>,
    context: Context<Slice<'a>>,
}

impl<'a> Symbols<'a> {
    fn new(bytes: &'a [u8]) -> std::result::Result<Self, String> {
        let file = object::File::parse(bytes).map_err(|error| error.to_string())?;
        let section = |name: &str| -> Slice<'a> {
            let data = file.section_by_name(name).and_then(|section| section.data().ok()).unwrap_or_default();
            EndianSlice::new(data, LittleEndian)
        };
        let frames = section(".debug_frame");
        if frames.is_empty() {
            return Err("no .debug_frame: not Parados, or stripped".to_owned());
        }
        let dwarf = gimli::Dwarf::load(|id| Ok::<_, gimli::Error>(section(id.name())));
        let context = dwarf.and_then(Context::from_dwarf).map_err(|error| error.to_string())?;
        let mut frames = DebugFrame::from(frames);
        frames.set_address_size(8);
        Ok(Self { frames, context })
    }

    /// The addresses of the calls, the innermost first.
    fn unwind(&self, crash: &Crash) -> Vec<u64> {
        let mut registers = crash.registers.clone();
        let mut addresses = Vec::new();
        let mut unwinding = UnwindContext::new();
        while addresses.len() < DEEPEST {
            let Some(&rip) = registers.get(&RIP.0).filter(|rip| **rip != 0) else { break };
            // A return address may be the first of the next function: the call is before it.
            let address = if addresses.is_empty() { rip } else { rip - 1 };
            let bases = BaseAddresses::default();
            let row = self.frames.unwind_info_for_address(&bases, &mut unwinding, address, DebugFrame::cie_from_offset);
            let Ok(row) = row else { break };
            addresses.push(address);
            let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { break };
            let Some(cfa) = registers.get(&register.0).and_then(|base| base.checked_add_signed(*offset)) else { break };
            let before = registers.clone();
            for (register, rule) in row.registers() {
                let value = match rule {
                    RegisterRule::Offset(offset) => {
                        cfa.checked_add_signed(*offset).and_then(|address| crash.stack.get(&address)).copied()
                    }
                    RegisterRule::Register(other) => before.get(&other.0).copied(),
                    RegisterRule::SameValue => before.get(&register.0).copied(),
                    _ => None,
                };
                match value {
                    Some(value) => registers.insert(register.0, value),
                    None => registers.remove(&register.0),
                };
            }
            registers.insert(RSP.0, cfa);
            if registers.get(&RIP.0) == Some(&rip) {
                break;
            }
        }
        addresses
    }

    /// One call, with the functions that were compiled into it.
    fn describe(&self, depth: usize, address: u64) -> String {
        let mut lines = String::new();
        if let Ok(mut frames) = self.context.find_frames(address).skip_all_loads() {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|name| name.demangle().ok()).unwrap_or("?".into());
                let place = frame.location.map_or_else(String::new, |location| {
                    format!(" at {}:{}", location.file.unwrap_or("?"), location.line.unwrap_or_default())
                });
                lines += &format!("{depth:>3}: {address:#x} {name}{place}\n");
            }
        }
        if lines.is_empty() { format!("{depth:>3}: {address:#x} ?\n") } else { lines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[host] up\n[parados] crash: panicked at a.rs:1:2\n[parados] crash: old\n\
        [parados] crash: panicked at b.rs:3:4\n[parados] crash: registers rax 0x1 rbx 0x2 rsp 0x100\n\
        [parados] crash: stack 0x100: 0xa 0xb\n[parados] crash: stack 0x110: 0xc x 0xd\n";

    #[test]
    fn the_last_crash_counts() {
        let crash = parse(TEXT);
        assert_eq!(crash.words, ["panicked at b.rs:3:4"]);
        assert_eq!(crash.registers, HashMap::from([(3, 2), (7, 0x100)]));
        assert_eq!(crash.stack, BTreeMap::from([(0x100, 10), (0x108, 11), (0x110, 12), (0x120, 13)]));
    }

    /// An exception has no place in the source: its words and its stack were taken together with the crash before.
    #[test]
    fn an_exception_begins_a_crash_too() {
        let exception = "[parados] crash: exception in Parados (reason 0x02): exception 14 at 0x5\n\
            [parados] crash: registers rax 0x1 rsp 0x200\n\
            [parados] crash: log: error: core: vCPU 0: the guest's memory failed (reason 0x22), detail 0x1\n\
            [parados] crash: stack 0x200: 0xe\n[parados] crash: `cargo xtask symbolize` reads these lines\n";
        let panic = "[parados] crash: panicked at c.rs:5:6\n[parados] crash: Parados panicked (reason 0x01): x\n\
            [parados] crash: registers rbx 0x3\n";
        let crash = parse(&format!("{TEXT}{exception}"));
        assert_eq!(crash.words.len(), 3, "{:?}", crash.words);
        assert_eq!(crash.registers, HashMap::from([(7, 0x200)]));
        assert_eq!(crash.stack, BTreeMap::from([(0x200, 14)]));
        assert_eq!(parse(&format!("{exception}{exception}")), crash);
        let crash = parse(&format!("{exception}{panic}"));
        assert_eq!(crash.words, ["panicked at c.rs:5:6", "Parados panicked (reason 0x01): x"]);
        assert_eq!((crash.registers, crash.stack), (HashMap::from([(3, 3)]), BTreeMap::new()));
    }

    #[test]
    fn text_without_a_crash_is_refused() {
        for text in ["", "crash: \n", TEXT, "crash: stack 0xffffffffffffffff: 0x1 0x2"] {
            assert_eq!(report(text, Path::new("/nowhere")).unwrap_err().status, status::DATA, "{text}");
        }
    }
}
