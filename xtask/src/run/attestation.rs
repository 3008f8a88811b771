// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--attest NONCE --out FILE`: the nonce goes in by a file of QEMU's fw_cfg, and Parados's report comes back as a record
//! (`docs/host-contract.md`). Whether it is a good one, `igvm-tools verify` says: nothing here has to be believed.

use std::path::{Path, PathBuf};

use igvm_tools::write_atomically;
use image_abi::attestation::FILE;
use serde_json::{Map, Value};

use crate::qemu::quoted;
use crate::{build, say};

/// The model's certificates, in the workspace.
const TEST_CHAIN: &str = "snp-psp/test-chain/certs";

/// QEMU's words for a nonce.
pub(crate) fn qemu_arguments(nonce: &str) -> Vec<String> {
    vec!["-fw_cfg".into(), format!("name={FILE},string={nonce}")]
}

/// A report that somebody waits for.
pub(super) struct Awaited<'a> {
    nonce: &'a str,
    out: &'a Path,
    image: PathBuf,
    /// What came of it.
    outcome: Option<std::result::Result<(), String>>,
}

impl<'a> Awaited<'a> {
    pub(super) fn new(nonce: &'a str, out: &'a Path, image: &Path) -> Self {
        Self { nonce, out, image: image.to_owned(), outcome: None }
    }

    /// Looks for the report among facts, and writes it at once: the guest may run for days.
    pub(super) fn look(&mut self, facts: &Map<String, Value>) {
        let Some(Value::Object(said)) = facts.get("attestation") else { return };
        self.outcome = Some(self.keep(said));
    }

    fn keep(&self, said: &Map<String, Value>) -> std::result::Result<(), String> {
        let text = |name: &str| said.get(name).and_then(Value::as_str);
        if let Some(error) = text("error") {
            return Err(say::printable(error.as_bytes()));
        }
        let report =
            text("report").and_then(|report| hex::decode(report).ok()).ok_or("Parados sent a garbled report")?;
        write_atomically(self.out, &report).map_err(|error| error.to_string())?;
        say::progress(&format!("{}: the report. What it is worth:", self.out.display()));
        say::progress(&self.verification());
        match (text("key_check"), text("key_error")) {
            (Some(check), _) => say::progress(&format!("this image's key on this chip has the check value {check}")),
            (None, Some(error)) => say::progress(&format!("no key: {}", say::printable(error.as_bytes()))),
            (None, None) => {}
        }
        Ok(())
    }

    /// A command that judges the report. The chip is the reference host's: a TEST chip, whose root has to be named to be trusted.
    fn verification(&self) -> String {
        let chain = build::workspace().join(TEST_CHAIN);
        let root = chain.join("ark.der");
        let [out, image, chain, root] = [self.out, &self.image, &chain, &root].map(|path| quoted(path.as_os_str()));
        let nonce = self.nonce;
        format!(
            "cargo run -q -p igvm-tools -- verify {out} --image {image} --nonce {nonce} --certs {chain} --root {root}"
        )
    }

    /// Why there is no report, if there is none.
    pub(super) fn failure(self) -> Option<String> {
        match self.outcome {
            Some(Ok(())) => None,
            Some(Err(why)) => Some(format!("no report: {why}")),
            None => Some("no report: Parados sent none".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_report_is_written_when_it_comes_and_anything_else_is_told() {
        let scratch = Scratch::new().unwrap();
        let out = scratch.file("report");
        let look = |json: &str| {
            let mut awaited = Awaited::new("00", &out, Path::new("image"));
            awaited.look(serde_json::from_str::<Value>(json).unwrap().as_object().unwrap());
            awaited.failure()
        };
        let wrong = [
            (r#"{"memory":{}}"#, "no report: Parados sent none"),
            (r#"{"attestation":{"error":"the answer is not authentic"}}"#, "no report: the answer is not authentic"),
            (r#"{"attestation":{"report":"0g"}}"#, "no report: Parados sent a garbled report"),
            (r#"{"attestation":{}}"#, "no report: Parados sent a garbled report"),
        ];
        for (json, why) in wrong {
            assert_eq!(look(json).as_deref(), Some(why));
            assert!(!out.exists());
        }
        assert_eq!(look(r#"{"attestation":{"report":"00ff","key_check":"0011"}}"#), None);
        assert_eq!(std::fs::read(&out).unwrap(), [0, 0xff]);
    }

    /// `--certs DIR` was all that a user heard, and nothing of the model's root.
    #[test]
    fn the_command_that_judges_a_report_can_be_pasted() {
        let command = Awaited::new("00ff", Path::new("a report"), Path::new("image")).verification();
        let (before, root) = command.split_once(" --root ").unwrap();
        assert!(before.contains(" verify 'a report' --image image --nonce 00ff --certs "), "{command}");
        assert!(Path::new(root.trim_matches('\'')).is_file(), "{command}");
    }
}
