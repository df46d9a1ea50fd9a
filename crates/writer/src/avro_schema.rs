//! The Avro schema of Arrow fields, as `io.confluent.connect.avro.AvroData` makes it of a Connect schema.

use std::mem;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use model::{ConnectMarks, ValueSchema, is_whole_value};
use serde_json::{Map, Value, json};

use crate::avro_enum::AvroEnum;
use crate::avro_names::{Definition, NAMESPACE, Named, Names, check_name};

/// What of Connect's schema goes into Avro's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AvroOptions {
    /// Properties `connect.name`, `connect.parameters` and so on are written (`connect.meta.data`).
    pub(crate) connect_meta_data: bool,
    /// Enums are enums, not texts (`enhanced.avro.schema.support`).
    pub(crate) enhanced_schema: bool,
}

/// The schema as JSON text; an error names the field that Avro cannot have.
pub(crate) fn avro_schema(
    fields: &Fields,
    value_schema: Option<&ValueSchema>,
    options: AvroOptions,
) -> Result<String, String> {
    let mut schema = SchemaText { options, names: Names::default(), space: String::new() };
    if is_whole_value(fields) {
        return Ok(schema.optional(&fields[0])?.to_string());
    }
    let marks = ConnectMarks { name: value_schema.and_then(|schema| schema.name.clone()), ..ConnectMarks::default() };
    let definition = Definition::Record(marks.clone(), fields.clone());
    let named = match &marks.name {
        Some(full) => {
            full.split('.').try_for_each(|part| check_name("the schema's name", full, part))?;
            schema.names.take(full, definition, "")
        }
        None => schema.names.name(None, definition, ""),
    };
    let version = value_schema.and_then(|schema| schema.version);
    Ok(schema.record(named, fields, version, &marks)?.to_string())
}

/// A schema that is being told.
struct SchemaText {
    options: AvroOptions,
    names: Names,
    /// The namespace around what is told.
    space: String,
}

impl SchemaText {
    fn record(
        &mut self,
        named: Named,
        fields: &Fields,
        version: Option<i32>,
        marks: &ConnectMarks,
    ) -> Result<Value, String> {
        let (mut record, namespace) = match self.begin("record", named) {
            Ok(begun) => begun,
            Err(before) => return Ok(before),
        };
        let around = mem::replace(&mut self.space, namespace);
        let fields = fields.iter().map(|field| self.field(field)).collect::<Result<Vec<_>, _>>()?;
        self.space = around;
        record.insert("fields".to_owned(), Value::Array(fields));
        if self.options.connect_meta_data {
            record.extend(version.map(|version| ("connect.version".to_owned(), json!(version))));
        }
        Ok(self.marked(Value::Object(record), marks))
    }

    fn enumeration(&mut self, one: AvroEnum, mut marks: ConnectMarks) -> Value {
        // A default is the field's.
        marks.default = None;
        let definition = Definition::Enum(marks.clone(), one.symbols.clone());
        let named = self.names.name(Some(&one.name), definition, &self.space);
        let (mut entry, _) = match self.begin("enum", named) {
            Ok(begun) => begun,
            Err(before) => return before,
        };
        entry.extend(one.doc.map(|doc| ("doc".to_owned(), json!(doc))));
        entry.insert("symbols".to_owned(), json!(one.symbols));
        entry.extend(one.default.map(|symbol| ("default".to_owned(), json!(symbol))));
        self.marked(Value::Object(entry), &marks)
    }

    /// The begin of a definition, and its namespace; the name alone if it was defined before.
    fn begin(&self, kind: &str, named: Named) -> Result<(Map<String, Value>, String), Value> {
        let (name, namespace) = match named {
            Named::Here { name, namespace } => (name, namespace),
            Named::Before(name) => return Err(Value::String(name)),
        };
        let mut begun = Map::new();
        begun.insert("type".to_owned(), json!(kind));
        begun.insert("name".to_owned(), json!(name));
        if namespace != self.space {
            begun.insert("namespace".to_owned(), json!(namespace));
        }
        Ok((begun, namespace))
    }

    /// `avro` with the parameters and the name of its schema as properties.
    fn marked(&self, avro: Value, marks: &ConnectMarks) -> Value {
        if !self.options.connect_meta_data || marks.parameters.is_empty() && marks.name.is_none() {
            return avro;
        }
        let mut entry = match avro {
            Value::Object(entry) => entry,
            plain => Map::from_iter([("type".to_owned(), plain)]),
        };
        if !marks.parameters.is_empty() {
            let parameters = entry.entry("connect.parameters").or_insert_with(|| json!({}));
            for (name, text) in &marks.parameters {
                parameters[name] = json!(text);
            }
        }
        entry.extend(marks.name.iter().map(|name| ("connect.name".to_owned(), json!(name))));
        Value::Object(entry)
    }

    fn field(&mut self, field: &Field) -> Result<Value, String> {
        check_name("field", field.name(), field.name())?;
        let avro = self.optional(field).map_err(|why| format!("field {}: {why}", field.name()))?;
        let mut entry = json!({ "name": field.name(), "type": avro });
        if let (true, Some(entry)) = (field.is_nullable(), entry.as_object_mut()) {
            entry.insert("default".to_owned(), Value::Null);
        }
        Ok(entry)
    }

    /// The type of a field: a union with null where it may be null.
    fn optional(&mut self, field: &Field) -> Result<Value, String> {
        let inner = self.value(field)?;
        Ok(if field.is_nullable() { json!(["null", inner]) } else { inner })
    }

    /// The type of a field that is not null.
    fn value(&mut self, field: &Field) -> Result<Value, String> {
        let mut marks = ConnectMarks::of(field);
        if let DataType::Struct(fields) = field.data_type() {
            // A default is the field's, and the branches of a union are told as fields.
            marks.default = None;
            marks.name = marks.name.filter(|name| !is_union(name));
            let definition = Definition::Record(marks.clone(), fields.clone());
            let named = self.names.name(marks.name.as_deref(), definition, &self.space);
            return self.record(named, fields, None, &marks);
        }
        if let Some(one) = AvroEnum::of(field).filter(|_| self.options.enhanced_schema) {
            return Ok(self.enumeration(one, marks));
        }
        let avro = self.data_type(field.data_type())?;
        Ok(self.marked(avro, &marks))
    }

    fn data_type(&mut self, data_type: &DataType) -> Result<Value, String> {
        let connect = |avro: &str, name: &str, property: &str| {
            let mut value = json!({ "type": avro });
            if let (true, Some(value)) = (self.options.connect_meta_data, value.as_object_mut()) {
                value.insert(property.to_owned(), json!(name));
            }
            value
        };
        let logical = |avro: &str, logical: &str, class: &str| {
            let mut value = connect(avro, &format!("org.apache.kafka.connect.data.{class}"), "connect.name");
            if let (true, Some(value)) = (class.is_empty(), value.as_object_mut()) {
                value.remove("connect.name");
            }
            value["logicalType"] = json!(logical);
            value
        };
        Ok(match data_type {
            DataType::Boolean => json!("boolean"),
            DataType::Int8 => connect("int", "int8", "connect.type"),
            DataType::Int16 => connect("int", "int16", "connect.type"),
            DataType::Int32 => json!("int"),
            DataType::Int64 => json!("long"),
            DataType::Float32 => json!("float"),
            DataType::Float64 => json!("double"),
            DataType::Utf8 => json!("string"),
            DataType::Binary => json!("bytes"),
            DataType::Date32 => logical("int", "date", "Date"),
            DataType::Time32(TimeUnit::Millisecond) => logical("int", "time-millis", "Time"),
            DataType::Timestamp(TimeUnit::Millisecond, _) => logical("long", "timestamp-millis", "Timestamp"),
            // Connect has none of microseconds.
            DataType::Timestamp(TimeUnit::Microsecond, _) => logical("long", "timestamp-micros", ""),
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) if *scale >= 0 => {
                let mut value = logical("bytes", "decimal", "Decimal");
                value["precision"] = json!(precision);
                value["scale"] = json!(scale);
                if self.options.connect_meta_data {
                    value["connect.parameters"] =
                        json!({ "scale": scale.to_string(), "connect.decimal.precision": precision.to_string() });
                }
                value
            }
            DataType::List(element) => json!({ "type": "array", "items": self.optional(element)? }),
            DataType::Map(entries, _) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => self.map(&fields[0], &fields[1])?,
                other => return Err(format!("a map of {other} has no Avro form")),
            },
            other => return Err(format!("the type {other} has no Avro form")),
        })
    }

    /// Avro's maps have texts as keys; other maps are arrays of entries.
    fn map(&mut self, key: &Field, value: &Field) -> Result<Value, String> {
        if *key.data_type() == DataType::Utf8 {
            return Ok(json!({ "type": "map", "values": self.optional(value)? }));
        }
        let named = self.names.numbered("MapEntry", Definition::Single);
        let fields = Fields::from(vec![key.clone(), value.clone()]);
        let entry = self.record(named, &fields, None, &ConnectMarks::default())?;
        Ok(json!({ "type": "array", "items": entry }))
    }
}

/// Whether structs of this name are Connect's form of a union.
fn is_union(name: &str) -> bool {
    name.strip_prefix(NAMESPACE).is_some_and(|rest| rest == ".Union") || name.starts_with("connect_union")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro_format::build;
    use crate::conformance::encoded;
    use crate::testing::settings;
    use arrow::array::{
        ArrayRef, BinaryArray, Date32Array, Decimal128Array, Int16Array, ListArray, MapArray, StringArray, StructArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::FieldRef;
    use model::{Values, whole_value_field};
    use proptest::prelude::*;
    use std::sync::Arc;

    const ENUM: &str = "io.confluent.connect.avro.Enum";
    const OPTIONS: AvroOptions = AvroOptions { connect_meta_data: true, enhanced_schema: true };
    const PLAIN: AvroOptions = AvroOptions { connect_meta_data: false, enhanced_schema: true };

    /// An enum's field as the converters make it.
    fn color(field: &str, name: &str, symbols: &[&str]) -> Field {
        let symbol = |symbol: &&str| (format!("{ENUM}.{symbol}"), (*symbol).to_owned());
        let parameters = [(ENUM.to_owned(), name.to_owned())].into_iter().chain(symbols.iter().map(symbol)).collect();
        let marks = ConnectMarks { name: Some(name.to_owned()), parameters, default: None };
        marks.mark(Field::new(field, DataType::Utf8, false))
    }

    fn named(field: &str, name: &str, fields: Vec<Field>) -> Field {
        let marks = ConnectMarks { name: Some(name.to_owned()), ..ConnectMarks::default() };
        marks.mark(Field::new(field, DataType::Struct(fields.into()), true))
    }

    fn schema_of(fields: Vec<Field>, options: AvroOptions) -> Value {
        let value = ValueSchema { name: Some("org.example.Row".to_owned()), version: None };
        let text = avro_schema(&fields.into(), Some(&value), options).unwrap();
        apache_avro::Schema::parse_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        serde_json::from_str(&text).unwrap()
    }

    fn type_of(schema: &Value, field: usize) -> &Value {
        &schema["fields"][field]["type"]
    }

    /// The texts that AvroData.fromConnectSchema makes of these schemas.
    #[test]
    fn names_and_symbols_are_written_as_upstream_writes_them() {
        let inner = || vec![Field::new("x", DataType::Float64, false)];
        let list = |field: &str, element: Field| Field::new(field, DataType::List(Arc::new(element)), false);
        let entries = DataType::Struct(
            vec![Field::new("key", DataType::Utf8, false), named("value", "org.other.Inner", inner())].into(),
        );
        let map = DataType::Map(Arc::new(Field::new("entries", entries, false)), false);
        let fields = vec![
            color("color", "org.example.Color", &["RED", "BLUE", "GREEN"]),
            named("first", "org.other.Inner", inner()),
            named("second", "org.other.Inner", inner()),
            list("list", named("element", "org.example.Near", inner())),
            named("near", "org.example.Near", inner()),
            Field::new("map", map, false),
            color("again", "org.example.Color", &["RED", "BLUE", "GREEN"]),
        ];
        let x = r#"{"name":"x","type":"double"}"#;
        let expected = [
            r#"{"type":"record","name":"Row","namespace":"org.example","fields":["#,
            r#"{"name":"color","type":{"type":"enum","name":"Color","symbols":["RED","BLUE","GREEN"]}},"#,
            r#"{"name":"first","type":["null",{"type":"record","name":"Inner","namespace":"org.other","fields":["#,
            x,
            r#"]}],"default":null},"#,
            r#"{"name":"second","type":["null","org.other.Inner"],"default":null},"#,
            r#"{"name":"list","type":{"type":"array","items":["null",{"type":"record","name":"Near","fields":["#,
            x,
            r#"]}]}},"#,
            r#"{"name":"near","type":["null","Near"],"default":null},"#,
            r#"{"name":"map","type":{"type":"map","values":["null","org.other.Inner"]}},"#,
            r#"{"name":"again","type":"Color"}]}"#,
        ];
        assert_eq!(schema_of(fields.clone(), PLAIN).to_string(), expected.concat());
        let schema = schema_of(fields, OPTIONS);
        assert_eq!(
            type_of(&schema, 0).to_string(),
            [
                r#"{"type":"enum","name":"Color","symbols":["RED","BLUE","GREEN"],"connect.parameters":{"#,
                r#""io.confluent.connect.avro.Enum":"org.example.Color","#,
                r#""io.confluent.connect.avro.Enum.RED":"RED","io.confluent.connect.avro.Enum.BLUE":"BLUE","#,
                r#""io.confluent.connect.avro.Enum.GREEN":"GREEN"},"connect.name":"org.example.Color"}"#,
            ]
            .concat()
        );
        assert_eq!(type_of(&schema, 1)[1]["connect.name"], "org.other.Inner");
    }

    #[test]
    fn documentation_and_default_of_an_enum_are_kept() {
        let mut marks = ConnectMarks::of(&color("color", "org.example.Color", &["RED", "BLUE"]));
        for (what, text) in [("doc", "All of them"), ("default", "BLUE")] {
            marks.parameters.insert(format!("io.confluent.connect.avro.enum.{what}.Color"), text.to_owned());
        }
        let schema = schema_of(vec![marks.mark(Field::new("color", DataType::Utf8, false))], PLAIN);
        assert_eq!(
            type_of(&schema, 0).to_string(),
            r#"{"type":"enum","name":"Color","doc":"All of them","symbols":["RED","BLUE"],"default":"BLUE"}"#
        );
    }

    #[test]
    fn what_avro_cannot_name_gets_another_name_or_is_a_text() {
        let other = || vec![Field::new("y", DataType::Int32, false)];
        let schema = schema_of(
            vec![
                named("a", "org.example.Row", other()),
                named("b", "org.example.Row", other()),
                named("c", "not-a-name", other()),
                named("d", "int", other()),
                named("e", "io.confluent.connect.avro.ConnectDefault", vec![]),
                color("f", "org.example.Color", &["RED"]),
                color("g", "org.example.Color", &["RED", "BLUE"]),
                color("h", "", &["RED"]),
                color("i", "org.example.Odd", &["RED", "no symbol"]),
                color("j", "org.example.Empty", &[]),
                named("k", "Short", other()),
                named("l", "Short", other()),
                ConnectMarks { default: Some(json!("BLACK")), ..ConnectMarks::of(&color("m", "M", &["RED"])) }
                    .mark(color("m", "M", &["RED"])),
            ],
            OPTIONS,
        );
        let record = |field: usize| (&type_of(&schema, field)[1]["name"], &type_of(&schema, field)[1]["connect.name"]);
        assert_eq!(record(0), (&json!("ConnectDefault"), &json!("org.example.Row")));
        assert_eq!(type_of(&schema, 1)[1], "io.confluent.connect.avro.ConnectDefault");
        assert_eq!(record(2), (&json!("ConnectDefault2"), &json!("not-a-name")));
        assert_eq!(record(3), (&json!("ConnectDefault3"), &json!("int")));
        assert_eq!(record(4).0, "ConnectDefault4");
        assert_eq!(type_of(&schema, 5)["name"], "Color");
        assert_eq!(type_of(&schema, 6)["name"], "ConnectDefault5");
        assert_eq!(type_of(&schema, 6)["symbols"], json!(["RED", "BLUE"]));
        for plain in [7, 8, 9, 12] {
            assert_eq!(type_of(&schema, plain)["type"], "string");
        }
        assert_eq!(type_of(&schema, 10)[1]["namespace"], "");
        assert_eq!(record(11), (&json!("ConnectDefault6"), &json!("Short")));
        let plain = AvroOptions { connect_meta_data: false, enhanced_schema: false };
        let schema = schema_of(vec![color("a", "org.example.Color", &["RED"])], plain);
        assert_eq!(*type_of(&schema, 0), json!("string"));
    }

    /// Names as they may come, of few kinds so that they meet.
    fn names() -> impl Strategy<Value = Option<String>> {
        let all =
            ["A", "n.A", "n.m.A", "n.B", "B", "string", "n.int", "", "a-b", ".A", "n..A", "Row", "org.example.Row"];
        let more = ["io.confluent.connect.avro.ConnectDefault", "io.confluent.connect.avro.ConnectDefault2"];
        let last = ["io.confluent.connect.avro.MapEntry", "io.confluent.connect.avro.Union", "n.record", "\u{e4}.A"];
        let all: Vec<&str> = all.into_iter().chain(more).chain(last).collect();
        prop_oneof![1 => Just(None), 6 => prop::sample::select(all).prop_map(|name| Some(name.to_owned()))]
    }

    fn leaves() -> impl Strategy<Value = (DataType, ConnectMarks)> {
        let plain = [DataType::Int16, DataType::Date32, DataType::Decimal128(9, 2), DataType::Binary, DataType::Utf8];
        let plain = (prop::sample::select(plain.to_vec()), names())
            .prop_map(|(data_type, name)| (data_type, ConnectMarks { name, ..ConnectMarks::default() }));
        let symbols = prop::collection::vec(prop::sample::select(vec!["X", "Y", "Z", "x y", "", "9"]), 0..3);
        let enums = (names(), names(), symbols, any::<bool>()).prop_map(|(name, full, symbols, general)| {
            let mark = if general { "org.apache.kafka.connect.data.Enum" } else { ENUM };
            let symbols = symbols.into_iter().map(|symbol| (format!("{mark}.{symbol}"), symbol.to_owned()));
            let full = (mark.to_owned(), full.unwrap_or_default());
            (
                DataType::Utf8,
                ConnectMarks { name, parameters: [full].into_iter().chain(symbols).collect(), default: None },
            )
        });
        prop_oneof![plain, enums]
    }

    fn all_types() -> impl Strategy<Value = (DataType, ConnectMarks)> {
        leaves().prop_recursive(4, 24, 4, |inner| {
            let field = |name: &str, (data_type, marks): (DataType, ConnectMarks), nullable: bool| -> FieldRef {
                Arc::new(marks.mark(Field::new(name, data_type, nullable)))
            };
            let structs = (prop::collection::vec((inner.clone(), any::<bool>()), 0..4), names());
            let structs = structs.prop_map(move |(fields, name)| {
                let fields = fields.into_iter().enumerate();
                let fields = fields.map(|(index, (one, nullable))| field(&format!("f{index}"), one, nullable));
                (DataType::Struct(fields.collect()), ConnectMarks { name, ..ConnectMarks::default() })
            });
            let lists = (inner.clone(), any::<bool>()).prop_map(move |(element, nullable)| {
                (DataType::List(field("element", element, nullable)), ConnectMarks::default())
            });
            let maps = (inner.clone(), inner, any::<bool>()).prop_map(move |(key, value, nullable)| {
                let entries = vec![field("key", key, false), field("value", value, nullable)];
                let entries = Field::new("entries", DataType::Struct(entries.into()), false);
                (DataType::Map(Arc::new(entries), false), ConnectMarks::default())
            });
            prop_oneof![4 => structs, 1 => lists, 1 => maps]
        })
    }

    /// One value of a field.
    fn one_of(field: &Field) -> ArrayRef {
        match field.data_type() {
            DataType::Int16 => Arc::new(Int16Array::from(vec![7])),
            DataType::Date32 => Arc::new(Date32Array::from(vec![7])),
            DataType::Decimal128(_, _) => {
                Arc::new(Decimal128Array::from(vec![7]).with_precision_and_scale(9, 2).unwrap())
            }
            DataType::Binary => Arc::new(BinaryArray::from_vec(vec![b"bytes"])),
            DataType::Utf8 => {
                let symbol = AvroEnum::of(field).map(|one| one.symbols[0].clone());
                Arc::new(StringArray::from(vec![symbol.unwrap_or_else(|| "text".to_owned())]))
            }
            DataType::Struct(fields) => Arc::new(row_of(fields)),
            DataType::List(element) => {
                Arc::new(ListArray::new(element.clone(), OffsetBuffer::from_lengths([1]), one_of(element), None))
            }
            DataType::Map(entries, _) => {
                let DataType::Struct(fields) = entries.data_type() else { unreachable!() };
                let lengths = OffsetBuffer::from_lengths([1]);
                Arc::new(MapArray::new(entries.clone(), lengths, row_of(fields), None, false))
            }
            other => unreachable!("no column of {other} is made"),
        }
    }

    fn row_of(fields: &Fields) -> StructArray {
        match fields.is_empty() {
            true => StructArray::new_empty_fields(1, None),
            false => StructArray::new(fields.clone(), fields.iter().map(|field| one_of(field)).collect(), None),
        }
    }

    proptest! {
        #[test]
        fn every_schema_is_one_that_avro_takes_and_reads_rows_of(
            columns in prop::collection::vec((all_types(), any::<bool>()), 1..5),
            whole in any::<bool>(),
            name in prop::sample::select(vec![None, Some("Row"), Some("org.example.Row"), Some("n.A")]),
            connect_meta_data in any::<bool>(),
            enhanced_schema in any::<bool>(),
        ) {
            let fields: Vec<Field> = columns.into_iter().enumerate().map(|(index, ((data_type, marks), nullable))| {
                let field = if whole { whole_value_field(data_type) } else { Field::new(format!("c{index}"), data_type, true) };
                marks.mark(field.with_nullable(nullable))
            }).take(if whole { 1 } else { 5 }).collect();
            let value = ValueSchema { name: name.map(str::to_owned), version: Some(1) };
            let fields = Fields::from(fields);
            let text = avro_schema(&fields, Some(&value), AvroOptions { connect_meta_data, enhanced_schema }).unwrap();
            apache_avro::Schema::parse_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            let enhanced = [("enhanced.avro.schema.support", if enhanced_schema { "true" } else { "false" })];
            let file = encoded(build(&settings(&enhanced)).unwrap().as_ref(), &[Values::Typed(row_of(&fields))]);
            let rows: Vec<_> = apache_avro::Reader::new(file.as_ref()).unwrap().collect();
            prop_assert!(rows.len() == 1 && rows[0].is_ok(), "{rows:?} of {text}");
        }
    }
}
