// SPDX-License-Identifier: MIT OR Apache-2.0
//! One broken rule for each task. The program does not get past it on a strict model.

use crate::instructions::{pvalidate, read, rmpadjust, write};
use crate::{FREE, SHARED, ghcb, lower, smp};
use core::arch::asm;
use specs::ghcb::msr;

pub(crate) fn commit(task: u64) {
    let page = FREE + 0x4000;
    pvalidate(page, false, true);
    match task {
        // access.shared-write
        1 => write(SHARED + page, 1),
        // access.guest-owned
        2 => {
            pvalidate(page, false, false);
            ghcb::change_state(page, false);
            let _ = read(page);
        }
        // psc.rescind-first
        3 => {
            ghcb::change_state(page, false);
        }
        // vmrun.svme
        4 => {
            let mut vmsa = lower::vmsa();
            vmsa.efer &= !0x1000;
            run(&vmsa);
        }
        // vmrun.features
        5 => {
            let mut vmsa = lower::vmsa();
            vmsa.sev_features |= 1 << 3;
            run(&vmsa);
        }
        // vmrun.vmsa-page
        6 => {
            ghcb::set_up();
            lower::prepare(&lower::vmsa());
            rmpadjust(lower::vmsa_page(), 1, 0, false);
            lower::run();
        }
        // tlb.flush-before-use
        7 => {
            ghcb::set_up();
            lower::prepare(&lower::vmsa());
            lower::run();
            rmpadjust(lower::vmsa_page() + 0x1000, 2, 0, false);
            lower::run();
        }
        // vc.delivery
        8 => {
            guests::exceptions::forget();
            // SAFETY: CPUID changes nothing that is used afterwards.
            unsafe { asm!("push rbx", "cpuid", "pop rbx", inout("eax") 0 => _, out("ecx") _, out("edx") _) };
        }
        // vmrun.reserved
        9 => {
            let mut vmsa = lower::vmsa();
            vmsa.reserved_298 = [1; 72];
            run(&vmsa);
        }
        // access.guest-owned: code in shared memory
        10 => {
            pvalidate(page, false, false);
            ghcb::change_state(page, false);
            write(SHARED + page, 0xc3);
            // SAFETY: the model must not let it run.
            unsafe { asm!("call {}", in(reg) SHARED + page, clobber_abi("C")) };
        }
        // vmrun.state
        23 => run(&specs::vmsa::Vmsa { cr0: 1 << 31, ..lower::vmsa() }),
        // vmrun.vmpl
        24 => run(&specs::vmsa::Vmsa { vmpl: 1, ..lower::vmsa() }),
        // vmrun.injection: a software interrupt
        25 => run(&specs::vmsa::Vmsa { event_injection: 1 << 31 | 4 << 8 | 0x80, ..lower::vmsa() }),
        // model.gap: an operand that is not mapped
        26 => {
            pvalidate(2 * SHARED, false, true);
        }
        other => smp::commit(other),
    }
    ghcb::ask(msr::TERMINATE);
}

fn run(vmsa: &specs::vmsa::Vmsa) {
    ghcb::set_up();
    lower::prepare(vmsa);
    lower::run();
}
