// SPDX-License-Identifier: MIT OR Apache-2.0
//! The licences of everything that is compiled in, from `cargo metadata`.

use serde_json::Value;

use super::Findings;
use crate::build::{TARGET, cargo};
use crate::failure::{Failure, Result, status};

/// What may be linked into something under `MIT OR Apache-2.0`.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages under another licence, which are wanted all the same. Only the TDX image may have them (`closure.rs`).
///
/// uefi-raw comes with `tdx-guest`, whose newest version that the toolchain takes asks for an old one; later ones are under
/// `MIT OR Apache-2.0`. The MPL covers its own files, which are used as they are published; it asks that whoever gets an image
/// can get those, from crates.io. Nothing of it is called, and the linker leaves it out.
pub(super) const EXCEPTIONS: [(&str, &str); 1] = [("uefi-raw", "MPL-2.0")];

/// Packages with another licence, or with none that is told; exceptions that are none any more.
pub(super) fn findings() -> Result<Findings> {
    let mut command = cargo();
    // Images have dependencies that no hosted program has, some behind a feature.
    command.args(["metadata", "--format-version=1", "--all-features", "--filter-platform=x86_64-unknown-linux-gnu"]);
    command.arg(format!("--filter-platform={TARGET}"));
    let output = command.output().map_err(|error| Failure::system("cargo metadata", error))?;
    let metadata: Option<Value> = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success());
    let metadata = metadata.ok_or_else(|| {
        let text = String::from_utf8_lossy(&output.stderr);
        let first = text.lines().next().unwrap_or("failed").to_owned();
        Failure::new(status::MISSING, format!("cargo metadata: {first}"))
    })?;
    Ok(among(metadata.get("packages").and_then(Value::as_array).map_or(&[], Vec::as_slice)))
}

fn among(packages: &[Value]) -> Findings {
    let exists = |exception| packages.iter().any(|package| name_and_licence(package) == exception);
    let unused = EXCEPTIONS.into_iter().filter(|exception| !exists(*exception));
    let unused = unused.map(|(name, licence)| format!("{name}: there is no such package under {licence} any more"));
    packages.iter().filter_map(finding).chain(unused).collect()
}

fn field<'a>(package: &'a Value, name: &str) -> &'a str {
    package.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn name_and_licence(package: &Value) -> (&str, &str) {
    (field(package, "name"), field(package, "license"))
}

fn finding(package: &Value) -> Option<String> {
    let (name, licence) = name_and_licence(package);
    if is_allowed(licence) || EXCEPTIONS.contains(&(name, licence)) {
        return None;
    }
    let licence = if licence.is_empty() { "no licence" } else { licence };
    Some(format!("{name} {}: {licence}", field(package, "version")))
}

/// Whether an SPDX expression can be met with [`ALLOWED`] licences alone. The old `A/B` means `A OR B`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut words = words.as_slice();
    either(&mut words) == Some(true) && words.is_empty()
}

/// `A OR B`: weaker than AND.
fn either(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = both(words)?;
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        allowed |= both(words)?;
    }
    Some(allowed)
}

fn both(words: &mut &[&str]) -> Option<bool> {
    let mut allowed = one(words)?;
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let inner = either(words)?;
            *words = words.strip_prefix(&[")"])?;
            Some(inner)
        }
        [name, "WITH", exception, rest @ ..] => {
            *words = rest;
            Some(ALLOWED.contains(&format!("{name} WITH {exception}").as_str()))
        }
        [name, rest @ ..] => {
            *words = rest;
            Some(ALLOWED.contains(name))
        }
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_needs_one_allowed_side_and_a_sum_both() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in
            ["", "GPL-3.0-only", "MIT AND MPL-2.0", "(MIT", "MIT OR", "MIT MIT", "GPL-2.0 WITH Classpath-exception-2.0"]
        {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_planted_licence_is_found() {
        let package = serde_json::json!({ "name": "x", "version": "1.0.0", "license": "AGPL-3.0-only" });
        assert_eq!(finding(&package).as_deref(), Some("x 1.0.0: AGPL-3.0-only"));
        assert!(finding(&serde_json::json!({ "name": "x", "version": "1.0.0", "license": null })).is_some());
    }

    #[test]
    fn an_exception_is_for_one_package_under_one_licence_and_must_be_needed() {
        let package = |name, licence| serde_json::json!({ "name": name, "version": "1.0.0", "license": licence });
        assert!(among(&[package("uefi-raw", "MPL-2.0")]).is_empty());
        assert_eq!(among(&[package("uefi-raw", "MPL-2.0"), package("uefi", "MPL-2.0")]), ["uefi 1.0.0: MPL-2.0"]);
        assert_eq!(among(&[package("uefi-raw", "GPL-3.0")]).len(), 2);
        assert_eq!(among(&[package("uefi-raw", "MIT OR Apache-2.0")]).len(), 1);
    }
}
