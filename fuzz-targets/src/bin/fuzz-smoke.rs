// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzzers without a fuzzer: replays each corpus, mutates it from a fixed seed, and then does the same with each
//! planted bug, which must be found. Runs on the stable toolchain; `cargo xtask test fuzz-smoke` starts it.
//!
//! ```text
//! fuzz-smoke [--target NAME] [--times N] [--seed N] [--corpus FOLDER] [--replay] [--list] [FILE…]
//! ```
//! With files, these alone are run through the named target. `--replay` runs the corpora and nothing else, as a measurement
//! of their coverage wants it.

#![forbid(unsafe_code)]
#![allow(clippy::panic, reason = "a panic of a target is caught here, and is what it looks for")]

use std::cell::RefCell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::slice;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fuzz_targets::mutate::{Random, mutate};
use fuzz_targets::{TARGETS, Target};

/// One input takes microseconds. What takes this long would go on for ever.
const TOO_LONG: Duration = Duration::from_secs(60);

/// The planted bugs may take more inputs than a run without bugs, so that a slip of the seed does not fail the run.
const PLANTED_TIMES: u32 = 4;

/// What the command line says.
struct Options {
    target: Option<String>,
    times: u32,
    seed: u64,
    corpus: PathBuf,
    replay: bool,
    list: bool,
    files: Vec<PathBuf>,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let mut options =
            Self { target: None, times: 1, seed: 1, corpus, replay: false, list: false, files: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            let number = |text: String| text.parse().map_err(|_| format!("'{text}' is not a number"));
            match argument.as_str() {
                "--target" => options.target = Some(value()?),
                "--times" => options.times = number(value()?)? as u32,
                "--seed" => options.seed = number(value()?)?,
                "--corpus" => options.corpus = value()?.into(),
                "--replay" => options.replay = true,
                "--list" => options.list = true,
                _ if argument.starts_with('-') => return Err(format!("unknown option {argument}")),
                _ => options.files.push(argument.into()),
            }
        }
        Ok(options)
    }

    fn targets(&self) -> Result<Vec<&'static Target>, String> {
        let wanted = |target: &&Target| self.target.as_ref().is_none_or(|name| name == target.name);
        let targets: Vec<_> = TARGETS.iter().filter(wanted).collect();
        if targets.is_empty() { Err("no such target; --list names them".into()) } else { Ok(targets) }
    }
}

fn main() -> ExitCode {
    let result = Options::read(std::env::args().skip(1)).and_then(|options| run(&options));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("fuzz-smoke: {message}");
            ExitCode::from(64)
        }
    }
}

fn run(options: &Options) -> Result<bool, String> {
    if options.list {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return Ok(true);
    }
    watch();
    listen();
    let (mut passed, mut failed) = (0, 0);
    for target in options.targets()? {
        let corpus = if options.files.is_empty() {
            read_folder(&options.corpus.join(target.name))?
        } else {
            options.files.iter().map(|file| read(file)).collect::<Result<_, _>>()?
        };
        let replay = options.replay || !options.files.is_empty();
        let times = if replay { 0 } else { options.times };
        let mut note = |good: bool| if good { passed += 1 } else { failed += 1 };
        note(is_clean(target, &corpus, times, options.seed));
        if !replay {
            for (what, body) in target.planted {
                note(is_found(target, what, *body, &corpus, options.seed));
            }
        }
    }
    println!("test result: {}. {passed} passed; {failed} failed; 0 ignored", if failed == 0 { "ok" } else { "FAILED" });
    Ok(failed == 0)
}

/// Runs the corpus and its mutations; nothing may be found.
fn is_clean(target: &Target, corpus: &[Vec<u8>], times: u32, seed: u64) -> bool {
    let start = Instant::now();
    let name = format!("fuzz::{}", target.name);
    let count = target.mutations.saturating_mul(times);
    match first_finding(target, target.run, corpus, count, seed) {
        None => {
            let total = corpus.len() as u64 + u64::from(count);
            println!("test {name} ... ok ({total} inputs, {:.1} s)", start.elapsed().as_secs_f64());
            true
        }
        Some(finding) => {
            println!("test {name} ... FAILED: {}", finding.message);
            match save(target, &finding.input) {
                Ok(file) => println!("  again: fuzz-smoke --target {} {}", target.name, file.display()),
                Err(error) => println!("  the input cannot be saved: {error}"),
            }
            false
        }
    }
}

/// Runs the corpus and its mutations with a bug planted, until it is found.
fn is_found(target: &Target, what: &str, body: fn(&[u8]), corpus: &[Vec<u8>], seed: u64) -> bool {
    let name = format!("fuzz::{}, planted: {what}", target.name);
    let count = target.mutations.saturating_mul(PLANTED_TIMES);
    match first_finding(target, body, corpus, count, seed) {
        // The finding must be the bug, not the target.
        Some(finding) if first_finding(target, target.run, slice::from_ref(&finding.input), 0, 0).is_some() => {
            println!("test {name} ... FAILED: the target stops at this input without a bug, too");
            false
        }
        Some(finding) => {
            let message = finding.message.lines().next().unwrap_or_default();
            let short: String = message.chars().take(100).collect();
            println!("test {name} ... ok (input {}: {short})", finding.number);
            true
        }
        None => {
            println!("test {name} ... FAILED: not found in {count} inputs");
            false
        }
    }
}

/// A panic and what led to it.
struct Finding {
    number: u64,
    input: Vec<u8>,
    message: String,
}

fn first_finding(target: &Target, body: fn(&[u8]), corpus: &[Vec<u8>], mutations: u32, seed: u64) -> Option<Finding> {
    let mut random = Random::new(seed);
    let fresh = (0..mutations).map(|_| mutate(corpus, target.longest, &mut random));
    for (number, input) in (1u64..).zip(corpus.iter().cloned().chain(fresh)) {
        STARTED.store(now(), Ordering::Relaxed);
        if let Ok(mut current) = CURRENT.try_lock() {
            current.0.clear();
            current.0.extend(&input);
            current.1 = target.name;
        }
        let result = panic::catch_unwind(AssertUnwindSafe(|| body(&input)));
        STARTED.store(0, Ordering::Relaxed);
        if result.is_err() {
            let message = MESSAGE.with_borrow_mut(std::mem::take);
            return Some(Finding { number, input, message });
        }
    }
    None
}

thread_local! {
    /// The last panic, in words.
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics for the report instead of printing them.
fn listen() {
    panic::set_hook(Box::new(|panic| {
        let text = panic.to_string().replace('\n', " ");
        MESSAGE.with_borrow_mut(|message| *message = text);
    }));
}

/// When the present input began, in milliseconds of [`now`], or zero.
static STARTED: AtomicU64 = AtomicU64::new(0);
/// The present input, and whose it is.
static CURRENT: Mutex<(Vec<u8>, &str)> = Mutex::new((Vec::new(), ""));

fn now() -> u64 {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    EPOCH.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

/// Ends the program if an input does not end. Allocates nothing while an input runs: a target may count allocations.
fn watch() {
    now();
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_secs(1));
            let started = STARTED.load(Ordering::Relaxed);
            if started != 0 && now().saturating_sub(started) > TOO_LONG.as_millis() as u64 {
                let (input, name) = CURRENT.lock().map(|current| current.clone()).unwrap_or_default();
                let file = TARGETS.iter().find(|it| it.name == name).and_then(|target| save(target, &input).ok());
                println!("test fuzz::{name} ... FAILED: an input takes more than {TOO_LONG:?}: {file:?}");
                println!("test result: FAILED. 0 passed; 1 failed; 0 ignored");
                std::process::exit(1);
            }
        }
    });
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// The files of a corpus by name, so that the order is the same everywhere.
fn read_folder(folder: &Path) -> Result<Vec<Vec<u8>>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

/// Keeps an input that found something, named by its content.
fn save(target: &Target, input: &[u8]) -> Result<PathBuf, String> {
    let folder = Path::new("target/fuzz-findings").join(target.name);
    let hash = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    let file = folder.join(format!("{hash:016x}"));
    fs::create_dir_all(&folder).and_then(|()| fs::write(&file, input)).map_err(|error| error.to_string())?;
    Ok(file)
}
