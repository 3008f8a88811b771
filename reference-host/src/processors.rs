// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which of the machine's processors the VM has.
//!
//! QEMU's processor 0 must not run a guest beside others. Whenever any processor loads x87 state whose exception summary is clear
//! (FXRSTOR, XRSTOR, FLDENV: every switch of tasks), QEMU lowers IGNNE# by reading, changing and writing the flags of processor 0,
//! without a lock (`cpu_clear_ignne` in target/i386/tcg/sysemu/fpu_helper.c, 7.2 to 10.0). GIF and the switch for nested paging
//! are bits of the same word: what processor 0 does to them in that instant, by VMRUN, #VMEXIT, STGI or CLGI, is lost. A VM with
//! several processors therefore leaves the machine's first one alone, if there is one more than it needs.

use crate::report::Stop;

/// How many numbers an xAPIC has for processors: all but the broadcast's.
const NUMBERS: u32 = 255;
/// The number of a processor that stays out, which no other has then.
pub const NOBODY: u32 = NUMBERS - 1;

/// A VM's processors among the machine's, both numbered from 0 without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processors {
    /// The machine's number of the VM's boot processor: 0, or 1 if the machine's own one stays out.
    pub first: u32,
    /// How many the VM has; at least one.
    pub count: u32,
}

impl Processors {
    /// Chooses `wanted` of a machine's processors, or all.
    pub fn choose(machine: u32, wanted: Option<u32>) -> Result<Self, Stop> {
        let count = wanted.unwrap_or(machine);
        if count > machine {
            return Err(Stop::Machine("processors= in -append is more than QEMU's -smp"));
        }
        let first = u32::from(machine > count);
        if count > NUMBERS - first {
            return Err(Stop::Machine(
                "at most 255 processors have numbers, one that stays out included: use a smaller -smp",
            ));
        }
        Ok(Self { first, count })
    }

    /// Whether the machine's first processor stays out.
    pub const fn has_spare(&self) -> bool {
        self.first != 0
    }

    /// The machine's numbers of the processors that the machine's first one has to start.
    pub const fn to_start(&self) -> core::ops::Range<u32> {
        1..self.first + self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_all_processors_unless_said_otherwise() {
        let all = Processors::choose(4, None).unwrap();
        assert_eq!((all.first, all.count, all.to_start()), (0, 4, 1..4));
        assert_eq!(Processors::choose(4, Some(4)), Ok(all));
        assert!(Processors::choose(1, None).unwrap().to_start().is_empty());
    }

    #[test]
    fn with_one_too_many_the_first_stays_out() {
        let vm = Processors::choose(5, Some(4)).unwrap();
        assert!(vm.has_spare());
        assert_eq!((vm.first, vm.count, vm.to_start()), (1, 4, 1..5));
        assert_eq!(Processors::choose(9, Some(2)).unwrap().to_start(), 1..3, "the last ones are never started");
    }

    #[test]
    fn too_many_are_refused() {
        assert!(Processors::choose(2, Some(3)).is_err());
        assert!(Processors::choose(256, None).is_err());
        assert!(Processors::choose(256, Some(255)).is_err());
        assert!(Processors::choose(u32::MAX, None).is_err());
        assert!(Processors::choose(255, None).is_ok());
        assert!(Processors::choose(255, Some(254)).is_ok_and(|vm| vm.count <= NOBODY));
    }
}
