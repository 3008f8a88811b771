// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layers: what is above the backends knows no platform, and unsafe code stays where it belongs.

use std::path::Path;

use super::source::{Token, tokens};
use super::{Findings, read, rust_files};
use crate::failure::Result;

/// Crates that are the same on every platform.
const ABOVE_THE_BACKENDS: [&str; 5] = ["devices", "journal", "paravisor-core", "vc-handlers", "vmm-interface"];

/// A name that has one of these among its words is a platform's.
const PLATFORM_WORDS: [&str; 9] = ["native", "snp", "tdx", "tdcall", "tdvmcall", "ghcb", "vmcb", "vmsa", "vmpl"];

/// These are a platform as a name of their own: a crate, a module, a feature. As parts of names they can also be what a
/// guest's CPUID hides.
const PLATFORM_NAMES: [&str; 5] = ["svm", "sev", "vmx", "platform_svm", "platform_vmx"];

/// Crates without any unsafe code.
const FORBID_UNSAFE: &[&str] = &[
    "devices",
    "fuzz-targets",
    "igvm-tools",
    "image-abi",
    "journal",
    "platform",
    "snp-host",
    "snp-model",
    "snp-psp",
    "specs",
    "vc-handlers",
    "vmm-interface",
    "xtask",
];

/// Where `paravisor-core` may have unsafe code.
const CORE_UNSAFE: [&str; 4] = ["src/arch/", "src/arch.rs", "src/mem/", "src/mem.rs"];

/// Places where a crate that must be the same everywhere names a platform.
pub(super) fn findings(workspace: &Path) -> Result<Findings> {
    let mut findings = Findings::new();
    for name in ABOVE_THE_BACKENDS {
        let folder = workspace.join(name);
        let manifest = folder.join("Cargo.toml");
        findings.extend(located(&manifest, in_manifest(&read(&manifest)?)));
        for file in rust_files(&folder)? {
            findings.extend(located(&file, in_source(&read(&file)?)));
        }
    }
    Ok(findings)
}

/// Unsafe code where there must be none.
pub(super) fn unsafe_code(workspace: &Path) -> Result<Findings> {
    let mut findings = Findings::new();
    for name in FORBID_UNSAFE {
        let source = workspace.join(name).join("src");
        for file in ["lib.rs", "main.rs"].map(|file| source.join(file)).into_iter().filter(|file| file.exists()) {
            if !forbids_unsafe(&read(&file)?) {
                findings.push(format!("{}: #![forbid(unsafe_code)] is missing", file.display()));
            }
        }
    }
    let core = workspace.join("paravisor-core");
    for file in rust_files(&core)? {
        let place = file.strip_prefix(&core).unwrap_or(&file).to_string_lossy().into_owned();
        if !CORE_UNSAFE.iter().any(|allowed| place.starts_with(allowed)) {
            findings.extend(located(&file, uses_unsafe(&read(&file)?)));
        }
    }
    Ok(findings)
}

fn located(file: &Path, findings: Vec<(usize, String)>) -> impl Iterator<Item = String> {
    let file = file.display().to_string();
    findings.into_iter().map(move |(line, what)| format!("{file}:{line}: {what}"))
}

fn in_manifest(text: &str) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        for word in words.filter(|word| names_a_platform(&word.replace('-', "_"))) {
            findings.push((index + 1, format!("depends on or names the platform '{word}'")));
        }
    }
    findings
}

fn in_source(text: &str) -> Vec<(usize, String)> {
    let mut findings = Vec::new();
    let mut feature = false;
    for (line, token) in tokens(text) {
        match token {
            Token::Name(name) => {
                feature = name == "feature" || name.starts_with("target_");
                if names_a_platform(name) {
                    findings.push((line, format!("names the platform '{name}'")));
                }
            }
            // `feature = "snp"`: only there a string chooses code.
            Token::Text(text) => {
                if feature && names_a_platform(text) {
                    findings.push((line, format!("depends on the platform '{text}'")));
                }
                feature = false;
            }
            Token::Sign(sign) => feature &= sign == '=',
        }
    }
    findings
}

fn names_a_platform(name: &str) -> bool {
    PLATFORM_NAMES.contains(&name) || words(name).iter().any(|word| PLATFORM_WORDS.contains(&word.as_str()))
}

/// `GuestVmcb`, `guest_vmcb` and `GUEST-VMCB` are the words guest and vmcb.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if let (true, Some(word)) = (c.is_alphanumeric(), words.last_mut()) {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    words
}

fn forbids_unsafe(text: &str) -> bool {
    let tokens = tokens(text);
    tokens.windows(3).any(|window| {
        matches!(window, [(_, Token::Name("forbid")), (_, Token::Sign('(')), (_, Token::Name("unsafe_code"))])
    })
}

fn uses_unsafe(text: &str) -> Vec<(usize, String)> {
    let found = tokens(text).into_iter().filter(|(_, token)| *token == Token::Name("unsafe"));
    found.map(|(line, _)| (line, "unsafe code outside src/arch and src/mem".to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_platform_is_found() {
        let planted = [
            "#[cfg(feature = \"snp\")] mod x;",
            "if cfg!(feature=\"svm\") {}",
            "use platform_native::Native;",
            "use svm::Vmcb;",
            "fn is_tdx() -> bool { true }",
            "match kind { Platform::Snp => {} }",
            "struct GuestVmsa;",
            "const GHCB_MSR: u32 = 0;",
        ];
        for source in planted {
            assert_eq!(in_source(&format!("// line 1\n{source}")).first().map(|(line, _)| *line), Some(2), "{source}");
        }
    }

    #[test]
    fn comments_messages_and_hidden_features_are_no_platform() {
        let innocent = [
            "//! On SNP and TDX the backend does this.",
            "/* native */ fn x() {}",
            "const SVM_DISABLED: u64 = 1; let hidden = ExtendedEcx::SVM | efer::SVME;",
            "SensitiveInstruction::Svm => {}",
            "assert!(x, \"SVM is hidden on native\");",
            "#[cfg(test)] fn alternative() {}",
        ];
        for source in innocent {
            assert_eq!(in_source(source), [], "{source}");
        }
    }

    #[test]
    fn a_planted_dependency_is_found() {
        for line in ["svm.workspace = true", "platform-tdx = { path = \"../x\" }", "snp = []", "default = [\"native\"]"]
        {
            assert_eq!(in_manifest(&format!("[x]\n{line}")).len(), 1, "{line}");
        }
        assert_eq!(in_manifest("platform.workspace = true # not platform-native\nname = \"devices\""), []);
    }

    #[test]
    fn planted_unsafe_code_is_found() {
        assert_eq!(uses_unsafe("// unsafe\nfn f() {}\nunsafe fn g() {}").len(), 1);
        assert!(forbids_unsafe("//! x\n#![forbid(unsafe_code)]"));
        assert!(!forbids_unsafe("// #![forbid(unsafe_code)]\n#![deny(unsafe_code)]"));
    }
}
