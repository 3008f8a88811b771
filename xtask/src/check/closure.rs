// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the TDX image alone may be made of: `tdx-guest` and what comes with it, which wants unstable features of the compiler and
//! has a licence of its own. Neither is to reach another image, or a program that runs here.

use std::collections::BTreeSet;

use igvm_tools::Platform;

use super::Findings;
use super::licences::EXCEPTIONS;
use crate::build::{self, TARGET};
use crate::failure::Result;

/// The crate that brings the others along.
const BRINGS: &str = "tdx-guest";

/// `cargo tree`: build scripts and their dependencies too, and which features each crate has.
const ALL: [&str; 2] = ["--edges=normal,build", "--format={p} {f}"];

/// Builds that have what they must not have.
pub(super) fn findings() -> Result<Findings> {
    let mut findings = Findings::new();
    for platform in Platform::ALL {
        let tree = build::tree(&[&ALL[..], &["--package=paravisor", "--target", TARGET]].concat(), platform)?;
        let found = of_tdx(&tree);
        if platform != Platform::Tdx {
            findings.extend(found.into_iter().map(|what| format!("the image for {}: {what}", platform.name())));
        } else if !found.iter().any(|what| what.starts_with(BRINGS)) {
            findings.push(format!("the image for TDX: without {BRINGS}, for which this check is made"));
        }
    }
    // Feature by feature nobody could say it of programs for this machine; with all of them at once it holds for each.
    for (what, arguments) in [
        (
            "programs for this machine",
            ["--workspace", "--all-features", "--target=x86_64-unknown-linux-gnu"].as_slice(),
        ),
        ("the workspace, for any target", &["--workspace", "--target=all"]),
    ] {
        let tree = build::tree(&[&ALL[..], arguments].concat(), Platform::Native)?;
        findings.extend(of_tdx(&tree).into_iter().map(|found| format!("{what}: {found}")));
    }
    Ok(findings)
}

/// Lines of `cargo tree` that are for TDX alone: `tdx-guest v0.3.1` and then features.
fn of_tdx(tree: &str) -> BTreeSet<String> {
    let confined = |name: &str| name == BRINGS || EXCEPTIONS.iter().any(|(exception, _)| *exception == name);
    let unstable = |features: &str| features.split(',').any(|feature| feature == "nightly");
    let lines = tree.lines().map(|line| line.trim_end_matches(" (*)"));
    let found = lines.filter(|line| {
        let mut words = line.split(' ');
        words.next().is_some_and(confined) || words.any(unstable)
    });
    found.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planted_in_a_tree_is_found() {
        let innocent = "paravisor v0.1.0 (/home/nightly) native\nx86_64 v0.15.5 instructions\nlog v0.4.35 \n";
        assert_eq!(of_tdx(innocent), BTreeSet::new());
        for planted in ["tdx-guest v0.3.1 (*)", "uefi-raw v0.8.0 ", "x86_64 v0.14.13 default,instructions,nightly"] {
            assert_eq!(of_tdx(&format!("{innocent}{planted}\n")).len(), 1, "{planted}");
        }
    }

    /// The crates of one platform would be compiled for the others, which a stable compiler cannot do.
    #[test]
    fn the_image_for_tdx_alone_has_what_is_for_tdx_alone() {
        assert_eq!(findings().unwrap(), Vec::<String>::new());
    }
}
