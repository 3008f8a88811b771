// SPDX-License-Identifier: MIT OR Apache-2.0
//! The receive FIFO: sixteen characters, each with the errors that came with it.

/// Depth of a 16550A's FIFO.
pub(super) const DEPTH: usize = 16;

/// A ring of characters.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Fifo {
    entries: [(u8, u8); DEPTH],
    head: usize,
    len: usize,
}

impl Fifo {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds a character with its errors. False if there is no room.
    pub(super) fn push(&mut self, byte: u8, errors: u8) -> bool {
        let tail = (self.head + self.len) % DEPTH;
        match self.entries.get_mut(tail) {
            Some(entry) if self.len < DEPTH => {
                *entry = (byte, errors);
                self.len += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes the oldest character.
    pub(super) fn pop(&mut self) -> Option<u8> {
        let (byte, _) = *self.entries.get(self.head).filter(|_| self.len > 0)?;
        self.head = (self.head + 1) % DEPTH;
        self.len -= 1;
        Some(byte)
    }

    /// Takes the errors of the oldest character, leaving the character.
    pub(super) fn take_errors(&mut self) -> u8 {
        match self.entries.get_mut(self.head) {
            Some((_, errors)) if self.len > 0 => core::mem::take(errors),
            _ => 0,
        }
    }

    /// Whether a character further down has errors.
    pub(super) fn has_errors(&self) -> bool {
        (0..self.len).any(|at| self.entries.get((self.head + at) % DEPTH).is_some_and(|&(_, errors)| errors != 0))
    }
}
