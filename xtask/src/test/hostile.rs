// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test hostile`: a guest that means harm (`guests/src/bin/hostile`), with many seeds, on the native platform or, with
//! `--platform snp`, on the SNP image.
//!
//! A seed fixes what the guest does; when its interrupts come depends on the machine. What may legitimately end a VM, a
//! reset or a triple fault that the noise hits upon, is an ordinary end, after which the next part of the seed goes on
//! in a new VM.
//!
//! Fails if Parados panics, ends the VM by itself or stops answering; if anything of its memory can be read or changes; if
//! a seed makes too few exits; and, over a whole set of seeds, if any point of `guests::coverage` or any of Parados's
//! counters stayed untouched.

mod monitor;
mod one_run;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use igvm_tools::{Platform, write_atomically};
use image_abi::{LaunchBlock, flag};
use serde_json::Value;

use self::one_run::{ENDINGS, MEMORY, Order, Outcome, Program};
use self::report::Coverage;
use super::{Totals, crew};
use crate::build;
use crate::failure::Result;
use crate::image::Request;
use crate::qemu::Qemu;
use crate::say;
use crate::scratch::Scratch;

/// Seeds of a set, unless the user says otherwise: on SNP those of CI are fewer than a whole set.
const SHORT: u64 = 28;
const SHORT_ON_SNP: u64 = 4;
const LONG: u64 = 2048;
/// Seeds of one VM.
const TOGETHER: u64 = 4;
/// Parts of a seed (`guests/src/bin/hostile/plan.rs`).
const PARTS: u64 = 16;
/// VMs that one set of seeds may take: each seed may end several.
const PATIENCE: u64 = 8 * TOGETHER;
/// What every seed makes at least.
const EXITS: u64 = 10_000;

/// QEMU 7.2 has bugs that noise hits upon (`docs/hostile-guests.md`): one in so many seeds may.
const MOST_CRASHES: u64 = 8;
/// VMs in which nothing moves any more, and that go on when the same part is run once more: one and one in so many seeds.
const MOST_STANDSTILLS: u64 = 64;

/// Counters of Parados that a whole set must move, by their name in its statistics: each kind of exit and each event, but
/// for [`UNMOVED`].
const COUNTERS: [&str; 29] = [
    "cpuid",
    "rdmsr",
    "wrmsr",
    "port_in",
    "port_out",
    "mmio",
    "hlt",
    "host_interrupt",
    "window",
    "register",
    "other",
    "interrupts",
    "nmis",
    "exceptions",
    "messages",
    "level_ends",
    "apic_timer",
    "pc_timer",
    "kicks",
    "power_button",
    "sleeps",
    "inits",
    "starts",
    "unknown_msr",
    "ignored_msr_write",
    "unknown_port",
    "unknown_mmio",
    "not_emulated",
    "mismatch",
];
/// Of these, the ones that count exits.
const EXIT_KINDS: usize = 11;

/// Counters that need not move, each with the reason.
#[cfg(test)]
const UNMOVED: [(&str, &str); 3] = [
    ("external_interrupts", "needs a victim's LINT0 as ExtINT and an open 8259, which noise makes in some sets only"),
    ("console_input", "nobody types"),
    ("unexpected_interrupts", "the reference host sends none that Parados did not ask for"),
];

/// Those that need not move on SNP either.
const UNMOVED_ON_SNP: [(&str, &str); 1] = [("window", "the processor itself delivers what its VMSA offers")];

/// Which seeds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choice {
    pub(super) seed: Option<u64>,
    pub(super) count: Option<u64>,
    pub(super) slow: bool,
}

/// Everything that the VMs said, added up.
#[derive(Default)]
struct Sum {
    seeds: Vec<u64>,
    /// By seed, over all its VMs.
    exits: BTreeMap<u64, u64>,
    coverage: Coverage,
    counters: [u64; COUNTERS.len()],
    early: u64,
    /// Of these, the ones by QEMU's own death.
    crashes: u64,
    /// And those in which nothing moved any more.
    standstills: u64,
    stuck: u64,
    lost: u64,
    failures: Vec<String>,
}

/// What all VMs share.
struct Bench {
    platform: Platform,
    qemu: PathBuf,
    host: PathBuf,
    guest: PathBuf,
    paravisor: PathBuf,
    sum: Mutex<Sum>,
}

/// On one platform, or on both. A seed alone is the native platform's, unless the user says otherwise.
pub(super) fn all(qemu: Option<&Path>, choice: Choice, platform: Option<Platform>) -> Result<Totals> {
    let mut totals = Totals::default();
    for own in [Platform::Native, Platform::Snp] {
        if platform.map_or(choice.seed.is_none() || own == Platform::Native, |wanted| wanted == own) {
            totals += run(qemu, choice, own)?;
        }
    }
    Ok(totals)
}

fn run(qemu: Option<&Path>, choice: Choice, platform: Platform) -> Result<Totals> {
    let first = choice.seed.unwrap_or(1);
    let one = u64::from(choice.seed.is_some());
    let short = if platform == Platform::Snp { SHORT_ON_SNP } else { SHORT };
    let whole = if choice.slow { LONG } else { short };
    let count = choice.count.unwrap_or(if one != 0 { 1 } else { whole });
    say::progress(&format!(
        "hostile guests, {}, seeds {first} to {}",
        platform.name(),
        first.saturating_add(count - 1)
    ));
    let bench = Bench {
        platform,
        qemu: Qemu::find(qemu)?.path,
        host: build::reference_host()?,
        guest: build::guest("hostile")?,
        paravisor: build::paravisor_for(platform)?,
        sum: Mutex::default(),
    };
    let begun = Instant::now();
    let orders: Vec<Order> = (0..count.div_ceil(TOGETHER))
        .map(|index| Order {
            first: first + index * TOGETHER,
            count: TOGETHER.min(count - index * TOGETHER),
            part: 0,
            ending: index as usize % ENDINGS.len(),
            exits: 0,
        })
        .collect();
    bench.all(&orders);
    let Bench { sum, qemu, host, guest, platform, .. } = bench;
    let sum = sum.into_inner().unwrap_or_default();
    let mut totals = conclude(&sum, platform, count, count >= SHORT, begun.elapsed().as_secs_f64());
    if choice.seed.is_none() && platform == Platform::Native {
        let paravisor = build::paravisor_with_leak()?;
        totals += planted(&Bench { platform, qemu, host, guest, paravisor, sum: Mutex::default() });
    }
    Ok(totals)
}

/// A paravisor that gives its guest the canary's page: both searches must say so, the one from outside when a reset has
/// ended the VM.
fn planted(bench: &Bench) -> Totals {
    let begun = Instant::now();
    let outcome = bench.vm(Order { first: 1, count: 1, part: PARTS - 1, ending: 1, exits: EXITS });
    let failures = outcome.map_or_else(|why| vec![why], |outcome| outcome.failures);
    let found = [one_run::LEAK, one_run::CHANGED].iter().all(|what| failures.iter().any(|why| why.contains(what)));
    let seconds = begun.elapsed().as_secs_f64();
    let word = if found { "ok".to_owned() } else { format!("FAILED: not found, but {failures:?}") };
    say::out(&format!("test hostile::planted_leak_is_found ... {word} ({seconds:.1} s)\n"));
    Totals { passed: found.into(), failed: (!found).into(), skipped: 0 }
}

impl Bench {
    /// Two processors a VM.
    fn all(&self, orders: &[Order]) {
        crew::each(orders, |_| 2, |order| self.one(*order));
    }

    /// The seeds of one order, in as many VMs as they take.
    fn one(&self, order: Order) {
        let mut rest = order;
        let mut stood_at = None;
        for _ in 0..PATIENCE {
            let mut outcome = self.vm(rest).unwrap_or_else(|why| Outcome { failures: vec![why], ..Outcome::default() });
            // What a seed does to Parados it does again; what QEMU's threads do to each other it need not.
            let at = place(rest, &outcome);
            if outcome.stood_still && stood_at.replace(at) == Some(at) {
                outcome.failures.push("nothing moves any more, twice in this part".into());
            }
            let next = after(rest, &outcome);
            self.add(rest, outcome);
            match next {
                Some(next) => rest = next,
                None => return,
            }
        }
        self.add(rest, Outcome { failures: vec!["too many VMs ended early".into()], ..Outcome::default() });
    }

    fn vm(&self, order: Order) -> std::result::Result<Outcome, String> {
        let scratch = Scratch::new().map_err(|failure| failure.message)?;
        let line = order.command_line(self.platform);
        let request = Request {
            platform: self.platform,
            kernel: Some(&self.guest),
            append: Some(&line),
            memory: MEMORY,
            paravisor: Some(&self.paravisor),
            flags: flag::TEST_DEVICES | flag::STATISTICS | flag::CANARY | window(order),
            ..Request::default()
        };
        let image = request.build().map_err(|failure| failure.message)?;
        let block: LaunchBlock = image.report.launch_block.ok_or("the image has no launch block")?;
        let file = scratch.file("image.igvm");
        write_atomically(&file, &image.bytes).map_err(|error| error.to_string())?;
        let program = Program { platform: self.platform, qemu: &self.qemu, host: &self.host, image: &file };
        one_run::run(&program, &block, order)
    }

    fn add(&self, order: Order, outcome: Outcome) {
        let Ok(mut sum) = self.sum.lock() else { return };
        let at = outcome.last.map_or_else(String::new, |(seed, part)| format!(", last seed {seed} part {part}"));
        for failure in &outcome.failures {
            let Order { first, count, part, .. } = order;
            let again =
                format!("cargo xtask test hostile --platform {} --seed {first} --seeds {count}", self.platform.name());
            let why = format!("seeds {first} to {}, part {part}{at}: {failure}; again: {again}", first + count - 1);
            say::out(&format!("test hostile ... FAILED: {why}\n"));
            sum.failures.push(why);
        }
        if !outcome.done && outcome.failures.is_empty() {
            let what = match outcome {
                Outcome { emulator_crashed: true, .. } => "QEMU crashed",
                Outcome { stood_still: true, .. } => "nothing moves any more, so once more",
                _ => "an ordinary end",
            };
            say::progress(&format!("{what}{at}: {:?} {}", outcome.end, outcome.last_words));
            sum.early += 1;
            sum.crashes += u64::from(outcome.emulator_crashed);
            sum.standstills += u64::from(outcome.stood_still);
        }
        let statistics = Value::Object(outcome.statistics);
        for (counter, name) in sum.counters.iter_mut().zip(COUNTERS) {
            *counter += counted(&statistics, name);
        }
        sum.coverage.add(&outcome.coverage);
        sum.stuck += outcome.stuck;
        sum.lost += outcome.lost;
        sum.seeds.extend(outcome.seeds);
        for (seed, exits) in outcome.exits {
            *sum.exits.entry(seed).or_default() += exits;
        }
    }
}

/// Three VMs in four show the guest its statistics; in the others nothing is at their place.
fn window(order: Order) -> u32 {
    if order.first / TOGETHER % 4 == 3 { 0 } else { flag::GUEST_STATISTICS }
}

/// The seed and the part at which a VM ended.
fn place(order: Order, outcome: &Outcome) -> (u64, u64) {
    let (seed, part) = outcome.last.unwrap_or((order.first, order.part));
    (seed.clamp(order.first, order.first + order.count - 1), part)
}

/// What is left of an order after a VM; `None` if nothing is, or if the VM failed.
fn after(order: Order, outcome: &Outcome) -> Option<Order> {
    if outcome.done || !outcome.failures.is_empty() {
        return None;
    }
    let (seed, part) = place(order, outcome);
    let before = if seed == order.first { order.exits } else { 0 };
    let exits = before + outcome.exits.get(&seed).unwrap_or(&0);
    // A part behind the last one: the guest makes what exits are missing, and the seed's end.
    let part = if outcome.stood_still { part } else { part + 1 };
    Some(Order { first: seed, count: order.first + order.count - seed, part, exits, ..order })
}

/// The sum of all numbers under a name, wherever it stands: a counter may be a number, or several.
fn counted(stats: &Value, name: &str) -> u64 {
    fn total(value: &Value) -> u64 {
        match value {
            Value::Object(object) => object.values().map(total).sum(),
            other => other.as_u64().unwrap_or(0),
        }
    }
    match stats {
        Value::Object(object) => {
            object.iter().map(|(key, value)| if key == name { total(value) } else { counted(value, name) }).sum()
        }
        Value::Array(array) => array.iter().map(|value| counted(value, name)).sum(),
        _ => 0,
    }
}

fn conclude(sum: &Sum, platform: Platform, count: u64, whole: bool, seconds: f64) -> Totals {
    let mut failures = sum.failures.len();
    let mut fail = |why: String| {
        say::out(&format!("test hostile ... FAILED: {why}\n"));
        failures += 1;
    };
    let mut seeds = sum.seeds.clone();
    seeds.sort_unstable();
    seeds.dedup();
    if sum.failures.is_empty() && seeds.len() as u64 != count {
        fail(format!("{} of {count} seeds came to their end", seeds.len()));
    }
    let made = |seed| sum.exits.get(&seed).copied().unwrap_or(0);
    let least = seeds.iter().map(|seed| (made(*seed), *seed)).min().unwrap_or_default();
    for seed in seeds.iter().filter(|seed| made(**seed) < EXITS) {
        fail(format!("the victims of seed {seed} made {} exits, expected {EXITS}", made(*seed)));
    }
    let exits: u64 = sum.counters.iter().take(EXIT_KINDS).sum();
    if sum.crashes > 2 + count / MOST_CRASHES {
        fail(format!("QEMU crashed {} times", sum.crashes));
    }
    if sum.standstills > 1 + count / MOST_STANDSTILLS {
        fail(format!("{} times nothing moved any more", sum.standstills));
    }
    let avx = platform != Platform::Snp;
    let (touched, all) = sum.coverage.count(avx);
    if whole {
        let missing = sum.coverage.missing(avx);
        if !missing.is_empty() {
            fail(format!("never touched: {}", missing.join(", ")));
        }
        let excused = |name: &str| platform == Platform::Snp && UNMOVED_ON_SNP.iter().any(|(it, _)| *it == name);
        for (name, _) in COUNTERS.iter().zip(sum.counters).filter(|(name, count)| *count == 0 && !excused(name)) {
            fail(format!("Parados never counted '{name}'"));
        }
    }
    let Sum { early, crashes, standstills, stuck, lost, .. } = sum;
    let word = if failures == 0 { "ok" } else { "FAILED" };
    say::out(&format!(
        "test hostile::{count}_seeds ... {word} ({seconds:.1} s; {exits} exits, the victims' own at least {} in a seed (in \
         {}); {touched} of {all} points touched; VMs that ended early: {early}, of these by a crash of QEMU: {crashes}, \
         because nothing moved: {standstills}; \
         victims that stood still: {stuck}, that crashed: {lost})\n",
        least.0, least.1,
    ));
    Totals { passed: u32::from(failures == 0), failed: u32::try_from(failures).unwrap_or(u32::MAX), skipped: 0 }
}

#[cfg(test)]
mod tests {
    use devices::pc::{Answer, Pc, PcConfig, PcHost};
    use guests::coverage::Point;
    use serde_json::json;
    use vmm_interface::{Console, Instant, InterruptMessage, Lifecycle};

    use super::*;

    struct Nobody;

    impl PcHost for Nobody {
        fn now(&self) -> Instant {
            Instant(0)
        }
        fn transmit(&mut self, _: Console, _: u8) {}
        fn send(&mut self, _: &InterruptMessage) -> bool {
            true
        }
        fn pic_output(&mut self, _: bool) {}
        fn request(&mut self, _: Lifecycle) {}
    }

    /// A new device must be on the guest's list, or nothing would say that it is never touched.
    #[test]
    fn the_guest_knows_every_port_of_every_device() {
        let config = PcConfig {
            processors: 3,
            memory_below_4g: MEMORY,
            memory_above_4g: 0,
            test_devices: true,
            command_console: false,
            unix_time: 0,
        };
        let mut pc = Pc::new(&config).unwrap();
        for port in 0..=u16::MAX {
            let found = matches!(pc.port_read(port, 1, &mut Nobody), Answer::Found(_));
            assert_eq!(found, Point::port(port, false).is_some(), "port {port:#x}");
        }
    }

    /// A new counter must be on the list, or nothing would say that it never moves.
    #[test]
    fn every_counter_of_parados_is_watched_or_has_a_reason() {
        use paravisor_core::statistics::{Events, Kind};
        let kinds = Kind::ALL.iter().map(|kind| kind.name());
        assert_eq!(COUNTERS.get(..EXIT_KINDS).unwrap(), kinds.collect::<Vec<_>>());
        let events = Events::NAMES.iter().copied();
        let unmoved = |name: &&str| UNMOVED.iter().any(|(unmoved, _)| unmoved == name);
        let (free, watched): (Vec<_>, Vec<_>) = events.partition(unmoved);
        assert_eq!(COUNTERS.get(EXIT_KINDS..).unwrap(), watched);
        assert_eq!(free.len(), UNMOVED.len());
    }

    const ORDER: Order = Order { first: 5, count: 4, part: 0, ending: 3, exits: 70 };

    fn ended(last: Option<(u64, u64)>, done: bool) -> Outcome {
        Outcome { last, done, ..Outcome::default() }
    }

    #[test]
    fn the_next_part_goes_on_after_an_early_end() {
        assert_eq!(after(ORDER, &ended(Some((8, 15)), true)), None);
        let next = |seed, part| after(ORDER, &ended(Some((seed, part)), false));
        assert_eq!(next(6, 3), Some(Order { first: 6, count: 3, part: 4, exits: 0, ..ORDER }));
        assert_eq!(next(6, 15), Some(Order { first: 6, count: 3, part: 16, exits: 0, ..ORDER }));
        assert_eq!(next(8, 20), Some(Order { first: 8, count: 1, part: 21, exits: 0, ..ORDER }));
        let still = Outcome { stood_still: true, ..ended(Some((6, 3)), false) };
        assert_eq!(after(ORDER, &still).map(|order| (order.first, order.part)), Some((6, 3)), "the same part again");
        assert_eq!(after(ORDER, &ended(None, false)), Some(Order { part: 1, ..ORDER }));
        let failed = Outcome { failures: vec!["x".into()], ..ended(Some((6, 3)), false) };
        assert_eq!(after(ORDER, &failed), None);
    }

    #[test]
    fn exits_of_a_seed_add_up_over_its_vms() {
        let exits = [(5, 3000), (6, 400)].into();
        let outcome = Outcome { exits, ..ended(Some((5, 3)), false) };
        assert_eq!(after(ORDER, &outcome).unwrap().exits, 3070);
        let outcome = Outcome { last: Some((6, 1)), ..outcome };
        assert_eq!(after(ORDER, &outcome).unwrap().exits, 400);
    }

    #[test]
    fn counters_are_found_in_any_shape() {
        assert_eq!(counted(&json!({ "cpuid": 3, "mmio": 4 }), "cpuid"), 3);
        let nested =
            json!({ "vcpus": [{ "exits": { "cpuid": { "9": 1, "10": 2 } } }, { "exits": { "cpuid": { "9": 4 } } }] });
        assert_eq!(counted(&nested, "cpuid"), 7);
        assert_eq!(counted(&nested, "mmio"), 0);
    }
}
