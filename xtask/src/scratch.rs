// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directories for one run.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::failure::{Failure, Result};

/// The number of the process and a count follow.
const PREFIX: &str = "parados-";

/// A directory that only this user can enter, removed with its contents when dropped.
///
/// It lies in the system's directory for temporary files because the path of a Unix socket must be short.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut base = std::env::temp_dir();
        if base.as_os_str().len() > 60 {
            base = PathBuf::from("/tmp");
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            sweep(&base);
        }
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let path = base.join(name);
        // A directory of that name is from a killed process that had our number.
        let _ = fs::remove_dir_all(&path);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| Failure::system(format!("cannot create {}", path.display()), error))?;
        Ok(Self { path })
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Removes what killed processes of this user left behind. What cannot be removed is somebody else's.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(process, _)| process);
        let Some(process) = process.filter(|process| process.parse::<u32>().is_ok()) else { continue };
        if !Path::new("/proc").join(process).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let base = Scratch::new().unwrap();
        // No process has this number: it is above the kernel's limit.
        let (stale, other) = (base.file("parados-99999999-0"), base.file("parados-notes-1"));
        fs::create_dir(&stale).unwrap();
        fs::create_dir(&other).unwrap();
        sweep(&base.file(""));
        assert!(!stale.exists() && other.exists());
    }

    #[test]
    fn scratch_directories_vanish_with_their_contents() {
        let scratch = Scratch::new().unwrap();
        let file = scratch.file("x");
        fs::write(&file, b"1").unwrap();
        drop(scratch);
        assert!(!file.exists());
    }
}
