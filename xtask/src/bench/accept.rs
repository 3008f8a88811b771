// SPDX-License-Identifier: MIT OR Apache-2.0
//! What accepting memory costs under the SNP image, as a ratio to a bare `rep stosq` over the same memory
//! (`guests/src/bin/accept-bench.rs`).
//!
//! The model fills memory that changes hands with noise, entry by entry and page by page, where hardware flips a bit; that is as much
//! work as zeroing. So the figure counts the time in which some VMPL ran, as the reference host's clock has it: Parados's own
//! instructions, the zeroing, and the guest's touch. Time with the model is a figure without an aim.

use igvm_tools::{Platform, write_atomically};
use serde_json::Value;

use super::exits::costs;
use super::figure::Figure;
use super::machine::Bench;
use crate::build;
use crate::failure::{Failure, Result, status};
use crate::image::Request;
use crate::options::{SNP_CPU, SNP_HOST_OPTIONS};
use crate::process::Ended;
use crate::qemu::Machine;
use crate::say;

/// What the guest prints last.
const LAST: &str = "\"kind\":\"stosq\"";
/// What the guest does, by the number in its command line: nothing, touch memory, store to it twice as well.
const NOTHING: &str = "0";
const TOUCH: &str = "1";
const STORE: &str = "2";
/// How often it stores.
const STORES: f64 = 2.0;

pub(super) fn measure(bench: &Bench, pairs: usize, figures: &mut Vec<Figure>) -> Result<()> {
    let guest = build::guest("accept-bench")?;
    let run = |what: &str, extra: &[&str]| {
        let image = bench.scratch.file("accept.igvm");
        let request =
            Request { platform: Platform::Snp, kernel: Some(&guest), append: Some(what), ..Request::default() };
        write_atomically(&image, &request.build()?.bytes)?;
        let extra = extra.iter().map(|&argument| argument.to_owned()).collect();
        let hosted = bench.hosted(&image);
        bench.run(Machine { cpu: SNP_CPU.into(), host_options: SNP_HOST_OPTIONS.into(), extra, ..hosted }, LAST)
    };
    let (mut ratios, mut with_model) = (Vec::new(), Vec::new());
    // What disturbs a run only adds to it.
    let mut least = [f64::INFINITY; 3];
    for pair in 1..=pairs {
        say::progress(&format!("bench snp: accepting memory, {pair} of {pairs}"));
        let (nothing, touched, stored) = (run(NOTHING, &[])?, run(TOUCH, &[])?, run(STORE, &[])?);
        let cycles = [inside(&nothing)?, inside(&touched)?, inside(&stored)?];
        least.iter_mut().zip(cycles).for_each(|(least, cycles)| *least = least.min(cycles));
        ratios.extend(ratio(cycles).ok());
        let costs = costs(&String::from_utf8_lossy(&stored.console));
        let of = |kind: &str| costs.get(kind).copied().unwrap_or(f64::NAN);
        with_model.push(of("accept") / of("stosq"));
    }
    say::progress("bench snp: accepting memory, counting instructions");
    let count = |what| run(what, &["-icount", "shift=0,sleep=off"]).and_then(|ended| inside(&ended));
    let instructions = ratio([count(NOTHING)?, count(TOUCH)?, count(STORE)?])?;
    figures.push(Figure::fixed("accept.snp.instructions_vs_stosq".to_owned(), instructions, "ratio", None));
    let value = ratio(least)?;
    let of_pairs = Figure::median("accept.snp.vs_stosq", &ratios, "ratio", Some(1.2));
    figures.extend(of_pairs.map(|figure| Figure { value, ..figure }));
    figures.extend(Figure::median("accept.snp.with_model.vs_stosq", &with_model, "ratio", None));
    Ok(())
}

/// Cycles in which some VMPL ran.
fn inside(ended: &Ended) -> Result<f64> {
    let host = ended.facts.get("host").and_then(|host| host.get("guest_cycles")).and_then(Value::as_f64);
    host.ok_or_else(|| broken("the reference host counted no cycles"))
}

fn ratio([nothing, touched, stored]: [f64; 3]) -> Result<f64> {
    let (accept, store) = (touched - nothing, (stored - touched) / STORES);
    if accept > 0.0 && store > 0.0 { Ok(accept / store) } else { Err(broken("the runs differ by nothing")) }
}

fn broken(what: &str) -> Failure {
    Failure::new(status::FAILED, format!("bench snp, accepting memory: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_adds_is_its_cost() {
        assert_eq!(ratio([100.0, 160.0, 260.0]).unwrap(), 1.2);
        assert!(ratio([100.0, 100.0, 260.0]).is_err() && ratio([100.0, 160.0, 160.0]).is_err());
    }
}
