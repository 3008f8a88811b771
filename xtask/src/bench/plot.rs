// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures as a picture: one bar each, in parts of its aim, so that what crosses the line is too large.

use std::fmt::Write;

use super::figure::Figure;

const ROW: usize = 26;
const LABEL: usize = 300;
const SCALE: usize = 300;

/// The aim is drawn at this part of the width that bars can have.
const AIM: f64 = 0.5;

/// An SVG document.
pub(super) fn svg(figures: &[Figure]) -> String {
    let rows: Vec<_> = figures.iter().filter(|figure| figure.aim.is_some_and(|aim| aim > 0.0)).collect();
    let (width, height) = (LABEL + SCALE + 170, ROW * (rows.len() + 2));
    let line = LABEL as f64 + SCALE as f64 * AIM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, figure) in rows.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = row(&mut svg, figure, ROW * (index + 1));
    }
    let bottom = height - ROW / 2;
    let _ = writeln!(
        svg,
        "<line x1=\"{line}\" x2=\"{line}\" y1=\"12\" y2=\"{bottom}\" stroke=\"black\" stroke-dasharray=\"4\"/>"
    );
    let _ = writeln!(svg, "<text x=\"{line}\" y=\"{height}\" dy=\"-2\" text-anchor=\"middle\">aim</text>\n</svg>");
    svg
}

fn row(svg: &mut String, figure: &Figure, y: usize) -> std::fmt::Result {
    let aim = figure.aim.unwrap_or(1.0);
    let length = |value: f64| (value / aim * AIM * SCALE as f64).clamp(0.0, SCALE as f64);
    let colour = if figure.reached() == Some(true) { "#3a7d44" } else { "#c1440e" };
    let (text, label) = (y + 14, LABEL - 8);
    writeln!(svg, "<text x=\"{label}\" y=\"{text}\" text-anchor=\"end\">{}</text>", escaped(&figure.name))?;
    let bar = length(figure.value);
    writeln!(svg, "<rect x=\"{LABEL}\" y=\"{y}\" width=\"{bar:.1}\" height=\"18\" fill=\"{colour}\"/>")?;
    if let Some((low, high)) = figure.spread {
        let (from, to, middle) = (LABEL as f64 + length(low), LABEL as f64 + length(high), y + 9);
        writeln!(svg, "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\"/>")?;
    }
    let value = format!("{} {} (aim {aim})", (figure.value * 100.0).round() / 100.0, figure.unit);
    let x = LABEL + SCALE + 8;
    writeln!(svg, "<text x=\"{x}\" y=\"{text}\" font-size=\"11\">{}</text>", escaped(&value))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_drawn_in_parts_of_their_aim() {
        let figures =
            [Figure::fixed("a<b", 1.0, "ratio", Some(1.0)), Figure::fixed("far off", 9.0, "ratio", Some(1.0))];
        let svg = svg(&figures);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("width=\"150.0\"") && svg.contains("width=\"300.0\""), "{svg}");
        assert!(svg.contains("a&lt;b"));
    }

    #[test]
    fn figures_without_an_aim_have_no_bar() {
        assert!(!svg(&[Figure::fixed("x", 1.0, "s", None)]).contains("<text x=\"292\""));
    }
}
