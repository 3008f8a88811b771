// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of the VM by the GHCI's report of a fatal error.

use platform::Termination;
use platform_shared::ending::Terminal;
use platform_shared::log::Lines;

use super::log::{HostConsole, LINES};
use super::{gaps, identity};

/// The host, as far as it ends a TD.
#[derive(Clone, Copy, Debug)]
pub enum Report {}

/// The right to end the VM, which one processor has.
pub type Ending = platform_shared::ending::Ending<Report>;

impl Terminal for Report {
    type Channel = HostConsole;

    fn lines() -> &'static Lines<HostConsole> {
        &LINES
    }

    fn processor() -> u32 {
        identity::index()
    }

    /// Whatever the host answers, it is asked again and again.
    fn finish(how: Termination) -> ! {
        loop {
            gaps::report_fatal_error(how);
        }
    }
}
