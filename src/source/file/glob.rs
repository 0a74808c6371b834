//! Patterns for paths: `*`, `?`, `[…]`, `{a,b}` within a segment, `**` for any number of folders.

use ::glob::{MatchOptions, Pattern};

use crate::error::{Error, Result};

/// One segment of a pattern.
#[derive(Debug, Clone)]
pub(super) enum Segment {
    /// Any number of folders, none included.
    AnyDepth,
    /// A name or a pattern for one.
    Name(Pattern),
}

impl Segment {
    /// Reads one segment, which has no `/` and no braces.
    ///
    /// # Errors
    /// `InvalidOption` for a pattern that is none.
    pub(super) fn parse(text: &str) -> Result<Self> {
        if text == "**" {
            return Ok(Self::AnyDepth);
        }
        let pattern = Pattern::new(text).map_err(|e| {
            Error::invalid_option(format!("'{text}' in a path is not a pattern: {e}; write [[] for a plain ["))
                .with_source(e)
        })?;
        Ok(Self::Name(pattern))
    }

    /// Returns whether `name` matches.
    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::AnyDepth => true,
            Self::Name(pattern) => pattern.matches_with(name, MatchOptions::new()),
        }
    }

    /// Returns whether the pattern itself spells out the first letter of `name`: then `_x` or `.x` is meant.
    pub(super) fn begins_like(&self, name: &str) -> bool {
        match self {
            Self::AnyDepth => false,
            Self::Name(pattern) => pattern.as_str().chars().next() == name.chars().next(),
        }
    }
}

/// Reads the segments of a pattern.
///
/// # Errors
/// `InvalidOption` for a pattern that is none.
pub(super) fn parse_segments(parts: &[&str]) -> Result<Vec<Segment>> {
    parts.iter().map(|part| Segment::parse(part)).collect()
}

/// Returns whether `text` is more than a plain name.
pub(super) fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// Returns how many of `parts` the segments match: all of them where the pattern means the file itself, fewer where
/// it means a folder above it. `None` where neither does.
pub(super) fn matched_segments(segments: &[Segment], parts: &[&str]) -> Option<usize> {
    let Some((segment, rest)) = segments.split_first() else {
        return Some(0);
    };
    match segment {
        Segment::AnyDepth if rest.is_empty() => (!parts.is_empty()).then_some(parts.len() - 1),
        Segment::AnyDepth => {
            (0..parts.len()).find_map(|skipped| Some(skipped + matched_segments(rest, &parts[skipped..])?))
        }
        Segment::Name(_) => {
            let (part, others) = parts.split_first()?;
            if segment.matches(part) { Some(1 + matched_segments(rest, others)?) } else { None }
        }
    }
}

/// Spells out `{a,b}`: one pattern for each choice. A brace without its partner stays.
pub(super) fn spelled_out(pattern: &str) -> Vec<String> {
    let Some(open) = pattern.find('{') else {
        return vec![pattern.to_string()];
    };
    let (mut depth, mut choices, mut begin) = (0, Vec::new(), open + 1);
    for (at, letter) in pattern.char_indices().skip_while(|(at, _)| *at < open) {
        match letter {
            '{' => depth += 1,
            ',' if depth == 1 => {
                choices.push(&pattern[begin..at]);
                begin = at + 1;
            }
            '}' if depth == 1 => {
                choices.push(&pattern[begin..at]);
                let (before, after) = (&pattern[..open], &pattern[at + 1..]);
                return choices.iter().flat_map(|choice| spelled_out(&format!("{before}{choice}{after}"))).collect();
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    vec![pattern.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_spelled_out() {
        assert_eq!(spelled_out("a{b,c{d,e}}f"), ["abf", "acdf", "acef"]);
        assert_eq!(spelled_out("a{b"), ["a{b"]);
    }

    #[test]
    fn a_pattern_may_mean_a_folder() {
        let segments = parse_segments(&["2013*", "**", "*.json"]).unwrap();
        assert_eq!(matched_segments(&segments, &["2013-01", "x.json"]), Some(2));
        assert_eq!(matched_segments(&segments, &["2013-01", "a", "b", "x.json"]), Some(4));
        assert_eq!(matched_segments(&segments, &["2014", "x.json"]), None);
        assert_eq!(matched_segments(&parse_segments(&["a*"]).unwrap(), &["ab", "c", "d"]), Some(1));
    }
}
