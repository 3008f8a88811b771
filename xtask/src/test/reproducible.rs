// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether two people who build the same sources get the same images: another folder, another home and name, another time zone,
//! language and umask, and a build from nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use igvm_tools::{Config, ImageSpec, Platform};

use super::Totals;
use crate::build::{self, TARGET};
use crate::failure::{Failure, Result};
use crate::image;
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
    let elsewhere = Elsewhere::new(&scratch)?;
    let mut totals = Totals::default();
    for platform in Platform::ALL {
        let ours = image_alone(platform, build::paravisor_for(platform)?)?;
        let same = ours == image_alone(platform, elsewhere.build(platform)?)?;
        let (name, word) = (platform.name(), if same { "ok" } else { "FAILED" });
        say::out(&format!("test reproducible::{name} ... {word}\n"));
        totals += Totals { passed: u32::from(same), failed: u32::from(!same), ..Totals::default() };
    }
    Ok(totals)
}

/// An image of Parados alone, with what the platform's configuration says.
fn image_alone(platform: Platform, paravisor: PathBuf) -> Result<Vec<u8>> {
    let config = Config::read(&image::configuration(platform))?;
    Ok(igvm_tools::build(&ImageSpec {
        kernel: None,
        initrd: None,
        command_line: String::new(),
        ..config.to_spec(paravisor)
    })?
    .bytes)
}

/// A copy of the sources, and the home of whoever builds it.
struct Elsewhere {
    folder: PathBuf,
    home: PathBuf,
}

impl Elsewhere {
    fn new(scratch: &Scratch) -> Result<Self> {
        let (folder, home) = (scratch.file("elsewhere/deeper"), scratch.file("home"));
        copy(&build::workspace(), &folder)?;
        make(&home)?;
        // What was fetched once need not be fetched again; its name is another one from here.
        let fetched = build::cargo_home().join("registry");
        symlink(&fetched, home.join("registry")).map_err(|error| Failure::system(fetched.display(), error))?;
        Ok(Self { folder, home })
    }

    /// Builds Parados as somebody else would.
    fn build(&self, platform: Platform) -> Result<PathBuf> {
        let target = self.folder.join("target").join(platform.name());
        let mut command = Command::new("sh");
        command.args(["-c", "umask 077; exec \"$@\"", "sh", "cargo", "--config", &build::reproducible(&self.home)]);
        command.args(["build", "--quiet", "--release", "--target", TARGET, "-p", "paravisor"]);
        build::set_platform(command.env_remove(build::BOOTSTRAP), platform);
        command.current_dir(&self.folder).stdin(Stdio::null());
        command.env("CARGO_HOME", &self.home).env("CARGO_TARGET_DIR", &target).env("TZ", "Asia/Kathmandu");
        command.env("USER", "somebody").env("LOGNAME", "somebody").env("LC_ALL", "C");
        let status = command.status().map_err(|error| Failure::system("cargo", error))?;
        if !status.success() {
            return Err(Failure::missing("reproducible: the copy does not build"));
        }
        Ok(target.join(TARGET).join("release/paravisor"))
    }
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
