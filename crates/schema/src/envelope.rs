//! Finds schema and payload in the text of a JsonConverter envelope, without parsing either.

use std::ops::Range;

/// Where the two parts of an envelope lie in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) schema: Range<usize>,
    pub(crate) payload: Range<usize>,
}

/// Whether the text is an object whose first key is `schema` or `payload`: the only values worth a closer look.
pub(crate) fn may_be_envelope(text: &[u8]) -> bool {
    let at = skip_space(text, 0);
    if text.get(at) != Some(&b'{') {
        return false;
    }
    let rest = &text[skip_space(text, at + 1)..];
    rest.starts_with(b"\"schema\"") || rest.starts_with(b"\"payload\"")
}

/// The parts, if the text is an object of exactly `schema` and `payload`, in any order. Whether the parts themselves are
/// JSON is for their readers to say.
pub(crate) fn split(text: &[u8]) -> Option<Envelope> {
    let (mut schema, mut payload) = (None, None);
    let mut at = expect(text, 0, b'{')?;
    for last in [false, true] {
        let key_start = skip_space(text, at);
        let key_end = value_end(text, key_start)?;
        let start = skip_space(text, expect(text, key_end, b':')?);
        let end = value_end(text, start)?;
        let part = match text.get(key_start..key_end)? {
            b"\"schema\"" => &mut schema,
            b"\"payload\"" => &mut payload,
            _ => return None,
        };
        *part = Some(start..end);
        at = expect(text, end, if last { b'}' } else { b',' })?;
    }
    if skip_space(text, at) != text.len() {
        return None;
    }
    Some(Envelope { schema: schema?, payload: payload? })
}

fn expect(text: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = skip_space(text, at);
    (text.get(at) == Some(&byte)).then_some(at + 1)
}

fn skip_space(text: &[u8], from: usize) -> usize {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    from + text.get(from..).unwrap_or_default().iter().take_while(|byte| is_space(byte)).count()
}

/// The end of the value that starts at `start`: of a string its quote, of an object or list the bracket that closes it, of
/// anything else the next delimiter.
fn value_end(text: &[u8], start: usize) -> Option<usize> {
    match text.get(start)? {
        b'"' => string_end(text, start),
        b'{' | b'[' => {
            let (mut depth, mut at) = (0usize, start);
            loop {
                match text.get(at)? {
                    b'"' => {
                        at = string_end(text, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\n' | b'\r');
            let length = text[start..].iter().position(is_end)?;
            (length > 0).then_some(start + length)
        }
    }
}

/// The index after the closing quote of the string that starts at `start`.
fn string_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_objects_of_schema_and_payload_are_envelopes() {
        for (text, expected) in [
            (r#"{"schema":{"a":"}\""},"payload":[1,{}]}"#, Some((r#"{"a":"}\""}"#, "[1,{}]"))),
            (" {\n\"payload\" : 12 , \"schema\" : null } \n", Some(("null", "12"))),
            (r#"{"schema":1,"payload":"a\\"}"#, Some(("1", r#""a\\""#))),
            (r#"{"schema":1}"#, None),
            (r#"{"schema":1,"payload":2,"x":3}"#, None),
            (r#"{"schema":1,"schema":2}"#, None),
            (r#"{"schema":1,"payload":2} x"#, None),
            (r#"{"schema":1,"payload":2"#, None),
            (r#"{"schema":,"payload":2}"#, None),
            (r#"{"a":1,"payload":2}"#, None),
            ("[]", None),
            ("", None),
        ] {
            let found = split(text.as_bytes()).map(|parts| (&text[parts.schema], &text[parts.payload]));
            assert_eq!(found, expected, "{text}");
            assert!(found.is_none() || may_be_envelope(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (split(&text), may_be_envelope(&text));
        }

        #[test]
        fn near_envelopes_never_panic(text in r#"\{("schema"|"payload"|[:,\[\]{}"\\1 ]){0,12}"#) {
            let _ = split(text.as_bytes());
        }
    }
}
