//! The statistics of an `add`: how many rows a file has, and the nulls and bounds of its first columns. Pure.

use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, ToSpan};
use serde_json::{Map, Number, Value, json};
use writer::{Bound, FileStatistics};

use crate::action::Metadata;

/// Columns that have statistics when the table does not say.
const INDEXED_COLUMNS: usize = 32;

/// Letters of a text that a bound has.
const TEXT_LETTERS: usize = 32;

/// Digits of a number that JSON readers keep.
const EXACT_DIGITS_MAX: u32 = 15;

/// Greater than any other letter.
const LAST_LETTER: char = '\u{10ffff}';

/// The text of `stats`. Columns are those of the table: its first 32 outside of lists and maps, or what its properties
/// `delta.dataSkippingNumIndexedCols` and `delta.dataSkippingStatsColumns` say.
pub(crate) fn stats(statistics: &FileStatistics, table: &Value, metadata: &Metadata) -> String {
    let indexed = Indexed::new(table, metadata);
    let (mut mins, mut maxs, mut nulls) = (Map::new(), Map::new(), Map::new());
    for column in statistics.columns.iter().filter(|column| indexed.has(&column.path)) {
        if let Some(count) = column.nulls {
            insert(&mut nulls, &column.path, json!(count));
        }
        if let Some(min) = column.min.as_ref().and_then(|bound| value(bound, false)) {
            insert(&mut mins, &column.path, min);
        }
        if let Some(max) = column.max.as_ref().and_then(|bound| value(bound, true)) {
            insert(&mut maxs, &column.path, max);
        }
    }
    json!({"numRecords": statistics.rows, "minValues": mins, "maxValues": maxs, "nullCount": nulls}).to_string()
}

/// The columns that have statistics.
enum Indexed {
    /// These, which come first in the table.
    Leaves(Vec<Vec<String>>),
    /// These and what is in them.
    Named(Vec<Vec<String>>),
}

impl Indexed {
    fn new(table: &Value, metadata: &Metadata) -> Indexed {
        if let Some(names) = metadata.property("delta.dataSkippingStatsColumns") {
            let path = |name: &str| name.split('.').map(|part| part.trim().trim_matches('`').to_owned()).collect();
            return Indexed::Named(names.split(',').map(path).collect());
        }
        let count =
            metadata.property("delta.dataSkippingNumIndexedCols").and_then(|text| text.trim().parse::<i64>().ok());
        let count = count.map_or(INDEXED_COLUMNS, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let (mut leaves, in_paths) = (Vec::new(), metadata.partition_columns());
        for field in fields(table) {
            if !in_paths.iter().any(|name| Some(name.as_str()) == field.get("name").and_then(Value::as_str)) {
                add_leaves(field, &mut Vec::new(), &mut leaves);
            }
        }
        leaves.truncate(count);
        Indexed::Leaves(leaves)
    }

    fn has(&self, path: &[String]) -> bool {
        match self {
            Indexed::Leaves(leaves) => leaves.iter().any(|leaf| leaf == path),
            Indexed::Named(names) => names.iter().any(|name| path.starts_with(name)),
        }
    }
}

fn fields(data_type: &Value) -> impl Iterator<Item = &Value> {
    data_type.get("fields").and_then(Value::as_array).into_iter().flatten()
}

fn add_leaves(field: &Value, path: &mut Vec<String>, leaves: &mut Vec<Vec<String>>) {
    path.push(field.get("name").and_then(Value::as_str).unwrap_or_default().to_owned());
    match field.get("type") {
        Some(data_type) if data_type.get("type").and_then(Value::as_str) == Some("struct") => {
            fields(data_type).for_each(|field| add_leaves(field, path, leaves));
        }
        Some(_) | None => leaves.push(path.clone()),
    }
    path.pop();
}

fn insert(map: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => {
            map.insert(name.clone(), value);
        }
        [name, rest @ ..] => {
            if let Value::Object(inner) = map.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())) {
                insert(inner, rest, value);
            }
        }
    }
}

/// The bound as JSON, moved away from the values where JSON cannot have it exactly; `None` where it cannot be had at all.
fn value(bound: &Bound, is_max: bool) -> Option<Value> {
    match bound {
        Bound::Integer(value) => Some(json!(value)),
        Bound::Float(value) => Number::from_f64(f64::from(*value)).map(Value::Number),
        Bound::Double(value) => Number::from_f64(*value).map(Value::Number),
        Bound::Text(value) => text(value, is_max).map(Value::String),
        Bound::Date(days) => date(*days).map(Value::String),
        Bound::Timestamp { micros, utc } => time(*micros, *utc, is_max).map(Value::String),
        Bound::Decimal { unscaled, scale } => decimal(*unscaled, *scale),
    }
}

fn text(value: &str, is_max: bool) -> Option<String> {
    let Some((cut, next)) = value.char_indices().nth(TEXT_LETTERS) else { return Some(value.to_owned()) };
    let mut text = value[..cut].to_owned();
    if is_max {
        if next == LAST_LETTER {
            return None;
        }
        text.push(LAST_LETTER);
    }
    Some(text)
}

fn date(days: i32) -> Option<String> {
    let date = Date::constant(1970, 1, 1).checked_add(i64::from(days).days()).ok()?;
    (date.year() > 0).then(|| date.to_string())
}

/// Milliseconds are what all readers keep.
fn time(micros: i64, utc: bool, is_max: bool) -> Option<String> {
    let millis = micros.div_euclid(1_000) + i64::from(is_max && micros.rem_euclid(1_000) > 0);
    let time: DateTime = Timestamp::from_millisecond(millis).ok()?.to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let zone = if utc { "Z" } else { "" };
    (time.year() > 0).then(|| format!("{}{zone}", time.strftime("%Y-%m-%dT%H:%M:%S%.3f")))
}

fn decimal(unscaled: i128, scale: u8) -> Option<Value> {
    let is_exact = unscaled.unsigned_abs() < 10u128.pow(EXACT_DIGITS_MAX) && u32::from(scale) <= EXACT_DIGITS_MAX;
    let scaled = i64::try_from(unscaled).ok().filter(|_| is_exact)? as f64 / 10f64.powi(i32::from(scale));
    Number::from_f64(scaled).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use writer::ColumnStatistics;

    fn column(path: &[&str], nulls: u64, min: Option<Bound>, max: Option<Bound>) -> ColumnStatistics {
        ColumnStatistics { path: path.iter().map(|part| (*part).to_owned()).collect(), nulls: Some(nulls), min, max }
    }

    fn table(names: &[&str]) -> Value {
        let fields: Vec<Value> = names.iter().map(|name| json!({"name": name, "type": "long"})).collect();
        json!({"type": "struct", "fields": fields})
    }

    fn metadata(properties: Value, partition_columns: &[&str]) -> Metadata {
        let Value::Object(properties) = properties else { panic!("{properties}") };
        let partition_columns: Vec<String> = partition_columns.iter().map(|name| (*name).to_owned()).collect();
        Metadata::new("t", &table(&[]), &partition_columns, properties, 0)
    }

    #[test]
    fn bounds_are_written_as_other_writers_write_them() {
        let micros = 1_700_000_000_123_456;
        let time = |utc| Some(Bound::Timestamp { micros, utc });
        let long = Some(Bound::Text("ä".repeat(40)));
        let columns = vec![
            column(&["i"], 1, Some(Bound::Integer(-1)), Some(Bound::Integer(7))),
            column(&["f"], 0, Some(Bound::Float(0.5)), None),
            column(&["d"], 0, Some(Bound::Double(f64::NEG_INFINITY)), Some(Bound::Double(1.25))),
            column(&["t"], 0, time(true), time(true)),
            column(&["n"], 0, time(false), time(false)),
            column(&["day"], 0, Some(Bound::Date(-1)), Some(Bound::Date(19_000))),
            column(&["s", "x"], 2, Some(Bound::Text("short".into())), Some(Bound::Text("z".into()))),
            column(&["s", "y"], 0, long.clone(), long),
            column(
                &["dec"],
                0,
                Some(Bound::Decimal { unscaled: -1234, scale: 2 }),
                Some(Bound::Decimal { unscaled: i128::MAX, scale: 0 }),
            ),
            column(&["bin"], 3, None, None),
        ];
        let table = json!({"type": "struct", "fields": [
            {"name": "i", "type": "long"}, {"name": "f", "type": "float"}, {"name": "d", "type": "double"},
            {"name": "t", "type": "timestamp"}, {"name": "n", "type": "timestamp_ntz"}, {"name": "day", "type": "date"},
            {"name": "s", "type": {"type": "struct", "fields": [{"name": "x", "type": "string"}, {"name": "y", "type": "string"}]}},
            {"name": "dec", "type": "decimal(38,2)"}, {"name": "bin", "type": "binary"}]});
        let text = stats(&FileStatistics { rows: 9, columns }, &table, &metadata(json!({}), &[]));
        let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&text).unwrap()).unwrap();
        expect![[r#"
            {
              "numRecords": 9,
              "minValues": {
                "i": -1,
                "f": 0.5,
                "t": "2023-11-14T22:13:20.123Z",
                "n": "2023-11-14T22:13:20.123",
                "day": "1969-12-31",
                "s": {
                  "x": "short",
                  "y": "ääääääääääääääääääääääääääääääää"
                },
                "dec": -12.34
              },
              "maxValues": {
                "i": 7,
                "d": 1.25,
                "t": "2023-11-14T22:13:20.124Z",
                "n": "2023-11-14T22:13:20.124",
                "day": "2022-01-08",
                "s": {
                  "x": "z",
                  "y": "ääääääääääääääääääääääääääääääää􏿿"
                }
              },
              "nullCount": {
                "i": 1,
                "f": 0,
                "d": 0,
                "t": 0,
                "n": 0,
                "day": 0,
                "s": {
                  "x": 2,
                  "y": 0
                },
                "dec": 0,
                "bin": 3
              }
            }"#]]
        .assert_eq(&pretty);
    }

    fn with_statistics(names: &[&str], metadata: &Metadata) -> Vec<String> {
        let columns = names.iter().map(|name| column(&[name], 0, None, None)).collect();
        let text = stats(&FileStatistics { rows: 1, columns }, &table(names), metadata);
        let value: Value = serde_json::from_str(&text).unwrap();
        value["nullCount"].as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn the_first_columns_or_those_that_the_table_names_have_statistics() {
        let names: Vec<String> = (0..40).map(|number| format!("c{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(with_statistics(&names, &metadata(json!({}), &[])), names[..32]);
        assert_eq!(with_statistics(&names, &metadata(json!({}), &["c0"])), names[1..33], "c0 is in paths");
        let property = |name: &str, value: &str| metadata(json!({name: value}), &[]);
        assert_eq!(with_statistics(&names, &property("delta.dataSkippingNumIndexedCols", "2")), names[..2]);
        assert_eq!(with_statistics(&names, &property("delta.dataSkippingNumIndexedCols", "-1")), names);
        assert_eq!(with_statistics(&names, &property("delta.dataSkippingStatsColumns", "`c39`, c7")), ["c7", "c39"]);
    }
}
