// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's monitor (QMP, `docs/interop/qmp-spec.rst` in QEMU's sources), for the power button.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::scratch::Scratch;

/// How long QEMU may take to answer on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The monitor of a machine that will connect, or has.
pub(super) struct Monitor {
    listener: UnixListener,
    stream: Option<BufReader<UnixStream>>,
}

impl Monitor {
    /// The monitor, and the socket for QEMU.
    pub(super) fn new(scratch: &Scratch) -> Result<(Self, PathBuf), String> {
        let path = scratch.file("monitor");
        let listener = UnixListener::bind(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok((Self { listener, stream: None }, path))
    }

    pub(super) fn press_power_button(&mut self) -> Result<(), String> {
        self.execute("system_powerdown")
    }

    fn execute(&mut self, command: &str) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("QEMU's monitor, {command}: {error}");
        if self.stream.is_none() {
            let (stream, _) = self.listener.accept().map_err(failed)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
            self.stream = Some(BufReader::new(stream));
            self.execute("qmp_capabilities")?;
        }
        let stream = self.stream.as_mut().ok_or("QEMU's monitor is gone")?;
        let request = json!({ "execute": command });
        stream.get_mut().write_all(format!("{request}\n").as_bytes()).map_err(failed)?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).map_err(failed)? == 0 {
                return Err(format!("QEMU's monitor, {command}: closed"));
            }
            // The greeting and events come between.
            let answer: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(error) = answer.get("error") {
                return Err(format!("QEMU's monitor, {command}: {error}"));
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as QEMU does: a greeting, an event, then what is given.
    fn answer(path: PathBuf, answers: &'static [&'static str]) -> std::thread::JoinHandle<Vec<String>> {
        std::thread::spawn(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(b"{\"QMP\":{}}\n{\"event\":\"STOP\"}\n").unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let heard = answers.iter().map(|answer| {
                let heard = lines.next().unwrap().unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                heard
            });
            heard.collect()
        })
    }

    #[test]
    fn answers_are_told_from_events() {
        let scratch = Scratch::new().unwrap();
        let (mut monitor, path) = Monitor::new(&scratch).unwrap();
        let qemu = answer(path, &["{\"return\":{}}\n", "{\"event\":\"X\"}\n{\"return\":{}}\n", "{\"error\":{}}\n"]);
        assert_eq!(monitor.press_power_button(), Ok(()));
        assert!(monitor.press_power_button().is_err());
        let heard = qemu.join().unwrap();
        for (line, word) in heard.iter().zip(["qmp_capabilities", "system_powerdown", "system_powerdown"]) {
            assert!(line.contains(word), "{heard:?}");
        }
    }
}
