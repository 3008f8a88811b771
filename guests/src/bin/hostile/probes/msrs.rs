// SPDX-License-Identifier: MIT OR Apache-2.0
//! Absurd values to every MSR.

use guests::apic::{BASE_ENABLED, BASE_EXTENDED, BASE_MSR};
use guests::coverage::{MSRS, Point, nth_of};
use specs::apic::LAPIC_BASE;

use crate::area::Area;
use crate::handler::probe;
use crate::note::note;
use crate::random::Random;

const EFER: u32 = 0xc000_0080;
/// The interrupt command register of the x2APIC.
const COMMAND: u32 = 0x830;

/// What a guest may reach without an exit, on some platform (`platform-native/src/live.rs`; for SNP `docs/host-contract.md`).
const fn passes(index: u32) -> bool {
    const PAT: u32 = 0x277;
    matches!(index, 0x174..=0x176 | PAT | EFER..=0xc000_0084 | 0xc000_0100..=0xc000_0103 | 0xc001_0130..=0xc001_0131)
}

fn pick(random: &mut Random) -> u32 {
    if random.once_in(8) {
        return random.value() as u32;
    }
    let (first, last) = random.pick(&MSRS);
    first + random.below(u64::from(last - first) + 1) as u32
}

pub(crate) fn read(area: &Area, index: u32) -> Option<u64> {
    let (mut low, mut high) = (0u32, 0u32);
    let fault = probe!(area, "rdmsr", in("ecx") index, inout("eax") low, inout("edx") high);
    note(Point::msr(index, false));
    area.exits(u64::from(!passes(index)));
    fault.is_none().then_some(u64::from(high) << 32 | u64::from(low))
}

pub(crate) fn write(area: &Area, index: u32, value: u64) -> bool {
    let fault = probe!(area, "wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32);
    note(Point::msr(index, true));
    area.exits(u64::from(!passes(index)));
    fault.is_none()
}

pub(crate) fn run(area: &Area, random: &mut Random, count: u64) {
    if random.once_in(3) {
        enter_x2apic(area);
    }
    let start = random.next() >> 32;
    for turn in start..start + count {
        // Each one in turn, and any.
        let index = if random.once_in(2) { nth_of(&MSRS, turn) } else { pick(random) };
        let before = read(area, index);
        if random.once_in(4) {
            continue;
        }
        let noise = random.value();
        let value = match before {
            // Near misses: one bit of what is there.
            Some(before) if random.once_in(2) => before ^ 1 << random.below(64),
            _ => noise,
        };
        let value = match index {
            // INIT would end the VM, and the APIC's mode is needed at the end.
            COMMAND if value >> 8 & 7 == 5 => value & !(1 << 8),
            BASE_MSR if value & (BASE_ENABLED | BASE_EXTENDED) == BASE_EXTENDED => value,
            BASE_MSR => value | BASE_ENABLED,
            _ => value,
        };
        // What the harness itself stands on goes back at once.
        if write(area, index, value)
            && (index == EFER || random.once_in(2))
            && let Some(before) = before
        {
            write(area, index, before);
        }
    }
    settle(area);
}

fn enter_x2apic(area: &Area) {
    settle(area);
    if let Some(base) = read(area, BASE_MSR) {
        write(area, BASE_MSR, base | BASE_EXTENDED);
    }
}

/// The local APIC in its xAPIC mode, enabled, at its usual place, whatever it was before.
pub(crate) fn settle(area: &Area) {
    const PLACE: u64 = !0xfff;
    let Some(base) = read(area, BASE_MSR) else { return };
    let wanted = base & !(PLACE | BASE_ENABLED | BASE_EXTENDED) | LAPIC_BASE;
    if base != wanted | BASE_ENABLED {
        let off = wanted;
        write(area, BASE_MSR, off);
        write(area, BASE_MSR, off | BASE_ENABLED);
    }
}
