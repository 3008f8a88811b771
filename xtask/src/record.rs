// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Parados and the reference host say: lines for people, and records for this program.
//!
//! Both come through one debug port that the guest cannot reach. A record is a line that begins with the byte 1Eh (ASCII
//! "record separator") and goes on with one JSON object, of which these are known:
//!
//! - `{"kind":"terminated","status":70,"reason":"…","code":20,"detail":1}`: how the VM ended, see [`Kind`].
//! - `{"stats":{…}}` and, for each vCPU, `{"vcpu":{"index":0,…}}`: the guest's exits, at the end; see `run/stats.rs`.
//! - `{"memory":{"private_bytes":…}}` and `{"start":{"entry_tsc":…,"guest_tsc":…,"tsc_hz":…}}`: for the bench.
//!
//! Whoever sends garbage here is a broken Parados or host, so garbage is shown and otherwise ignored.

use std::fmt;

use serde_json::{Map, Value};

use crate::say;

const SEPARATOR: u8 = 0x1e;

/// No message is longer; what is longer is cut into several.
const LONGEST_LINE: usize = 64 << 10;

/// How a VM ended, by its own record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    PowerOff,
    Reset,
    TripleFault,
    TestExit,
    Terminated,
    /// The reference host refused the image.
    BadImage,
    /// The reference host could not go on.
    HostError,
}

impl Kind {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "poweroff" => Self::PowerOff,
            "reset" => Self::Reset,
            "triple-fault" => Self::TripleFault,
            "test-exit" => Self::TestExit,
            "terminated" => Self::Terminated,
            "bad-image" => Self::BadImage,
            "host-error" => Self::HostError,
            _ => return None,
        })
    }
}

/// The record that Parados writes last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) kind: Kind,
    /// What a guest wrote to the test device's exit port.
    pub(crate) value: u64,
    pub(crate) reason: String,
    pub(crate) code: u64,
    pub(crate) detail: Detail,
}

/// The number that comes with a reason of Parados's; `None` where it may not leave the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Detail(pub(crate) Option<u64>);

impl fmt::LowerHex for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => fmt::LowerHex::fmt(&number, f),
            None => f.write_str("withheld"),
        }
    }
}

/// One thing that arrived on the log channel.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    Line(String),
    End(End),
    Facts(Map<String, Value>),
}

/// Cuts the byte stream into messages.
#[derive(Default)]
pub(crate) struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        for &byte in bytes {
            if byte == b'\n' || self.partial.len() >= LONGEST_LINE {
                messages.extend(self.take());
            }
            if byte != b'\n' {
                self.partial.push(byte);
            }
        }
        messages
    }

    /// What is left when the stream ends without a line feed.
    pub(crate) fn take(&mut self) -> Option<Message> {
        let line = std::mem::take(&mut self.partial);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if line.is_empty() {
            return None;
        }
        let record = line.strip_prefix(&[SEPARATOR]).and_then(parse);
        Some(record.unwrap_or_else(|| Message::Line(say::printable(line))))
    }
}

fn parse(json: &[u8]) -> Option<Message> {
    let Ok(Value::Object(record)) = serde_json::from_slice(json) else { return None };
    let Some(kind) = record.get("kind") else { return Some(Message::Facts(record)) };
    let number = |name: &str| record.get(name).and_then(Value::as_u64).unwrap_or_default();
    Some(Message::End(End {
        kind: Kind::parse(kind.as_str()?)?,
        value: number("status"),
        reason: say::printable(record.get("reason").and_then(Value::as_str).unwrap_or_default().as_bytes()),
        code: number("code"),
        detail: Detail(record.get("detail").and_then(Value::as_u64)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<Message> {
        let mut splitter = Splitter::default();
        let mut messages: Vec<_> = bytes.chunks(7).flat_map(|chunk| splitter.push(chunk)).collect();
        messages.extend(splitter.take());
        messages
    }

    #[test]
    fn lines_and_records_are_told_apart() {
        let stream = b"[parados] up\r\n\x1e{\"kind\":\"test-exit\",\"status\":3,\"reason\":\"port F4h\"}\n[host] x";
        let messages = all(stream);
        assert_eq!(messages[0], Message::Line("[parados] up".into()));
        let Message::End(end) = &messages[1] else { panic!("{messages:?}") };
        assert_eq!((end.kind, end.value, end.reason.as_str()), (Kind::TestExit, 3, "port F4h"));
        assert_eq!(messages[2], Message::Line("[host] x".into()));
    }

    #[test]
    fn facts_keep_their_fields() {
        let messages = all(b"\x1e{\"memory\":{\"private_bytes\":4194304}}\n");
        let Message::Facts(facts) = &messages[0] else { panic!("{messages:?}") };
        assert_eq!(facts["memory"]["private_bytes"], 4_194_304);
    }

    #[test]
    fn garbage_is_a_line() {
        for garbage in [&b"\x1e{\"kind\":\"won\"}"[..], b"\x1e{", b"\x1e[1]", b"\x1e{\"kind\":1}", b"\xff\xfe"] {
            assert!(matches!(all(garbage).as_slice(), [Message::Line(_)]), "{garbage:?}");
        }
    }

    #[test]
    fn an_endless_line_is_cut() {
        let messages = all(&vec![b'x'; LONGEST_LINE * 2 + 10]);
        assert_eq!(messages.len(), 3);
    }
}
