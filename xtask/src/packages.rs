// SPDX-License-Identifier: MIT OR Apache-2.0
//! The distribution's packages: resolved, downloaded and unpacked with its own tools.
//!
//! Nothing but QEMU is ever installed. The guest's kernel and busybox are only downloaded (`apt-get download` checks
//! their signatures and needs no privileges) and their files are taken out of the packages as they are.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::failure::{Failure, Result};
use crate::say;

/// Without a network apt-get gives up after seconds, not minutes; as root it need not complain about its sandbox.
const APT_OPTIONS: [&str; 4] =
    ["-oAcquire::Retries=2", "-oAcquire::http::Timeout=15", "-oAPT::Sandbox::User=root", "-oDpkg::Use-Pty=0"];

/// How far a package that only depends on the kernel's package is followed.
const META_PACKAGES: usize = 4;

/// The distribution that runs here, with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Distribution {
    debian: bool,
    pub(crate) name: String,
}

impl Distribution {
    pub(crate) fn this() -> Result<Self> {
        let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self::parse(&text).ok_or_else(|| {
            Failure::missing(
                "neither Debian nor Ubuntu: pass --kernel FILE and --initrd FILE, as no stock kernel is known here",
            )
        })
    }

    fn parse(os_release: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_owned()
        };
        let (id, like) = (field("ID"), field("ID_LIKE"));
        let is = |name: &str| id == name || like.split(' ').any(|like| like == name);
        let debian = !is("ubuntu");
        (is("ubuntu") || is("debian")).then(|| Self { debian, name: format!("{id} {}", field("VERSION_ID")) })
    }

    /// Packages that depend on the current stock kernel for virtual machines, best first.
    pub(crate) fn kernel_packages(&self) -> &'static [&'static str] {
        if self.debian {
            &["linux-image-cloud-amd64", "linux-image-amd64"]
        } else {
            &["linux-image-virtual", "linux-image-generic"]
        }
    }
}

/// A program's full path, if it is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/bin", "/usr/sbin", "/bin"].map(PathBuf::from));
    places.map(|place| place.join(name)).find(|path| path.is_file())
}

/// Installs packages, as root or with sudo.
pub(crate) fn install(names: &[&str]) -> Result<()> {
    let list = names.join(" ");
    let install = |()| {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(names);
        apt_get_as_root(&arguments)
    };
    say::progress(&format!("installing {list} with apt-get"));
    let first = install(());
    // Package lists that are absent or old name packages that the archive no longer has.
    let done = first.or_else(|_| refresh().and_then(install));
    done.map_err(|failure| Failure::missing(format!("cannot install {list}: {}", failure.message)))
}

/// The name of the package that holds the newest stock kernel.
pub(crate) fn resolve_kernel(distribution: &Distribution) -> Result<String> {
    let resolve = || distribution.kernel_packages().iter().find_map(|package| follow(package, META_PACKAGES));
    if let Some(package) = resolve() {
        return Ok(package);
    }
    refresh()?;
    resolve().ok_or_else(|| {
        let names = distribution.kernel_packages().join(" or ");
        Failure::missing(format!("{}: no package {names} can be had; is there a network?", distribution.name))
    })
}

/// The same for each of them that can be had.
pub(crate) fn resolve_kernels(distribution: &Distribution) -> Result<Vec<String>> {
    resolve_kernel(distribution)?;
    Ok(distribution.kernel_packages().iter().filter_map(|package| follow(package, META_PACKAGES)).collect())
}

/// From a package such as `linux-image-cloud-amd64` to the one that holds the kernel.
fn follow(package: &str, steps: usize) -> Option<String> {
    let output = Command::new("apt-cache").args(["depends", package]).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if names_a_version(package) {
        return Some(binary_package(&text).unwrap_or(package).to_owned());
    }
    let mut images = text.lines().filter_map(dependency).filter(|name| name.starts_with("linux-image-"));
    images.find_map(|name| follow(name, steps.checked_sub(1)?))
}

/// From Debian 14 on a package such as `linux-image-7.2.13+deb14-cloud-amd64` is empty and depends on this one.
fn binary_package(depends: &str) -> Option<&str> {
    depends.lines().filter_map(dependency).find(|name| name.starts_with("linux-binary-"))
}

fn names_a_version(package: &str) -> bool {
    let rest = package.strip_prefix("linux-image-unsigned-").or_else(|| package.strip_prefix("linux-image-"));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// A line of `apt-cache depends`: `  Depends: NAME` or, with an alternative after it, ` |Depends: NAME`.
fn dependency(line: &str) -> Option<&str> {
    line.trim_start_matches([' ', '|']).strip_prefix("Depends: ")
}

/// Downloads a package into a directory; gives the file.
pub(crate) fn download(package: &str, directory: &Path) -> Result<PathBuf> {
    say::progress(&format!("downloading {package}"));
    let fetch = |()| apt_get(Command::new("apt-get").current_dir(directory), &["download", package]);
    let first = fetch(());
    let done = first.or_else(|_| refresh().and_then(fetch));
    done.map_err(|failure| {
        Failure::missing(format!("cannot download {package}: {}; is there a network?", failure.message))
    })?;
    let entries = fs::read_dir(directory).map_err(|error| Failure::system(directory.display(), error))?;
    let prefix = format!("{package}_");
    let mut files = entries.flatten().map(|entry| entry.path());
    files.find(|path| file_name(path).starts_with(&prefix) && path.extension() == Some(OsStr::new("deb"))).ok_or_else(
        || Failure::missing(format!("apt-get download {package} left no package in {}", directory.display())),
    )
}

/// A path's last part.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Takes the files that match a pattern out of a package.
pub(crate) fn unpack(package: &Path, pattern: &str, directory: &Path) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Failure::system(format!("unpacking {}", package.display()), error);
    let mut reader = Command::new("dpkg-deb");
    let reader = reader.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn();
    let mut reader = reader.map_err(|error| failed(&error))?;
    let mut tar = Command::new("tar");
    // The directory applies to what follows it.
    tar.arg("--directory").arg(directory).args(["--extract", "--no-same-owner", "--wildcards", pattern]);
    tar.stdin(reader.stdout.take().map_or_else(Stdio::null, Stdio::from));
    let output = tar.output().map_err(|error| failed(&error))?;
    let status = reader.wait().map_err(|error| failed(&error))?;
    if status.success() && output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(failed(&complaint.lines().next().unwrap_or("the package is corrupt")))
}

/// Brings the package lists up to date.
fn refresh() -> Result<()> {
    say::progress("updating the package lists with apt-get");
    apt_get_as_root(&["update"])
}

fn apt_get_as_root(arguments: &[&str]) -> Result<()> {
    let what = arguments.first().copied().unwrap_or_default();
    if nix::unistd::geteuid().is_root() {
        return apt_get(&mut Command::new("apt-get"), arguments);
    }
    if program("sudo").is_none() {
        return Err(Failure::missing(format!("`apt-get {what}` needs root, and there is no sudo")));
    }
    let mut command = Command::new("sudo");
    if !std::io::stdin().is_terminal() {
        command.arg("--non-interactive");
    }
    apt_get(command.args(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]), arguments)
}

/// Runs apt-get: what it fetches and sets up is shown, its last error becomes ours.
fn apt_get(command: &mut Command, arguments: &[&str]) -> Result<()> {
    command.args(APT_OPTIONS).args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |why: &str| Failure::missing(format!("apt-get {}: {why}", arguments.first().unwrap_or(&"")));
    let mut child = command.spawn().map_err(|error| failed(&error.to_string()))?;
    let errors = child.stderr.take().map(|stderr| thread::spawn(move || last_error(stderr)));
    if let Some(stdout) = child.stdout.take() {
        show_progress(stdout);
    }
    let error = errors.and_then(|thread| thread.join().ok()).unwrap_or_default();
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) if error.is_empty() => Err(failed("failed")),
        Ok(_) => Err(failed(&error)),
        Err(error) => Err(failed(&error.to_string())),
    }
}

fn show_progress(stdout: impl Read) {
    for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
        if line.starts_with("Get:") || line.starts_with("Setting up ") {
            say::progress(&say::printable(format!("  {line}").as_bytes()));
        }
    }
}

fn last_error(stderr: impl Read) -> String {
    let lines = BufReader::new(stderr).lines().map_while(std::io::Result::ok);
    let errors = lines.filter_map(|line| line.strip_prefix("E: ").map(|error| say::printable(error.as_bytes())));
    errors.last().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_told_apart() {
        let debian = Distribution::parse("ID=debian\nVERSION_ID=\"12\"\n").unwrap();
        assert_eq!(debian, Distribution { debian: true, name: "debian 12".into() });
        let ubuntu = Distribution::parse("NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"").unwrap();
        assert!(!ubuntu.debian);
        let mint = Distribution::parse("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").unwrap();
        assert!(!mint.debian);
        assert_eq!(Distribution::parse("ID=fedora\n"), None);
        assert_eq!(Distribution::parse(""), None);
    }

    #[test]
    fn kernel_packages_are_told_from_those_that_depend_on_them() {
        assert!(names_a_version("linux-image-6.1.0-56-cloud-amd64"));
        assert!(names_a_version("linux-image-unsigned-6.8.0-31-generic"));
        assert!(!names_a_version("linux-image-cloud-amd64"));
        assert!(!names_a_version("linux-image-virtual"));
        assert!(!names_a_version("busybox-static"));
    }

    #[test]
    fn dependencies_are_read_with_and_without_alternatives() {
        assert_eq!(dependency("  Depends: linux-image-6.1.0-56-cloud-amd64"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(dependency(" |Depends: linux-image-generic"), Some("linux-image-generic"));
        assert_eq!(dependency("  Suggests: fdutils"), None);
    }

    #[test]
    fn the_kernel_can_be_in_a_package_of_its_own() {
        let split = "linux-image-7.2.13+deb14-amd64\n  PreDepends: linux-base\n |Depends: dracut\n  Depends: <x>\n    \
            dracut\n  Depends: linux-binary-7.2.13+deb14-amd64\n  Depends: linux-modules-7.2.13+deb14-amd64\n";
        assert_eq!(binary_package(split), Some("linux-binary-7.2.13+deb14-amd64"));
        assert_eq!(binary_package("linux-image-6.1.0-56-amd64\n  Depends: kmod\n  Depends: linux-base\n"), None);
    }
}
