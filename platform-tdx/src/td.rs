// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs in a TD and nowhere else.
//!
//! | file | what it touches |
//! |---|---|
//! | `entry` | the reset vector, the way to long mode, where other processors wait |
//! | `identity` | what the module says of the TD and of this processor |
//! | `gaps` | calls that `tdx-guest` does not have, or not as they are needed |
//! | `accept` | memory changing hands |
//! | `smp` | the other processors |
//! | `start` | what comes first |
//! | `interrupts`, `log`, `ending` | exceptions, lines to the host, the end |
//!
//! All other calls are `tdx-guest`'s: TDG.VP.INFO, TDG.MEM.PAGE.ACCEPT, and of TDG.VP.VMCALL ports and HLT. Version 0.3.1 is the
//! newest that Rust 1.95.0 compiles (0.3.2 and later want an `x86_64` whose nightly code fits neither that compiler nor its
//! stable features), and takes a stable compiler that is told to let the crate `x86_64` use unstable features. `cargo xtask` tells
//! it that for the TDX image.
//!
//! Sources and hostile party: as for the crate.

mod accept;
mod ending;
mod entry;
mod gaps;
mod identity;
mod interrupts;
mod log;
mod smp;
mod start;

pub use ending::Ending;
pub use log::{last_words, say};
pub use platform_shared::exceptions::control_registers;
pub use platform_shared::own_tables::is_mapped;
pub use smp::start_others;
pub use start::{StartError, check_attributes, early, take_memory};
