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

/// Packages with another licence, or with none that is told.
pub(super) fn findings() -> Result<Findings> {
    let mut command = cargo();
    // Images have dependencies that no hosted program has.
    command.args(["metadata", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu"]);
    command.arg(format!("--filter-platform={TARGET}"));
    let output = command.output().map_err(|error| Failure::system("cargo metadata", error))?;
    let metadata: Option<Value> = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success());
    let metadata = metadata.ok_or_else(|| {
        let text = String::from_utf8_lossy(&output.stderr);
        let first = text.lines().next().unwrap_or("failed").to_owned();
        Failure::new(status::MISSING, format!("cargo metadata: {first}"))
    })?;
    let packages = metadata.get("packages").and_then(Value::as_array);
    Ok(packages.into_iter().flatten().filter_map(finding).collect())
}

fn finding(package: &Value) -> Option<String> {
    let field = |name: &str| package.get(name).and_then(Value::as_str).unwrap_or_default();
    let licence = field("license");
    if is_allowed(licence) {
        return None;
    }
    let licence = if licence.is_empty() { "no licence" } else { licence };
    Some(format!("{} {}: {licence}", field("name"), field("version")))
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
}
