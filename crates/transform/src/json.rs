//! Values of columns as JSON, for the few places where a typed value becomes part of a schemaless one.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, UInt64Type};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::cast::text_column;

/// The value in `row`, as JsonConverter writes it without a schema: bytes in base64, moments in milliseconds, dates in
/// days, decimals as texts.
pub(crate) fn json_value(column: &ArrayRef, row: usize) -> Result<Value, String> {
    if column.is_null(row) || column.data_type() == &DataType::Null {
        return Ok(Value::Null);
    }
    let one = column.slice(row, 1);
    let to = |data_type: &DataType| {
        cast(&one, data_type).map_err(|error| format!("the value cannot be written as JSON: {error}"))
    };
    Ok(match column.data_type() {
        DataType::Boolean => one.as_boolean().value(0).into(),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let number = to(&DataType::Float64)?.as_primitive::<Float64Type>().value(0);
            serde_json::Number::from_f64(number).map_or_else(|| Value::from(number.to_string()), Value::Number)
        }
        DataType::UInt64 => one.as_primitive::<UInt64Type>().value(0).into(),
        whole if whole.is_integer() => to(&DataType::Int64)?.as_primitive::<Int64Type>().value(0).into(),
        DataType::Date32 => json_value(&to(&DataType::Int32)?, 0)?,
        DataType::Timestamp(_, zone) => {
            let moment = to(&DataType::Timestamp(TimeUnit::Millisecond, zone.clone()))?;
            json_value(&cast(&moment, &DataType::Int64).map_err(|error| error.to_string())?, 0)?
        }
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView => {
            STANDARD.encode(to(&DataType::Binary)?.as_binary::<i32>().value(0)).into()
        }
        DataType::Struct(fields) => {
            let columns = one.as_struct().columns();
            let made =
                fields.iter().zip(columns).map(|(field, inner)| Ok((field.name().clone(), json_value(inner, 0)?)));
            Value::Object(made.collect::<Result<Map<String, Value>, String>>()?)
        }
        DataType::List(_) => items(&one.as_list::<i32>().value(0))?,
        DataType::LargeList(_) => items(&one.as_list::<i64>().value(0))?,
        DataType::Map(..) => entries(&one)?,
        _text_time_or_decimal => text_column(&one)?.as_string::<i32>().value(0).into(),
    })
}

fn items(list: &ArrayRef) -> Result<Value, String> {
    (0..list.len()).map(|row| json_value(list, row)).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

/// The one map of `map`: keys that are no texts are written as their JSON.
fn entries(map: &ArrayRef) -> Result<Value, String> {
    let map = map.as_map();
    let entries = map.value(0);
    let (keys, values) = (entries.column(0), entries.column(1));
    let entry = |row: usize| {
        let name = match json_value(keys, row)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        Ok((name, json_value(values, row)?))
    };
    (0..entries.len()).map(entry).collect::<Result<Map<String, Value>, String>>().map(Value::Object)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::values::testing::{columns, ints, texts};
    use arrow::array::{BinaryArray, Date32Array, Int64Builder, ListArray, MapBuilder, StringBuilder};
    use arrow::array::{Float32Array, TimestampMicrosecondArray};
    use arrow::datatypes::Int64Type;

    #[test]
    fn every_kind_of_column_has_json() {
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        map.keys().append_value("k");
        map.values().append_value(1);
        map.append(true).unwrap();
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1), None])]);
        let made: ArrayRef = Arc::new(columns(vec![
            ("number", ints(vec![Some(7)])),
            ("text", texts(vec![Some("x")])),
            ("none", texts(vec![None])),
            ("bytes", Arc::new(BinaryArray::from(vec![&b"abc"[..]]))),
            ("single", Arc::new(Float32Array::from(vec![0.5]))),
            ("day", Arc::new(Date32Array::from(vec![3]))),
            ("moment", Arc::new(TimestampMicrosecondArray::from(vec![5000]).with_timezone("UTC"))),
            ("list", Arc::new(list)),
            ("map", Arc::new(map.finish())),
        ]));
        assert_eq!(
            json_value(&made, 0).unwrap().to_string(),
            r#"{"number":7,"text":"x","none":null,"bytes":"YWJj","single":0.5,"day":3,"moment":5,"list":[1,null],"map":{"k":1}}"#
        );
    }
}
