// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzzers, as functions from bytes to nothing that panic when something is wrong.
//!
//! A target reads its input as a script for one part of Parados, plays it, and holds what comes out against invariants that
//! are said here anew, not taken from the part itself. `fuzz/` wraps each target for `cargo fuzz`; the program `fuzz-smoke`
//! replays the corpora and mutates them with a stable toolchain.
//!
//! Each target also has planted bugs: the part under test with one thing wrong, by a slip in its own code ([`platform::Slip`]).
//! A target that misses its planted bugs has no eyes, and the smoke run fails.
//!
//! Hostile party: whoever made the input. Here that is the fuzzer, so a panic is a finding, and the only one.

#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

pub mod apic;
pub mod bus;
pub mod emulator;
pub mod exits;
mod guest_ram;
pub mod input;
pub mod inspect;
pub mod loader;
pub mod measure;
pub mod memory_use;
pub mod mutate;
pub mod parsers;
pub mod payloads;
pub mod start;

/// What runs one input.
pub type Body = fn(&[u8]);

/// A fuzzer.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its corpus and of its program for `cargo fuzz`.
    pub name: &'static str,
    /// The body.
    pub run: Body,
    /// The body with one thing wrong each, and what that is.
    pub planted: &'static [(&'static str, Body)],
    /// Inputs longer than this are not worth their time.
    pub longest: usize,
    /// Inputs of the smoke run besides the corpus, so that each target takes a few seconds.
    pub mutations: u32,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    emulator::TARGET,
    bus::TARGET,
    apic::TARGET,
    loader::TARGET,
    payloads::TARGET,
    parsers::TARGET,
    inspect::TARGET,
    measure::TARGET,
    exits::TARGET,
    start::TARGET,
];

/// Runs a target by name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target that exists").run)(data);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn fuzz() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz"))
    }

    #[test]
    fn cargo_fuzz_has_the_same_targets() {
        let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
        for target in TARGETS {
            let name = target.name;
            assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
            let program = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(program.contains(&format!("fuzz_targets::run(\"{name}\", data)")), "{name}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    }

    #[test]
    fn every_target_has_a_corpus_of_inputs_that_it_takes_and_a_planted_bug() {
        for target in TARGETS {
            let files: Vec<_> = std::fs::read_dir(fuzz().join("corpus").join(target.name)).unwrap().flatten().collect();
            assert!(files.len() >= 10, "{}: {} inputs", target.name, files.len());
            for file in files {
                let length = file.metadata().unwrap().len();
                assert!(length <= target.longest as u64, "{}: {length} bytes", file.path().display());
            }
            assert!(!target.planted.is_empty(), "{}", target.name);
        }
    }
}
