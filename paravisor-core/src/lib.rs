// SPDX-License-Identifier: MIT OR Apache-2.0
//! The core: boot, memory, per-CPU state, page states and the vCPU run loop, generic over the platform.
#![cfg_attr(not(test), no_std)]
