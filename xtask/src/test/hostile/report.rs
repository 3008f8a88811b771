// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the guest says on a console that it garbles itself: lines that are marked and carry a check sum.

use guests::coverage::{COUNT, Point, checked};

/// What one line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Begin,
    /// A part of a seed begins.
    Part {
        seed: u64,
        part: u64,
    },
    /// A part is over, with this many exits of the victims.
    Made {
        seed: u64,
        exits: u64,
    },
    /// A seed is over.
    Seed {
        seed: u64,
        stuck: u64,
    },
    /// A victim crashed in its own code.
    Lost,
    Cover(Coverage),
    /// Something of the paravisor's was readable.
    Leak(String),
    /// Everything is done; the guest waits for the power button.
    Done,
}

/// The points that were touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage(Vec<u32>);

impl Coverage {
    fn parse(text: &str) -> Option<Self> {
        let words = text.as_bytes().chunks(8);
        let word = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        words.map(word).collect::<Option<_>>().map(Self)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    fn has(&self, point: Point) -> bool {
        self.0.get(point.0 / 32).is_some_and(|word| word >> (point.0 % 32) & 1 != 0)
    }

    /// The names of what was never touched, by a guest that has AVX or not.
    pub(super) fn missing(&self, avx: bool) -> Vec<String> {
        points(avx).filter(|point| !self.has(*point)).map(|point| point.to_string()).collect()
    }

    /// How many points were touched, of how many.
    pub(super) fn count(&self, avx: bool) -> (usize, usize) {
        points(avx).fold((0, 0), |(touched, all), point| (touched + usize::from(self.has(point)), all + 1))
    }
}

/// What a guest can touch.
fn points(avx: bool) -> impl Iterator<Item = Point> {
    (0..COUNT).map(Point).filter(move |point| point.exists() && (avx || !point.needs_avx()))
}

/// Cuts the console into lines.
#[derive(Default)]
pub(super) struct Reader {
    partial: Vec<u8>,
}

/// No line is longer.
const LONGEST: usize = 16 << 10;

impl Reader {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                lines.extend(parse(&std::mem::take(&mut self.partial)));
            } else if self.partial.len() < LONGEST {
                self.partial.push(byte);
            }
        }
        lines
    }
}

fn parse(line: &[u8]) -> Option<Line> {
    let text = std::str::from_utf8(line.strip_prefix(b"@H ")?).ok()?;
    let (body, sum) = text.trim_end().rsplit_once(" #")?;
    if u32::from_str_radix(sum, 16).ok()? != body.bytes().fold(0, checked) {
        return None;
    }
    let (word, rest) = body.split_once(' ').unwrap_or((body, ""));
    let words: Vec<_> = rest.split(' ').collect();
    let number = |index: usize| words.get(index)?.parse().ok();
    Some(match word {
        "begin" => Line::Begin,
        "part" => Line::Part { seed: number(0)?, part: number(1)? },
        "made" => Line::Made { seed: number(0)?, exits: number(2)? },
        "seed" => Line::Seed { seed: number(0)?, stuck: number(2)? },
        "lost" => Line::Lost,
        "cover" => Line::Cover(Coverage::parse(rest)?),
        "LEAK" => Line::Leak(rest.to_owned()),
        "done" => Line::Done,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(body: &str) -> Vec<u8> {
        format!("\n@H {body} #{:08x}\n", body.bytes().fold(0, checked)).into_bytes()
    }

    #[test]
    fn lines_are_found_among_garbage() {
        let mut stream = b"\xff\x00garbage@H done".to_vec();
        stream.extend(line("begin 1 1 0"));
        stream.extend(b"@H done #00000000\n@H nonsense\n");
        stream.extend(line("part 7 3 [Ports, Real]"));
        stream.extend(line("made 7 3 612"));
        stream.extend(line("seed 7 stuck 2"));
        stream.extend(line("LEAK 0x1 at 0x8000000"));
        stream.extend(line("done"));
        let mut reader = Reader::default();
        let lines: Vec<_> = stream.chunks(5).flat_map(|chunk| reader.push(chunk)).collect();
        let expected = [
            Line::Begin,
            Line::Part { seed: 7, part: 3 },
            Line::Made { seed: 7, exits: 612 },
            Line::Seed { seed: 7, stuck: 2 },
            Line::Leak("0x1 at 0x8000000".into()),
            Line::Done,
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_changed_line_is_not_believed() {
        let good = line("made 7 3 612");
        for index in 4..good.len() - 1 {
            let mut bad = good.clone();
            bad[index] ^= 1;
            assert_eq!(Reader::default().push(&bad), [], "byte {index}");
        }
    }

    #[test]
    fn missing_points_have_names() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.missing(true).len(), coverage.count(true).1);
        assert!(coverage.count(false).1 < coverage.count(true).1);
        coverage.add(&Coverage(vec![u32::MAX; COUNT.div_ceil(32)]));
        assert_eq!(coverage.missing(true), Vec::<String>::new());
        let port = Point::port(0x4d1, true).unwrap().0;
        coverage.0[port / 32] &= !(1 << (port % 32));
        assert_eq!(coverage.missing(false), ["write of port 0x4d1"]);
    }
}
