// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest can say of its machine, and whether the SNP image's guest says the same as the native one's.
//!
//! CPUID, `/proc/cpuinfo`, ACPI tables and the maps of memory and ports are compared line by line in their order. The kernel's log is
//! compared without time stamps and order, because its threads race; but each line has to come as often on both sides. A line of
//! `snp_differences.txt` stands for what may differ: the text between its stars has to be the same.

use super::common::{guest_output, output};
use super::{Context, Outcome, Verdict};

/// What may differ, and why: a pattern with `*` for anything, a tabulator, the reason. With `?` before it such a line may be missing.
const DIFFERENCES: &str = include_str!("snp_differences.txt");
/// No more than this.
const MOST_DIFFERENCES: usize = 15;

/// The processor of both sides: what the model hides is switched off for the native image as well.
const CPU: &str = "EPYC,phys-bits=52,-xsave,-avx,-avx2,-fma,-f16c";

/// Opens the part whose order does not matter.
const LOG: &str = "the kernel's log:";

/// The leaf that tells the TSC's frequency, which is measured anew each time.
const MEASURED: Difference<'static> =
    Difference { pattern: "*: 40000010 0: * 000f4240 00000000 00000000", optional: false };

const SNP: [&str; 2] = ["--platform", "snp"];

/// The stock kernel's words on a machine of this size, on both platforms.
pub(super) fn of_linux(context: &Context, processors: &str, memory: &str) -> Outcome {
    let command = format!(
        "cat /proc/cpuinfo; for t in /sys/firmware/acpi/tables/*; do [ -f $t ] && echo $t && hexdump -C $t; done; \
         cat /proc/iomem /proc/ioports; echo \"{LOG}\"; dmesg"
    );
    // The same place for the kernel, and the same processor.
    let both = ["--cpu", CPU, "--append", "nokaslr", "--smp", processors, "--memory", memory];
    let compared = || {
        let native = output(context, &command, &both)?;
        let snp = output(context, &command, &[&SNP[..], &both].concat())?;
        judge(&differences(DIFFERENCES)?, &native, &snp, 300)
    };
    // A kernel that others hold up complains of it, each time in other words. A difference of the machine's comes again.
    compared().or_else(|_| compared())
}

/// Every leaf of CPUID, on each of two processors.
pub(super) fn of_cpuid(context: &Context) -> Outcome {
    let both = ["--cpu", CPU, "--smp", "2"];
    let native = guest_output(context, "cpuid", &both)?;
    let snp = guest_output(context, "cpuid", &[&SNP[..], &both].concat())?;
    judge(&[MEASURED], &native, &snp, 30)
}

fn judge(differences: &[Difference<'_>], native: &str, snp: &str, least: usize) -> Outcome {
    let lines = native.lines().count();
    if lines < least {
        return Err(format!("the guest said {lines} lines, expected more than {least}"));
    }
    compare(differences, native, snp).map(|()| Verdict::Passed)
}

/// One line of the list.
#[derive(Debug)]
struct Difference<'a> {
    pattern: &'a str,
    /// Whether there need be no such line.
    optional: bool,
}

/// The patterns of the list.
fn differences(list: &str) -> Result<Vec<Difference<'_>>, String> {
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let differences: Vec<_> = lines
        .map(|line| match line.split_once('\t') {
            Some((pattern, reason)) if !reason.trim().is_empty() => {
                let bare = pattern.strip_prefix('?');
                Ok(Difference { pattern: bare.unwrap_or(pattern), optional: bare.is_some() })
            }
            _ => Err(format!("snp_differences.txt: '{line}': expected a tabulator and a reason")),
        })
        .collect::<Result<_, _>>()?;
    if differences.len() > MOST_DIFFERENCES {
        return Err(format!("snp_differences.txt: {} patterns, at most {MOST_DIFFERENCES}", differences.len()));
    }
    Ok(differences)
}

/// The first line in which two portraits differ.
fn compare(differences: &[Difference<'_>], native: &str, snp: &str) -> Result<(), String> {
    let (native, snp) = (portrait(native, differences), portrait(snp, differences));
    let mut pairs = native.iter().zip(&snp);
    if let Some((native, snp)) = pairs.find(|(native, snp)| native != snp) {
        return Err(format!("native: {native:?}; SNP: {snp:?}"));
    }
    match (native.get(snp.len()), snp.get(native.len())) {
        (None, None) => Ok(()),
        (missing, new) => Err(format!("only native: {missing:?}; only SNP: {new:?}")),
    }
}

/// What has to be the same: patterns in place of the lines that they stand for, and the log sorted.
fn portrait<'a>(output: &'a str, differences: &[Difference<'a>]) -> Vec<&'a str> {
    let mut lines: Vec<&str> = Vec::new();
    let mut log = None;
    for line in output.lines().map(|line| without_time(line.trim_end())) {
        match differences.iter().find(|difference| matches(difference.pattern, line)) {
            Some(difference) if difference.optional => {}
            Some(difference) => lines.push(difference.pattern),
            None => lines.push(line),
        }
        if line == LOG {
            log = Some(lines.len());
        }
    }
    if let Some(log) = log.and_then(|log| lines.get_mut(log..)) {
        log.sort_unstable();
    }
    lines
}

/// `[    0.000000] text` without what stands in brackets.
fn without_time(line: &str) -> &str {
    let stamp = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match stamp {
        Some((stamp, text)) if stamp.trim().parse::<f64>().is_ok() => text,
        _ => line,
    }
}

/// Whether a line is as a pattern says, in which `*` stands for anything.
fn matches(pattern: &str, line: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == line };
    let Some(line) = line.strip_prefix(first) else { return false };
    if rest.is_empty() {
        return true;
    }
    line.char_indices().map(|(at, _)| at).chain([line.len()]).any(|at| line.get(at..).is_some_and(|l| matches(rest, l)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_short_and_reasoned() {
        assert!(!differences(DIFFERENCES).unwrap().is_empty());
        assert!(differences("a*b").unwrap_err().contains("a reason"));
        let long = "x\tbecause\n".repeat(MOST_DIFFERENCES + 1);
        assert!(differences(&long).unwrap_err().contains("16 patterns"));
    }

    #[test]
    fn a_star_is_anything() {
        assert!(matches("a*c", "abc") && matches("a*c", "ac") && matches("*", "") && matches("a*", "a"));
        assert!(!matches("a*c", "abd") && !matches("a", "ab") && !matches("*b", "a"));
        assert!(matches("*tsc_early_khz=*", "Command line: quiet tsc_early_khz=2596239"));
        assert!(matches("*ab*ab", "abab") && !matches("*ab*ab", "ab"));
    }

    #[test]
    fn only_time_stamps_are_cut_off() {
        assert_eq!(without_time("[    1.324529] Freeing"), "Freeing");
        assert_eq!(without_time("[mem 0x0-0x1] usable"), "[mem 0x0-0x1] usable");
    }

    /// A guest's words, with two lines that are the same, and some that the list lets differ.
    const SAID: &str = "processor\t: 0\nflags\t\t: fpu de\ncpu MHz\t\t: 2596.080\nAPIC\n\
        00000000  41 50 49 43  |APIC|\n00000010  00 00  |..|\nFACP\n00000010  00 00  |..|\n\
        c0000000-ffffffff : RAM\nthe kernel's log:\n[    0.1] Linux\n[    0.2] tsc: Detected 2596.080 MHz processor\n\
        [    0.3] ACPI: Added\n[    0.4] ACPI: Added\n";

    fn compared(snp: &str) -> Result<(), String> {
        compare(&differences(DIFFERENCES).unwrap(), SAID, snp)
    }

    /// Every line in turn: missing, twice, and with another character in each place.
    #[test]
    fn any_other_difference_fails() {
        compared(SAID).unwrap();
        let lines: Vec<&str> = SAID.lines().collect();
        let with = |at: usize, new: &[&str]| {
            let changed = [&lines[..at], new, &lines[at + 1..]].concat();
            compared(&changed.join("\n"))
        };
        for (at, line) in lines.iter().enumerate() {
            with(at, &[]).unwrap_err();
            with(at, &[line, line]).unwrap_err();
            let text = line.find("] ").map_or(0, |end| end + 2);
            let free = [("tsc: Detected ", " MHz"), ("cpu MHz", "\0")].iter().find_map(|(before, behind)| {
                Some(line.find(before)? + before.len()..line.find(behind).unwrap_or(line.len()))
            });
            for place in text..line.len() {
                let mut other = line.as_bytes().to_vec();
                other[place] = b'~';
                let other = String::from_utf8(other).unwrap();
                let result = with(at, &[&other]);
                let may = free.as_ref().is_some_and(|free| free.contains(&place));
                assert_eq!(result.is_ok(), may, "{other:?}");
            }
        }
    }

    #[test]
    fn tables_have_an_order_and_the_log_has_none() {
        let swapped = |a: &str, b: &str| SAID.replace(a, "\u{1}").replace(b, a).replace('\u{1}', b);
        compared(&swapped("[    0.1] Linux", "[    0.3] ACPI: Added")).unwrap();
        compared(&swapped("APIC\n", "FACP\n")).unwrap_err();
    }

    #[test]
    fn what_comes_at_times_may_be_missing() {
        let more = format!("{SAID}[    1.0] hrtimer: interrupt took 9736159 ns\n");
        compared(&more).unwrap();
        compared(&format!("{SAID}[    1.0] rcu: INFO: rcu_sched self-detected stall\n")).unwrap_err();
    }
}
