// SPDX-License-Identifier: MIT OR Apache-2.0
//! `igvm-tools measure`.

use super::{about, print};
use clap::Args;
use igvm_tools::{Error, measure};
use std::path::PathBuf;

/// Computes what platforms measure when they launch an IGVM file, whoever built it.
///
/// SNP: the launch digest, which a report has in MEASUREMENT. It depends on the loader: the file says where the VMSAs lie,
/// KVM puts all of them at FFFFFFFFF000h and measures them last; pages without data are pages of zeroes, for QEMU pages of
/// the type ZERO. KVM's digest is that of a VM with as many processors as the file has VMSAs.
///
/// TDX: MRTD, and RTMR0 to RTMR3 before the image runs; Parados's images extend none, so they stay as they are.
/// Example: igvm-tools measure --json parados-snp.igvm
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// The IGVM file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let measurements = measure::measure_file(&options.file)?;
    if options.json {
        return print(format_args!("{:#}", about(&options.file, measurements.to_json())));
    }
    print(format_args!("{}\n{}", options.file.display(), measurements.to_string().trim_end()))
}
