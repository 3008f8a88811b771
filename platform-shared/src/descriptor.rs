// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own global descriptor table and task-state segment, one of each for a processor.

use core::arch::asm;

/// Selector of the 64-bit code segment.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment.
const DATA_SELECTOR: u16 = 0x10;
/// Selector of the task-state segment.
const TASK_SELECTOR: u16 = 0x18;
/// Which IST entry #DF uses during start-up.
pub const DOUBLE_FAULT_IST: u8 = 1;
/// Bytes of the #DF stack.
const DOUBLE_FAULT_STACK: usize = 2048;

/// A 64-bit task-state segment (APM vol. 2, 12.2.5); only IST1 is used.
#[repr(C, packed(4))]
struct TaskState {
    reserved_0: u32,
    rsp: [u64; 3],
    reserved_1: u64,
    ist: [u64; 7],
    reserved_2: u64,
    reserved_3: u16,
    io_map: u16,
}

/// The descriptors of one processor. Must not move once loaded.
#[repr(C, align(16))]
pub struct Descriptors {
    table: [u64; 5],
    task: TaskState,
    stack: [u8; DOUBLE_FAULT_STACK],
}

impl Default for Descriptors {
    /// Descriptors that are complete but for the addresses, which [`Descriptors::load`] fills in.
    fn default() -> Self {
        Self {
            // Null, 64-bit code, data, and two words of task-state descriptor.
            table: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0],
            task: TaskState {
                reserved_0: 0,
                rsp: [0; 3],
                reserved_1: 0,
                ist: [0; 7],
                reserved_2: 0,
                reserved_3: 0,
                io_map: size_of::<TaskState>() as u16,
            },
            stack: [0; DOUBLE_FAULT_STACK],
        }
    }
}

impl Descriptors {
    /// Makes these the processor's descriptors.
    pub fn load(&'static mut self) {
        let top = (&raw mut self.stack).expose_provenance() as u64 + DOUBLE_FAULT_STACK as u64;
        self.task.ist = [top & !15, 0, 0, 0, 0, 0, 0];
        let task = (&raw mut self.task).expose_provenance() as u64;
        let limit = size_of::<TaskState>() as u64 - 1;
        // An available 64-bit TSS, present, byte granularity (APM vol. 2, 4.8.3).
        let low = limit | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
        self.table = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, low, task >> 32];
        #[repr(C, packed)]
        struct Pointer {
            limit: u16,
            base: u64,
        }
        let pointer = Pointer {
            limit: (size_of::<[u64; 5]>() - 1) as u16,
            base: (&raw mut self.table).expose_provenance() as u64,
        };
        // SAFETY: the table lives for ever and holds flat segments that match the running mode; the far return reloads CS
        // with the same kind of segment that is in force, and the stack is balanced.
        unsafe {
            asm!(
                "lgdt [{pointer}]",
                "mov ds, {data:e}",
                "mov es, {data:e}",
                "mov ss, {data:e}",
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "ltr {task:x}",
                pointer = in(reg) &raw const pointer,
                data = in(reg) u32::from(DATA_SELECTOR),
                code = in(reg) u64::from(CODE_SELECTOR),
                scratch = out(reg) _,
                task = in(reg) TASK_SELECTOR,
            );
        }
    }
}
