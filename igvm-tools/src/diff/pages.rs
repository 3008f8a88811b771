// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pages changed, and whether a measurement notices.

use super::{Found, Side};
use crate::file::{Content, page_bytes};
use crate::inspect::owner;
use igvm_defs::{IGVM_VHS_PAGE_DATA, IgvmPageDataType, IgvmPlatformType};
use std::collections::{BTreeMap, BTreeSet};

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Page<'a> {
    bytes: u64,
    kind: &'static str,
    shared: bool,
    unmeasured: bool,
    /// Nothing for zeroes; pages that the loader or the platform fills have no content either.
    content: &'a [u8],
}

/// What the order of a file is made of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Page(u64),
    /// Measured by SNP, in its turn.
    Context(u16),
}

/// What became of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Added,
    Removed,
    Content,
    Kind { before: &'static str, after: &'static str },
}

/// Pages side by side with the same fate.
struct Run {
    start: u64,
    end: u64,
    count: u64,
    owner: &'static str,
    fate: Fate,
    measured: bool,
}

pub(super) fn compare(one: Side<'_>, other: Side<'_>, found: &mut Vec<Found>) {
    let ((before, first_order), (after, second_order)) = (pages(one), pages(other));
    let mut runs: Vec<Run> = Vec::new();
    for gpa in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (before.get(gpa), after.get(gpa));
        let Some(fate) = fate(old, new) else { continue };
        let side = if new.is_some() { other } else { one };
        let owner = side.block.map_or("pages", |block| owner(block, *gpa));
        let end = gpa.saturating_add(old.or(new).map_or(0, |page| page.bytes));
        let measured = is_measured(one.platform.platform_type, old, new);
        match runs.last_mut() {
            Some(run) if run.end == *gpa && run.owner == owner && run.fate == fate && run.measured == measured => {
                run.end = end;
                run.count += 1;
            }
            _ => runs.push(Run { start: *gpa, end, count: 1, owner, fate, measured }),
        }
    }
    found.extend(runs.iter().map(Run::describe));
    compare_order(one, &first_order, &second_order, found);
}

/// The same things in another order give other digests.
fn compare_order(side: Side<'_>, before: &[Place], after: &[Place], found: &mut Vec<Found>) {
    let sorted = |order: &[Place]| {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        sorted
    };
    let Some((first, _)) = before.iter().zip(after).find(|(one, other)| one != other) else { return };
    if sorted(before) == sorted(after) {
        let measured = matches!(side.platform.platform_type, IgvmPlatformType::SEV_SNP | IgvmPlatformType::TDX);
        let first = match first {
            Place::Page(gpa) => format!("{gpa:#x}"),
            Place::Context(processor) => format!("VP context {processor}"),
        };
        found.push(Found::new(format_args!("order of pages, from {first} on"), measured));
    }
}

impl Run {
    fn describe(&self) -> Found {
        let Self { start, end, count, owner, fate, measured } = self;
        let pages = if *count == 1 { "page" } else { "pages" };
        let fate = match fate {
            Fate::Added => "added".to_owned(),
            Fate::Removed => "removed".to_owned(),
            Fate::Content => "content".to_owned(),
            Fate::Kind { before, after } if before == after => "flags or content".to_owned(),
            Fate::Kind { before, after } => format!("{before} → {after}"),
        };
        let owner = if *owner == "pages" { String::new() } else { format!("{owner}, ") };
        Found::new(format_args!("{start:#x}-{end:#x} {owner}{count} {pages}: {fate}"), *measured)
    }
}

/// All pages of a platform, and the file's order of what is measured.
fn pages<'a>(side: Side<'a>) -> (BTreeMap<u64, Page<'a>>, Vec<Place>) {
    let (mut pages, mut order, mut areas) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for header in &side.file.headers {
        let (gpa, page) = match header.content {
            Content::ParameterArea(area) => {
                areas.insert(area.parameter_area_index, area.number_of_bytes);
                continue;
            }
            Content::Page(page) if page.compatibility_mask & side.mask() != 0 => (page.gpa, of_header(side, &page)),
            Content::ParameterInsert(insert) if insert.compatibility_mask & side.mask() != 0 => {
                let bytes = areas.get(&insert.parameter_area_index).copied().unwrap_or(0);
                let page = Page { bytes, kind: "parameters", shared: false, unmeasured: true, content: &[] };
                (insert.gpa, page)
            }
            Content::Context(context)
                if context.compatibility_mask & side.mask() != 0
                    && side.platform.platform_type == IgvmPlatformType::SEV_SNP =>
            {
                order.push(Place::Context(context.vp_index));
                continue;
            }
            _ => continue,
        };
        pages.insert(gpa, page);
        if !page.shared {
            order.push(Place::Page(gpa));
        }
    }
    (pages, order)
}

fn of_header<'a>(side: Side<'a>, page: &IGVM_VHS_PAGE_DATA) -> Page<'a> {
    let bytes = page_bytes(page);
    let content = side.file.data(page.file_offset, bytes).unwrap_or_default();
    let kind = match (page.data_type, page.flags.unmeasured(), page.flags.shared()) {
        (_, _, true) => "shared",
        (IgvmPageDataType::SECRETS, ..) => "secrets",
        (IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF, ..) => "CPUID",
        (_, true, _) => "unmeasured",
        // Loaders treat the two differently, see `measure`.
        _ if content.is_empty() => "without data",
        _ => "with data",
    };
    Page { bytes, kind, shared: page.flags.shared(), unmeasured: page.flags.unmeasured(), content }
}

fn fate(old: Option<&Page<'_>>, new: Option<&Page<'_>>) -> Option<Fate> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(Fate::Added),
        (Some(_), None) => Some(Fate::Removed),
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new))
            if old.kind == new.kind && old.bytes == new.bytes && old.unmeasured == new.unmeasured =>
        {
            Some(Fate::Content)
        }
        (Some(old), Some(new)) => Some(Fate::Kind { before: old.kind, after: new.kind }),
    }
}

/// Whether the platform's measurement depends on it.
fn is_measured(platform: IgvmPlatformType, old: Option<&Page<'_>>, new: Option<&Page<'_>>) -> bool {
    view(platform, old) != view(platform, new)
}

/// What a measurement sees of a private page: its kind, size and content.
fn view<'a>(platform: IgvmPlatformType, page: Option<&Page<'a>>) -> Option<(&'static str, u64, &'a [u8])> {
    let page = *page.filter(|page| !page.shared)?;
    let (kind, content): (_, &[u8]) = match platform {
        IgvmPlatformType::SEV_SNP if matches!(page.kind, "with data" | "without data") => (page.kind, page.content),
        IgvmPlatformType::SEV_SNP => (page.kind, &[]),
        // All zeroes are alike, and all kinds of pages.
        IgvmPlatformType::TDX if page.unmeasured => ("unmeasured", &[]),
        IgvmPlatformType::TDX if page.content.iter().all(|byte| *byte == 0) => ("measured", &[]),
        IgvmPlatformType::TDX => ("measured", page.content),
        _ => return None,
    };
    Some((kind, page.bytes, content))
}
