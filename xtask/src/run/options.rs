// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options of `cargo xtask run`, and which of them contradict each other.

use std::path::PathBuf;
use std::time::Duration;

use igvm_tools::Platform;
use image_abi::flag;
use lexopt::Arg::{Long, Value};

use crate::failure::{Failure, Result};
use crate::options::{self, SNP_CPU, SNP_HOST_OPTIONS, set};

/// What the reference host's model has (`snp_host::PROCESSORS`).
const MOST_SNP_PROCESSORS: u32 = 64;
const LEAST_MEMORY: u64 = 256 << 20;
const MOST_MEMORY: u64 = 8 << 30;

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) platform: Platform,
    pub(crate) image: Option<PathBuf>,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) append: Option<String>,
    pub(crate) exec: Option<String>,
    pub(crate) processors: u32,
    pub(crate) memory: u64,
    pub(crate) cpu: String,
    pub(crate) timeout: Option<Duration>,
    pub(crate) test_devices: bool,
    pub(crate) no_reboot: bool,
    pub(crate) stats: bool,
    pub(crate) guest_stats: bool,
    pub(crate) page_conversion: bool,
    pub(crate) debug_log: bool,
    /// Flags of `image_abi::log_level`.
    pub(crate) log: Option<u32>,
    pub(crate) stats_json: Option<PathBuf>,
    pub(crate) status_file: Option<PathBuf>,
    pub(crate) qemu: Option<PathBuf>,
    pub(crate) print_command: bool,
    /// The nonce for which a report is wanted, in hexadecimal digits.
    pub(crate) attest: Option<String>,
    /// Where the report goes.
    pub(crate) out: Option<PathBuf>,
    /// The attack that the reference host plays.
    pub(crate) hostile: Option<String>,
}

impl Options {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self> {
        let (mut image, mut kernel, mut initrd, mut append, mut exec) = (None, None, None, None, None);
        let (mut processors, mut memory, mut cpu, mut timeout, mut platform) = (None, None, None, None, None);
        let (mut stats_json, mut status_file, mut qemu) = (None, None, None);
        let (mut test_devices, mut no_reboot, mut print_command) = (false, false, false);
        let (mut stats, mut guest_stats, mut page_conversion) = (false, false, false);
        let (mut debug_log, mut log) = (false, None);
        let (mut hostile, mut attest, mut out) = (None, None, None);
        while let Some(argument) = parser.next()? {
            let name = match argument {
                Long(name) => name.to_owned(),
                Value(_) => {
                    return Err(Failure::usage("run takes options only; a command for the guest goes into --exec"));
                }
                other => return Err(other.unexpected().into()),
            };
            let p = &mut parser;
            match name.as_str() {
                "platform" => set(&mut platform, &name, options::platform(&options::text(p)?)?)?,
                "image" => set(&mut image, &name, options::path(p)?)?,
                "kernel" => set(&mut kernel, &name, options::path(p)?)?,
                "initrd" => set(&mut initrd, &name, options::path(p)?)?,
                "append" => set(&mut append, &name, options::text(p)?)?,
                "exec" => set(&mut exec, &name, options::text(p)?)?,
                "smp" => set(&mut processors, &name, options::processors(&options::text(p)?)?)?,
                "memory" => {
                    set(&mut memory, &name, options::memory(&options::text(p)?, LEAST_MEMORY, MOST_MEMORY)?)?;
                }
                "cpu" => set(&mut cpu, &name, options::text(p)?)?,
                "timeout" => set(&mut timeout, &name, options::seconds(&options::text(p)?)?)?,
                "stats-json" => set(&mut stats_json, &name, options::path(p)?)?,
                "status-file" => set(&mut status_file, &name, options::path(p)?)?,
                "qemu" => set(&mut qemu, &name, options::path(p)?)?,
                "test-devices" => test_devices = true,
                "no-reboot" => no_reboot = true,
                "stats" => stats = true,
                "guest-stats" => guest_stats = true,
                "page-conversion" => page_conversion = true,
                "debug-log" => debug_log = true,
                "log" => set(&mut log, &name, levels(&options::text(p)?)?)?,
                "print-command" => print_command = true,
                "attest" => set(&mut attest, &name, options::nonce(&options::text(p)?)?)?,
                "out" => set(&mut out, &name, options::path(p)?)?,
                "hostile" => set(&mut hostile, &name, options::text(p)?)?,
                _ => {
                    return Err(Failure::usage(format!(
                        "run: unknown option --{name} (`cargo xtask help` lists them)"
                    )));
                }
            }
        }
        let platform = platform.unwrap_or(Platform::Native);
        let options = Self {
            platform,
            image,
            kernel,
            initrd,
            append,
            exec,
            processors: processors.unwrap_or(1),
            memory: memory.unwrap_or(1 << 30),
            cpu: match (platform, cpu) {
                (Platform::Snp, cpu) => cpu.map_or(SNP_CPU.into(), |model| options::snp_cpu(&model)),
                (_, cpu) => cpu.unwrap_or_else(|| "max".into()),
            },
            timeout,
            test_devices,
            no_reboot,
            stats,
            guest_stats,
            page_conversion,
            debug_log,
            log,
            stats_json,
            status_file,
            qemu,
            print_command,
            attest,
            out,
            hostile,
        };
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<()> {
        let in_the_image = [
            ("--kernel", self.kernel.is_some()),
            ("--initrd", self.initrd.is_some()),
            ("--append", self.append.is_some()),
            ("--exec", self.exec.is_some()),
            ("--test-devices", self.test_devices),
            ("--stats", self.stats),
            ("--stats-json", self.stats_json.is_some()),
            ("--guest-stats", self.guest_stats),
            ("--page-conversion", self.page_conversion),
            ("--debug-log", self.debug_log),
            ("--log", self.log.is_some()),
        ];
        if let (Some(_), Some((name, _))) = (&self.image, in_the_image.iter().find(|(_, given)| *given)) {
            return Err(Failure::usage(format!("{name} and --image: an image has its payload and settings inside")));
        }
        if self.hostile.is_some() && self.platform != Platform::Snp {
            return Err(Failure::usage("--hostile: only with --platform snp; a native image has no host to fear"));
        }
        if self.hostile.as_deref().is_some_and(|name| name.contains(' ')) {
            return Err(Failure::usage("--hostile: one name of docs/hostile-hosts.md"));
        }
        if self.attest.is_some() != self.out.is_some() {
            return Err(Failure::usage("--attest and --out: a report for a nonce goes into a file; give both"));
        }
        if self.attest.is_some() && self.platform != Platform::Snp {
            return Err(Failure::usage("--attest: only with --platform snp; nothing vouches for a native image"));
        }
        if self.exec.is_some() && self.initrd.is_some() {
            return Err(Failure::usage("--exec and --initrd: only the default guest's RAM disk can run a command"));
        }
        if self.exec.as_ref().is_some_and(|command| command.contains('\0')) {
            return Err(Failure::usage("--exec: a command cannot contain a zero byte"));
        }
        if self.platform == Platform::Snp && self.processors > MOST_SNP_PROCESSORS {
            let most = format!("the reference host has {MOST_SNP_PROCESSORS} processors at most");
            return Err(Failure::usage(format!("--platform snp and --smp {}: {most}", self.processors)));
        }
        Ok(())
    }

    /// Words for the reference host, each with a space before it.
    pub(crate) fn host_options(&self) -> String {
        let ports = if self.platform == Platform::Snp { SNP_HOST_OPTIONS } else { "" };
        let attack = self.hostile.as_ref().map(|name| format!(" hostile={name}")).unwrap_or_default();
        format!("{ports}{attack}")
    }

    /// What the image must know beyond its configuration.
    pub(crate) fn image_flags(&self) -> u32 {
        let mut flags = 0;
        if self.test_devices {
            flags |= flag::TEST_DEVICES;
        }
        if self.exec.is_some() {
            flags |= flag::COMMAND;
        }
        if self.stats || self.stats_json.is_some() {
            flags |= flag::STATISTICS;
        }
        if self.guest_stats {
            flags |= flag::GUEST_STATISTICS;
        }
        if self.page_conversion {
            flags |= flag::PAGE_CONVERSION;
        }
        if self.debug_log {
            flags |= flag::DEBUG_LOG;
        }
        flags |= self.log.unwrap_or_default();
        flags
    }
}

fn levels(text: &str) -> Result<u32> {
    igvm_tools::config::parse_levels(text).map_err(|error| Failure::usage(format!("--log {text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options> {
        Options::parse(lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn defaults_are_a_small_machine() {
        let options = parse(&[]).unwrap();
        assert_eq!((options.processors, options.memory, options.cpu.as_str()), (1, 1 << 30, "max"));
        assert_eq!(options.image_flags(), 0);
    }

    /// `--cpu max`, which works natively, was refused for want of address bits.
    #[test]
    fn snp_has_address_bits_whatever_the_model() {
        let cpu = |arguments: &[&str]| parse(&[&["--platform", "snp"], arguments].concat()).unwrap().cpu;
        assert_eq!(cpu(&[]), "EPYC,phys-bits=52");
        assert_eq!(cpu(&["--cpu", "max,host-phys-bits"]), "max,host-phys-bits,phys-bits=52");
        assert_eq!(cpu(&["--cpu", "EPYC,phys-bits=48,-xsave"]), "EPYC,phys-bits=48,-xsave");
        assert_eq!(parse(&["--cpu", "EPYC"]).unwrap().cpu, "EPYC");
    }

    #[test]
    fn flags_follow_the_options() {
        let options = parse(&["--exec", "true", "--stats-json=x", "--test-devices"]).unwrap();
        assert_eq!(options.image_flags(), flag::COMMAND | flag::STATISTICS | flag::TEST_DEVICES);
        assert_eq!(parse(&["--guest-stats"]).unwrap().image_flags(), flag::GUEST_STATISTICS);
        assert_eq!(parse(&["--page-conversion"]).unwrap().image_flags(), flag::PAGE_CONVERSION);
        assert_eq!(parse(&["--debug-log"]).unwrap().image_flags(), flag::DEBUG_LOG);
    }

    #[test]
    fn an_attack_needs_a_host() {
        let options = parse(&["--platform", "snp", "--hostile", "late"]).unwrap();
        assert_eq!(
            (options.hostile.as_deref(), options.host_options()),
            (Some("late"), " ports=vmpl0 hostile=late".into())
        );
        assert_eq!(parse(&["--platform", "snp", "--hostile", "late rules=permissive"]).unwrap_err().status, 64);
    }

    #[test]
    fn everything_wrong_is_a_usage_error_of_one_line() {
        let nonce = "ab".repeat(16);
        let wrong: [&[&str]; 19] = [
            &["--image", "x", "--kernel", "y"],
            &["--image", "x", "--exec", "y"],
            &["--exec", "x", "--initrd", "y"],
            &["--gdb", ":1234"],
            &["--platform", "snp", "--attest", &nonce],
            &["--platform", "snp", "--out", "x"],
            &["--attest", &nonce, "--out", "x"],
            &["--platform", "snp", "--attest", "nonce", "--out", "x"],
            &["--hostile", "replay"],
            &["--platform", "tdx"],
            &["--platform", "snp", "--smp", "65"],
            &["--platform", "vmx"],
            &["--smp", "0"],
            &["--memory", "9G"],
            &["--timeout", "-1"],
            &["--smp"],
            &["uname"],
            &["-v"],
            &["--smp", "1", "--smp", "2"],
        ];
        for arguments in wrong {
            let failure = parse(arguments).unwrap_err();
            assert_eq!(failure.status, 64, "{arguments:?}");
            assert!(!failure.message.contains('\n'), "{arguments:?}");
        }
    }
}
