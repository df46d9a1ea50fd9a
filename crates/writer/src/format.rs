//! File formats: rows in, bytes out, and the mark that tells whose file it is.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use model::{
    Check, Importance, Invalid, Key, Kind, Nonce, Offset, Plugin, Settings, UnknownPlugin, ValueSchema, Values, Width,
    find,
};
use object_store::{Attribute, Attributes};

use crate::label::LabelRead;
use crate::statistics::FileStatistics;
use crate::{avro_format, bytes_format, compression, json_format, parquet_keys};

/// How the values of records are stored.
pub const FORMAT_CLASS: Key =
    Key::new("format.class", Kind::Class, "The file format of record values: parquet, avro, json or bytes.")
        .required()
        .check(Check::With(check_name))
        .importance(Importance::High)
        .group("Connector", 1)
        .shown(Width::None, "Format class");

/// Keys that choose the format.
pub(crate) const KEYS: &[Key] = &[FORMAT_CLASS];

/// Builds a format from a connector's settings.
pub type BuildFormat = fn(&Settings) -> Result<Arc<dyn Format>, Invalid>;

/// Every format that a configuration can name.
pub static FORMATS: &[Plugin<BuildFormat>] = &[
    Plugin {
        names: &["parquet", "io.confluent.connect.s3.format.parquet.ParquetFormat"],
        doc: "Apache Parquet files; plain JSON gets an inferred schema.",
        keys: &[parquet_keys::KEYS],
        check: parquet_keys::check,
        build: parquet_keys::build,
    },
    Plugin {
        names: &["avro", "io.confluent.connect.s3.format.avro.AvroFormat"],
        doc: "Avro object container files with the schema that Kafka Connect's AvroData makes.",
        keys: &[avro_format::KEYS],
        check: |_| Vec::new(),
        build: avro_format::build,
    },
    Plugin {
        names: &["json", "io.confluent.connect.s3.format.json.JsonFormat"],
        doc: "One JSON value a line, plain or gzipped; values without a schema stay as they are.",
        keys: &[json_format::KEYS, compression::KEYS],
        check: |_| Vec::new(),
        build: json_format::build,
    },
    Plugin {
        names: &["bytes", "io.confluent.connect.s3.format.bytearray.ByteArrayFormat"],
        doc: "The bytes of values, each followed by a separator, plain or gzipped.",
        keys: &[bytes_format::KEYS, compression::KEYS],
        check: |_| Vec::new(),
        build: bytes_format::build,
    },
];

fn not_found(unknown: &UnknownPlugin) -> String {
    format!("Class {} could not be found. Expected one of: {}", unknown.name, unknown.known.join(", "))
}

/// The format that `format.class` names.
pub fn format(settings: &Settings) -> Result<Arc<dyn Format>, Invalid> {
    (plugin(settings, &FORMAT_CLASS)?.build)(settings)
}

/// The format that `key` names.
pub(crate) fn plugin(settings: &Settings, key: &Key) -> Result<&'static Plugin<BuildFormat>, Invalid> {
    let name = settings.required_string(key)?;
    find(FORMATS, "format", &name).map_err(|unknown| Invalid::value(key, &name, not_found(&unknown)))
}

/// Whether a key's value names a format; the error ends "Invalid value ...: ".
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    find(FORMATS, "format", name).map(|_| ()).map_err(|unknown| not_found(&unknown))
}

/// What is wrong with the chosen format and its keys together.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let Some(name) = settings.text(&FORMAT_CLASS) else { return Vec::new() };
    // An unknown name is reported by the key's own check.
    find(FORMATS, "format", name).map(|plugin| (plugin.check)(settings)).unwrap_or_default()
}

/// A file format. Equal rows in equal row groups make equal bytes.
pub trait Format: fmt::Debug + Send + Sync {
    /// End of the object's name, dot included: `.snappy.parquet`.
    fn extension(&self) -> &str;

    /// Whether rows must be [`Values::Typed`].
    fn needs_columns(&self) -> bool;

    /// Where a finished file says whose it is.
    fn label_place(&self) -> LabelPlace;

    /// Starts a file of rows with `schema`, which is empty for schemaless values; `value_schema` is what Kafka Connect's
    /// schema says beside its fields, where the converter knows one. The error is a sentence that names the field to blame.
    fn open(
        &self,
        schema: &SchemaRef,
        value_schema: Option<&ValueSchema>,
        footer: &FileFooter,
    ) -> Result<Box<dyn Encoder>, String>;

    /// Why rows with the columns of `values` cannot be in a file of this format; `None` when they can. Says before any row
    /// is appended what [`Self::open`] and the first [`Encoder::write`] would say.
    fn refusal(&self, values: &Values, value_schema: Option<&ValueSchema>) -> Option<String> {
        let open = |schema: &SchemaRef| self.open(schema, value_schema, &FileFooter::default());
        refusal_of_encoder(values, open)
    }

    /// The rows of `values` that cannot be in a file of this format, by rising row and each with the reason, where
    /// [`Self::refusal`] has nothing against their columns. Rows without a value are not among them.
    fn refused_rows(&self, _values: &Values) -> Vec<(usize, String)> {
        Vec::new()
    }

    /// What a finished file of `file_bytes` bytes says of itself, read from `piece`: its bytes at [`Self::label_place`].
    fn read_label(&self, piece: &Bytes, file_bytes: u64) -> LabelRead;

    /// The mark inside a finished file; `None` when it is not a file of ours.
    fn mark_of(&self, file: &Bytes) -> Option<Mark> {
        match self.read_label(file, file.len() as u64) {
            LabelRead::Found(label) => label.mark(),
            LabelRead::Needs(_) | LabelRead::None => None,
        }
    }
}

/// What an encoder that `open` makes has against rows with the columns of `values`.
pub(crate) fn refusal_of_encoder(
    values: &Values,
    open: impl FnOnce(&SchemaRef) -> Result<Box<dyn Encoder>, String>,
) -> Option<String> {
    let schema = match values {
        Values::Typed(columns) => Arc::new(Schema::new(columns.fields().clone())),
        Values::Schemaless(_) => Arc::new(Schema::empty()),
    };
    let mut encoder = match open(&schema) {
        Ok(encoder) => encoder,
        Err(reason) => return Some(reason),
    };
    encoder.write(&[values.slice(0, 0)]).err()
}

/// Where a file of some format says whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelPlace {
    /// In its first bytes.
    Start,
    /// In its last bytes.
    End,
    /// It cannot: its object's user metadata do, and where a store has none, equal bytes decide whether it is ours.
    Nowhere,
}

/// One file that is being encoded.
pub trait Encoder: Send {
    /// Encodes `rows` into the row group (or what the format has of that kind) that is under way.
    fn write(&mut self, rows: &[Values]) -> Result<(), String>;

    /// Ends the row group that is under way; nothing happens when it has no row.
    fn end_group(&mut self) -> Result<(), String>;

    /// Bytes that the encoder holds in memory.
    fn held_bytes(&self) -> usize;

    /// The bytes made since the last call.
    fn take(&mut self) -> Result<Bytes, String>;

    /// Ends the file; `footer` repeats and completes what was given at the start. Returns the bytes since the last
    /// [`Self::take`]; nothing but [`Self::columns`] and [`Self::statistics`] may be called afterwards.
    fn finish(&mut self, footer: &FileFooter) -> Result<Bytes, String>;

    /// The columns of its rows, where they are others than those that it was opened with.
    fn columns(&self) -> Option<&SchemaRef> {
        None
    }

    /// What the finished file tells of its rows; `None` where nobody asks.
    fn statistics(&self) -> Option<FileStatistics> {
        None
    }
}

/// Names and values that go into a file beside its rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileFooter {
    /// In the order in which they are written. Names start with `sluice.`.
    pub entries: Vec<(&'static str, String)>,
}

/// Whose file it is: what makes two objects of one name equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Nonce of the cut.
    pub nonce: Nonce,
    /// First offset after the cut; `None` where it was not known when the mark was made.
    pub end: Option<Offset>,
    /// Rows in the file; `None` where it was not known.
    pub rows: Option<u64>,
}

/// Footer names, and with `-` for `.` the names of user metadata.
pub(crate) const NONCE: &str = "sluice.nonce";
pub(crate) const END: &str = "sluice.end";
pub(crate) const ROWS: &str = "sluice.rows";
pub(crate) const SCHEMA: &str = "sluice.schema";
pub(crate) const CONFIG: &str = "sluice.config";
pub(crate) const TOPIC: &str = "sluice.topic";
pub(crate) const PARTITION: &str = "sluice.partition";
pub(crate) const START: &str = "sluice.start";
pub(crate) const PLAN: &str = "sluice.plan";
pub(crate) const CUT: &str = "sluice.cut";

impl Mark {
    /// Whether both mark the same file: same nonce, and no contradiction in what both know.
    pub fn agrees_with(&self, other: &Mark) -> bool {
        let same = |a: Option<i128>, b: Option<i128>| a.is_none() || b.is_none() || a == b;
        let end = |mark: &Mark| mark.end.map(|end| i128::from(end.get()));
        let rows = |mark: &Mark| mark.rows.map(i128::from);
        self.nonce == other.nonce && same(end(self), end(other)) && same(rows(self), rows(other))
    }

    /// Reads the mark out of names and values; `None` without a nonce.
    pub(crate) fn read<'a>(get: impl Fn(&'static str) -> Option<&'a str>) -> Option<Mark> {
        Some(Mark {
            nonce: get(NONCE)?.parse().ok()?,
            end: get(END).and_then(|end| end.parse().ok()).and_then(Offset::new),
            rows: get(ROWS).and_then(|rows| rows.parse().ok()),
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nonce {}", self.nonce)?;
        if let Some(end) = self.end {
            write!(f, ", rows below offset {end}")?;
        }
        if let Some(rows) = self.rows {
            write!(f, ", {rows} rows")?;
        }
        Ok(())
    }
}

impl FileFooter {
    /// The same names and values as user metadata of an object: `sluice-nonce` and so on.
    pub(crate) fn to_metadata(&self) -> Attributes {
        let shown = [NONCE, END, ROWS, SCHEMA, CONFIG, PLAN, CUT, TOPIC, PARTITION];
        let entries = self.entries.iter().filter(|(name, value)| shown.contains(name) && !value.is_empty());
        entries.map(|(name, value)| (Attribute::Metadata(name.replace('.', "-").into()), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Label;

    fn settings(name: &str) -> Settings {
        Settings::new([("format.class".to_owned(), name.to_owned())].into())
    }

    #[test]
    fn a_format_is_chosen_by_short_or_class_name_and_an_unknown_one_is_refused() {
        for name in ["parquet", "io.confluent.connect.s3.format.parquet.ParquetFormat", "ParquetFormat"] {
            assert_eq!(format(&settings(name)).unwrap().extension(), ".snappy.parquet", "{name}");
            assert!(check(&settings(name)).is_empty());
        }
        for (name, extension) in [
            ("avro", ".avro"),
            ("io.confluent.connect.s3.format.json.JsonFormat", ".json"),
            ("ByteArrayFormat", ".bin"),
        ] {
            assert!(settings(name).problem(&FORMAT_CLASS).is_none());
            assert_eq!(format(&settings(name)).unwrap().extension(), extension);
        }
        assert_eq!(
            settings("csv").problem(&FORMAT_CLASS).unwrap().message,
            "Invalid value csv for configuration format.class: Class csv could not be found. Expected one of: parquet, avro, json, bytes"
        );
    }

    #[test]
    fn marks_agree_when_nothing_that_both_know_differs() {
        let mark = |nonce, end, rows| Mark { nonce: Nonce(nonce), end: Offset::new(end), rows };
        let full = mark(1, 5, Some(3));
        assert!(full.agrees_with(&full) && full.agrees_with(&mark(1, -1, None)));
        for other in [mark(2, 5, Some(3)), mark(1, 6, Some(3)), mark(1, 5, Some(4))] {
            assert!(!full.agrees_with(&other), "{other}");
        }
    }

    #[test]
    fn a_mark_survives_user_metadata() {
        let footer =
            FileFooter { entries: vec![(NONCE, Nonce(7).to_string()), (END, "9".into()), (START, "5".into())] };
        let metadata = footer.to_metadata();
        assert_eq!(metadata.len(), 2);
        let label = Label::of_metadata(&metadata).unwrap();
        assert_eq!(label.mark(), Some(Mark { nonce: Nonce(7), end: Offset::new(9), rows: None }));
    }
}
