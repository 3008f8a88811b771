// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures as JSON, for the record at the end of a VM. What is zero is left out.
//!
//! Written without allocation, because the VM may end for want of memory. Whoever reads it adds up the vCPUs.

use core::fmt;

use image_abi::flag;
use platform::Releasable;

use super::{BUCKETS, Events, Histogram, Kind, Statistics, Top};
use crate::pages::PageCounts;

/// Proof that the measured policy lets figures about the guest out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consent(());

impl Consent {
    pub(crate) const fn from_policy(flags: u32) -> Option<Self> {
        if flags & flag::STATISTICS != 0 { Some(Self(())) } else { None }
    }
}

/// Figures that leave with consent.
pub(crate) struct Report<'a> {
    #[allow(dead_code, reason = "who has no consent cannot make a report")]
    pub(crate) consent: Consent,
    pub(crate) figures: fmt::Arguments<'a>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(self.figures)
    }
}

/// Only with [`Consent`].
impl Releasable for Report<'_> {}

/// Writes the parts of an object or list with commas between them.
struct Parts<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    first: bool,
}

impl<'a, 'f> Parts<'a, 'f> {
    fn new(out: &'a mut fmt::Formatter<'f>) -> Self {
        Self { out, first: true }
    }

    fn part(&mut self, text: fmt::Arguments<'_>) -> fmt::Result {
        let comma = if core::mem::take(&mut self.first) { "" } else { "," };
        write!(self.out, "{comma}{text}")
    }
}

/// One vCPU: an object.
impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"exits\":{")?;
        let mut kinds = Parts::new(f);
        for &kind in Kind::ALL {
            let histogram = self.of(kind);
            if histogram.count() != 0 {
                kinds.part(format_args!("\"{}\":{histogram}", kind.name()))?;
            }
        }
        write!(f, "}},\"events\":{}", self.events)?;
        write!(f, ",\"ports\":{},\"msrs\":{},\"mmio_pages\":{}", self.ports, self.msrs, self.mmio)
    }
}

/// An object from the logarithm of the cycles to the number of exits.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        let mut buckets = Parts::new(f);
        for index in 0..BUCKETS {
            let count = self.bucket(index);
            if count != 0 {
                buckets.part(format_args!("\"{index}\":{count}"))?;
            }
        }
        f.write_str("}")
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        let mut events = Parts::new(f);
        for (name, value) in Self::NAMES.iter().zip(self.values()) {
            if value != 0 {
                events.part(format_args!("\"{name}\":{value}"))?;
            }
        }
        f.write_str("}")
    }
}

/// A list of key, count and error.
impl fmt::Display for Top {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        let mut entries = Parts::new(f);
        for entry in self.entries() {
            entries.part(format_args!("[{},{},{}]", entry.key, entry.count, entry.error))?;
        }
        f.write_str("]")
    }
}

/// What all vCPUs share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineFigures {
    /// The frequency of the cycles in which exits are measured.
    pub(crate) tsc_hz: u64,
    /// How long the VM ran.
    pub(crate) nanoseconds: u64,
    /// What became of the guest's pages; `None` if a processor died in the middle of a change.
    pub(crate) pages: Option<PageCounts>,
}

impl fmt::Display for MachineFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{\"tsc_hz\":{},\"nanoseconds\":{}", self.tsc_hz, self.nanoseconds)?;
        if let Some(pages) = self.pages {
            f.write_str(",\"pages\":{")?;
            let mut parts = Parts::new(f);
            for (name, value) in PageCounts::NAMES.iter().zip(pages.values()) {
                parts.part(format_args!("\"{name}\":{value}"))?;
            }
            f.write_str("}")?;
        }
        f.write_str("}")
    }
}
