//! Which texts are an enum in Avro files: those whose Connect schema says so in its parameters.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field};
use model::ConnectMarks;

use crate::avro_names::is_name;

/// Parameters that name an enum; with a dot and a symbol behind them they name a symbol.
const MARKS: [&str; 2] = ["org.apache.kafka.connect.data.Enum", "io.confluent.connect.avro.Enum"];

const DOC: &str = "io.confluent.connect.avro.enum.doc.";
const DEFAULT: &str = "io.confluent.connect.avro.enum.default.";

/// An enum as Avro has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AvroEnum {
    /// Its full name.
    pub(crate) name: String,
    /// In the order of their indexes; at least one.
    pub(crate) symbols: Vec<String>,
    pub(crate) doc: Option<String>,
    /// The symbol that readers take for one that they do not know.
    pub(crate) default: Option<String>,
}

impl AvroEnum {
    /// The enum that the texts of `field` are; `None` where they are plain texts, where Avro could not name the enum or one of
    /// its symbols, and where the text that stands for one that is not there is no symbol.
    pub(crate) fn of(field: &Field) -> Option<AvroEnum> {
        if *field.data_type() != DataType::Utf8 {
            return None;
        }
        let ConnectMarks { name: connect_name, parameters, default: absent } = ConnectMarks::of(field);
        let (mark, name) = MARKS.iter().find_map(|mark| Some((*mark, parameters.get(*mark)?)))?;
        let symbol = |parameter: &String| parameter.strip_prefix(mark)?.strip_prefix('.').map(str::to_owned);
        let symbols: Vec<String> = parameters.keys().filter_map(symbol).collect();
        if symbols.is_empty() || !name.split('.').all(is_name) || !symbols.iter().all(|symbol| is_name(symbol)) {
            return None;
        }
        if absent.is_some_and(|text| !symbols.iter().any(|symbol| text == symbol.as_str())) {
            return None;
        }
        let simple = |full: &str| full.rsplit('.').next().unwrap_or_default().to_owned();
        let named = connect_name.as_deref().map_or_else(|| simple(name), simple);
        let more = |prefix: &str| parameters.get(&format!("{prefix}{named}")).cloned();
        let default = more(DEFAULT).filter(|default| symbols.contains(default));
        Some(AvroEnum { name: name.clone(), doc: more(DOC), default, symbols })
    }
}

/// The symbols of an enum, by which its texts become numbers.
#[derive(Debug)]
pub(crate) struct Symbols {
    /// The enum's full name.
    name: String,
    indexes: HashMap<String, i64>,
}

impl Symbols {
    /// The symbols of the enum that the texts of `field` are; `None` where they are plain texts.
    pub(crate) fn of(field: &Field) -> Option<Symbols> {
        let AvroEnum { name, symbols, .. } = AvroEnum::of(field)?;
        Some(Symbols { name, indexes: symbols.into_iter().zip(0..).collect() })
    }

    /// The number of a symbol; `None` of another text.
    pub(crate) fn index(&self, text: &str) -> Option<i64> {
        self.indexes.get(text).copied()
    }

    /// What is wrong with another text.
    pub(crate) fn fault(&self) -> String {
        format!("the value is no symbol of the enum {}", self.name)
    }
}
