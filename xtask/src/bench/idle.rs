// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that does nothing: what it costs the machine that runs it, and how exactly its clocks run meanwhile.
//!
//! The CPU time is that of the QEMU process while the guest sleeps, with Parados and without. The clocks are the guest's
//! system time, which its TSC drives, and its RTC; both are held against this machine's clock when the guest's words
//! arrive. The way of these words is a few milliseconds, of which only the change from first to last counts.

use std::time::{Duration, Instant};

use igvm_tools::write_atomically;
use image_abi::flag;

use super::figure::Figure;
use super::machine::Bench;
use crate::failure::{Failure, Result, status};
use crate::guest::{COMMAND_LINE, Files, Task};
use crate::image::Request;
use crate::process::{self, Console, Event, Next, Streams};
use crate::qemu::Machine;
use crate::say;

/// Percentage points of a processor that an idle guest may cost more under Parados.
const IDLE_AIM: f64 = 5.0;
/// Per cent that a clock may be off.
const DRIFT_AIM: f64 = 0.1;

const IDLE_SECONDS: u32 = 20;
const CLOCK_SECONDS: u32 = 60;
/// What a run may take beside its sleep.
const SPARE: Duration = Duration::from_secs(240);

/// Ticks of `/proc/PID/stat` in a second; a constant of Linux's interface on x86 (USER_HZ).
const TICKS: f64 = 100.0;

/// What a guest says, and when.
#[derive(Default)]
struct Heard {
    process: Option<u32>,
    partial: Vec<u8>,
    /// When a line of `edge` arrived, the guest's system time, and its RTC, in seconds.
    edges: Vec<(Instant, f64, f64)>,
    /// When the guest began or ended its sleep, and QEMU's CPU seconds until then.
    rests: Vec<(Instant, f64)>,
}

/// What one run shows.
#[derive(Debug, PartialEq)]
struct Rest {
    /// Per cent of one processor.
    cpu: f64,
    /// Per cent that the clock that is further off was too fast or too slow.
    drift: f64,
}

/// `idle`: the CPU time.
pub(super) fn measure_idle(bench: &Bench, figures: &mut Vec<Figure>) -> Result<()> {
    say::progress(&format!("bench idle: {IDLE_SECONDS} s without Parados, {IDLE_SECONDS} s with"));
    let bare = bare(bench, IDLE_SECONDS)?.cpu;
    let native = hosted(bench, IDLE_SECONDS)?.cpu;
    figures.push(Figure::fixed("idle.native.cpu_points", native - bare, "points", Some(IDLE_AIM)));
    figures.push(Figure::fixed("idle.native.cpu_percent", native, "%", None));
    figures.push(Figure::fixed("idle.bare.cpu_percent", bare, "%", None));
    Ok(())
}

/// `clock`: the drift.
pub(super) fn measure_clock(bench: &Bench, figures: &mut Vec<Figure>) -> Result<()> {
    say::progress(&format!("bench clock: {CLOCK_SECONDS} s"));
    let drift = hosted(bench, CLOCK_SECONDS)?.drift;
    figures.push(Figure::fixed("clock.native.drift", drift, "%", Some(DRIFT_AIM)));
    Ok(())
}

/// An edge is the moment at which the RTC goes on to its next second: it cannot be read any finer. The system time comes
/// in hundredths of a second.
fn command(seconds: u32) -> String {
    format!(
        "rtc() {{ read second </sys/class/rtc/rtc0/since_epoch; }}
        edge() {{
            rtc; last=$second
            while [ $second = $last ]; do rtc; done
            read uptime idle </proc/uptime; echo edge $uptime $second
        }}
        edge; sleep 2; echo rest; sleep {seconds}; echo rest; edge"
    )
}

fn hosted(bench: &Bench, seconds: u32) -> Result<Rest> {
    let command = command(seconds);
    let request = Request { command: Some(&command), flags: flag::COMMAND, ..Request::default() };
    let image = bench.scratch.file("idle.igvm");
    write_atomically(&image, &request.build()?.bytes)?;
    rest(bench.hosted(&image), seconds)
}

fn bare(bench: &Bench, seconds: u32) -> Result<Rest> {
    let files = Files::get()?;
    let initrd = bench.scratch.file("idle.initrd");
    write_atomically(&initrd, &files.initrd(&Task::Command(&command(seconds)))?)?;
    rest(bench.bare(&files.kernel, Some(&initrd), COMMAND_LINE), seconds)
}

fn rest(machine: Machine, seconds: u32) -> Result<Rest> {
    let deadline = Some(Instant::now() + SPARE + Duration::from_secs(seconds.into()));
    let streams = Streams { console: Console::Kept, command: true, power_button: false, deadline };
    let mut heard = Heard::default();
    let ended = process::run(machine, &streams, &mut |event| {
        heard.take(&event);
        Next::Continue
    })?;
    if let process::Cause::Signal(signal) = ended.cause {
        return Err(Failure::new(status::SIGNAL.saturating_add(signal), format!("ended by signal {signal}")));
    }
    heard.rest().ok_or_else(|| {
        let said = String::from_utf8_lossy(&ended.console).into_owned();
        let said = said.lines().last().unwrap_or_default().to_owned();
        Failure::new(
            status::FAILED,
            format!("bench: the idle guest did not come to its end ({:?}; {said})", ended.cause),
        )
    })
}

impl Heard {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Started(process) => self.process = Some(*process),
            Event::Line(_) | Event::Console(_) | Event::Facts(_) => {}
            Event::Output(bytes) => {
                self.partial.extend(*bytes);
                while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = self.partial.drain(..=end).collect();
                    self.line(&String::from_utf8_lossy(&line), Instant::now());
                }
            }
        }
    }

    fn line(&mut self, line: &str, now: Instant) {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["edge", system, rtc] => {
                if let (Ok(system), Ok(rtc)) = (system.parse(), rtc.parse()) {
                    self.edges.push((now, system, rtc));
                }
            }
            ["rest"] => self.rests.extend(self.process.and_then(cpu_seconds).map(|seconds| (now, seconds))),
            _ => {}
        }
    }

    /// `None` if the guest did not say all.
    fn rest(&self) -> Option<Rest> {
        let [(asleep, cpu_before), (awake, cpu_after)] = self.rests.as_slice() else { return None };
        let [(first, system_first, rtc_first), (last, system_last, rtc_last)] = self.edges.as_slice() else {
            return None;
        };
        let passed = last.duration_since(*first).as_secs_f64();
        let off = |seconds: f64| (seconds / passed - 1.0).abs() * 100.0;
        Some(Rest {
            cpu: (cpu_after - cpu_before) / awake.duration_since(*asleep).as_secs_f64() * 100.0,
            drift: off(system_last - system_first).max(off(rtc_last - rtc_first)),
        })
    }
}

/// The CPU seconds that a process has used.
fn cpu_seconds(process: u32) -> Option<f64> {
    of_stat(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// User and system time, the 14th and 15th field of proc_pid_stat(5). The second one is a name in parentheses.
fn of_stat(stat: &str) -> Option<f64> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_that_is_further_off_counts() {
        let begin = Instant::now();
        let mut heard = Heard { process: Some(std::process::id()), ..Heard::default() };
        heard.line("edge 1000.250 1000", begin);
        heard.line("edge 1010.250 1011", begin + Duration::from_secs(10));
        assert_eq!(heard.rest(), None);
        heard.rests = vec![(begin, 3.0), (begin + Duration::from_secs(4), 4.0)];
        let rest = heard.rest().unwrap();
        assert!((rest.cpu - 25.0).abs() < 1e-6 && (rest.drift - 10.0).abs() < 1e-6, "{rest:?}");
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let mut heard = Heard::default();
        for piece in ["ed", "ge 1.5 1\nedge", " 2.5 2", "\n"] {
            heard.take(&Event::Output(piece.as_bytes()));
        }
        assert_eq!(heard.edges.iter().map(|edge| edge.2).collect::<Vec<_>>(), [1.0, 2.0]);
    }

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let stat = "7 (a) (b)) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0";
        assert_eq!(of_stat(stat), Some(3.0));
    }
}
