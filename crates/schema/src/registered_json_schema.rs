//! JSON Schemas of a registry: the columns that `io.confluent.connect.json.JsonSchemaData` makes of them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use model::{ConnectMarks, Parameters, whole_value_field};
use serde_json::{Map, Value};

use crate::connect_schema::DECIMAL_PRECISION_DEFAULT;
use crate::registry::Registered;
use crate::struct_column::{as_json_text, as_union};
use crate::table_schema::{DEPTH_MAX, FIELDS_MAX, decimal_type, element_field, map_type, timestamp};
use crate::{SchemaError, TableSchema};

const NAMESPACE: &str = "io.confluent.connect.json";

/// The keys that change which columns a schema has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonSchemaOptions {
    /// `generalized.sum.type.support`: unions and enums have general names.
    pub(crate) general_names: bool,
    /// `flatten.singleton.unions`: a union of one type is that type.
    pub(crate) flatten_singletons: bool,
    /// `union.names=legal`: fields of unions have names without dots.
    pub(crate) legal_names: bool,
    /// `recursive.types=json`: what refers to itself becomes JSON text.
    pub(crate) recursive_as_json: bool,
}

/// What a schema makes of a value.
#[derive(Debug)]
pub(crate) struct JsonSchemaColumns {
    pub(crate) schema: TableSchema,
    /// The fields with their marks, for who reads the JSON.
    pub(crate) fields: Fields,
    /// Whether they are the branches of a union and not properties of an object.
    pub(crate) is_union: bool,
    /// The name of Connect's schema.
    pub(crate) name: Option<String>,
    /// The version that the schema states itself.
    pub(crate) version: Option<i32>,
    /// What a null stands for.
    pub(crate) default: Option<Value>,
}

/// Reads a JSON Schema of the registry, with the schemas that it refers to by their names. A value that is no object is
/// one column.
pub(crate) fn columns(registered: &Registered, options: JsonSchemaOptions) -> Result<JsonSchemaColumns, SchemaError> {
    let parse = |text: &str| -> Result<Value, SchemaError> {
        serde_json::from_str(text).map_err(|error| SchemaError(format!("schema is not valid JSON: {error}")))
    };
    let root = parse(&registered.text)?;
    let others = registered.references.iter().map(|other| Ok((other.name.clone(), parse(&other.text)?)));
    let others = others.collect::<Result<Vec<_>, SchemaError>>()?;
    let mut reader = Reader { others: &others, options, open: Vec::new(), count: 0, unions: 0 };
    let shape = reader.shape(Place { root: &root, json: &root })?;
    let is_union = shape.is_union;
    let fields = match shape.data_type {
        DataType::Struct(fields) => fields,
        other => Fields::from(vec![whole_value_field(other)]),
    };
    let version = root.get("connect.version").and_then(Value::as_i64);
    Ok(JsonSchemaColumns {
        schema: TableSchema::new(&fields)?,
        fields,
        is_union,
        name: shape.marks.name,
        version: version.and_then(|version| i32::try_from(version).ok()),
        default: shape.marks.default,
    })
}

/// A schema where it stands: pointers begin at its root.
#[derive(Clone, Copy)]
struct Place<'j> {
    root: &'j Value,
    json: &'j Value,
}

/// A type, whether it may be null, and what else its schema says.
struct Shape {
    data_type: DataType,
    nullable: bool,
    marks: ConnectMarks,
    is_union: bool,
    is_json_text: bool,
}

impl Shape {
    fn of(data_type: DataType) -> Shape {
        let marks = ConnectMarks::default();
        Shape { data_type, nullable: false, marks, is_union: false, is_json_text: false }
    }

    fn field(self, name: &str, nullable: bool) -> Field {
        let field = self.marks.mark(Field::new(name, self.data_type, nullable || self.nullable));
        match (self.is_union, self.is_json_text) {
            (true, _) => as_union(field),
            (false, true) => as_json_text(field),
            (false, false) => field,
        }
    }
}

struct Reader<'j> {
    others: &'j [(String, Value)],
    options: JsonSchemaOptions,
    /// Objects that are being read, outermost first; by address, since a schema has no name.
    open: Vec<*const Value>,
    count: usize,
    unions: usize,
}

impl<'j> Reader<'j> {
    fn shape(&mut self, place: Place<'j>) -> Result<Shape, SchemaError> {
        self.count += 1;
        if self.count > FIELDS_MAX {
            return Err(SchemaError(format!("the schema has more than {FIELDS_MAX} fields")));
        }
        let address: *const Value = place.json;
        if self.open.contains(&address) {
            return self.recursive();
        }
        if self.open.len() > 4 * DEPTH_MAX {
            return Err(SchemaError("types nest too deeply".to_owned()));
        }
        self.open.push(address);
        let shape = self.shape_of(place);
        self.open.pop();
        let mut shape = shape?;
        let json = place.json;
        let text = |key: &str| json.get(key).and_then(Value::as_str);
        let logical = "org.apache.kafka.connect.data.";
        if let (None, Some(title)) = (&shape.marks.name, text("title").filter(|title| !title.starts_with(logical))) {
            shape.marks.name = Some(title.to_owned());
        }
        let own = json.get("connect.parameters").and_then(Value::as_object).into_iter().flatten();
        for (name, value) in own.filter(|(name, _)| !matches!(name.as_str(), "scale" | "connect.decimal.precision")) {
            shape.marks.parameters.extend(value.as_str().map(|value| (name.clone(), value.to_owned())));
        }
        if let Some(default) = json.get("default").filter(|default| !default.is_null()) {
            shape.marks.default = Some(default.clone());
        }
        Ok(shape)
    }

    fn recursive(&self) -> Result<Shape, SchemaError> {
        if !self.options.recursive_as_json {
            return Err(SchemaError(
                "a type refers to itself, which columns cannot; set value.converter.recursive.types=json to have it as JSON \
                 text there"
                    .to_owned(),
            ));
        }
        Ok(Shape { nullable: true, is_json_text: true, ..Shape::of(DataType::Utf8) })
    }

    fn shape_of(&mut self, place: Place<'j>) -> Result<Shape, SchemaError> {
        let json = place.json;
        if let Some(reference) = json.get("$ref").and_then(Value::as_str) {
            return self.shape(self.target(place, reference)?);
        }
        let properties = self.properties(place, 0)?;
        if !properties.is_empty() {
            return self.object(json, properties);
        }
        if let Some(branches) = ["oneOf", "anyOf"].iter().find_map(|key| json.get(key)).and_then(Value::as_array) {
            let branches = branches.iter().map(|json| Place { json, ..place }).collect();
            return self.union(branches);
        }
        if let Some(parts) = json.get("allOf").and_then(Value::as_array) {
            return self.one_of_all(parts.iter().map(|json| Place { json, ..place }).collect());
        }
        match json.get("type") {
            Some(Value::String(name)) => self.typed(place, name),
            Some(Value::Array(names)) => {
                let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
                self.types(place, &names)
            }
            Some(_) => Err(SchemaError("\"type\" must be a name or a list of names".to_owned())),
            None => untyped(json, self.options),
        }
    }

    /// Where a reference leads.
    fn target(&self, place: Place<'j>, reference: &str) -> Result<Place<'j>, SchemaError> {
        let (name, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        let own_id = place.root.get("$id").and_then(Value::as_str);
        let root = if name.is_empty() || own_id == Some(name) {
            place.root
        } else {
            let is_it = |(known, json): &&(String, Value)| {
                known == name || json.get("$id").and_then(Value::as_str) == Some(name)
            };
            let found = self.others.iter().find(is_it);
            &found.ok_or_else(|| SchemaError(format!("$ref {reference} is not in this schema")))?.1
        };
        let json = if pointer.is_empty() { Some(root) } else { root.pointer(pointer) };
        json.map(|json| Place { root, json }).ok_or_else(|| SchemaError(format!("$ref {reference} leads nowhere")))
    }

    /// The properties of an object, those of all parts of `allOf` together; with whether each is required.
    fn properties(&self, place: Place<'j>, depth: usize) -> Result<Properties<'j>, SchemaError> {
        let mut all = Properties::new();
        if depth > DEPTH_MAX {
            return Ok(all);
        }
        let json = place.json;
        if is_map(json) {
            return Ok(all);
        }
        for part in json.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            let part = match part.get("$ref").and_then(Value::as_str) {
                Some(reference) => self.target(place, reference)?,
                None => Place { json: part, ..place },
            };
            all.extend(self.properties(part, depth + 1)?);
        }
        let Some(properties) = json.get("properties") else { return Ok(all) };
        let properties = properties.as_object().ok_or_else(|| SchemaError("\"properties\" is no object".to_owned()))?;
        let required = json.get("required").and_then(Value::as_array);
        let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|known| known == name));
        all.extend(properties.iter().map(|(name, json)| (name, Place { json, ..place }, is_required(name))));
        // The last word on a property counts, where it was first.
        let mut known = Properties::new();
        for (name, place, required) in all {
            match known.iter_mut().find(|(other, _, _)| *other == name) {
                Some(before) => *before = (name, place, required),
                None => known.push((name, place, required)),
            }
        }
        Ok(known)
    }

    fn object(&mut self, json: &Value, properties: Properties<'j>) -> Result<Shape, SchemaError> {
        let mut sorted: Vec<(i64, Properties<'j>)> = Vec::with_capacity(properties.len());
        for (position, property) in properties.into_iter().enumerate() {
            let index = property.1.json.get("connect.index").and_then(Value::as_i64);
            sorted.push((index.unwrap_or(position as i64), vec![property]));
        }
        sorted.sort_by_key(|(index, _)| *index);
        let mut fields = Vec::with_capacity(sorted.len());
        for (name, place, required) in sorted.into_iter().flat_map(|(_, property)| property) {
            let shape = self.shape(place).map_err(|error| SchemaError(format!("property {name}: {error}")))?;
            fields.push(Arc::new(shape.field(name, !required)));
        }
        let nullable =
            json.get("type").and_then(Value::as_array).is_some_and(|names| names.iter().any(|n| n == "null"));
        Ok(Shape { nullable, ..Shape::of(DataType::Struct(fields.into())) })
    }

    /// `oneOf`, `anyOf` or a list of types: a struct with a field for each branch.
    fn union(&mut self, branches: Vec<Place<'j>>) -> Result<Shape, SchemaError> {
        let mut others: Vec<Place<'j>> = branches.iter().copied().filter(|branch| !is_null(branch.json)).collect();
        let nullable = others.len() < branches.len();
        if let ([only], true) = (&others[..], branches.len() == 2 || self.options.flatten_singletons) {
            let only = *only;
            let shape = self.shape(only)?;
            return Ok(Shape { nullable: shape.nullable || nullable, ..shape });
        }
        // Upstream's parser has those first that are unions themselves.
        others.sort_by_key(|branch| !is_combined(branch.json));
        let mut shapes = Vec::with_capacity(others.len());
        for (index, branch) in others.into_iter().enumerate() {
            shapes.push(self.shape(branch).map_err(|error| SchemaError(format!("branch {index}: {error}")))?);
        }
        self.union_of(shapes, nullable)
    }

    fn union_of(&mut self, branches: Vec<Shape>, nullable: bool) -> Result<Shape, SchemaError> {
        if branches.is_empty() {
            return Err(SchemaError("a type of nothing but null has no column".to_owned()));
        }
        let (name, prefix) = match (self.options.general_names, self.options.legal_names) {
            (true, _) => (format!("connect_union_{}", self.unions), "connect_union_field_".to_owned()),
            (false, false) => (format!("{NAMESPACE}.OneOf"), format!("{NAMESPACE}.OneOf.field.")),
            (false, true) => (format!("{NAMESPACE}.OneOf"), format!("{NAMESPACE}.OneOf.field.").replace('.', "_")),
        };
        self.unions += 1;
        let named = |(index, shape): (usize, Shape)| Arc::new(shape.field(&format!("{prefix}{index}"), true));
        let fields: Fields = branches.into_iter().enumerate().map(named).collect();
        let mut parameters = Parameters::new();
        if self.options.general_names {
            parameters.insert("org.apache.kafka.connect.data.Union".to_owned(), name.clone());
        }
        let marks = ConnectMarks { name: Some(name), parameters, default: None };
        Ok(Shape { nullable, marks, is_union: true, ..Shape::of(DataType::Struct(fields)) })
    }

    /// `allOf` without properties: the part that says most.
    fn one_of_all(&mut self, parts: Vec<Place<'j>>) -> Result<Shape, SchemaError> {
        let says = |part: &Place<'j>| match part.json {
            json if is_combined(json) => 0,
            json if json.get("enum").is_some() => {
                let all = json.get("enum").and_then(Value::as_array);
                if all.is_some_and(|all| all.iter().all(Value::is_string)) { 1 } else { 5 }
            }
            json if json.get("type").is_some() => 2,
            json if json.get("$ref").is_some() => 3,
            json if json.get("const").is_some() => 4,
            _ => 5,
        };
        match parts.into_iter().min_by_key(says).filter(|part| says(part) < 5) {
            Some(part) => self.shape(part),
            None => Err(SchemaError("an \"allOf\" says no type".to_owned())),
        }
    }

    /// A list of types.
    fn types(&mut self, place: Place<'j>, names: &[&str]) -> Result<Shape, SchemaError> {
        let nullable = names.contains(&"null");
        let others: Vec<&str> = names.iter().copied().filter(|name| *name != "null").collect();
        if let [only] = others[..] {
            let shape = self.typed(place, only)?;
            return Ok(Shape { nullable: nullable || shape.nullable, ..shape });
        }
        let mut shapes = Vec::with_capacity(others.len());
        for name in others {
            shapes.push(self.typed(place, name)?);
        }
        self.union_of(shapes, nullable)
    }

    fn typed(&mut self, place: Place<'j>, name: &str) -> Result<Shape, SchemaError> {
        let json = place.json;
        if let Some(found) = connect_type(json, name)? {
            return Ok(Shape::of(found));
        }
        Ok(match name {
            "boolean" => Shape::of(DataType::Boolean),
            "integer" => Shape::of(DataType::Int64),
            "number" => Shape::of(DataType::Float64),
            "string" => Shape { marks: enum_marks(json, self.options), ..Shape::of(DataType::Utf8) },
            "array" => self.array(place)?,
            "object" => {
                let values = json.get("additionalProperties").filter(|values| values.is_object());
                let values = values.ok_or_else(|| {
                    SchemaError("an object needs \"properties\", or \"additionalProperties\" with a type".to_owned())
                })?;
                let value = self.shape(Place { json: values, ..place })?.field("value", false);
                Shape::of(map_type(Field::new("key", DataType::Utf8, false), value))
            }
            "null" => return Err(SchemaError("a type of nothing but null has no column".to_owned())),
            other => return Err(SchemaError(format!("unknown type \"{other}\""))),
        })
    }

    fn array(&mut self, place: Place<'j>) -> Result<Shape, SchemaError> {
        let items = place.json.get("items").filter(|items| items.is_object());
        let items = items.ok_or_else(|| SchemaError("Array schema did not specify the items type".to_owned()))?;
        let entry = |name: &str| items.get("properties").and_then(|properties| properties.get(name));
        if let (true, Some(key), Some(value)) = (is_map(place.json), entry("key"), entry("value")) {
            let key = self.shape(Place { json: key, ..place })?.field("key", false);
            let value = self.shape(Place { json: value, ..place })?.field("value", false);
            return Ok(Shape::of(map_type(key, value)));
        }
        let element = self.shape(Place { json: items, ..place })?;
        let name = element_field(DataType::Null, true).name().clone();
        Ok(Shape::of(DataType::List(Arc::new(element.field(&name, false)))))
    }
}

/// Properties by name, each with where it stands and whether it is required.
type Properties<'j> = Vec<(&'j String, Place<'j>, bool)>;

fn is_null(json: &Value) -> bool {
    json.get("type").and_then(Value::as_str) == Some("null")
}

fn is_map(json: &Value) -> bool {
    json.get("connect.type").and_then(Value::as_str) == Some("map")
}

fn is_combined(json: &Value) -> bool {
    ["oneOf", "anyOf", "allOf"].iter().any(|key| json.get(key).is_some())
}

/// An enumeration or a constant says its type itself.
fn untyped(json: &Value, options: JsonSchemaOptions) -> Result<Shape, SchemaError> {
    if json.get("enum").and_then(Value::as_array).is_some_and(|all| all.iter().all(Value::is_string)) {
        return Ok(Shape { marks: enum_marks(json, options), ..Shape::of(DataType::Utf8) });
    }
    match json.get("const") {
        Some(Value::String(_)) => Ok(Shape::of(DataType::Utf8)),
        Some(_) | None => Err(SchemaError("a \"type\" is missing".to_owned())),
    }
}

/// The symbols of an enumeration as parameters.
fn enum_marks(json: &Value, options: JsonSchemaOptions) -> ConnectMarks {
    let Some(symbols) = json.get("enum").and_then(Value::as_array) else { return ConnectMarks::default() };
    let parameter = match options.general_names {
        true => "org.apache.kafka.connect.data.Enum".to_owned(),
        false => format!("{NAMESPACE}.Enum"),
    };
    let text = |symbol: &Value| match symbol {
        Value::Null => "<NULL>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut parameters = Parameters::from_iter([(parameter.clone(), String::new())]);
    for (index, symbol) in symbols.iter().enumerate() {
        let symbol = text(symbol);
        let value = if options.general_names { index.to_string() } else { symbol.clone() };
        parameters.insert(format!("{parameter}.{symbol}"), value);
    }
    ConnectMarks { name: None, parameters, default: None }
}

/// The type that Connect's own marks say.
fn connect_type(json: &Value, name: &str) -> Result<Option<DataType>, SchemaError> {
    let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default();
    Ok(Some(match (text("title"), text("connect.type")) {
        ("org.apache.kafka.connect.data.Date", _) => DataType::Date32,
        ("org.apache.kafka.connect.data.Time", _) => DataType::Time32(TimeUnit::Millisecond),
        ("org.apache.kafka.connect.data.Timestamp", _) => timestamp(TimeUnit::Millisecond, true),
        ("org.apache.kafka.connect.data.Decimal", _) => decimal(json)?,
        (_, "bytes") => DataType::Binary,
        (_, _) if !matches!(name, "integer" | "number") => return Ok(None),
        (_, "int8") => DataType::Int8,
        (_, "int16") => DataType::Int16,
        (_, "int32") => DataType::Int32,
        (_, "int64") => DataType::Int64,
        (_, "float32") => DataType::Float32,
        (_, "float64") => DataType::Float64,
        (_, "") => return Ok(None),
        (_, other) => return Err(SchemaError(format!("Unsupported type {other}"))),
    }))
}

fn decimal(json: &Value) -> Result<DataType, SchemaError> {
    let parameters = json.get("connect.parameters").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
    let number = |name: &str| {
        let value = parameters.get(name)?;
        value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_i64())
    };
    let scale = number("scale").unwrap_or(0);
    let widest = DECIMAL_PRECISION_DEFAULT.max(u64::try_from(scale).unwrap_or(0));
    let precision = number("connect.decimal.precision").and_then(|number| u64::try_from(number).ok());
    decimal_type(precision.unwrap_or(widest), scale)
}
