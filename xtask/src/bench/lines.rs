// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much code there is in the image: what somebody who audits it has to read.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use igvm_tools::Platform;

use super::figure::Figure;
use crate::build;
use crate::failure::{Failure, Result};

const AIM: f64 = 20_000.0;
const CLOSURE_AIM: f64 = 60.0;

/// Lines of this workspace's code in the native image, comments, blank lines and tests apart.
pub(super) fn measure(figures: &mut Vec<Figure>) -> Result<()> {
    let mut lines = 0;
    for folder in crates()? {
        for file in sources(&folder.join("src")).map_err(|error| Failure::system(folder.display(), error))? {
            let text = fs::read_to_string(&file).map_err(|error| Failure::system(file.display(), error))?;
            lines += count(&text);
        }
    }
    figures.push(Figure::fixed("image.native.lines", lines as f64, "lines", Some(AIM)));
    Ok(())
}

/// What a package is compiled of for a target, itself included: a line for each crate and version.
fn tree(package: &str, target: &str) -> Result<String> {
    let arguments = ["--edges=normal", "--format={p}", "--package", package, "--target", target];
    build::tree(&arguments, Platform::Native)
}

/// How many crates `igvm-tools` is made of: a verifier trusts them all.
pub(super) fn measure_closure(figures: &mut Vec<Figure>) -> Result<()> {
    let tree = tree("igvm-tools", "x86_64-unknown-linux-gnu")?;
    // "toml v1.2.3 (*)" is one that was listed before.
    let crates: BTreeSet<_> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    figures.push(Figure::fixed("igvm-tools.closure.crates", crates.len() as f64, "crates", Some(CLOSURE_AIM)));
    Ok(())
}

/// The folders of the workspace's crates that are linked into the image.
fn crates() -> Result<BTreeSet<PathBuf>> {
    let text = tree("paravisor", build::TARGET)?;
    // "svm v0.1.0 (/…/svm)"; what comes from a registry has no folder there.
    let folder = |line: &str| line.split_once('(')?.1.split_once(')').map(|(folder, _)| PathBuf::from(folder));
    Ok(text.lines().filter_map(folder).filter(|folder| folder.join("src").is_dir()).collect())
}

/// All Rust files below a folder but those of tests.
fn sources(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.file_stem().and_then(OsStr::to_str) {
            Some("tests" | "testing") => {}
            _ if path.is_dir() => found.extend(sources(&path)?),
            _ if path.extension() == Some(OsStr::new("rs")) => found.push(path),
            _ => {}
        }
    }
    Ok(found)
}

/// Lines with code. A file's tests are its last module.
fn count(text: &str) -> usize {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    code.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_tests_are_no_code() {
        let text =
            "//! Why.\nuse a;\n\n    // So.\n    let b = 1; // c\n\n#[cfg(test)]\nmod tests {\n    fn x() {}\n}\n";
        assert_eq!(count(text), 2);
    }

    /// An update of a dependency brings new ones along, and nobody benches for that.
    #[test]
    fn igvm_tools_is_made_of_no_more_crates_than_a_verifier_is_told() {
        let mut figures = Vec::new();
        measure_closure(&mut figures).unwrap();
        assert!(matches!(figures.as_slice(), [figure] if figure.value <= CLOSURE_AIM), "{figures:?}");
    }

    #[test]
    fn the_image_consists_of_the_core_and_one_backend() {
        let names: Vec<_> = crates().unwrap().iter().filter_map(|path| Some(path.file_name()?.to_owned())).collect();
        assert!(["paravisor", "paravisor-core", "platform-native"].iter().all(|name| names.contains(&(*name).into())));
        assert!(!names.contains(&"xtask".into()));
    }
}
