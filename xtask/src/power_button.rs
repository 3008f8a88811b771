// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's power button, pressed through QEMU's monitor (QMP, `docs/interop/qmp-spec.rst` in QEMU's sources).
//!
//! QEMU connects to a socket that is listened on before it starts. Its answers are not read: they are a few lines, which
//! stay in the socket's buffer, and whether the guest reacts shows by itself.

use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use crate::failure::{Failure, Result};
use crate::scratch::Scratch;

/// QMP takes no command before this one.
const COMMANDS: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"system_powerdown\"}\n";

/// A button that can be pressed once.
pub(crate) struct PowerButton {
    listener: UnixListener,
    /// Once it is closed, QEMU may drop commands that it has not read yet.
    connection: Option<UnixStream>,
}

impl PowerButton {
    /// The button, and the socket for QEMU's monitor.
    pub(crate) fn new(scratch: &Scratch) -> Result<(Self, PathBuf)> {
        let path = scratch.file("monitor");
        let failed = |error: io::Error| Failure::system(path.display(), error);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // A QEMU that did not connect must not make us wait.
        listener.set_nonblocking(true).map_err(failed)?;
        Ok((Self { listener, connection: None }, path))
    }

    /// Whether it could be pressed.
    pub(crate) fn press(&mut self) -> bool {
        let Ok((mut connection, _)) = self.listener.accept() else { return false };
        let written = connection.write_all(COMMANDS).is_ok();
        self.connection = Some(connection);
        written
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn qemu_gets_both_commands() {
        let scratch = Scratch::new().unwrap();
        let (mut button, path) = PowerButton::new(&scratch).unwrap();
        assert!(!button.press());
        let monitor = UnixStream::connect(path).unwrap();
        assert!(button.press());
        let lines: Vec<_> = BufReader::new(monitor).lines().take(2).map(io::Result::unwrap).collect();
        assert!(lines[0].contains("qmp_capabilities") && lines[1].contains("system_powerdown"), "{lines:?}");
    }
}
