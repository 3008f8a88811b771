// SPDX-License-Identifier: MIT OR Apache-2.0
//! The letter box and the name plate of the local APICs, as `devices::apic` argues for them; the sides of pages, as
//! `platform::PageViews` does.

#![cfg(loom)]

mod controls;
mod identity;
mod signals;
mod vectors;
mod views;
