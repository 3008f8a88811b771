// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the TDX module says of the TD and of this processor (TDXABI, TDG.VP.INFO).
//!
//! `tdx-guest` panics if the module tells a width of addresses that is neither 48 nor 52 bits. There is one such width for a TD, so
//! whoever has been answered once is always answered; until then only the boot processor runs. A panic asks for its
//! processor's number: that question must not be the one that panicked.
//!
//! Hostile party: none; the module is trusted, and the host sees nothing of this call.

use core::sync::atomic::{AtomicBool, Ordering};

use tdx_guest::TdAttributes;
use tdx_guest::tdcall::{TdgVpInfo, get_tdinfo};

use crate::launched::DECIDED;

// The crate drops attributes that it does not know.
const _: () = assert!(TdAttributes::all().bits() & DECIDED == DECIDED);

/// The module has answered once.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// The module did not answer, which it does not fail to do in a TD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoModule;

/// Asks the module.
pub(crate) fn information() -> Result<TdgVpInfo, NoModule> {
    let information = get_tdinfo().map_err(|_| NoModule)?;
    ANSWERED.store(true, Ordering::Release);
    Ok(information)
}

/// This processor's index, on the way to the end too.
pub(crate) fn index() -> u32 {
    let answered = ANSWERED.load(Ordering::Acquire);
    let information = if answered { get_tdinfo().ok() } else { None };
    information.map_or(0, |information| information.vcpu_index)
}
