//! JSON text to a simd-json tape in reused buffers, within limits that keep a hostile value from costing stack or memory.

use serde::de::IgnoredAny;
use simd_json::{Buffers, ErrorType, Node, StaticNode, Tape, fill_tape};

use crate::DEPTH_MAX;
use crate::fault::excerpt;

/// From this size on the nesting is counted before parsing, for the tape of `[[[[...` is 50 times its text. In a shorter
/// text only what is read or inferred is held to [`DEPTH_MAX`]: what is skipped costs nothing.
const COUNT_FROM_BYTES: usize = 64 << 10;

/// Buffers that grew for a larger value than this are given back after it.
const KEEP_BYTES_MAX: usize = 1 << 20;

/// Parses one value after the other in the same buffers. Parsing itself does not recurse, whatever the nesting.
pub(crate) struct Parser {
    text: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Parser {
    pub(crate) fn new() -> Self {
        Self { text: Vec::new(), buffers: Buffers::new(0), tape: Tape(Vec::new()) }
    }

    /// Hands the tape of `json`, which holds at least one node, to `read`; an error text if it is not one JSON value.
    pub(crate) fn parse<R>(&mut self, json: &[u8], read: impl FnOnce(&[Node<'_>]) -> R) -> Result<R, String> {
        if json.len() >= COUNT_FROM_BYTES && nests_deeper_than(json, DEPTH_MAX) {
            return Err(too_deep());
        }
        // simd-json takes a NUL after a number for its own padding.
        if memchr::memchr(0, json).is_some() {
            return Err(explain(json, &ErrorType::Syntax));
        }
        self.text.clear();
        self.text.extend_from_slice(json);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let result = match fill_tape(&mut self.text, &mut self.buffers, &mut tape) {
            Ok(()) => Ok(read(&tape.0)),
            Err(error) => Err(explain(json, error.error())),
        };
        self.tape = tape.reset();
        if json.len() > KEEP_BYTES_MAX {
            *self = Self::new();
        }
        result
    }
}

/// The sentence for a value that is nested too deeply.
pub(crate) fn too_deep() -> String {
    format!("value is nested deeper than {DEPTH_MAX} levels; flatten it before it is produced")
}

/// Index of the node after the value at `at`.
pub(crate) fn skip(nodes: &[Node<'_>], at: usize) -> usize {
    match nodes[at] {
        Node::Object { count, .. } | Node::Array { count, .. } => at + 1 + count,
        Node::String(_) | Node::Static(_) => at + 1,
    }
}

/// Writes the value at `at` as JSON text and gives the index after it. Values nest no deeper than the parser lets them.
pub(crate) fn write_json(nodes: &[Node<'_>], at: usize, text: &mut Vec<u8>) -> usize {
    match &nodes[at] {
        Node::String(string) => {
            put_json(string, text);
            at + 1
        }
        Node::Static(scalar) => {
            match scalar {
                StaticNode::Null => text.extend(b"null"),
                StaticNode::Bool(flag) => put_json(flag, text),
                StaticNode::I64(number) => put_json(number, text),
                StaticNode::U64(number) => put_json(number, text),
                StaticNode::F64(number) => put_json(number, text),
            }
            at + 1
        }
        Node::Array { len, .. } => {
            text.push(b'[');
            let mut next = at + 1;
            for index in 0..*len {
                if index > 0 {
                    text.push(b',');
                }
                next = write_json(nodes, next, text);
            }
            text.push(b']');
            next
        }
        Node::Object { len, .. } => {
            text.push(b'{');
            let mut next = at + 1;
            for index in 0..*len {
                if index > 0 {
                    text.push(b',');
                }
                next = write_json(nodes, next, text);
                text.push(b':');
                next = write_json(nodes, next, text);
            }
            text.push(b'}');
            next
        }
    }
}

fn put_json(value: &(impl serde::Serialize + ?Sized), text: &mut Vec<u8>) {
    serde_json::to_writer(text, value).expect("scalars can be written to memory");
}

/// Whether there is any scalar other than null in the value at `at`; does not recurse.
pub(crate) fn has_value(nodes: &[Node<'_>], at: usize) -> bool {
    let (mut keys, mut strings) = (0, 0);
    for node in &nodes[at..skip(nodes, at)] {
        match node {
            Node::String(_) => strings += 1,
            Node::Object { len, .. } => keys += len,
            Node::Array { .. } | Node::Static(StaticNode::Null) => {}
            Node::Static(_) => return true,
        }
    }
    strings > keys
}

/// Whether brackets outside strings nest deeper than `depth_max`; the text need not be JSON.
fn nests_deeper_than(text: &[u8], depth_max: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text {
        if in_string {
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > depth_max {
            return true;
        }
    }
    false
}

/// A second, slower look at a value that simd-json refused, for an error that says where.
fn explain(json: &[u8], error: &ErrorType) -> String {
    let why = match (std::str::from_utf8(json), serde_json::from_slice::<IgnoredAny>(json)) {
        (Err(error), _) => format!("not UTF-8 at byte {}", error.valid_up_to()),
        (Ok(_), Err(error)) => error.to_string(),
        (Ok(_), Ok(_)) if *error == ErrorType::InvalidNumber => {
            "a number is out of range of INT64 and DOUBLE".to_owned()
        }
        (Ok(_), Ok(_)) => format!("{error:?}"),
    };
    format!("value is not valid JSON: {why}: {}", excerpt(json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(json: &[u8]) -> Result<usize, String> {
        Parser::new().parse(json, |nodes| nodes.len())
    }

    #[test]
    fn skip_passes_over_a_whole_value() {
        let json = br#"[{"a":[1,{"b":null}],"c":{}},[],"x",2]"#;
        Parser::new()
            .parse(json, |nodes| {
                let mut at = 1;
                for _ in 0..4 {
                    at = skip(nodes, at);
                }
                assert_eq!((at, skip(nodes, 0)), (nodes.len(), nodes.len()));
            })
            .unwrap();
    }

    #[test]
    fn only_scalars_other_than_null_are_values() {
        for (json, expected) in [
            ("null", false),
            ("{}", false),
            ("[[],{}]", false),
            (r#"{"a":{"b":null}}"#, false),
            ("1", true),
            (r#""""#, true),
            (r#"{"a":""}"#, true),
            (r#"[null,[false]]"#, true),
            (r#"{"a":{"b":["c"]}}"#, true),
        ] {
            assert_eq!(Parser::new().parse(json.as_bytes(), |nodes| has_value(nodes, 0)), Ok(expected), "{json}");
        }
    }

    #[test]
    fn what_is_not_one_json_value_is_refused_with_the_place() {
        for (json, expected) in [
            (&b"{\"a\":1"[..], "value is not valid JSON: EOF while parsing an object at line 1 column 6: {\"a\":1"),
            (b"{} x", "value is not valid JSON: trailing characters at line 1 column 4: {} x"),
            (b"1 2", "value is not valid JSON: trailing characters at line 1 column 3: 1 2"),
            (b"\"\xff\"", "value is not valid JSON: not UTF-8 at byte 1: \"\u{fffd}\""),
            (b"[1\0]", "value is not valid JSON: expected `,` or `]` at line 1 column 3: [1\0]"),
            (b"  ", "value is not valid JSON: EOF while parsing a value at line 1 column 2:   "),
            (
                b"99999999999999999999",
                "value is not valid JSON: a number is out of range of INT64 and DOUBLE: 99999999999999999999",
            ),
        ] {
            assert_eq!(parse(json), Err(expected.to_owned()));
        }
    }

    #[test]
    fn ten_megabytes_of_brackets_are_refused_before_parsing() {
        assert_eq!(parse(&vec![b'['; 10 << 20]), Err(too_deep()));
        assert!(parse(&vec![b'['; COUNT_FROM_BYTES - 1]).is_err());
        let text = format!("[\"{}\\\"{}\"]", "[".repeat(COUNT_FROM_BYTES), "{".repeat(99));
        assert_eq!(parse(text.as_bytes()), Ok(2), "brackets in strings do not count");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(json in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&json);
        }

        #[test]
        fn near_json_is_judged_as_serde_json_does(json in r#"[\[\]{}:,"a\\ \-0-9.eE]{0,12}|(true|null|\{\"a\":1\}) ?x?"#) {
            // The two differ on purpose in one thing: numbers beyond 64 bits are an error here.
            let theirs = serde_json::from_str::<serde_json::Value>(&json).is_ok();
            let ours = parse(json.as_bytes());
            prop_assert!(ours.is_ok() == theirs || ours.unwrap_err().contains("out of range"), "{json}");
        }
    }
}
