// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the counters.

use std::collections::BTreeMap;

use platform::{Gpa, Instant};
use proptest::prelude::*;

use super::*;
use crate::pages::PageCounts;

/// A clock that takes as long as one wants.
struct Cycles(std::cell::Cell<u64>);

impl Clock for Cycles {
    fn now(&self) -> Instant {
        Instant(0)
    }

    fn guest_tsc(&self) -> u64 {
        self.0.get()
    }

    fn tsc_hz(&self) -> u64 {
        1
    }

    fn instant_of_tsc(&self, tsc: u64) -> Instant {
        Instant(tsc)
    }
}

fn exit_of(cycles: u64, begun: u64, kind: Kind, statistics: &Statistics) {
    let clock = Cycles(begun.into());
    let started = Started::now(&clock);
    clock.0.set(begun.wrapping_add(cycles));
    statistics.exit(kind, started, &clock);
}

/// The letter box takes a cache line or two of the page. One more page touched on each exit would cost as much as 150
/// instructions.
#[test]
fn a_vcpus_figures_fit_into_a_page_with_its_letter_box() {
    const { assert!(size_of::<Statistics>() + 2 * 64 <= 4096) };
    let fabric = devices::apic::Fabric::<Statistics>::new(3).unwrap();
    let page = |address: usize| address / 4096;
    for index in 0..3 {
        let (port, beside) = (fabric.port(index).unwrap(), fabric.beside(index).unwrap());
        let last = std::ptr::from_ref(beside).addr() + size_of::<Statistics>() - 1;
        assert_eq!(page(std::ptr::from_ref(port).addr()), page(last), "vCPU {index}");
    }
}

#[test]
fn an_exit_counts_in_the_bucket_of_its_logarithm() {
    let statistics = Statistics::default();
    for (cycles, bucket) in
        [(0, 0), (1, 0), (2, 1), (3, 1), (4096, 12), (8191, 12), (8192, 13), (u64::from(u32::MAX), 31)]
    {
        let before = statistics.of(Kind::Hlt).bucket(bucket);
        exit_of(cycles, 77, Kind::Hlt, &statistics);
        assert_eq!(statistics.of(Kind::Hlt).bucket(bucket), before + 1, "{cycles}");
    }
    assert_eq!(statistics.of(Kind::Hlt).count(), 8);
    assert_eq!(statistics.of(Kind::Cpuid).count(), 0);
}

/// Only the counter's low half is kept.
#[test]
fn a_carry_in_the_cycle_counter_does_not_show() {
    let statistics = Statistics::default();
    exit_of(600, u64::from(u32::MAX) - 5, Kind::Cpuid, &statistics);
    exit_of(600, u64::MAX - 5, Kind::Cpuid, &statistics);
    assert_eq!(statistics.of(Kind::Cpuid).bucket(9), 2);
}

proptest! {
    /// What Space-Saving promises, for each set: no count is too small, none too large by more than its error, and nothing
    /// is lost from the sum.
    #[test]
    fn counts_of_the_top_table_are_bounds(keys in prop::collection::vec(0u32..60, 1..2000)) {
        let top = Top::default();
        let mut truth = BTreeMap::<u32, u64>::new();
        for &key in &keys {
            top.count(key);
            *truth.entry(key).or_default() += 1;
        }
        prop_assert_eq!(top.entries().map(|entry| entry.count).sum::<u64>(), keys.len() as u64);
        for entry in top.entries() {
            let real = truth.get(&entry.key).copied().unwrap_or(0);
            prop_assert!(entry.count >= real && entry.count - u64::from(entry.error) <= real, "{:?} is {}", entry, real);
        }
        let mut keys: Vec<_> = top.entries().map(|entry| entry.key).collect();
        keys.sort_unstable();
        keys.dedup();
        prop_assert_eq!(keys.len(), top.entries().count(), "a key is there once");
    }
}

#[test]
fn the_most_frequent_key_survives_a_flood_of_others() {
    let top = Top::default();
    for key in 0..100_000 {
        top.count(0x608);
        top.count(key);
    }
    let entry = top.entries().max_by_key(|entry| entry.count - u64::from(entry.error)).unwrap();
    assert_eq!(entry.key, 0x608);
    assert!(entry.count - u64::from(entry.error) >= 99_000, "{entry:?}");
}

#[test]
fn a_report_is_json_without_zeros() {
    let statistics = Statistics::default();
    exit_of(2048, 0, Kind::Cpuid, &statistics);
    exit_of(2049, 0, Kind::Cpuid, &statistics);
    exit_of(70, 0, Kind::PortIn, &statistics);
    statistics.port(0x608);
    statistics.mmio(Gpa(0xfee0_00b0));
    statistics.events.nmis.count();
    assert_eq!(
        statistics.to_string(),
        "\"exits\":{\"cpuid\":{\"11\":2},\"port_in\":{\"6\":1}},\"events\":{\"nmis\":1},\"ports\":[[1544,1,0]],\"msrs\":[],\
         \"mmio_pages\":[[1043968,1,0]]"
    );
    let machine = MachineFigures { tsc_hz: 7, nanoseconds: 9, pages: Some(PageCounts::default()) };
    assert_eq!(
        machine.to_string(),
        "{\"tsc_hz\":7,\"nanoseconds\":9,\"pages\":{\"accepted\":0,\"shared\":0,\"unshared\":0,\"trapped\":0}}"
    );
}

mod window_tests {
    use super::super::window::*;
    use super::*;

    fn header() -> Header {
        Header { processors: 2, tsc_hz: 1_000, nanoseconds: 5, pages: PageCounts::default() }
    }

    fn read_at(offset: u64, width: u8, statistics: &Statistics) -> u64 {
        read(Gpa(BASE + offset), width, header, |index| (index < 2).then_some(statistics))
    }

    #[test]
    fn the_window_shows_what_is_counted() {
        let statistics = Statistics::default();
        exit_of(5000, 0, Kind::Rdmsr, &statistics);
        statistics.events.starts.count();
        statistics.msr(0x1b);
        assert_eq!(read_at(0, 8, &statistics).to_le_bytes(), *b"PARASTAT");
        assert_eq!((read_at(0x10, 8, &statistics), read_at(0x18, 8, &statistics)), (2, 1_000));
        let word = |index: usize| read_at(0x1000 + 8 * index as u64, 8, &statistics);
        assert_eq!(word(Kind::Rdmsr as usize * BUCKETS + 12), 1);
        let starts = Events::NAMES.iter().position(|name| *name == "starts").unwrap();
        assert_eq!(word(EVENTS + starts), 1);
        let found = (0..ENTRIES).find(|entry| word(MSRS + 2 * entry) == 0x1b).unwrap();
        assert_eq!(word(MSRS + 2 * found + 1), 1);
        assert_eq!(read_at(0x3000, 8, &statistics), 0, "there is no third vCPU");
    }

    proptest! {
        /// A guest may read any offset in any width: no read panics, and all agree with the bytes of the words.
        #[test]
        fn every_read_agrees_with_single_bytes(offset in 0..BYTES, width in 1u8..=8) {
            let statistics = Statistics::default();
            exit_of(5000, 0, Kind::Cpuid, &statistics);
            statistics.port(0x3f8);
            let bytes = (0..u64::from(width)).map(|lane| {
                let at = offset + lane;
                if at < BYTES { read_at(at, 1, &statistics) << (8 * lane) } else { 0 }
            });
            prop_assert_eq!(read_at(offset, width, &statistics), bytes.sum::<u64>());
        }
    }
}

/// What `docs/statistics.md` must say behind its last comment.
fn page() -> String {
    use super::window::{EVENTS, HEADER, MMIO, MSRS, PORTS, TRANSITIONS};
    let offset = |word: usize| format!("{:03X}h", word * 8);
    let mut page = String::from("\n| first page | word | |\n|---|---|---|\n");
    for (word, (name, meaning)) in HEADER.iter().enumerate() {
        page += &format!("| {} | `{name}` | {meaning} |\n", offset(word));
    }
    for (word, (name, meaning)) in PageCounts::NAMES.iter().zip(PageCounts::EXPLANATIONS).enumerate() {
        page += &format!("| {} | `{name}` |{meaning} |\n", offset(TRANSITIONS + word));
    }
    page += "\n| vCPU's page | histogram | kind |\n|---|---|---|\n";
    for &kind in Kind::ALL {
        page += &format!("| {} | `{}` |{} |\n", offset(kind as usize * BUCKETS), kind.name(), kind.explanation());
    }
    page += "\n| vCPU's page | event | |\n|---|---|---|\n";
    for (index, (name, meaning)) in Events::NAMES.iter().zip(Events::EXPLANATIONS).enumerate() {
        page += &format!("| {} | `{name}` |{meaning} |\n", offset(EVENTS + index));
    }
    page += "\n| vCPU's page | table |\n|---|---|\n";
    for (start, name) in [(PORTS, "ports"), (MSRS, "MSRs"), (MMIO, "MMIO pages, by page number")] {
        page += &format!("| {} | {name} |\n", offset(start));
    }
    page
}

#[test]
fn the_page_of_words_is_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/statistics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (written, made) = text.split_at(text.rfind("-->\n").unwrap() + 4);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{written}{}", page())).unwrap();
        return;
    }
    assert_eq!(made, page(), "UPDATE_DOCS=1 cargo test -p paravisor-core makes it anew");
}
