// SPDX-License-Identifier: MIT OR Apache-2.0
//! AMD SVM as QEMU emulates it: VMCB, entry code, nested paging and the emulator's quirks.
#![cfg_attr(not(test), no_std)]
