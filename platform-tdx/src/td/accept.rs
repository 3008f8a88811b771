// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking memory that the host has given: it is private, and zero, once the module has accepted it.
//!
//! A page that the module calls accepted already is refused: this is the only place that accepts, so it would be memory that the
//! host has put there, with whatever it holds.

use platform::{PageRange, PageSize};
use tdx_guest::tdcall::accept_page;

/// Sizes that an acceptance can ask for (TDXABI, TDG.MEM.PAGE.ACCEPT, RCX bits 2:0).
const SMALL: u64 = 0;
const LARGE: u64 = 1;

/// The host has given no memory there, or has put it there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refused;

/// Accepts memory for Parados itself, 2 MiB at a time where that fits.
///
/// # Safety
/// Nothing uses the range.
pub(crate) unsafe fn accept_own(range: PageRange) -> Result<(), Refused> {
    let (mut at, end) = (range.start().0, range.end().0);
    while at < end {
        let large = at.is_multiple_of(PageSize::Large.bytes()) && end - at >= PageSize::Large.bytes();
        // SAFETY: the page lies in the caller's range.
        if large && unsafe { accept_page(LARGE, at) }.is_ok() {
            at += PageSize::Large.bytes();
            continue;
        }
        // SAFETY: the same.
        unsafe { accept_page(SMALL, at) }.map_err(|_| Refused)?;
        at += PageSize::Small.bytes();
    }
    Ok(())
}
