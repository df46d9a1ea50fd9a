//! `org.apache.kafka.connect.storage.SimpleHeaderConverter`: what the text of a header says.

use base64::Engine;
use serde_json::{Map, Number, Value};

/// Levels of lists and maps in a header.
const DEPTH_MAX: usize = 32;

/// The value of a header as SimpleHeaderConverter infers it (`org.apache.kafka.connect.data.Values.parseString`): null,
/// booleans, numbers, quoted strings, lists and maps are what they look like, any other text is a string. Bytes that are no
/// UTF-8 become base64.
pub fn simple_header(value: &[u8]) -> Value {
    let Ok(text) = std::str::from_utf8(value) else {
        return Value::String(base64::engine::general_purpose::STANDARD.encode(value));
    };
    if text.is_empty() {
        return Value::String(String::new());
    }
    let mut parser = Parser { rest: text, depth: 0 };
    match parser.value() {
        Some(value) if parser.rest.trim().is_empty() => value,
        Some(_) | None => Value::String(text.to_owned()),
    }
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
        let end = if self.depth == 0 { None } else { self.rest.find([',', ':', ']', '}', '[', '{', '"']) };
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let word = word.trim();
        let value = match word {
            "" => return None,
            "null" => Value::Null,
            _ if word.eq_ignore_ascii_case("true") => Value::Bool(true),
            _ if word.eq_ignore_ascii_case("false") => Value::Bool(false),
            _ => match number(word) {
                Some(number) => number,
                None if self.depth > 0 => Value::String(word.to_owned()),
                None => return None,
            },
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
    use serde_json::json;

    use super::*;

    #[test]
    fn headers_are_what_they_look_like() {
        for (text, expected) in [
            ("", json!("")),
            ("null", json!(null)),
            ("true", json!(true)),
            ("TRUE", json!(true)),
            ("12", json!(12)),
            ("-1.5", json!(-1.5)),
            ("12 apples", json!("12 apples")),
            ("plain text", json!("plain text")),
            (r#""quoted \"text\"""#, json!("quoted \"text\"")),
            ("[1, 2]", json!([1, 2])),
            ("[]", json!([])),
            (r#"{"a": [true, null], "b": "x"}"#, json!({"a": [true, null], "b": "x"})),
            ("[1, 2", json!("[1, 2")),
            ("{not json}", json!("{not json}")),
        ] {
            assert_eq!(simple_header(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(simple_header(&[0xff, 0xfe]), json!("//4="));
    }

    proptest! {
        #[test]
        fn no_header_panics(value in proptest::collection::vec(any::<u8>(), 0..64), text in "[\\[\\]{}\",:0-9a\\\\ .-]{0,80}") {
            simple_header(&value);
            simple_header(text.as_bytes());
        }
    }
}
