// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a seed does: each victim does every kind of job once, in an order of its own; then more of those that exit most,
//! until the seed made enough exits.

use crate::random::Random;

/// A kind of job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Job {
    Ports,
    Memory,
    Msrs,
    Registers,
    Floods,
    Gates,
    Paging,
    Borders,
    Stuck,
    /// Foreign code in 64-bit and compatibility mode.
    Long,
    /// Foreign code in 16-bit and 32-bit protected mode.
    Tasks,
    /// Foreign code in virtual-8086 mode.
    Virtual,
    /// Foreign code in real mode.
    Real,
}

const JOBS: [Job; 16] = [
    Job::Ports,
    Job::Memory,
    Job::Msrs,
    Job::Registers,
    Job::Floods,
    Job::Gates,
    Job::Paging,
    Job::Borders,
    Job::Stuck,
    Job::Long,
    Job::Long,
    Job::Tasks,
    Job::Tasks,
    Job::Virtual,
    Job::Real,
    Job::Memory,
];

/// How many parts every seed has.
pub(crate) const PARTS: u64 = JOBS.len() as u64;
/// How many it has at most.
pub(crate) const MOST_PARTS: u64 = 4 * PARTS;
/// The jobs of the parts behind [`PARTS`].
const MORE: [u64; 4] = [0, 1, 2, 3];
/// Not a part: the stream that orders the jobs.
const ORDER: u64 = u64::MAX;
/// Not a victim: the streams that choose what comes behind [`PARTS`].
const MORE_OF: u64 = 2000;

impl Job {
    /// The job of a number.
    pub(crate) fn at(index: u64) -> Self {
        JOBS.get(index as usize).copied().unwrap_or(Self::Ports)
    }

    /// Whether the victim itself counts exits, in code of its own alone. In the other jobs noise may jump into that code, or
    /// write to the count.
    pub(crate) const fn counts(self) -> bool {
        matches!(self, Self::Ports | Self::Memory | Self::Msrs | Self::Registers | Self::Floods)
    }

    /// The number of the job of a part.
    pub(crate) fn of(seed: u64, part: u64, victim: u64) -> u64 {
        if part >= PARTS {
            return Random::new(seed, part, victim + MORE_OF).pick(&MORE);
        }
        let mut random = Random::new(seed, ORDER, victim);
        let mut order: [u64; JOBS.len()] = core::array::from_fn(|index| index as u64);
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last as u64 + 1) as usize);
        }
        order.get(part as usize).copied().unwrap_or(0)
    }
}

/// How a run ends, once its seeds are done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    PowerOff,
    ResetControl,
    SystemControl,
    Keyboard,
    TestExit,
    TripleFault,
    Init,
}

impl Ending {
    /// The ending of a number.
    pub(crate) const fn of(index: u64) -> Self {
        match index {
            0 => Self::PowerOff,
            1 => Self::ResetControl,
            2 => Self::SystemControl,
            3 => Self::Keyboard,
            4 => Self::TestExit,
            5 => Self::TripleFault,
            _ => Self::Init,
        }
    }
}
