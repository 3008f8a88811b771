// SPDX-License-Identifier: MIT OR Apache-2.0
//! The atomics of [`crate::PageViews`], which Loom's replace where a model checker runs it (`model-tests/`).

#[cfg(not(loom))]
pub use core::sync::atomic::AtomicU64 as ViewWord;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::AtomicU64 as ViewWord;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, Ordering};
