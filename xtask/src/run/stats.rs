// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parados's exit statistics as a table. Which counters there are is Parados's business: whatever comes is shown.

use serde_json::Value;

/// One line per counter, nested names joined by dots.
pub(crate) fn table(stats: &Value) -> String {
    let mut rows = Vec::new();
    collect("", stats, &mut rows);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value:>14}\n")).collect()
}

fn collect(prefix: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let below = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| collect(&below(name), value, rows)),
        Value::Array(array) => {
            array.iter().enumerate().for_each(|(index, value)| collect(&below(&index.to_string()), value, rows));
        }
        Value::String(text) => rows.push((prefix.to_owned(), text.clone())),
        other => rows.push((prefix.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_counters_become_rows() {
        let stats = serde_json::json!({ "exits": { "cpuid": 933, "msr": 47 }, "vcpus": [1, 2] });
        let text = table(&stats);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows, [["exits.cpuid", "933"], ["exits.msr", "47"], ["vcpus.0", "1"], ["vcpus.1", "2"]]);
    }
}
