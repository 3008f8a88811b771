// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image taken to pieces: its memory, first processor states and ID block as files, for other programs to look at.
//!
//! Nothing in the image chooses a name or a place: names are made from numbers and our own words. All files appear at once,
//! in a folder that did not exist before, or none do.

use crate::error::{Error, Flaw, ensure};
use crate::file::{self, Content, File, page_bytes};
use crate::inspect::{examine, named, owner, platform_name, platform_names};
use crate::{PAGE, id_block, input};
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataType};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The most that is extracted. Headers of a few bytes can name the same data again and again.
const LIMIT: u64 = 4 << 30;

/// What an image consists of, ready to be written.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    /// The platform that it was taken to pieces for.
    pub platform: String,
    list: Vec<Piece<'a>>,
}

/// A file to be.
#[derive(Clone, Debug)]
struct Piece<'a> {
    name: String,
    what: String,
    /// Where it goes in the guest's memory.
    gpa: Option<u64>,
    content: Vec<&'a [u8]>,
    /// Content that is made here.
    made: Vec<u8>,
}

impl Piece<'_> {
    fn bytes(&self) -> u64 {
        self.content.iter().map(|part| part.len() as u64).sum::<u64>() + self.made.len() as u64
    }
}

/// Takes an image to pieces, for the platform of a name; none is needed if the image is for one only.
pub fn take_apart<'a>(path: &Path, bytes: &'a [u8], platform: Option<&str>) -> Result<Pieces<'a>, Error> {
    let file = file::parse(path, bytes)?;
    let platform = match platform {
        Some(name) => named(&file, name),
        None => only(&file),
    };
    let platform = platform.map_err(|flaw| flaw.of(path))?;
    let list = pieces(&file, platform.compatibility_mask).map_err(|flaw| flaw.of(path))?;
    Ok(Pieces { platform: platform_name(platform.platform_type), list })
}

/// The one platform of a file.
fn only(file: &File<'_>) -> Result<IGVM_VHS_SUPPORTED_PLATFORM, Flaw> {
    let mut all = file.platforms();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        _ => {
            let names = platform_names(file);
            Err(Flaw::new(format_args!("for several platforms, expected --platform with one of: {names}")))
        }
    }
}

fn pieces<'a>(file: &File<'a>, mask: u32) -> Result<Vec<Piece<'a>>, Flaw> {
    let block = examine(file, mask)?.launch_block;
    let mut pages = BTreeMap::new();
    let mut list = Vec::new();
    for header in &file.headers {
        match header.content {
            Content::Page(page) if page.compatibility_mask & mask != 0 => {
                let kind = match page.data_type {
                    IgvmPageDataType::SECRETS => "secrets",
                    IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF => "cpuid",
                    _ => block.as_ref().map_or("pages", |block| owner(block, page.gpa)),
                };
                if let Some(content) = file.data(page.file_offset, page_bytes(&page)) {
                    pages.insert(page.gpa, (kind, content));
                }
            }
            Content::Context(context) if context.compatibility_mask & mask != 0 => {
                // Lists of registers may be shorter than a page and end with the file.
                let rest = (file.bytes() as u64).saturating_sub(u64::from(context.file_offset));
                let name = format!("vp-{}.bin", context.vp_index);
                let content = file.data(context.file_offset, rest.min(PAGE)).unwrap_or_default();
                let what = format!("VP context {}", context.vp_index);
                list.push(Piece { name, what, gpa: Some(context.gpa.get()), content: vec![content], made: Vec::new() });
            }
            _ => {}
        }
    }
    // Neighbours of one purpose go into one file.
    let mut extents: Vec<(u64, u64, &str, Vec<&[u8]>)> = Vec::new();
    for (gpa, (kind, content)) in pages {
        match extents.last_mut() {
            Some((_, end, last, parts)) if *end == gpa && *last == kind => {
                *end += content.len() as u64;
                parts.push(content);
            }
            _ => extents.push((gpa, gpa.saturating_add(content.len() as u64), kind, vec![content])),
        }
    }
    list.extend(extents.into_iter().map(|(gpa, _, kind, content)| {
        let name = format!("{gpa:016x}-{}.bin", kind.replace(' ', "-"));
        Piece { name, what: kind.to_owned(), gpa: Some(gpa), content, made: Vec::new() }
    }));
    if let Some(block) = file.snp_id_block(mask) {
        let made = id_block::block_structure(&block, file.guest_policy(mask).unwrap_or(0)).to_vec();
        let (name, what) = ("id-block.bin".to_owned(), "ID block as the firmware gets it".to_owned());
        list.push(Piece { name, what, gpa: None, content: Vec::new(), made });
    }
    let total: u64 = list.iter().map(Piece::bytes).sum();
    ensure!(total <= LIMIT, "{total} bytes of content, expected at most {LIMIT}");
    let mut names: Vec<_> = list.iter().map(|piece| &piece.name).collect();
    names.sort();
    let doubles = names.windows(2).any(|pair| matches!(pair, [one, other] if one == other));
    ensure!(!doubles, "a processor with two VP contexts");
    Ok(list)
}

impl Pieces<'_> {
    /// Writes all files, and `pieces.json` which lists them, to a new folder.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        input::create_folder(folder, |folder| {
            for Piece { name, content, made, .. } in &self.list {
                input::write_parts(&folder.join(name), content.iter().copied().chain([made.as_slice()]))?;
            }
            input::write_parts(&folder.join("pieces.json"), [format!("{:#}\n", self.to_json()).as_bytes()])
        })
    }

    /// What there is.
    pub fn to_json(&self) -> Value {
        let piece = |piece: &Piece<'_>| json!({ "file": piece.name, "what": piece.what, "gpa": piece.gpa, "bytes": piece.bytes() });
        json!({ "platform": self.platform, "pieces": self.list.iter().map(piece).collect::<Vec<_>>() })
    }
}

impl std::fmt::Display for Pieces<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.list.iter().try_for_each(|piece| writeln!(f, "{:>10} {}", piece.bytes(), piece.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch_fixture::{every_kind, pattern, small};
    use std::fs;

    #[test]
    fn pieces_are_what_the_image_has() {
        let bytes = every_kind().bytes();
        let refused = take_apart(Path::new("image"), &bytes, None).unwrap_err();
        assert!(refused.to_string().contains("expected --platform with one of: snp, tdx"), "{refused}");
        let refused = take_apart(Path::new("image"), &bytes, Some("native")).unwrap_err();
        assert!(refused.to_string().contains("not for platform native, but for: snp, tdx"), "{refused}");
        let pieces = take_apart(Path::new("image"), &bytes, Some("snp")).unwrap();
        let folder = std::env::temp_dir().join(format!("igvm-tools-pieces-{}", std::process::id()));
        pieces.write(&folder).unwrap();
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        assert_eq!(read("0000000000100000-pages.bin"), [pattern(1), pattern(2)].concat());
        assert_eq!(read("0000000000103000-cpuid.bin"), pattern(3));
        assert_eq!(read("0000000000108000-pages.bin"), [vec![0; 4096], pattern(4), pattern(5)].concat());
        assert_eq!(read("vp-1.bin")[0x178..0x180], 0x2222u64.to_le_bytes());
        let listed: Value = serde_json::from_slice(&read("pieces.json")).unwrap();
        let listed = listed["pieces"].as_array().unwrap();
        assert_eq!(listed.len() + 1, fs::read_dir(&folder).unwrap().count());
        for piece in listed {
            assert_eq!(piece["bytes"], fs::metadata(folder.join(piece["file"].as_str().unwrap())).unwrap().len());
        }
        let refused = pieces.write(&folder).unwrap_err();
        assert!(refused.to_string().contains("exists already"), "{refused}");
        fs::remove_dir_all(&folder).unwrap();
        let tdx = take_apart(Path::new("image"), &bytes, Some("tdx")).unwrap();
        assert!(!tdx.to_string().contains("vp-"));
    }

    #[test]
    fn an_id_block_comes_out_as_the_key_signed_it() {
        use crate::sign::{Block, Identity, Signer};
        let (path, bytes) = (Path::new("image"), small().bytes());
        let block = Block::new(path, &bytes, &Identity::default()).unwrap();
        let payload = block.payload();
        let signed = block.sign(path, &bytes, Signer::Ephemeral, None).unwrap();
        let pieces = take_apart(path, &signed.image, None).unwrap();
        assert!(pieces.list.iter().any(|piece| piece.name == "id-block.bin" && piece.made == payload));
    }

    /// A header of 32 bytes can name 2 MiB of data that others name too.
    #[test]
    fn a_small_file_does_not_fill_the_disk() {
        let normal = IgvmPageDataType::NORMAL;
        let pages = (1..2100).map(|n| crate::launch_fixture::page(n << 21, normal, vec![]));
        let mut launch = small();
        launch.directives = pages.collect();
        let mut bytes = launch.bytes();
        let data = bytes.len() as u32;
        let offsets: Vec<_> = file::read(&bytes).unwrap().pages().map(|(header, _)| header.offset).collect();
        for offset in offsets {
            bytes[offset + 8 + 12..][..4].copy_from_slice(&data.to_le_bytes());
            bytes[offset + 8 + 16] |= 1;
        }
        bytes.resize(bytes.len() + (2 << 20), 1);
        let length = bytes.len() as u32;
        bytes[16..20].copy_from_slice(&length.to_le_bytes());
        file::seal(&mut bytes);
        let refused = take_apart(Path::new("image"), &bytes, None).unwrap_err();
        assert!(refused.to_string().contains("bytes of content, expected at most 4294967296"), "{refused}");
    }
}
