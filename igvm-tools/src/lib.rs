// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds, inspects and measures IGVM images.
#![cfg_attr(not(test), no_std)]
