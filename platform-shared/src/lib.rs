// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the backends have in common, because it is about the processor that Parados itself runs on and not about what it does
//! for a guest there: descriptors, exceptions, page tables, time; and what AMD's exits tell.
//!
//! An image has one backend, so what is global here exists once. Hostile party: as in the backend that calls.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod clock;
pub mod console;
pub mod delivery;
pub mod descriptor;
pub mod direct_map;
pub mod ending;
pub mod exceptions;
pub mod exit;
pub mod heap;
pub mod log;
pub mod own_tables;
pub mod power_button;
pub mod stack;
