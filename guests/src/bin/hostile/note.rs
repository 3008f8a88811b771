// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which points of `guests::coverage` were touched.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use guests::coverage::{COUNT, Deed, Point};

const WORDS: usize = COUNT.div_ceil(32);

static TOUCHED: [AtomicU32; WORDS] = [const { AtomicU32::new(0) }; WORDS];

/// A point, if it is one.
pub(crate) fn note(point: impl Into<Option<Point>>) {
    let Some(point) = point.into() else { return };
    if let Some(word) = TOUCHED.get(point.0 / 32) {
        word.fetch_or(1 << (point.0 % 32), Relaxed);
    }
}

pub(crate) fn note_deed(deed: Deed) {
    note(Point::deed(deed));
}

/// All of it, 32 points a word, the first one in the lowest bit.
pub(crate) fn words() -> impl Iterator<Item = u32> {
    TOUCHED.iter().map(|word| word.load(Relaxed))
}
