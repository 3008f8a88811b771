// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs of the command, a file each, and how they print.

pub(crate) mod build;
pub(crate) mod completions;
pub(crate) mod diff;
pub(crate) mod extract;
pub(crate) mod inspect;
pub(crate) mod measure;
pub(crate) mod sign;
pub(crate) mod verify;

use igvm_tools::Error;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;

/// Prints to stdout; a reader that went away (`| head`) is not an error.
fn print(text: std::fmt::Arguments<'_>) -> Result<(), Error> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::usage(format_args!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Adds the file's name to what is said about it, but not its folder.
fn about(path: &Path, mut report: Value) -> Value {
    if let Some(object) = report.as_object_mut() {
        object.insert("file".to_owned(), json!(path.file_name().map(|name| name.to_string_lossy())));
    }
    report
}

/// Hexadecimal digits of an option; missing bytes are zero.
fn decode(name: &str, text: &str, length: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = hex::decode(text).map_err(|error| Error::usage(format_args!("{name} {text}: {error}")))?;
    if bytes.len() > length {
        return Err(Error::usage(format_args!("{name}: {} bytes, expected at most {length}", bytes.len())));
    }
    bytes.resize(length, 0);
    Ok(bytes)
}
