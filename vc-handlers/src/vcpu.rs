// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the handlers remember of one vCPU between exits.

use crate::cpuid::CpuidTable;
use crate::msr::MsrState;

/// Whose processor the guest sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// AuthenticAMD.
    Amd,
    /// GenuineIntel.
    Intel,
}

/// The emulated state of one vCPU, apart from what [`platform::GuestCpu`] and the devices hold. INIT changes none of it
/// (SDM vol. 3A, table 10-1: MSRs keep their values).
#[derive(Clone, Debug)]
pub struct VcpuContext<'t> {
    pub(crate) cpuid: &'t CpuidTable,
    pub(crate) apic_id: u32,
    /// The enable bit of IA32_APIC_BASE, which CPUID shows: a copy, so that CPUID asks no device.
    pub(crate) apic_enabled: bool,
    pub(crate) msrs: MsrState,
    /// VMMCALL has what kvm-unit-tests wants.
    pub(crate) hypercalls: bool,
    /// VMMCALL shares pages with the host and takes them back.
    pub(crate) page_conversion: bool,
}

impl<'t> VcpuContext<'t> {
    /// The vCPU with this index, which is its APIC id, as firmware would leave it.
    pub fn new(cpuid: &'t CpuidTable, index: u32) -> Self {
        Self {
            cpuid,
            apic_id: index,
            apic_enabled: true,
            msrs: MsrState::new(),
            hypercalls: false,
            page_conversion: false,
        }
    }

    /// Gives the guest the hypercalls that kvm-unit-tests makes, if `offered`.
    pub fn with_hypercalls(self, offered: bool) -> Self {
        Self { hypercalls: offered, ..self }
    }

    /// Gives the guest the hypercalls that convert pages, if `offered`. CPUID says so apart ([`crate::cpuid::PolicyConfig`]).
    pub fn with_page_conversion(self, offered: bool) -> Self {
        Self { page_conversion: offered, ..self }
    }

    /// Whose processor the guest sees.
    pub fn vendor(&self) -> Vendor {
        self.cpuid.vendor()
    }

    /// The vCPU's APIC id.
    pub fn apic_id(&self) -> u32 {
        self.apic_id
    }
}
