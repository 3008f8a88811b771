// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a verb could not do what it was asked: one line for the user and the status for scripts.

use std::fmt::Display;

/// The statuses of `cargo xtask`, after `sysexits.h` where it has one.
pub(crate) mod status {
    /// Done; the guest powered off.
    pub(crate) const OK: u8 = 0;
    /// A test failed, or a check found something.
    pub(crate) const FAILED: u8 = 1;
    /// Bad option, bad size, missing or unusable file.
    pub(crate) const USAGE: u8 = 64;
    /// Corrupt or foreign image.
    pub(crate) const DATA: u8 = 65;
    /// Something needed is missing on this machine.
    pub(crate) const MISSING: u8 = 69;
    /// Parados or the host terminated the VM.
    pub(crate) const TERMINATED: u8 = 70;
    /// The guest crashed, or reset where that was not wanted.
    pub(crate) const CRASHED: u8 = 71;
    /// The time was up.
    pub(crate) const TIMEOUT: u8 = 124;
    /// Added to the number of the signal that ended the verb, as shells do.
    pub(crate) const SIGNAL: u8 = 128;
}

/// One line that says what is wrong and what to do, and the status that goes with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) message: String,
}

/// What every fallible function here returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(status::USAGE, message)
    }

    pub(crate) fn data(message: impl Into<String>) -> Self {
        Self::new(status::DATA, message)
    }

    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self::new(status::MISSING, message)
    }

    /// A file that this command itself writes or a process that it starts: nothing the user passed.
    pub(crate) fn system(what: impl Display, error: impl Display) -> Self {
        Self::new(status::MISSING, format!("{what}: {error}"))
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::usage(format!("{error} (`cargo xtask help` lists the options)"))
    }
}
