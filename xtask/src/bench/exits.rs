// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one exit costs: the same guest (`guests/src/bin/exit-bench.rs`) under Parados and on the floor (`floor.rs` there),
//! alternating, in the same QEMU.
//!
//! Time comes as a ratio to the floor. With `-icount shift=0` QEMU's time-stamp counter counts instructions, so that the
//! same guest also says how many an exit takes: exact, and the same on every machine. A second image, without statistics,
//! says how many of them go into counting and measuring.

use std::collections::BTreeMap;
use std::path::PathBuf;

use igvm_tools::write_atomically;
use serde_json::Value;

use super::figure::Figure;
use super::machine::Bench;
use crate::build;
use crate::failure::{Failure, Result, status};
use crate::image::Request;
use crate::qemu::Machine;
use crate::say;

/// The kinds of exit, each with its aims: time against the floor, and instructions.
pub(super) const KINDS: [(&str, f64, Option<f64>); 4] =
    [("cpuid", 1.15, Some(300.0)), ("msr", 1.15, Some(300.0)), ("port", 1.15, Some(300.0)), ("mmio", 1.5, None)];

/// What statistics may take of a CPUID exit, in instructions.
const STATISTICS_AIM: f64 = 12.0;

/// More than that, and the floor is none.
const FLOOR_INSTRUCTIONS: f64 = 70.0;

/// What the guest prints last.
pub(super) const LAST: &str = "\"kind\":\"mmio\"";

/// The best of a guest's loops, by kind: ticks for one exit.
pub(super) type Costs = BTreeMap<String, f64>;

struct Exits<'a> {
    bench: &'a Bench,
    image: PathBuf,
    /// The image without statistics.
    plain: PathBuf,
    floor: PathBuf,
    guest: PathBuf,
}

pub(super) fn measure(bench: &Bench, pairs: usize, figures: &mut Vec<Figure>) -> Result<()> {
    let (guest, floor) = (build::guest("exit-bench")?, build::guest("floor")?);
    let (image, plain) = (bench.scratch.file("exits.igvm"), bench.scratch.file("plain.igvm"));
    let paravisor = bench.scratch.file("plain.elf");
    build::paravisor_without_statistics(&paravisor)?;
    let request = Request { kernel: Some(&guest), ..Request::default() };
    write_atomically(&image, &request.build()?.bytes)?;
    write_atomically(&plain, &Request { paravisor: Some(&paravisor), ..request }.build()?.bytes)?;
    let exits = Exits { bench, image, plain, floor, guest };
    let mut ratios: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut of_statistics: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for pair in 1..=pairs {
        say::progress(&format!("bench exits: pair {pair} of {pairs}"));
        let (floor, native, plain) = (exits.floor(&[])?, exits.native(&[])?, exits.plain(&[])?);
        for (kind, cost) in native {
            let of = |others: &Costs| cost / others.get(&kind).copied().unwrap_or(f64::NAN);
            let (of_floor, of_plain) = (of(&floor), of(&plain));
            of_statistics.entry(kind.clone()).or_default().push(of_plain);
            ratios.entry(kind).or_default().push(of_floor);
        }
    }
    say::progress("bench exits: counting instructions");
    let count = ["-icount", "shift=0,sleep=off"];
    let native = exits.native(&count)?;
    figures.extend(summary(&ratios, &exits.floor(&count)?, &native)?);
    figures.extend(of_statistics_alone(&of_statistics, &exits.plain(&count)?, &native)?);
    Ok(())
}

impl Exits<'_> {
    fn floor(&self, extra: &[&str]) -> Result<Costs> {
        self.run(self.bench.bare(&self.floor, Some(&self.guest), ""), extra)
    }

    fn native(&self, extra: &[&str]) -> Result<Costs> {
        self.run(self.bench.hosted(&self.image), extra)
    }

    fn plain(&self, extra: &[&str]) -> Result<Costs> {
        self.run(self.bench.hosted(&self.plain), extra)
    }

    fn run(&self, machine: Machine, extra: &[&str]) -> Result<Costs> {
        let extra = extra.iter().map(|&argument| argument.to_owned()).collect();
        let ended = self.bench.run(Machine { extra, ..machine }, LAST)?;
        Ok(costs(&String::from_utf8_lossy(&ended.console)))
    }
}

/// From lines such as `{"kind":"cpuid","cycles":[9000,8990],"n":1000}`; everything else on the console is left out.
pub(super) fn costs(console: &str) -> Costs {
    let mut costs = Costs::new();
    for line in console.lines() {
        let Ok(Value::Object(record)) = serde_json::from_str(line.trim()) else { continue };
        let kind = record.get("kind").and_then(Value::as_str);
        let cycles = record.get("cycles").and_then(Value::as_array);
        let best = cycles.into_iter().flatten().filter_map(Value::as_f64).min_by(f64::total_cmp);
        if let (Some(kind), Some(best)) = (kind, best) {
            costs.insert(kind.to_owned(), best);
        }
    }
    costs
}

fn summary(ratios: &BTreeMap<String, Vec<f64>>, floor: &Costs, native: &Costs) -> Result<Vec<Figure>> {
    let broken = |what: String| Failure::new(status::FAILED, format!("bench exits: {what}"));
    let mut figures = Vec::new();
    for (kind, aim, instructions) in KINDS {
        let missing = || broken(format!("the guest did not measure {kind}"));
        let values = ratios.get(kind).ok_or_else(missing)?;
        figures.extend(Figure::median(format!("exit.{kind}.native.vs_floor"), values, "ratio", Some(aim)));
        let count = *native.get(kind).ok_or_else(missing)?;
        figures.push(Figure::fixed(format!("exit.{kind}.native.instructions"), count, "instructions", instructions));
        let of_floor = *floor.get(kind).ok_or_else(missing)?;
        if of_floor > FLOOR_INSTRUCTIONS {
            return Err(broken(format!("the floor takes {of_floor} instructions for {kind}, at most 70 are a floor")));
        }
        figures.push(Figure::fixed(format!("exit.{kind}.floor.instructions"), of_floor, "instructions", None));
    }
    Ok(figures)
}

/// What statistics cost: instructions, and time against the image without them.
fn of_statistics_alone(ratios: &BTreeMap<String, Vec<f64>>, plain: &Costs, native: &Costs) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (kind, ..) in KINDS {
        let (Some(with), Some(without), Some(values)) = (native.get(kind), plain.get(kind), ratios.get(kind)) else {
            return Err(Failure::new(status::FAILED, format!("bench exits: the guest did not measure {kind}")));
        };
        let aim = (kind == "cpuid").then_some(STATISTICS_AIM);
        figures.push(Figure::fixed(
            format!("exit.{kind}.native.stats_instructions"),
            with - without,
            "instructions",
            aim,
        ));
        figures.extend(Figure::median(format!("exit.{kind}.native.stats_vs_without"), values, "ratio", None));
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "boot noise\r\n{\"kind\":\"cpuid\",\"cycles\":[120,100,110],\"n\":1000}\r\n{\"kind\":1}\r\n";

    fn of(value: f64) -> Costs {
        KINDS.iter().map(|(kind, ..)| ((*kind).to_owned(), value)).collect()
    }

    #[test]
    fn the_best_loop_counts() {
        assert_eq!(costs(CONSOLE), Costs::from([("cpuid".to_owned(), 100.0)]));
    }

    #[test]
    fn statistics_cost_the_difference_to_an_image_without_them() {
        let ratios = KINDS.iter().map(|(kind, ..)| ((*kind).to_owned(), vec![1.01])).collect();
        let figures = of_statistics_alone(&ratios, &of(190.0), &of(203.0)).unwrap();
        let cpuid = figures.iter().find(|figure| figure.name == "exit.cpuid.native.stats_instructions").unwrap();
        assert_eq!((cpuid.value, cpuid.reached()), (13.0, Some(false)));
        assert!(of_statistics_alone(&ratios, &Costs::new(), &of(203.0)).is_err());
    }

    #[test]
    fn a_floor_that_is_none_is_an_error() {
        let ratios = KINDS.iter().map(|(kind, ..)| ((*kind).to_owned(), vec![1.1])).collect();
        assert_eq!(summary(&ratios, &of(70.0), &of(200.0)).unwrap().len(), 12);
        assert!(summary(&ratios, &of(71.0), &of(200.0)).unwrap_err().message.contains("floor"));
        assert!(summary(&ratios, &Costs::new(), &of(200.0)).is_err());
    }
}
