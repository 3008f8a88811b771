// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a loader does with a file, in its order: pages, parameter areas, first processor states.
//!
//! Measurements are taken over these steps. A loader may not reorder them: every launch digest depends on the order.

use crate::PAGE;
use crate::error::{Flaw, ensure};
use crate::file::{Content, File, page_bytes};
use igvm_defs::{IGVM_VHS_PAGE_DATA, IGVM_VHS_VP_CONTEXT, IgvmPageDataType};
use platform::Slip;
use std::collections::BTreeMap;

/// What a page is to the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageKind {
    /// Content from the file, or zeroes.
    Normal,
    /// Filled by the platform with secrets.
    Secrets,
    /// Filled by the platform with CPUID results.
    Cpuid,
}

/// One step of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// A private page of 4 KiB. Without content it is zero.
    Page { gpa: u64, kind: PageKind, measured: bool, content: Option<&'a [u8]> },
    /// A page of a parameter area, which the loader fills.
    Parameter { gpa: u64 },
    /// The first state of a processor: whatever the platform calls it, a page at most.
    Context { gpa: u64, processor: u16, page: &'a [u8] },
}

/// The most pages that an image may lay out: 4 GiB, as much as a file can hold. Headers of a few bytes stand for 2 MiB and
/// more, so a small file could keep a measurement busy for days; so it is some seconds.
const PAGE_LIMIT: u64 = 1 << 20;

/// Walks through the steps for the platforms of a mask. Shared pages are not part of the launch: nothing protects them.
pub(crate) fn walk<'a>(file: &File<'a>, mask: u32, mut each: impl FnMut(Step<'a>)) -> Result<(), Flaw> {
    let mut areas = BTreeMap::new();
    let mut pages = 0u64;
    let mut count = |offset: usize, more: u64| {
        pages += more;
        ensure!(pages <= PAGE_LIMIT, "header at offset {offset:#x}: page {pages}, expected at most {PAGE_LIMIT}");
        Ok(())
    };
    for header in &file.headers {
        match header.content {
            Content::ParameterArea(area) => {
                areas.insert(area.parameter_area_index, area.number_of_bytes);
            }
            Content::Page(page) if concerns(page.compatibility_mask, mask) && !page.flags.shared() => {
                count(header.offset, page_bytes(&page) / PAGE)?;
                split(file, &page, header.offset, &mut each)?;
            }
            Content::ParameterInsert(insert) if insert.compatibility_mask & mask != 0 => {
                let bytes = areas.get(&insert.parameter_area_index).copied().unwrap_or(0);
                count(header.offset, bytes / PAGE)?;
                ensure!(
                    insert.gpa.checked_add(bytes).is_some(),
                    "header at offset {:#x}: gpa {:#x} of a parameter area, expected one within the address space",
                    header.offset,
                    insert.gpa
                );
                (0..bytes / PAGE).for_each(|page| each(Step::Parameter { gpa: insert.gpa + page * PAGE }));
            }
            Content::Context(context) if context.compatibility_mask & mask != 0 => {
                let page = context_page(file, &context, header.offset)?;
                each(Step::Context { gpa: context.gpa.get(), processor: context.vp_index, page });
            }
            _ => {}
        }
    }
    Ok(())
}

fn concerns(compatibility_mask: u32, mask: u32) -> bool {
    compatibility_mask & mask != 0 || Slip::AnyPlatform.is_planted()
}

/// A page header's pages of 4 KiB.
fn split<'a>(
    file: &File<'a>,
    page: &IGVM_VHS_PAGE_DATA,
    offset: usize,
    each: &mut impl FnMut(Step<'a>),
) -> Result<(), Flaw> {
    let kind = match page.data_type {
        IgvmPageDataType::NORMAL => PageKind::Normal,
        IgvmPageDataType::SECRETS => PageKind::Secrets,
        IgvmPageDataType::CPUID_DATA | IgvmPageDataType::CPUID_XF => PageKind::Cpuid,
        other => {
            return Err(Flaw::new(format_args!(
                "header at offset {offset:#x}: data_type {}, expected 0 to 3",
                other.0
            )));
        }
    };
    let (bytes, measured) = (page_bytes(page), !page.flags.unmeasured() || Slip::Measured.is_planted());
    let mut content = file.data(page.file_offset, bytes).map(|data| data.chunks_exact(PAGE as usize));
    for gpa in (page.gpa..page.gpa + bytes).step_by(PAGE as usize) {
        each(Step::Page { gpa, kind, measured, content: content.as_mut().and_then(Iterator::next) });
    }
    Ok(())
}

fn context_page<'a>(file: &File<'a>, context: &IGVM_VHS_VP_CONTEXT, offset: usize) -> Result<&'a [u8], Flaw> {
    file.data(context.file_offset, PAGE).ok_or_else(|| {
        Flaw::new(format_args!(
            "header at offset {offset:#x}: VP context at file_offset {:#x}, expected {PAGE:#x} bytes there",
            context.file_offset
        ))
    })
}
