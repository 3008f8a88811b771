// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pages that change sides while Parados reaches them for a guest.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use model_tests::check;
use platform::{Gpa, Hold, PAGE_SIZE, PageRange, PageViews, RamMap, SHARED_BIT, ViewWord, Visibility};

/// A page of memory. Loom finds whoever is at it while another one changes it, or has changed it unknown to him.
struct Memory {
    views: PageViews,
    page: UnsafeCell<()>,
}

fn memory() -> Arc<Memory> {
    let words = (0..2).map(|_| ViewWord::new(0)).collect();
    Arc::new(Memory { views: PageViews::new(Vec::leak(words)), page: UnsafeCell::new(()) })
}

fn page() -> PageRange {
    PageRange::new(Gpa(0), Gpa(PAGE_SIZE)).unwrap()
}

/// An access as the emulator makes it; whether it came to that.
fn reach(memory: &Memory, view: Visibility) -> bool {
    let mut ram = RamMap::default();
    ram.push(page()).unwrap();
    let gpa = if view == Visibility::Shared { Gpa(SHARED_BIT) } else { Gpa(0) };
    let hold = Hold::new(&ram, Some(&memory.views), gpa, 8, view);
    if hold.is_ok() {
        memory.page.with(|_| ());
    }
    hold.is_ok()
}

/// A move as the page-state table makes it, with one look for accesses; whether it came about.
fn share(memory: &Memory) -> bool {
    memory.views.begin(page());
    if !memory.views.is_quiet() {
        memory.views.abandon(page());
        return false;
    }
    memory.page.with_mut(|_| ());
    memory.views.finish(page(), Visibility::Shared);
    true
}

#[test]
fn no_page_changes_sides_under_an_access() {
    check(Some(3), || {
        let memory = memory();
        let others = [Visibility::Private, Visibility::Shared].map(|view| {
            let memory = memory.clone();
            loom::thread::spawn(move || reach(&memory, view))
        });
        let moved = share(&memory);
        let [_, shared] = others.map(|other| other.join().unwrap());
        assert!(!shared || moved, "a page was shared before it was");
        assert_eq!((reach(&memory, Visibility::Private), reach(&memory, Visibility::Shared)), (!moved, moved));
    });
}
