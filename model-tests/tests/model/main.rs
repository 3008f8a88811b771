// SPDX-License-Identifier: MIT OR Apache-2.0
//! The letter box and the name plate of the local APICs, as `devices::apic` argues for them.

#![cfg(loom)]

mod controls;
mod identity;
mod signals;
mod vectors;
