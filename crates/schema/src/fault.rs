//! What is wrong with one record: the path of the field and a short sentence.

use std::fmt;

use simd_json::{Node, StaticNode};

/// Characters of a value that an error text may show.
const SHOWN_CHARS_MAX: usize = 200;

/// The reason why a record cannot be read. It is built where the value is and gets its path on the way up, so that a
/// good record pays nothing for it.
#[derive(Debug, PartialEq)]
pub(crate) struct Fault {
    path: String,
    what: String,
}

/// Boxed, so that the result of reading one value stays small.
pub(crate) type Outcome<T> = Result<T, Box<Fault>>;

impl Fault {
    pub(crate) fn new(what: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { path: String::new(), what: what.into() })
    }

    /// The same fault seen from the struct whose field `name` holds it.
    pub(crate) fn within(mut self: Box<Self>, name: &str) -> Box<Fault> {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.path = format!("{name}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.what);
        }
        write!(f, "field {}: {}", self.path, self.what)
    }
}

/// The beginning of a text, for an error message.
pub(crate) fn excerpt(text: &[u8]) -> String {
    let head = &text[..text.len().min(SHOWN_CHARS_MAX * 4)];
    let head = String::from_utf8_lossy(head);
    match head.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}... ({} bytes)", &head[..end], text.len()),
        None if text.len() > SHOWN_CHARS_MAX * 4 => format!("{head}... ({} bytes)", text.len()),
        None => head.into_owned(),
    }
}

/// What a JSON value is, for an error message.
pub(crate) fn describe(node: &Node<'_>) -> String {
    match node {
        Node::String(text) => format!("the string \"{}\"", excerpt(text.as_bytes())),
        Node::Object { .. } => "an object".to_owned(),
        Node::Array { .. } => "a list".to_owned(),
        Node::Static(StaticNode::I64(number)) => format!("the number {number}"),
        Node::Static(StaticNode::U64(number)) => format!("the number {number}"),
        Node::Static(StaticNode::F64(number)) => format!("the number {number:?}"),
        Node::Static(StaticNode::Bool(flag)) => format!("the boolean {flag}"),
        Node::Static(StaticNode::Null) => "null".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_grows_outwards() {
        let fault = Fault::new("is bad").within("age").within("inputs");
        assert_eq!(fault.to_string(), "field inputs.age: is bad");
        assert_eq!(Fault::new("is bad").to_string(), "is bad");
    }

    #[test]
    fn a_long_or_binary_value_is_cut() {
        assert_eq!(excerpt(b"short"), "short");
        let long = excerpt("ä".repeat(5_000_000).as_bytes());
        assert!(long.starts_with("ää") && long.ends_with("... (10000000 bytes)") && long.chars().count() < 230);
        assert!(excerpt(&[0xff; 3000]).chars().count() < 230);
    }
}
