// SPDX-License-Identifier: MIT OR Apache-2.0
//! What may leave Parados: the type that every way out takes, and the marks that make a value into one.
//!
//! A log tells about the guest: where it executes, what it touches, when. The host must not get that by somebody's forgetting
//! to think of it, so a way out takes [`Outbound`] and nothing else, and an `Outbound` is made only of what is *marked*:
//!
//! ```
//! use core::fmt;
//! use platform::{Outbound, Releasable};
//!
//! struct Figures(u64);
//! impl fmt::Display for Figures {
//!     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
//!         write!(f, "{} bytes", self.0)
//!     }
//! }
//! impl Releasable for Figures {}
//!
//! assert_eq!(Outbound::released(&Figures(7)).to_string(), "7 bytes");
//! ```
//!
//! The same without the mark does not compile:
//!
//! ```compile_fail,E0277
//! use core::fmt;
//! use platform::{Outbound, Releasable};
//!
//! struct Figures(u64);
//! impl fmt::Display for Figures {
//!     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
//!         write!(f, "{} bytes", self.0)
//!     }
//! }
//!
//! assert_eq!(Outbound::released(&Figures(7)).to_string(), "7 bytes");
//! ```
//!
//! Nor does text leave an image that is not for debugging, because the token is missing:
//!
//! ```compile_fail,E0308
//! platform::Outbound::debugging((), format_args!("RIP {:#x}", 0x1234));
//! ```
//!
//! Hostile party: the host, which reads whatever leaves.

use core::fmt;

/// The mark of what may be told the host, whatever image it is. To implement it is a decision about a secret: only for what
/// says nothing about what the guest computes, where it executes or which data it has.
pub trait Releasable: fmt::Display {}

/// Proof that this image is for debugging: its measured policy lets everything out.
#[derive(Clone, Copy, Debug)]
pub struct DebugImage(());

impl DebugImage {
    /// The proof, if the measured policy says so. The only caller is who reads the launch block; `cargo xtask check` looks for
    /// others by this name.
    pub const fn from_measured_policy(debug: bool) -> Option<Self> {
        if debug { Some(Self(())) } else { None }
    }
}

/// One line that leaves.
#[derive(Clone, Copy)]
pub struct Outbound<'a>(Text<'a>);

#[derive(Clone, Copy)]
enum Text<'a> {
    Marked(&'a dyn fmt::Display),
    Debugging(fmt::Arguments<'a>),
}

impl<'a> Outbound<'a> {
    /// Something marked.
    pub fn released<R: Releasable>(what: &'a R) -> Self {
        Self(Text::Marked(what))
    }

    /// Anything, out of an image for debugging.
    pub const fn debugging(_: DebugImage, text: fmt::Arguments<'a>) -> Self {
        Self(Text::Debugging(text))
    }
}

impl fmt::Display for Outbound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Text::Marked(what) => what.fmt(f),
            Text::Debugging(text) => f.write_fmt(text),
        }
    }
}
