// SPDX-License-Identifier: MIT OR Apache-2.0
//! Option values that several verbs share.

use std::path::PathBuf;
use std::time::Duration;

use igvm_tools::Platform;
use image_abi::attestation::NONCE_BYTES;
use lexopt::{Parser, ValueExt};
use platform::Slip;

use crate::failure::{Failure, Result};

/// The processor model for the model of SNP: SVM, and address bits for a C-bit.
pub(crate) const SNP_CPU: &str = "EPYC,phys-bits=52";

/// A user's processor model, with these address bits if nothing is said of them: QEMU's own have too few.
pub(crate) fn snp_cpu(model: &str) -> String {
    let said = model.split(',').any(|property| property.starts_with("phys-bits=")) || model.is_empty();
    if said { model.to_owned() } else { format!("{model},phys-bits=52") }
}

/// Words for the reference host: VMPL0 of our images may use the debug ports.
pub(crate) const SNP_HOST_OPTIONS: &str = " ports=vmpl0";

/// The smallest unit in which a VM can be given memory.
const MEMORY_UNIT: u64 = 2 << 20;

/// A size such as `512M`, `3G` or a number of bytes.
pub(crate) fn size(text: &str) -> Result<u64> {
    let bad = || Failure::usage(format!("'{text}' is not a size such as 512M or 3G"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KIB" if Slip::Unit.is_planted() => 1000,
        "K" | "KIB" => 1 << 10,
        "M" | "MIB" => 1 << 20,
        "G" | "GIB" => 1 << 30,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(unit).ok_or_else(bad)
}

/// `--memory`: what the VM has, within limits.
pub(crate) fn memory(text: &str, least: u64, most: u64) -> Result<u64> {
    let bytes = size(text)?;
    if bytes < least || bytes > most {
        return Err(Failure::usage(format!("--memory {text}: from {}M to {}G", least >> 20, most >> 30)));
    }
    if !bytes.is_multiple_of(MEMORY_UNIT) {
        return Err(Failure::usage(format!("--memory {text}: a multiple of 2M")));
    }
    Ok(bytes)
}

/// `--smp`: how many processors.
pub(crate) fn processors(text: &str) -> Result<u32> {
    match text.parse() {
        Ok(number @ 1..=255) => Ok(number),
        _ => Err(Failure::usage(format!("--smp {text}: from 1 to 255 processors"))),
    }
}

/// `--attest`: a nonce as QEMU and Parados get it, in hexadecimal digits.
pub(crate) fn nonce(text: &str) -> Result<String> {
    let good = hex::decode(text).is_ok_and(|bytes| NONCE_BYTES.contains(&bytes.len()));
    if good {
        return Ok(text.to_owned());
    }
    let (least, most) = (NONCE_BYTES.start(), NONCE_BYTES.end());
    Err(Failure::usage(format!("--attest {text}: expected {least} to {most} bytes in hexadecimal digits")))
}

/// `--timeout`: seconds, also fractions.
pub(crate) fn seconds(text: &str) -> Result<Duration> {
    let bad = || Failure::usage(format!("--timeout {text}: a positive number of seconds"));
    let seconds: f64 = text.parse().map_err(|_| bad())?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| bad())?;
    if duration.is_zero() { Err(bad()) } else { Ok(duration) }
}

/// `--platform`: one that boots a guest.
pub(crate) fn platform(name: &str) -> Result<Platform> {
    match name {
        "native" => Ok(Platform::Native),
        "snp" => Ok(Platform::Snp),
        "tdx" => {
            Err(Failure::usage(format!("--platform {name}: its image starts no guest yet, only native and snp do")))
        }
        _ => Err(Failure::usage(format!("--platform {name}: unknown platform, there are native and snp"))),
    }
}

/// `--platform` of a verb that does nothing for SEV-SNP yet.
pub(crate) fn native(name: &str) -> Result<()> {
    match platform(name)? {
        Platform::Native => Ok(()),
        Platform::Snp | Platform::Tdx => Err(Failure::usage(format!("--platform {name}: only native here yet"))),
    }
}

/// The option's value as a number.
pub(crate) fn number(parser: &mut Parser, name: &str) -> Result<u64> {
    let text = text(parser)?;
    text.parse().map_err(|_| Failure::usage(format!("--{name} {text}: a number")))
}

/// The option's value as text.
pub(crate) fn text(parser: &mut Parser) -> Result<String> {
    Ok(parser.value()?.string()?)
}

/// The option's value as a path.
pub(crate) fn path(parser: &mut Parser) -> Result<PathBuf> {
    let path = PathBuf::from(parser.value()?);
    if path.as_os_str().is_empty() { Err(Failure::usage("an empty file name")) } else { Ok(path) }
}

/// An option that takes one value may be given once; twice is more likely a slip than a wish.
pub(crate) fn set<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Failure::usage(format!("--{name} is given twice"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_hexadecimal_and_neither_short_nor_long() {
        for bytes in [16, 17, 64] {
            assert!(nonce(&"aB".repeat(bytes)).is_ok(), "{bytes}");
        }
        for text in ["", "ab", &"ab".repeat(15), &"ab".repeat(65), &"a".repeat(33), &"xy".repeat(20), &"ab,".repeat(16)]
        {
            let failure = nonce(text).unwrap_err();
            assert_eq!((failure.status, failure.message.contains('\n')), (64, false), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("256M"), Ok(256 << 20));
        assert_eq!(size("8g"), Ok(8 << 30));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("4096"), Ok(4096));
        for text in ["", "M", "-1G", "1T", "1.5G", "99999999999G", "1 G", "0x10"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn impossible_memory_is_refused() {
        let memory = |text| memory(text, 256 << 20, 8 << 30);
        assert_eq!(memory("256M"), Ok(256 << 20));
        assert_eq!(memory("8G"), Ok(8 << 30));
        for text in ["255M", "257M", "8194M", "0", "1"] {
            assert_eq!(memory(text).unwrap_err().status, 64, "{text}");
        }
    }

    #[test]
    fn impossible_processor_counts_are_refused() {
        assert_eq!(processors("255"), Ok(255));
        for text in ["0", "256", "-1", "two", ""] {
            assert_eq!(processors(text).unwrap_err().status, 64, "{text}");
        }
    }

    #[test]
    fn timeouts_are_positive() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for text in ["0", "-1", "nan", "inf", "x", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_option_given_twice_is_refused() {
        let mut slot = None;
        set(&mut slot, "smp", 1).unwrap();
        assert_eq!(set(&mut slot, "smp", 2).unwrap_err().status, 64);
    }
}
