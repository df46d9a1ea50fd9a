//! The Avro schema of Arrow fields, as `io.confluent.connect.avro.AvroData` makes it of a Connect schema.

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use model::{ValueSchema, is_whole_value};
use serde_json::{Map, Value, json};

const NAMESPACE: &str = "io.confluent.connect.avro";

/// What of Connect's schema goes into Avro's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AvroOptions {
    /// Properties `connect.name`, `connect.version` and `connect.type` are written (`connect.meta.data`).
    pub(crate) connect_meta_data: bool,
}

/// The schema as JSON text; an error names the field that Avro cannot have.
pub(crate) fn avro_schema(
    fields: &Fields,
    value_schema: Option<&ValueSchema>,
    options: AvroOptions,
) -> Result<String, String> {
    let mut names = Names { options, records: 0, entries: 0, known: Vec::new() };
    if is_whole_value(fields) {
        return Ok(names.optional(&fields[0])?.to_string());
    }
    let name = value_schema.and_then(|schema| schema.name.as_deref());
    let version = value_schema.and_then(|schema| schema.version);
    Ok(names.record(fields, name, version)?.to_string())
}

struct Names {
    options: AvroOptions,
    records: usize,
    entries: usize,
    /// Nameless structs that have a name by now: equal ones share it.
    known: Vec<(Fields, String)>,
}

impl Names {
    fn record(&mut self, fields: &Fields, name: Option<&str>, version: Option<i32>) -> Result<Value, String> {
        let mut record = Map::new();
        record.insert("type".to_owned(), json!("record"));
        match name {
            Some(full) => {
                full.split('.').try_for_each(|part| check_name("the schema's name", full, part))?;
                let (namespace, simple) = full.rsplit_once('.').unwrap_or(("", full));
                record.insert("name".to_owned(), json!(simple));
                record.insert("namespace".to_owned(), json!(namespace));
            }
            None => {
                if let Some((_, name)) = self.known.iter().find(|(known, _)| known == fields) {
                    return Ok(json!(name));
                }
                let simple = numbered("ConnectDefault", &mut self.records);
                self.known.push((fields.clone(), format!("{NAMESPACE}.{simple}")));
                record.insert("name".to_owned(), json!(simple));
                record.insert("namespace".to_owned(), json!(NAMESPACE));
            }
        }
        let fields = fields.iter().map(|field| self.field(field)).collect::<Result<Vec<_>, _>>()?;
        record.insert("fields".to_owned(), Value::Array(fields));
        if self.options.connect_meta_data {
            record.extend(version.map(|version| ("connect.version".to_owned(), json!(version))));
            record.extend(name.map(|name| ("connect.name".to_owned(), json!(name))));
        }
        Ok(Value::Object(record))
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
        let inner = self.data_type(field.data_type())?;
        Ok(if field.is_nullable() { json!(["null", inner]) } else { inner })
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
            DataType::Struct(fields) => self.record(fields, None, None)?,
            other => return Err(format!("the type {other} has no Avro form")),
        })
    }

    /// Avro's maps have texts as keys; other maps are arrays of entries.
    fn map(&mut self, key: &Field, value: &Field) -> Result<Value, String> {
        if *key.data_type() == DataType::Utf8 {
            return Ok(json!({ "type": "map", "values": self.optional(value)? }));
        }
        let name = numbered("MapEntry", &mut self.entries);
        let fields = [self.field(key)?, self.field(value)?];
        let entry = json!({ "type": "record", "name": name, "namespace": NAMESPACE, "fields": fields });
        Ok(json!({ "type": "array", "items": entry }))
    }
}

/// The name, with a number from the second on.
fn numbered(name: &str, count: &mut usize) -> String {
    *count += 1;
    if *count > 1 { format!("{name}{count}") } else { name.to_owned() }
}

fn check_name(what: &str, whole: &str, part: &str) -> Result<(), String> {
    let mut characters = part.chars();
    let starts = characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    if starts && characters.all(|next| next.is_ascii_alphanumeric() || next == '_') {
        return Ok(());
    }
    Err(format!(
        "{what} {whole} is no name in Avro, which takes letters, digits and underscores and no digit first: rename it, or \
         choose another format.class"
    ))
}
