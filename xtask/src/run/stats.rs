// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's exit statistics: its records put together, and as a table.
//!
//! Parados sends one record about the machine and one about each vCPU, and leaves out what is zero. Here they become one
//! object: `tsc_hz`, `nanoseconds`, `pages`, `total` (all vCPUs added up) and `vcpus`. Which kinds and events there are is
//! Parados's business: whatever comes is added and shown. `docs/statistics.md` describes the fields.

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// Rows of a table of what was touched most.
const ROWS: usize = 12;

/// The lists of a vCPU, with a heading and whether keys are pages.
const LISTS: [(&str, &str, u32); 3] = [("ports", "port", 0), ("msrs", "MSR", 0), ("mmio_pages", "MMIO page", 12)];

/// One object from a run's records; `None` if Parados sent none.
pub(crate) fn collect(facts: &Map<String, Value>) -> Option<Value> {
    let mut stats = facts.get("stats")?.as_object()?.clone();
    let vcpus: Vec<Value> = facts.get("vcpus").and_then(Value::as_array)?.iter().map(tidy).collect();
    let mut total = Map::new();
    for vcpu in vcpus.iter().filter_map(Value::as_object) {
        for (name, value) in vcpu.iter().filter(|(name, _)| *name != "index") {
            add(total.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
    total.values_mut().filter_map(Value::as_array_mut).for_each(|entries| sort(entries));
    stats.insert("total".into(), Value::Object(total));
    stats.insert("vcpus".into(), Value::Array(vcpus));
    Some(Value::Object(stats))
}

/// A vCPU's record with names instead of positions.
fn tidy(vcpu: &Value) -> Value {
    let mut vcpu = vcpu.as_object().cloned().unwrap_or_default();
    for histogram in vcpu.get_mut("exits").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        let count: u64 = histogram.as_object().into_iter().flat_map(Map::values).filter_map(Value::as_u64).sum();
        *histogram = json!({ "count": count, "log2_cycles": histogram.take() });
    }
    for (list, _, shift) in LISTS {
        let Some(entries) = vcpu.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for entry in entries.iter_mut() {
            let number = |index: usize| entry.get(index).and_then(Value::as_u64).unwrap_or_default();
            let key = format!("{:#x}", number(0) << shift);
            *entry = json!({ "key": key, "count": number(1), "error": number(2) });
        }
        sort(entries);
    }
    Value::Object(vcpu)
}

/// The most frequent first.
fn sort(entries: &mut [Value]) {
    entries.sort_by_key(|entry| std::cmp::Reverse(number(entry, "count")));
}

fn number(object: &Value, name: &str) -> u64 {
    object.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// Adds one vCPU's figures to a sum: numbers, objects of numbers, and lists whose entries have keys.
fn add(sum: &mut Value, value: &Value) {
    match (sum, value) {
        (sum @ Value::Null, value) => *sum = value.clone(),
        (Value::Object(sum), Value::Object(value)) => {
            for (name, value) in value {
                match value {
                    Value::String(_) => drop(sum.insert(name.clone(), value.clone())),
                    _ => add(sum.entry(name.clone()).or_insert(Value::Null), value),
                }
            }
        }
        (Value::Array(sum), Value::Array(value)) => {
            for entry in value {
                match sum.iter_mut().find(|known| known.get("key") == entry.get("key")) {
                    Some(known) => add(known, entry),
                    None => sum.push(entry.clone()),
                }
            }
        }
        (sum, value) => {
            *sum = json!(sum.as_u64().unwrap_or_default().saturating_add(value.as_u64().unwrap_or_default()))
        }
    }
}

/// For people.
pub(crate) fn table(stats: &Value) -> String {
    let total = stats.get("total").unwrap_or(&Value::Null);
    let hz = stats.get("tsc_hz").and_then(Value::as_f64).unwrap_or(f64::NAN);
    let mut text = exits(total, hz);
    let objects = [("events", total.get("events")), ("pages of 4 KiB", stats.get("pages"))];
    for (heading, object) in objects {
        let rows = object.and_then(Value::as_object).into_iter().flatten();
        list(&mut text, heading, rows.map(|(name, value)| (name.clone(), value.to_string())));
    }
    for (name, heading, _) in LISTS {
        let entries = total.get(name).and_then(Value::as_array).into_iter().flatten();
        // What may as well be another's count says nothing.
        let entries = entries.filter(|entry| number(entry, "error") <= number(entry, "count") / 2).take(ROWS);
        let row = |entry: &Value| {
            let key = entry.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
            let error = number(entry, "error");
            let bound = if error == 0 { String::new() } else { format!(" (up to {error} less)") };
            (key, format!("{}{bound}", number(entry, "count")))
        };
        list(&mut text, heading, entries.map(row));
    }
    text
}

fn exits(total: &Value, hz: f64) -> String {
    let mut text = format!("{:<16} {:>12} {:>10} {:>10} {:>10}\n", "exit", "count", "half <", "99% <", "all <");
    for (kind, exits) in total.get("exits").and_then(Value::as_object).into_iter().flatten() {
        let count = number(exits, "count");
        let below = |share: f64| duration(quantile(exits, (count as f64 * share).ceil() as u64), hz);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{kind:<16} {count:>12} {:>10} {:>10} {:>10}", below(0.5), below(0.99), below(1.0));
    }
    text
}

/// Cycles than which at least `wanted` of the exits took fewer.
fn quantile(exits: &Value, wanted: u64) -> f64 {
    let mut seen = 0;
    let histogram = exits.get("log2_cycles").and_then(Value::as_object);
    let mut buckets: Vec<(u32, u64)> = histogram
        .into_iter()
        .flatten()
        .filter_map(|(bucket, count)| Some((bucket.parse().ok()?, count.as_u64()?)))
        .collect();
    buckets.sort_unstable();
    let bucket = buckets.into_iter().find(|(_, count)| {
        seen += count;
        seen >= wanted
    });
    bucket.map_or(f64::NAN, |(bucket, _)| 2f64.powf(f64::from(bucket) + 1.0))
}

fn duration(cycles: f64, hz: f64) -> String {
    let seconds = cycles / hz;
    match seconds {
        _ if seconds < 1e-6 => format!("{:.0} ns", seconds * 1e9),
        _ if seconds < 1e-3 => format!("{:.1} us", seconds * 1e6),
        _ => format!("{:.1} ms", seconds * 1e3),
    }
}

fn list(text: &mut String, heading: &str, rows: impl Iterator<Item = (String, String)>) {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{heading}");
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<22} {value:>12}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Map<String, Value> {
        let vcpu = |index: u32, cpuid: u64| {
            json!({
                "index": index, "exits": { "cpuid": { "10": cpuid, "12": 1 } }, "events": { "interrupts": 5 },
                "ports": [[0x70, 3, 0], [0x608, 40, 1]], "msrs": [], "mmio_pages": [[0xfee00, 7, 0]],
            })
        };
        let facts = json!({
            "stats": { "tsc_hz": 1_000_000_000, "nanoseconds": 9, "pages": { "accepted": 4 } },
            "vcpus": [vcpu(0, 100), vcpu(1, 10)],
        });
        facts.as_object().unwrap().clone()
    }

    #[test]
    fn vcpus_are_added_up() {
        let stats = collect(&facts()).unwrap();
        let total = &stats["total"];
        assert_eq!(total["exits"]["cpuid"], json!({ "count": 112, "log2_cycles": { "10": 110, "12": 2 } }));
        assert_eq!(total["events"]["interrupts"], 10);
        let ports = json!([{ "key": "0x608", "count": 80, "error": 2 }, { "key": "0x70", "count": 6, "error": 0 }]);
        assert_eq!(total["ports"], ports);
        assert_eq!(total["mmio_pages"][0]["key"], "0xfee00000");
        assert_eq!(stats["vcpus"][1]["exits"]["cpuid"]["count"], 11);
        assert!(collect(&Map::new()).is_none());
    }

    #[test]
    fn the_table_names_times_and_bounds() {
        let table = table(&collect(&facts()).unwrap());
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(rows.contains(&vec!["cpuid", "112", "2.0", "us", "8.2", "us", "8.2", "us"]), "{table}");
        assert!(rows.contains(&vec!["interrupts", "10"]) && rows.contains(&vec!["accepted", "4"]), "{table}");
        assert!(rows.contains(&vec!["0x608", "80", "(up", "to", "2", "less)"]), "{table}");
    }

    /// Whatever a broken Parados sends, it must not end this program.
    #[test]
    fn odd_records_do_no_harm() {
        for vcpu in
            [json!(null), json!({ "exits": 3 }), json!({ "ports": [[], 5, "x"] }), json!({ "events": { "a": "b" } })]
        {
            let mut facts = facts();
            facts.insert("vcpus".into(), json!([vcpu, { "events": { "a": 1 } }]));
            let stats = collect(&facts).unwrap();
            assert!(!table(&stats).is_empty());
        }
    }
}
