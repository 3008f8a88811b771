// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of the VM by QEMU's exit device.

use platform::Termination;
use platform_shared::ending::Terminal;
use platform_shared::log::Lines;

use crate::log::{DebugConsole, LINES};
use crate::{apic, port};

/// QEMU's `isa-debug-exit`.
const EXIT_PORT: u16 = 0xf4;

/// QEMU, as far as it ends a VM.
#[derive(Clone, Copy, Debug)]
pub enum QemuExit {}

/// The right to end the VM, which one processor has.
pub type Ending = platform_shared::ending::Ending<QemuExit>;

impl Terminal for QemuExit {
    type Channel = DebugConsole;

    fn lines() -> &'static Lines<DebugConsole> {
        &LINES
    }

    fn processor() -> u32 {
        apic::id()
    }

    fn finish(_: Termination) -> ! {
        port::write::<u32>(EXIT_PORT, 0);
        Self::stop()
    }

    fn stop() -> ! {
        loop {
            x86_64::instructions::hlt();
        }
    }
}
