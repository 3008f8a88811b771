// SPDX-License-Identifier: MIT OR Apache-2.0
//! The atomics and locks of everything that several vCPUs share, in one place, so that a model checker can replace them.
//!
//! With `--cfg loom`, Loom's take their places: `model-tests` then runs the very source that the image links through every
//! interleaving, and through every value that the memory model lets a load return. The image is never built that way.

#[cfg(loom)]
mod checked;

#[cfg(loom)]
pub use checked::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, passes_without};
#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub use spin::mutex::SpinMutex as Mutex;
