// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `igvm-tools`: builds, inspects, measures, compares, signs and verifies IGVM images.
//!
//! Results go to stdout, errors to stderr in one line. Statuses: 0, 1 for a negative answer
//! (evidence that is refused, images that differ), 64 for usage and missing files, 65 for bad data.

#![forbid(unsafe_code)]

mod cli;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use igvm_tools::Error;
use std::process::ExitCode;

/// Builds, inspects, measures, compares, signs and verifies IGVM images.
#[derive(Parser)]
#[command(name = "igvm-tools", version, after_help = STATUSES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Build(cli::build::Options),
    Inspect(cli::inspect::Options),
    Measure(cli::measure::Options),
    Verify(cli::verify::Options),
    Diff(cli::diff::Options),
    Sign(cli::sign::Options),
    Extract(cli::extract::Options),
    Completions(cli::completions::Options),
}

const STATUSES: &str = "\
Status: 0 done, or the answer is yes; 1 the answer is no (evidence that is refused, images that differ); 64 bad usage or
a file that cannot be read or written; 65 bad content. An error is one line on stderr, and no file is left half-written.";

/// The status of bad usage, as in sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match run(cli.verb) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("igvm-tools: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode, Error> {
    match verb {
        Verb::Build(options) => cli::build::run(options)?,
        Verb::Inspect(options) => cli::inspect::run(&options)?,
        Verb::Measure(options) => cli::measure::run(&options)?,
        Verb::Sign(options) => cli::sign::run(&options)?,
        Verb::Extract(options) => cli::extract::run(&options)?,
        Verb::Completions(options) => cli::completions::run(&options, &mut Cli::command())?,
        Verb::Diff(options) => return cli::diff::run(&options),
        Verb::Verify(options) => return cli::verify::run(&options),
    }
    Ok(ExitCode::SUCCESS)
}

/// Help and version are what was asked for; anything else is an error, of which the first line says it all.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody to tell if stdout is closed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        let command = Cli::command();
        let verbs: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
        eprintln!("igvm-tools: no command, expected one of: {} (--help says more)", verbs.join(", "));
        return ExitCode::from(USAGE);
    }
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("bad usage");
    // Names of missing arguments follow on lines of their own.
    let others = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let text = [first.trim_start_matches("error: ")].into_iter().chain(others).collect::<Vec<_>>().join(" ");
    eprintln!("igvm-tools: {text}");
    ExitCode::from(USAGE)
}
