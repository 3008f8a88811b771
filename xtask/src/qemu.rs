// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which QEMU, and the command line with which it becomes the machine of `docs/host-contract.md`.
//!
//! QEMU is stock and only emulates a bare machine here: a CPU with SVM (TCG), RAM, a serial port per console, two debug
//! ports for messages and a port that ends it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Failure, Result};
use crate::packages;

/// RAM that the reference host needs for itself, on top of the guest's.
const HOST_ROOM: u64 = 64 << 20;

/// Where QEMU goes on with RAM at 4 GiB (`max-ram-below-4g`).
const LOW_RAM: u64 = 2 << 30;

/// A VM with more than one processor leaves the machine's first one alone (`reference_host::processors` says why), if the machine
/// can have one more: an xAPIC has 255 numbers.
const WITH_SPARE: std::ops::RangeInclusive<u32> = 2..=254;

/// From here on memory is reserved lazily, so that a machine can have more than we do.
const RESERVE_LIMIT: u64 = 8 << 30;

const PROGRAM: &str = "qemu-system-x86_64";

/// A QEMU that was asked for its version.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    pub(crate) path: PathBuf,
    pub(crate) version: (u32, u32),
}

impl Qemu {
    /// The one named, or else the distribution's, which is installed if it is missing.
    pub(crate) fn find(named: Option<&Path>) -> Result<Self> {
        if let Some(path) = named {
            return Self::at(path);
        }
        if packages::program(PROGRAM).is_none() {
            packages::install(&["qemu-system-x86"])?;
        }
        Self::at(Path::new(PROGRAM))
    }

    fn at(path: &Path) -> Result<Self> {
        let unusable = |why: &str| {
            Failure::missing(format!("{}: {why}; install qemu-system-x86 or pass --qemu PATH", path.display()))
        };
        let output = Command::new(path).arg("--version").stdin(Stdio::null()).output();
        let output = output.map_err(|error| unusable(&error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = version(&text).ok_or_else(|| unusable("not a QEMU"))?;
        Ok(Self { path: path.to_owned(), version })
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("QEMU emulator version ")?.split(['.', ' ']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What the machine starts.
#[derive(Clone)]
pub(crate) enum Start {
    /// The reference host, which starts an image.
    Host { host: PathBuf, image: PathBuf },
    /// An image, through QEMU's own IGVM loader (QEMU 10.1 and later).
    Igvm { image: PathBuf },
    /// A kernel, without Parados.
    Bare { kernel: PathBuf, initrd: Option<PathBuf>, append: String },
}

/// Where a byte stream of the machine goes.
pub(crate) enum Channel {
    /// QEMU's standard input and output.
    Stdio,
    /// The same, with QEMU's monitor behind Ctrl-A.
    Terminal,
    /// A Unix socket on which somebody listens already.
    Socket(PathBuf),
    /// QEMU's standard error.
    Stderr,
}

/// One machine.
pub(crate) struct Machine {
    pub(crate) qemu: PathBuf,
    pub(crate) cpu: String,
    pub(crate) processors: u32,
    /// What the VM has, without the host's room.
    pub(crate) memory: u64,
    pub(crate) start: Start,
    pub(crate) console: Channel,
    pub(crate) log: Channel,
    /// COM2 of the guest: the output of `--exec`.
    pub(crate) command: Option<Channel>,
    /// QEMU's monitor, in the form for programs.
    pub(crate) monitor: Option<Channel>,
    /// A file that is the machine's RAM, and still tells what it held when QEMU has ended.
    pub(crate) memory_file: Option<PathBuf>,
    /// Further arguments, such as `-icount`.
    pub(crate) extra: Vec<String>,
    /// Further words for the reference host, each with a space before it.
    pub(crate) host_options: String,
}

impl Machine {
    /// A machine of the default size.
    pub(crate) fn new(qemu: PathBuf, start: Start) -> Self {
        Self {
            qemu,
            cpu: "max".into(),
            processors: 1,
            memory: 1 << 30,
            start,
            console: Channel::Stdio,
            log: Channel::Stderr,
            command: None,
            monitor: None,
            memory_file: None,
            extra: vec![],
            host_options: String::new(),
        }
    }

    /// QEMU's arguments, without its name.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Arguments(Vec::new());
        let ram = self.ram();
        let mut machine = format!("q35,max-ram-below-4g={}G", LOW_RAM >> 30);
        if let Some(file) = &self.memory_file {
            machine.push_str(",memory-backend=ram");
            let size = ram >> 20;
            arguments
                .pair("-object", joined(&format!("memory-backend-file,id=ram,size={size}M,share=on,mem-path="), file));
        } else if ram > RESERVE_LIMIT {
            machine.push_str(",memory-backend=ram");
            arguments.pair("-object", format!("memory-backend-ram,id=ram,size={}M,reserve=off", ram >> 20));
        }
        if let Start::Igvm { image } = &self.start {
            machine.push_str(",igvm-cfg=igvm0");
            arguments.pair("-object", joined("igvm-cfg,id=igvm0,file=", image));
        }
        arguments.pair("-accel", "tcg").pair("-machine", machine).pair("-cpu", &self.cpu);
        let spare = matches!(self.start, Start::Host { .. }) && WITH_SPARE.contains(&self.processors);
        arguments.pair("-smp", (self.processors + u32::from(spare)).to_string()).pair("-m", format!("{}M", ram >> 20));
        arguments.flag("-nodefaults").flag("-no-user-config").pair("-display", "none").flag("-no-reboot");
        self.add_channels(&mut arguments);
        self.add_start(&mut arguments);
        arguments.0.extend(self.extra.iter().map(OsString::from));
        arguments.0
    }

    /// The host's room is contiguous at the top of RAM: it does not straddle the hole below 4 GiB.
    fn ram(&self) -> u64 {
        match &self.start {
            Start::Host { .. } if self.memory < LOW_RAM && self.memory + HOST_ROOM > LOW_RAM => LOW_RAM + HOST_ROOM,
            Start::Host { .. } => self.memory + HOST_ROOM,
            Start::Igvm { .. } | Start::Bare { .. } => self.memory,
        }
    }

    fn add_channels(&self, arguments: &mut Arguments) {
        arguments.pair("-chardev", self.console.chardev("console")).pair("-serial", "chardev:console");
        if matches!(self.console, Channel::Terminal) {
            arguments.pair("-mon", "chardev=console,mode=readline");
        }
        let bare = matches!(self.start, Start::Bare { .. });
        if let Some(command) = &self.command {
            arguments.pair("-chardev", command.chardev("command"));
            // Without Parados the guest's COM2 is QEMU's.
            let device = if bare {
                ("-serial", "chardev:command")
            } else {
                ("-device", "isa-debugcon,iobase=0xea,chardev=command")
            };
            arguments.pair(device.0, device.1);
        }
        if let Some(monitor) = &self.monitor {
            arguments.pair("-chardev", monitor.chardev("monitor")).pair("-mon", "chardev=monitor,mode=control");
        }
        arguments.pair("-chardev", self.log.chardev("log"));
        arguments.pair("-device", "isa-debugcon,iobase=0xe9,chardev=log");
        arguments.pair("-device", "isa-debug-exit,iobase=0xf4,iosize=4");
    }

    fn add_start(&self, arguments: &mut Arguments) {
        match &self.start {
            Start::Host { host, image } => {
                arguments.pair("-kernel", host).pair("-initrd", image).pair(
                    "-append",
                    format!("memory={} processors={}{}", self.memory, self.processors, self.host_options),
                );
            }
            Start::Igvm { .. } => {}
            Start::Bare { kernel, initrd, append } => {
                arguments.pair("-kernel", kernel);
                if let Some(initrd) = initrd {
                    arguments.pair("-initrd", initrd);
                }
                if !append.is_empty() {
                    arguments.pair("-append", append);
                }
            }
        }
    }

    /// The command as a shell takes it.
    pub(crate) fn shell_command(&self) -> String {
        let mut words = vec![quoted(self.qemu.as_os_str())];
        words.extend(self.arguments().iter().map(|argument| quoted(argument)));
        words.join(" ")
    }
}

impl Channel {
    fn chardev(&self, id: &str) -> OsString {
        match self {
            // The guest gets Ctrl-C and Ctrl-Z.
            Self::Stdio => format!("stdio,id={id},signal=off").into(),
            Self::Terminal => format!("stdio,id={id},signal=off,mux=on").into(),
            Self::Socket(path) => joined(&format!("socket,id={id},server=off,path="), path),
            Self::Stderr => format!("file,id={id},append=on,path=/dev/stderr").into(),
        }
    }
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.into());
        self
    }

    fn pair(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.flag(name).0.push(value.as_ref().to_owned());
        self
    }
}

/// A path as the last part of an option: QEMU wants commas doubled there.
fn joined(option: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(option);
    for (index, part) in path.to_string_lossy().split(',').enumerate() {
        if index > 0 {
            joined.push(",,");
        }
        joined.push(part);
    }
    joined
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(memory: u64) -> Machine {
        let start = Start::Host { host: "h".into(), image: "i".into() };
        Machine { memory, log: Channel::Socket("/a,b/log".into()), ..Machine::new("qemu".into(), start) }
    }

    #[test]
    fn the_host_has_its_room_in_one_piece() {
        assert_eq!(machine(256 << 20).ram(), (256 + 64) << 20);
        assert_eq!(machine((2 << 30) - (64 << 20)).ram(), 2 << 30);
        assert_eq!(machine((2 << 30) - (2 << 20)).ram(), (2 << 30) + (64 << 20));
        assert_eq!(machine(3 << 30).ram(), (3 << 30) + (64 << 20));
    }

    #[test]
    fn the_host_learns_the_memory_size() {
        let command = machine(1 << 30).shell_command();
        assert!(command.ends_with("-kernel h -initrd i -append 'memory=1073741824 processors=1'"), "{command}");
        assert!(command.contains("path=/a,,b/log"), "{command}");
    }

    #[test]
    fn several_processors_leave_the_machines_first_one_alone() {
        let smp = |processors, start| {
            let command = Machine { processors, start, ..machine(1 << 30) }.shell_command();
            command.split(" -smp ").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned)
        };
        let host = || Start::Host { host: "h".into(), image: "i".into() };
        for (processors, machine) in [(1, "1"), (2, "3"), (64, "65"), (254, "255"), (255, "255")] {
            assert_eq!(smp(processors, host()).as_deref(), Some(machine));
        }
        assert_eq!(smp(4, Start::Igvm { image: "i".into() }).as_deref(), Some("4"));
    }

    #[test]
    fn memory_can_be_a_file() {
        let machine = Machine { memory_file: Some("/a,b/ram".into()), ..machine(256 << 20) };
        let command = machine.shell_command();
        assert!(command.contains("id=ram,size=320M,share=on,mem-path=/a,,b/ram "), "{command}");
        assert!(command.contains("max-ram-below-4g=2G,memory-backend=ram "), "{command}");
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted(OsStr::new("memory=1")), "memory=1");
        assert_eq!(quoted(OsStr::new("it's")), r"'it'\''s'");
        assert_eq!(quoted(OsStr::new("")), "''");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2)"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.1.0\nCopyright"), Some((10, 1)));
        assert_eq!(version("hello"), None);
    }
}
