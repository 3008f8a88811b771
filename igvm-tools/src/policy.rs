// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guest policies in words: what a guest's owner allows its host, bit by bit.

use serde_json::{Value, json};

/// A bit of a policy and its name in configurations and reports.
pub(crate) type Bit = (&'static str, u32);

/// The bits of a policy that have names, and the numbers in it.
pub(crate) struct Format {
    pub(crate) bits: &'static [Bit],
    /// A bit that must be set.
    fixed: Option<u32>,
    /// Whether bytes 0 and 1 are the least minor and major version of the firmware's interface.
    version: bool,
}

/// SNPABI, guest policy.
pub(crate) const SNP: Format = Format {
    bits: &[
        ("smt", 16),
        ("migration_agent", 18),
        ("debug", 19),
        ("single_socket", 20),
        ("cxl", 21),
        ("require_aes_256_xts", 22),
        ("require_rapl_off", 23),
        ("require_ciphertext_hiding", 24),
        ("no_page_swap", 25),
    ],
    fixed: Some(17),
    version: true,
};

/// IGVM, `TdxPolicy`. A loader translates these into the TD's attributes.
pub(crate) const TDX: Format =
    Format { bits: &[("debug", 0), ("sept_ve_disable", 1), ("migratable", 2)], fixed: None, version: false };

/// TDXABI, ATTRIBUTES of a TD.
pub(crate) const TDX_ATTRIBUTES: Format = Format {
    bits: &[
        ("debug", 0),
        ("sept_ve_disable", 28),
        ("migratable", 29),
        ("pks", 30),
        ("key_locker", 31),
        ("perfmon", 63),
    ],
    fixed: None,
    version: false,
};

impl Format {
    /// The policy without any named bit.
    pub(crate) fn least(&self) -> u64 {
        self.fixed.map_or(0, |bit| 1 << bit)
    }

    /// The names of the bits that are set, and what else differs from zero.
    fn rest(&self, policy: u64) -> u64 {
        let named = self.bits.iter().map(|(_, bit)| *bit).chain(self.fixed);
        let known = named.fold(0, |known, bit| known | 1 << bit);
        policy & !known & if self.version { !0xffff } else { !0 }
    }
}

/// The attributes that a TDX policy asks for, where TDXABI has them.
pub(crate) fn td_attributes(policy: u64) -> u64 {
    let place = |name: &&str| TDX_ATTRIBUTES.bits.iter().find(|(own, _)| own == name).map_or(0, |(_, bit)| *bit);
    TDX.bits.iter().filter(|(_, bit)| policy >> bit & 1 == 1).fold(0, |all, (name, _)| all | 1 << place(name))
}

/// A policy in words, every named bit with its value: what is forbidden matters as much as what is allowed.
pub(crate) fn words(format: &Format, policy: u64) -> Vec<String> {
    let named = format.bits.iter().map(|(name, bit)| format!("{name} = {}", policy >> bit & 1 == 1));
    let mut words: Vec<_> = named.collect();
    if format.version {
        words.push(format!("abi = {}.{}", policy >> 8 & 0xff, policy & 0xff));
    }
    if let Some(bit) = format.fixed.filter(|bit| policy >> bit & 1 == 0) {
        words.push(format!("bit {bit} is clear and must be set"));
    }
    match format.rest(policy) {
        0 => {}
        rest => words.push(format!("unknown bits {rest:#x}")),
    }
    words
}

/// The same as JSON.
pub(crate) fn to_json(format: &Format, policy: u64) -> Value {
    let mut object: serde_json::Map<_, _> =
        format.bits.iter().map(|(name, bit)| ((*name).to_owned(), json!(policy >> bit & 1 == 1))).collect();
    object.insert("value".to_owned(), json!(policy));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use igvm_defs::{SnpPolicy, TdxPolicy};

    #[test]
    fn bits_stand_where_the_igvm_crate_has_them() {
        let snp = SnpPolicy::new().with_abi_major(1).with_abi_minor(51).with_smt(1).with_migrate_ma(1);
        let snp = snp.with_debug(1).with_single_socket(1);
        let words = words(&SNP, snp.into());
        for name in ["smt", "migration_agent", "debug", "single_socket"] {
            assert!(words.contains(&format!("{name} = true")), "{words:?}");
        }
        assert!(words.contains(&"abi = 1.51".to_owned()) && words.contains(&"cxl = false".to_owned()));
        assert_eq!(SNP.rest(snp.into()), 0);
        let tdx = TdxPolicy::new().with_debug_allowed(1).with_migratable(1);
        assert_eq!(super::words(&TDX, tdx.into()), ["debug = true", "sept_ve_disable = false", "migratable = true"]);
    }

    #[test]
    fn attributes_stand_where_a_td_has_them() {
        assert_eq!([0, 1, 2, 4, 7].map(td_attributes), [0, 1, 1 << 28, 1 << 29, 1 << 0 | 1 << 28 | 1 << 29]);
        assert_eq!(td_attributes(!7), 0, "no other bit of a policy is an attribute");
    }

    #[test]
    fn what_has_no_name_is_shown_all_the_same() {
        assert!(words(&SNP, 1 << 40).contains(&"unknown bits 0x10000000000".to_owned()));
        assert!(words(&SNP, 0).contains(&"bit 17 is clear and must be set".to_owned()));
        assert!(!words(&SNP, 0x30000).iter().any(|word| word.contains("must be set")));
    }
}
