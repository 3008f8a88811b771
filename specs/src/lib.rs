// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layouts and constants of other people's documents, each with its source.
#![cfg_attr(not(test), no_std)]
