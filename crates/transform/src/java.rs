//! What Java's standard library does that transforms rely on: patterns and replacements, numbers as text and back.

use std::sync::Arc;

use regex::Regex;

/// A Java pattern in the two ways that transforms match with it.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    whole: Regex,
    anywhere: Regex,
}

impl Pattern {
    /// Compiles `java`. What only a backtracking engine can match (look-around, back-references) is refused.
    pub(crate) fn new(java: &str) -> Result<Pattern, String> {
        let compile = |pattern: &str| {
            Regex::new(pattern).map_err(|error| {
                let text = error.to_string();
                let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                format!("Invalid regex: {why}")
            })
        };
        let anywhere = compile(java)?;
        Ok(Pattern { whole: compile(&format!(r"\A(?:{java})\z"))?, anywhere })
    }

    /// Whether all of `text` matches (`Matcher.matches`).
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }

    /// `text` with the first match replaced (`Matcher.replaceFirst`).
    pub(crate) fn replace_first(&self, text: &str, replacement: &Replacement) -> String {
        let Some(found) = self.anywhere.captures(text) else { return text.to_owned() };
        let Some(all) = found.get(0) else { return text.to_owned() };
        let mut made = text[..all.start()].to_owned();
        for part in replacement.parts.iter() {
            match part {
                Part::Text(literal) => made.push_str(literal),
                Part::Group(index) => made.push_str(found.get(*index).map_or("", |group| group.as_str())),
            }
        }
        made.push_str(&text[all.end()..]);
        made
    }
}

/// A replacement in Java's language: `$1`, `${name}`, and `\` before what means itself.
#[derive(Debug, Clone)]
pub(crate) struct Replacement {
    parts: Arc<[Part]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Group(usize),
}

impl Replacement {
    /// Reads `java`, a replacement for matches of `pattern`. The error is Java's.
    pub(crate) fn new(java: &str, pattern: &Pattern) -> Result<Replacement, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = java;
        while let Some(next) = rest.chars().next() {
            rest = &rest[next.len_utf8()..];
            match next {
                '\\' => {
                    let escaped = rest.chars().next().ok_or("character to be escaped is missing")?;
                    rest = &rest[escaped.len_utf8()..];
                    literal.push(escaped);
                }
                '$' => {
                    let (group, after) = group(rest, &pattern.anywhere)?;
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Group(group));
                    rest = after;
                }
                other => literal.push(other),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Replacement { parts: parts.into() })
    }
}

/// The group that `text`, what follows a `$`, begins with, and what is left. Digits are taken as long as the group exists.
fn group<'a>(text: &'a str, regex: &Regex) -> Result<(usize, &'a str), String> {
    if let Some(named) = text.strip_prefix('{') {
        let (name, rest) = named.split_once('}').ok_or("named capturing group is missing trailing '}'")?;
        let index = regex.capture_names().position(|known| known == Some(name));
        return Ok((index.ok_or_else(|| format!("No group with name {{{name}}}"))?, rest));
    }
    let digit = |text: &str| text.chars().next().and_then(|first| first.to_digit(10)).map(|digit| digit as usize);
    let mut index = digit(text).ok_or("Illegal group reference")?;
    let mut rest = &text[1..];
    if index >= regex.captures_len() {
        return Err(format!("No group {index}"));
    }
    while let Some(next) = digit(rest).map(|digit| index * 10 + digit).filter(|next| *next < regex.captures_len()) {
        index = next;
        rest = &rest[1..];
    }
    Ok((index, rest))
}

/// `Double.toString`.
pub(crate) fn double_text(value: f64) -> String {
    float_text(value.abs(), value.is_sign_negative(), &format!("{:e}", value.abs()))
}

/// `Float.toString`.
pub(crate) fn single_text(value: f32) -> String {
    float_text(f64::from(value.abs()), value.is_sign_negative(), &format!("{:e}", value.abs()))
}

/// `scientific` holds the shortest digits that make `magnitude`, as `d.ddde-x`.
fn float_text(magnitude: f64, negative: bool, scientific: &str) -> String {
    if magnitude.is_nan() {
        return "NaN".to_owned();
    }
    let sign = if negative { "-" } else { "" };
    if magnitude.is_infinite() {
        return format!("{sign}Infinity");
    }
    if magnitude == 0.0 {
        return format!("{sign}0.0");
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.replace('.', "");
    if (1e-3..1e7).contains(&magnitude) {
        return format!("{sign}{}", plain_digits(&digits, exponent));
    }
    let (first, rest) = digits.split_at(1);
    let rest = if rest.is_empty() { "0" } else { rest };
    format!("{sign}{first}.{rest}E{exponent}")
}

/// The number `d.ddd * 10^exponent` of `digits`, with at least one digit on both sides of the point.
fn plain_digits(digits: &str, exponent: i32) -> String {
    let Ok(exponent) = usize::try_from(exponent) else {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("0.{zeros}{digits}");
    };
    let whole_digits = exponent + 1;
    if digits.len() <= whole_digits {
        return format!("{digits}{}.0", "0".repeat(whole_digits - digits.len()));
    }
    let (whole, fraction) = digits.split_at(whole_digits);
    format!("{whole}.{fraction}")
}

/// `Long.parseLong`.
pub(crate) fn parse_long(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// `Double.parseDouble`, hexadecimal texts left out.
pub(crate) fn parse_double(text: &str) -> Option<f64> {
    float_digits(text)?.parse().ok()
}

/// `Float.parseFloat`, hexadecimal texts left out.
pub(crate) fn parse_single(text: &str) -> Option<f32> {
    float_digits(text)?.parse().ok()
}

/// What Rust can read of a text that Java takes for a floating point number.
fn float_digits(text: &str) -> Option<&str> {
    let trimmed = text.trim();
    if matches!(trimmed.trim_start_matches(['+', '-']), "NaN" | "Infinity") {
        return Some(trimmed);
    }
    let digits = trimmed.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(trimmed);
    let is_known = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-');
    digits.bytes().all(is_known).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_are_those_of_java() {
        for (regex, replacement, topic, expected) in [
            ("(.*)-(\\d\\d\\d\\d)(\\d\\d)(\\d\\d)", "$1-$2$3", "index-20160117", "index-201601"),
            ("prefix.(.*)", "$1", "prefix.t", "t"),
            ("(?<name>.*)", "x.${name}", "t", "x.t"),
            ("(.)(.*)", "$11", "ab", "a1"),
            (".*", r"\$1\\", "t", r"$1\"),
            ("a|ab", "x", "ab", "xb"),
        ] {
            let pattern = Pattern::new(regex).unwrap();
            let replacement = Replacement::new(replacement, &pattern).unwrap();
            assert!(pattern.matches(topic), "{regex}");
            assert_eq!(pattern.replace_first(topic, &replacement), expected);
        }
        let pattern = Pattern::new("(a)").unwrap();
        for (bad, why) in [
            ("$2", "No group 2"),
            ("$", "Illegal group reference"),
            ("$x", "Illegal group reference"),
            ("${b}", "No group with name {b}"),
            ("\\", "character to be escaped is missing"),
        ] {
            assert_eq!(Replacement::new(bad, &pattern).unwrap_err(), why);
        }
    }

    #[test]
    fn look_around_is_refused_with_the_reason() {
        let error = Pattern::new("(?=a)b").unwrap_err();
        assert!(error.starts_with("Invalid regex: ") && error.contains("look-around"), "{error}");
    }

    #[test]
    fn a_pattern_matches_the_whole_text_only() {
        let pattern = Pattern::new("a|b").unwrap();
        assert!(pattern.matches("a") && !pattern.matches("ab") && !pattern.matches("a\n"));
    }

    #[test]
    fn numbers_are_written_as_java_writes_them() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-42.0, "-42.0"),
            (1.5, "1.5"),
            (0.001, "0.001"),
            (0.0001, "1.0E-4"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (1.25e20, "1.25E20"),
            (123.456, "123.456"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(double_text(value), expected);
        }
        assert_eq!(single_text(0.1), "0.1");
        assert_eq!(single_text(1e10), "1.0E10");
    }

    #[test]
    fn numbers_are_read_as_java_reads_them() {
        assert_eq!(parse_double(" 1.5d "), Some(1.5));
        assert_eq!(parse_double("-Infinity"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_double("inf"), None);
        assert_eq!(parse_double(""), None);
        assert_eq!(parse_single("1e2f"), Some(100.0));
        assert_eq!(parse_long("+5"), Some(5));
        assert_eq!(parse_long(" 5"), None);
    }
}
