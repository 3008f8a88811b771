// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines for the user.
//!
//! QEMU's stdio console makes the terminal non-blocking, and often our stderr is that same terminal: a write that would
//! block is tried again, where `eprintln!` would panic.

use std::io::{self, ErrorKind, Write};
use std::thread::sleep;
use std::time::Duration;

/// Progress: what is being done, on stderr.
pub(crate) fn progress(text: &str) {
    line(&format!("xtask: {text}"));
}

/// Why the verb ends without success, on stderr.
pub(crate) fn error(text: &str) {
    line(&format!("xtask: {text}"));
}

/// One line on stderr. Nobody can be told if stderr is closed, so that is ignored.
pub(crate) fn line(text: &str) {
    let _ = write_all(&mut io::stderr(), format!("{text}\n").as_bytes());
}

/// Results, on stdout. Who closed stdout does not want them.
pub(crate) fn out(text: &str) {
    let _ = write_out(text.as_bytes());
}

/// Bytes to stdout, at once.
pub(crate) fn write_out(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout();
    write_all(&mut stdout, bytes)?;
    retry(|| stdout.flush())
}

fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = retry(|| to.write(bytes))?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn retry<T>(mut write: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match write() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(2)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Text from outside, fit for one line of a terminal: no control characters.
pub(crate) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() && c != '\t' { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slow(Vec<u8>, u32);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1 % 2 == 1 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.0.extend(bytes.iter().take(3));
            Ok(bytes.len().min(3))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_non_blocking_terminal_loses_nothing() {
        let mut slow = Slow(Vec::new(), 0);
        write_all(&mut slow, b"0123456789").unwrap();
        assert_eq!(slow.0, b"0123456789");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\tc\x07"), "a.[2Jb\tc.");
    }
}
