// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parsers of `cargo xtask` alone, for those that test them from outside: what people type, and what Parados, a guest or
//! a foreign test suite writes. The commands themselves are the program's.

#![forbid(unsafe_code)]
#![allow(dead_code, reason = "the modules are the program's, which uses all of them")]

mod command_output;
mod failure;
mod options;
mod record;
mod say;

#[path = "run/options.rs"]
mod run_options;
#[path = "test/kvm_unit_tests/config.rs"]
mod suite_config;

pub use parsers::{command_line, command_output, memory_size, messages, number, seconds, size, suite};

mod parsers {
    use std::ffi::OsString;

    use crate::command_output::Filter;
    use crate::failure::Failure;
    use crate::{options, record, run_options, suite_config};

    /// The status and the line that a user gets.
    type Refusal = (u8, String);

    fn refusal(failure: Failure) -> Refusal {
        (failure.status, failure.message)
    }

    /// A size such as `512M`.
    pub fn size(text: &str) -> Result<u64, Refusal> {
        options::size(text).map_err(refusal)
    }

    /// `--memory` within limits.
    pub fn memory_size(text: &str, least: u64, most: u64) -> Result<u64, Refusal> {
        options::memory(text, least, most).map_err(refusal)
    }

    /// `--smp`.
    pub fn number(text: &str) -> Result<u32, Refusal> {
        options::processors(text).map_err(refusal)
    }

    /// `--timeout`.
    pub fn seconds(text: &str) -> Result<std::time::Duration, Refusal> {
        options::seconds(text).map_err(refusal)
    }

    /// The options of `run`: processors, memory, and the flags of the image.
    pub fn command_line(arguments: &[OsString]) -> Result<(u32, u64, u32), Refusal> {
        let parser = lexopt::Parser::from_args(arguments.iter().cloned());
        let options = run_options::Options::parse(parser).map_err(refusal)?;
        Ok((options.processors, options.memory, options.image_flags()))
    }

    /// What a log stream holds, cut at `pieces`: the lines that are shown, and how often an end is reported.
    pub fn messages(pieces: &[&[u8]]) -> (Vec<String>, usize) {
        let mut splitter = record::Splitter::default();
        let mut all: Vec<_> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
        all.extend(splitter.take());
        let (mut lines, mut ends) = (Vec::new(), 0);
        for message in all {
            match message {
                record::Message::Line(line) => lines.push(line),
                record::Message::End(end) => {
                    lines.push(end.reason);
                    ends += 1;
                }
                record::Message::Facts(_) => {}
            }
        }
        (lines, ends)
    }

    /// What a command printed, cut at `pieces`, and its status if it told one.
    pub fn command_output(pieces: &[&[u8]]) -> (Vec<u8>, Option<u8>) {
        let mut filter = Filter::default();
        let mut output: Vec<u8> = pieces.iter().flat_map(|piece| filter.push(piece)).collect();
        match filter.finish() {
            Ok(status) => (output, Some(status)),
            Err(held) => {
                output.extend(held);
                (output, None)
            }
        }
    }

    /// The tests of a suite's list: name, processors, memory, CPU model.
    pub fn suite(text: &str) -> Vec<(String, u32, Option<u64>, Option<String>)> {
        let tests = suite_config::parse(text);
        tests.into_iter().map(|it| (it.name.clone(), it.processors, it.memory(), it.cpu().map(str::to_owned))).collect()
    }
}
