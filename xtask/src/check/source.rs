// SPDX-License-Identifier: MIT OR Apache-2.0
//! Just enough of Rust's lexical structure to tell names from comments and strings.
//!
//! Follows the Rust reference, "Lexical structure". Numbers are taken for names, which does no harm here.

/// A piece of source with its line, counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Name(&'a str),
    Text(&'a str),
    Sign(char),
}

/// All names, strings and signs of a file, without comments.
pub(super) fn tokens(source: &str) -> Vec<(usize, Token<'_>)> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (length, token) = next(rest, first);
        let (taken, left) = rest.split_at_checked(length).unwrap_or((rest, ""));
        if let Some(token) = token {
            tokens.push((line, token));
        }
        line += taken.matches('\n').count();
        rest = left;
    }
    tokens
}

/// The length of the first piece of `rest`, and the piece if it is more than space.
fn next(rest: &str, first: char) -> (usize, Option<Token<'_>>) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), None);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), None);
    }
    if let Some(length) = raw_string(rest) {
        return (length, rest.get(..length).map(Token::Text));
    }
    if first == '"' {
        let length = quoted(rest, '"');
        return (length, rest.get(1..length.saturating_sub(1)).map(Token::Text));
    }
    if first == '\'' {
        return (character(rest), None);
    }
    if is_name(first) {
        let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        return (length, rest.get(..length).map(Token::Name));
    }
    (first.len_utf8(), (!first.is_whitespace()).then_some(Token::Sign(first)))
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(left) = rest.get(at..).filter(|left| !left.is_empty()) {
        if left.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if left.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += left.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// `r"…"`, `r#"…"#`, also with `b` or `c` before.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"]
        .into_iter()
        .find(|prefix| rest.strip_prefix(prefix).is_some_and(|left| left.trim_start_matches('#').starts_with('"')))?;
    let hashes = rest.get(prefix.len()..)?.find('"')?;
    let start = prefix.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(rest.get(start..)?.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + c.len_utf8();
        }
        escaped = !escaped && c == '\\';
    }
    rest.len()
}

/// A character, or the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut after = rest.chars().skip(1);
    match (after.next(), after.next()) {
        (Some('\\'), _) | (_, Some('\'')) => quoted(rest, '\''),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str) -> Vec<&str> {
        let name = |(_, token)| if let Token::Name(name) = token { Some(name) } else { None };
        tokens(source).into_iter().filter_map(name).collect()
    }

    #[test]
    fn comments_and_strings_hold_no_names() {
        let source = r##"a // b
            /* c /* d */ e */ f("g \" h", r#"i " j"#, 'k', '\'', b'l') <'m> n"##;
        assert_eq!(names(source), ["a", "f", "b", "m", "n"]);
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let source = "/* \n */ \"\n\" x\ny";
        let found: Vec<_> = tokens(source).into_iter().filter(|(_, token)| matches!(token, Token::Name(_))).collect();
        assert_eq!(found, [(3, Token::Name("x")), (4, Token::Name("y"))]);
    }

    #[test]
    fn unfinished_sources_end() {
        for source in ["/* a", "\"a", "r#\"a", "'", "'\\", "b'"] {
            tokens(source);
        }
    }
}
