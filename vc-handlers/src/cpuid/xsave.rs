// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leaf 0Dh: which XSAVE components there are, and how large the area is (APM vol. 2, 11.5; SDM vol. 1, 13.2).
//!
//! Sizes of components come from the processor; sums are always our own. An operating system allocates what the sum
//! says and executes XSAVE, so a sum that is too small would let the processor write past the guest's buffer.

use specs::cpuid::{LeafXsaveEax, Registers, XSAVE_ALIGNED, XSAVE_HEADER_END, XSAVE_SUPERVISOR, Xcr0, leaf};

use super::{PolicyError, RawCpuid, policy};

/// Components are numbered like the bits of XCR0; PKRU, 9, is the last one that is ever offered.
const COMPONENTS: usize = 10;
/// A bound on what a processor may call an XSAVE area; without AMX the real ones end below 3 KiB.
const MAX_AREA: u32 = 16 << 10;

#[derive(Clone, Copy, Debug, Default)]
struct Component {
    size: u32,
    /// Place in the standard format.
    offset: u32,
    /// Aligned to 64 bytes in the compacted format.
    aligned: bool,
}

/// What leaf 0Dh needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Xsave {
    offered: Xcr0,
    instructions: LeafXsaveEax,
    components: [Component; COMPONENTS],
}

impl Xsave {
    pub(super) fn new(raw: &impl RawCpuid, offered: Xcr0, instructions: LeafXsaveEax) -> Result<Self, PolicyError> {
        let mut this = Self { offered, instructions, ..Self::default() };
        let mut end = XSAVE_HEADER_END;
        for (number, component) in (0..).zip(&mut this.components) {
            if number < 2 || offered.bits() >> number & 1 == 0 {
                continue;
            }
            let told = policy::read(raw, leaf::XSAVE, number);
            let limit = told.ebx.checked_add(told.eax).filter(|limit| *limit <= MAX_AREA).ok_or(PolicyError::Xsave)?;
            // In the order of the numbers and disjoint: so it is on all processors, and it rules out overlap.
            if told.eax == 0 || told.ebx < end || told.ecx & XSAVE_SUPERVISOR != 0 {
                return Err(PolicyError::Xsave);
            }
            end = limit;
            *component = Component { size: told.eax, offset: told.ebx, aligned: told.ecx & XSAVE_ALIGNED != 0 };
        }
        Ok(this)
    }

    pub(super) fn offered(&self) -> Xcr0 {
        self.offered
    }

    /// A subleaf, while the guest's XCR0 is `xcr0`.
    #[cold]
    pub(super) fn leaf(&self, subleaf: u32, xcr0: u64) -> Registers {
        let live = Xcr0::from_bits_truncate(xcr0) & self.offered;
        let all = self.offered.bits();
        match subleaf {
            _ if self.offered.is_empty() => Registers::ZERO,
            0 => Registers::new(
                all as u32,
                self.standard_size(live),
                self.standard_size(self.offered),
                (all >> 32) as u32,
            ),
            1 => {
                let compacts = self.instructions.contains(LeafXsaveEax::XSAVEC);
                let size = if compacts { self.compacted_size(live) } else { 0 };
                Registers::new(self.instructions.bits(), size, 0, 0)
            }
            _ => match usize::try_from(subleaf).ok().and_then(|number| self.components.get(number)) {
                Some(it) => Registers::new(it.size, it.offset, if it.aligned { XSAVE_ALIGNED } else { 0 }, 0),
                None => Registers::ZERO,
            },
        }
    }

    /// The components of `set`, in order.
    fn of(&self, set: Xcr0) -> impl Iterator<Item = &Component> {
        (0..).zip(&self.components).filter(move |(number, _)| set.bits() >> number & 1 != 0).map(|(_, it)| it)
    }

    fn standard_size(&self, set: Xcr0) -> u32 {
        self.of(set).map(|it| it.offset + it.size).fold(XSAVE_HEADER_END, u32::max)
    }

    fn compacted_size(&self, set: Xcr0) -> u32 {
        self.of(set).fold(XSAVE_HEADER_END, |end, it| {
            let start = if it.aligned { end.next_multiple_of(64) } else { end };
            start + it.size
        })
    }
}
