// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Parados does about a guest exit: [`handle`] turns an [`platform::Exit`] into an [`Outcome`].
//!
//! Handlers decode, check, act on the [`Env`] and return plain data; only the run loop applies an outcome to the guest's
//! control flow. They know no platform, touch no hardware and own no global.
//!
//! Hostile party: the guest chooses every exit, register and byte that is looked at here. What it does wrong gets what
//! real hardware would give it; nothing here panics, and nothing loops without bound.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod env;
mod outcome;

pub use env::{DeviceReply, DeviceRequest, Env, Oddity, Operation, Target, Token};
pub use outcome::Outcome;
