// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's own global descriptor table and task-state segment, one of each for a processor.

use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// Which of the interrupt stacks #DF uses during start-up: the first, IST1. All of them are the same one.
pub(crate) const DOUBLE_FAULT_IST: u16 = 0;
/// Bytes of the #DF stack.
const DOUBLE_FAULT_STACK: usize = 2048;

/// The descriptors of one processor. Must not move once loaded.
#[repr(C, align(16))]
pub struct Descriptors {
    /// Null, code, data, and the two words of the task-state segment.
    table: GlobalDescriptorTable<5>,
    task: TaskStateSegment,
    stack: [u8; DOUBLE_FAULT_STACK],
}

impl Default for Descriptors {
    /// Descriptors that [`Descriptors::load`] fills in.
    fn default() -> Self {
        Self { table: GlobalDescriptorTable::empty(), task: TaskStateSegment::new(), stack: [0; DOUBLE_FAULT_STACK] }
    }
}

impl Descriptors {
    /// Makes these the processor's descriptors.
    pub fn load(&'static mut self) {
        let Self { table, task, stack } = self;
        let top = stack.as_mut_ptr_range().end.expose_provenance() as u64;
        task.interrupt_stack_table = [VirtAddr::new_truncate(top & !15); 7];
        let code = table.append(Descriptor::kernel_code_segment());
        let data = table.append(Descriptor::kernel_data_segment());
        let task = table.append(Descriptor::tss_segment(task));
        let table: &'static GlobalDescriptorTable<5> = table;
        table.load();
        // SAFETY: the selector is that of a flat 64-bit segment, as the one in force is, in a table that lives for ever.
        unsafe { CS::set_reg(code) };
        // SAFETY: the same for data, whose bases and limits count for nothing in long mode.
        unsafe { DS::set_reg(data) };
        // SAFETY: as above.
        unsafe { ES::set_reg(data) };
        // SAFETY: as above.
        unsafe { SS::set_reg(data) };
        // SAFETY: the selector is that of a task-state segment that lives for ever and that no processor has loaded yet.
        unsafe { load_tss(task) };
    }
}
