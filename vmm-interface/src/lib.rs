// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interface between device models and the core that calls them.
//!
//! A device sees offsets within its own ranges, values of at most eight bytes, the time, and a [`Machine`] on which it
//! drives its interrupt lines. It never sees guest memory, other devices or the processor. Requests and replies are plain
//! values, so that a device can later live in a process of its own.
//!
//! Hostile party: the guest chooses every offset, width and value, in any order.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod device;
mod dispatch;
mod message;
pub mod sync;
pub mod time;

pub use device::{Device, Lifecycle, Line, Machine, Register};
pub use dispatch::{Address, DispatchError, RangeMap};
pub use message::{DeliveryMode, Destination, InterruptMessage, TriggerMode};
pub use platform::{Console, Instant};
