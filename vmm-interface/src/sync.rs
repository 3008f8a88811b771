// SPDX-License-Identifier: MIT OR Apache-2.0
//! The atomics and locks of everything that several vCPUs share, in one place, so that a model checker can replace them.

pub use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
pub use spin::mutex::SpinMutex as Mutex;
