// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hardware abstraction: what a platform must offer so that the core can run an unmodified guest on it.
//!
//! The traits abstract *the guest* (its processor, its memory, its page states), not only Parados's own surroundings, so
//! that one run loop and one set of exit handlers serve SVM in an emulator, SEV-SNP VMPLs and TDX partitioning. Each
//! trait has one role; an optional ability is a trait of its own, so that no backend writes an empty method.
//!
//! Everything here is plain data or an interface. Nothing touches hardware, and nothing needs `unsafe`.
//!
//! Hostile parties: values that come out of [`GuestCpu`] and [`GuestMemory`] were chosen by the guest; replies of
//! [`HostAccess`] were chosen by the host. Both are allegations until the code that asked has checked them.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod address;
mod attester;
mod cpu;
mod death;
mod event;
mod exit;
mod host;
mod machine;
mod memory;
mod planted;
mod ram;
mod register;
mod release;
mod sync;
mod termination;
mod time;
mod views;

pub use address::{Gpa, Gva, PAGE_SIZE};
pub use attester::{AttestError, Attester, REPORT_ROOM};
pub use cpu::{GuestCpu, InjectionState, Offer, VcpuState};
pub use death::{EndClaim, OWN_REGISTERS, OWN_RSP, OwnException, OwnRegisters};
pub use event::{Event, Exception};
pub use exit::{
    Access, ControlAccess, DebugAccess, Direction, Exit, ExitReason, IoAccess, IoWidth, MemoryFault, MsrAccess,
    SensitiveInstruction,
};
pub use host::{Console, HostAccess, HostEvent, HostEvents, Waker};
pub use machine::Platform;
pub use memory::{GuestMemory, GuestPages, MemoryError, PageRange, PageSize, PageState, Visibility};
pub use planted::Slip;
pub use ram::{RAM_RANGES, RamMap, RamMapError};
pub use register::{
    Control, DescriptorTable, Gpr, Segment, SegmentAttributes, SegmentRegister, SwitchedMsr, SystemRegisters,
    TableRegister,
};
pub use release::{DebugImage, Outbound, Releasable};
pub use sync::ViewWord;
pub use termination::{Detail, EndRecord, Reason, Termination};
pub use time::{Clock, Instant, Timer};
pub use views::{Hold, PageViews, SHARED_BIT};
