// SPDX-License-Identifier: MIT OR Apache-2.0
//! Accesses that a victim makes in its own code, at level 0 in 64-bit mode, whose exceptions it expects.

pub(crate) mod borders;
pub(crate) mod floods;
pub(crate) mod gates;
pub(crate) mod memory;
pub(crate) mod msrs;
pub(crate) mod paging;
pub(crate) mod ports;
pub(crate) mod registers;
pub(crate) mod stuck;
