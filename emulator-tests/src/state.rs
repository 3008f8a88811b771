// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes into a case and what comes out, on either side.

use alloc::vec::Vec;

use crate::layout::Mode;

/// The registers that a case starts or ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the architecture's own names")]
pub struct State {
    /// In encoding order.
    pub gprs: [u64; 16],
    /// An offset in CS.
    pub rip: u64,
    pub rflags: u64,
    pub vectors: [[u8; 32]; 16],
    pub ds: u16,
    pub es: u16,
    pub gs: u16,
}

/// How an instruction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It did what it does; RIP is where it went.
    Completed,
    /// It faulted.
    Fault {
        /// The vector.
        vector: u8,
        /// The error code, zero where there is none.
        code: u32,
        /// CR2, zero unless the vector is that of a page fault.
        address: u64,
    },
    /// The emulator gave another answer; this is never right.
    Other,
}

/// One instruction with everything that it starts from.
#[derive(Clone, Debug)]
pub struct Case {
    /// How its bytes decode.
    pub mode: Mode,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The registers, RIP included.
    pub state: State,
    /// Bytes put into the data first: an offset there, and what.
    pub memory: Vec<(u64, Vec<u8>)>,
    /// Where in the data the instruction may work: its operand, and a string's destination or the stack.
    pub regions: Vec<u64>,
    /// The second page of data is memory rather than a device.
    pub partly_memory: bool,
    /// What the emulator is told about the access: the address in the data, if any, and whether it is a write.
    pub told: Option<u64>,
    /// The access that the emulator is told of.
    pub told_write: bool,
    /// Status flags that the architecture leaves undefined here.
    pub undefined_flags: u64,
    /// The result is undefined as well: 16-bit SHLD and SHRD by more than 16.
    pub undefined_result: bool,
    /// A string instruction: a fault comes after some elements.
    pub is_string: bool,
    /// The operand in memory may be read and written.
    pub reads_and_writes: bool,
    /// LOCK stands before an instruction that must not have it: #UD, before anything else happens.
    pub is_wrongly_locked: bool,
    /// The processor may have stored before it faults: ENTER, which looks at the new top of the stack last.
    pub stores_before_fault: bool,
}

/// How a case ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ending {
    /// Completed or faulted.
    pub end: End,
    /// The registers.
    pub state: State,
}
