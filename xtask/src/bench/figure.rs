// SPDX-License-Identifier: MIT OR Apache-2.0
//! One measured figure, its spread over the repetitions, and what it should be at most.

use serde_json::{Value, json};

/// A figure. All are better when smaller.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    /// The smallest and the largest of the repetitions.
    pub(super) spread: Option<(f64, f64)>,
    pub(super) unit: &'static str,
    pub(super) aim: Option<f64>,
}

impl Figure {
    /// A figure that does not vary.
    pub(super) fn fixed(name: impl Into<String>, value: f64, unit: &'static str, aim: Option<f64>) -> Self {
        Self { name: name.into(), value, spread: None, unit, aim }
    }

    /// The median of repeated measurements; `None` if there are none.
    pub(super) fn median(
        name: impl Into<String>,
        values: &[f64],
        unit: &'static str,
        aim: Option<f64>,
    ) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        // With an even number, the upper one of the two in the middle.
        let value = *sorted.get(sorted.len() / 2)?;
        Some(Self { name: name.into(), value, spread: Some((low, high)), unit, aim })
    }

    pub(super) fn reached(&self) -> Option<bool> {
        self.aim.map(|aim| self.value <= aim)
    }

    pub(super) fn json(&self) -> Value {
        let spread = self.spread.map(|(low, high)| vec![rounded(low), rounded(high)]);
        json!({
            "name": self.name, "value": rounded(self.value), "spread": spread, "unit": self.unit,
            "aim": self.aim.map(rounded),
        })
    }
}

/// Four digits after the point, and none for whole numbers.
fn rounded(value: f64) -> Value {
    let value = (value * 1e4).round() / 1e4;
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// All figures for people.
pub(super) fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or_default();
    let rows = figures.iter().map(|figure| {
        let spread =
            figure.spread.map_or(String::new(), |(low, high)| format!("{} to {}", rounded(low), rounded(high)));
        let aim = match (figure.aim, figure.reached()) {
            (Some(aim), Some(true)) => format!("aim {}: reached", rounded(aim)),
            (Some(aim), _) => format!("aim {}: missed", rounded(aim)),
            (None, _) => String::new(),
        };
        let value = rounded(figure.value).to_string();
        let line = format!("{:<width$}  {value:>12} {:<13} {spread:<22} {aim}", figure.name, figure.unit);
        format!("{}\n", line.trim_end())
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_not_moved_by_an_outlier() {
        let figure = Figure::median("x", &[1.1, 9.0, 1.0], "ratio", Some(1.05)).unwrap();
        assert_eq!((figure.value, figure.spread, figure.reached()), (1.1, Some((1.0, 9.0)), Some(false)));
        assert_eq!(Figure::median("x", &[], "ratio", None), None);
    }

    #[test]
    fn json_has_the_documented_fields() {
        let figure = Figure { spread: Some((1.05, 1.12)), ..Figure::fixed("a.b", 1.084_44, "ratio", Some(1.15)) };
        let expected = r#"{"name":"a.b","value":1.0844,"spread":[1.05,1.12],"unit":"ratio","aim":1.15}"#;
        assert_eq!(figure.json().to_string(), expected);
        assert!(Figure::fixed("a", 524_288.0, "bytes", None).json().to_string().contains("\"value\":524288,"));
    }
}
