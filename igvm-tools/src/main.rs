// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `igvm-tools`: builds and inspects IGVM images.
//!
//! Results go to stdout, errors to stderr in one line. Statuses: 0, 64 for usage and missing files, 65 for bad data.

#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use igvm_tools::{Config, Error, Inspection, build, inspect, write_atomically};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Builds and inspects IGVM images.
#[derive(Parser)]
#[command(name = "igvm-tools", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Builds an image from the paravisor, a payload and a configuration.
    ///
    /// The same inputs give the same bytes, wherever they lie. Example:
    /// igvm-tools build --config configs/native.toml --paravisor paravisor.elf --kernel vmlinuz --out parados.igvm
    Build(BuildOptions),
    /// Shows what is in an IGVM file, whoever built it: headers, pages, memory map, sizes.
    Inspect(InspectOptions),
}

#[derive(Args)]
struct BuildOptions {
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
    /// Also write what `inspect --json` would say.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the report as JSON instead of one line.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct InspectOptions {
    /// The IGVM file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// The status of bad usage, as in sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let outcome = match cli.verb {
        Verb::Build(options) => build_image(options),
        Verb::Inspect(options) => inspect_image(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("igvm-tools: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}

/// Help and version are what was asked for; anything else is an error, of which the first line says it all.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody to tell if stdout is closed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("bad usage");
    // Names of missing arguments follow on lines of their own.
    let rest: Vec<_> = lines.take_while(|line| !line.starts_with("Usage:")).collect();
    eprintln!("igvm-tools: {} {}", first.trim_start_matches("error: "), rest.join(" "));
    ExitCode::from(USAGE)
}

fn build_image(options: BuildOptions) -> Result<(), Error> {
    let mut config = Config::read(&options.config)?;
    config.kernel = options.kernel.or(config.kernel);
    config.initrd = options.initrd.or(config.initrd);
    config.command_line = options.append.unwrap_or(config.command_line);
    let paravisor = options.paravisor.or_else(|| config.paravisor.clone());
    let paravisor = paravisor.ok_or_else(|| {
        Error::usage("no paravisor: give --paravisor FILE or the key 'paravisor' in the configuration")
    })?;
    let image = build(&config.to_spec(paravisor))?;
    write_atomically(&options.out, &image.bytes)?;
    let report = report(&options.out, &image.report);
    if let Some(path) = &options.report {
        write_atomically(path, format!("{report:#}\n").as_bytes())?;
    }
    if options.json {
        return print(format_args!("{report:#}"));
    }
    let without = image.report.image_bytes.unwrap_or(0);
    print(format_args!("{}: {} bytes, {without} without payload", options.out.display(), image.bytes.len()))
}

fn inspect_image(options: &InspectOptions) -> Result<(), Error> {
    let inspection = inspect::inspect_file(&options.file)?;
    if options.json {
        return print(format_args!("{:#}", report(&options.file, &inspection)));
    }
    print(format_args!("{}\n{}", options.file.display(), inspection.to_string().trim_end()))
}

/// The inspection as JSON, with the file's name but not its folder.
fn report(path: &Path, inspection: &Inspection) -> Value {
    let mut report = inspection.to_json();
    if let Some(object) = report.as_object_mut() {
        object.insert("file".to_owned(), json!(path.file_name().map(|name| name.to_string_lossy())));
    }
    report
}

/// Prints to stdout; a reader that went away (`| head`) is not an error.
fn print(text: std::fmt::Arguments<'_>) -> Result<(), Error> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::usage(format_args!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}
