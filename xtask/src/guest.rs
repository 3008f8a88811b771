// SPDX-License-Identifier: MIT OR Apache-2.0
//! The default guest: the distribution's stock kernel, byte for byte as packaged, and a small RAM disk with busybox.
//!
//! Both come from packages that are downloaded once and kept under `target/guest`; a file there records what they are.

use std::fs;
use std::path::{Path, PathBuf};

use igvm_tools::write_atomically;
use serde_json::{Value, json};

use crate::build;
use crate::cpio::Archive;
use crate::failure::{Failure, Result};
use crate::packages::{self, Distribution};

/// The default guest's command line.
pub(crate) const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";

/// What the default guest prints when it has reached user mode and [`Task::Figure`] was asked for.
pub(crate) const USER_MODE: &str = "guest: user mode";

/// What the default guest prints when its shell is about to start.
pub(crate) const SHELL: &str = "guest: a busybox shell";

const INIT: &[u8] = include_bytes!("../guest/init");

/// The modules without which the kernel does not tell the power button's user: its driver, and events for programs.
const BUTTON_MODULES: [&str; 2] = ["*/drivers/acpi/button.ko*", "*/drivers/input/evdev.ko*"];

/// The modules that `/dev/sev-guest` takes, in the order in which they are loaded: those of one kernel or another.
const ATTESTATION_MODULES: [&str; 7] = [
    "*/fs/configfs/configfs.ko*",
    "*/coco/tsm.ko*",
    "*/crypto/gf128mul.ko*",
    "*/crypto/ghash-generic.ko*",
    "*/crypto/ctr.ko*",
    "*/crypto/gcm.ko*",
    "*/sev-guest/sev-guest.ko*",
];

/// What the guest does once it is up; see `guest/init`.
pub(crate) enum Task<'a> {
    Shell,
    Command(&'a str),
    /// Powers off at once: for the bench.
    Figure,
}

/// The distribution's files that the guest is made of.
pub(crate) struct Files {
    pub(crate) kernel: PathBuf,
    busybox: PathBuf,
    /// Those of [`BUTTON_MODULES`] that are not built into the kernel.
    modules: Vec<PathBuf>,
}

impl Files {
    /// From `target/guest`, fetched before if need be.
    pub(crate) fn get() -> Result<Self> {
        let directory = build::target_directory().join("guest");
        let distribution = Distribution::this()?;
        if let Some(files) = Self::kept(&directory, &distribution) {
            return Ok(files);
        }
        fs::create_dir_all(&directory).map_err(|error| Failure::system(directory.display(), error))?;
        let package = packages::resolve_kernel(&distribution)?;
        let (kernel, modules) = fetch(&directory, &package, "*/vmlinuz*", &BUTTON_MODULES)?;
        let (busybox, _) = fetch(&directory, "busybox-static", "*bin/busybox", &[])?;
        let name = &distribution.name;
        let record = json!({ "distribution": name, "kernel": kernel, "busybox": busybox, "modules": modules });
        write_atomically(&directory.join("files.json"), format!("{record:#}\n").as_bytes())?;
        let modules = modules.iter().map(|module| directory.join(module)).collect();
        Ok(Self { kernel: directory.join(kernel), busybox: directory.join(busybox), modules })
    }

    fn kept(directory: &Path, distribution: &Distribution) -> Option<Self> {
        let record: Value = serde_json::from_slice(&fs::read(directory.join("files.json")).ok()?).ok()?;
        let file = |name: &str| Some(directory.join(record.get(name)?.as_str()?)).filter(|path| path.is_file());
        let modules = record.get("modules")?.as_array()?.iter();
        let modules = modules.map(|module| Some(directory.join(module.as_str()?)).filter(|path| path.is_file()));
        (record.get("distribution")? == &distribution.name).then_some(Self {
            kernel: file("kernel")?,
            busybox: file("busybox")?,
            modules: modules.collect::<Option<_>>()?,
        })
    }

    /// The RAM disk for one task.
    pub(crate) fn initrd(&self, task: &Task) -> Result<Vec<u8>> {
        let read = |path: &Path| fs::read(path).map_err(|error| Failure::system(path.display(), error));
        let busybox = read(&self.busybox)?;
        let mut archive = Archive::new();
        for name in ["bin", "dev", "proc", "root", "sys", "tmp"] {
            archive.directory(name);
        }
        archive.character_device("dev/console", 5, 1);
        archive.file("bin/busybox", 0o755, &busybox).link("bin/sh", "busybox").file("init", 0o755, INIT);
        match task {
            Task::Shell => {
                archive.directory("modules");
                for module in &self.modules {
                    archive.file(&format!("modules/{}", packages::file_name(module)), 0o644, &read(module)?);
                }
                &mut archive
            }
            Task::Command(command) => archive.file("command", 0o644, format!("{command}\n").as_bytes()),
            Task::Figure => archive.file("figure", 0o644, b""),
        };
        Ok(archive.finish())
    }
}

/// A stock kernel whose package has a driver for `/dev/sev-guest`, and a RAM disk that loads it and runs `program`.
pub(crate) fn attesting(program: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let directory = build::target_directory().join("guest").join("attestation");
    fs::create_dir_all(&directory).map_err(|error| Failure::system(directory.display(), error))?;
    let busybox = Files::get()?.busybox;
    for package in packages::resolve_kernels(&Distribution::this()?)? {
        let place = directory.join(&package);
        if find(&place, "vmlinuz").is_none() {
            fetch(&directory, &package, "*/vmlinuz*", &ATTESTATION_MODULES)?;
        }
        let modules = modules_in(&place);
        let driver = modules.last().is_some_and(|module| packages::file_name(module).starts_with("sev-guest.ko"));
        if let Some(kernel) = find(&place, "vmlinuz").filter(|_| driver) {
            return Ok((kernel, attesting_disk(program, &busybox, &modules)?));
        }
    }
    Err(Failure::missing("no package with a kernel has sev-guest.ko"))
}

/// Those of [`ATTESTATION_MODULES`] that are there, in order.
fn modules_in(place: &Path) -> Vec<PathBuf> {
    let name = |pattern: &str| pattern.rsplit('/').next().unwrap_or_default().trim_end_matches('*').to_owned();
    ATTESTATION_MODULES.iter().filter_map(|pattern| find(place, &name(pattern))).collect()
}

fn attesting_disk(program: &Path, busybox: &Path, modules: &[PathBuf]) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).map_err(|error| Failure::system(path.display(), error));
    let mut archive = Archive::new();
    for name in ["bin", "dev", "modules", "proc", "root", "sys", "tmp"] {
        archive.directory(name);
    }
    archive.character_device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &read(busybox)?).link("bin/sh", "busybox").file("init", 0o755, INIT);
    archive.file("attest", 0o755, &read(program)?);
    for (index, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{index}-{}", packages::file_name(module)), 0o644, &read(module)?);
    }
    Ok(archive.finish())
}

/// Downloads a package and takes one file out of it, and others if it has them. Gives their paths below `directory`.
fn fetch(directory: &Path, package: &str, pattern: &str, optional: &[&str]) -> Result<(String, Vec<String>)> {
    let system = |error: std::io::Error| Failure::system(directory.display(), error);
    // Two runs at once do not meet: each works apart, and the last one's result stays.
    let work = directory.join(format!("{package}.{}.tmp", std::process::id()));
    fs::create_dir_all(&work).map_err(system)?;
    let below = |file: &Path| Path::new(package).join(file.strip_prefix(&work).unwrap_or(file));
    let find = |pattern: &str| {
        let file = find(&work, pattern.rsplit('/').next().unwrap_or_default().trim_end_matches('*'))?;
        Some(below(&file).to_string_lossy().into_owned())
    };
    let found = packages::download(package, &work).and_then(|deb| {
        packages::unpack(&deb, pattern, &work)?;
        let file = find(pattern).ok_or_else(|| Failure::missing(format!("{} has no {pattern}", deb.display())))?;
        let others = optional.iter().filter_map(|pattern| {
            // What the package does not have is in the kernel itself, or missing for good.
            packages::unpack(&deb, pattern, &work).ok().and_then(|()| find(pattern))
        });
        Ok((file, others.collect()))
    });
    let kept = found.and_then(|files| {
        let place = directory.join(package);
        let _ = fs::remove_dir_all(&place);
        fs::rename(&work, &place).map_err(system)?;
        Ok(files)
    });
    let _ = fs::remove_dir_all(&work);
    kept
}

/// The first regular file below a directory whose name begins so; packages are told apart by their ending.
fn find(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(directory).ok()?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    entries.iter().find_map(|entry| {
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        if kind.is_dir() {
            return find(&path, prefix);
        }
        let name = packages::file_name(&path);
        (kind.is_file() && name.starts_with(prefix) && !name.ends_with(".deb")).then_some(path)
    })
}
