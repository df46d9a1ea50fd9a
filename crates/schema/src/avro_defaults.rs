//! Defaults of fields in Avro schemas: as datums, and as JsonConverter writes them.

use arrow::datatypes::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::avro_schema::Plan;
use crate::table_schema::map_fields;

/// The bytes that a text stands for in a default: one for each character.
fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

fn is_text(data_type: &DataType) -> bool {
    *data_type == DataType::Utf8
}

fn element_type(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(element) => Some(element.data_type()),
        DataType::Map(entries, _) => Some(map_fields(entries).1.data_type()),
        _ => None,
    }
}

fn field_type(data_type: &DataType, index: usize) -> Option<&DataType> {
    match data_type {
        DataType::Struct(fields) => fields.get(index).map(|field| field.data_type()),
        _ => None,
    }
}

/// The default of a column as JsonConverter writes it. `None` where it does not fit its type, or is one of a union.
pub(crate) fn connect_default(json: &Value, plan: &Plan, data_type: &DataType) -> Option<Value> {
    Some(match (plan, json) {
        (Plan::Bytes | Plan::Fixed(_), Value::String(text)) if !is_text(data_type) => {
            STANDARD.encode(latin1(text)?).into()
        }
        (Plan::Bytes | Plan::Enum(_), Value::String(_)) => json.clone(),
        (Plan::Boolean, Value::Bool(_)) => json.clone(),
        (Plan::Int | Plan::Long, Value::Number(number)) if number.is_i64() => json.clone(),
        (Plan::Float | Plan::Double, Value::Number(_)) => json.clone(),
        (Plan::Array(element), Value::Array(values)) => {
            let element_type = element_type(data_type)?;
            values.iter().map(|value| connect_default(value, element, element_type)).collect::<Option<Vec<_>>>()?.into()
        }
        (Plan::Map(value_plan), Value::Object(entries)) => {
            let value_type = element_type(data_type)?;
            let one =
                |(key, value): (&String, &Value)| Some((key.clone(), connect_default(value, value_plan, value_type)?));
            entries.iter().map(one).collect::<Option<Map<_, _>>>()?.into()
        }
        (Plan::Record(fields), Value::Object(_)) => {
            let one = |(index, field): (usize, &crate::avro_schema::FieldPlan)| {
                let value = connect_default(&json[&*field.name], &field.plan, field_type(data_type, index)?)?;
                Some((field.name.to_string(), value))
            };
            fields.iter().enumerate().map(one).collect::<Option<Map<_, _>>>()?.into()
        }
        (Plan::Optional { .. }, Value::Null) => Value::Null,
        (Plan::Optional { inner, .. } | Plan::Single(inner), _) => connect_default(json, inner, data_type)?,
        (_, _) => return None,
    })
}

/// Writes a default as a datum. `None` where it does not fit its type: then there is no default.
pub(crate) fn encode_default(json: &Value, plan: &Plan, data_type: &DataType, datum: &mut Vec<u8>) -> Option<()> {
    let counted = |items: usize, datum: &mut Vec<u8>| i64::try_from(items).map(|items| put_long(items, datum)).ok();
    match plan {
        Plan::Boolean => datum.push(u8::from(json.as_bool()?)),
        Plan::Int => put_long(json.as_i64().filter(|number| i32::try_from(*number).is_ok())?, datum),
        Plan::Long => put_long(json.as_i64()?, datum),
        Plan::Float => datum.extend((json.as_f64()? as f32).to_le_bytes()),
        Plan::Double => datum.extend(json.as_f64()?.to_le_bytes()),
        Plan::Bytes => {
            let text = json.as_str()?;
            let bytes = if is_text(data_type) { text.as_bytes().to_vec() } else { latin1(text)? };
            counted(bytes.len(), datum)?;
            datum.extend(bytes);
        }
        Plan::Fixed(size) => datum.extend(latin1(json.as_str()?).filter(|bytes| bytes.len() == *size)?),
        Plan::Enum(symbols) => {
            let text = json.as_str()?;
            counted(symbols.iter().position(|symbol| **symbol == *text)?, datum)?;
        }
        Plan::Array(element) => {
            let (elements, element_type) = (json.as_array()?, element_type(data_type)?);
            if !elements.is_empty() {
                counted(elements.len(), datum)?;
                elements.iter().try_for_each(|one| encode_default(one, element, element_type, datum))?;
            }
            datum.push(0);
        }
        Plan::Map(value) => {
            let (entries, value_type) = (json.as_object()?, element_type(data_type)?);
            if !entries.is_empty() {
                counted(entries.len(), datum)?;
                for (key, one) in entries {
                    counted(key.len(), datum)?;
                    datum.extend(key.bytes());
                    encode_default(one, value, value_type, datum)?;
                }
            }
            datum.push(0);
        }
        Plan::Record(fields) => {
            for (index, field) in fields.iter().enumerate() {
                encode_default(&json[&*field.name], &field.plan, field_type(data_type, index)?, datum)?;
            }
        }
        Plan::Optional { null, inner, .. } => {
            put_long(if json.is_null() { *null } else { 1 - *null }, datum);
            if !json.is_null() {
                encode_default(json, inner, data_type, datum)?;
            }
        }
        Plan::Single(inner) => {
            datum.push(0);
            encode_default(json, inner, data_type, datum)?;
        }
        // What is resolved is what is on the wire; a default is of the reader's schema.
        Plan::Entries(_) | Plan::Union(_) | Plan::Json(_) | Plan::Resolved(_) => return None,
    }
    Some(())
}

fn put_long(number: i64, datum: &mut Vec<u8>) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        datum.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    datum.push(rest as u8);
}
