// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the firmware's random numbers come from.
//!
//! The caller gives the source: RDRAND on the bare machine, a counter in a test that wants the same launch twice.

/// The source has no random numbers at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoEntropy;

/// A source of random bytes.
pub trait Entropy {
    /// Fills all of `bytes`, or fails.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy>;
}

impl<F: FnMut(&mut [u8]) -> Result<(), NoEntropy>> Entropy for F {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        self(bytes)
    }
}

/// An array of random bytes.
pub(crate) fn random<const N: usize>(entropy: &mut impl Entropy) -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}
