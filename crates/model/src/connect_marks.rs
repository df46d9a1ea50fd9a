//! What a Connect schema says of a field beside its name, its type and whether it may be null.

use arrow::datatypes::Field;
use indexmap::IndexMap;
use serde_json::Value;

/// Metadata of a field: the name of its schema.
const NAME: &str = "sluice.connect.name";

/// Metadata of a field: the parameters of its schema, as a JSON object of texts.
const PARAMETERS: &str = "sluice.connect.parameters";

/// Metadata of a field that has a default: the default as JSON text, as JsonConverter writes it.
pub const DEFAULT_MARK: &str = "sluice.default";

/// Parameters of a schema by name. Equal ones may differ in their order.
pub type Parameters = IndexMap<String, String>;

/// Name, parameters and default of a field's schema. They travel as metadata of the field from the converter to whoever
/// compares schemas or writes them; columns with and without them hold the same values.
///
/// The names of logical types are not among them, for the type of the column says it: Decimal, Date, Time, Timestamp.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectMarks {
    /// The name of a struct, an enum or whatever else has one.
    pub name: Option<String>,
    /// Parameters by name, in the order of the schema. Enums have their symbols here, as Connect's converters write them.
    pub parameters: Parameters,
    /// What stands for a field that is not there, as JsonConverter writes it: bytes and decimals are base64, dates and
    /// times numbers.
    pub default: Option<Value>,
}

impl ConnectMarks {
    /// What `field` carries.
    pub fn of(field: &Field) -> ConnectMarks {
        let metadata = field.metadata();
        if metadata.is_empty() {
            return ConnectMarks::default();
        }
        let json = |key| metadata.get(key).and_then(|text: &String| serde_json::from_str::<Value>(text).ok());
        let parameters = json(PARAMETERS);
        let parameters = parameters.iter().filter_map(Value::as_object).flatten();
        ConnectMarks {
            name: metadata.get(NAME).cloned(),
            parameters: parameters.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect(),
            default: json(DEFAULT_MARK).filter(|default| !default.is_null()),
        }
    }

    /// The same field with these marks instead of its own.
    pub fn mark(&self, field: Field) -> Field {
        let mut metadata = field.metadata().clone();
        [NAME, PARAMETERS, DEFAULT_MARK].iter().for_each(|key| drop(metadata.remove(*key)));
        metadata.extend(self.name.iter().map(|name| (NAME.to_owned(), name.clone())));
        if !self.parameters.is_empty() {
            let parameters = self.parameters.iter().map(|(name, text)| (name.clone(), Value::String(text.clone())));
            let text = Value::Object(parameters.collect()).to_string();
            metadata.insert(PARAMETERS.to_owned(), text);
        }
        metadata.extend(self.default.iter().map(|default| (DEFAULT_MARK.to_owned(), default.to_string())));
        field.with_metadata(metadata)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use serde_json::json;

    use super::*;

    #[test]
    fn marks_come_back_and_leave_other_metadata_alone() {
        let marks = ConnectMarks {
            name: Some("io.example.Color".to_owned()),
            parameters: [("io.confluent.connect.avro.Enum.RED".to_owned(), "RED".to_owned())].into(),
            default: Some(json!("RED")),
        };
        let other = crate::whole_value_field(DataType::Utf8);
        let field = marks.mark(other.clone());
        assert!(crate::is_whole_value_field(&field));
        assert_eq!(ConnectMarks::of(&field), marks);
        assert_eq!(ConnectMarks::default().mark(field), other);
        assert_eq!(ConnectMarks::of(&other), ConnectMarks::default());
    }
}
