// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is published beside an image: what it was made of, what is in it, and what platforms measure of it.

use crate::build::{Image, Input};
use crate::error::Error;
use crate::measure::{measure, sha384};
use serde_json::{Value, json};
use std::path::Path;

impl Image {
    /// All of it as JSON: the members of `inspect --json` and of `measure --json`, and the SHA-384 of the file and of each
    /// file that went into it. `path` gives the file's name; its folder is left out.
    pub fn to_json(&self, path: &Path) -> Result<Value, Error> {
        let mut report = self.report.to_json();
        let measurements = measure(path, &self.bytes)?.to_json();
        let more = json!({
            "file": path.file_name().map(|name| name.to_string_lossy()),
            "sha384": hex::encode(sha384(&self.bytes)),
            "inputs": self.inputs.iter().map(input).collect::<Vec<_>>(),
        });
        if let Some(report) = report.as_object_mut() {
            [measurements, more].into_iter().filter_map(object).for_each(|members| report.extend(members));
        }
        Ok(report)
    }
}

fn object(value: Value) -> Option<serde_json::Map<String, Value>> {
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

fn input(input: &Input) -> Value {
    json!({ "what": input.what, "bytes": input.bytes, "sha384": hex::encode(input.sha384) })
}
