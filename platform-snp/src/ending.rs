// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of the VM: what powers the host's machine off or resets it, and the GHCB's request to terminate.

use platform::Termination;
use platform_shared::ending::Terminal;
use platform_shared::log::Lines;

use crate::ghcb;
use crate::local::Local;
use crate::log::{GhcbConsole, LINES};

/// PM1 control of the q35 and what powers it off (ACPI 6.5, 4.8.3.2); reset control of the ICH9 and what resets.
const PM1_CONTROL: u16 = 0x604;
const POWER_OFF: u32 = 1 << 13;
const RESET_CONTROL: u16 = 0xcf9;
const RESET: u32 = 6;

/// The host, as far as it ends a VM.
#[derive(Clone, Copy, Debug)]
pub enum Request {}

/// The right to end the VM, which one processor has.
pub type Ending = platform_shared::ending::Ending<Request>;

impl Terminal for Request {
    type Channel = GhcbConsole;

    fn lines() -> &'static Lines<GhcbConsole> {
        &LINES
    }

    /// Each processor's own structure has an address of its own, all of them below 4 GiB.
    fn processor() -> u32 {
        core::ptr::from_ref(Local::current()).addr() as u32
    }

    fn announce(how: Termination) {
        let _ = match how {
            Termination::PowerOff => ghcb::port_write(PM1_CONTROL, 2, POWER_OFF),
            Termination::Reset => ghcb::port_write(RESET_CONTROL, 1, RESET),
            Termination::TripleFault | Termination::TestExit(_) | Termination::Fatal(..) => Ok(()),
        };
    }

    /// Whatever the host answered to the ports, its last request is to terminate, again and again.
    fn finish(how: Termination) -> ! {
        loop {
            Local::current().ask(how.ghcb_request());
        }
    }
}
