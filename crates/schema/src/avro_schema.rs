//! Writer schemas of Avro records: what columns they have (as `io.confluent.connect.avro.AvroData` does it), and the plan
//! by which a datum is read into them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use model::{ConnectMarks, Parameters, whole_value_field};
use serde_json::Value;

use crate::TableSchema;
use crate::avro_defaults::{connect_default, encode_default};
use crate::avro_json::JsonPlan;
use crate::avro_names::{Named, connect_name, full_name, is_complex, is_primitive, json, own_namespace};
use crate::avro_resolution::{Resolved, Resolver};
use crate::fault::excerpt;
use crate::registry::Registered;
use crate::table_schema::{DEPTH_MAX, FIELDS_MAX, decimal_type, element_field, map_type, normal_fields, timestamp};

/// Digits of a decimal whose schema does not say how many (`CONNECT_AVRO_DECIMAL_PRECISION_DEFAULT`).
const DEFAULT_PRECISION: u64 = 64;

/// Namespace of the records that AvroData invents.
const CONNECT_NAMESPACE: &str = "io.confluent.connect.avro";

/// The parameter under which AvroData has the name of an enum; its symbols stand below it.
const ENUM_PARAMETER: &str = "io.confluent.connect.avro.Enum";

/// Parameters of an enum's documentation and default, before its name without the namespace.
const ENUM_DOC_PREFIX: &str = "io.confluent.connect.avro.enum.doc.";
const ENUM_DEFAULT_PREFIX: &str = "io.confluent.connect.avro.enum.default.";

/// The keys that change which columns a schema has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AvroOptions {
    /// `generalized.sum.type.support`: branches of unions are named by number.
    pub(crate) numbered_branches: bool,
    /// `flatten.singleton.unions`: a union of one type is that type.
    pub(crate) flatten_singletons: bool,
    /// `enhanced.avro.schema.support`: branches of unions have full names.
    pub(crate) full_names: bool,
    /// `ignore.default.for.nullables`: a null stays null even if the field has a default.
    pub(crate) ignore_defaults: bool,
    /// `recursive.types=json`: what refers to itself becomes JSON text.
    pub(crate) recursive_as_json: bool,
}

/// How a datum stands on the wire, beside the column it goes into.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plan {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    /// Bytes or a string, with its length in front.
    Bytes,
    Fixed(usize),
    Enum(Vec<Box<str>>),
    Array(Box<Plan>),
    /// Keys are strings.
    Map(Box<Plan>),
    /// An array of records of key and value.
    Entries(Box<(Plan, Plan)>),
    Record(Vec<FieldPlan>),
    /// A union of null and one other type.
    Optional {
        null: i64,
        inner: Box<Plan>,
        /// The datum that a null stands for: the default of the field.
        default: Option<Vec<u8>>,
    },
    /// A union of this type alone.
    Single(Box<Plan>),
    /// Any other union: a struct with a field for each branch that is not null.
    Union(Vec<Option<Plan>>),
    /// A type that refers to itself, by name, as JSON text.
    Json(Box<str>),
    /// It was written with another schema than that of the column.
    Resolved(Box<Resolved>),
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FieldPlan {
    pub(crate) name: Box<str>,
    pub(crate) plan: Plan,
}

/// What a writer schema means.
#[derive(Debug)]
pub(crate) struct AvroSchema {
    pub(crate) plan: Plan,
    /// The columns; one, marked as the whole value, where the schema is neither a record nor a union with one.
    pub(crate) fields: Fields,
    /// Whether the plan fills one column and not those of a record.
    pub(crate) whole_value: bool,
    /// The name of Connect's schema.
    pub(crate) name: Option<String>,
    /// The version that the schema states itself.
    pub(crate) version: Option<i32>,
    /// The types that [`Plan::Json`] names.
    pub(crate) named: HashMap<Box<str>, JsonPlan>,
}

impl AvroSchema {
    /// Understands a schema of the registry; the error is a sentence for each record that was written with it.
    pub(crate) fn parse(registered: &Registered, options: AvroOptions) -> Result<AvroSchema, String> {
        let (root, named) = types(registered)?;
        let mut compiler = Compiler::new(&named, options);
        let column = compiler.column(&root, "")?;
        let as_json = compiler.as_json;
        AvroSchema::of(column, &root, &named, as_json)
    }

    /// The columns of `reader`, filled by datums that were written with `writer`.
    pub(crate) fn resolve(
        writer: &Registered,
        reader: &Registered,
        options: AvroOptions,
    ) -> Result<AvroSchema, String> {
        let ((written, writer_named), (read, reader_named)) = (types(writer)?, types(reader)?);
        let mut own = Compiler::new(&reader_named, options);
        let column = own.column(&read, "")?;
        let mut compiler = Compiler::new(&writer_named, options);
        let mut resolver = Resolver { writer: &writer_named, reader: &reader_named, compiler: &mut compiler, count: 0 };
        let plan = resolver.root(&written, &read, &column.plan, &column.data_type)?;
        let as_json = compiler.as_json;
        let Column { data_type, nullable, marks, .. } = column;
        AvroSchema::of(Column { plan, data_type, nullable, marks }, &read, &reader_named, as_json)
    }

    fn of(
        column: Column,
        root: &Value,
        named: &Named,
        as_json: HashMap<Box<str>, JsonPlan>,
    ) -> Result<AvroSchema, String> {
        let whole_value = !matches!(column.data_type, DataType::Struct(_));
        let fields = match column.data_type {
            DataType::Struct(fields) => fields,
            data_type => Fields::from(vec![whole_value_field(data_type)]),
        };
        TableSchema::new(&fields).map_err(|error| error.to_string())?;
        let root = only_branch(root);
        let (root, namespace) = named.resolve(root, "").unwrap_or((root, ""));
        Ok(AvroSchema {
            plan: column.plan,
            fields: normal_fields(&fields),
            whole_value,
            name: connect_name(root, namespace),
            version: root["connect.version"].as_i64().and_then(|version| i32::try_from(version).ok()),
            named: as_json,
        })
    }
}

/// The JSON of a schema, and all types of it and its references that have a name.
fn types(registered: &Registered) -> Result<(Value, Named), String> {
    let mut named = Named::default();
    for reference in &registered.references {
        named.collect(&json(&reference.text)?, "", 0)?;
    }
    let root = json(&registered.text)?;
    named.collect(&root, "", 0)?;
    Ok((root, named))
}

/// What an optional type is optional of; anything else is itself.
fn only_branch(root: &Value) -> &Value {
    let mut branches = root.as_array().into_iter().flatten().filter(|branch| **branch != "null");
    match (branches.next(), branches.next()) {
        (Some(only), None) => only,
        (_, _) => root,
    }
}

/// A column and how to fill it.
struct Column {
    plan: Plan,
    data_type: DataType,
    nullable: bool,
    marks: ConnectMarks,
}

impl Column {
    fn required(plan: Plan, data_type: DataType) -> Column {
        Column { plan, data_type, nullable: false, marks: ConnectMarks::default() }
    }

    /// The column as a field of that name, and how to fill it.
    fn named(self, name: &str) -> (Field, Plan) {
        (self.marks.mark(Field::new(name, self.data_type, self.nullable)), self.plan)
    }
}

pub(crate) struct Compiler<'n> {
    pub(crate) named: &'n Named,
    options: AvroOptions,
    /// Full names of the records that are being compiled, outermost first.
    open: Vec<String>,
    /// Types so far.
    count: usize,
    pub(crate) as_json: HashMap<Box<str>, JsonPlan>,
}

impl<'n> Compiler<'n> {
    fn new(named: &'n Named, options: AvroOptions) -> Compiler<'n> {
        Compiler { named, options, open: Vec::new(), count: 0, as_json: HashMap::new() }
    }

    fn column(&mut self, json: &Value, namespace: &str) -> Result<Column, String> {
        self.count += 1;
        if self.count > FIELDS_MAX {
            return Err(format!("the schema has more than {FIELDS_MAX} fields"));
        }
        match json {
            Value::Array(branches) => self.union(branches, namespace),
            Value::String(name) if is_primitive(name) => self.primitive(name, &Value::Null),
            Value::String(name) => self.reference(name, namespace),
            Value::Object(_) => match &json["type"] {
                Value::String(name) if is_primitive(name) => Ok(marked(self.primitive(name, json)?, json, namespace)),
                Value::String(name) if is_complex(name) => {
                    Ok(marked(self.complex(name, json, namespace)?, json, namespace))
                }
                Value::String(name) => self.reference(name, namespace),
                inner @ (Value::Object(_) | Value::Array(_)) => self.column(inner, namespace),
                Value::Null | Value::Bool(_) | Value::Number(_) => Err(unknown(json)),
            },
            Value::Null | Value::Bool(_) | Value::Number(_) => Err(unknown(json)),
        }
    }

    fn reference(&mut self, name: &str, namespace: &str) -> Result<Column, String> {
        let (definition, around) =
            self.named.find(name, namespace).ok_or_else(|| format!("the schema names a type {name} that it lacks"))?;
        self.column(definition, around)
    }

    fn primitive(&self, name: &str, json: &Value) -> Result<Column, String> {
        let logical = json["logicalType"].as_str().unwrap_or_default().to_ascii_lowercase();
        let (plan, data_type) = match (name, logical.as_str()) {
            ("boolean", _) => (Plan::Boolean, DataType::Boolean),
            ("int", "date") => (Plan::Int, DataType::Date32),
            ("int", "time-millis") => (Plan::Int, DataType::Time32(TimeUnit::Millisecond)),
            ("int", "") => (Plan::Int, connect_int(json)?),
            ("int", _) => (Plan::Int, DataType::Int32),
            ("long", "timestamp-millis") => (Plan::Long, timestamp(TimeUnit::Millisecond, true)),
            ("long", "timestamp-micros") => (Plan::Long, timestamp(TimeUnit::Microsecond, true)),
            ("long", "local-timestamp-millis") => (Plan::Long, timestamp(TimeUnit::Millisecond, false)),
            ("long", "local-timestamp-micros") => (Plan::Long, timestamp(TimeUnit::Microsecond, false)),
            ("long", _) => (Plan::Long, DataType::Int64),
            ("float", _) => (Plan::Float, DataType::Float32),
            ("double", _) => (Plan::Double, DataType::Float64),
            ("bytes", "decimal") => (Plan::Bytes, decimal(json)?),
            ("bytes", _) => (Plan::Bytes, DataType::Binary),
            ("string", _) => (Plan::Bytes, DataType::Utf8),
            (_, _) => return Err("Standalone null schemas are not supported by this converter".to_owned()),
        };
        Ok(Column::required(plan, data_type))
    }

    fn complex(&mut self, kind: &str, json: &Value, namespace: &str) -> Result<Column, String> {
        match kind {
            "array" => self.array(&json["items"], namespace),
            "map" => {
                let value = self.column(&json["values"], namespace)?;
                let (field, plan) = value.named("value");
                let data_type = map_type(Field::new("key", DataType::Utf8, false), field);
                Ok(Column::required(Plan::Map(Box::new(plan)), data_type))
            }
            "enum" => {
                let symbols = symbols(json)?;
                Ok(Column::required(Plan::Enum(symbols), DataType::Utf8))
            }
            "fixed" => {
                let size = fixed_size(json)?;
                let is_decimal = json["logicalType"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("decimal"));
                let data_type = if is_decimal { decimal(json)? } else { DataType::Binary };
                Ok(Column::required(Plan::Fixed(size), data_type))
            }
            _ => self.record(json, namespace),
        }
    }

    fn array(&mut self, items: &Value, namespace: &str) -> Result<Column, String> {
        if let Some((definition, around)) = self.named.resolve(items, namespace)
            && is_map_entry(definition, around)
        {
            let (definition, around) = (definition.clone(), around.to_owned());
            return self.entries(&definition, &around);
        }
        let element = self.column(items, namespace)?;
        if takes_no_bytes(&element.plan) {
            return Err("a list whose elements take no bytes is not supported".to_owned());
        }
        let field = element.marks.mark(element_field(element.data_type, element.nullable).as_ref().clone());
        Ok(Column::required(Plan::Array(Box::new(element.plan)), DataType::List(Arc::new(field))))
    }

    /// A map whose keys are no strings, as AvroData writes it.
    fn entries(&mut self, record: &Value, namespace: &str) -> Result<Column, String> {
        let namespace = own_namespace(record, namespace);
        let fields = record["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [key, value] = fields else { return Err(NO_ENTRIES.to_owned()) };
        if key["name"] != "key" || value["name"] != "value" {
            return Err(NO_ENTRIES.to_owned());
        }
        let key = self.column(&key["type"], namespace)?;
        let value = self.column(&value["type"], namespace)?;
        if takes_no_bytes(&key.plan) {
            return Err("a map whose keys take no bytes is not supported".to_owned());
        }
        let ((key, key_plan), (value, value_plan)) = (key.named("key"), value.named("value"));
        let data_type = map_type(key.with_nullable(false), value);
        Ok(Column::required(Plan::Entries(Box::new((key_plan, value_plan))), data_type))
    }

    fn record(&mut self, json: &Value, namespace: &str) -> Result<Column, String> {
        let namespace = own_namespace(json, namespace);
        let name = full_name(json["name"].as_str().unwrap_or_default(), namespace);
        if self.open.contains(&name) {
            return self.recursive(name);
        }
        if self.open.len() > DEPTH_MAX {
            return Err(format!("the schema nests deeper than {DEPTH_MAX} levels"));
        }
        self.open.push(name);
        let (mut fields, mut plans) = (Vec::new(), Vec::new());
        for field in json["fields"].as_array().into_iter().flatten() {
            let Some(name) = field["name"].as_str() else { return Err(unknown(field)) };
            let mut column =
                self.column(&field["type"], namespace).map_err(|error| format!("field {name}: {error}"))?;
            if let Plan::Optional { inner, default, .. } = &mut column.plan
                && !self.options.ignore_defaults
                && !field["default"].is_null()
            {
                let mut datum = Vec::new();
                *default = encode_default(&field["default"], inner, &column.data_type, &mut datum).map(|()| datum);
            }
            if !field["default"].is_null() {
                column.marks.default = connect_default(&field["default"], &column.plan, &column.data_type);
            }
            let (field, plan) = column.named(name);
            fields.push(field);
            plans.push(FieldPlan { name: name.into(), plan });
        }
        self.open.pop();
        Ok(Column::required(Plan::Record(plans), DataType::Struct(fields.into())))
    }

    fn recursive(&mut self, name: String) -> Result<Column, String> {
        if !self.options.recursive_as_json {
            return Err(format!(
                "the type {name} refers to itself, which columns cannot; set value.converter.recursive.types=json to have \
                 it as JSON text there"
            ));
        }
        self.add_json(&name)?;
        Ok(Column::required(Plan::Json(name.into()), DataType::Utf8))
    }

    fn union(&mut self, branches: &[Value], namespace: &str) -> Result<Column, String> {
        match branches {
            [only] if self.options.flatten_singletons && !is_null(only) => {
                let Column { plan, data_type, nullable, marks } = self.column(only, namespace)?;
                return Ok(Column { plan: Plan::Single(Box::new(plan)), data_type, nullable, marks });
            }
            [one, two] if is_null(one) != is_null(two) => {
                let (null, other) = if is_null(one) { (0, two) } else { (1, one) };
                let Column { plan, data_type, marks, .. } = self.column(other, namespace)?;
                let plan = Plan::Optional { null, inner: Box::new(plan), default: None };
                return Ok(Column { plan, data_type, nullable: true, marks });
            }
            _ => {}
        }
        let (mut fields, mut plans) = (Vec::<Field>::new(), Vec::new());
        for branch in branches {
            if is_null(branch) {
                plans.push(None);
                continue;
            }
            let name = match self.options.numbered_branches {
                true => format!("connect_union_field_{}", fields.len()),
                false => self.branch_name(branch, namespace),
            };
            if fields.iter().any(|field| *field.name() == name) {
                return Err(format!("Multiple union schemas map to the Connect union field name {name}"));
            }
            let column = self.column(branch, namespace).map_err(|error| format!("field {name}: {error}"))?;
            let (field, plan) = column.named(&name);
            fields.push(field.with_nullable(true));
            plans.push(Some(plan));
        }
        if fields.is_empty() {
            return Err("Standalone null schemas are not supported by this converter".to_owned());
        }
        let nullable = plans.iter().any(Option::is_none);
        let name = match self.options.numbered_branches {
            true => "connect_union".to_owned(),
            false => format!("{CONNECT_NAMESPACE}.Union"),
        };
        let marks = ConnectMarks { name: Some(name), ..ConnectMarks::default() };
        Ok(Column { plan: Plan::Union(plans), data_type: DataType::Struct(fields.into()), nullable, marks })
    }

    /// The name of a branch's field: that of a record or enum, else the type's.
    fn branch_name(&self, branch: &Value, namespace: &str) -> String {
        let Some((definition, around)) = self.named.resolve(branch, namespace) else {
            return branch.as_str().unwrap_or_default().to_owned();
        };
        match (branch_type(definition), definition["name"].as_str()) {
            ("record" | "error" | "enum", Some(name)) if self.options.full_names => {
                full_name(name, own_namespace(definition, around))
            }
            ("record" | "error" | "enum", Some(name)) => name.rsplit('.').next().unwrap_or_default().to_owned(),
            (kind, _) => kind.to_owned(),
        }
    }
}

/// Whether a type is null.
pub(crate) fn is_null(json: &Value) -> bool {
    json == "null" || json["type"] == "null"
}

/// What kind a definition is: its type's word.
pub(crate) fn branch_type(definition: &Value) -> &str {
    definition.as_str().or(definition["type"].as_str()).unwrap_or_default()
}

/// The column with the name and parameters that AvroData gives the schema of `json`.
fn marked(mut column: Column, json: &Value, namespace: &str) -> Column {
    let is_enum = json["type"] == "enum";
    let logical = "org.apache.kafka.connect.data.";
    let mut parameters = Parameters::new();
    if is_enum {
        let name = json["name"].as_str().unwrap_or_default();
        let simple = name.rsplit('.').next().unwrap_or_default();
        for (prefix, text) in [(ENUM_DOC_PREFIX, &json["doc"]), (ENUM_DEFAULT_PREFIX, &json["default"])] {
            parameters.extend(text.as_str().map(|text| (format!("{prefix}{simple}"), text.to_owned())));
        }
        parameters.insert(ENUM_PARAMETER.to_owned(), full_name(name, own_namespace(json, namespace)));
        let symbols = json["symbols"].as_array().into_iter().flatten().filter_map(Value::as_str);
        parameters.extend(symbols.map(|symbol| (format!("{ENUM_PARAMETER}.{symbol}"), symbol.to_owned())));
    }
    for (name, value) in json["connect.parameters"].as_object().into_iter().flatten() {
        if let (Some(value), false) = (value.as_str(), matches!(name.as_str(), "scale" | "connect.decimal.precision")) {
            parameters.insert(name.clone(), value.to_owned());
        }
    }
    let name = connect_name(json, namespace).filter(|name| !name.starts_with(logical));
    column.marks = ConnectMarks { name, parameters, default: None };
    column
}

const NO_ENTRIES: &str =
    "Found map encoded as array of key-value pairs, but array elements do not match the expected format.";

fn is_map_entry(definition: &Value, namespace: &str) -> bool {
    let is_record = definition["type"] == "record";
    let is_named = definition["name"] == "MapEntry" && own_namespace(definition, namespace) == CONNECT_NAMESPACE;
    is_record && (is_named || definition["connect.internal.type"] == "MapEntry")
}

pub(crate) fn symbols(json: &Value) -> Result<Vec<Box<str>>, String> {
    let symbols = json["symbols"].as_array().ok_or_else(|| unknown(json))?;
    Ok(symbols.iter().filter_map(Value::as_str).map(Into::into).collect())
}

pub(crate) fn fixed_size(json: &Value) -> Result<usize, String> {
    json["size"].as_u64().and_then(|size| usize::try_from(size).ok()).ok_or_else(|| unknown(json))
}

fn connect_int(json: &Value) -> Result<DataType, String> {
    match json["connect.type"].as_str() {
        None | Some("int32") => Ok(DataType::Int32),
        Some("int8") => Ok(DataType::Int8),
        Some("int16") => Ok(DataType::Int16),
        Some(other) => Err(format!("Connect type annotation for Avro int field is {other}")),
    }
}

fn decimal(json: &Value) -> Result<DataType, String> {
    let scale = match &json["scale"] {
        Value::Null => 0,
        scale => scale.as_i64().ok_or("scale must be specified and must be a number.")?,
    };
    let precision = match &json["precision"] {
        Value::Null => DEFAULT_PRECISION,
        precision => precision.as_u64().ok_or("precision property must be a JSON Integer.")?,
    };
    decimal_type(precision, scale).map_err(|error| error.to_string())
}

pub(crate) fn unknown(json: &Value) -> String {
    format!("the schema has an unknown type {}", excerpt(json.to_string().as_bytes()))
}

/// Whether a datum may take no byte: a number of those is not bounded by the size of the record.
fn takes_no_bytes(plan: &Plan) -> bool {
    match plan {
        Plan::Fixed(size) => *size == 0,
        Plan::Record(fields) => fields.iter().all(|field| takes_no_bytes(&field.plan)),
        Plan::Json(_) | Plan::Resolved(_) => true,
        Plan::Boolean
        | Plan::Int
        | Plan::Long
        | Plan::Float
        | Plan::Double
        | Plan::Bytes
        | Plan::Enum(_)
        | Plan::Array(_)
        | Plan::Map(_)
        | Plan::Entries(_)
        | Plan::Optional { .. }
        | Plan::Single(_)
        | Plan::Union(_) => false,
    }
}
