// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files in and out: reading with a bound, writing all or nothing.

use crate::error::Error;
use igvm_defs::IGVM_MAGIC_VALUE;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The largest file that is read. Nothing larger fits below `image_abi::PAYLOAD_LIMIT` with room to unpack it.
pub(crate) const LIMIT: u64 = 1 << 30;

/// The largest image that is read: the format's own limit.
const IMAGE_LIMIT: u64 = u32::MAX as u64;

/// More than the fixed header.
const FIRST: u64 = 64;

/// Reads a whole file of at most [`LIMIT`] bytes.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    read_at_most(path, LIMIT)
}

/// Reads a whole IGVM file; of one that does not begin as such, no more than what shows it.
pub fn read_image(path: &Path) -> Result<Vec<u8>, Error> {
    let first = IGVM_MAGIC_VALUE.to_le_bytes();
    read_if(path, IMAGE_LIMIT, FIRST, |bytes| bytes.starts_with(&first))
}

/// The largest evidence that is read: reports take a KiB, quotes with their certificates some KiB.
const EVIDENCE_LIMIT: u64 = 1 << 20;

/// Reads a whole report or quote.
pub fn read_evidence(path: &Path) -> Result<Vec<u8>, Error> {
    read_at_most(path, EVIDENCE_LIMIT)
}

/// Reads a whole file unless it is larger than `limit`.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let metadata = fs::metadata(path).map_err(|error| Error::file(path, describe(&error)))?;
    if metadata.len() > limit { Ok(None) } else { read_at_most(path, limit).map(Some) }
}

/// The regular files of a folder, by name.
pub(crate) fn files_of(folder: &Path, limit: usize) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |error: io::Error| Error::file(folder, describe(&error));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            files.push(path);
        }
        if files.len() > limit {
            return Err(Error::file(
                folder,
                format_args!("more than {limit} files, expected a folder of certificates"),
            ));
        }
    }
    files.sort();
    Ok(files)
}

fn read_at_most(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    read_if(path, limit, 0, |_| true)
}

/// Reads a whole file if its `first` bytes are worth it, and otherwise these.
fn read_if(path: &Path, limit: u64, first: u64, worth: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Error> {
    let unreadable = |error: io::Error| Error::file(path, describe(&error));
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Error::file(path, "is a directory, expected a file"));
    }
    let too_large = || Error::file(path, format_args!("larger than {} MiB, expected at most that", limit >> 20));
    if metadata.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(first).read_to_end(&mut bytes).map_err(unreadable)?;
    if !worth(&bytes) {
        return Ok(bytes);
    }
    // A pipe, or a file that grows meanwhile, does not keep to its metadata.
    file.take(limit.saturating_sub(first) + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Puts a file in place whole or not at all: it is written beside its destination and then renamed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_together(&[(path, bytes)])
}

/// The same for files of which none is to be there without the others: all are written before the first is renamed.
pub fn write_together(files: &[(&Path, &[u8])]) -> Result<(), Error> {
    let mut written: Vec<(PathBuf, Temporary)> = Vec::with_capacity(files.len());
    for (path, bytes) in files {
        let (target, temporary) = places(path)?;
        if written.iter().any(|(other, _)| *other == target) {
            return Err(Error::file(path, "to be written twice, with different content"));
        }
        write_new(&temporary.0, bytes).map_err(|error| cannot_be_written(path, &error))?;
        written.push((target, temporary));
    }
    for ((path, _), (target, temporary)) in files.iter().zip(&written) {
        fs::rename(&temporary.0, target).map_err(|error| cannot_be_written(path, &error))?;
    }
    Ok(())
}

/// Whether [`write_atomically`] could write there now: for whoever has to wait for the content, and would hear of it too late.
pub fn can_be_written(path: &Path) -> Result<(), Error> {
    let (_, temporary) = places(path)?;
    write_new(&temporary.0, &[]).map_err(|error| cannot_be_written(path, &error))
}

/// What a name to write to means, and the file beside it that is written first.
fn places(path: &Path) -> Result<(PathBuf, Temporary), Error> {
    let target = destination(path)?;
    let temporary = Temporary(target.with_file_name(temporary_name(target.file_name().unwrap_or_default())));
    Ok((target, temporary))
}

/// What a name to write to means.
fn destination(path: &Path) -> Result<PathBuf, Error> {
    // A link is followed, as an ordinary write would.
    let target = fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
    if target.file_name().is_none() {
        return Err(Error::file(path, "not a file name to write to"));
    }
    // Renaming would replace a device or a pipe instead of writing to it.
    if fs::metadata(&target).is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Error::file(path, "exists and is not a regular file"));
    }
    Ok(target)
}

fn cannot_be_written(path: &Path, error: &io::Error) -> Error {
    Error::file(path, format_args!("cannot be written: {}", describe(error)))
}

/// A file that is removed if it was not renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing more can be done if this fails; whoever failed before has said why.
        let _ = fs::remove_file(&self.0);
    }
}

/// Creates a folder whole or not at all: `fill` fills another one beside it, which is then renamed.
pub(crate) fn create_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    if path.symlink_metadata().is_ok() {
        return Err(Error::file(path, "exists already, expected a folder to create"));
    }
    let name = path.file_name().ok_or_else(|| Error::file(path, "not the name of a folder to create"))?;
    let temporary = path.with_file_name(temporary_name(name));
    let failed = |error: io::Error| Error::file(path, format_args!("cannot be created: {}", describe(&error)));
    fs::create_dir(&temporary).map_err(failed)?;
    let filled = fill(&temporary).and_then(|()| fs::rename(&temporary, path).map_err(failed));
    if filled.is_err() {
        // Nothing more can be done if this fails too; the first error says why.
        let _ = fs::remove_dir_all(&temporary);
    }
    filled
}

/// Writes a file in a folder that nobody else knows yet.
pub(crate) fn write_parts<'a>(path: &Path, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<(), Error> {
    let failed = |error: io::Error| Error::file(path, format_args!("cannot be written: {}", describe(&error)));
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    parts.into_iter().try_for_each(|part| file.write_all(part)).map_err(failed)
}

/// Beside what it will become, and of no other process.
fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    temporary
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What an earlier process with the same number may have left.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)
}

/// The reason alone: the operating system's error number says nothing to most readers.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_whether_a_file_can_be_written_leaves_nothing() {
        let folder = std::env::temp_dir().join(format!("igvm-tools-input-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (new, old) = (folder.join("new"), folder.join("old"));
        fs::write(&old, b"content").unwrap();
        let looked = [&new, &old, &folder.join("absent/file"), &folder].map(|path| can_be_written(path).is_ok());
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        let kept = fs::read(&old).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(looked, [true, true, false, false]);
        assert_eq!((names, kept.as_slice()), (vec!["old".into()], &b"content"[..]));
    }
}
