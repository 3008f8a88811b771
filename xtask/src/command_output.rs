// SPDX-License-Identifier: MIT OR Apache-2.0
//! The output of `--exec` on the guest's second serial port: the command's bytes, then a trailer with its status.
//!
//! The trailer is the last thing that the guest sends: the byte 1Eh, the status in decimal, a line feed. A command may
//! print the same bytes, so only what stands at the very end counts. Everything else is passed on as soon as it cannot
//! be part of a trailer any more.

use platform::Slip;

const SEPARATOR: u8 = 0x1e;

/// 1Eh, three digits, line feed.
const LONGEST_TRAILER: usize = 5;

/// Tells output from trailer.
#[derive(Default)]
pub(crate) struct Filter {
    held: Vec<u8>,
}

impl Filter {
    /// Takes what arrived, gives back what is surely output.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut pending = std::mem::take(&mut self.held);
        pending.extend(bytes);
        if Slip::Pieces.is_planted() && bytes.len() < pending.len() {
            return pending;
        }
        let keep = held_from(&pending);
        self.held = pending.split_off(keep);
        pending
    }

    /// At the end of the stream: the command's status, or what had been held back and is no trailer.
    pub(crate) fn finish(self) -> Result<u8, Vec<u8>> {
        match self.held.as_slice() {
            [SEPARATOR, digits @ .., b'\n'] => {
                std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(self.held)
            }
            _ => Err(self.held),
        }
    }
}

/// Where the part begins that could be the beginning of a trailer, or all of one.
fn held_from(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(LONGEST_TRAILER);
    let tail = bytes.get(from..).unwrap_or_default();
    let candidate = tail.iter().rposition(|&byte| byte == SEPARATOR);
    match candidate.and_then(|at| Some((at, tail.get(at + 1..)?))) {
        Some((at, rest)) if could_be_trailer(rest) => from + at,
        _ => bytes.len(),
    }
}

fn could_be_trailer(after_separator: &[u8]) -> bool {
    let digits = after_separator.strip_suffix(b"\n").unwrap_or(after_separator);
    digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(chunks: &[&[u8]]) -> (Vec<u8>, Result<u8, Vec<u8>>) {
        let mut filter = Filter::default();
        let output = chunks.iter().flat_map(|chunk| filter.push(chunk)).collect();
        (output, filter.finish())
    }

    #[test]
    fn the_trailer_is_found_however_it_arrives() {
        let stream = b"hello\n\x1e7\n";
        for cut in 0..stream.len() {
            let (a, b) = stream.split_at(cut);
            assert_eq!(filtered(&[a, b]), (b"hello\n".to_vec(), Ok(7)), "cut at {cut}");
        }
    }

    #[test]
    fn only_the_last_trailer_counts() {
        assert_eq!(filtered(&[b"\x1e0\n", b"more\x1e255\n"]), (b"\x1e0\nmore".to_vec(), Ok(255)));
        assert_eq!(filtered(&[b"\x1e1\n\x1e2\n"]), (b"\x1e1\n".to_vec(), Ok(2)));
    }

    #[test]
    fn output_is_not_held_back() {
        let mut filter = Filter::default();
        assert_eq!(filter.push(b"prompt> "), b"prompt> ");
        assert_eq!(filter.push(b"\x1e"), b"");
        assert_eq!(filter.push(b"x"), b"\x1ex");
    }

    #[test]
    fn without_a_trailer_there_is_no_status() {
        assert_eq!(filtered(&[b"cut sho"]), (b"cut sho".to_vec(), Err(vec![])));
        assert_eq!(filtered(&[b"a\x1e12"]), (b"a".to_vec(), Err(b"\x1e12".to_vec())));
        assert_eq!(filtered(&[b"a\x1e\n"]), (b"a".to_vec(), Err(b"\x1e\n".to_vec())));
        assert_eq!(filtered(&[b"a\x1e999\n"]), (b"a".to_vec(), Err(b"\x1e999\n".to_vec())));
        assert_eq!(filtered(&[]), (vec![], Err(vec![])));
    }
}
