// SPDX-License-Identifier: MIT OR Apache-2.0
//! The suite's own list of tests, `x86/unittests.cfg`: sections of `key = value` lines.
//!
//! Values are words for a shell. Of the shell only quotes and the one substitution in use, the current time, are
//! understood here; nothing of the file is executed.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the suite lets a test run that names no time.
const TIMEOUT: Duration = Duration::from_secs(90);

/// One section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) processors: u32,
    /// The program's arguments, without its name.
    pub(super) arguments: String,
    /// QEMU's arguments.
    pub(super) qemu: Vec<String>,
    pub(super) timeout: Duration,
    groups: Vec<String>,
    arch: Option<String>,
    accelerator: Option<String>,
    /// `PATH=VALUE`: files of the host that must say so.
    checks: Vec<String>,
}

/// All sections, in the file's order.
pub(super) fn parse(text: &str) -> Vec<Test> {
    let mut tests: Vec<Test> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            tests.push(Test::new(name));
        } else if let (Some((key, value)), Some(test)) = (line.split_once('='), tests.last_mut()) {
            test.set(key.trim(), value.trim());
        }
    }
    tests
}

impl Test {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            file: String::new(),
            processors: 1,
            arguments: String::new(),
            qemu: vec![],
            timeout: TIMEOUT,
            groups: vec![],
            arch: None,
            accelerator: None,
            checks: vec![],
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        match key {
            "file" => value.clone_into(&mut self.file),
            "smp" => self.processors = value.parse().unwrap_or(1),
            "test_args" => self.arguments = words(value).join(" "),
            "qemu_params" | "extra_params" => self.set_qemu(words(value)),
            "timeout" => {
                let seconds = value.trim_end_matches('s').parse().map(Duration::from_secs);
                self.timeout = seconds.unwrap_or(TIMEOUT);
            }
            "groups" => self.groups = words(value),
            "arch" => self.arch = Some(value.to_owned()),
            "accel" => self.accelerator = Some(value.to_owned()),
            "check" => self.checks = words(value),
            _ => {}
        }
    }

    /// Older suites have the program's arguments among QEMU's.
    fn set_qemu(&mut self, words: Vec<String>) {
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if word == "-append" {
                self.arguments = words.next().unwrap_or_default();
            } else {
                self.qemu.push(word);
            }
        }
    }

    /// The value of one of QEMU's options.
    fn option(&self, name: &str) -> Option<&str> {
        let at = self.qemu.iter().position(|word| word == name)?;
        self.qemu.get(at + 1).map(String::as_str)
    }

    /// The CPU model.
    pub(super) fn cpu(&self) -> Option<&str> {
        self.option("-cpu")
    }

    /// The memory, in bytes.
    pub(super) fn memory(&self) -> Option<u64> {
        let text = self.option("-m")?;
        let (digits, unit) = match text.strip_suffix(['g', 'G']) {
            Some(digits) => (digits, 1 << 30),
            None => (text.trim_end_matches(['m', 'M']), 1 << 20),
        };
        digits.parse::<u64>().ok()?.checked_mul(unit)
    }

    /// Why the suite's own runner would not run this test with TCG on x86-64, if so.
    pub(super) fn skipped(&self) -> Option<String> {
        if self.groups.iter().any(|group| group == "nodefault") {
            return Some("only runs when asked for by name".into());
        }
        if let Some(arch) = self.arch.as_ref().filter(|arch| *arch != "x86_64") {
            return Some(format!("{arch} only"));
        }
        let kvm = self.accelerator.as_ref().is_some_and(|name| name != "tcg")
            || self.qemu.iter().any(|word| word == "-enable-kvm")
            || self.cpu().is_some_and(|cpu| cpu.split(',').next() == Some("host"));
        if kvm {
            return Some("needs KVM".into());
        }
        let unmet = self.checks.iter().find(|check| !holds(check))?;
        Some(format!("wants {unmet} of the host"))
    }
}

fn holds(check: &str) -> bool {
    let Some((path, value)) = check.split_once('=') else { return false };
    std::fs::read_to_string(Path::new(path)).is_ok_and(|text| text.trim_end() == value)
}

/// A shell's words.
fn words(text: &str) -> Vec<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let text = text.replace("`date +%s`", &seconds.to_string());
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_become_tests() {
        let tests = parse(
            "# notes\n[one]\nfile = one.flat\nsmp = 2\nqemu_params = -cpu max,+x2apic -m 2g\ntimeout = 30\n\n\
             [two]\nfile = two.flat\ntest_args = \"a 'b' `date +%s`\"\narch = i386\n",
        );
        let [one, two] = tests.as_slice() else { panic!("{tests:?}") };
        assert_eq!((one.name.as_str(), one.file.as_str(), one.processors), ("one", "one.flat", 2));
        assert_eq!(
            (one.cpu(), one.memory(), one.timeout),
            (Some("max,+x2apic"), Some(2 << 30), Duration::from_secs(30))
        );
        assert_eq!(one.skipped(), None);
        assert!(two.arguments.starts_with("a 'b' 1"), "{}", two.arguments);
        assert_eq!(two.skipped().as_deref(), Some("i386 only"));
    }

    #[test]
    fn arguments_are_found_where_older_suites_have_them() {
        let tests = parse("[x]\nextra_params = -cpu max -append 'cpuid now' -m 512\n");
        let [test] = tests.as_slice() else { panic!("{tests:?}") };
        assert_eq!(test.arguments, "cpuid now");
        assert_eq!((test.cpu(), test.memory()), (Some("max"), Some(512 << 20)));
    }

    /// A size that no 64 bits hold came out as some other size.
    #[test]
    fn more_memory_than_can_be_is_no_memory() {
        let tests = parse("[x]\nqemu_params = -m 99999999999g\n");
        assert_eq!(tests.first().and_then(Test::memory), None);
    }

    #[test]
    fn what_needs_kvm_is_skipped() {
        for line in ["accel = kvm", "qemu_params = -enable-kvm", "qemu_params = -cpu host,hv_passthrough"] {
            let tests = parse(&format!("[x]\n{line}\n"));
            assert_eq!(tests.first().and_then(Test::skipped).as_deref(), Some("needs KVM"), "{line}");
        }
    }

    #[test]
    fn a_check_that_does_not_hold_skips() {
        let tests = parse("[x]\ncheck = /nonexistent/file=Y\n");
        let why = tests.first().and_then(Test::skipped);
        assert_eq!(why.as_deref(), Some("wants /nonexistent/file=Y of the host"));
    }
}
