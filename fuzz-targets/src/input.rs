// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads an input from front to back, in small integers. Past its end everything is zero, so that every input is a script.

/// The rest of an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `data`.
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (head, rest) = self.0.split_at(self.0.len().min(N));
        bytes[..head.len()].copy_from_slice(head);
        self.0 = rest;
        bytes
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    /// Two bytes.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// Four bytes.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// Eight bytes.
    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// `N` bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        self.take()
    }

    /// A bit, of a byte of its own.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    /// One of `values`.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::from(self.byte()) % values.len()]
    }

    /// An integer of the length that its first byte says, so that small ones take few bytes: 1, 2, 4 or 8.
    pub fn integer(&mut self) -> u64 {
        match self.byte() & 3 {
            0 => self.byte().into(),
            1 => self.half().into(),
            2 => self.word().into(),
            _ => self.long(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_goes_on_with_zeros() {
        let mut input = Input::new(&[1, 2, 3]);
        assert_eq!((input.half(), input.word(), input.long()), (0x201, 3, 0));
        assert!(input.is_empty());
    }
}
