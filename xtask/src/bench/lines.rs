// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much code there is in an image: what somebody who audits it has to read.
//!
//! Which files these are, the compiler says: cargo leaves beside the program a list of all sources that it was made of, those of
//! this workspace's crates included. A module that is compiled for another platform alone is not in it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use igvm_tools::Platform;

use super::figure::Figure;
use crate::build;
use crate::failure::{Failure, Result, status};

const AIM: f64 = 20_000.0;
const CLOSURE_AIM: f64 = 60.0;

/// Lines of this workspace's code that each image is compiled from, comments, blank lines and tests apart.
pub(super) fn measure(figures: &mut Vec<Figure>) -> Result<()> {
    for platform in [Platform::Native, Platform::Snp, Platform::Tdx] {
        let mut lines = 0;
        for file in sources_of(&build::paravisor_for(platform)?)? {
            let text = fs::read_to_string(&file).map_err(|error| Failure::system(file.display(), error))?;
            lines += count(&text);
        }
        let name = format!("image.{}.lines", platform.name());
        figures.push(Figure::fixed(name, lines as f64, "lines", Some(AIM)));
    }
    Ok(())
}

/// This workspace's sources that a bare-metal program was made of.
fn sources_of(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let list = program.with_extension("d");
    let text = fs::read_to_string(&list).map_err(|error| Failure::system(list.display(), error))?;
    let sources = sources(&text, &build::workspace());
    if sources.is_empty() {
        let message = format!("bench memory: {}: expected the sources of {}", list.display(), program.display());
        return Err(Failure::new(status::FAILED, message));
    }
    Ok(sources)
}

/// The Rust files of crates in a folder that cargo's list names. The list is a rule of a makefile, with a backslash before a
/// blank in a name. A crate's build script lies beside `src` and is not in what it builds.
fn sources(list: &str, workspace: &Path) -> BTreeSet<PathBuf> {
    let files = list.split_once(": ").map_or("", |(_, files)| files).trim_end().replace("\\ ", "\0");
    let files = files.split(' ').map(|file| PathBuf::from(file.replace('\0', " ")));
    let ours = |file: &PathBuf| {
        let within = file.strip_prefix(workspace).ok();
        let folder = within.and_then(|path| path.components().nth(1));
        folder.is_some_and(|folder| folder.as_os_str() == "src") && file.extension() == Some(OsStr::new("rs"))
    };
    files.filter(ours).collect()
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

/// Lines with code: neither blank, nor a comment alone, nor part of an item for tests. Sources are formatted, so that an item
/// ends with its first line or at a brace that stands as far to the left.
fn count(text: &str) -> usize {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let (mut lines, mut code) = (text.lines(), 0);
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        if trimmed == "#[cfg(test)]" || trimmed.starts_with("#[cfg(all(test,") {
            let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#["));
            if item.is_some_and(|item| !item.ends_with([';', ',', '}'])) {
                lines.by_ref().find(|end| end.trim_start() == "}" && indentation(end) == indentation(line));
            }
        } else if !trimmed.is_empty() && !trimmed.starts_with("//") {
            code += 1;
        }
    }
    code
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
    fn items_for_tests_are_no_code_wherever_they_stand() {
        assert_eq!(count("mod a;\n#[cfg(test)]\nmod tests;\nmod b;\n"), 2);
        assert_eq!(count("#[cfg(test)]\npub(crate) mod tests {\n    fn x() {\n    }\n}\nfn y() {}\n"), 1);
        assert_eq!(count("#[cfg(all(test, not(loom)))]\n#[rustfmt::skip]\nmod tests {\n}\n"), 0);
        let method = "impl A {\n    #[cfg(test)]\n    fn x() {\n        if b {\n        }\n    }\n    fn y() {}\n}\n";
        assert_eq!(count(method), 3);
        assert_eq!(count("#[cfg(any(test, feature = \"x\"))]\nfn x() {}\n"), 2, "for others than tests as well");
    }

    #[test]
    fn sources_are_the_workspace_s_rust_files_below_src() {
        let list = "/w/target/x: /w/a/build.rs /w/a/src/a.rs /w/b\\ c/src/d/e.rs /w/b/src/x.ld /home/r/src/f.rs\n";
        let found: Vec<_> = sources(list, Path::new("/w")).into_iter().collect();
        assert_eq!(found, [PathBuf::from("/w/a/src/a.rs"), PathBuf::from("/w/b c/src/d/e.rs")]);
        assert!(sources("", Path::new("/w")).is_empty());
    }
}
