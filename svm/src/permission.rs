// SPDX-License-Identifier: MIT OR Apache-2.0
//! The I/O and MSR permission maps: what exits when the guest touches it (APM vol. 2, 15.10 and 15.11).

use specs::vmcb::{IOPM_BYTES, MSRPM_BYTES};

/// One bit a port, set to intercept.
#[repr(C, align(4096))]
pub struct IoPermissions([u8; IOPM_BYTES]);

impl IoPermissions {
    /// Every port exits.
    pub const INTERCEPT_ALL: Self = Self([0xff; IOPM_BYTES]);
}

/// Two bits an MSR (read, write), set to intercept. MSRs outside its three ranges always exit.
#[repr(C, align(4096))]
pub struct MsrPermissions([u8; MSRPM_BYTES]);

impl MsrPermissions {
    /// Every MSR exits.
    pub const INTERCEPT_ALL: Self = Self([0xff; MSRPM_BYTES]);

    /// The same map with reads of `msr` left to the hardware. MSRs outside the map stay intercepted.
    pub const fn with_direct_reads(self, msr: u32) -> Self {
        self.without(msr, 1)
    }

    /// The same map with reads and writes of `msr` left to the hardware.
    pub const fn with_direct_access(self, msr: u32) -> Self {
        self.without(msr, 3)
    }

    const fn without(mut self, msr: u32, access: u8) -> Self {
        let (base, first) = match msr {
            0..=0x1fff => (0, 0),
            0xc000_0000..=0xc000_1fff => (0x800, 0xc000_0000),
            0xc001_0000..=0xc001_1fff => (0x1000, 0xc001_0000),
            _ => return self,
        };
        let bit = (msr - first) as usize * 2;
        // The offset is below 0x800 and the base at most 0x1000.
        #[allow(clippy::indexing_slicing, reason = "bounded by the match above")]
        {
            self.0[base + bit / 8] &= !(access << (bit % 8));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_access_clears_both_bits() {
        let map = MsrPermissions::INTERCEPT_ALL.with_direct_access(0xc000_0101);
        let cleared: Vec<_> = (0..MSRPM_BYTES).filter(|&i| map.0[i] != 0xff).map(|i| (i, map.0[i])).collect();
        assert_eq!(cleared, [(0x800 + 0x101 * 2 / 8, !(3 << (0x101 * 2 % 8)))]);
    }

    #[test]
    fn a_direct_read_clears_its_bit_alone() {
        let all = MsrPermissions::INTERCEPT_ALL;
        let map = all.with_direct_reads(0xc000_0102).with_direct_reads(0x174).with_direct_reads(0x4000_0000);
        let cleared: Vec<_> = (0..MSRPM_BYTES).filter(|&i| map.0[i] != 0xff).map(|i| (i, map.0[i])).collect();
        assert_eq!(cleared, [(0x174 * 2 / 8, !(1 << (0x174 * 2 % 8))), (0x800 + 0x102 * 2 / 8, 0xef)]);
    }
}
