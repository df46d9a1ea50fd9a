//! `org.apache.kafka.connect.storage.SimpleHeaderConverter`: what the text of a header says.

use std::sync::Arc;

use arrow::array::{Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Fields};
use async_trait::async_trait;
use model::{Batch, Invalid, RawBatch, Settings, Values, whole_value_field};
use serde_json::{Map, Number, Value};

use crate::{Converter, Decoded, Error, Part};

/// Levels of lists and maps in a header.
const DEPTH_MAX: usize = 32;

/// Reads headers into one column of texts that is the whole value. Nothing is ever rejected.
pub(crate) struct SimpleHeaderConverter {
    part: Part,
}

impl SimpleHeaderConverter {
    pub(crate) fn build(_settings: &Settings, part: Part) -> Result<Box<dyn Converter>, Invalid> {
        Ok(Box::new(SimpleHeaderConverter { part }))
    }
}

#[async_trait]
impl Converter for SimpleHeaderConverter {
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, Error> {
        if raw.is_empty() {
            return Ok(Decoded::default());
        }
        let texts: StringArray = self.part.column(raw).iter().map(|value| simple_header(value?)).collect();
        let nulls = texts.nulls().cloned();
        let fields = Fields::from(vec![whole_value_field(DataType::Utf8)]);
        let columns = StructArray::new(fields, vec![Arc::new(texts)], nulls);
        Ok(Decoded { batches: vec![Batch::decoded(raw, Values::Typed(columns))], rejected: Vec::new() })
    }
}

/// The text of what SimpleHeaderConverter reads in a header (`org.apache.kafka.connect.data.Values`: `parseString`, then
/// `convertToString`): whole numbers lose leading zeros and signs, lists and maps lose white space, the text `null` is no
/// value, and any other text is what it is. Unlike there, no text is cut short and no fraction rounded. Bytes that are no
/// UTF-8 become U+FFFD.
pub fn simple_header(value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    let word = text.trim();
    match word {
        "null" => return None,
        "true" | "false" => return Some(word.to_owned()),
        _ => {}
    }
    if let Some(digits) = whole_number(word) {
        return Some(digits);
    }
    if word.starts_with(['[', '{']) {
        let mut parser = Parser { rest: word, depth: 0 };
        if let Some(value) = parser.value()
            && parser.rest.trim().is_empty()
        {
            return Some(value.to_string());
        }
    }
    Some(text.into_owned())
}

/// A whole number as Java prints it, however large it is.
fn whole_number(word: &str) -> Option<String> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", word.strip_prefix('+').unwrap_or(word)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0".to_owned() } else { format!("{sign}{digits}") })
}

struct Parser<'t> {
    rest: &'t str,
    depth: usize,
}

impl Parser<'_> {
    /// The value that comes next; `None` if it is no literal, list or map.
    fn value(&mut self) -> Option<Value> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            '"' => self.quoted().map(Value::String),
            '[' => self.nested(Self::list),
            '{' => self.nested(Self::map),
            _ => self.word(),
        }
    }

    fn nested(&mut self, read: fn(&mut Self) -> Option<Value>) -> Option<Value> {
        if self.depth >= DEPTH_MAX {
            return None;
        }
        self.depth += 1;
        self.rest = &self.rest[1..];
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn eat(&mut self, token: char) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn list(&mut self) -> Option<Value> {
        let mut elements = Vec::new();
        while !self.eat(']') {
            if !elements.is_empty() && !self.eat(',') {
                return None;
            }
            elements.push(self.value()?);
        }
        Some(Value::Array(elements))
    }

    fn map(&mut self) -> Option<Value> {
        let mut entries = Map::new();
        while !self.eat('}') {
            if !entries.is_empty() && !self.eat(',') {
                return None;
            }
            let key = match self.value()? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            if !self.eat(':') {
                return None;
            }
            let value = self.value()?;
            entries.insert(key, value);
        }
        Some(Value::Object(entries))
    }

    fn quoted(&mut self) -> Option<String> {
        let (mut text, mut escaped) = (String::new(), false);
        for (at, letter) in self.rest.char_indices().skip(1) {
            match letter {
                '"' if !escaped => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' if !escaped => escaped = true,
                _ => {
                    text.push(letter);
                    escaped = false;
                }
            }
        }
        None
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find([',', ':', ']', '}', '[', '{', '"']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let word = word.trim();
        let value = match word {
            "" => return None,
            "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            // Upstream takes no bare word in a list or map; the whole text is a text then.
            _ => number(word)?,
        };
        self.rest = rest;
        Some(value)
    }
}

/// A number, where JSON can hold it as it is.
fn number(word: &str) -> Option<Value> {
    let begins = word
        .strip_prefix(['-', '+'])
        .unwrap_or(word)
        .starts_with(|letter: char| letter.is_ascii_digit() || letter == '.');
    if !begins {
        return None;
    }
    if let Ok(whole) = word.parse::<i64>() {
        return Some(whole.into());
    }
    Number::from_f64(word.parse::<f64>().ok()?).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_are_what_they_look_like() {
        for (text, expected) in [
            ("", Some("")),
            ("null", None),
            ("true", Some("true")),
            ("TRUE", Some("TRUE")),
            ("12", Some("12")),
            ("007", Some("7")),
            ("+5", Some("5")),
            ("-0", Some("0")),
            ("123456789012345678901234567890", Some("123456789012345678901234567890")),
            ("-1.50", Some("-1.50")),
            ("12 apples", Some("12 apples")),
            ("12,5", Some("12,5")),
            ("2024-05-01T10:00:00.000Z", Some("2024-05-01T10:00:00.000Z")),
            (" plain text", Some(" plain text")),
            (r#""quoted""#, Some(r#""quoted""#)),
            ("[1, 2]", Some("[1,2]")),
            ("[]", Some("[]")),
            (r#"{"b": [true, null], "a": "x"}"#, Some(r#"{"b":[true,null],"a":"x"}"#)),
            ("[1, 2", Some("[1, 2")),
            ("{not json}", Some("{not json}")),
        ] {
            assert_eq!(simple_header(text.as_bytes()).as_deref(), expected, "{text}");
        }
        assert_eq!(simple_header(&[0xff, b'a']).as_deref(), Some("\u{fffd}a"));
    }

    proptest! {
        #[test]
        fn no_header_panics(value in proptest::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{}\",:0-9a\\\\ .-]{0,80}") {
            simple_header(&value);
            simple_header(text.as_bytes());
        }
    }
}
