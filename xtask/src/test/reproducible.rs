// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether two people who build the same sources get the same image: another folder, another home, another time zone and
//! umask, and a build from nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use igvm_tools::{ImageSpec, Platform};

use super::Totals;
use crate::build::{self, TARGET};
use crate::failure::{Failure, Result};
use crate::say;
use crate::scratch::Scratch;

/// Builds Parados a second time, which takes minutes: only with `--slow`.
pub(super) fn run(slow: bool) -> Result<Totals> {
    if !slow {
        say::out("test reproducible ... skipped: builds everything anew, pass --slow\n");
        return Ok(Totals { skipped: 1, ..Totals::default() });
    }
    say::progress("reproducible: building Parados in another folder");
    let scratch = Scratch::new()?;
    let ours = image(build::paravisor()?)?;
    let theirs = image(elsewhere(&scratch)?)?;
    let same = ours == theirs;
    say::out(&format!("test reproducible ... {}\n", if same { "ok" } else { "FAILED" }));
    Ok(Totals { passed: u32::from(same), failed: u32::from(!same), ..Totals::default() })
}

/// An image of Parados alone.
fn image(paravisor: PathBuf) -> Result<Vec<u8>> {
    let (kernel, initrd, command_line) = (None, None, String::new());
    let spec = ImageSpec {
        platform: Platform::Native,
        paravisor,
        kernel,
        initrd,
        command_line,
        measured: true,
        flags: 0,
        guest_policy: None,
    };
    Ok(igvm_tools::build(&spec)?.bytes)
}

/// Builds a copy of the sources as somebody else would.
fn elsewhere(scratch: &Scratch) -> Result<PathBuf> {
    let (folder, home) = (scratch.file("elsewhere/deeper"), scratch.file("home"));
    copy(&build::workspace(), &folder)?;
    make(&home)?;
    // What was fetched once need not be fetched again; its name is another one from here.
    let fetched = build::cargo_home().join("registry");
    symlink(&fetched, home.join("registry")).map_err(|error| Failure::system(fetched.display(), error))?;
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh", "cargo", "--config", &build::reproducible(&home)]);
    command.args(["build", "--quiet", "--release", "--target", TARGET, "-p", "paravisor"]);
    command.current_dir(&folder).stdin(Stdio::null());
    command.env("CARGO_HOME", &home).env("CARGO_TARGET_DIR", folder.join("target")).env("TZ", "Asia/Kathmandu");
    let status = command.status().map_err(|error| Failure::system("cargo", error))?;
    if !status.success() {
        return Err(Failure::missing("reproducible: the copy does not build"));
    }
    Ok(folder.join("target").join(TARGET).join("release/paravisor"))
}

/// Copies a folder, without what was built in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    make(to)?;
    let failed = |path: &Path, error| Failure::system(path.display(), error);
    for entry in fs::read_dir(from).map_err(|error| failed(from, error))? {
        let entry = entry.map_err(|error| failed(from, error))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "target" || entry.file_name() == ".git" {
            continue;
        }
        if source.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(|error| failed(&source, error))?;
        }
    }
    Ok(())
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| Failure::system(folder.display(), error))
}
