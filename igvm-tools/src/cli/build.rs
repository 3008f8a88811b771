// SPDX-License-Identifier: MIT OR Apache-2.0
//! `igvm-tools build`.

use super::print;
use clap::Args;
use igvm_tools::{Config, Error, build, write_together};
use std::path::PathBuf;

/// Builds an image from the paravisor, a payload and a configuration.
///
/// The same inputs give the same bytes, wherever they lie. Example:
/// igvm-tools build --config configs/native.toml --paravisor paravisor.elf --kernel vmlinuz --out parados.igvm
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// The image's configuration; configs/native.toml documents every key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The image to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The paravisor's ELF file, instead of the configuration's.
    #[arg(long, value_name = "FILE")]
    paravisor: Option<PathBuf>,
    /// The guest's kernel (bzImage, PVH ELF or Multiboot program), instead of the configuration's.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its RAM disk or module, instead of the configuration's.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Its command line, instead of the configuration's.
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
    /// Also write what is in it (as `inspect --json`), what it measures (as `measure --json`) and what it was made of.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the report as JSON instead of one line.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: Options) -> Result<(), Error> {
    let mut config = Config::read(&options.config)?;
    config.kernel = options.kernel.or(config.kernel);
    config.initrd = options.initrd.or(config.initrd);
    config.command_line = options.append.unwrap_or(config.command_line);
    let paravisor = options.paravisor.or_else(|| config.paravisor.clone());
    let paravisor = paravisor.ok_or_else(|| {
        Error::usage("no paravisor: give --paravisor FILE or the key 'paravisor' in the configuration")
    })?;
    let image = build(&config.to_spec(paravisor))?;
    let report = image.to_json(&options.out)?;
    let text = format!("{report:#}\n");
    let mut files = vec![(options.out.as_path(), image.bytes.as_slice())];
    files.extend(options.report.as_deref().map(|path| (path, text.as_bytes())));
    write_together(&files)?;
    if options.json {
        return print(format_args!("{report:#}"));
    }
    let without = image.report.image_bytes.unwrap_or(0);
    print(format_args!("{}: {} bytes, {without} without payload", options.out.display(), image.bytes.len()))
}
