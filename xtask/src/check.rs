// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask check`: everything that is judged without running a test, exactly as CI judges it.

mod closure;
mod layering;
mod licences;
mod release;
mod source;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use igvm_tools::Platform;

use crate::build::{self, TARGET, cargo};
use crate::failure::{Failure, Result, status};
use crate::say;

/// The programs and libraries that are built for the bare-metal target.
const BARE_METAL: &[&str] = &[
    "devices",
    "guest-programs",
    "guests",
    "image-abi",
    "journal",
    "paravisor",
    "paravisor-core",
    "platform",
    "platform-native",
    "platform-shared",
    "platform-snp",
    "platform-tdx",
    "reference-host",
    "snp-host",
    "snp-model",
    "snp-psp",
    "specs",
    "svm",
    "vc-handlers",
    "vmm-interface",
];

/// What a check found: one line each.
type Findings = Vec<String>;

/// The verb.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<u8> {
    if let Some(argument) = parser.next()? {
        return Err(argument.unexpected().into());
    }
    build::require_target()?;
    build::require_component("fmt", "rustfmt")?;
    build::require_component("clippy", "clippy")?;
    let workspace = build::workspace();
    let checks: &[(&str, &dyn Fn() -> Result<Findings>)] = &[
        ("layering", &|| layering::findings(&workspace)),
        ("unsafe code", &|| layering::unsafe_code(&workspace)),
        ("what lets lines out", &|| release::findings(&workspace)),
        ("licence lines", &|| licence_lines(&workspace)),
        ("dependencies' licences", &licences::findings),
        ("dependencies of TDX alone", &closure::findings),
        ("lock files", &|| lock_files(&["Cargo.toml", "fuzz/Cargo.toml"])),
        ("formatting", &|| tool(cargo().args(["fmt", "--all", "--check"]))),
        ("formatting, fuzz", &|| tool(cargo().args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))),
        ("clippy", &|| tool(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-Dwarnings"]))),
        ("clippy, bare metal", &|| tool(bare_metal(cargo().arg("clippy")).args(["--", "-Dwarnings"]))),
        ("clippy, bare metal, SNP", &|| {
            tool(bare_metal_for(cargo().arg("clippy"), Platform::Snp).args(["--", "-Dwarnings"]))
        }),
        ("clippy, bare metal, TDX", &|| {
            tool(bare_metal_for(cargo().arg("clippy"), Platform::Tdx).args(["--", "-Dwarnings"]))
        }),
        ("documentation", &|| tool(documentation(&mut cargo()).args(["--workspace", "--quiet"]))),
        ("documentation, TDX", &|| {
            tool(bare_metal_for(documentation(&mut cargo()), Platform::Tdx).args(["--package", "platform-tdx"]))
        }),
    ];
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in checks {
        let findings = check()?;
        let word = if findings.is_empty() { "ok" } else { "FAILED" };
        say::out(&format!("check {name} ... {word}\n"));
        findings.iter().for_each(|finding| say::line(&format!("  {finding}")));
        if findings.is_empty() {
            passed += 1;
        } else {
            failed += 1;
        }
    }
    say::out(&format!("\n{passed} checks passed, {failed} failed\n"));
    Ok(if failed == 0 { status::OK } else { status::FAILED })
}

/// Runs a tool that shows its own findings.
fn tool(command: &mut Command) -> Result<Findings> {
    let status = command.status().map_err(|error| Failure::system("cargo", error))?;
    Ok(if status.success() { vec![] } else { vec!["see above".into()] })
}

/// Lock files that cargo would change: then two people would build different things.
fn lock_files(manifests: &[&str]) -> Result<Findings> {
    let mut findings = Findings::new();
    for manifest in manifests {
        let mut command = cargo();
        command.args(["metadata", "--locked", "--format-version=1", "--manifest-path", manifest]);
        let output = command.output().map_err(|error| Failure::system("cargo metadata", error))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            findings.push(format!("{manifest}: {}", text.lines().next().unwrap_or("failed")));
        }
    }
    Ok(findings)
}

fn bare_metal(command: &mut Command) -> &mut Command {
    // As released, so that the build of the image and this one share what they compile.
    command.args(["--release", "--quiet", "--target", TARGET]);
    for package in BARE_METAL {
        command.args(["--package", package]);
    }
    command
}

/// The image of another platform, in the folder where it is built.
fn bare_metal_for(command: &mut Command, platform: Platform) -> &mut Command {
    command.args(["--release", "--quiet", "--target", TARGET, "--package", "paravisor"]);
    build::set_platform(command, platform).arg("--target-dir").arg(build::target_directory().join(platform.name()))
}

fn documentation(command: &mut Command) -> &mut Command {
    command.args(["doc", "--no-deps", "--document-private-items"]);
    command.env("RUSTDOCFLAGS", "-Dwarnings")
}

/// Files that do not begin with their licence.
fn licence_lines(workspace: &Path) -> Result<Findings> {
    let mut findings = Findings::new();
    for file in rust_files(workspace)? {
        let text = read(&file)?;
        if text.lines().next() != Some("// SPDX-License-Identifier: MIT OR Apache-2.0") {
            findings
                .push(format!("{}: line 1 must be `// SPDX-License-Identifier: MIT OR Apache-2.0`", file.display()));
        }
    }
    Ok(findings)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).map_err(|error| Failure::system(file.display(), error))
}

/// All Rust files below a directory, except what was built.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(|error| Failure::system(directory.display(), error))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut files = Vec::new();
    for path in paths {
        let hidden = path.file_name().is_some_and(|name| name == "target" || name.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() && !hidden {
            files.extend(rust_files(&path)?);
        } else if path.extension() == Some(OsStr::new("rs")) {
            files.push(path);
        }
    }
    Ok(files)
}
