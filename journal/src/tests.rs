// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the journal.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use log::{Level, Log};

use super::*;
use crate::ring::SLOTS;

/// Collects what leaves; can be deaf.
#[derive(Default)]
struct Host {
    lines: Mutex<Vec<String>>,
    deaf: AtomicBool,
}

impl Host {
    fn send(&self, line: Outbound<'_>) -> bool {
        let hears = !self.deaf.load(Ordering::Relaxed);
        if hears {
            self.lines.lock().unwrap().push(line.to_string());
        }
        hears
    }

    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

fn debug() -> DebugImage {
    DebugImage::from_measured_policy(true).unwrap()
}

fn info(journal: &Journal, text: fmt::Arguments<'_>) {
    journal.line(Module::Core, Level::Info, text);
}

fn last(journal: &Journal, count: usize) -> Vec<String> {
    let mut entries = Vec::new();
    journal.last(count, |entry| entries.push(entry.to_string()));
    entries
}

#[test]
fn the_console_sees_each_entry_once_in_order() {
    let (journal, host) = (Journal::new(), Host::default());
    journal.line(Module::Image, Level::Warn, format_args!("one {}", 1));
    journal.emit(&PowerButton { vcpu: 3 });
    journal.show(debug(), |line| host.send(line));
    assert_eq!(host.heard(), ["warning: image: one 1", "info: core: vCPU 3: the host pressed the power button"]);
    journal.show(debug(), |line| host.send(line));
    assert!(host.heard().is_empty());
    info(&journal, format_args!("two"));
    journal.show(debug(), |line| host.send(line));
    assert_eq!(host.heard(), ["info: core: two"]);
}

#[test]
fn what_is_overwritten_before_it_is_seen_is_counted() {
    let (journal, host) = (Journal::new(), Host::default());
    for number in 0..SLOTS + 10 {
        info(&journal, format_args!("{number}"));
    }
    journal.show(debug(), |line| host.send(line));
    let heard = host.heard();
    assert_eq!(heard[0], "warning: 10 entries of the log were lost");
    assert_eq!(heard[1], "info: core: 10");
    assert_eq!(heard.len(), SLOTS + 1);
}

#[test]
fn a_deaf_console_gets_the_line_later() {
    let (journal, host) = (Journal::new(), Host::default());
    host.deaf.store(true, Ordering::Relaxed);
    info(&journal, format_args!("a"));
    journal.show(debug(), |line| host.send(line));
    host.deaf.store(false, Ordering::Relaxed);
    info(&journal, format_args!("b"));
    journal.show(debug(), |line| host.send(line));
    assert_eq!(host.heard(), ["info: core: a", "info: core: b"]);
}

#[test]
fn levels_are_per_module() {
    let journal = Journal::new();
    let allows = |target: &str, level| journal.enabled(&log::Metadata::builder().target(target).level(level).build());
    assert!(allows("paravisor_core::vcpu", Level::Info) && !allows("paravisor_core::vcpu", Level::Debug));
    let module = |name: &str| image_abi::log_level::MODULES.iter().position(|module| *module == name).unwrap();
    journal
        .levels()
        .set(image_abi::log_level::flags(module("core"), 5) | image_abi::log_level::flags(module("devices"), 0));
    assert!(allows("paravisor_core::vcpu", Level::Trace) && journal.wants::<Exited>());
    assert!(!allows("vmm_interface", Level::Error) && !journal.wants::<UnknownPort>());
    assert!(allows("platform_x::start", Level::Info) && !allows("platform_x", Level::Debug));
    journal.emit(&UnknownPort { vcpu: 0, port: 1 });
    assert!(last(&journal, 5).is_empty());
}

#[test]
fn a_long_line_is_cut_between_characters() {
    let journal = Journal::new();
    info(&journal, format_args!("{}{}", "ö".repeat(400), "end"));
    let [line] = last(&journal, 5).try_into().unwrap();
    assert!(line.len() > 230 && line.trim_start_matches("info: core: ").chars().all(|c| c == 'ö'), "{line}");
}

/// No memory of a writer's death: the slot stays occupied, everybody else goes on.
#[test]
fn a_writer_that_dies_costs_one_slot() {
    let journal = Journal::new();
    journal.ring.die();
    let count = 2 * SLOTS + 9;
    for number in 0..count {
        info(&journal, format_args!("{number}"));
    }
    // Twice the ring came round to the slot.
    assert_eq!(journal.lost(), 2);
    let entries = last(&journal, SLOTS);
    assert_eq!(entries.len(), SLOTS - 1);
    assert_eq!(entries.last().unwrap(), &format!("info: core: {}", count - 1));
}

/// Readers get whole entries or none, however many write.
#[test]
fn entries_are_never_torn() {
    let (journal, seen, done) = (Journal::new(), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for writer in 0..4u64 {
            let (journal, done) = (&journal, &done);
            scope.spawn(move || {
                for number in 0..20_000 {
                    let value = writer << 32 | number;
                    journal.remember(Module::Core, Level::Info, Exited::CODE, [value; WORDS]);
                }
                done.fetch_add(1, Ordering::Release);
            });
        }
        scope.spawn(|| {
            // At least once after the last write: a machine may run the readers first.
            let mut over = false;
            while !over {
                over = done.load(Ordering::Acquire) == 4;
                for entry in journal.ring.last(SLOTS) {
                    let [_, words @ ..] = entry.0;
                    assert!(words[..WORDS].iter().all(|word| *word == words[0]), "{words:x?}");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    });
    assert!(seen.load(Ordering::Relaxed) > 0);
}

/// A release image has no token, so `show` cannot be called; what is marked leaves all the same.
#[test]
fn marked_events_leave_without_a_token() {
    let (journal, host) = (Journal::new(), Host::default());
    assert!(DebugImage::from_measured_policy(false).is_none());
    info(&journal, format_args!("a line"));
    journal.tell(&UnexpectedInterrupt { vcpu: 0, vector: 0x77 }, |line| host.send(line));
    assert_eq!(host.heard(), ["vCPU 0: the host sent the unexpected interrupt 0x77"]);
    assert_eq!(last(&journal, 9).len(), 2, "both are remembered");
}

#[test]
fn codes_of_events_ascend() {
    assert!(EVENTS.windows(2).all(|pair| pair[0].0 < pair[1].0) && EVENTS[0].0 > 0);
}

#[test]
fn the_first_crash_is_recorded() {
    let (journal, record) = (Journal::new(), CrashRecord::new());
    for number in 0..SLOTS {
        info(&journal, format_args!("{number}"));
    }
    info(&journal, format_args!("before"));
    journal.emit(&UnexpectedInterrupt { vcpu: 3, vector: 0x77 });
    let crash = |message: fmt::Arguments<'_>, write: &dyn Fn(&Crash<'_>) -> bool| {
        write(&Crash {
            reason: platform::Reason::Panic,
            detail: 7,
            location: Some(("a/very/long/path/to/the/source/that/does/not/fit/into/the/field/of/the/record.rs", 12, 3)),
            message,
            registers: core::array::from_fn(|index| index as u64),
        })
    };
    let write = |crash: &Crash<'_>| record.write(crash, &journal);
    assert!(crash(format_args!("first {}", 1), &write));
    assert!(!crash(format_args!("second"), &write));
    let words = record.words();
    let text = |words: &[u64]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take_while(|byte| *byte != 0).collect();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(words[0].to_le_bytes(), *b"PARACRSH");
    assert_eq!(words[1..6], [2, 1, 7, 12, 3]);
    assert!(text(&words[6..14]).ends_with("/field/of/the/record.rs"));
    assert_eq!(text(&words[14..38]), "first 1");
    assert_eq!(words[38..60], core::array::from_fn::<u64, 22, _>(|index| index as u64));
    // The offsets of docs/log.md: nothing was lost, and the first two entries were overwritten, which `lost` does not say.
    assert_eq!((words[0x1e0 / 8], words[0x1e8 / 8]), (0, SLOTS as u64 + 2));
    let entries: Vec<_> = words[0x1f0 / 8..].chunks_exact(31).collect();
    assert_eq!(entries.len(), 16);
    let [.., line, event] = &entries[..] else { panic!() };
    let head = |code: u16, level: Level, bytes: u64| {
        u64::from(code) | (level as u64) << 16 | (Module::Core as u64) << 24 | bytes << 32
    };
    assert_eq!(line[..2], [head(0, Level::Info, 6), u64::from_le_bytes(*b"before\0\0")]);
    assert_eq!(event[..5], [head(0x20, Level::Warn, 0), 3, 0x77, 0, 0]);
    assert!(event[5..].iter().all(|word| *word == 0));
}
