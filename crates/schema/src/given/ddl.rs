//! Spark DDL: `a INT NOT NULL, b STRUCT<c: STRING, d: ARRAY<DOUBLE>>, e DECIMAL(10,2)`.

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use crate::SchemaError;
use crate::table_schema::{DEPTH_MAX, decimal_type, element_field, map_type, timestamp};

/// The columns of a table schema, or of one `STRUCT<...>`.
pub(super) fn read(text: &str) -> Result<Fields, SchemaError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let is_struct = text.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("struct"))
        && text[6..].trim_start().starts_with('<');
    if is_struct {
        let data_type = parser.data_type()?;
        parser.end()?;
        return match data_type {
            DataType::Struct(fields) => Ok(fields),
            other => unreachable!("STRUCT<...> is a struct, not {other}"),
        };
    }
    let fields = parser.columns(None)?;
    parser.end()?;
    Ok(fields)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    /// Columns separated by commas, up to `close` or the end of the text.
    fn columns(&mut self, close: Option<char>) -> Result<Fields, SchemaError> {
        let mut columns = Vec::new();
        if close.is_some_and(|close| self.peek() == Some(close)) {
            return Ok(columns.into());
        }
        loop {
            columns.push(self.column()?);
            if !self.eat(',') {
                return Ok(columns.into());
            }
        }
    }

    fn column(&mut self) -> Result<Field, SchemaError> {
        let name = self.name()?;
        self.eat(':');
        let data_type = self.data_type().map_err(|error| SchemaError(format!("column {name}: {error}")))?;
        let mut nullable = true;
        loop {
            let before = self.at;
            match self.word().to_ascii_uppercase().as_str() {
                "NOT" if self.word().eq_ignore_ascii_case("null") => nullable = false,
                "NULL" => {}
                "COMMENT" => self.quoted()?,
                _ => {
                    self.at = before;
                    return Ok(Field::new(name, data_type, nullable));
                }
            }
        }
    }

    fn data_type(&mut self) -> Result<DataType, SchemaError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX + 1 {
            return Err(self.error(&format!("types nest deeper than {DEPTH_MAX} levels")));
        }
        self.skip_space();
        let start = self.at;
        let word = self.word().to_ascii_uppercase();
        let data_type = match word.as_str() {
            "ARRAY" => {
                self.expect('<')?;
                let element = self.data_type()?;
                self.expect('>')?;
                DataType::List(element_field(element, true))
            }
            "MAP" => self.map()?,
            "STRUCT" => {
                self.expect('<')?;
                let fields = self.columns(Some('>'))?;
                self.expect('>')?;
                DataType::Struct(fields)
            }
            other => match self.scalar_type(other)? {
                Some(scalar) => scalar,
                None => {
                    self.at = start;
                    let rest = self.text[start..].chars();
                    let shown: String = rest.take_while(|c| !c.is_whitespace() && *c != ',').take(40).collect();
                    return Err(self.error(&format!("unknown type {shown}")));
                }
            },
        };
        self.depth -= 1;
        Ok(data_type)
    }

    /// The type that `word`, and the numbers that may follow it, stand for.
    fn scalar_type(&mut self, word: &str) -> Result<Option<DataType>, SchemaError> {
        Ok(Some(match word {
            "BOOLEAN" => DataType::Boolean,
            "TINYINT" | "BYTE" => DataType::Int8,
            "SMALLINT" | "SHORT" => DataType::Int16,
            "INT" | "INTEGER" => DataType::Int32,
            "BIGINT" | "LONG" => DataType::Int64,
            "FLOAT" | "REAL" => DataType::Float32,
            "DOUBLE" => DataType::Float64,
            "STRING" => DataType::Utf8,
            "VARCHAR" | "CHAR" | "CHARACTER" => {
                self.numbers()?;
                DataType::Utf8
            }
            "BINARY" => DataType::Binary,
            "DATE" => DataType::Date32,
            "TIME" => match self.numbers()?[..] {
                [3] => DataType::Time32(TimeUnit::Millisecond),
                _ => return Err(self.error("only TIME(3) is supported")),
            },
            "TIMESTAMP" | "TIMESTAMP_LTZ" => timestamp(self.unit()?, true),
            "TIMESTAMP_NTZ" => timestamp(self.unit()?, false),
            "DECIMAL" | "DEC" | "NUMERIC" => match self.numbers()?[..] {
                [] => decimal_type(10, 0)?,
                [precision] => decimal_type(precision, 0)?,
                [precision, scale] => decimal_type(precision, i64::try_from(scale).unwrap_or(i64::MAX))?,
                _ => return Err(self.error("DECIMAL takes a precision and a scale")),
            },
            _ => return Ok(None),
        }))
    }

    fn map(&mut self) -> Result<DataType, SchemaError> {
        self.expect('<')?;
        let key = self.data_type()?;
        self.expect(',')?;
        let value = self.data_type()?;
        self.expect('>')?;
        Ok(map_type(Field::new("key", key, false), Field::new("value", value, true)))
    }

    /// The unit of a timestamp: microseconds as in Spark, milliseconds where `(3)` follows.
    fn unit(&mut self) -> Result<TimeUnit, SchemaError> {
        match self.numbers()?[..] {
            [] | [6] => Ok(TimeUnit::Microsecond),
            [3] => Ok(TimeUnit::Millisecond),
            _ => Err(self.error("a timestamp has 3 or 6 digits")),
        }
    }

    /// `(1, 2)`, or nothing.
    fn numbers(&mut self) -> Result<Vec<u64>, SchemaError> {
        let mut numbers = Vec::new();
        if !self.eat('(') {
            return Ok(numbers);
        }
        loop {
            let word = self.word();
            numbers.push(word.parse().map_err(|_| self.error("expected a number"))?);
            if !self.eat(',') {
                self.expect(')')?;
                return Ok(numbers);
            }
        }
    }

    /// A name, in backticks if it is no word; a backtick in it is doubled.
    fn name(&mut self) -> Result<String, SchemaError> {
        if !self.eat('`') {
            let word = self.word();
            return if word.is_empty() { Err(self.error("expected a column name")) } else { Ok(word.to_owned()) };
        }
        let mut name = String::new();
        loop {
            let Some(end) = self.text[self.at..].find('`') else {
                return Err(self.error("a ` is not closed"));
            };
            name.push_str(&self.text[self.at..self.at + end]);
            self.at += end + 1;
            if !self.text[self.at..].starts_with('`') {
                return Ok(name);
            }
            name.push('`');
            self.at += 1;
        }
    }

    /// Skips a text in single or double quotes.
    fn quoted(&mut self) -> Result<(), SchemaError> {
        let quote =
            self.peek().filter(|c| ['\'', '"'].contains(c)).ok_or_else(|| self.error("expected a quoted text"))?;
        self.at += 1;
        let mut escaped = false;
        for (index, c) in self.text[self.at..].char_indices() {
            if c == quote && !escaped {
                self.at += index + 1;
                return Ok(());
            }
            escaped = c == '\\' && !escaped;
        }
        Err(self.error("a quote is not closed"))
    }

    fn word(&mut self) -> &'t str {
        self.skip_space();
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn peek(&mut self) -> Option<char> {
        self.skip_space();
        self.text[self.at..].chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn expect(&mut self, c: char) -> Result<(), SchemaError> {
        if self.eat(c) { Ok(()) } else { Err(self.error(&format!("expected {c}"))) }
    }

    fn end(&mut self) -> Result<(), SchemaError> {
        if self.peek().is_none() { Ok(()) } else { Err(self.error("expected a comma or the end")) }
    }

    fn error(&self, what: &str) -> SchemaError {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        SchemaError(format!("{what} at line {line} column {column}"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn field(name: &str, data_type: DataType, nullable: bool) -> Arc<Field> {
        Arc::new(Field::new(name, data_type, nullable))
    }

    #[test]
    fn ddl_is_read_as_spark_reads_it() {
        let text = "a int not null COMMENT 'it''s', `b ``c`: STRUCT<x: STRING COMMENT \"y\", z: ARRAY<DOUBLE>>,\n \
                    e Decimal(10, 2), f TIMESTAMP NOT NULL, m MAP<STRING, BIGINT>, s STRUCT<>, v VARCHAR(10)";
        let inner = Fields::from(vec![
            field("x", DataType::Utf8, true),
            field("z", DataType::List(element_field(DataType::Float64, true)), true),
        ]);
        let map = map_type(Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true));
        let expected = Fields::from(vec![
            field("a", DataType::Int32, false),
            field("b `c", DataType::Struct(inner), true),
            field("e", DataType::Decimal128(10, 2), true),
            field("f", timestamp(TimeUnit::Microsecond, true), false),
            field("m", map, true),
            field("s", DataType::Struct(Fields::empty()), true),
            field("v", DataType::Utf8, true),
        ]);
        assert_eq!(read(&text.replace("it''s", "its")), Ok(expected));
        assert_eq!(read("STRUCT<a: INT>"), read("a INT"));
    }

    #[test]
    fn errors_name_the_place() {
        for (text, expected) in [
            ("", "expected a column name at line 1 column 1"),
            ("a", "column a: unknown type  at line 1 column 2"),
            ("a INT b INT", "expected a comma or the end at line 1 column 7"),
            ("a INT,\n  b ARRAY<INT", "column b: expected > at line 2 column 14"),
            ("a DECIMAL(99,2)", "column a: DECIMAL(99,2): the precision must be 1 to 76, the scale 0 to the precision"),
            ("`a INT", "a ` is not closed at line 1 column 2"),
            ("a INT COMMENT 'x", "a quote is not closed at line 1 column 16"),
            ("a STRUCT<b: SET<INT>>", "column a: column b: unknown type SET<INT>> at line 1 column 13"),
            ("a TIMESTAMP(9)", "column a: a timestamp has 3 or 6 digits at line 1 column 15"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), expected, "{text}");
        }
        let deep = format!("a {}INT{}", "ARRAY<".repeat(100_000), ">".repeat(100_000));
        assert!(read(&deep).unwrap_err().to_string().contains("types nest deeper than 32 levels"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in r"(\PC|[a-z<>(),:`' ]|STRUCT<|MAP<|INT |DECIMAL\(){0,30}") {
            let _ = read(&text);
        }
    }
}
