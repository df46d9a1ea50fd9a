//! Topic patterns: from the regular expressions that users write for Java to the plain ones that librdkafka matches with.
//!
//! librdkafka hands a pattern to the C library's `regcomp` (POSIX extended) or, under KIP-848, to the broker's RE2. What
//! both understand is small: literals, character sets, groups, alternatives, `{m,n}`. A topic's name consists of 65
//! characters only, so every class becomes the set of those that it holds.

use std::fmt::Write;

use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};

/// The characters of a topic name (`org.apache.kafka.common.internals.Topic.LEGAL_CHARS`). The hyphen is last: between
/// brackets it means itself there.
const TOPIC_CHARACTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
/// Most repetitions that a POSIX pattern can count.
const REPEAT_MAX: u32 = 255;

/// The pattern that librdkafka matches topics with so that the whole name must match `regex`; or why there is none.
pub(crate) fn for_librdkafka(regex: &str) -> Result<String, String> {
    let parsed = regex_syntax::Parser::new().parse(regex);
    let hir = parsed.map_err(|error| format!("topics.regex cannot be read: {}", last_line(&error.to_string())))?;
    let mut pattern = String::from("^(");
    write(&hir, &mut pattern)?;
    pattern.push_str(")$");
    Ok(pattern)
}

/// The errors of `regex-syntax` draw the place below the pattern and say what is wrong in the last line.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ")
}

fn write(hir: &Hir, out: &mut String) -> Result<(), String> {
    match hir.kind() {
        HirKind::Empty => Ok(()),
        HirKind::Literal(literal) => {
            let text =
                std::str::from_utf8(&literal.0).map_err(|_| "topics.regex holds bytes that are no text".to_owned())?;
            text.chars().try_for_each(|character| write_set(&[character], out))
        }
        HirKind::Class(class) => write_set(&members(class), out),
        HirKind::Look(Look::Start | Look::StartLF | Look::StartCRLF) => {
            out.push('^');
            Ok(())
        }
        HirKind::Look(Look::End | Look::EndLF | Look::EndCRLF) => {
            out.push('$');
            Ok(())
        }
        HirKind::Look(_word_boundary) => {
            Err("topics.regex uses a word boundary, which cannot be matched here".to_owned())
        }
        HirKind::Repetition(repetition) => write_repetition(repetition, out),
        HirKind::Capture(capture) => write_group(&capture.sub, out),
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| match part.kind() {
            HirKind::Alternation(_) => write_group(part, out),
            _other_kind => write(part, out),
        }),
        HirKind::Alternation(parts) => {
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    out.push('|');
                }
                match part.kind() {
                    // POSIX leaves an empty alternative undefined.
                    HirKind::Empty => out.push_str("()"),
                    _other_kind => write(part, out)?,
                }
            }
            Ok(())
        }
    }
}

fn write_group(hir: &Hir, out: &mut String) -> Result<(), String> {
    out.push('(');
    write(hir, out)?;
    out.push(')');
    Ok(())
}

fn write_repetition(repetition: &Repetition, out: &mut String) -> Result<(), String> {
    write_group(&repetition.sub, out)?;
    let (min, max) = (repetition.min, repetition.max);
    if min > REPEAT_MAX || max.is_some_and(|max| max > REPEAT_MAX) {
        return Err(format!("topics.regex repeats something more than {REPEAT_MAX} times"));
    }
    let written = match (min, max) {
        (0, None) => write!(out, "*"),
        (1, None) => write!(out, "+"),
        (0, Some(1)) => write!(out, "?"),
        (min, None) => write!(out, "{{{min},}}"),
        (min, Some(max)) => write!(out, "{{{min},{max}}}"),
    };
    written.map_err(|error| error.to_string())
}

/// The characters of topic names that are in `class`.
fn members(class: &Class) -> Vec<char> {
    let is_in = |character: &char| match class {
        Class::Unicode(class) => class.iter().any(|range| (range.start()..=range.end()).contains(character)),
        Class::Bytes(class) => class.iter().any(|range| (range.start()..=range.end()).contains(&(*character as u8))),
    };
    TOPIC_CHARACTERS.chars().filter(is_in).collect()
}

fn write_set(characters: &[char], out: &mut String) -> Result<(), String> {
    match characters {
        [] => Err("topics.regex asks for a character that no topic name can hold".to_owned()),
        [one] if !TOPIC_CHARACTERS.contains(*one) => {
            Err(format!("topics.regex asks for the character {one:?}, which no topic name can hold"))
        }
        ['.'] => {
            out.push_str("[.]");
            Ok(())
        }
        [one] => {
            out.push(*one);
            Ok(())
        }
        many => {
            out.push('[');
            out.extend(many);
            out.push(']');
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_ones_that_posix_and_re2_understand() {
        let cases = [
            ("orders", "^(orders)$"),
            (r"orders\.v\d", "^(orders[.]v[0123456789])$"),
            ("a|bc", "^(a|bc)$"),
            ("x(?:a|bc)?y", "^(x(a|bc)?y)$"),
            ("a{2,3}b+?", "^((a){2,3}(b)+)$"),
            ("(?i)ab", "^([Aa][Bb])$"),
            ("^orders$", "^(^orders$)$"),
            ("[a-c_-]x*", "^([abc_-](x)*)$"),
        ];
        for (java, plain) in cases {
            assert_eq!(for_librdkafka(java).as_deref(), Ok(plain), "{java}");
        }
    }

    #[test]
    fn the_plain_pattern_matches_the_same_names() {
        let names = [
            "orders",
            "orders.v1",
            "ordersXv1",
            "my-model",
            "my_model",
            "a",
            "aab",
            "x",
            "ORDERS",
            "__consumer_offsets",
        ];
        for java in [".*", r"orders(\.v\d+)?", "my[-_]model", r"\w+", "a{1,2}b?|x", "(?i)orders", "[^m].*", r"[^.]*"] {
            let plain = for_librdkafka(java).unwrap();
            let (java, plain) = (format!("^(?:{java})$"), regex::Regex::new(&plain).unwrap());
            let java = regex::Regex::new(&java).unwrap();
            for name in names {
                assert_eq!(java.is_match(name), plain.is_match(name), "{java} on {name}");
            }
        }
    }

    #[test]
    fn patterns_that_cannot_match_here_are_refused_with_the_reason() {
        let cases = [
            ("a(", "unclosed group"),
            ("(?=x)y", "look-around"),
            (r"\bx", "word boundary"),
            ("a b", "' '"),
            ("a{300}", "255 times"),
        ];
        for (java, why) in cases {
            let error = for_librdkafka(java).unwrap_err();
            assert!(error.contains(why), "{java}: {error}");
        }
    }
}
