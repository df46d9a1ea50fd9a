//! The lines of a commit: what we write, and what we must understand of those of others.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How far an application got: the compare-and-swap of a topic-partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Txn {
    /// Whose progress: connector, topic and partition.
    pub(crate) app_id: String,
    /// Offset of the next record.
    pub(crate) version: i64,
    /// When, in milliseconds. Spark forgets those without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_updated: Option<i64>,
}

/// What readers and writers of the table must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protocol {
    /// Of readers.
    pub(crate) min_reader_version: i32,
    /// Of writers.
    pub(crate) min_writer_version: i32,
    /// Named features of readers, from version 3 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reader_features: Option<Vec<String>>,
    /// Named features of writers, from version 7 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) writer_features: Option<Vec<String>>,
}

/// What the table is: identity, columns, properties. Kept as it was read, so that what we do not know stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Metadata(Map<String, Value>);

impl Metadata {
    /// A new table with the columns of `schema`, a StructType.
    pub(crate) fn new(
        id: &str,
        schema: &Value,
        partition_columns: &[String],
        properties: Map<String, Value>,
        now_ms: i64,
    ) -> Metadata {
        let metadata = json!({
            "id": id,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": schema.to_string(),
            "partitionColumns": partition_columns,
            "configuration": properties,
            "createdTime": now_ms,
        });
        match metadata {
            Value::Object(metadata) => Metadata(metadata),
            _ => unreachable!("the literal above is an object"),
        }
    }

    /// Stays the same as long as the table does.
    pub(crate) fn id(&self) -> &str {
        self.0.get("id").and_then(Value::as_str).unwrap_or_default()
    }

    /// The text of the columns; empty if there is none.
    pub(crate) fn schema_text(&self) -> &str {
        self.0.get("schemaString").and_then(Value::as_str).unwrap_or_default()
    }

    /// The columns as a StructType; the error says what is wrong with its text.
    pub(crate) fn schema(&self) -> Result<Value, String> {
        let text =
            self.0.get("schemaString").and_then(Value::as_str).ok_or("the table's metadata has no schemaString")?;
        serde_json::from_str(text).map_err(|error| format!("the table's schemaString is not JSON: {error}"))
    }

    /// The same table with other columns.
    pub(crate) fn with_schema(&self, schema: &Value) -> Metadata {
        let mut metadata = self.0.clone();
        metadata.insert("schemaString".to_owned(), Value::String(schema.to_string()));
        Metadata(metadata)
    }

    /// Columns whose values stand in the log and not in the files.
    pub(crate) fn partition_columns(&self) -> Vec<String> {
        let columns = self.0.get("partitionColumns").and_then(Value::as_array);
        columns.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// A table property.
    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.0.get("configuration")?.get(name)?.as_str()
    }

    /// The names of all table properties.
    pub(crate) fn properties(&self) -> impl Iterator<Item = &str> {
        self.0
            .get("configuration")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|map| map.keys())
            .map(String::as_str)
    }
}

/// A file that becomes part of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Add {
    /// Below the table, percent-encoded.
    pub(crate) path: String,
    /// For each partition column its value as text.
    pub(crate) partition_values: Map<String, Value>,
    /// Bytes.
    pub(crate) size: u64,
    /// When it was written, in milliseconds.
    pub(crate) modification_time: i64,
    /// Whether the table's rows change by it.
    pub(crate) data_change: bool,
    /// Statistics as JSON text.
    pub(crate) stats: String,
}

/// A file that is no part of the table any more.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Remove {
    /// As in its [`Add`].
    pub(crate) path: String,
    /// When, in milliseconds.
    pub(crate) deletion_timestamp: i64,
    /// Whether the table's rows change by it.
    pub(crate) data_change: bool,
    /// Whether the two that follow are given.
    pub(crate) extended_file_metadata: bool,
    /// For each partition column its value as text.
    pub(crate) partition_values: Map<String, Value>,
    /// Bytes.
    pub(crate) size: u64,
}

/// One line that we write.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Action {
    /// Who did what; always the first line.
    CommitInfo(Value),
    /// What readers and writers must know.
    Protocol(Protocol),
    /// What the table is.
    #[serde(rename = "metaData")]
    Metadata(Metadata),
    /// How far an application got.
    Txn(Txn),
    /// A new file.
    Add(Add),
    /// A file that is not wanted any more.
    Remove(Remove),
}

/// The first line of a commit: what was done to `read_version`, by whom, and whether it only appends. `nonce` makes two
/// commits that do the same differ; `user_metadata` is what people want to read there.
pub(crate) fn commit_info(
    operation: &str,
    is_blind_append: bool,
    read_version: Option<u64>,
    nonce: u64,
    now_ms: i64,
    user_metadata: Option<&str>,
) -> Action {
    let mut info = json!({
        "timestamp": now_ms,
        "operation": operation,
        "operationParameters": {},
        "isBlindAppend": is_blind_append,
        "engineInfo": concat!("sluice/", env!("CARGO_PKG_VERSION")),
        "txnId": format!("{nonce:016x}"),
    });
    if let Some(version) = read_version {
        info["readVersion"] = json!(version);
    }
    if let Some(text) = user_metadata {
        info["userMetadata"] = json!(text);
    }
    Action::CommitInfo(info)
}

/// The bytes of a commit file.
pub(crate) fn to_lines(actions: &[Action]) -> String {
    let mut lines = String::new();
    for action in actions {
        lines.push_str(&serde_json::to_string(action).expect("actions are made of JSON values"));
        lines.push('\n');
    }
    lines
}

/// What of somebody's commit concerns a writer that appends, and upkeep.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen {
    /// A new protocol.
    pub(crate) protocol: Option<Protocol>,
    /// New metadata.
    pub(crate) metadata: Option<Metadata>,
    /// Progress of applications.
    pub(crate) txns: Vec<Txn>,
    /// Paths of files that are no part of the table any more, or with other rows.
    pub(crate) removes: Vec<String>,
}

#[derive(Deserialize)]
struct Removed {
    path: String,
}

#[derive(Deserialize)]
struct Line {
    protocol: Option<Protocol>,
    #[serde(rename = "metaData")]
    metadata: Option<Metadata>,
    txn: Option<Txn>,
    remove: Option<Removed>,
}

/// Reads a commit file; the error names the line.
pub(crate) fn from_lines(bytes: &[u8]) -> Result<Seen, String> {
    let mut seen = Seen::default();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line: Line = serde_json::from_slice(line).map_err(|error| format!("line {number}: {error}"))?;
        seen.protocol = line.protocol.or(seen.protocol);
        seen.metadata = line.metadata.or(seen.metadata);
        seen.txns.extend(line.txn);
        seen.removes.extend(line.remove.map(|removed| removed.path));
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn txn() -> Txn {
        Txn { app_id: "c:t:0".to_owned(), version: 7, last_updated: Some(3) }
    }

    #[test]
    fn a_commit_is_written_as_other_writers_write_it() {
        let schema = json!({"type": "struct", "fields": []});
        let metadata = Metadata::new("id", &schema, &["p".to_owned()], Map::new(), 5);
        let protocol =
            Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None, writer_features: None };
        let add = Add {
            path: "p=a%20b/x.parquet".to_owned(),
            partition_values: Map::from_iter([("p".to_owned(), json!("a b"))]),
            size: 9,
            modification_time: 4,
            data_change: true,
            stats: "{\"numRecords\":1}".to_owned(),
        };
        let actions = [Action::Protocol(protocol), Action::Metadata(metadata), Action::Txn(txn()), Action::Add(add)];
        expect![[r#"
            {"protocol":{"minReaderVersion":1,"minWriterVersion":2}}
            {"metaData":{"id":"id","format":{"provider":"parquet","options":{}},"schemaString":"{\"type\":\"struct\",\"fields\":[]}","partitionColumns":["p"],"configuration":{},"createdTime":5}}
            {"txn":{"appId":"c:t:0","version":7,"lastUpdated":3}}
            {"add":{"path":"p=a%20b/x.parquet","partitionValues":{"p":"a b"},"size":9,"modificationTime":4,"dataChange":true,"stats":"{\"numRecords\":1}"}}
        "#]]
        .assert_eq(&to_lines(&actions));
    }

    #[test]
    fn of_a_commit_of_others_only_what_matters_is_read_and_nothing_of_the_metadata_is_lost() {
        let text = r#"{"commitInfo":{"operation":"WRITE","whatever":[1,{"a":null}]}}
{"add":{"path":"a","stats":"x"}}

{"metaData":{"id":"i","schemaString":"{}","partitionColumns":[],"configuration":{"delta.appendOnly":"true"},"future":{"x":1}}}
{"txn":{"appId":"c:t:0","version":7}}
{"remove":{"path":"b"}}
{"newAction":1}
"#;
        let seen = from_lines(text.as_bytes()).unwrap();
        assert_eq!((seen.protocol, seen.txns.len(), seen.txns[0].version), (None, 1, 7));
        assert_eq!(seen.removes, ["b"]);
        let metadata = seen.metadata.unwrap().with_schema(&json!({"type": "struct"}));
        assert_eq!(metadata.property("delta.appendOnly"), Some("true"));
        let text = to_lines(&[Action::Metadata(metadata)]);
        assert!(
            text.contains(r#""future":{"x":1}"#) && text.contains(r#""schemaString":"{\"type\":\"struct\"}""#),
            "{text}"
        );
        assert!(from_lines(b"{}\n{\"txn\":{\"appId\":3}}").unwrap_err().starts_with("line 2: "));
    }
}
