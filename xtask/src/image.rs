// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images: what `run`, `test` and `bench` start, and the verb `cargo xtask image`.

use std::fs;
use std::path::{Path, PathBuf};

use igvm_tools::{Config, Image, Inspection, Platform, inspect, write_together};
use image_abi::log_level;
use lexopt::Arg::Long;

use crate::build;
use crate::failure::{Failure, Result, status};
use crate::guest::{self, Files, Task};
use crate::options::{self, set};
use crate::say;
use crate::scratch::Scratch;

/// Where a bzImage has the magic of its setup header (Linux, Documentation/arch/x86/boot.rst).
const SETUP_HEADER: std::ops::Range<usize> = 0x202..0x206;

impl From<igvm_tools::Error> for Failure {
    fn from(error: igvm_tools::Error) -> Self {
        Self::new(error.exit_status(), error.to_string())
    }
}

/// Where finished images go.
pub(crate) fn directory() -> PathBuf {
    build::target_directory().join("images")
}

/// What goes into an image for one run.
pub(crate) struct Request<'a> {
    pub(crate) platform: Platform,
    pub(crate) kernel: Option<&'a Path>,
    pub(crate) initrd: Option<&'a Path>,
    pub(crate) append: Option<&'a str>,
    /// What `--exec` runs.
    pub(crate) command: Option<&'a str>,
    /// Bits of `image_abi::flag`, in addition to the configuration's.
    pub(crate) flags: u32,
    /// Parados judges the payload by its digests, whatever the configuration says.
    pub(crate) hashed: bool,
    /// What the VM has.
    pub(crate) memory: u64,
    /// Instead of the paravisor as it is built for everything else.
    pub(crate) paravisor: Option<&'a Path>,
    /// The default guest powers off as soon as it is in user mode.
    pub(crate) figure: bool,
}

/// Kernel, initrd and command line of a guest, the defaults filled in.
pub(crate) struct Payload {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) command_line: String,
}

impl Default for Request<'_> {
    fn default() -> Self {
        let (kernel, initrd, append, command, paravisor) = (None, None, None, None, None);
        let (platform, memory) = (Platform::Native, 1 << 30);
        let (flags, hashed, figure) = (0, false, false);
        Self { platform, kernel, initrd, append, command, flags, hashed, memory, paravisor, figure }
    }
}

impl Request<'_> {
    pub(crate) fn build(&self) -> Result<Image> {
        let scratch = Scratch::new()?;
        let payload = self.payload(&scratch)?;
        self.check_sizes(&payload)?;
        let mut config = Config::read(&configuration(self.platform))?;
        config.kernel = Some(payload.kernel);
        config.initrd = payload.initrd;
        config.command_line = payload.command_line;
        config.measured &= !self.hashed;
        config.flags = log_level::overruled(config.flags, self.flags) | self.flags & !log_level::MASK;
        let paravisor =
            self.paravisor.map_or_else(|| build::paravisor_for(self.platform), |file| Ok(file.to_owned()))?;
        let image = igvm_tools::build(&config.to_spec(paravisor))?;
        self.check_placement(&image.report)?;
        Ok(image)
    }

    /// A RAM disk that is made here is written to `scratch`.
    pub(crate) fn payload(&self, scratch: &Scratch) -> Result<Payload> {
        // What the user names is looked at before anything is fetched.
        let linux = self.kernel.map(is_linux).transpose()?.unwrap_or(true);
        if let Some(initrd) = self.initrd {
            readable(initrd)?;
        }
        if self.command.is_some() && !linux {
            return Err(Failure::usage("--exec: the command needs a Linux kernel (bzImage)"));
        }
        let default_disk = self.initrd.is_none() && linux;
        let append = self.append.unwrap_or_default();
        if !default_disk && self.kernel.is_some() {
            let named = |path: Option<&Path>| path.map(Path::to_owned);
            let kernel = named(self.kernel).unwrap_or_default();
            return Ok(Payload { kernel, initrd: named(self.initrd), command_line: append.to_owned() });
        }
        let files = Files::get()?;
        let kernel = self.kernel.unwrap_or(&files.kernel).to_owned();
        if !default_disk {
            return Ok(Payload { kernel, initrd: self.initrd.map(Path::to_owned), command_line: append.to_owned() });
        }
        let initrd = scratch.file("initrd");
        let task = match self.command {
            _ if self.figure => Task::Figure,
            Some(command) => Task::Command(command),
            None => Task::Shell,
        };
        fs::write(&initrd, files.initrd(&task)?).map_err(|error| Failure::system(initrd.display(), error))?;
        let command_line = format!("{} {append}", guest::COMMAND_LINE).trim_end().to_owned();
        Ok(Payload { kernel, initrd: Some(initrd), command_line })
    }

    /// What cannot fit by its size alone, before much time goes into it.
    fn check_sizes(&self, payload: &Payload) -> Result<()> {
        let room = self.memory.saturating_sub(image_abi::REGION_LIMIT);
        for (path, what) in [(Some(&payload.kernel), "kernel"), (payload.initrd.as_ref(), "initrd")] {
            let Some(path) = path else { continue };
            let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
            if bytes >= room {
                let (bytes, memory) = (bytes.div_ceil(1 << 20), self.memory >> 20);
                let path = path.display();
                let message =
                    format!("{what} {path}: {bytes} MiB do not fit into {memory} MiB; pass a larger --memory");
                return Err(Failure::usage(message));
            }
        }
        Ok(())
    }

    /// Whether the VM has memory where the payload goes.
    fn check_placement(&self, report: &Inspection) -> Result<()> {
        let Some(block) = &report.launch_block else { return Ok(()) };
        let end = block.payload.iter().chain([&block.initrd]).map(image_abi::Range::end).max().unwrap_or_default();
        if end <= self.memory {
            return Ok(());
        }
        let (end, memory) = (end.div_ceil(1 << 20), self.memory >> 20);
        let message = format!("kernel and initrd need {end} MiB, the VM has {memory} MiB; pass a larger --memory");
        Err(Failure::usage(message))
    }
}

/// Whether a kernel is a Linux bzImage. What else it can be, `igvm-tools` finds out.
fn is_linux(kernel: &Path) -> Result<bool> {
    use std::io::Read;
    let mut head = Vec::new();
    let file = fs::File::open(kernel).map_err(|error| unreadable(kernel, &error))?;
    file.take(SETUP_HEADER.end as u64).read_to_end(&mut head).map_err(|error| unreadable(kernel, &error))?;
    Ok(head.get(SETUP_HEADER) == Some(b"HdrS"))
}

fn readable(path: &Path) -> Result<()> {
    let metadata = fs::File::open(path).and_then(|file| file.metadata()).map_err(|error| unreadable(path, &error))?;
    if metadata.is_dir() { Err(Failure::usage(format!("{}: is a directory", path.display()))) } else { Ok(()) }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}

/// Refuses what is no image for this platform, before QEMU is started.
pub(crate) fn verify(image: &Path, platform: Platform) -> Result<()> {
    let inspection = inspect::inspect_file(image, None)?;
    let names: Vec<_> = inspection.platforms.iter().map(|platform| platform.name.as_str()).collect();
    if names.contains(&platform.name()) {
        return Ok(());
    }
    let message = format!("{}: an image for {}, not for {}", image.display(), names.join(" and "), platform.name());
    Err(Failure::data(message))
}

/// The configuration of a platform's image.
pub(crate) fn configuration(platform: Platform) -> PathBuf {
    build::workspace().join("configs").join(platform.name()).with_extension("toml")
}

/// The verb: builds the images that configurations describe, with the default guest if one names none.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<u8> {
    let (mut wanted, mut config, mut out) = (None, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("platform") => set(&mut wanted, "platform", Wanted::read(&options::text(&mut parser)?)?)?,
            Long("config") => set(&mut config, "config", options::path(&mut parser)?)?,
            Long("out") => set(&mut out, "out", options::path(&mut parser)?)?,
            other => return Err(other.unexpected().into()),
        }
    }
    let directory = out.unwrap_or_else(directory);
    let images = match (wanted, config) {
        (Some(Wanted::All), None) => every_platform()?,
        (Some(Wanted::All), Some(_)) => {
            return Err(Failure::usage("--platform all and --config: a configuration is for one platform"));
        }
        (wanted, config) => {
            let wanted = wanted.and_then(Wanted::one);
            let file = config.unwrap_or_else(|| configuration(wanted.unwrap_or(Platform::Native)));
            let platform = Config::read(&file)?.platform;
            if let Some(wanted) = wanted.filter(|wanted| *wanted != platform) {
                let (file, wanted, platform) = (file.display(), wanted.name(), platform.name());
                return Err(Failure::usage(format!("--platform {wanted}: {file} is for {platform}")));
            }
            vec![(platform.name(), configured(&file)?.1)]
        }
    };
    fs::create_dir_all(&directory).map_err(|error| Failure::usage(format!("{}: {error}", directory.display())))?;
    images.iter().try_for_each(|(name, image)| publish(&directory.join(format!("parados-{name}.igvm")), image))?;
    Ok(status::OK)
}

/// What `--platform` asks for.
#[derive(Clone, Copy)]
enum Wanted {
    One(Platform),
    /// All that images can be built for, and one file for all of them.
    All,
}

impl Wanted {
    fn read(name: &str) -> Result<Self> {
        if name == "all" {
            return Ok(Self::All);
        }
        let unknown =
            |_| Failure::usage(format!("--platform {name}: unknown platform, expected native, snp, tdx or all"));
        let platform: Platform = name.parse().map_err(unknown)?;
        Ok(Self::One(platform))
    }

    fn one(self) -> Option<Platform> {
        match self {
            Self::One(platform) => Some(platform),
            Self::All => None,
        }
    }
}

/// An image for each platform, then one for all of them.
fn every_platform() -> Result<Vec<(&'static str, Image)>> {
    let mut images = Vec::new();
    for platform in Platform::ALL {
        images.push((platform.name(), configured(&configuration(platform))?.1));
    }
    let parts: Vec<_> = images.iter().map(|(_, image)| image.clone()).collect();
    images.push(("all", igvm_tools::combine(&parts)?));
    Ok(images)
}

/// Writes an image and, beside it, what is in it and what it measures.
fn publish(file: &Path, image: &Image) -> Result<()> {
    let report = format!("{:#}\n", image.to_json(file)?);
    write_together(&[(file, &image.bytes), (&file.with_extension("json"), report.as_bytes())])?;
    let without = image.report.image_bytes.unwrap_or_default();
    say::out(&format!("{}: {} bytes, {without} without payload\n", file.display(), image.bytes.len()));
    Ok(())
}

/// The image that a configuration describes, and its platform.
pub(crate) fn configured(file: &Path) -> Result<(Platform, Image)> {
    let mut config = Config::read(file)?;
    let scratch = Scratch::new()?;
    if config.kernel.is_none() {
        let payload = Request::default().payload(&scratch)?;
        config.kernel = Some(payload.kernel);
        config.initrd = config.initrd.or(payload.initrd);
        if config.command_line.is_empty() {
            config.command_line = payload.command_line;
        }
    }
    let paravisor = match &config.paravisor {
        Some(paravisor) => paravisor.clone(),
        None => build::paravisor_for(config.platform)?,
    };
    Ok((config.platform, igvm_tools::build(&config.to_spec(paravisor))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_platform_is_refused_in_one_line() {
        for platform in Platform::ALL {
            assert!(matches!(Wanted::read(platform.name()), Ok(Wanted::One(found)) if found == platform));
        }
        assert!(matches!(Wanted::read("all"), Ok(Wanted::All)));
        for name in ["vmx", ""] {
            let failure = Wanted::read(name).map(|_| ()).unwrap_err();
            assert_eq!((failure.status, failure.message.contains('\n')), (64, false), "{name}");
        }
    }

    #[test]
    fn every_platform_has_a_configuration_of_its_own() {
        for platform in Platform::ALL {
            assert_eq!(Config::read(&configuration(platform)).unwrap().platform, platform);
        }
    }
}
