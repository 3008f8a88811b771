// SPDX-License-Identifier: MIT OR Apache-2.0
//! What changed between two images, and what that does to each measurement.
//!
//! Compared is what a loader would do, platform by platform, not the bytes of the files: the same pages at other file offsets
//! are the same. Any tool's file will do, and may be hostile.

use crate::error::{Error, Flaw};
use crate::file::{self, Content, File, Header};
use crate::id_block;
use crate::inspect::{examine, platform_name};
use crate::measure::{Measurements, Value, compute};
use crate::policy;
use igvm_defs::{IGVM_VHS_SNP_ID_BLOCK, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPlatformType};
use image_abi::LaunchBlock;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

mod contexts;
mod pages;
#[cfg(test)]
mod tests;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Whether the files are the same byte by byte.
    pub identical: bool,
    /// The changes.
    pub changes: Vec<Change>,
    /// The measurements.
    pub effects: Vec<Effect>,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is.
    pub what: String,
    /// The platforms that it is for.
    pub platforms: Vec<String>,
    /// Those of them whose measurement it enters.
    pub measured: Vec<String>,
}

/// A measurement of both images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The platform.
    pub platform: String,
    /// Which number.
    pub number: String,
    /// Of the first image, if it has that.
    pub before: Option<String>,
    /// Of the second.
    pub after: Option<String>,
}

/// One image, as one platform sees it.
#[derive(Clone, Copy)]
struct Side<'a> {
    file: &'a File<'a>,
    platform: IGVM_VHS_SUPPORTED_PLATFORM,
    block: Option<&'a LaunchBlock>,
}

impl Side<'_> {
    fn mask(&self) -> u32 {
        self.platform.compatibility_mask
    }

    /// The headers for this platform. What has no mask is for all.
    fn headers(&self) -> impl Iterator<Item = &Header> {
        self.file.headers_for(self.mask())
    }
}

/// A change before it is known for which platforms.
struct Found {
    what: String,
    measured: bool,
}

impl Found {
    fn new(what: impl fmt::Display, measured: bool) -> Self {
        Self { what: what.to_string(), measured }
    }
}

/// Compares two files. The paths serve messages.
pub fn diff((first_path, first): (&Path, &[u8]), (second_path, second): (&Path, &[u8])) -> Result<Comparison, Error> {
    let (one, other) = (file::parse(first_path, first)?, file::parse(second_path, second)?);
    let before = compute(&one).map_err(|flaw| flaw.of(first_path))?;
    let after = compute(&other).map_err(|flaw| flaw.of(second_path))?;
    let mut changes = Changes::default();
    if one.version != other.version {
        changes.list.push(Change::general(format_args!("format version {} → {}", one.version, other.version)));
    }
    for platform in one.platforms().chain(other.platforms()) {
        let kind = platform.platform_type;
        let (name, of) =
            (platform_name(kind), |file: &File<'_>| file.platforms().find(|own| own.platform_type == kind));
        match (of(&one), of(&other)) {
            _ if !changes.is_new(&name) => {}
            (Some(ours), Some(theirs)) => {
                let blocks = (launch_block(&one, ours, first_path)?, launch_block(&other, theirs, second_path)?);
                let sides = (
                    Side { file: &one, platform: ours, block: blocks.0.as_ref() },
                    Side { file: &other, platform: theirs, block: blocks.1.as_ref() },
                );
                compare(sides.0, sides.1).into_iter().for_each(|found| changes.add(&name, found));
            }
            (Some(_), None) => changes.list.push(Change::general(format_args!("no longer for platform {name}"))),
            (None, _) => changes.list.push(Change::general(format_args!("now for platform {name}"))),
        }
    }
    Ok(Comparison { identical: first == second, changes: changes.list, effects: effects(&before, &after) })
}

/// What a platform finds as the launch block.
fn launch_block(
    file: &File<'_>,
    platform: IGVM_VHS_SUPPORTED_PLATFORM,
    path: &Path,
) -> Result<Option<LaunchBlock>, Error> {
    let inspection = examine(file, platform.compatibility_mask);
    inspection.map(|inspection| inspection.launch_block).map_err(|flaw: Flaw| flaw.of(path))
}

/// The changes so far; what several platforms share is listed once.
#[derive(Default)]
struct Changes {
    list: Vec<Change>,
    seen: Vec<String>,
}

impl Changes {
    fn is_new(&mut self, platform: &str) -> bool {
        let new = !self.seen.iter().any(|seen| seen == platform);
        self.seen.push(platform.to_owned());
        new
    }

    fn add(&mut self, platform: &str, Found { what, measured }: Found) {
        let known = self.list.iter().position(|change| change.what == what && !change.platforms.is_empty());
        let index = known.unwrap_or(self.list.len());
        if known.is_none() {
            self.list.push(Change { what, platforms: Vec::new(), measured: Vec::new() });
        }
        if let Some(change) = self.list.get_mut(index) {
            change.platforms.push(platform.to_owned());
            if measured {
                change.measured.push(platform.to_owned());
            }
        }
    }
}

impl Change {
    fn general(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), platforms: Vec::new(), measured: Vec::new() }
    }
}

fn compare(one: Side<'_>, other: Side<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    let (ours, theirs) = (one.platform, other.platform);
    for (name, before, after) in [
        ("compatibility mask", u64::from(ours.compatibility_mask), u64::from(theirs.compatibility_mask)),
        ("platform version", u64::from(ours.platform_version), u64::from(theirs.platform_version)),
        ("highest VTL", u64::from(ours.highest_vtl), u64::from(theirs.highest_vtl)),
        ("shared GPA boundary", ours.shared_gpa_boundary, theirs.shared_gpa_boundary),
    ] {
        if before != after {
            found.push(Found::new(format_args!("{name} {before:#x} → {after:#x}"), false));
        }
    }
    compare_policies(one, other, &mut found);
    compare_lists(&descriptions(one), &descriptions(other), &mut found);
    pages::compare(one, other, &mut found);
    contexts::compare(one, other, &mut found);
    compare_id_blocks(one.file.snp_id_block(one.mask()), other.file.snp_id_block(other.mask()), &mut found);
    found
}

fn compare_policies(one: Side<'_>, other: Side<'_>, found: &mut Vec<Found>) {
    let words = |side: Side<'_>| {
        let policy = side.file.guest_policy(side.mask());
        policy.map(|policy| match side.platform.platform_type {
            IgvmPlatformType::SEV_SNP => policy::words(&policy::SNP, policy),
            IgvmPlatformType::TDX => policy::words(&policy::TDX, policy),
            _ => vec![format!("{policy:#x}")],
        })
    };
    match (words(one), words(other)) {
        (Some(before), Some(after)) => {
            let gone = before.iter().filter(|word| !after.contains(word));
            gone.for_each(|word| found.push(Found::new(format_args!("policy: no longer {word}"), false)));
            let new = after.iter().filter(|word| !before.contains(word));
            new.for_each(|word| found.push(Found::new(format_args!("policy: now {word}"), false)));
        }
        (Some(_), None) => found.push(Found::new("guest policy removed", false)),
        (None, Some(_)) => found.push(Found::new("guest policy added", false)),
        (None, None) => {}
    }
}

/// Headers that are neither pages, contexts, policies nor ID blocks, in words; whether adding one enters a measurement is
/// left to the pages that it stands for.
fn descriptions(side: Side<'_>) -> BTreeMap<String, usize> {
    let mut list = BTreeMap::new();
    for header in side.headers() {
        let name = file::name(header.kind).unwrap_or("optional header of unknown type");
        let text = match header.content {
            Content::RequiredMemory(memory) => {
                let end = memory.gpa.saturating_add(u64::from(memory.number_of_bytes));
                format!("required memory {:#x}-{end:#x}", memory.gpa)
            }
            Content::ParameterArea(area) => {
                format!("parameter area {} of {:#x} bytes", area.parameter_area_index, area.number_of_bytes)
            }
            Content::Parameter(parameter) => {
                format!("{name} in area {} at byte {:#x}", parameter.parameter_area_index, parameter.byte_offset)
            }
            Content::ErrorRange(range) => format!("error range {:#x} of {:#x} bytes", range.gpa, range.size_bytes),
            Content::Other => format!("{name} {}", hex::encode(side.file.body(header))),
            _ => continue,
        };
        *list.entry(text).or_insert(0) += 1;
    }
    list
}

fn compare_lists(before: &BTreeMap<String, usize>, after: &BTreeMap<String, usize>, found: &mut Vec<Found>) {
    let gone = before.iter().filter(|(text, count)| after.get(*text).is_none_or(|now| now < count));
    gone.for_each(|(text, _)| found.push(Found::new(format_args!("removed: {text}"), false)));
    let new = after.iter().filter(|(text, count)| before.get(*text).is_none_or(|once| once < count));
    new.for_each(|(text, _)| found.push(Found::new(format_args!("added: {text}"), false)));
}

fn compare_id_blocks(
    before: Option<IGVM_VHS_SNP_ID_BLOCK>,
    after: Option<IGVM_VHS_SNP_ID_BLOCK>,
    found: &mut Vec<Found>,
) {
    let words = |block: IGVM_VHS_SNP_ID_BLOCK| {
        let author =
            (block.author_key_enabled != 0).then(|| hex::encode(id_block::key_digest(&block.author_public_key)));
        [
            ("launch digest", hex::encode(block.ld)),
            ("family ID", hex::encode(block.family_id)),
            ("image ID", hex::encode(block.image_id)),
            ("guest SVN", block.guest_svn.to_string()),
            ("ID key", hex::encode(id_block::key_digest(&block.id_public_key))),
            ("author key", author.unwrap_or_else(|| "none".to_owned())),
        ]
    };
    match (before.map(words), after.map(words)) {
        (Some(before), Some(after)) => {
            for ((name, before), (_, after)) in before.iter().zip(&after).filter(|(before, after)| before != after) {
                found.push(Found::new(format_args!("ID block: {name} {before} → {after}"), false));
            }
        }
        (Some(_), None) => found.push(Found::new("ID block removed", false)),
        (None, Some(_)) => found.push(Found::new("ID block added", false)),
        (None, None) => {}
    }
}

fn effects(before: &Measurements, after: &Measurements) -> Vec<Effect> {
    let numbers = |measurements: &Measurements| {
        let mut list = Vec::new();
        for platform in &measurements.platforms {
            let mut add = |number: String, value: &[u8]| {
                list.push(((platform.platform.clone(), number), hex::encode(value)));
            };
            match &platform.value {
                Value::Snp(snp) => {
                    snp.digests.iter().for_each(|own| add(format!("launch digest, {}", own.describe()), &own.digest));
                }
                Value::Tdx(tdx) => add("MRTD".to_owned(), &tdx.mrtd),
                Value::None => {}
            }
        }
        list
    };
    let (before, after) = (numbers(before), numbers(after));
    let find = |list: &[((String, String), String)], key: &(String, String)| {
        list.iter().find(|(own, _)| own == key).map(|(_, value)| value.clone())
    };
    let new = after.iter().filter(|(key, _)| find(&before, key).is_none());
    let all = before.iter().chain(new).map(|(key, _)| key);
    all.map(|key| Effect {
        platform: key.0.clone(),
        number: key.1.clone(),
        before: find(&before, key),
        after: find(&after, key),
    })
    .collect()
}

impl Comparison {
    /// Whether anything differs, be it only the arrangement of the file.
    pub fn differs(&self) -> bool {
        !self.identical
    }

    /// The same as JSON.
    pub fn to_json(&self) -> Json {
        let change = |change: &Change| json!({ "what": change.what, "platforms": change.platforms, "measured": change.measured });
        let effect = |effect: &Effect| {
            json!({
                "platform": effect.platform, "number": effect.number, "before": effect.before, "after": effect.after,
                "changed": effect.before != effect.after,
            })
        };
        json!({
            "identical": self.identical,
            "changes": self.changes.iter().map(change).collect::<Vec<_>>(),
            "measurements": self.effects.iter().map(effect).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.identical, self.changes.is_empty()) {
            (true, _) => writeln!(f, "the files are identical")?,
            (false, true) => writeln!(f, "the files differ, but not in what is loaded")?,
            (false, false) => {}
        }
        for Change { what, platforms, measured } in &self.changes {
            write!(f, "{what}")?;
            match (platforms.is_empty(), measured.is_empty()) {
                (true, _) => writeln!(f)?,
                (false, true) => writeln!(f, "  [{}; not measured]", platforms.join(", "))?,
                (false, false) => writeln!(f, "  [{}; measured by {}]", platforms.join(", "), measured.join(", "))?,
            }
        }
        for Effect { platform, number, before, after } in &self.effects {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
            if before == after {
                writeln!(f, "{platform} {number}: same\n  {}", text(before))?;
            } else {
                writeln!(f, "{platform} {number}: CHANGED\n  {}\n  {}", text(before), text(after))?;
            }
        }
        Ok(())
    }
}
