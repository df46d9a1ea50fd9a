//! The names of the records and enums of one Avro schema: none is defined twice.

use arrow::datatypes::Fields;
use model::ConnectMarks;

/// Where names are that nobody gave.
pub(crate) const NAMESPACE: &str = "io.confluent.connect.avro";

/// Words that mean a type without a definition.
const TAKEN: [&str; 15] = [
    "null", "boolean", "int", "long", "float", "double", "bytes", "string", "record", "error", "enum", "array", "map",
    "fixed", "union",
];

/// What a name stands for. Equal ones are one type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Definition {
    /// A record with what its schema says beside its fields.
    Record(ConnectMarks, Fields),
    /// An enum with what its schema says and its symbols in their order.
    Enum(ConnectMarks, Vec<String>),
    /// Something that no other place shares.
    Single,
}

/// How a type stands at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    /// It is defined there.
    Here { name: String, namespace: String },
    /// It was defined before: this text refers to it.
    Before(String),
}

/// The names that are taken.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: Vec<(String, Definition)>,
}

impl Names {
    /// Names a type within `space`: by the name that is wanted if Avro takes it and nothing else has it, else by a numbered
    /// one.
    pub(crate) fn name(&mut self, wanted: Option<&str>, definition: Definition, space: &str) -> Named {
        if let Some(before) = self.before(&definition, space) {
            return before;
        }
        match wanted.filter(|full| can_define(full) && !self.is_taken(full, space)) {
            Some(full) => self.take(full, definition, space),
            None => self.numbered("ConnectDefault", definition),
        }
    }

    /// Names a type `name`, with a number where that is taken.
    pub(crate) fn numbered(&mut self, name: &str, definition: Definition) -> Named {
        let mut full = format!("{NAMESPACE}.{name}");
        let mut count = 1;
        while self.is_taken(&full, NAMESPACE) {
            count += 1;
            full = format!("{NAMESPACE}.{name}{count}");
        }
        self.take(&full, definition, NAMESPACE)
    }

    /// Takes a name that is not taken.
    pub(crate) fn take(&mut self, full: &str, definition: Definition, space: &str) -> Named {
        let (namespace, name) = full.rsplit_once('.').unwrap_or(("", full));
        self.taken.push((full.to_owned(), definition));
        // Some readers look for a name without a namespace in the one around it.
        if namespace.is_empty() && !space.is_empty() {
            self.taken.push((format!("{space}.{full}"), Definition::Single));
        }
        Named::Here { name: name.to_owned(), namespace: namespace.to_owned() }
    }

    fn before(&self, definition: &Definition, space: &str) -> Option<Named> {
        if *definition == Definition::Single {
            return None;
        }
        let is_found = |full: &str| full.contains('.') || space.is_empty();
        let (full, _) = self.taken.iter().find(|(full, known)| known == definition && is_found(full))?;
        let (namespace, name) = full.rsplit_once('.').unwrap_or(("", full));
        Some(Named::Before(if namespace == space { name } else { full }.to_owned()))
    }

    fn is_taken(&self, full: &str, space: &str) -> bool {
        let around = (!full.contains('.') && !space.is_empty()).then(|| format!("{space}.{full}"));
        self.taken.iter().any(|(taken, _)| taken == full || Some(taken) == around.as_ref())
    }
}

/// Whether a type within another may have this name.
fn can_define(full: &str) -> bool {
    let simple = full.rsplit('.').next().unwrap_or(full);
    full.split('.').all(is_name) && !TAKEN.contains(&simple)
}

/// Whether Avro takes `text` as a name, or as a part of one between dots.
pub(crate) fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    let starts = characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    starts && characters.all(|next| next.is_ascii_alphanumeric() || next == '_')
}

/// Says what is wrong with `part` of a name, if anything is.
pub(crate) fn check_name(what: &str, whole: &str, part: &str) -> Result<(), String> {
    if is_name(part) {
        return Ok(());
    }
    Err(format!(
        "{what} {whole} is no name in Avro, which takes letters, digits and underscores and no digit first: rename it, or \
         choose another format.class"
    ))
}
