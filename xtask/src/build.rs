// SPDX-License-Identifier: MIT OR Apache-2.0
//! Building the bare-metal programs with cargo, and installing their target where it is missing.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use igvm_tools::Platform;

use crate::failure::{Failure, Result, status};
use crate::say;

/// What everything on the guest's side of the fence is built for.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// Crates named in it may use unstable features of a stable compiler.
pub(crate) const BOOTSTRAP: &str = "RUSTC_BOOTSTRAP";

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    // cargo tells where the package is now; it may have moved since it was built.
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        // A relative one is relative to where the user stands.
        Some(directory) => std::path::absolute(&directory).unwrap_or_else(|_| directory.into()),
        None => workspace().join("target"),
    }
}

/// A cargo command in the workspace.
pub(crate) fn cargo() -> Command {
    static CONFIG: OnceLock<String> = OnceLock::new();
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg("--config").arg(CONFIG.get_or_init(|| reproducible(&cargo_home())));
    command.current_dir(workspace()).env("CARGO_TARGET_DIR", target_directory()).stdin(Stdio::null());
    // Stable Rust, but for what `set_platform` says.
    command.env_remove(BOOTSTRAP);
    command
}

/// Where cargo keeps what it fetched.
pub(crate) fn cargo_home() -> PathBuf {
    let home = || env::home_dir().map(|home| home.join(".cargo")).unwrap_or_default();
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// What makes bare-metal programs the same for everybody: messages of panics name source files, and those of dependencies
/// and of the standard library lie in the home of whoever builds.
pub(crate) fn reproducible(cargo_home: &Path) -> String {
    let mut flags = vec![format!("--remap-path-prefix={}=/cargo", cargo_home.display())];
    let rustc = |arguments: &[&str]| {
        let output = Command::new("rustc").args(arguments).current_dir(workspace()).output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    // With the component rust-src, the standard library's files have their real names, otherwise these.
    let (sysroot, version) = (rustc(&["--print", "sysroot"]), rustc(&["-vV"]).unwrap_or_default());
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    if let (Some(sysroot), Some(commit)) = (sysroot, commit) {
        flags.push(format!("--remap-path-prefix={}/lib/rustlib/src/rust=/rustc/{commit}", sysroot.trim()));
    }
    // Rust's quoting of strings is TOML's as far as paths need it.
    format!("target.{TARGET}.rustflags={flags:?}")
}

/// Parados.
pub(crate) fn paravisor() -> Result<PathBuf> {
    bare_metal(&["-p", "paravisor"], "paravisor")
}

/// Parados for a platform. Each has a folder of its own, so that none takes the place of another.
pub(crate) fn paravisor_for(platform: Platform) -> Result<PathBuf> {
    if platform == Platform::Native {
        return paravisor();
    }
    let folder = target_directory().join(platform.name());
    let mut command = cargo();
    command.args(["build", "--release", "--target", TARGET, "-p", "paravisor", "--target-dir"]).arg(&folder);
    build(set_platform(&mut command, platform), "paravisor")?;
    Ok(folder.join(TARGET).join("release/paravisor"))
}

/// Has cargo compile for a platform. The same features under another name would give another image.
pub(crate) fn set_platform(command: &mut Command, platform: Platform) -> &mut Command {
    if platform == Platform::Tdx {
        // `tdx-guest` takes a version of it that has nightly features on.
        command.env(BOOTSTRAP, "x86_64");
    }
    match platform {
        Platform::Native => command,
        other => command.arg("--no-default-features").arg(format!("--features=statistics,{}", other.name())),
    }
}

/// What a package or several are made of: a line of `cargo tree` for each crate, again and again.
pub(crate) fn tree(arguments: &[&str], platform: Platform) -> Result<String> {
    let mut tree = cargo();
    set_platform(tree.args(["tree", "--prefix=none"]).args(arguments), platform);
    let output = tree.output().map_err(|error| Failure::system("cargo tree", error))?;
    if !output.status.success() {
        return Err(Failure::new(status::FAILED, String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Parados with a bug that a test must find. Built apart, so that it never takes the place of the other one.
pub(crate) fn paravisor_with_leak() -> Result<PathBuf> {
    let folder = target_directory().join("planted");
    let folder_name = folder.to_string_lossy().into_owned();
    bare_metal(&["-p", "paravisor", "--features", "planted-leak", "--target-dir", &folder_name], "paravisor")?;
    Ok(folder.join(TARGET).join("release/paravisor"))
}

/// Parados without what counts exits and measures them, as a file of its own at `place`.
pub(crate) fn paravisor_without_statistics(place: &Path) -> Result<()> {
    let program = bare_metal(&["-p", "paravisor", "--no-default-features", "--features", "native"], "paravisor")?;
    std::fs::copy(&program, place).map_err(|error| Failure::system(place.display(), error))?;
    // The usual one takes its place again.
    paravisor().map(drop)
}

/// The program that takes an image and starts it.
pub(crate) fn reference_host() -> Result<PathBuf> {
    bare_metal(&["-p", "reference-host"], "reference-host")
}

/// A test guest.
pub(crate) fn guest(name: &str) -> Result<PathBuf> {
    bare_metal(&["-p", "guests", "--bin", name], name)
}

/// A Linux program for a guest's RAM disk. It needs no C library, so it is built like what runs on no system at all.
pub(crate) fn guest_program(name: &str) -> Result<PathBuf> {
    bare_metal(&["-p", "guest-programs", "--bin", name], name)
}

fn bare_metal(packages: &[&str], program: &str) -> Result<PathBuf> {
    let mut command = cargo();
    build(command.args(["build", "--release", "--target", TARGET]).args(packages), program)?;
    Ok(target_directory().join(TARGET).join("release").join(program))
}

/// Runs `cargo build`.
fn build(command: &mut Command, program: &str) -> Result<()> {
    require_target()?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(status::FAILED, format!("cargo build: {error}"));
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(|error| failed(&error))?;
    if let Some(stderr) = child.stderr.take() {
        show_build(BufReader::new(stderr));
    }
    let result = child.wait().map_err(|error| failed(&error))?;
    if result.success() { Ok(()) } else { Err(failed(&format!("{program} does not build"))) }
}

/// Shows what cargo does, and nothing if there is nothing to do.
fn show_build(stderr: impl BufRead) {
    for line in stderr.lines().map_while(std::io::Result::ok) {
        // Several runs at once wait for each other for a moment.
        let idle = ["Finished", "Blocking"].iter().any(|word| line.trim_start().starts_with(word));
        if !idle {
            say::line(&line);
        }
    }
}

/// The bare-metal target's standard library, for the toolchain in use.
pub(crate) fn require_target() -> Result<()> {
    let present = || {
        let mut rustc = Command::new("rustc");
        let output = rustc.args(["--print", "target-libdir", "--target", TARGET]).current_dir(workspace()).output();
        output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
    };
    if present() {
        return Ok(());
    }
    say::progress(&format!("installing the Rust target {TARGET} with rustup"));
    rustup(&["target", "add", TARGET])
}

/// A component such as `clippy`, for the toolchain in use.
pub(crate) fn require_component(program: &str, component: &str) -> Result<()> {
    let present = cargo().args([program, "--version"]).output().is_ok_and(|output| output.status.success());
    if present {
        return Ok(());
    }
    say::progress(&format!("installing {component} with rustup"));
    rustup(&["component", "add", component])
}

fn rustup(arguments: &[&str]) -> Result<()> {
    let what = arguments.join(" ");
    let output = Command::new("rustup").args(arguments).current_dir(workspace()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Failure::missing(format!("rustup {what}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().find(|line| line.contains("error")).unwrap_or("failed").trim();
    Err(Failure::missing(format!("rustup {what}: {reason}; is there a network?")))
}
