// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`: the figures that the project holds itself to, measured here and now.
//!
//! Only ratios between things measured in the same run mean much on QEMU's emulation. What they are worth on hardware
//! they do not say.

mod accept;
mod boot;
mod exits;
mod figure;
mod idle;
mod lines;
mod machine;
mod measure;
mod memory;
mod plot;
mod snp_exits;

use std::path::PathBuf;

use igvm_tools::write_atomically;
use lexopt::Arg::{Long, Value};

use crate::failure::{Failure, Result, status};
use crate::options::{self, set};
use crate::say;
use figure::Figure;
use machine::Bench;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Suite {
    Exits,
    Boot,
    SnpModel,
    Snp,
    Memory,
    Idle,
    Clock,
    Measure,
}

const ALL: &[Suite] =
    &[Suite::Exits, Suite::Boot, Suite::SnpModel, Suite::Snp, Suite::Memory, Suite::Idle, Suite::Clock, Suite::Measure];

#[derive(Default)]
struct Options {
    suites: Vec<Suite>,
    json: Option<PathBuf>,
    plot: Option<PathBuf>,
    pairs: Option<usize>,
    qemu: Option<PathBuf>,
    platform: Option<()>,
    /// A missed aim is a failure.
    strict: bool,
}

impl Options {
    fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let mut options = Self::default();
        while let Some(argument) = parser.next()? {
            match argument {
                Value(name) => options.suites.push(match name.to_str() {
                    Some("exits") => Suite::Exits,
                    Some("boot") => Suite::Boot,
                    Some("snp-model") => Suite::SnpModel,
                    Some("snp") => Suite::Snp,
                    Some("memory") => Suite::Memory,
                    Some("idle") => Suite::Idle,
                    Some("clock") => Suite::Clock,
                    Some("measure") => Suite::Measure,
                    _ => {
                        return Err(Failure::usage(
                            "bench: there are exits, boot, snp-model, snp, memory, idle, clock and measure",
                        ));
                    }
                }),
                Long("json") => set(&mut options.json, "json", options::path(&mut parser)?)?,
                Long("plot") => set(&mut options.plot, "plot", options::path(&mut parser)?)?,
                Long("pairs") => set(&mut options.pairs, "pairs", pairs(&options::text(&mut parser)?)?)?,
                Long("qemu") => set(&mut options.qemu, "qemu", options::path(&mut parser)?)?,
                Long("platform") => {
                    let name = options::text(&mut parser)?;
                    set(&mut options.platform, "platform", options::native(&name)?)?;
                }
                Long("strict") => options.strict = true,
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }
}

fn pairs(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(number @ 1..=1000) => Ok(number),
        _ => Err(Failure::usage(format!("--pairs {text}: from 1 to 1000"))),
    }
}

/// The verb.
pub(crate) fn main(parser: lexopt::Parser) -> Result<u8> {
    let options = Options::parse(parser)?;
    let bench = Bench::new(options.qemu.as_deref())?;
    // A boot varies more than a loop of exits, and its minimum is what counts.
    let (exit_pairs, boot_pairs) = (options.pairs.unwrap_or(5), options.pairs.unwrap_or(10));
    let (mut figures, mut outcome) = (Vec::new(), status::OK);
    for suite in ALL.iter().filter(|suite| options.suites.is_empty() || options.suites.contains(suite)) {
        let measured = match suite {
            Suite::Exits => exits::measure(&bench, exit_pairs, &mut figures),
            Suite::Boot => boot::measure(&bench, boot_pairs, &mut figures),
            Suite::SnpModel => boot::measure_model(&bench, boot_pairs, &mut figures),
            Suite::Snp => snp_exits::measure(&bench, exit_pairs, &mut figures)
                .and_then(|()| accept::measure(&bench, exit_pairs, &mut figures))
                .and_then(|()| boot::measure_snp(&bench, boot_pairs, &mut figures)),
            Suite::Memory => lines::measure(&mut figures).and_then(|()| memory::measure(&bench, &mut figures)),
            Suite::Idle => idle::measure_idle(&bench, &mut figures),
            Suite::Clock => idle::measure_clock(&bench, &mut figures),
            Suite::Measure => measure::measure(exit_pairs, &mut figures),
        };
        if let Err(failure) = measured {
            // What the others find is worth having all the same, unless the user has had enough.
            say::error(&failure.message);
            outcome = failure.status;
            if outcome > status::SIGNAL {
                return Ok(outcome);
            }
        }
    }
    say::out(&figure::table(&figures));
    if let Some(path) = &options.json {
        let object = serde_json::json!({
            "environment": bench.environment(),
            "figures": figures.iter().map(Figure::json).collect::<Vec<_>>(),
        });
        write_atomically(path, format!("{object:#}\n").as_bytes())?;
    }
    if let Some(path) = &options.plot {
        write_atomically(path, plot::svg(&figures).as_bytes())?;
    }
    let missed = figures.iter().any(|figure| figure.reached() == Some(false));
    Ok(if options.strict && missed && outcome == status::OK { status::FAILED } else { outcome })
}
