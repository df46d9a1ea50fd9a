//! Avro types that become JSON text, since they refer to themselves, or that are passed over: how they stand on the wire.

use serde_json::Value;

use crate::avro_names::{full_name, own_namespace};
use crate::avro_schema::{Compiler, fixed_size, symbols, unknown};

/// How a datum stands on the wire that becomes JSON text: types that refer to themselves included.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum JsonPlan {
    Null,
    Boolean,
    Number,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Vec<Box<str>>),
    Array(Box<JsonPlan>),
    Map(Box<JsonPlan>),
    Record(Vec<(Box<str>, JsonPlan)>),
    Union(Vec<JsonPlan>),
    Named(Box<str>),
}

impl Compiler<'_> {
    /// Makes sure that the type `name` and those it needs can be read as JSON.
    pub(crate) fn add_json(&mut self, name: &str) -> Result<(), String> {
        if self.as_json.contains_key(name) {
            return Ok(());
        }
        self.as_json.insert(name.into(), JsonPlan::Null);
        let named = self.named;
        let (definition, around) = named.find(name, "").ok_or_else(|| format!("the schema lacks the type {name}"))?;
        let plan = self.json_plan(definition, around)?;
        self.as_json.insert(name.into(), plan);
        Ok(())
    }

    pub(crate) fn json_plan(&mut self, json: &Value, namespace: &str) -> Result<JsonPlan, String> {
        let inner = match json {
            Value::Array(branches) => {
                let branches: Result<_, _> = branches.iter().map(|branch| self.json_plan(branch, namespace)).collect();
                return Ok(JsonPlan::Union(branches?));
            }
            Value::Object(_) => &json["type"],
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => json,
        };
        let Value::String(name) = inner else {
            return if inner == json { Err(unknown(json)) } else { self.json_plan(inner, namespace) };
        };
        Ok(match name.as_str() {
            "null" => JsonPlan::Null,
            "boolean" => JsonPlan::Boolean,
            "int" | "long" => JsonPlan::Number,
            "float" => JsonPlan::Float,
            "double" => JsonPlan::Double,
            "bytes" => JsonPlan::Bytes,
            "string" => JsonPlan::Text,
            "fixed" => JsonPlan::Fixed(fixed_size(json)?),
            "enum" => JsonPlan::Enum(symbols(json)?),
            "array" => {
                let element = self.json_plan(&json["items"], namespace)?;
                if matches!(element, JsonPlan::Null | JsonPlan::Fixed(0)) {
                    return Err("a list whose elements take no bytes is not supported".to_owned());
                }
                JsonPlan::Array(Box::new(element))
            }
            "map" => JsonPlan::Map(Box::new(self.json_plan(&json["values"], namespace)?)),
            "record" | "error" => {
                let namespace = own_namespace(json, namespace);
                let mut fields = Vec::new();
                for field in json["fields"].as_array().into_iter().flatten() {
                    let Some(name) = field["name"].as_str() else { return Err(unknown(field)) };
                    fields.push((name.into(), self.json_plan(&field["type"], namespace)?));
                }
                JsonPlan::Record(fields)
            }
            other => {
                let known = full_name(other, namespace);
                let known = if self.named.types.contains_key(&known) { known } else { other.to_owned() };
                self.add_json(&known)?;
                JsonPlan::Named(known.into())
            }
        })
    }
}
