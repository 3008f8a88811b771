// SPDX-License-Identifier: MIT OR Apache-2.0
//! `igvm-tools completions`.

use super::print;
use clap::{Args, Command};
use clap_complete::Shell;
use igvm_tools::Error;

/// Prints a shell's completions for this command.
///
/// Example, for bash: igvm-tools completions bash > ~/.local/share/bash-completion/completions/igvm-tools
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Options {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(options: &Options, command: &mut Command) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, command, "igvm-tools", &mut script);
    print(format_args!("{}", String::from_utf8_lossy(&script).trim_end()))
}
