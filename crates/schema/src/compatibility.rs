//! Whether records of one schema may stand in a file of another (`schema.compatibility`, upstream's
//! `StorageSchemaCompatibility`).

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use model::{
    Check, ConnectMarks, Importance, Invalid, Key, Kind, Parameters, Settings, ValueSchema, Width, is_whole_value,
};

use crate::table_schema::map_fields;

/// Which schema changes end a cut.
pub const SCHEMA_COMPATIBILITY: Key = Key::new(
    "schema.compatibility",
    Kind::String,
    "What becomes of records whose schema is not that of the open file. NONE: see schema.change.files. BACKWARD and FULL: they \
     are brought to the file's schema if that has their version or a newer one, FORWARD: or an older one; else the files are \
     closed. Any other text is NONE. It is about records that bring their schema; a schema that is inferred only grows.",
)
.default("NONE")
.importance(Importance::High)
.group("Schema", 1)
.shown(Width::Short, "Schema Compatibility");

/// Whether schemas share the files of a cut.
pub const SCHEMA_CHANGE_FILES: Key = Key::new(
    "schema.change.files",
    Kind::String,
    "What a record does under schema.compatibility=NONE whose schema is not that of the open file: separate gives each schema a \
     file of its own beside the others, cut closes the files, as Kafka Connect does, so that records of alternating schemas \
     make a file each.",
)
.default("separate")
.check(Check::OneOf(&["separate", "cut"]))
.ours()
.importance(Importance::Medium)
.group("Schema", 2)
.shown(Width::Short, "Files at schema changes");

/// What becomes of rows that bring their schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaRules {
    /// Which of them are brought to the schema of the open file.
    pub compatibility: Compatibility,
    /// Under NONE, whether each schema has a file of its own in a cut.
    pub separate_files: bool,
}

impl Default for SchemaRules {
    fn default() -> SchemaRules {
        SchemaRules { compatibility: Compatibility::None, separate_files: true }
    }
}

impl SchemaRules {
    /// As the configuration says.
    pub fn new(settings: &Settings) -> Result<SchemaRules, Invalid> {
        Ok(SchemaRules {
            compatibility: Compatibility::parse(&settings.required_string(&SCHEMA_COMPATIBILITY)?),
            separate_files: settings.required_string(&SCHEMA_CHANGE_FILES)? == "separate",
        })
    }

    /// What a person should know of a configuration that is taken.
    pub fn warning(settings: &Settings) -> Option<String> {
        let text = settings.text(&SCHEMA_COMPATIBILITY)?;
        let is_known = Compatibility::parse(text).name() == text;
        (!is_known).then(|| {
            format!("schema.compatibility={text} means NONE, as on Kafka Connect: use BACKWARD, FORWARD, FULL or NONE")
        })
    }
}

/// What becomes of records whose schema is not that of the open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compatibility {
    /// They are written as they are, under their own schema.
    None,
    /// They are brought to the file's schema if it is as new or newer.
    Backward,
    /// They are brought to the file's schema if it is as old or older.
    Forward,
    /// As BACKWARD: upstream makes no difference.
    Full,
}

impl Compatibility {
    /// What `schema.compatibility` says; any text that is none of the four is NONE, as upstream has it.
    pub fn parse(text: &str) -> Compatibility {
        match text {
            "BACKWARD" => Compatibility::Backward,
            "FORWARD" => Compatibility::Forward,
            "FULL" => Compatibility::Full,
            _ => Compatibility::None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Compatibility::None => "NONE",
            Compatibility::Backward => "BACKWARD",
            Compatibility::Forward => "FORWARD",
            Compatibility::Full => "FULL",
        }
    }

    /// How records of `record` fit a file of `file`. The error is the sentence to reject them with: the mode asks for
    /// versions, and one of the schemas has none.
    pub fn fit(self, record: &RecordSchema, file: &RecordSchema) -> Result<Fit, String> {
        if record == file {
            return Ok(Fit::Same);
        }
        if self == Compatibility::None {
            return Ok(Fit::Changed(Misfit::Schema));
        }
        let (Some(own), Some(open)) = (record.value.version, file.value.version) else {
            return Err(format!("Schema version required for {} compatibility", self.name()));
        };
        if let Some(misfit) = misfit_of(record, file) {
            return Ok(Fit::Changed(misfit));
        }
        let is_outdated = match self {
            Compatibility::None => false,
            Compatibility::Backward | Compatibility::Full => own > open,
            Compatibility::Forward => own < open,
        };
        Ok(if is_outdated { Fit::Changed(Misfit::Version) } else { Fit::Projected })
    }
}

/// The schema of typed values: columns with their marks, and what stands beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSchema {
    /// The columns.
    pub fields: Fields,
    /// Name and version.
    pub value: Arc<ValueSchema>,
}

/// How records fit an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// They have its schema.
    Same,
    /// They can be brought to its schema: see [`crate::Projection`].
    Projected,
    /// The file must be closed first.
    Changed(Misfit),
}

/// Why records do not fit (`SchemaIncompatibilityType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// Under NONE, anything.
    Schema,
    /// A type that is not the file's, nor promoted to it.
    Type,
    /// The name of a schema.
    Name,
    /// Its parameters; of an enum, a symbol that the file lacks.
    Parameters,
    /// A newer version, or under FORWARD an older one.
    Version,
    /// A field that may be null, and must not in the file.
    Optionality,
    /// A field that the file requires without a default.
    RequiredField,
}

fn misfit_of(record: &RecordSchema, file: &RecordSchema) -> Option<Misfit> {
    if is_whole_value(&record.fields) != is_whole_value(&file.fields) {
        return Some(Misfit::Type);
    }
    if is_whole_value(&record.fields) {
        let types = misfit_of_types(record.fields[0].data_type(), file.fields[0].data_type());
        return types.or_else(|| (record.value.name != file.value.name).then_some(Misfit::Name));
    }
    if record.value.name != file.value.name {
        return Some(Misfit::Name);
    }
    misfit_of_fields(&record.fields, &file.fields)
}

fn misfit_of_fields(record: &Fields, file: &Fields) -> Option<Misfit> {
    let of = |fields: &Fields, name: &str| fields.iter().find(|field| field.name() == name).cloned();
    for field in record {
        if let Some(misfit) = of(file, field.name()).and_then(|open| misfit_of_field(field, &open)) {
            return Some(misfit);
        }
    }
    let is_needed = |field: &Field| !field.is_nullable() && ConnectMarks::of(field).default.is_none();
    let lacks = |field: &&Arc<Field>| of(record, field.name()).is_none() && is_needed(field);
    file.iter().find(lacks).map(|_| Misfit::RequiredField)
}

fn misfit_of_field(record: &Field, file: &Field) -> Option<Misfit> {
    if !is_type_of(record.data_type(), file.data_type()) {
        return Some(Misfit::Type);
    }
    let (own, open) = (ConnectMarks::of(record), ConnectMarks::of(file));
    if own.name != open.name {
        return Some(Misfit::Name);
    }
    if !are_parameters_of(&own.parameters, &open.parameters) {
        return Some(Misfit::Parameters);
    }
    if record.is_nullable() && !file.is_nullable() && open.default.is_none() {
        return Some(Misfit::Optionality);
    }
    misfit_of_types(record.data_type(), file.data_type())
}

/// What differs inside two types.
fn misfit_of_types(record: &DataType, file: &DataType) -> Option<Misfit> {
    match (record, file) {
        (DataType::Struct(own), DataType::Struct(open)) => misfit_of_fields(own, open),
        (DataType::List(own), DataType::List(open)) => misfit_of_field(own, open),
        (DataType::Map(own, _), DataType::Map(open, _)) => {
            let ((key, value), (open_key, open_value)) = (map_fields(own), map_fields(open));
            misfit_of_field(key, open_key).or_else(|| misfit_of_field(value, open_value))
        }
        (own, open) if is_decimal(own) && is_decimal(open) => (own != open).then_some(Misfit::Parameters),
        (own, open) => (!is_type_of(own, open)).then_some(Misfit::Type),
    }
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Decimal128(_, _) | DataType::Decimal256(_, _))
}

/// The place of a number's type among those that it may be promoted to.
pub(crate) fn number_rank(data_type: &DataType) -> Option<u8> {
    match data_type {
        DataType::Int8 => Some(0),
        DataType::Int16 => Some(1),
        DataType::Int32 => Some(2),
        DataType::Int64 => Some(3),
        DataType::Float32 => Some(4),
        DataType::Float64 => Some(5),
        _ => None,
    }
}

/// Whether values of `record` are values of `file`, or become them; not what is inside them.
fn is_type_of(record: &DataType, file: &DataType) -> bool {
    match (record, file) {
        (DataType::Struct(_), DataType::Struct(_))
        | (DataType::List(_), DataType::List(_))
        | (DataType::Map(_, _), DataType::Map(_, _)) => true,
        (own, open) if is_decimal(own) && is_decimal(open) => true,
        (own, open) => match (number_rank(own), number_rank(open)) {
            (Some(own), Some(open)) => own <= open,
            (_, _) => own == open,
        },
    }
}

/// Whether parameters are those of the file's schema; an enum may lack symbols. Documentation does not count.
fn are_parameters_of(record: &Parameters, file: &Parameters) -> bool {
    let counts = |name: &str| {
        let is_doc = name.starts_with("io.confluent.connect.avro.field.doc.");
        !is_doc && !matches!(name, "connect.record.doc" | "connect.record.aliases" | "connect.record.namespace")
    };
    let counted = |parameters: &Parameters| -> Parameters {
        parameters.iter().filter(|(name, _)| counts(name)).map(|(name, text)| (name.clone(), text.clone())).collect()
    };
    let (own, open) = (counted(record), counted(file));
    let is_enum = |parameters: &Parameters| parameters.keys().any(|name| name.ends_with(".Enum"));
    match is_enum(&own) && is_enum(&open) {
        true => own.iter().all(|(name, text)| open.get(name) == Some(text)),
        false => own == open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect_schema::tests::record_schema;

    const INT: &str = r#"{"type":"struct","name":"b","version":2,"fields":[{"field":"i","type":"int32"}]}"#;

    /// `INT` with other texts in it.
    fn int(changes: &[(&str, &str)]) -> RecordSchema {
        let changed = changes.iter().fold(INT.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        record_schema(&changed)
    }

    fn color(kind: &str, symbols: &str, around: &str) -> RecordSchema {
        let parameters: Vec<String> = symbols
            .split_whitespace()
            .map(|symbol| format!(r#""io.confluent.connect.{kind}.Enum.{symbol}":"{symbol}""#))
            .chain([format!(r#""io.confluent.connect.{kind}.Enum":"color""#)])
            .collect();
        let schema = format!(r#""type":"string","name":"color","parameters":{{{}}}"#, parameters.join(","));
        record_schema(&format!(
            r#"{{"type":"struct","name":"b","version":1,"fields":[{}]}}"#,
            around.replace("COLOR", &schema)
        ))
    }

    use Compatibility::{Backward, Forward, Full, None as Never};

    /// Upstream's StorageSchemaCompatibilityTest: what BACKWARD, FORWARD and FULL say.
    #[test]
    fn records_fit_a_file_as_upstream_has_it() {
        let field = |with: &str| int(&[(r#""int32""#, &format!(r#""int32",{with}"#))]);
        let more = |with: &str| int(&[(r#""int32"}"#, &format!(r#""int32"}},{with}"#))]);
        let other = |kind: &str| int(&[("int32", kind)]);
        let same = Ok([Fit::Projected; 3]);
        let changed = |misfit| Ok([Fit::Changed(misfit); 3]);
        let version_required = Err(
            ["BACKWARD", "FORWARD", "FULL"].map(|mode| format!("Schema version required for {mode} compatibility"))
        );
        for (what, record, file, expected) in [
            ("name", int(&[]), int(&[(r#""b""#, r#""c""#)]), changed(Misfit::Name)),
            ("no name", int(&[]), int(&[(r#""name":"b","#, "")]), changed(Misfit::Name)),
            ("type", int(&[]), other("string"), changed(Misfit::Type)),
            ("back", other("string"), int(&[]), changed(Misfit::Type)),
            ("promoted", other("int8"), int(&[]), same.clone()),
            ("promoted to float", other("int64"), other("float"), same.clone()),
            ("narrowed", other("int64"), int(&[]), changed(Misfit::Type)),
            ("parameters", int(&[]), field(r#""parameters":{"x":"y"}"#), changed(Misfit::Parameters)),
            (
                "documentation",
                field(r#""parameters":{"io.confluent.connect.avro.field.doc.i":"The i"}"#),
                int(&[]),
                same.clone(),
            ),
            ("required in an optional field", int(&[]), field(r#""optional":true"#), same.clone()),
            ("optional", field(r#""optional":true"#), int(&[]), changed(Misfit::Optionality)),
            ("optional with default", field(r#""optional":true"#), field(r#""default":0"#), same.clone()),
            ("more in the file", int(&[]), more(r#"{"field":"s","type":"string","optional":true}"#), same.clone()),
            ("more in the record", more(r#"{"field":"s","type":"string"}"#), int(&[]), same.clone()),
            (
                "more with default",
                int(&[]),
                more(r#"{"field":"s","type":"string","default":"fallback"}"#),
                same.clone(),
            ),
            ("more required", int(&[]), more(r#"{"field":"s","type":"string"}"#), changed(Misfit::RequiredField)),
            ("no version", int(&[(r#""version":2,"#, "")]), other("int64"), version_required.clone()),
            ("no version in the file", int(&[]), int(&[(r#""version":2,"#, "")]), version_required),
        ] {
            let fits: Vec<_> = [Backward, Forward, Full].iter().map(|mode| mode.fit(&record, &file)).collect();
            let expected: Vec<_> = match expected {
                Ok(fits) => fits.into_iter().map(Ok).collect(),
                Err(why) => why.into_iter().map(Err).collect(),
            };
            assert_eq!(fits, expected, "{what}");
            assert_eq!(Never.fit(&record, &file), Ok(Fit::Changed(Misfit::Schema)), "{what}");
            for mode in [Never, Backward, Forward, Full] {
                assert_eq!(mode.fit(&record, &record), Ok(Fit::Same), "{what}");
            }
        }
    }

    #[test]
    fn versions_close_a_file_in_one_direction() {
        let version = |number: i32| int(&[(r#""version":2"#, &format!(r#""version":{number}"#))]);
        let changed = Ok(Fit::Changed(Misfit::Version));
        for (record, backward, forward) in [(1, Ok(Fit::Projected), changed.clone()), (3, changed, Ok(Fit::Projected))]
        {
            assert_eq!(Backward.fit(&version(record), &version(2)), backward);
            assert_eq!(Full.fit(&version(record), &version(2)), backward);
            assert_eq!(Forward.fit(&version(record), &version(2)), forward);
        }
    }

    #[test]
    fn an_enum_may_lack_symbols_of_the_file_at_any_depth() {
        let inner = r#"{"field":"x","type":"struct","name":"inner","fields":[{"field":"c",COLOR}]}"#;
        let list =
            r#"{"field":"x","type":"array","items":{"type":"struct","name":"e","fields":[{"field":"c",COLOR}]}}"#;
        let map = r#"{"field":"x","type":"map","keys":{"type":"string"},"values":{COLOR}}"#;
        for around in [r#"{"field":"c",COLOR}"#, inner, list, map] {
            for kind in ["avro", "protobuf", "json"] {
                let (all, few) = (color(kind, "RED GREEN BLUE", around), color(kind, "RED GREEN", around));
                for mode in [Backward, Forward, Full] {
                    assert_eq!(mode.fit(&all, &few), Ok(Fit::Changed(Misfit::Parameters)), "{around}");
                    assert_eq!(mode.fit(&few, &all), Ok(Fit::Projected), "{around}");
                }
            }
        }
    }

    #[test]
    fn any_other_text_is_none() {
        for (text, mode) in [("NONE", Never), ("FULL", Full), ("full", Never), ("FULL_TRANSITIVE", Never)] {
            assert_eq!(Compatibility::parse(text), mode);
        }
    }
}
