// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loom's atomics and locks, with the names and signatures of those that the image links. Built for model checks alone.
//!
//! One memory ordering of the program can be made Relaxed from outside, to prove that the checks notice: see
//! [`passes_without`].

#![allow(clippy::unwrap_used, reason = "part of the tests alone")]

extern crate std;

use core::panic::Location;
use std::path::Path;
use std::process::Command;
use std::string::String;
use std::sync::OnceLock;
use std::{format, fs};

pub use loom::sync::MutexGuard;
pub use loom::sync::atomic::Ordering;

/// The environment variable that names the operation whose ordering is ignored, as `file:line`.
const WEAKENED: &str = "MODEL_WEAKENED";

/// What the operation at `place` is ordered by: what its author wrote, unless it is the weakened one.
fn ordering(written: Ordering, place: &Location<'_>) -> Ordering {
    static CHOSEN: OnceLock<Option<(String, u32)>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var(WEAKENED).ok()?;
        let (file, line) = text.rsplit_once(':')?;
        Some((file.into(), line.parse().ok()?))
    });
    match chosen {
        Some((file, line)) if place.line() == *line && place.file().ends_with(file.as_str()) => Ordering::Relaxed,
        _ => written,
    }
}

/// Whether `check`, a test of the running program, passes with the ordering of one operation made Relaxed: the one in the
/// workspace's `file` that reads `operation`.
///
/// It runs in a process of its own, because a failed check leaves Loom's threads behind.
pub fn passes_without(file: &str, operation: &str, check: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let source = fs::read_to_string(path).unwrap();
    let mut places = source.lines().zip(1..).filter(|(line, _)| line.contains(operation)).map(|(_, at)| at);
    let (Some(line), None) = (places.next(), places.next()) else {
        panic!("{operation} is not exactly once in {file}: name the operation as it reads now")
    };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", check])
        .env(WEAKENED, format!("{file}:{line}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "no check is called {check}");
    output.status.success()
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[doc = concat!("Stands for `core::sync::atomic::", stringify!($name), "`.")]
        #[derive(Debug, Default)]
        pub struct $name(loom::sync::atomic::$name);

        #[allow(missing_docs, reason = "the standard library's own names")]
        impl $name {
            pub fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            #[track_caller]
            pub fn load(&self, order: Ordering) -> $value {
                self.0.load(ordering(order, Location::caller()))
            }

            #[track_caller]
            pub fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, ordering(order, Location::caller()));
            }

            #[track_caller]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.0.swap(value, ordering(order, Location::caller()))
            }

            #[track_caller]
            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_or(value, ordering(order, Location::caller()))
            }

            #[track_caller]
            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                self.0.fetch_and(value, ordering(order, Location::caller()))
            }
        }
    };
}

atomic!(AtomicBool, bool);
atomic!(AtomicU8, u8);
atomic!(AtomicU16, u16);
atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

/// Stands for `spin::mutex::SpinMutex`.
#[derive(Debug)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// An open lock around `value`.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// Waits for the lock. It cannot be poisoned: a panic ends the check.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes the lock if it is open.
    #[track_caller]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}
