// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may make the token that lets anything out of Parados: whoever reads the measured policy, and nobody else.
//!
//! The type keeps everybody from making one otherwise (`platform/src/release.rs`), but its one function is public, because
//! policy is read in another crate. So its name must not be anywhere else.

use std::path::Path;

use super::source::{Token, tokens};
use super::{Findings, read, rust_files};
use crate::failure::Result;

/// The function that makes the token.
const MAKER: &str = "from_measured_policy";

/// Where the name may be: where it is defined, where the policy is read, and in a test of what the token does.
const ALLOWED: [&str; 3] = ["platform/src/release.rs", "paravisor/src/journal.rs", "journal/src/tests.rs"];

/// Other places that make the token.
pub(super) fn findings(workspace: &Path) -> Result<Findings> {
    let mut findings = Findings::new();
    for file in rust_files(workspace)? {
        let place = file.strip_prefix(workspace).unwrap_or(&file);
        if !ALLOWED.iter().any(|allowed| place == Path::new(allowed)) {
            let found = makes_tokens(&read(&file)?);
            findings.extend(
                found
                    .into_iter()
                    .map(|line| format!("{}:{line}: only paravisor/src/journal.rs may call {MAKER}", place.display())),
            );
        }
    }
    Ok(findings)
}

/// The lines where the function is named.
fn makes_tokens(text: &str) -> Vec<usize> {
    tokens(text).into_iter().filter(|(_, token)| *token == Token::Name(MAKER)).map(|(line, _)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any crate could prove that its image was for debugging, and let everything out.
    #[test]
    fn a_planted_token_is_found() {
        for planted in [
            "let debug = DebugImage::from_measured_policy(true);",
            "use platform::DebugImage as Innocent;\nfn f() { Innocent::from_measured_policy(true); }",
            "let make: fn(bool) -> Option<_> = <platform::DebugImage>::from_measured_policy;",
        ] {
            assert_eq!(makes_tokens(planted).len(), 1, "{planted}");
        }
        let innocent = "// from_measured_policy\nlet x = \"from_measured_policy\"; from_policy(flags)";
        assert!(makes_tokens(innocent).is_empty());
    }

    /// A definition under another name would be looked for in vain.
    #[test]
    fn the_name_is_the_real_one() {
        let workspace = crate::build::workspace();
        for place in ALLOWED {
            let text = read(&workspace.join(place)).unwrap();
            assert!(!makes_tokens(&text).is_empty(), "{place}");
        }
    }
}
