//! From the text of a `.proto` to the columns of a message, as `io.confluent.connect.protobuf.ProtobufData` maps them.

use std::sync::Arc;

use arrow::array::StructArray;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use base64::Engine;
use model::{ConnectMarks, whole_value_field};
use prost_reflect::prost::Message;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{
    Cardinality, DynamicMessage, EnumValueDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor,
    OneofDescriptor, Syntax, Value,
};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use crate::column::Rows;
use crate::connect_schema::DECIMAL_PRECISION_DEFAULT;
use crate::fault::Outcome;
use crate::protobuf_columns::{Absent, Cell, EnumNames, MessageColumn, Slot, Target, Whole};
use crate::protobuf_known::known_file;
use crate::protobuf_nested::{ListColumn, MapColumn, UnionColumn};
use crate::protobuf_values::{Form, LateColumn};
use crate::protobuf_wire::Wire;
use crate::registry::Reference;
use crate::scalar_columns::{Booleans, Bytes, Numbers};
use crate::table_schema::{
    DEPTH_MAX, FIELDS_MAX, TableSchema, decimal_type, element_field, map_type, normal_fields, timestamp,
};

/// What begins the names of Connect's marks of Protobuf.
const NAMESPACE: &str = "io.confluent.connect.protobuf";

/// Name under which the schema itself is compiled; references have their own.
const MAIN_FILE: &str = "default";

/// How messages become columns; each is a key of the converter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProtobufOptions {
    pub(crate) enhanced_schema: bool,
    pub(crate) int_for_enums: bool,
    pub(crate) optional_for_nullables: bool,
    pub(crate) optional_for_proto2: bool,
    pub(crate) wrapper_for_nullables: bool,
    pub(crate) wrapper_for_raw_primitives: bool,
    pub(crate) struct_for_nulls: bool,
    pub(crate) index_for_unions: bool,
    pub(crate) flatten_unions: bool,
    pub(crate) recursive_as_json: bool,
}

/// Compiles the text of a schema with its references, whose names are what it imports.
pub(crate) fn compile(text: &str, references: &[Reference]) -> Result<FileDescriptor, String> {
    let files = std::iter::once((MAIN_FILE, text));
    let files = files.chain(references.iter().map(|reference| (reference.name.as_str(), reference.text.as_str())));
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    let mut resolver = ChainFileResolver::new();
    resolver.add(Texts(files));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    compiler
        .open_file(MAIN_FILE)
        .map_err(|error| format!("could not compile the Protobuf schema: {}", chain(&error)))?;
    let file = compiler.descriptor_pool().get_file_by_name(MAIN_FILE);
    file.ok_or_else(|| "could not compile the Protobuf schema: nothing came of it".to_owned())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        if !text.contains(&next.to_string()) {
            text = format!("{text}: {next}");
        }
        source = next.source();
    }
    text
}

/// The file whose descriptor is `text` in base64, the form in which some registries give back what Python's serializer
/// registered; `None` for source text.
fn described(name: &str, text: &str) -> Option<FileDescriptorProto> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()?;
    let descriptor = FileDescriptorProto::decode(bytes.as_slice()).ok()?;
    Some(FileDescriptorProto { name: Some(name.to_owned()), ..descriptor })
}

/// The files that the registry gave, and those that everybody has.
struct Texts(Vec<(String, String)>);

impl FileResolver for Texts {
    fn resolve_path(&self, path: &std::path::Path) -> Option<String> {
        path.to_str().map(str::to_owned)
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if let Some((_, text)) = self.0.iter().find(|(known, _)| known == name) {
            return match described(name, text) {
                Some(descriptor) => Ok(File::from_file_descriptor_proto(descriptor)),
                None => File::from_source(name, text),
            };
        }
        match known_file(name) {
            Some(text) => File::from_source(name, &text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// The message that the indexes on the wire point to: one of the file, one nested in it, and so on. Messages that stand
/// for the entries of maps are not counted.
pub(crate) fn message_at(file: &FileDescriptor, indexes: &[usize]) -> Result<MessageDescriptor, String> {
    let (first, nested) = indexes.split_first().unwrap_or((&0, &[]));
    let mut found = file.messages().nth(*first);
    for index in nested {
        found = found.and_then(|message| message.child_messages().filter(|child| !child.is_map_entry()).nth(*index));
    }
    found.ok_or_else(|| format!("the schema has no message with the indexes {indexes:?}"))
}

/// Reads messages of one type into columns; buffers are kept from batch to batch.
pub(crate) struct ProtobufReader {
    root: MessageColumn,
    /// The name of Connect's schema; none for a wrapped scalar.
    name: Option<String>,
}

impl ProtobufReader {
    /// A reader of `message`; an error names the field that cannot be a column.
    pub(crate) fn new(message: &MessageDescriptor, options: &ProtobufOptions) -> Result<Self, String> {
        let mut plan = Plan { options, path: Vec::new(), count: 0 };
        let wrapped = wrapped(message.full_name()).filter(|_| options.wrapper_for_raw_primitives);
        let (root, name) = match wrapped {
            Some((data_type, cell, default)) => {
                let slot = Slot { name: "value".into(), cell, absent: Absent::Default(default), union: None };
                let fields = Fields::from(vec![whole_value_field(data_type)]);
                (MessageColumn::new(vec![slot], vec![(1, Target::Slot(0))], fields), None)
            }
            None => {
                let name = if options.enhanced_schema { message.full_name() } else { message.name() };
                (plan.message(message)?, Some(name.to_owned()))
            }
        };
        TableSchema::new(root.fields()).map_err(|error| error.0)?;
        debug_assert_eq!(&normal_fields(root.fields()), root.fields(), "fields are planned in the normal form");
        Ok(Self { root, name })
    }

    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Reads each message; nulls, and those that cannot be read, are null rows. The latter come with the reason.
    pub(crate) fn read_each<'p>(
        &mut self,
        payloads: impl Iterator<Item = Option<&'p [u8]>>,
    ) -> (StructArray, Vec<(usize, String)>) {
        let mut rejected = Vec::new();
        for (row, payload) in payloads.enumerate() {
            let Some(payload) = payload else {
                self.root.push_null();
                continue;
            };
            if let Err(fault) = self.read_one(payload) {
                self.root.truncate(row);
                self.root.push_null();
                rejected.push((row, fault.to_string()));
            }
        }
        (self.root.finish_struct(), rejected)
    }

    fn read_one(&mut self, payload: &[u8]) -> Outcome<()> {
        self.root.merge(&mut Wire::new(payload))?;
        self.root.end_row(payload, true)
    }
}

/// Makes the columns of messages inside messages.
struct Plan<'o> {
    options: &'o ProtobufOptions,
    /// The messages that hold the one that is planned.
    path: Vec<String>,
    count: usize,
}

/// A column: its field in the schema and what builds it.
type Planned = (Field, Cell);

impl Plan<'_> {
    fn message(&mut self, message: &MessageDescriptor) -> Result<MessageColumn, String> {
        if self.path.len() >= DEPTH_MAX {
            return Err(format!("message {} is nested deeper than {DEPTH_MAX} levels", message.full_name()));
        }
        self.path.push(message.full_name().to_owned());
        let (mut slots, mut fields, mut targets) = (Vec::new(), Vec::<FieldRef>::new(), Vec::new());
        for (index, oneof) in message.oneofs().enumerate().filter(|(_, oneof)| !oneof.is_synthetic()) {
            if self.options.flatten_unions {
                for field in oneof.fields() {
                    let (planned, cell) = self.field(&field, true)?;
                    targets.push((field.number(), Target::Slot(slots.len())));
                    slots.push(Slot { name: field.name().into(), cell, absent: Absent::Null, union: Some(index) });
                    fields.push(Arc::new(planned));
                }
                continue;
            }
            let members = oneof.fields().enumerate();
            targets
                .extend(members.map(|(member, field)| (field.number(), Target::Member { slot: slots.len(), member })));
            let (planned, cell) = self.union(&oneof, index)?;
            slots.push(Slot { name: planned.name().as_str().into(), cell, absent: Absent::Null, union: None });
            fields.push(Arc::new(planned));
        }
        for field in declared_fields(message).filter(|field| !in_oneof(field)) {
            let (planned, cell) = self.field(&field, false)?;
            let absent = self.absent(&field, &cell);
            let planned = if matches!(absent, Absent::Null) && !is_repeated(&field) {
                planned.with_nullable(true)
            } else {
                planned
            };
            targets.push((field.number(), Target::Slot(slots.len())));
            slots.push(Slot { name: field.name().into(), cell, absent, union: None });
            fields.push(Arc::new(planned));
        }
        self.path.pop();
        Ok(MessageColumn::new(slots, targets, fields.into()))
    }

    fn union(&mut self, oneof: &OneofDescriptor, index: usize) -> Result<Planned, String> {
        let name = match self.options.index_for_unions {
            true => format!("{}_{index}", oneof.name()),
            false => oneof.name().to_owned(),
        };
        let (mut members, mut fields) = (Vec::new(), Vec::<FieldRef>::new());
        for field in oneof.fields() {
            let (planned, cell) = self.field(&field, true)?;
            members.push((field.name().into(), cell));
            fields.push(Arc::new(planned));
        }
        let fields = Fields::from(fields);
        let marks =
            ConnectMarks { name: Some(format!("{NAMESPACE}.Union.{}", oneof.name())), ..ConnectMarks::default() };
        let planned = marks.mark(Field::new(name, DataType::Struct(fields.clone()), true));
        Ok((planned, Cell::Union(Box::new(UnionColumn::new(members, fields)))))
    }

    fn field(&mut self, field: &FieldDescriptor, oneof_member: bool) -> Result<Planned, String> {
        self.count += 1;
        if self.count > FIELDS_MAX {
            return Err(format!("the schema has more than {FIELDS_MAX} fields"));
        }
        let within = |why: String| format!("field {}: {why}", field.full_name());
        let optional = match (oneof_member, self.options.optional_for_nullables) {
            (true, _) => true,
            (false, true) => has_optional_keyword(field),
            (false, false) => !self.options.wrapper_for_nullables,
        };
        if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
            return self.map(field, &entry).map_err(within);
        }
        let (data_type, cell) = self.value(field).map_err(within)?;
        let mut marks = self.marks(field, &data_type);
        if field.is_list() {
            let element = Arc::new(marks.mark(element_field(data_type, true).as_ref().clone()));
            let column = ListColumn::new(cell, element.clone());
            let list = tagged(field).mark(Field::new(field.name(), DataType::List(element), true));
            return Ok((list, Cell::List(Box::new(column))));
        }
        marks.parameters.extend(tagged(field).parameters);
        let optional = optional || matches!(field.kind(), Kind::Message(_) | Kind::Enum(_));
        Ok((marks.mark(Field::new(field.name(), data_type, optional)), cell))
    }

    fn map(&mut self, field: &FieldDescriptor, entry: &MessageDescriptor) -> Result<Planned, String> {
        let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let (key, key_cell) = self.field(&key_field, false)?;
        let (value, value_cell) = self.field(&value_field, false)?;
        let data_type = map_type(key, value);
        let DataType::Map(entries, _) = &data_type else { unreachable!("a map type is a map") };
        let key = (key_cell, key_field.default_value());
        let value = (value_cell, value_field.default_value());
        let column = MapColumn::new(key, value, entries.clone());
        let planned = tagged(field).mark(Field::new(field.name(), data_type, true));
        Ok((planned, Cell::Map(Box::new(column))))
    }

    /// What ProtobufData says of a value beside its type: the name of a message, the symbols of an enum.
    fn marks(&self, field: &FieldDescriptor, data_type: &DataType) -> ConnectMarks {
        let mut marks = ConnectMarks::default();
        let name = |full: &str, short: &str| if self.options.enhanced_schema { full } else { short }.to_owned();
        match field.kind() {
            Kind::Message(message) if matches!(data_type, DataType::Struct(_)) => {
                marks.name = Some(name(message.full_name(), message.name()));
            }
            Kind::Enum(symbols) => {
                let number = |value: EnumValueDescriptor| {
                    (format!("{NAMESPACE}.Enum.{}", value.name()), value.number().to_string())
                };
                marks.parameters.insert(format!("{NAMESPACE}.Enum"), name(symbols.full_name(), symbols.name()));
                marks.parameters.extend(symbols.values().map(number));
            }
            _ => {}
        }
        marks
    }

    /// Type and column of one value of a field.
    fn value(&mut self, field: &FieldDescriptor) -> Result<(DataType, Cell), String> {
        let whole32 = |whole| match meta_parameter(field, "connect.type").as_deref() {
            Some("int8") => (DataType::Int8, Cell::Int8(Numbers::new(&DataType::Int8), whole)),
            Some("int16") => (DataType::Int16, Cell::Int16(Numbers::new(&DataType::Int16), whole)),
            Some(_) | None => int32(whole),
        };
        Ok(match field.kind() {
            Kind::Int32 => whole32(Whole::Int32),
            Kind::Sint32 => whole32(Whole::Sint32),
            Kind::Sfixed32 => whole32(Whole::Sfixed32),
            Kind::Uint32 => int64(Whole::Uint32),
            Kind::Fixed32 => int64(Whole::Fixed32),
            Kind::Int64 => int64(Whole::Int64),
            Kind::Uint64 => int64(Whole::Uint64),
            Kind::Sint64 => int64(Whole::Sint64),
            Kind::Fixed64 => int64(Whole::Fixed64),
            Kind::Sfixed64 => int64(Whole::Sfixed64),
            Kind::Float => float(),
            Kind::Double => double(),
            Kind::Bool => boolean(),
            Kind::String => string(),
            Kind::Bytes => bytes(),
            Kind::Enum(descriptor) => {
                let mut values: Vec<(i32, Box<str>)> =
                    descriptor.values().map(|value| (value.number(), value.name().into())).collect();
                values.sort_by_key(|(number, _)| *number);
                values.dedup_by_key(|(number, _)| *number);
                let closed = descriptor.parent_file().syntax() == Syntax::Proto2;
                let names = Arc::new(EnumNames { name: descriptor.name().to_owned(), values, closed });
                if self.options.int_for_enums {
                    (DataType::Int32, Cell::EnumNumber(Numbers::new(&DataType::Int32), names))
                } else {
                    (DataType::Utf8, Cell::EnumName(Bytes::new(true), names))
                }
            }
            Kind::Message(_) if field.is_group() => return Err("groups are not supported; use a message".to_owned()),
            Kind::Message(message) => self.message_value(field, &message)?,
        })
    }

    fn message_value(
        &mut self,
        field: &FieldDescriptor,
        message: &MessageDescriptor,
    ) -> Result<(DataType, Cell), String> {
        let late = |form| Cell::Late(Box::new(LateColumn::new(form)));
        let name = message.full_name();
        match name {
            "google.type.Date" => return Ok((DataType::Date32, late(Form::Date(Numbers::new(&DataType::Date32))))),
            "google.type.TimeOfDay" => {
                let data_type = DataType::Time32(TimeUnit::Millisecond);
                let cell = late(Form::Time(Numbers::new(&data_type)));
                return Ok((data_type, cell));
            }
            "google.protobuf.Timestamp" => {
                let data_type = timestamp(TimeUnit::Millisecond, true);
                let cell = late(Form::Timestamp(Numbers::new(&data_type)));
                return Ok((data_type, cell));
            }
            "confluent.type.Decimal" => return decimal_value(field),
            _any_other => {}
        }
        if let Some((data_type, cell, default)) = wrapped(name).filter(|_| self.options.wrapper_for_nullables) {
            return Ok((data_type, late(Form::Wrapped(cell, default))));
        }
        let json = ["google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"].contains(&name);
        let recursive = self.path.iter().any(|outer| outer == name);
        if self.options.recursive_as_json && (json || recursive) {
            return Ok((DataType::Utf8, late(Form::Json(Bytes::new(true), message.clone()))));
        }
        if recursive {
            return Err(format!(
                "message {name} holds itself, which columns cannot; set recursive.types=json to have this field as JSON text"
            ));
        }
        let column = self.message(message)?;
        Ok((DataType::Struct(column.fields().clone()), Cell::Message(Box::new(column))))
    }

    /// What a field is that is not on the wire.
    fn absent(&self, field: &FieldDescriptor, cell: &Cell) -> Absent {
        let required = field.cardinality() == Cardinality::Required;
        let default = field.default_value();
        if matches!(field.kind(), Kind::Message(_)) {
            let date = matches!(cell, Cell::Late(column) if column.is_date());
            return match (required, self.options.struct_for_nulls && !date) {
                (true, _) => Absent::Required(default),
                (false, true) => Absent::Default(default),
                (false, false) => Absent::Null,
            };
        }
        let presence = is_proto3_optional(field) || self.options.optional_for_proto2 && has_optional_keyword(field);
        match (required, presence && !self.options.struct_for_nulls) {
            (true, _) => Absent::Required(default),
            (false, true) => Absent::Null,
            (false, false) => Absent::Default(default),
        }
    }
}

/// The number of a field, as ProtobufData keeps it.
fn tagged(field: &FieldDescriptor) -> ConnectMarks {
    let parameters = [(format!("{NAMESPACE}.Tag"), field.number().to_string())].into();
    ConnectMarks { parameters, ..ConnectMarks::default() }
}

/// The fields in the order of the text, in which the columns are.
fn declared_fields(message: &MessageDescriptor) -> impl Iterator<Item = FieldDescriptor> + '_ {
    let numbers = message.descriptor_proto().field.iter();
    numbers.filter_map(|field| message.get_field(u32::try_from(field.number()).ok()?))
}

fn is_repeated(field: &FieldDescriptor) -> bool {
    field.is_list() || field.is_map()
}

fn in_oneof(field: &FieldDescriptor) -> bool {
    field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic())
}

fn is_proto3_optional(field: &FieldDescriptor) -> bool {
    field.field_descriptor_proto().proto3_optional()
}

fn has_optional_keyword(field: &FieldDescriptor) -> bool {
    let proto2 = field.parent_file().syntax() == Syntax::Proto2;
    is_proto3_optional(field) || proto2 && field.cardinality() == Cardinality::Optional && !in_oneof(field)
}

fn int32(whole: Whole) -> (DataType, Cell) {
    (DataType::Int32, Cell::Int32(Numbers::new(&DataType::Int32), whole))
}

fn int64(whole: Whole) -> (DataType, Cell) {
    (DataType::Int64, Cell::Int64(Numbers::new(&DataType::Int64), whole))
}

fn float() -> (DataType, Cell) {
    (DataType::Float32, Cell::Float(Numbers::new(&DataType::Float32)))
}

fn double() -> (DataType, Cell) {
    (DataType::Float64, Cell::Double(Numbers::new(&DataType::Float64)))
}

fn boolean() -> (DataType, Cell) {
    (DataType::Boolean, Cell::Bool(Booleans::new()))
}

fn string() -> (DataType, Cell) {
    (DataType::Utf8, Cell::Text(Bytes::new(true)))
}

fn bytes() -> (DataType, Cell) {
    (DataType::Binary, Cell::Binary(Bytes::new(false)))
}

/// What one of the wrapper messages wraps, with the default of its type.
fn wrapped(name: &str) -> Option<(DataType, Cell, Value)> {
    let with = |(data_type, cell), default| Some((data_type, cell, default));
    match name.strip_prefix("google.protobuf.")? {
        "DoubleValue" => with(double(), Value::F64(0.0)),
        "FloatValue" => with(float(), Value::F32(0.0)),
        "Int64Value" => with(int64(Whole::Int64), Value::I64(0)),
        "UInt64Value" => with(int64(Whole::Uint64), Value::U64(0)),
        "Int32Value" => with(int32(Whole::Int32), Value::I32(0)),
        "UInt32Value" => with(int64(Whole::Uint32), Value::U32(0)),
        "BoolValue" => with(boolean(), Value::Bool(false)),
        "StringValue" => with(string(), Value::String(String::new())),
        "BytesValue" => with(bytes(), Value::Bytes(Default::default())),
        _no_wrapper => None,
    }
}

/// A decimal with the precision and scale that the field's options say. Without a precision it has the most that all
/// engines read.
fn decimal_value(field: &FieldDescriptor) -> Result<(DataType, Cell), String> {
    let number = |name| meta_parameter(field, name).and_then(|text| text.parse::<i64>().ok());
    let scale = number("scale").unwrap_or(0);
    let precision = number("precision").and_then(|precision| u64::try_from(precision).ok());
    let widest = DECIMAL_PRECISION_DEFAULT.max(u64::try_from(scale).unwrap_or(0));
    let data_type = decimal_type(precision.unwrap_or(widest), scale).map_err(|error| error.0)?;
    let column = LateColumn::decimal(&data_type).ok_or_else(|| format!("{data_type} is no decimal"))?;
    Ok((data_type, Cell::Late(Box::new(column))))
}

/// A parameter of the field's `(confluent.field_meta)`.
fn meta_parameter(field: &FieldDescriptor, name: &str) -> Option<String> {
    let extension = field.parent_pool().get_extension_by_name("confluent.field_meta")?;
    let options: DynamicMessage = field.options();
    let meta = options.has_extension(&extension).then(|| options.get_extension(&extension))?;
    let parameters = meta.as_message()?.get_field_by_name("params")?;
    let found = parameters.as_map()?.get(&prost_reflect::MapKey::String(name.to_owned()))?;
    found.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::util::display::array_value_to_string;
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;

    fn plain() -> ProtobufOptions {
        ProtobufOptions {
            enhanced_schema: false,
            int_for_enums: false,
            optional_for_nullables: false,
            optional_for_proto2: true,
            wrapper_for_nullables: false,
            wrapper_for_raw_primitives: true,
            struct_for_nulls: false,
            index_for_unions: true,
            flatten_unions: false,
            recursive_as_json: false,
        }
    }

    fn first(text: &str) -> MessageDescriptor {
        message_at(&compile(text, &[]).unwrap(), &[0]).unwrap()
    }

    /// The only row as text, or why there is none.
    fn read(text: &str, options: ProtobufOptions, payload: &[u8]) -> String {
        let mut reader = ProtobufReader::new(&first(text), &options).unwrap();
        let (columns, rejected) = reader.read_each([Some(payload)].into_iter());
        match rejected.as_slice() {
            [] => array_value_to_string(&columns, 0).unwrap(),
            [(0, why)] if columns.is_null(0) => why.clone(),
            other => panic!("one row cannot be rejected twice: {other:?}"),
        }
    }

    const RICH: &str = r#"
        syntax = "proto3";
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/wrappers.proto";
        import "google/type/date.proto";
        import "confluent/meta.proto";
        import "confluent/type/decimal.proto";
        message Rich {
          enum Color { RED = 0; GREEN = 1; }
          message Inner { string name = 1; repeated sint64 deep = 2; }
          int32 i = 1; sint32 s = 2; uint64 u = 3; double d = 4; bool b = 5; string t = 6; bytes y = 7;
          Color c = 8; Inner m = 9; repeated int32 packed = 10; repeated Inner many = 11;
          map<string, Inner> by = 12;
          oneof kind { string word = 13; Inner part = 14; }
          optional fixed32 maybe = 15;
          google.protobuf.Timestamp at = 16;
          google.type.Date day = 17;
          confluent.type.Decimal price = 18 [(confluent.field_meta) = {params: [{key: "scale", value: "2"}, {key: "precision", value: "9"}]}];
          google.protobuf.StringValue boxed = 19;
        }"#;

    #[test]
    fn types_are_upstreams() {
        let reader = ProtobufReader::new(&first(RICH), &plain()).unwrap();
        let schema = TableSchema::new(reader.root.fields()).unwrap();
        let shown: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), crate::table_schema::type_name(field.data_type())))
            .collect();
        expect!["kind_0 STRUCT, i INTEGER, s INTEGER, u INT64, d DOUBLE, b BOOLEAN, t STRING, y BINARY, c STRING, m STRUCT, packed ARRAY<INTEGER>, many ARRAY<STRUCT>, by MAP<STRING,STRUCT>, maybe INT64, at TIMESTAMP(3), day DATE, price DECIMAL(9,2), boxed STRUCT"]
            .assert_eq(&shown.join(", "));
        assert!(schema.fields().iter().all(|field| field.is_nullable()));
        assert_eq!(reader.name(), Some("Rich"));
    }

    #[test]
    fn messages_merge_and_the_last_scalar_wins() {
        let text = "syntax = \"proto3\"; message M { int32 a = 1; N n = 2; repeated int32 r = 3; map<string, int32> k = 4; \
                    oneof o { int32 x = 5; N y = 6; } } message N { int32 p = 1; int32 q = 2; }";
        for (payload, expected) in [
            (&b""[..], "{o_0: , a: 0, n: , r: [], k: {}}"),
            (b"\x08\x96\x01\x08\x02", "{o_0: , a: 2, n: , r: [], k: {}}"),
            (b"\x12\x02\x08\x01\x12\x02\x10\x02", "{o_0: , a: 0, n: {p: 1, q: 2}, r: [], k: {}}"),
            (b"\x18\x01\x1a\x02\x02\x03\x08\x07\x18\x04", "{o_0: , a: 7, n: , r: [1, 2, 3, 4], k: {}}"),
            (b"\x22\x05\x0a\x01a\x10\x01\x22\x05\x0a\x01a\x10\x02", "{o_0: , a: 0, n: , r: [], k: {a: 2}}"),
            (b"\x28\x01\x32\x02\x08\x03", "{o_0: {x: , y: {p: 3, q: 0}}, a: 0, n: , r: [], k: {}}"),
            (b"\x32\x02\x08\x03\x28\x01", "{o_0: {x: 1, y: }, a: 0, n: , r: [], k: {}}"),
            (b"\x7a\x03abc\x08\x01", "{o_0: , a: 1, n: , r: [], k: {}}"),
            (
                b"\x0a\x01a",
                "field a: is a varint in the schema but the record has bytes with a length; it was written with another schema",
            ),
            (b"\x12\x05\x08", "field n: value is truncated: 5 bytes are announced at byte 2 and 1 are there"),
        ] {
            assert_eq!(read(text, plain(), payload), expected);
        }
        let flat = ProtobufOptions { flatten_unions: true, ..plain() };
        assert_eq!(read(text, flat, b"\x28\x01\x32\x02\x08\x03"), "{x: , y: {p: 3, q: 0}, a: 0, n: , r: [], k: {}}");
    }

    #[test]
    fn proto2_has_defaults_required_fields_and_closed_enumerations() {
        let text = "syntax = \"proto2\"; message M { required int32 a = 1; optional string b = 2 [default = \"x\"]; \
                    optional E e = 3; } enum E { ONE = 1; }";
        assert_eq!(read(text, plain(), b"\x08\x01\x18\x05"), "{a: 1, b: , e: }");
        assert_eq!(read(text, plain(), b""), "field a: is required in the schema but missing in the record");
        let defaults = ProtobufOptions { optional_for_proto2: false, ..plain() };
        assert_eq!(read(text, defaults, b"\x08\x01"), "{a: 1, b: x, e: ONE}");
    }

    #[test]
    fn recursive_types_fail_or_are_json() {
        let text = "syntax = \"proto3\"; message Node { int32 v = 1; Node next = 2; }";
        let why = ProtobufReader::new(&first(text), &plain()).err().unwrap();
        assert!(why.contains("Node.next") && why.contains("recursive.types=json"), "{why}");
        let json = ProtobufOptions { recursive_as_json: true, ..plain() };
        assert_eq!(
            read(text, json, b"\x08\x01\x12\x06\x08\x02\x12\x02\x08\x03"),
            r#"{v: 1, next: {"v":2,"next":{"v":3}}}"#
        );
    }

    #[test]
    fn a_wrapper_alone_is_its_scalar_and_messages_are_found_by_index() {
        let text =
            "syntax = \"proto3\"; message A { message B {} map<string, int32> m = 1; message C { int32 v = 1; } }";
        let file = compile(text, &[]).unwrap();
        assert_eq!(message_at(&file, &[0, 1]).unwrap().full_name(), "A.C");
        assert!(message_at(&file, &[0, 2]).is_err() && message_at(&file, &[1]).is_err());
        let pool = first(RICH).parent_pool().clone();
        let boxed = pool.get_message_by_name("google.protobuf.StringValue").unwrap();
        let mut reader = ProtobufReader::new(&boxed, &plain()).unwrap();
        let (columns, _) = reader.read_each([Some(&b"\x0a\x02hi"[..]), None].into_iter());
        assert!(model::is_whole_value(columns.fields()) && columns.is_null(1));
        assert_eq!(array_value_to_string(&columns, 0).unwrap(), "{value: hi}");
    }

    proptest! {
        #[test]
        fn what_prost_writes_is_read_back(
            i in any::<i32>(), u in any::<u64>(), t in ".{0,8}", packed in proptest::collection::vec(any::<i32>(), 0..5),
            deep in proptest::collection::vec(any::<i64>(), 0..4), maybe in proptest::option::of(any::<u32>()),
        ) {
            let rich = first(RICH);
            let inner = rich.get_field_by_name("m").unwrap().kind().as_message().unwrap().clone();
            let mut part = DynamicMessage::new(inner);
            part.set_field_by_name("deep", Value::List(deep.iter().map(|number| Value::I64(*number)).collect()));
            let mut message = DynamicMessage::new(rich.clone());
            message.set_field_by_name("i", Value::I32(i));
            message.set_field_by_name("s", Value::I32(i));
            message.set_field_by_name("u", Value::U64(u));
            message.set_field_by_name("t", Value::String(t.clone()));
            message.set_field_by_name("packed", Value::List(packed.iter().map(|number| Value::I32(*number)).collect()));
            message.set_field_by_name("part", Value::Message(part.clone()));
            message.set_field_by_name("many", Value::List(vec![Value::Message(part.clone()), Value::Message(part)]));
            if let Some(maybe) = maybe {
                message.set_field_by_name("maybe", Value::U32(maybe));
            }
            let payload = message.encode_to_vec();
            let mut reader = ProtobufReader::new(&rich, &plain()).unwrap();
            let bad = &payload[..payload.len().saturating_sub(1)];
            let (columns, rejected) = reader.read_each([Some(&payload[..]), Some(bad), Some(&payload[..])].into_iter());
            prop_assert!(rejected.iter().all(|(row, _)| *row == 1));
            prop_assert_eq!(columns.slice(0, 1), columns.slice(2, 1), "a bad neighbour does no harm");
            let shown = |name: &str| array_value_to_string(columns.column_by_name(name).unwrap(), 0).unwrap();
            let list = |numbers: Vec<String>| format!("[{}]", numbers.join(", "));
            let deep = list(deep.iter().map(i64::to_string).collect());
            prop_assert_eq!(shown("i"), i.to_string());
            prop_assert_eq!(shown("s"), i.to_string());
            prop_assert_eq!(shown("u"), (u as i64).to_string());
            prop_assert_eq!(shown("t"), t);
            prop_assert_eq!(shown("packed"), list(packed.iter().map(i32::to_string).collect()));
            prop_assert_eq!(shown("maybe"), maybe.map(|maybe| maybe.to_string()).unwrap_or_default());
            prop_assert_eq!(shown("kind_0"), format!("{{word: , part: {{name: , deep: {deep}}}}}"));
            prop_assert_eq!(shown("many"), format!("[{{name: , deep: {deep}}}, {{name: , deep: {deep}}}]"));
        }

        #[test]
        fn arbitrary_bytes_never_panic(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..6)) {
            let json = ProtobufOptions { recursive_as_json: true, struct_for_nulls: true, wrapper_for_nullables: true, ..plain() };
            for options in [plain(), json, ProtobufOptions { flatten_unions: true, int_for_enums: true, ..plain() }] {
                let mut reader = ProtobufReader::new(&first(RICH), &options).unwrap();
                let (columns, _) = reader.read_each(payloads.iter().map(|payload| Some(payload.as_slice())));
                prop_assert_eq!(columns.len(), payloads.len());
            }
        }
    }
}
