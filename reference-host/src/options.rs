// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's command line (QEMU's `-append`): words separated by spaces, of which one is known.

use crate::report::Stop;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `memory=BYTES`: how much RAM the VM has.
    pub memory: u64,
}

/// The least guest that makes sense: below it, the legacy area would be all there is.
const LEAST_MEMORY: u64 = 2 << 20;

impl Options {
    /// Reads a command line, without its terminating zero.
    pub fn parse(line: &[u8]) -> Result<Self, Stop> {
        let mut memory = None;
        for word in line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()) {
            let Some(value) = word.strip_prefix(b"memory=") else {
                return Err(Stop::Machine("unknown word in -append; only memory=BYTES is known"));
            };
            memory = Some(number(value).ok_or(Stop::Machine("memory= in -append must be a decimal number of bytes"))?);
        }
        let memory = memory.ok_or(Stop::Machine("memory=BYTES is missing in -append"))?;
        if memory < LEAST_MEMORY || !memory.is_multiple_of(2 << 20) {
            return Err(Stop::Machine("memory= in -append must be a multiple of 2 MiB, and not 0"));
        }
        Ok(Self { memory })
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
    fn nonsense_is_refused() {
        for line in [
            &b""[..],
            b"memory=",
            b"memory=1G",
            b"memory=4097",
            b"memory=0",
            b"speed=1",
            b"memory=99999999999999999999",
        ] {
            assert!(Options::parse(line).is_err(), "{line:?}");
        }
    }
}
