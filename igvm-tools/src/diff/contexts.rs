// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which registers of the processors' first states changed.

use super::{Found, Side};
use crate::PAGE;
use crate::file::Content;
use igvm::snp_defs::SevVmsa;
use igvm_defs::{IgvmNativeVpContextX64, IgvmPlatformType};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;

/// The most registers that are listed for a processor.
const LISTED: usize = 12;

/// A state's bytes and its address.
type State<'a> = (u64, &'a [u8]);

macro_rules! places {
    ($structure:ty: $($field:ident),+ $(,)?) => { &[$((stringify!($field), offset_of!($structure, $field))),+] };
}

/// Where registers stand in a VMSA (APM volume 2, appendix B).
const VMSA: &[(&str, usize)] = places!(
    SevVmsa: es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr, efer, xss, cr4, cr3, cr0, dr7, dr6, rflags, rip, rsp, rax, star,
    lstar, cstar, sfmask, kernel_gs_base, cr2, pat, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15,
    sev_features, virtual_tom, xcr0,
);

/// Where they stand in a native context.
const NATIVE: &[(&str, usize)] = places!(
    IgvmNativeVpContextX64: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
    idtr_base, idtr_limit, gdtr_base, gdtr_limit, code_selector, code_attributes, code_base, code_limit, data_selector,
    data_attributes, data_base, data_limit, gs_base, cr0, cr3, cr4, efer,
);

pub(super) fn compare(one: Side<'_>, other: Side<'_>, found: &mut Vec<Found>) {
    let measured = one.platform.platform_type == IgvmPlatformType::SEV_SNP;
    let (before, after) = (states(one), states(other));
    for processor in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let name = format!("VP context {processor}");
        match (before.get(processor), after.get(processor)) {
            (Some((_, old)), Some((_, new))) if old != new => {
                let registers = registers(one.platform.platform_type, old, new);
                found.push(Found::new(format_args!("{name}: {registers}"), measured));
            }
            (Some(_), None) => found.push(Found::new(format_args!("{name} removed"), measured)),
            (None, Some(_)) => found.push(Found::new(format_args!("{name} added"), measured)),
            _ => {}
        }
        if let (Some((old, _)), Some((new, _))) = (before.get(processor), after.get(processor))
            && old != new
        {
            found.push(Found::new(format_args!("{name}: at {old:#x} → {new:#x}"), measured));
        }
    }
}

fn states<'a>(side: Side<'a>) -> BTreeMap<u16, State<'a>> {
    let mut states = BTreeMap::new();
    for header in &side.file.headers {
        if let Content::Context(context) = header.content
            && context.compatibility_mask & side.mask() != 0
        {
            // Lists of registers may be shorter than a page and end with the file.
            let rest = side.file.bytes() as u64 - u64::from(context.file_offset).min(side.file.bytes() as u64);
            let bytes = side.file.data(context.file_offset, rest.min(PAGE)).unwrap_or_default();
            states.insert(context.vp_index, (context.gpa.get(), bytes));
        }
    }
    states
}

/// The registers that differ, in 64-bit words.
fn registers(platform: IgvmPlatformType, old: &[u8], new: &[u8]) -> String {
    let table = match platform {
        IgvmPlatformType::SEV_SNP => VMSA,
        IgvmPlatformType::NATIVE => NATIVE,
        _ => &[],
    };
    let word = |bytes: &[u8], at: usize| {
        let mut word = [0; 8];
        let source = bytes.get(at..).unwrap_or_default();
        word.iter_mut().zip(source).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    };
    let words = (0..old.len().max(new.len())).step_by(8).map(|at| (at, word(old, at), word(new, at)));
    let changed: Vec<_> = words.filter(|(_, before, after)| before != after).collect();
    let named = changed.iter().take(LISTED).map(|(at, before, after)| {
        let register = table.iter().rev().find(|(_, place)| place & !7 == *at);
        let name = register.map_or_else(|| format!("offset {at:#x}"), |(name, _)| (*name).to_owned());
        format!("{name} {before:#x} → {after:#x}")
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    if changed.len() > LISTED {
        text.push_str(&format!(" and {} more", changed.len() - LISTED));
    }
    text
}
