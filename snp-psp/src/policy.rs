// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest policy: what a guest's owner demands of the machine, fixed at launch and shown in every report.
//!
//! 56860, "Guest policy", as in virtee/sev and google/go-sev-guest (`abi/abi.go`, `SnpPolicy`).

use crate::platform::Platform;
use crate::rule::{Refused, Rule, Status};

/// The guest policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy(pub u64);

impl Policy {
    /// Simultaneous multithreading may be on.
    pub const SMT: u64 = 1 << 16;
    /// Must be one.
    pub const MUST_BE_ONE: u64 = 1 << 17;
    /// A migration agent may be associated.
    pub const MIGRATION_AGENT: u64 = 1 << 18;
    /// The host may debug the guest.
    pub const DEBUG: u64 = 1 << 19;
    /// The guest runs on one socket only.
    pub const SINGLE_SOCKET: u64 = 1 << 20;
    /// CXL devices or memory may be present.
    pub const CXL: u64 = 1 << 21;
    /// Memory must be encrypted with AES-256-XTS.
    pub const AES_256_XTS: u64 = 1 << 22;
    /// Power metering must be off.
    pub const RAPL_OFF: u64 = 1 << 23;
    /// Ciphertext must be hidden from the host.
    pub const CIPHERTEXT_HIDING: u64 = 1 << 24;
    /// The host may neither move nor swap pages.
    pub const PAGE_SWAP_OFF: u64 = 1 << 25;
    const RESERVED: u64 = !0 << 26;

    /// Whether all of these bits are set.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// The lowest firmware ABI that the guest accepts, major and minor.
    pub fn abi(self) -> (u8, u8) {
        let [minor, major, ..] = self.0.to_le_bytes();
        (major, minor)
    }

    /// Whether a guest with this policy may be launched here.
    pub(crate) fn check(self, platform: &Platform) -> Result<(), Refused> {
        let rules = &platform.rules;
        rules.check(self.has(Self::MUST_BE_ONE), Rule::PolicyMustBeOne, Status::InvalidParam)?;
        rules.check(self.0 & Self::RESERVED == 0, Rule::PolicyReserved, Status::InvalidParam)?;
        let current = (platform.current.major, platform.current.minor);
        rules.check(self.abi() <= current, Rule::PolicyAbi, Status::PolicyFailure)?;
        let demand = |held: bool, rule| rules.check(held, rule, Status::PolicyFailure);
        demand(self.has(Self::SMT) || !platform.smt, Rule::PolicySmt)?;
        demand(self.has(Self::CXL) || !platform.cxl, Rule::PolicyCxl)?;
        demand(!self.has(Self::SINGLE_SOCKET) || platform.sockets <= 1, Rule::PolicySingleSocket)?;
        demand(!self.has(Self::AES_256_XTS) || platform.aes_256_xts, Rule::PolicyAes256Xts)?;
        demand(!self.has(Self::RAPL_OFF) || platform.rapl_off, Rule::PolicyRapl)?;
        demand(!self.has(Self::CIPHERTEXT_HIDING) || platform.ciphertext_hiding, Rule::PolicyCiphertextHiding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: u64 = Policy::MUST_BE_ONE;

    fn verdict(policy: u64, change: impl FnOnce(&mut Platform)) -> Option<Rule> {
        let mut platform = Platform::default();
        change(&mut platform);
        Policy(policy).check(&platform).err().map(|refused| refused.rule)
    }

    #[test]
    fn the_common_policy_is_accepted() {
        assert_eq!(verdict(0x30000, |_| ()), None);
        assert_eq!(verdict(PLAIN, |_| ()), None);
    }

    #[test]
    fn each_demand_is_held_against_the_machine() {
        assert_eq!(verdict(0x10000, |_| ()), Some(Rule::PolicyMustBeOne));
        assert_eq!(verdict(PLAIN | 1 << 26, |_| ()), Some(Rule::PolicyReserved));
        assert_eq!(verdict(PLAIN | 1 << 63, |_| ()), Some(Rule::PolicyReserved));
        assert_eq!(verdict(PLAIN, |p| p.smt = true), Some(Rule::PolicySmt));
        assert_eq!(verdict(PLAIN | Policy::SMT, |p| p.smt = true), None);
        assert_eq!(verdict(PLAIN, |p| p.cxl = true), Some(Rule::PolicyCxl));
        assert_eq!(verdict(PLAIN | Policy::CXL, |p| p.cxl = true), None);
        assert_eq!(verdict(PLAIN | Policy::SINGLE_SOCKET, |p| p.sockets = 2), Some(Rule::PolicySingleSocket));
        assert_eq!(verdict(PLAIN | Policy::SINGLE_SOCKET, |_| ()), None);
        assert_eq!(verdict(PLAIN | Policy::AES_256_XTS, |_| ()), Some(Rule::PolicyAes256Xts));
        assert_eq!(verdict(PLAIN | Policy::AES_256_XTS, |p| p.aes_256_xts = true), None);
        assert_eq!(verdict(PLAIN | Policy::RAPL_OFF, |_| ()), Some(Rule::PolicyRapl));
        assert_eq!(verdict(PLAIN | Policy::RAPL_OFF, |p| p.rapl_off = true), None);
        assert_eq!(verdict(PLAIN | Policy::CIPHERTEXT_HIDING, |_| ()), Some(Rule::PolicyCiphertextHiding));
        assert_eq!(verdict(PLAIN | Policy::CIPHERTEXT_HIDING, |p| p.ciphertext_hiding = true), None);
    }

    #[test]
    fn the_abi_is_compared_major_first() {
        let at = |major: u64, minor: u64| {
            verdict(PLAIN | major << 8 | minor, |p| (p.current.major, p.current.minor) = (1, 55))
        };
        assert_eq!(at(0, 99), None);
        assert_eq!(at(1, 55), None);
        assert_eq!(at(1, 56), Some(Rule::PolicyAbi));
        assert_eq!(at(2, 0), Some(Rule::PolicyAbi));
    }
}
