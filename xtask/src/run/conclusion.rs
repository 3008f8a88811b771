// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what a run left behind to its status. Only Parados's own record counts; a guest cannot write one.

use platform::Reason;

use super::Options;
use crate::failure::{Failure, status};
use crate::process::{Cause, Ended};
use crate::record::{End, Kind};

/// How a run ended, as users and scripts are told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conclusion {
    /// A stable word for the status file.
    pub(crate) kind: &'static str,
    pub(crate) reason: String,
    pub(crate) status: u8,
    /// Whether the reason has to be said on stderr.
    pub(crate) worth_a_line: bool,
    /// Whether the VM is to be started again.
    pub(crate) again: bool,
}

impl Conclusion {
    pub(crate) fn not_started(failure: &Failure) -> Self {
        Self::new("not-started", failure.message.clone(), failure.status)
    }

    /// The run went well, but the file that was asked for cannot be written.
    pub(crate) fn no_statistics() -> Self {
        Self::new("no-statistics", "Parados sent no statistics", status::TERMINATED).quiet()
    }

    /// The run went well, but what was wanted of it did not come.
    pub(crate) fn no_report(why: String) -> Self {
        Self::new("no-report", why, status::TERMINATED)
    }

    fn new(kind: &'static str, reason: impl Into<String>, status: u8) -> Self {
        Self { kind, reason: reason.into(), status, worth_a_line: true, again: false }
    }

    fn quiet(self) -> Self {
        Self { worth_a_line: false, ..self }
    }
}

/// The conclusion from one run.
pub(crate) fn of(ended: &Ended, options: &Options) -> Conclusion {
    if let Some(end) = &ended.end {
        return from_record(end, ended.command, options);
    }
    match ended.cause {
        Cause::Timeout => {
            let seconds = options.timeout.unwrap_or_default().as_secs_f64();
            Conclusion::new("timeout", format!("the guest did not end within {seconds} s"), status::TIMEOUT)
        }
        Cause::Signal(signal) => {
            Conclusion::new("interrupted", format!("ended by signal {signal}"), status::SIGNAL.saturating_add(signal))
        }
        // As a shell sees a program that a closed pipe ended; such programs say nothing.
        Cause::Stopped => Conclusion::new("interrupted", "nobody reads the output", status::SIGNAL + 13).quiet(),
        Cause::Exited(exit) => without_record(ended, exit.code()),
    }
}

fn from_record(end: &End, command: Option<u8>, options: &Options) -> Conclusion {
    match end.kind {
        Kind::PowerOff => match (&options.exec, command) {
            (Some(_), Some(status)) => Conclusion::new("poweroff", "the command ended", status).quiet(),
            (Some(_), None) => {
                Conclusion::new("poweroff", "the guest powered off before the command ended", status::OK)
            }
            (None, _) => Conclusion::new("poweroff", "the guest powered off", status::OK).quiet(),
        },
        Kind::Reset => Conclusion {
            // A command that reset its machine will not run again by itself.
            again: !options.no_reboot && options.exec.is_none(),
            ..Conclusion::new("reset", worded("the guest reset", end), status::CRASHED)
        },
        Kind::TripleFault => Conclusion::new("triple-fault", worded("the guest crashed", end), status::CRASHED),
        Kind::TestExit => {
            let reason = format!("the guest wrote {:#x} to the test exit port", end.value);
            Conclusion::new("test-exit", reason, test_status(end.value)).quiet()
        }
        Kind::Terminated => terminated(end),
        Kind::BadImage => Conclusion::new("bad-image", end.reason.clone(), status::DATA),
        Kind::HostError => {
            let missing = end.value == u64::from(status::MISSING);
            let status = if missing { status::MISSING } else { status::TERMINATED };
            Conclusion::new("terminated", end.reason.clone(), status)
        }
    }
}

/// `(V << 1) | 1`, in the eight bits that a status has, as QEMU's own test device does it.
fn test_status(value: u64) -> u8 {
    let [low, ..] = (value << 1 | 1).to_le_bytes();
    low
}

fn terminated(end: &End) -> Conclusion {
    let is = |reason: Reason| end.code == u64::from(reason.code());
    let status = if is(Reason::MissingFeature) {
        status::MISSING
    } else if is(Reason::PayloadTooLarge) {
        status::USAGE
    } else {
        status::TERMINATED
    };
    let detail = end.detail.0.map_or_else(String::new, |detail| format!(", detail {detail:#x}"));
    let reason = format!("Parados ended the VM: {} (reason {:#x}{detail})", end.reason, end.code);
    Conclusion::new("terminated", reason, status)
}

fn worded(what: &str, end: &End) -> String {
    if end.reason.is_empty() { what.to_owned() } else { format!("{what}: {}", end.reason) }
}

fn without_record(ended: &Ended, code: Option<i32>) -> Conclusion {
    let said = ended.qemu_said.lines().map(str::trim).find(|line| !line.is_empty());
    match (said, code) {
        (Some(said), Some(1)) => {
            let cpu = ["CPU model", "Property", "feature", "-cpu option"].iter().any(|word| said.contains(word));
            let status = if cpu { status::USAGE } else { status::MISSING };
            Conclusion::new("qemu", format!("QEMU does not start: {said}"), status)
        }
        (Some(said), _) => {
            Conclusion::new("qemu", format!("QEMU ended before the guest did: {said}"), status::TERMINATED)
        }
        (None, _) => Conclusion::new("qemu", "QEMU ended before the guest did", status::TERMINATED),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;
    use crate::record::Detail;

    fn options(arguments: &[&str]) -> Options {
        Options::parse(lexopt::Parser::from_args(arguments)).unwrap()
    }

    fn ended(kind: Option<Kind>, value: u64, code: u64, command: Option<u8>) -> Ended {
        Ended {
            cause: Cause::Exited(ExitStatus::from_raw(0)),
            end: kind.map(|kind| End { kind, value, reason: String::new(), code, detail: Detail(None) }),
            facts: serde_json::Map::new(),
            command,
            console: vec![],
            qemu_said: String::new(),
            cpu_seconds: 0.0,
        }
    }

    #[test]
    fn a_detail_is_told_where_there_is_one() {
        let told = |detail| {
            let reason = "the guest's memory failed".into();
            let end = End { kind: Kind::Terminated, value: 70, reason, code: 0x22, detail: Detail(detail) };
            terminated(&end).reason
        };
        assert_eq!(told(None), "Parados ended the VM: the guest's memory failed (reason 0x22)");
        assert_eq!(told(Some(9)), "Parados ended the VM: the guest's memory failed (reason 0x22, detail 0x9)");
    }

    fn status_of(ended: &Ended, arguments: &[&str]) -> (&'static str, u8, bool) {
        let conclusion = of(ended, &options(arguments));
        (conclusion.kind, conclusion.status, conclusion.again)
    }

    #[test]
    fn every_record_has_its_status() {
        assert_eq!(status_of(&ended(Some(Kind::PowerOff), 0, 0, None), &[]), ("poweroff", 0, false));
        assert_eq!(status_of(&ended(Some(Kind::TripleFault), 0, 0, None), &[]), ("triple-fault", 71, false));
        assert_eq!(status_of(&ended(Some(Kind::TestExit), 16, 0, None), &[]), ("test-exit", 33, false));
        assert_eq!(status_of(&ended(Some(Kind::TestExit), 0xff, 0, None), &[]), ("test-exit", 255, false));
        assert_eq!(status_of(&ended(Some(Kind::Terminated), 0, 0x21, None), &[]), ("terminated", 70, false));
        assert_eq!(status_of(&ended(Some(Kind::Terminated), 0, 0x15, None), &[]), ("terminated", 69, false));
        assert_eq!(status_of(&ended(Some(Kind::Terminated), 0, 0x13, None), &[]), ("terminated", 64, false));
        assert_eq!(status_of(&ended(Some(Kind::BadImage), 0, 0, None), &[]), ("bad-image", 65, false));
        assert_eq!(status_of(&ended(Some(Kind::HostError), 70, 0, None), &[]), ("terminated", 70, false));
        assert_eq!(status_of(&ended(Some(Kind::HostError), 69, 0, None), &[]), ("terminated", 69, false));
    }

    #[test]
    fn a_reset_starts_the_guest_again_unless_told_otherwise() {
        let reset = ended(Some(Kind::Reset), 0, 0, None);
        assert_eq!(status_of(&reset, &[]), ("reset", 71, true));
        assert_eq!(status_of(&reset, &["--no-reboot"]), ("reset", 71, false));
        assert_eq!(status_of(&reset, &["--exec", "reboot"]), ("reset", 71, false));
    }

    #[test]
    fn the_commands_status_is_the_runs() {
        for status in [0, 7, 70, 255] {
            let powered_off = ended(Some(Kind::PowerOff), 0, 0, Some(status));
            assert_eq!(status_of(&powered_off, &["--exec", "x"]), ("poweroff", status, false));
        }
    }

    /// A guest that sends a trailer and then crashes does not pass for one that ended well.
    #[test]
    fn a_trailer_does_not_hide_a_crash() {
        let crashed = ended(Some(Kind::TripleFault), 0, 0, Some(0));
        assert_eq!(status_of(&crashed, &["--exec", "x"]), ("triple-fault", 71, false));
        assert_eq!(status_of(&ended(None, 0, 0, Some(0)), &["--exec", "x"]), ("qemu", 70, false));
    }

    #[test]
    fn a_refused_option_is_the_users_error() {
        let mut refused = ended(None, 0, 0, None);
        refused.cause = Cause::Exited(ExitStatus::from_raw(1 << 8));
        refused.qemu_said = "qemu-system-x86_64: unable to find CPU model 'x'\n".into();
        assert_eq!(status_of(&refused, &[]), ("qemu", 64, false));
        refused.qemu_said = "qemu-system-x86_64: -cpu option cannot be empty\n".into();
        assert_eq!(status_of(&refused, &[]), ("qemu", 64, false));
        refused.qemu_said = "qemu-system-x86_64: cannot set up guest memory: Cannot allocate memory\n".into();
        assert_eq!(status_of(&refused, &[]), ("qemu", 69, false));
    }
}
