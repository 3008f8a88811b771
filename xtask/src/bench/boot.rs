// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Parados costs a stock kernel from power-on to user mode: CPU time of QEMU with Parados and without, in pairs.
//!
//! Interleaved, so that a machine that gets busier meanwhile slows both; the minimum counts, because everything that
//! disturbs such a measurement only adds to it.

use igvm_tools::{Platform, write_atomically};

use super::figure::Figure;
use super::machine::Bench;
use super::memory;
use crate::failure::{Failure, Result, status};
use crate::guest::USER_MODE;
use crate::image::Request;
use crate::options::{SNP_CPU, SNP_HOST_OPTIONS};
use crate::qemu::Machine;
use crate::{say, snp_guest};

/// Stock kernel to user mode, against the same without Parados.
const AIM: f64 = 1.05;
/// The same kernel as an enlightened SEV-SNP guest of the reference host's model, without Parados, against bare QEMU.
const MODEL_AIM: f64 = 1.6;
/// The same kernel, unmodified, under Parados on that model.
const SNP_AIM: f64 = 1.35;

pub(super) fn measure(bench: &Bench, pairs: usize, figures: &mut Vec<Figure>) -> Result<()> {
    let request = Request { figure: true, ..Request::default() };
    let payload = request.payload(&bench.scratch)?;
    let image = bench.scratch.file("boot.igvm");
    write_atomically(&image, &request.build()?.bytes)?;
    let (mut bare, mut native) = (Vec::new(), Vec::new());
    // The first pair only warms the host's caches.
    for pair in 0..=pairs {
        say::progress(&format!("bench boot: pair {pair} of {pairs}"));
        let machine = bench.bare(&payload.kernel, payload.initrd.as_deref(), &payload.command_line);
        let without = bench.run(machine, USER_MODE)?.cpu_seconds;
        let with = bench.run(bench.hosted(&image), USER_MODE)?.cpu_seconds;
        if pair > 0 {
            bare.push(without);
            native.push(with);
        }
    }
    let none = || Failure::new(status::FAILED, "bench boot: no CPU time was measured");
    figures.extend(summary(&bare, &native).ok_or_else(none)?);
    Ok(())
}

/// What the model of SEV-SNP costs a guest that knows of it. Both machines have the processor model that it needs.
pub(super) fn measure_model(bench: &Bench, pairs: usize, figures: &mut Vec<Figure>) -> Result<()> {
    let request = Request { figure: true, ..Request::default() };
    let payload = request.payload(&bench.scratch)?;
    let image = bench.scratch.file("enlightened.igvm");
    let (mut bare, mut model) = (Vec::new(), Vec::new());
    for pair in 0..=pairs {
        say::progress(&format!("bench snp-model: pair {pair} of {pairs}"));
        let machine = bench.bare(&payload.kernel, payload.initrd.as_deref(), &payload.command_line);
        let machine = Machine { cpu: SNP_CPU.into(), ..machine };
        let memory = machine.memory;
        let without = bench.run(machine, USER_MODE)?.cpu_seconds;
        if pair == 0 {
            write_atomically(&image, &snp_guest::build(&payload, memory, 1)?)?;
        }
        let machine = Machine { cpu: SNP_CPU.into(), ..bench.hosted(&image) };
        let with = bench.run(machine, USER_MODE)?.cpu_seconds;
        if pair > 0 {
            bare.push(without);
            model.push(with);
        }
    }
    let none = || Failure::new(status::FAILED, "bench snp-model: no CPU time was measured");
    figures.push(ratio_of_minima("boot.enlightened.vs_bare", &bare, &model, MODEL_AIM).ok_or_else(none)?);
    figures.extend(Figure::median("boot.enlightened.cpu_seconds", &model, "s", None));
    Ok(())
}

/// What Parados and the model of SEV-SNP cost an unmodified guest, hashing its pages at launch included; and, apart, what Parados
/// takes to judge its payload by digests.
pub(super) fn measure_snp(bench: &Bench, pairs: usize, figures: &mut Vec<Figure>) -> Result<()> {
    let request = Request { platform: Platform::Snp, figure: true, ..Request::default() };
    let payload = request.payload(&bench.scratch)?;
    let image = bench.scratch.file("snp.igvm");
    write_atomically(&image, &request.build()?.bytes)?;
    let (mut bare, mut snp) = (Vec::new(), Vec::new());
    let (mut hashing, mut hashed) = (Vec::new(), 0.0);
    for pair in 0..=pairs {
        say::progress(&format!("bench snp: pair {pair} of {pairs}"));
        let machine = bench.bare(&payload.kernel, payload.initrd.as_deref(), &payload.command_line);
        let without = bench.run(Machine { cpu: SNP_CPU.into(), ..machine }, USER_MODE)?.cpu_seconds;
        let host_options = SNP_HOST_OPTIONS.into();
        let machine = Machine { cpu: SNP_CPU.into(), host_options, ..bench.hosted(&image) };
        let ended = bench.run(machine, USER_MODE)?;
        if pair > 0 {
            bare.push(without);
            snp.push(ended.cpu_seconds);
            hashing.push(memory::hashing_ms(&ended)?);
            hashed = memory::number(&ended, "start", "hashed_bytes")?;
        }
    }
    let none = || Failure::new(status::FAILED, "bench snp: no CPU time was measured");
    figures.push(ratio_of_minima("boot.snp.vs_bare", &bare, &snp, SNP_AIM).ok_or_else(none)?);
    figures.extend(Figure::median("boot.snp.cpu_seconds", &snp, "s", None));
    figures.push(Figure::fixed("start.snp.hashed.bytes", hashed, "bytes", None));
    figures.extend(memory::best("start.snp.hashing.ms", &hashing, None));
    Ok(())
}

/// With the spread of the pairs' ratios.
fn ratio_of_minima(name: &'static str, bare: &[f64], with: &[f64], aim: f64) -> Option<Figure> {
    let ratios: Vec<_> = with.iter().zip(bare).map(|(with, bare)| with / bare).collect();
    let minimum = |values: &[f64]| values.iter().copied().min_by(f64::total_cmp);
    let ratio = minimum(with)? / minimum(bare)?;
    let spread = Figure::median("", &ratios, "", None)?.spread;
    Some(Figure { spread, ..Figure::fixed(name, ratio, "ratio", Some(aim)) })
}

fn summary(bare: &[f64], native: &[f64]) -> Option<Vec<Figure>> {
    Some(vec![
        ratio_of_minima("boot.native.vs_bare", bare, native, AIM)?,
        Figure::median("boot.native.cpu_seconds", native, "s", None)?,
        Figure::median("boot.bare.cpu_seconds", bare, "s", None)?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_the_minima() {
        let figures = summary(&[2.0, 4.0], &[3.0, 2.2]).unwrap();
        assert_eq!((figures[0].value, figures[0].spread), (1.1, Some((0.55, 1.5))));
        assert!(summary(&[], &[]).is_none());
    }
}
