// SPDX-License-Identifier: MIT OR Apache-2.0
//! A platform as a whole: which types play which role, and how a VM ends.

use crate::{
    Attester, Clock, GuestCpu, GuestMemory, GuestPages, HostAccess, HostEvents, Outbound, PageViews, Termination,
    Timer, Waker,
};

/// One backend. The image names exactly one; the core is generic over it.
///
/// | role | native | SNP | TDX |
/// |---|---|---|---|
/// | `Cpu` | VMCB and VMRUN; xAPIC timer | VMSA at VMPL2; timer through the host | L2 VM of TDG.VP.ENTER |
/// | `Memory` | direct map | C=1 and C=0 mappings | private and shared GPAs |
/// | `Pages` | nested page tables | PVALIDATE, RMPADJUST, page-state changes | ACCEPT, ATTR.WR, MapGPA |
/// | `Clock` | TSC, measured | Secure TSC | the TD's TSC |
/// | `Host` | QEMU's serial ports, xAPIC IPIs | GHCB; #HV IPI | TDVMCALL; posted IPI |
/// | processors | INIT and SIPI | AP creation through the GHCB | the mailbox in the image |
/// | `end` | QEMU's exit device | GHCB termination | ReportFatalError |
pub trait Platform: Sync {
    /// One virtual processor with its timer and its host events; owned by the processor that runs it.
    type Cpu: GuestCpu + Timer + HostEvents;
    /// The guest's memory.
    type Memory: GuestMemory + Sync;
    /// The hardware side of the page-state table.
    type Pages: GuestPages + Send;
    /// Time.
    type Clock: Clock + Sync;
    /// The untrusted host.
    type Host: HostAccess + Waker + Sync;

    /// The guest's memory.
    fn memory(&self) -> &Self::Memory;
    /// Time.
    fn clock(&self) -> &Self::Clock;
    /// The untrusted host.
    fn host(&self) -> &Self::Host;
    /// Which pages the guest shares with the host; `None` if it may share none.
    fn views(&self) -> Option<&PageViews> {
        None
    }
    /// How many processors the VM has, the boot processor included; at least 1.
    fn processors(&self) -> u32;
    /// Who gives evidence of the launch, if the platform has any.
    fn attester(&self) -> Option<&dyn Attester> {
        None
    }
    /// Hands the host's operator a record: one JSON object on one line. Native: a line on the debug console.
    fn record(&self, json: Outbound<'_>);
    /// Hands the host's operator a line for people. Does not wait: false if it cannot be done at once.
    fn say(&self, line: Outbound<'_>) -> bool;
    /// Ends the VM and tells the host why. The only way out.
    fn end(&self, how: Termination) -> !;
}
