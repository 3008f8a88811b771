// SPDX-License-Identifier: MIT OR Apache-2.0
//! What Parados takes: bytes of its image, RAM that the guest does not get, and time before the guest's first instruction.
//!
//! Parados says the latter two itself, in records that it sends when the guest starts.

use igvm_tools::{Platform, write_atomically};
use serde_json::Value;

use super::figure::Figure;
use super::machine::Bench;
use crate::failure::{Failure, Result, status};
use crate::guest::USER_MODE;
use crate::image::Request;
use crate::options::{SNP_CPU, SNP_HOST_OPTIONS};
use crate::process::Ended;
use crate::qemu::Machine;
use crate::say;

const GIB: u64 = 1 << 30;

const IMAGE_AIM: f64 = (512 << 10) as f64;
const PRIVATE_AIM: f64 = (4 << 20) as f64;
const START_AIM: f64 = 30.0;

/// The sizes in GiB, and what follows `memory.native.2vcpu.` in the name.
const SIZES: [(u64, &str); 3] = [(1, "bytes"), (8, "8gib.bytes"), (64, "64gib.bytes")];

/// Memory is taken in large pages: few processors more do not show.
const MANY: u32 = 16;

pub(super) fn measure(bench: &Bench, figures: &mut Vec<Figure>) -> Result<()> {
    let request = Request { figure: true, ..Request::default() };
    let built = request.build()?;
    let image = bench.scratch.file("memory.igvm");
    write_atomically(&image, &built.bytes)?;
    if let Some(bytes) = built.report.image_bytes {
        figures.push(Figure::fixed("image.native.bytes", bytes as f64, "bytes", Some(IMAGE_AIM)));
    }
    let tdx = Request { platform: Platform::Tdx, ..request }.build()?.report.image_bytes;
    figures.extend(tdx.map(|bytes| Figure::fixed("image.tdx.bytes", bytes as f64, "bytes", Some(IMAGE_AIM))));
    let run = |processors: u32, gib: u64| {
        say::progress(&format!("bench memory: {processors} processors, {gib} GiB"));
        bench.run(Machine { processors, memory: gib * GIB, ..bench.hosted(&image) }, USER_MODE)
    };
    let (mut starts, mut of_two) = (Vec::new(), 0.0);
    for (gib, name) in SIZES {
        let ended = run(2, gib)?;
        let bytes = private_bytes(&ended)?;
        let aim = (gib == 1).then_some(PRIVATE_AIM);
        figures.push(Figure::fixed(format!("memory.native.2vcpu.{name}"), bytes, "bytes", aim));
        if gib == 1 {
            of_two = bytes;
            starts.push(start_ms(&ended)?);
        }
    }
    let each = (private_bytes(&run(MANY, 1)?)? - of_two) / f64::from(MANY - 2);
    figures.push(Figure::fixed("memory.native.per_vcpu.bytes", each, "bytes", None));
    for _ in 0..4 {
        starts.push(start_ms(&run(2, 1)?)?);
    }
    figures.extend(best("start.native.ms", &starts, Some(START_AIM)));
    measure_hashing(bench, figures)?;
    measure_snp(bench, figures)
}

/// The image for SNP and what it takes, which is to be no more than on the native platform.
fn measure_snp(bench: &Bench, figures: &mut Vec<Figure>) -> Result<()> {
    let request = Request { platform: Platform::Snp, figure: true, ..Request::default() };
    let built = request.build()?;
    let image = bench.scratch.file("memory-snp.igvm");
    write_atomically(&image, &built.bytes)?;
    if let Some(bytes) = built.report.image_bytes {
        figures.push(Figure::fixed("image.snp.bytes", bytes as f64, "bytes", Some(IMAGE_AIM)));
    }
    say::progress("bench memory: 2 processors, 1 GiB, SNP");
    let host_options = SNP_HOST_OPTIONS.into();
    let machine = Machine { processors: 2, memory: GIB, cpu: SNP_CPU.into(), host_options, ..bench.hosted(&image) };
    let bytes = private_bytes(&bench.run(machine, USER_MODE)?)?;
    figures.push(Figure::fixed("memory.snp.2vcpu.bytes", bytes, "bytes", Some(PRIVATE_AIM)));
    Ok(())
}

/// What it takes to judge the default guest's kernel and RAM disk by their digests, which images for confidential platforms
/// have by default.
fn measure_hashing(bench: &Bench, figures: &mut Vec<Figure>) -> Result<()> {
    say::progress("bench memory: a payload that is hashed");
    let image = bench.scratch.file("hashed.igvm");
    write_atomically(&image, &Request { figure: true, hashed: true, ..Request::default() }.build()?.bytes)?;
    let (mut times, mut starts, mut bytes) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..3 {
        let ended = bench.run(Machine { processors: 2, ..bench.hosted(&image) }, USER_MODE)?;
        bytes = number(&ended, "start", "hashed_bytes")?;
        times.push(hashing_ms(&ended)?);
        starts.push(start_ms(&ended)?);
    }
    figures.push(Figure::fixed("start.native.hashed.bytes", bytes, "bytes", None));
    figures.extend(best("start.native.hashing.ms", &times, None));
    figures.extend(best("start.native.beside_hashing.ms", &starts, Some(START_AIM)));
    Ok(())
}

/// The least of some times, with their spread: what disturbs such a measurement only adds to it.
pub(super) fn best(name: &'static str, times: &[f64], aim: Option<f64>) -> Option<Figure> {
    let value = times.iter().copied().min_by(f64::total_cmp)?;
    Some(Figure { value, ..Figure::median(name, times, "ms", aim)? })
}

pub(super) fn number(ended: &Ended, record: &str, field: &str) -> Result<f64> {
    let value = ended.facts.get(record).and_then(|record| record.get(field)).and_then(Value::as_f64);
    value.ok_or_else(|| Failure::new(status::FAILED, format!("bench: Parados sent no {record}.{field}")))
}

fn private_bytes(ended: &Ended) -> Result<f64> {
    number(ended, "memory", "private_bytes")
}

pub(super) fn hashing_ms(ended: &Ended) -> Result<f64> {
    Ok(number(ended, "start", "hashed_ns")? / 1e6)
}

/// From Parados's first instruction to the guest's, without what the payload's hashing takes.
fn start_ms(ended: &Ended) -> Result<f64> {
    let ticks = number(ended, "start", "guest_tsc")? - number(ended, "start", "entry_tsc")?;
    Ok(ticks / number(ended, "start", "tsc_hz")? * 1e3 - hashing_ms(ended)?)
}
