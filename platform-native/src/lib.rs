// SPDX-License-Identifier: MIT OR Apache-2.0
//! The native platform: Parados as an AMD-SVM host in stock QEMU.
#![cfg_attr(not(test), no_std)]
