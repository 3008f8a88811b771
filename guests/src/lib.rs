// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the test guests share: the way from the PVH entry to Rust, text on COM1, exceptions that can be survived, and the
//! end of the run.
//!
//! Every guest also runs on bare QEMU, where what it prints is what the machine is: a difference under Parados is a finding.
//! The guests are the attackers here, so nothing checks what they do; unsafe code needs only to be right about its own
//! memory. Built for a hosted target, the guests are stubs, so that the workspace builds and lints as a whole.

#![cfg_attr(target_os = "none", no_std)]

pub mod apic;
pub mod coverage;
pub mod elf;
#[cfg(target_os = "none")]
mod entry;
pub mod exceptions;
pub mod instructions;
pub mod interrupts;
pub mod machine;
pub mod report;
pub mod serial;
pub mod smp;
pub mod time;
pub mod wires;

/// Makes `$run`, which takes the address of the PVH start information and returns the value to exit with, the whole guest.
#[macro_export]
macro_rules! guest {
    ($run:path) => {
        /// Called by the entry code.
        #[cfg(target_os = "none")]
        #[unsafe(no_mangle)]
        extern "C" fn guest_main(start_info: u64) -> ! {
            $crate::exceptions::install();
            $crate::machine::exit($run(start_info))
        }

        #[cfg(target_os = "none")]
        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::say!("panic: {info}");
            $crate::machine::exit(0x3f)
        }

        /// There is nothing to run on a hosted target.
        #[cfg(not(target_os = "none"))]
        fn main() {
            let _: fn(u64) -> u32 = $run;
            eprintln!("this is a guest: build it with --target x86_64-unknown-none");
            std::process::exit(69);
        }
    };
}
