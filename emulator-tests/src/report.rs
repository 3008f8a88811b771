// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run came to, cell by cell.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use crate::generate::Cell;
use crate::layout::Mode;

/// The fewest cases that a cell may have.
pub const PER_CELL: u64 = 200;
/// What happened in one cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Cases.
    pub cases: u64,
    /// Those that faulted on the host's processor.
    pub faults: u64,
    /// Those that came out differently.
    pub differences: u64,
}

/// The outcome of a whole run.
#[derive(Debug, Default)]
pub struct Report {
    /// By cell.
    pub cells: BTreeMap<Cell, Count>,
    /// A few differences of each cell, told at length.
    pub differences: Vec<String>,
}

impl Report {
    /// All cases.
    pub fn cases(&self) -> u64 {
        self.cells.values().map(|count| count.cases).sum()
    }

    /// The differences of all cells.
    pub fn different(&self) -> u64 {
        self.cells.values().map(|count| count.differences).sum()
    }

    /// The least number of cases in a cell.
    pub fn least(&self) -> u64 {
        self.cells.values().map(|count| count.cases).min().unwrap_or(0)
    }

    /// A line for each family and operand size, a column for each mode and address size: `cases/faults`.
    pub fn table(&self) -> String {
        // By mode and address size.
        type Row = BTreeMap<(Mode, u8), Count>;
        let mut rows: BTreeMap<(&str, u8), Row> = BTreeMap::new();
        let mut columns = BTreeSet::new();
        for (cell, count) in &self.cells {
            // A mode's usual address size comes first.
            let [usual, _] = cell.mode.address_sizes();
            columns.insert((cell.mode, cell.address != usual, cell.address));
            rows.entry((cell.family, cell.size)).or_default().insert((cell.mode, cell.address), *count);
        }
        let mut text = format!("| {:<14} | bytes |", "instruction");
        for (mode, _, address) in &columns {
            let name = format!("{} a{}", mode.name(), 8 * address);
            let _ = write!(text, " {name:>11} |");
        }
        text.push_str("\n|---|---|");
        text.push_str(&"---|".repeat(columns.len()));
        text.push('\n');
        for ((family, size), row) in rows {
            let _ = write!(text, "| {family:<14} | {size:>5} |");
            for (mode, _, address) in &columns {
                let cell =
                    row.get(&(*mode, *address)).map_or("".into(), |count| format!("{}/{}", count.cases, count.faults));
                let _ = write!(text, " {cell:>11} |");
            }
            text.push('\n');
        }
        text
    }
}
