//! Names of Avro schemas: what a name means, in which namespace.

use std::collections::HashMap;

use serde_json::Value;

use crate::table_schema::DEPTH_MAX;

pub(crate) fn json(text: &str) -> Result<Value, String> {
    // The registry also gives primitives as bare words.
    match serde_json::from_str(text) {
        Ok(json) => Ok(json),
        Err(_) if is_primitive(text.trim()) => Ok(Value::String(text.trim().to_owned())),
        Err(error) => Err(format!("the schema is no JSON: {error}")),
    }
}

pub(crate) fn is_primitive(name: &str) -> bool {
    matches!(name, "null" | "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string")
}

/// The name of Connect's schema: `connect.name`, or that of the record or enum.
pub(crate) fn connect_name(root: &Value, namespace: &str) -> Option<String> {
    let name = match (root["connect.name"].as_str(), root["type"].as_str()) {
        (Some(name), _) => Some(name.to_owned()),
        (None, Some("record" | "error" | "enum")) => {
            root["name"].as_str().map(|name| full_name(name, own_namespace(root, namespace)))
        }
        (None, _) => None,
    };
    name.filter(|name| name != "io.confluent.connect.avro.ConnectDefault")
}

/// The namespace of a definition: that of its name, its own, or the enclosing one.
pub(crate) fn own_namespace<'j>(definition: &'j Value, enclosing: &'j str) -> &'j str {
    let name = definition["name"].as_str().unwrap_or_default();
    match (name.rsplit_once('.'), definition["namespace"].as_str()) {
        (Some((namespace, _)), _) => namespace,
        (None, Some(namespace)) => namespace,
        (None, None) => enclosing,
    }
}

pub(crate) fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

/// Every type of a schema and its references that has a name, with the namespace around its definition.
#[derive(Default)]
pub(crate) struct Named {
    pub(crate) types: HashMap<String, (Value, String)>,
}

impl Named {
    pub(crate) fn collect(&mut self, json: &Value, namespace: &str, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX * 4 {
            return Err(format!("the schema nests deeper than {DEPTH_MAX} levels"));
        }
        match json {
            Value::Array(branches) => branches.iter().try_for_each(|branch| self.collect(branch, namespace, depth + 1)),
            Value::Object(_) => {
                let mut inner = namespace;
                if let ("record" | "error" | "enum" | "fixed", Some(name)) =
                    (json["type"].as_str().unwrap_or_default(), json["name"].as_str())
                {
                    inner = own_namespace(json, namespace);
                    let definition = (json.clone(), namespace.to_owned());
                    self.types.entry(full_name(name, inner)).or_insert(definition);
                }
                for field in json["fields"].as_array().into_iter().flatten() {
                    self.collect(&field["type"], inner, depth + 1)?;
                }
                ["type", "items", "values"].iter().try_for_each(|part| match &json[part] {
                    nested @ (Value::Object(_) | Value::Array(_)) => self.collect(nested, namespace, depth + 1),
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    pub(crate) fn find(&self, name: &str, namespace: &str) -> Option<(&Value, &str)> {
        let found = self.types.get(&full_name(name, namespace)).or_else(|| self.types.get(name))?;
        Some((&found.0, &found.1))
    }

    /// The definition behind names and `{"type": {...}}`.
    pub(crate) fn resolve<'n>(&'n self, mut json: &'n Value, mut namespace: &'n str) -> Option<(&'n Value, &'n str)> {
        for _ in 0..DEPTH_MAX {
            match json {
                Value::String(name) if is_primitive(name) => return Some((json, namespace)),
                Value::String(name) => (json, namespace) = self.find(name, namespace)?,
                Value::Object(_) => match &json["type"] {
                    inner @ Value::Object(_) => json = inner,
                    Value::String(name) if !is_primitive(name) && !is_complex(name) => {
                        (json, namespace) = self.find(name, namespace)?;
                    }
                    Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                        return Some((json, namespace));
                    }
                },
                Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) => return Some((json, namespace)),
            }
        }
        None
    }
}

pub(crate) fn is_complex(name: &str) -> bool {
    matches!(name, "record" | "error" | "enum" | "fixed" | "array" | "map")
}
