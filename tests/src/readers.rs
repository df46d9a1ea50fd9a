//! Readers that share no code with the program: scripts in a Python of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::process::{last_lines, limited};
use crate::{Error, S3};

const PARQUET: &str = concat!(include_str!("py/plain.py"), include_str!("py/store.py"), include_str!("py/parquet.py"));
const ENTRY: &str = include_str!("py/entry.py");
const CALL_LIMIT: Duration = Duration::from_secs(180);

/// The Python environment of localstack/readers-requirements.txt.
pub struct Readers {
    python: PathBuf,
}

/// One record of a Parquet file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Key of the object, or path of the file below the directory that was read.
    pub object: String,
    /// Row in the file, from 0.
    pub position: u64,
    /// The record as JSON. Times and dates are ISO 8601 text, times with a zone in UTC; decimals are text; NaN and the
    /// infinities are text; bytes are text with one character per byte; maps are arrays of pairs.
    pub value: Value,
}

impl Readers {
    pub(crate) fn of(home: &Path) -> Readers {
        Readers { python: home.join("bin/python") }
    }

    /// Reads with pyarrow all objects whose key starts with `prefix` (a whole key is one too) and ends in `.parquet`,
    /// by key. Columns come from the files alone, never from their paths.
    pub fn read_parquet(&self, store: &S3, bucket: &str, prefix: &str) -> Result<Vec<Row>, Error> {
        self.call(PARQUET, "read_parquet", &store.request(json!({"bucket": bucket, "prefix": prefix})))
    }

    /// As [`Readers::read_parquet`], with DuckDB.
    pub fn read_parquet_duckdb(&self, store: &S3, bucket: &str, prefix: &str) -> Result<Vec<Row>, Error> {
        self.call(PARQUET, "read_parquet_duckdb", &store.request(json!({"bucket": bucket, "prefix": prefix})))
    }

    /// As [`Readers::read_parquet`], from the files below a local directory.
    pub fn read_local_parquet(&self, directory: &Path) -> Result<Vec<Row>, Error> {
        self.call(PARQUET, "read_local_parquet", &json!({"directory": directory}))
    }

    /// What the footer of one object says, by pyarrow:
    /// `{"columns": [{"name", "type", "nullable"}], "rows", "row_groups", "compression": [..], "metadata": {..}, "created_by"}`.
    pub fn parquet_schema(&self, store: &S3, bucket: &str, key: &str) -> Result<Value, Error> {
        self.call(PARQUET, "parquet_schema", &store.request(json!({"bucket": bucket, "key": key})))
    }

    /// Calls the function `action` of a Python script with the request's fields as named arguments, and reads its
    /// result from JSON. This is how all of the above work; a ring may bring scripts of its own.
    pub fn call<T: DeserializeOwned>(&self, script: &str, action: &str, request: &Value) -> Result<T, Error> {
        let output = self.run(script, action, request)?;
        serde_json::from_slice(&output).map_err(|e| Error::Call { what: action.to_owned(), why: e.to_string() })
    }

    /// As [`Readers::call`], for a function that returns bytes.
    pub fn run(&self, script: &str, action: &str, request: &Value) -> Result<Vec<u8>, Error> {
        self.begin(script, action, request, CALL_LIMIT)?.output()
    }

    /// As [`Readers::call`], for a function that runs beside the caller. It is ended after `limit`, or when the calling
    /// thread ends.
    pub fn begin(&self, script: &str, action: &str, request: &Value, limit: Duration) -> Result<Call, Error> {
        let failed = |why: String| Error::Call { what: action.to_owned(), why };
        let mut python = limited(&self.python, limit)
            .args(["-c", &format!("{script}\n{ENTRY}"), action])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let mut input = python.stdin.take().expect("stdin is piped");
        // A script that dies before it has read its request says why on stderr.
        let _ = input.write_all(request.to_string().as_bytes());
        drop(input);
        Ok(Call { python, action: action.to_owned() })
    }
}

/// A function of a Python script that is running.
pub struct Call {
    python: Child,
    action: String,
}

impl Call {
    /// Waits for its end and reads its result from JSON.
    pub fn finish<T: DeserializeOwned>(self) -> Result<T, Error> {
        let what = self.action.clone();
        serde_json::from_slice(&self.output()?).map_err(|e| Error::Call { what, why: e.to_string() })
    }

    fn output(self) -> Result<Vec<u8>, Error> {
        let failed = |why: String| Error::Call { what: self.action.clone(), why };
        let output = self.python.wait_with_output().map_err(|e| failed(e.to_string()))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => {
                Err(failed(format!("{}\n{}", output.status, last_lines(&String::from_utf8_lossy(&output.stderr), 20))))
            }
        }
    }
}

/// Bytes as text with one character per byte, so that any bytes pass through JSON and text stays readable.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// Serde of optional bytes in the form of [`text_of`].
pub(crate) mod latin1 {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(super::text_of).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
        bytes.map(Some).map_err(D::Error::custom)
    }
}
