// SPDX-License-Identifier: MIT OR Apache-2.0
//! One VM with the hostile guest: from its start to its end, watched from outside.
//!
//! The machine's RAM is a file, so that the paravisor's memory can be read when the guest says that it begins, and again when
//! the VM has ended, however it did: code, constants and page tables must be the same, and the canary must be whole. When
//! the guest is done, the power button is pressed, to which a paravisor that answers reacts, and the guest ends the VM in the
//! way that it was told.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use igvm_tools::Platform;
use image_abi::{IMAGE_BASE, LaunchBlock, Range, canary};
use serde_json::{Map, Value};

use super::monitor::Monitor;
use super::report::{Coverage, Line, Reader};
use crate::options::{SNP_CPU, SNP_HOST_OPTIONS};
use crate::process::{self, Cause, Console, Event, Next, Streams};
use crate::qemu::{Channel, Machine, Start};
use crate::record::Kind;
use crate::scratch::Scratch;

/// Processors: one that watches, two that do harm.
const PROCESSORS: u32 = 3;
pub(super) const MEMORY: u64 = 256 << 20;
/// As much of the paravisor's memory as is looked at.
const REGION: usize = if image_abi::REGION_LIMIT < 4 << 20 { image_abi::REGION_LIMIT as usize } else { 4 << 20 };
/// What the start of a machine may take, and what a seed may, on a loaded machine.
const START: Duration = Duration::from_secs(60);
const SEED: Duration = Duration::from_secs(30);

/// How the two searches for the canary begin what they say.
pub(super) const LEAK: &str = "the guest sees the paravisor's memory";
pub(super) const CHANGED: &str = "the canary in the paravisor's memory has changed";

/// What a VM is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) first: u64,
    pub(super) count: u64,
    /// The part of the first seed to begin with.
    pub(super) part: u64,
    /// How the VM ends: an index of [`ENDINGS`].
    pub(super) ending: usize,
    /// Exits that earlier VMs made of the first seed.
    pub(super) exits: u64,
}

/// The ends that the guest knows, in its order (`guests/src/bin/hostile/plan.rs`).
pub(super) const ENDINGS: [Kind; 7] =
    [Kind::PowerOff, Kind::Reset, Kind::Reset, Kind::Reset, Kind::TestExit, Kind::TripleFault, Kind::Reset];

impl Order {
    /// The guest's command line.
    pub(super) fn command_line(&self, platform: Platform) -> String {
        // A tick of 2 ms: on the model of SNP an exit takes as long as the shortest one.
        let slowness = if platform == Platform::Snp { 2400 } else { 0 };
        let Self { first, count, part, ending, exits } = self;
        format!("{first} {count} {part} {ending} {exits} {slowness}")
    }
}

/// What a VM did.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The last part that began.
    pub(super) last: Option<(u64, u64)>,
    pub(super) done: bool,
    /// How the VM ended, if by Parados's word.
    pub(super) end: Option<Kind>,
    /// Seeds that came to their end.
    pub(super) seeds: Vec<u64>,
    /// What the victims' own exits were, by seed.
    pub(super) exits: BTreeMap<u64, u64>,
    pub(super) stuck: u64,
    pub(super) lost: u64,
    pub(super) coverage: Coverage,
    pub(super) statistics: Map<String, Value>,
    /// QEMU itself died.
    pub(super) emulator_crashed: bool,
    /// Nothing moved any more.
    pub(super) stood_still: bool,
    /// What Parados logged last.
    pub(super) last_words: String,
    /// Why the run failed.
    pub(super) failures: Vec<String>,
}

/// Memory of the paravisor that never changes, and its canary.
struct Snapshot {
    fixed: Vec<Vec<u8>>,
    canary: Option<u64>,
}

/// The paravisor's memory, from outside.
struct Memory<'a> {
    file: PathBuf,
    block: &'a LaunchBlock,
}

struct Watcher<'a> {
    monitor: Monitor,
    memory: &'a Memory<'a>,
    reader: Reader,
    before: Option<Result<Snapshot, String>>,
    outcome: Outcome,
    log: Vec<String>,
}

/// What a VM is made of.
pub(super) struct Program<'a> {
    pub(super) platform: Platform,
    pub(super) qemu: &'a Path,
    pub(super) host: &'a Path,
    pub(super) image: &'a Path,
}

impl Program<'_> {
    fn machine(&self) -> Machine {
        let start = Start::Host { host: self.host.to_owned(), image: self.image.to_owned() };
        let machine = Machine { processors: PROCESSORS, memory: MEMORY, ..Machine::new(self.qemu.to_owned(), start) };
        match self.platform {
            Platform::Snp => Machine { cpu: SNP_CPU.into(), host_options: SNP_HOST_OPTIONS.into(), ..machine },
            Platform::Native | Platform::Tdx => machine,
        }
    }
}

/// Runs a VM.
pub(super) fn run(program: &Program, block: &LaunchBlock, order: Order) -> Result<Outcome, String> {
    let scratch = Scratch::new().map_err(|failure| failure.message)?;
    let (monitor, socket) = Monitor::new(&scratch)?;
    let memory = Memory { file: scratch.file("ram"), block };
    let machine =
        Machine { monitor: Some(Channel::Socket(socket)), memory_file: Some(memory.file.clone()), ..program.machine() };
    let seeds = u32::try_from(order.count).unwrap_or(u32::MAX);
    let deadline = Some(Instant::now() + START + SEED.saturating_mul(seeds));
    let streams = Streams { console: Console::Kept, command: false, power_button: false, deadline };
    let (reader, outcome) = (Reader::default(), Outcome::default());
    let mut watcher = Watcher { monitor, memory: &memory, reader, before: None, outcome, log: Vec::new() };
    let ended = process::run(machine, &streams, &mut |event| watcher.hear(event)).map_err(|failure| failure.message)?;
    let Watcher { mut outcome, log, before, .. } = watcher;
    outcome.end = ended.end.as_ref().map(|end| end.kind);
    outcome.statistics = ended.facts;
    let said = || log.iter().rev().take(3).rev().cloned().collect::<Vec<_>>().join(" / ");
    outcome.last_words = log.last().cloned().unwrap_or_default();
    match (&ended.end, &ended.cause) {
        (Some(end), _) if matches!(end.kind, Kind::Terminated | Kind::BadImage | Kind::HostError) => {
            outcome.failures.push(format!(
                "the VM was terminated: {} (detail {:#x}); {}",
                end.reason,
                end.detail,
                said()
            ));
        }
        (Some(_), _) => {}
        (None, Cause::Timeout) => outcome.stood_still = true,
        // A signal is the emulator's own end: whatever Parados does, it cannot raise one.
        (None, Cause::Exited(status)) if status.signal().is_some() => {
            outcome.emulator_crashed = true;
            outcome.last_words =
                ended.qemu_said.lines().find(|line| line.contains(':')).unwrap_or("silently").to_owned();
        }
        (None, cause) => outcome.failures.push(format!("QEMU ended: {cause:?}, {} {}", ended.qemu_said.trim(), said())),
    }
    if outcome.done && outcome.failures.is_empty() && outcome.end != ENDINGS.get(order.ending).copied() {
        outcome.failures.push(format!("the end was {:?} instead of what the guest asked for; {}", outcome.end, said()));
    }
    match before {
        Some(before) => {
            outcome.failures.extend(before.and_then(|before| memory.snapshot()?.is_still(&before)).err());
        }
        // QEMU may die at any time.
        None if outcome.emulator_crashed => {}
        None => outcome.failures.push("the guest never said that it begins".into()),
    }
    let claimed: u64 = outcome.exits.values().sum();
    if let Some(counted) = exits_of_victims(&outcome.statistics).filter(|counted| *counted < claimed) {
        outcome.failures.push(format!("the victims say that they made {claimed} exits, Parados counted {counted}"));
    }
    if let Some(line) = log.iter().find(|line| line.contains("panicked")) {
        outcome.failures.push(line.clone());
    }
    Ok(outcome)
}

impl Watcher<'_> {
    fn hear(&mut self, event: Event) -> Next {
        match event {
            Event::Line(line) => self.log.push(line.to_owned()),
            Event::Console(bytes) => {
                for line in self.reader.push(bytes) {
                    self.line(line);
                }
            }
            Event::Started(_) | Event::Output(_) | Event::Facts(_) => {}
        }
        Next::Continue
    }

    fn line(&mut self, line: Line) {
        let outcome = &mut self.outcome;
        match line {
            Line::Part { seed, part } => outcome.last = Some((seed, part)),
            Line::Made { seed, exits } => *outcome.exits.entry(seed).or_default() += exits,
            Line::Seed { seed, stuck } => {
                outcome.seeds.push(seed);
                outcome.stuck += stuck;
            }
            Line::Lost => outcome.lost += 1,
            Line::Cover(coverage) => outcome.coverage.add(&coverage),
            Line::Leak(what) => outcome.failures.push(format!("{LEAK}: {what}")),
            Line::Begin => self.before = Some(self.memory.snapshot()),
            Line::Done if !outcome.done => {
                outcome.done = true;
                outcome.failures.extend(self.monitor.press_power_button().err());
            }
            Line::Done => {}
        }
    }
}

impl Memory<'_> {
    fn snapshot(&self) -> Result<Snapshot, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.file.display());
        let file = File::open(&self.file).map_err(failed)?;
        // The whole of what the region may be: its length is in no message that comes before the end. Below 2 GiB the file
        // is the physical address space.
        let mut region = vec![0; REGION];
        file.read_exact_at(&mut region, IMAGE_BASE).map_err(failed)?;
        let piece = |range: &Range| {
            let start = usize::try_from(range.start.checked_sub(IMAGE_BASE)?).ok()?;
            region.get(start..start.checked_add(usize::try_from(range.bytes).ok()?)?).map(<[u8]>::to_vec)
        };
        let fixed = [&self.block.text, &self.block.rodata, &self.block.page_tables].map(piece);
        let fixed = fixed.into_iter().collect::<Option<_>>().ok_or("the image lies outside the region")?;
        Ok(Snapshot { fixed, canary: find_canary(&region) })
    }
}

impl Snapshot {
    fn is_still(&self, before: &Self) -> Result<(), String> {
        match (before.canary, self.canary) {
            (None, _) => return Err("no canary was planted in the paravisor's memory".into()),
            (at, now) if at != now => return Err(CHANGED.into()),
            _ => {}
        }
        if before.fixed == self.fixed { Ok(()) } else { Err("the paravisor's code or constants have changed".into()) }
    }
}

/// What Parados counted on the victims' processors, but for what they did nothing for. `None` if it told no figures.
fn exits_of_victims(statistics: &Map<String, Value>) -> Option<u64> {
    const NOT_THEIRS: [&str; 2] = ["host_interrupt", "window"];
    let vcpus = statistics.get("vcpus")?.as_array()?;
    let victims = vcpus.iter().filter(|vcpu| vcpu.get("index").and_then(Value::as_u64) != Some(0));
    let kinds = victims.filter_map(|vcpu| vcpu.get("exits")?.as_object()).flatten();
    let histograms =
        kinds.filter(|(kind, _)| !NOT_THEIRS.contains(&kind.as_str())).filter_map(|(_, it)| it.as_object());
    Some(histograms.flat_map(Map::values).filter_map(Value::as_u64).sum())
}

/// Where a whole canary begins.
fn find_canary(region: &[u8]) -> Option<u64> {
    let words: Vec<u64> = region.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let whole = |window: &[u64]| (0..).map(canary::word).zip(window).all(|(word, found)| word == *found);
    let at = words.windows(canary::WORDS as usize).position(whole)?;
    Some(IMAGE_BASE + 8 * at as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_victims_own_exits_count() {
        let exits = json!({ "cpuid": { "9": 1, "10": 2 }, "mmio": { "3": 4 }, "host_interrupt": { "9": 100 } });
        let vcpus = [0, 1, 2].map(|index| json!({ "index": index, "exits": exits }));
        let Value::Object(statistics) = json!({ "vcpus": vcpus }) else { panic!() };
        assert_eq!(exits_of_victims(&statistics), Some(14));
        assert_eq!(exits_of_victims(&Map::new()), None);
    }

    #[test]
    fn a_changed_byte_and_a_lost_canary_are_told() {
        let snapshot = |byte, canary| Snapshot { fixed: vec![vec![1, byte]], canary };
        let before = snapshot(2, Some(7));
        assert_eq!(snapshot(2, Some(7)).is_still(&before), Ok(()));
        assert!(snapshot(3, Some(7)).is_still(&before).is_err());
        assert_eq!(snapshot(2, None).is_still(&before), Err(CHANGED.into()));
        assert!(snapshot(2, None).is_still(&snapshot(2, None)).is_err());
    }

    #[test]
    fn a_canary_is_found_only_whole() {
        let mut region: Vec<u8> = vec![0; 64];
        region.extend((0..canary::WORDS).flat_map(|index| canary::word(index).to_le_bytes()));
        region.extend([0; 64]);
        assert_eq!(find_canary(&region), Some(IMAGE_BASE + 64));
        for changed in [64, 64 + 2048, 64 + 4095] {
            let mut bad = region.clone();
            bad[changed] ^= 1;
            assert_eq!(find_canary(&bad), None, "{changed}");
        }
    }
}
