// SPDX-License-Identifier: MIT OR Apache-2.0
//! The project's commands, as `cargo xtask VERB`: one file per verb, and beside them what the verbs share.
//!
//! Scripts rely on the options, the statuses and on what goes to which stream; all three are listed in [`usage`].
//! What the guest, the VM host program and QEMU print is untrusted here: it is shown, counted and never believed beyond
//! the records of [`record`], which a guest has no way to write.

#![forbid(unsafe_code)]

use std::process::ExitCode;

mod bench;
mod build;
mod check;
mod command_output;
mod cpio;
mod failure;
mod guest;
mod image;
mod options;
mod packages;
mod power_button;
mod process;
mod qemu;
mod record;
mod run;
mod say;
mod scratch;
mod signals;
mod snp_guest;
mod symbolize;
mod test;
mod usage;

use failure::{Failure, Result, status};

fn main() -> ExitCode {
    match verb() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            say::error(&failure.message);
            ExitCode::from(failure.status)
        }
    }
}

fn verb() -> Result<u8> {
    let mut arguments = std::env::args_os().skip(1).peekable();
    let mut verb = arguments.next().unwrap_or_default();
    if arguments.peek().is_some_and(|next| next == "--help" || next == "-h") {
        verb = "help".into();
    }
    let rest = lexopt::Parser::from_args(arguments);
    match verb.to_str() {
        Some("run") => run::main(rest),
        Some("test") => test::main(rest),
        Some("image") => image::main(rest),
        Some("bench") => bench::main(rest),
        Some("check") => check::main(rest),
        Some("symbolize") => symbolize::main(rest),
        Some("help" | "--help" | "-h") => {
            say::out(usage::TEXT);
            Ok(status::OK)
        }
        Some("") => Err(Failure::usage(
            "no verb given: run, test, image, bench, symbolize or check (`cargo xtask help` lists the options)",
        )),
        _ => Err(Failure::usage(format!(
            "unknown verb '{}': run, test, image, bench, symbolize or check",
            verb.to_string_lossy()
        ))),
    }
}
