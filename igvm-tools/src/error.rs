// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors: one line that names the file, the place in it and what was expected there.

use std::fmt;
use std::path::Path;

/// Why nothing was built or shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// Who has to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The caller: a bad option or value, a file that is missing or cannot be read.
    Usage,
    /// Whoever made the file: its content is corrupt, foreign or impossible.
    Data,
}

impl Error {
    /// An error of the caller's that concerns no file.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self { kind: Kind::Usage, message: one_line(&what) }
    }

    /// A file that is missing or cannot be read or written.
    pub fn file(path: &Path, what: impl fmt::Display) -> Self {
        Self { kind: Kind::Usage, message: one_line(&format_args!("{}: {what}", path.display())) }
    }

    /// A file with bad content.
    pub fn data(path: &Path, what: impl fmt::Display) -> Self {
        Self { kind: Kind::Data, message: one_line(&format_args!("{}: {what}", path.display())) }
    }

    /// Who has to change something.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The status that a program ends with because of this: 64 or 65, as in sysexits.h.
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            Kind::Usage => 64,
            Kind::Data => 65,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// File names and TOML values can hold line breaks and terminal codes; a message cannot.
fn one_line(text: &dyn fmt::Display) -> String {
    text.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What is wrong with the content of a file, found by code that does not know the file's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flaw(String);

impl Flaw {
    pub(crate) fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }

    /// The same flaw, once the file is known.
    pub(crate) fn of(self, path: &Path) -> Error {
        Error::data(path, self.0)
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Ends the function with a [`Flaw`] unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::error::Flaw::new(format_args!($($message)+)));
        }
    };
}
pub(crate) use ensure;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_the_file_is_called() {
        let error = Error::file(Path::new("a\nb\x1b[31m"), "no such file");
        assert_eq!(error.to_string(), "a?b?[31m: no such file");
        assert_eq!(error.exit_status(), 64);
        assert_eq!(Flaw::new("short").of(Path::new("k")).exit_status(), 65);
    }
}
