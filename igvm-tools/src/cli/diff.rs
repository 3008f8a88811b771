// SPDX-License-Identifier: MIT OR Apache-2.0
//! `igvm-tools diff`.

use super::print;
use clap::Args;
use igvm_tools::{Error, diff, input};
use std::path::PathBuf;
use std::process::ExitCode;

/// Shows what changed between two images, and what that does to each measurement.
///
/// Compared is what a loader would do, not the bytes. Behind each change stand the platforms that it is for and those that
/// measure it; then come all launch digests and MRTDs of both files.
///
/// Status 0: the files are identical. 1: they differ. Example: igvm-tools diff old.igvm new.igvm
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// The first IGVM file.
    #[arg(value_name = "OLD")]
    first: PathBuf,
    /// The second.
    #[arg(value_name = "NEW")]
    second: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode, Error> {
    let (first, second) = (input::read_image(&options.first)?, input::read_image(&options.second)?);
    let comparison = diff((&options.first, &first), (&options.second, &second))?;
    if options.json {
        print(format_args!("{:#}", comparison.to_json()))?;
    } else {
        print(format_args!("{}", comparison.to_string().trim_end()))?;
    }
    Ok(if comparison.differs() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
