// SPDX-License-Identifier: MIT OR Apache-2.0
//! `igvm-tools extract`.

use super::print;
use clap::Args;
use igvm_tools::{Error, extract, input};
use std::path::PathBuf;

/// Takes an image to pieces: a file for each stretch of memory with content, each VP context, the ID block.
///
/// The names say where in the guest's memory a piece goes; pieces.json lists them all. Pages without content, and what a
/// platform or loader fills, are not there. Example: igvm-tools extract parados-native.igvm --out pieces
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// The IGVM file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The folder to create.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The platform whose pieces to take, if the file is for several.
    #[arg(long, value_name = "NAME")]
    platform: Option<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let bytes = input::read_image(&options.file)?;
    let pieces = extract::take_apart(&options.file, &bytes, options.platform.as_deref())?;
    pieces.write(&options.out)?;
    if options.json {
        return print(format_args!("{:#}", pieces.to_json()));
    }
    print(format_args!("{}", pieces.to_string().trim_end()))
}
