// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's PC: interrupt controllers, timers, clock, serial ports, power management, PCI identity, ACPI tables.
#![cfg_attr(not(test), no_std)]
