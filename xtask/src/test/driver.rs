// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drives `cargo xtask run` as a user or a script does: arguments in, status and three streams out, bounded in time.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process;
use crate::scratch::Scratch;

/// For a run that is not about timeouts: a boot takes seconds, and a loaded machine several times that.
const SECONDS: &str = "120";

/// So long after its time limit, a run's time limit has failed.
const GRACE: Duration = Duration::from_secs(60);

/// How one run of `cargo xtask run` ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// What `--status-file` got.
    pub(super) record: Value,
}

/// Runs it with nothing to read.
pub(super) fn run(qemu: Option<&Path>, arguments: &[&str]) -> Result<Finished, String> {
    Run::start(qemu, arguments)?.finish()
}

/// A run that is under way.
pub(super) struct Run {
    child: Child,
    scratch: Scratch,
    stdout: Receiver<Vec<u8>>,
    heard: Vec<u8>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    until: Instant,
    limit: Duration,
}

impl Run {
    pub(super) fn start(qemu: Option<&Path>, arguments: &[&str]) -> Result<Self, String> {
        let scratch = Scratch::new().map_err(|failure| failure.message)?;
        let program = std::env::current_exe().map_err(|error| format!("finding xtask: {error}"))?;
        let given = arguments.iter().position(|it| *it == "--timeout").and_then(|at| arguments.get(at + 1));
        let limit = given.unwrap_or(&SECONDS).parse().map(Duration::from_secs).unwrap_or_default() + GRACE;
        let mut command = process::tied(&program);
        command.arg("run").args(arguments).arg("--status-file").arg(scratch.file("status.json"));
        if !arguments.contains(&"--timeout") {
            command.args(["--timeout", SECONDS]);
        }
        if let Some(qemu) = qemu.filter(|_| !arguments.contains(&"--qemu")) {
            command.arg("--qemu").arg(qemu);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("starting xtask: {error}"))?;
        let (sender, stdout) = channel();
        if let Some(mut from) = child.stdout.take() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut buffer) {
                    let _ = sender.send(buffer.get(..count).unwrap_or_default().to_vec());
                }
            });
        }
        let stderr = child.stderr.take().map(|mut from| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = from.read_to_end(&mut bytes);
                bytes
            })
        });
        Ok(Self { child, scratch, stdout, heard: Vec::new(), stderr, until: Instant::now() + limit, limit })
    }

    /// Waits until the guest's console has said something since the last thing waited for.
    pub(super) fn wait_for(&mut self, text: &str) -> Result<(), String> {
        loop {
            let found = self.heard.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                self.heard.drain(..at + text.len());
                return Ok(());
            }
            let left = self.until.saturating_duration_since(Instant::now());
            match self.stdout.recv_timeout(left) {
                Ok(piece) => self.heard.extend(piece),
                Err(_) => return Err(self.in_vain(text)),
            }
        }
    }

    fn in_vain(&mut self, text: &str) -> String {
        let heard = String::from_utf8_lossy(&self.heard).into_owned();
        let _ = self.child.kill();
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        format!("waited for {text:?} in vain; heard {heard:?} and on stderr {stderr:?}")
    }

    /// Types.
    pub(super) fn send(&mut self, text: &str) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().ok_or("no stdin")?;
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).map_err(|error| format!("typing: {error}"))
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), String> {
        let id = i32::try_from(self.child.id()).map_err(|error| error.to_string())?;
        kill(Pid::from_raw(id), signal).map_err(|error| format!("sending {signal}: {error}"))
    }

    /// Waits for the end. `stdout` is what was not waited for.
    pub(super) fn finish(mut self) -> Result<Finished, String> {
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < self.until => thread::sleep(Duration::from_millis(10)),
                Ok(None) => return Err(format!("did not end within {} s", self.limit.as_secs())),
                Err(error) => return Err(format!("waiting: {error}")),
            }
        };
        while let Ok(piece) = self.stdout.recv_timeout(Duration::from_secs(5)) {
            self.heard.extend(piece);
        }
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let record = std::fs::read(self.scratch.file("status.json")).unwrap_or_default();
        Ok(Finished {
            status: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&self.heard).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            record: serde_json::from_slice(&record).unwrap_or(Value::Null),
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Already ended in the good case; QEMU ends with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
