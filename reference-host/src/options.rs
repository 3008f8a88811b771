// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's command line (QEMU's `-append`): words separated by spaces.

use crate::loader::Platform;
use crate::report::Stop;
use snp_host::hostile::{Script, scripts};

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `memory=BYTES`: how much RAM the VM has.
    pub memory: u64,
    /// `processors=NUMBER`: how many of the machine's processors the VM has. Its first one stays out if it has one more, see
    /// [`crate::processors`]. All of them unless said.
    pub processors: Option<u32>,
    /// `platform=NAME`: what to be for an image that is for several platforms; otherwise its first that this host can be. TDX is
    /// `tdx-start`, because the start is all that there is of it.
    pub platform: Option<Platform>,
    /// `td-attributes=NUMBER`: what a TD is launched with, instead of what the image's policy asks for.
    pub td_attributes: Option<u64>,
    /// How strictly a model of hardware takes its rules.
    pub rules: Rules,
    /// `hostile=NAME`: the attack that an SNP image's host plays.
    pub hostile: Option<&'static Script>,
}

/// How strictly a model of hardware takes its rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `rules=permissive`: a broken rule is reported and hardware's way taken, where it goes on.
    pub permissive: bool,
    /// `assume=contrary`: what no public source states is the other way round.
    pub contrary: bool,
    /// `ports=vmpl0`: the most privileged software may use the debug console (E9h and EAh) and the port that ends QEMU (F4h).
    /// An image whose guest policy allows debugging may do so anyway.
    pub debug_ports: bool,
}

const UNKNOWN: Stop = Stop::Machine(
    "unknown word in -append; known are memory=BYTES, processors=NUMBER, platform=native, snp or tdx-start, rules=strict or permissive, \
     assume=likely or contrary, ports=vmpl0, hostile=NAME, td-attributes=NUMBER",
);
const NO_SCRIPT: Stop = Stop::Machine("hostile= in -append names no script of docs/hostile-hosts.md");
/// The least guest that makes sense: below it, the legacy area would be all there is.
const LEAST_MEMORY: u64 = 2 << 20;

impl Options {
    /// Reads a command line, without its terminating zero.
    pub fn parse(line: &[u8]) -> Result<Self, Stop> {
        let (mut memory, mut platform, mut rules, mut hostile) = (None, None, Rules::default(), None);
        let (mut td_attributes, mut processors) = (None, None);
        for word in line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            match word {
                b"platform=native" => platform = Some(Platform::Native),
                b"platform=snp" => platform = Some(Platform::Snp),
                b"platform=tdx-start" => platform = Some(Platform::Tdx),
                _ if word.starts_with(b"td-attributes=") => {
                    let value = word.strip_prefix(b"td-attributes=").and_then(number);
                    td_attributes =
                        Some(value.ok_or(Stop::Machine("td-attributes= in -append must be a decimal number"))?);
                }
                _ if word.starts_with(b"processors=") => {
                    let value =
                        word.strip_prefix(b"processors=").and_then(number).and_then(|it| u32::try_from(it).ok());
                    let bad = Stop::Machine("processors= in -append must be a decimal number, and not 0");
                    processors = Some(value.filter(|count| *count != 0).ok_or(bad)?);
                }
                b"rules=strict" => rules.permissive = false,
                b"rules=permissive" => rules.permissive = true,
                b"assume=likely" => rules.contrary = false,
                b"assume=contrary" => rules.contrary = true,
                b"ports=vmpl0" => rules.debug_ports = true,
                _ if word.starts_with(b"hostile=") => {
                    let name = word.strip_prefix(b"hostile=").and_then(|name| str::from_utf8(name).ok());
                    hostile = Some(name.and_then(scripts::find).ok_or(NO_SCRIPT)?);
                }
                _ => {
                    let value = word.strip_prefix(b"memory=").ok_or(UNKNOWN)?;
                    let bad = Stop::Machine("memory= in -append must be a decimal number of bytes");
                    memory = Some(number(value).ok_or(bad)?);
                }
            }
        }
        let memory = memory.ok_or(Stop::Machine("memory=BYTES is missing in -append"))?;
        if memory < LEAST_MEMORY || !memory.is_multiple_of(2 << 20) {
            return Err(Stop::Machine("memory= in -append must be a multiple of 2 MiB, and not 0"));
        }
        Ok(Self { memory, processors, platform, rules, hostile, td_attributes })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(Options::parse(b"memory=1073741824").unwrap().memory, 1 << 30);
        assert_eq!(Options::parse(b"  memory=268435456 ").unwrap().memory, 256 << 20);
    }

    #[test]
    fn the_vm_has_the_machines_processors_unless_said_otherwise() {
        let processors = |line| Options::parse(line).unwrap().processors;
        assert_eq!(processors(b"memory=1073741824"), None);
        assert_eq!(processors(b"memory=1073741824 processors=4"), Some(4));
    }

    #[test]
    fn the_platform_is_the_image_s_choice_unless_named() {
        let platform = |line| Options::parse(line).unwrap().platform;
        assert_eq!(platform(b"memory=1073741824"), None);
        assert_eq!(platform(b"memory=1073741824 platform=snp"), Some(Platform::Snp));
        assert_eq!(platform(b"platform=native memory=1073741824"), Some(Platform::Native));
        assert_eq!(platform(b"platform=tdx-start memory=1073741824"), Some(Platform::Tdx));
        let attributes = |line| Options::parse(line).unwrap().td_attributes;
        assert_eq!(
            (attributes(b"memory=1073741824"), attributes(b"memory=1073741824 td-attributes=1")),
            (None, Some(1))
        );
    }

    #[test]
    fn rules_are_strict_unless_said_otherwise() {
        let rules = |line| Options::parse(line).unwrap().rules;
        assert_eq!(rules(b"memory=1073741824"), Rules::default());
        assert!(rules(b"rules=permissive memory=1073741824").permissive);
        assert!(rules(b"memory=1073741824 assume=contrary").contrary);
        assert!(rules(b"memory=1073741824 ports=vmpl0").debug_ports);
    }

    #[test]
    fn a_script_is_found_by_its_name() {
        assert_eq!(Options::parse(b"memory=1073741824").unwrap().hostile, None);
        let hostile = Options::parse(b"memory=1073741824 hostile=no-features").unwrap().hostile;
        assert_eq!(hostile.map(|script| script.name), Some("no-features"));
        assert_eq!(Options::parse(b"memory=1073741824 hostile=kindness"), Err(NO_SCRIPT));
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            &b""[..],
            b"memory=",
            b"memory=1G",
            b"memory=4097",
            b"memory=0",
            b"speed=1",
            b"memory=1073741824 processors=0",
            b"memory=1073741824 processors=4294967296",
            b"memory=1073741824 processors=two",
            b"memory=1073741824 rules=lax",
            b"memory=1073741824 ports=vmpl2",
            b"memory=1073741824 platform=tdx",
            b"memory=1073741824 platform=tdx-start td-attributes=debug",
            b"memory=99999999999999999999",
        ] {
            assert!(Options::parse(line).is_err(), "{line:?}");
        }
    }
}
