// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one exit costs under the SNP image: the guest of `exits`, once for each kind alone, so that what the reference host has
//! counted is that kind's.
//!
//! The counts are the figures: on hardware each of them is a world switch, and the model has as many as hardware would, but
//! for the writes of the GHCB MSR, which hardware intercepts for nobody, and SNP's instructions, which it executes and which are not
//! counted among the exits. Time and instructions hold the model's own work besides
//! Parados's, so they have no aim.

use std::path::PathBuf;

use igvm_tools::{Platform, write_atomically};
use serde_json::Value;

use super::exits::{KINDS, costs};
use super::figure::Figure;
use super::machine::Bench;
use crate::build;
use crate::failure::{Failure, Result, status};
use crate::image::Request;
use crate::options::{SNP_CPU, SNP_HOST_OPTIONS};
use crate::process::Ended;
use crate::qemu::Machine;
use crate::say;

/// What the host counts, what that is called in a figure, and the most of it that an exit should take: one round trip, that is
/// the guest's exit and Parados's request to go on, and no write of the GHCB MSR. Timers add a few among thousands.
const COUNTS: [(&str, &str, f64); 3] =
    [("exits", "host_exits", 2.05), ("requests", "requests", 1.03), ("ghcb_msr_writes", "ghcb_msr_writes", 0.01)];

/// What the guest prints last if it only makes exits, and how many it says.
const COUNTED: &str = "{\"counted\":";
/// The number that stands for no kind at all in its command line.
const NOTHING: usize = 0;

struct Exits<'a> {
    bench: &'a Bench,
    guest: PathBuf,
}

pub(super) fn measure(bench: &Bench, pairs: usize, figures: &mut Vec<Figure>) -> Result<()> {
    let exits = Exits { bench, guest: build::guest("exit-bench")? };
    say::progress("bench snp: exits by kind");
    let nothing = exits.counting(NOTHING)?;
    for (number, (kind, ..)) in (1..).zip(KINDS) {
        let counted = exits.counting(number)?;
        figures.extend(of_one_kind(kind, &counts(&nothing)?, &counts(&counted)?, made(&counted)?)?);
    }
    let mut ratios = vec![Vec::new(); KINDS.len()];
    for pair in 1..=pairs {
        say::progress(&format!("bench snp: exits, pair {pair} of {pairs}"));
        let (native, snp) = (exits.timed(Platform::Native, &[])?, exits.timed(Platform::Snp, &[])?);
        for ((kind, ..), ratios) in KINDS.iter().zip(&mut ratios) {
            let of = |costs: &super::exits::Costs| costs.get(*kind).copied().unwrap_or(f64::NAN);
            ratios.push(of(&snp) / of(&native));
        }
    }
    say::progress("bench snp: counting instructions");
    let counted = exits.timed(Platform::Snp, &["-icount", "shift=0,sleep=off"])?;
    for ((kind, ..), ratios) in KINDS.iter().zip(&ratios) {
        figures.extend(Figure::median(format!("exit.{kind}.snp.vs_native"), ratios, "ratio", None));
        let instructions = counted.get(*kind).copied().ok_or_else(|| broken(&format!("no instructions of {kind}")))?;
        let name = format!("exit.{kind}.snp.instructions_with_model");
        figures.push(Figure::fixed(name, instructions, "instructions", None));
    }
    Ok(())
}

impl Exits<'_> {
    fn machine(&self, platform: Platform, append: &str) -> Result<Machine> {
        let image = self.bench.scratch.file("snp-exits.igvm");
        let request = Request { platform, kernel: Some(&self.guest), append: Some(append), ..Request::default() };
        write_atomically(&image, &request.build()?.bytes)?;
        let host_options = if platform == Platform::Snp { SNP_HOST_OPTIONS } else { "" };
        Ok(Machine { cpu: SNP_CPU.into(), host_options: host_options.into(), ..self.bench.hosted(&image) })
    }

    /// The run of one kind.
    fn counting(&self, number: usize) -> Result<Ended> {
        self.bench.run(self.machine(Platform::Snp, &number.to_string())?, COUNTED)
    }

    /// The best cost of each kind in a run of all.
    fn timed(&self, platform: Platform, extra: &[&str]) -> Result<super::exits::Costs> {
        let extra = extra.iter().map(|&argument| argument.to_owned()).collect();
        let ended = self.bench.run(Machine { extra, ..self.machine(platform, "")? }, super::exits::LAST)?;
        Ok(costs(&String::from_utf8_lossy(&ended.console)))
    }
}

fn broken(what: &str) -> Failure {
    Failure::new(status::FAILED, format!("bench snp: {what}"))
}

/// What the host has counted.
fn counts(ended: &Ended) -> Result<[f64; COUNTS.len()]> {
    let host = ended.facts.get("host").ok_or_else(|| broken("the reference host counted nothing"))?;
    let count =
        |name: &str| host.get(name).and_then(Value::as_f64).ok_or_else(|| broken(&format!("no count of {name}")));
    let mut values = [0.0; COUNTS.len()];
    for ((name, ..), value) in COUNTS.iter().zip(&mut values) {
        *value = count(name)? - if *name == "exits" { count("instructions")? } else { 0.0 };
    }
    Ok(values)
}

/// How many exits the guest has made on purpose.
fn made(ended: &Ended) -> Result<f64> {
    let console = String::from_utf8_lossy(&ended.console);
    let number = console.lines().find_map(|line| line.trim().strip_prefix(COUNTED)?.strip_suffix('}')?.parse().ok());
    number.filter(|number| *number > 0.0).ok_or_else(|| broken("the guest made no exits"))
}

/// What a kind's exits took, beyond what a guest takes that makes none.
fn of_one_kind(kind: &str, nothing: &[f64], counted: &[f64], exits: f64) -> Result<Vec<Figure>> {
    let each = COUNTS.iter().zip(nothing.iter().zip(counted));
    let figures = each.map(|((_, name, aim), (nothing, counted))| {
        let each = ((counted - nothing) / exits * 1000.0).round() / 1000.0;
        Figure::fixed(format!("exit.{kind}.snp.{name}"), each.max(0.0), "a guest exit", Some(*aim))
    });
    let figures: Vec<_> = figures.collect();
    match figures.first() {
        // A guest exit that the host does not see is none.
        Some(first) if first.value < 1.0 => Err(broken(&format!("{kind}: {} host exits for each", first.value))),
        _ => Ok(figures),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_what_the_kind_adds() {
        let figures = of_one_kind("msr", &[1000.0, 400.0, 90.0], &[3010.0, 1404.0, 90.0], 1000.0).unwrap();
        let told: Vec<_> =
            figures.iter().map(|figure| (figure.name.as_str(), figure.value, figure.reached())).collect();
        assert_eq!(
            told,
            [
                ("exit.msr.snp.host_exits", 2.01, Some(true)),
                ("exit.msr.snp.requests", 1.004, Some(true)),
                ("exit.msr.snp.ghcb_msr_writes", 0.0, Some(true)),
            ]
        );
        let twice = of_one_kind("msr", &[0.0; 3], &[4000.0, 2000.0, 1000.0], 1000.0).unwrap();
        assert!(twice.iter().all(|figure| figure.reached() == Some(false)));
    }

    #[test]
    fn exits_that_nobody_saw_are_an_error() {
        let failure = of_one_kind("cpuid", &[1000.0, 0.0, 0.0], &[1100.0, 0.0, 0.0], 1000.0).unwrap_err();
        assert!(failure.message.contains("cpuid: 0.1 host exits"), "{}", failure.message);
    }
}
