// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fuzzes what people and programs type: image configurations, the command line of `cargo xtask run`, sizes and numbers, the
//! log stream with its records, a command's output with its trailer, and a test suite's list.
//!
//! Claimed:
//! - a refusal is one line with status 64 or 65, in a configuration with its line number;
//! - a configuration that is accepted says what a plain look at the text finds;
//! - a size is its number times its unit; whatever is accepted lies in its limits;
//! - a stream means the same in whatever pieces it arrives, and nothing but printable lines comes out of a log;
//! - memory is taken in proportion to the text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use igvm_tools::{Config, Kind, POLICY};
use platform::Slip;

use crate::input::Input;
use crate::{Target, memory_use};

/// The fuzzer.
pub const TARGET: Target = Target {
    name: "parsers",
    run: play,
    planted: &[
        ("a kibibyte has 1000 bytes", |data| Slip::Unit.planted(|| play(data))),
        ("a refusal of a configuration has no line", |data| Slip::NoLine.planted(|| play(data))),
        ("a trailer that comes in pieces is output", |data| Slip::Pieces.planted(|| play(data))),
        ("debug_log = false turns it on", |data| Slip::AnyPolicy.planted(|| play(data))),
    ],
    longest: 1024,
    mutations: 150_000,
};

/// Bytes from the heap for each byte of text, and at least: a TOML table of one-letter keys is the dearest.
const HEAP_PER_BYTE: usize = 2048;
const HEAP_AT_LEAST: usize = 64 << 10;

fn play(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let rest = input.rest();
    let text = String::from_utf8_lossy(rest);
    let limit = HEAP_AT_LEAST + HEAP_PER_BYTE * rest.len();
    memory_use::at_most(limit, || match kind & 7 {
        0 | 1 => configuration(&text),
        2 => sizes(&text),
        3 | 4 => command_line(rest),
        5 => log(rest, kind),
        6 => command_output(rest, kind),
        _ => suite(&text),
    });
}

fn one_line(text: &str) {
    assert!(!text.is_empty() && text.chars().all(|c| !c.is_control()), "{text:?}");
}

fn configuration(text: &str) {
    let config = match Config::parse(Path::new("image.toml"), text) {
        Ok(config) => config,
        Err(error) => {
            let message = error.to_string();
            one_line(&message);
            assert_eq!(error.kind(), Kind::Data, "{message}");
            let place = message.strip_prefix("image.toml: ").expect("the file's name");
            let line = place.strip_prefix("line ").map(|rest| rest.split(':').next().and_then(|n| n.parse().ok()));
            match line {
                Some(Some(line)) => assert!((1..=text.split('\n').count()).contains(&line), "{message}"),
                _ => assert!(place.starts_with("no key 'platform'"), "no line: {message}"),
            }
            return;
        }
    };
    assert!(text.contains(config.platform.name()), "{config:?}");
    assert_eq!(config.flags & !image_abi::flag::ALL, 0, "{config:?}");
    // A flag needs its name and a true somewhere.
    for (name, flag) in POLICY.iter().filter(|(_, flag)| config.flags & flag != 0) {
        // A name may be quoted and escaped.
        assert!(text.contains(name) || text.contains('\\'), "{name} (flag {flag:#x}) is on");
        assert!(text.contains("true"), "{name} is on, and nothing is true");
    }
    for file in [&config.kernel, &config.initrd, &config.paravisor].into_iter().flatten() {
        assert!(!file.as_os_str().is_empty());
    }
    assert!(config.command_line.len() <= text.len());
}

fn sizes(text: &str) {
    let expected = plain_size(text);
    assert_eq!(xtask::size(text).ok(), expected, "{text:?}");
    if let Err((status, message)) = xtask::size(text) {
        assert_eq!(status, 64, "{message}");
    }
    let (least, most) = (256 << 20, 8 << 30);
    if let Ok(bytes) = xtask::memory_size(text, least, most) {
        assert!((least..=most).contains(&bytes) && bytes.is_multiple_of(2 << 20), "{text:?}");
        assert_eq!(Some(bytes), expected);
    }
    if let Ok(number) = xtask::number(text) {
        assert!((1..=255).contains(&number), "{text:?}");
        assert_eq!(text.trim_start_matches('+').parse(), Ok(number));
    }
    if let Ok(duration) = xtask::seconds(text) {
        assert!(!duration.is_zero(), "{text:?}");
    }
}

/// Digits, then a unit in either case.
fn plain_size(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return None,
    };
    u64::try_from(number.parse::<u128>().ok()?.checked_mul(1 << shift)?).ok()
}

/// Arguments, each ended by a line feed, as the shell would pass them: not always as text.
fn command_line(bytes: &[u8]) {
    let arguments: Vec<OsString> =
        bytes.split(|byte| *byte == b'\n').map(|it| OsString::from_vec(it.to_vec())).collect();
    match xtask::command_line(&arguments) {
        Ok((processors, memory, flags)) => {
            assert!((1..=255).contains(&processors), "{arguments:?}");
            assert!((256 << 20..=8 << 30).contains(&memory), "{arguments:?}");
            assert_eq!(flags & !image_abi::flag::ALL, 0);
            let has = |name: &str| arguments.iter().any(|it| it.to_string_lossy().starts_with(name));
            assert!(!(has("--kernel") && has("--image") && arguments.len() == 4), "{arguments:?}");
        }
        Err((status, message)) => {
            assert_eq!(status, 64, "{message}");
            assert!(!message.is_empty() && message.len() < 600 + 8 * bytes.len(), "{message}");
        }
    }
}

/// The same bytes in pieces of a length.
fn pieces(bytes: &[u8], kind: u8) -> Vec<&[u8]> {
    bytes.chunks(usize::from(kind >> 3) + 1).collect()
}

fn log(bytes: &[u8], kind: u8) {
    let whole = xtask::messages(&[bytes]);
    assert_eq!(whole, xtask::messages(&pieces(bytes, kind)), "a log means something else in pieces");
    for line in &whole.0 {
        assert!(line.chars().all(|c| c == '\t' || !c.is_control()), "a control character in {line:?}");
    }
    let separators = bytes.iter().filter(|byte| **byte == 0x1e).count();
    assert!(whole.1 <= separators, "more ends than records");
}

fn command_output(bytes: &[u8], kind: u8) {
    let whole = xtask::command_output(&[bytes]);
    let split = xtask::command_output(&pieces(bytes, kind));
    assert_eq!(whole, split, "a command's output means something else in pieces");
    // Either all is output, or all but a trailer.
    let trailer = whole.1.map(|_| bytes.len() - whole.0.len());
    assert!(bytes.starts_with(&whole.0), "the output is not what was printed");
    match trailer {
        Some(length) => {
            let trailer = &bytes[bytes.len() - length..];
            assert!((3..=5).contains(&length) && trailer[0] == 0x1e && trailer[length - 1] == b'\n', "{trailer:?}");
        }
        None => assert_eq!(whole.0.len(), bytes.len()),
    }
}

fn suite(text: &str) {
    for (name, _, memory, cpu) in xtask::suite(text) {
        assert!(text.contains(&format!("[{name}]")), "{name:?}");
        assert!(cpu.is_none_or(|cpu| !cpu.chars().any(|c| c == '\n')));
        if let Some(bytes) = memory {
            // `-m` counts MiB or GiB, so the low bits are zero and the number stands in the text.
            let mib = bytes >> 20;
            let in_text = |number: u64| text.contains(&number.to_string());
            let stands = in_text(mib) || bytes.is_multiple_of(1 << 30) && in_text(bytes >> 30);
            assert!(stands || text.contains(['"', '\'', '`']), "{bytes:#x} bytes from nowhere");
        }
    }
}
