// SPDX-License-Identifier: MIT OR Apache-2.0
//! `igvm-tools inspect`.

use super::{about, print};
use clap::Args;
use igvm_tools::{Error, inspect};
use std::path::PathBuf;

/// Shows what is in an IGVM file, whoever built it: headers, pages, memory map, sizes.
///
/// Of Parados's images also the payload, its SHA-384 where Parados judges it by that, and the policy. Example:
/// igvm-tools inspect parados-native.igvm
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// The IGVM file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The platform to look at, if the file is for several.
    #[arg(long, value_name = "NAME")]
    platform: Option<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let inspection = inspect::inspect_file(&options.file, options.platform.as_deref())?;
    if options.json {
        return print(format_args!("{:#}", about(&options.file, inspection.to_json())));
    }
    print(format_args!("{}\n{}", options.file.display(), inspection.to_string().trim_end()))
}
