// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables and stacks on devices, where the processor itself needs memory: the victim stands still for good, and only INIT
//! gets it out. The paravisor must go on answering meanwhile.

use core::arch::asm;
use guests::coverage::Deed;

use crate::area::{Area, put};
use crate::handler::probe;
use crate::note::note_deed;
use crate::probes::gates::Register;
use crate::random::Random;

const DEVICES: &[u64] = &[128 << 20, 0xd000_0000, 0xff00_0000, 0xfee0_0000, 0xfec0_0000, 0xa_0000];

/// Does not return if the victim stands still.
pub(crate) fn run(area: &Area, random: &mut Random) {
    let device = random.pick(DEVICES);
    let register = Register(0xfff, device);
    for at in DEVICES {
        let _ = probe!(area, "jmp {at}", at = in(reg) *at);
    }
    note_deed(Deed::CodeOnDevice);
    match random.below(5) {
        0 => {
            note_deed(Deed::GatesOnDevice);
            let _ = probe!(area, "lidt [{r}]\n ud2", r = in(reg) &raw const register);
        }
        1 => {
            note_deed(Deed::StackOnDevice);
            // Without an interrupt stack the frame goes to RSP.
            let gate = 2 * 0x66;
            let word = area.idt64.get(gate).map_or(0, |word| word.load(core::sync::atomic::Ordering::SeqCst));
            put(&area.idt64, gate as u64, word & !(7 << 32));
            let _ = probe!(area, "mov {k}, rsp\n mov rsp, {at}\n int 0x66\n mov rsp, {k}", k = out(reg) _, at = in(reg) device + 0x800);
        }
        2 => {
            // SAFETY: nothing of the program is needed any more.
            unsafe { asm!("mov cr3, {}", in(reg) device, options(nostack)) };
        }
        3 => {
            let _ = probe!(area, "lgdt [{r}]\n mov es, {s:e}", r = in(reg) &raw const register, s = in(reg) 0x10u64);
        }
        _ => {
            // The interrupt stack itself.
            put(&area.tss64, 4, device << 32);
            let _ = probe!(area, "ud2");
        }
    }
}
