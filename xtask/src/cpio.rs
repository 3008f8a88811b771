// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `newc` archive format that Linux unpacks as its initial RAM disk.
//!
//! Follows the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`. Times, owners and inode numbers
//! depend on nothing but the order of the entries, so the same entries give the same bytes.

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive under construction.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new(), inode: 0 }
    }

    pub(crate) fn directory(&mut self, name: &str) -> &mut Self {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.entry(name, FILE | mode, (0, 0), content)
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(name, LINK | 0o777, (0, 0), target.as_bytes())
    }

    pub(crate) fn character_device(&mut self, name: &str, major: u32, minor: u32) -> &mut Self {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// The archive with its trailer. Several archives in a row are one RAM disk to the kernel.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> &mut Self {
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        // Contents are a few MiB at most: the kernel of a VM with 8 GiB could not unpack what does not fit here.
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // In the order of the format: ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor,
        // rdevminor, namesize, check.
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.inode += 1;
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.directory("dev").character_device("dev/console", 5, 1).file("init", 0o755, b"#!/bin/sh\n");
        archive.link("bin", "usr/bin");
        archive.finish()
    }

    #[test]
    fn headers_are_110_bytes_and_contents_aligned() {
        let bytes = sample();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[110..114], b"dev\0");
        // 110 + 4 is not a multiple of four: the next header begins after the padding.
        assert_eq!(&bytes[116..122], b"070701");
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn the_same_entries_give_the_same_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn a_foreign_reader_lists_the_entries() {
        let mut command = Command::new("cpio");
        let child = command.arg("-itv").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped: no cpio here");
            return;
        };
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(listing.contains("crw-------") && listing.contains("5,   1"), "{listing}");
        assert!(listing.contains("bin -> usr/bin"), "{listing}");
    }
}
