//! Converters whose schemas are in a registry: values under fixed schemas, and schemas that come with the value.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use schema::{Converter, Part};
use serde_json::json;

use crate::pieces::{choose, converter, decode, settings, split, text};

const AVRO: &[&str] = &[
    include_str!("../../schemas/prediction.avsc"),
    r#"{"type":"record","name":"R","fields":[{"name":"u","type":["null","long","string",{"type":"record","name":"S",
        "fields":[{"name":"m","type":{"type":"map","values":{"type":"array","items":["null","double"]}}}]}]},
        {"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":38,"scale":4}},
        {"name":"f","type":{"type":"fixed","name":"F","size":3}},{"name":"e","type":{"type":"enum","name":"E",
        "symbols":["A","B"]}},{"name":"t","type":{"type":"long","logicalType":"timestamp-micros"}},
        {"name":"day","type":{"type":"int","logicalType":"date"}},{"name":"ms","type":{"type":"int",
        "logicalType":"time-millis"}},{"name":"x","type":"float"},{"name":"y","type":"boolean"},{"name":"z","type":"int"}]}"#,
    r#"{"type":"array","items":["string","bytes","int"]}"#,
    r#""string""#,
];

const PROTOBUF: &[&str] = &[
    include_str!("every.proto"),
    "syntax = \"proto2\"; message A { required int32 a = 1; optional string b = 2 [default = \"x\"]; repeated group G = 3 \
     { optional fixed64 h = 4; } optional E e = 5; } enum E { ONE = 1; TWO = 2; } message B { repeated sint64 p = 1; }",
];

const JSON: &[&str] = &[
    include_str!("../../schemas/prediction.schema.json"),
    r#"{"type":"object","properties":{"n":{"oneOf":[{"type":"null"},{"type":"number"}]},"i":{"type":"integer",
        "connect.type":"int8"},"b":{"type":"string","connect.type":"bytes"},"d":{"type":"number","title":
        "org.apache.kafka.connect.data.Decimal","connect.type":"bytes","connect.parameters":{"scale":"2"}},
        "t":{"type":"integer","title":"org.apache.kafka.connect.data.Timestamp","connect.type":"int64"},
        "m":{"type":"object","connect.type":"map","additionalProperties":{"type":"integer"}},
        "l":{"type":"array","items":{"type":"string"}},"e":{"enum":["A","B"]}},"required":["i"]}"#,
    r#"{"type":"array","items":{"type":"number"}}"#,
    "true",
];

/// What the registry answers: an id is an index of this list, or stands for the last one.
type Schemas = Arc<Mutex<Vec<String>>>;

/// A converter and the registry that it asks.
struct Asking {
    converter: Box<dyn Converter>,
    schemas: Schemas,
    next_id: u32,
}

impl Asking {
    fn new(name: &str, kind: &'static str, texts: &[&str]) -> Asking {
        let schemas: Schemas = Arc::new(Mutex::new(texts.iter().map(|text| (*text).to_owned()).collect()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let served = schemas.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                thread::spawn(move || serve(&stream, kind, &served));
            }
        });
        let settings = settings(&[("schema.registry.url", &url), ("max.retries", "0")]);
        Asking { converter: converter(name, Part::Value, &settings), schemas, next_id: 0 }
    }

    fn decode(&mut self, id: u32, value: &[u8]) {
        let framed = |value: &[u8]| [&[0], &id.to_be_bytes()[..], value].concat();
        let (whole, half) = (framed(value), framed(&value[..value.len() / 2]));
        decode(self.converter.as_mut(), Part::Value, &[&whole, &half, value]);
    }

    /// Decodes the part of an input behind its first NUL under the schema before it, which nobody asked for before.
    fn decode_with_its_schema(&mut self, data: &[u8]) {
        let (schema, value) = split(data);
        *self.schemas.lock().unwrap_or_else(PoisonError::into_inner) = vec![text(schema).into_owned()];
        self.next_id += 1;
        self.decode(self.next_id, value);
    }
}

/// Answers requests until the connection ends.
fn serve(stream: &TcpStream, kind: &str, schemas: &Schemas) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let Some(first) = lines.next().transpose()? else { return Ok(()) };
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let path = first.split(' ').nth(1).unwrap_or_default();
        let body = match path.trim_end_matches("?deleted=true").strip_suffix("/versions") {
            Some(_) => "[]".to_owned(),
            None => {
                let schemas = schemas.lock().unwrap_or_else(PoisonError::into_inner);
                let id = path.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or(0_usize);
                json!({"schemaType": kind, "schema": schemas.get(id).or(schemas.last())}).to_string()
            }
        };
        write!(&mut &*stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
}

/// Decodes by the converter `name`. The first byte chooses one of `schemas`; without any, the schema comes with the value.
fn asked(name: &'static str, kind: &'static str, schemas: &[&str], data: &[u8]) {
    thread_local! {
        static ASKING: RefCell<HashMap<(&'static str, bool), Asking>> = RefCell::default();
    }
    ASKING.with_borrow_mut(|all| {
        let key = (name, schemas.is_empty());
        let asking = all.entry(key).or_insert_with(|| Asking::new(name, kind, schemas));
        if schemas.is_empty() {
            return asking.decode_with_its_schema(data);
        }
        let (choice, value) = choose(data, schemas.len());
        asking.decode(u32::try_from(choice).expect("a few schemas"), value);
    });
}

/// Avro under fixed schemas.
pub(crate) fn avro(data: &[u8]) {
    asked("avro", "AVRO", AVRO, data);
}

/// Protobuf under fixed schemas.
pub(crate) fn protobuf(data: &[u8]) {
    asked("protobuf", "PROTOBUF", PROTOBUF, data);
}

/// JSON under fixed JSON Schemas.
pub(crate) fn json_schema(data: &[u8]) {
    asked("json_schema", "JSON", JSON, data);
}

/// An Avro schema and a value.
pub(crate) fn avro_with_its_schema(data: &[u8]) {
    asked("avro", "AVRO", &[], data);
}

/// A .proto file and a message.
pub(crate) fn protobuf_with_its_schema(data: &[u8]) {
    asked("protobuf", "PROTOBUF", &[], data);
}

/// A JSON Schema and a value.
pub(crate) fn json_schema_with_its_schema(data: &[u8]) {
    asked("json_schema", "JSON", &[], data);
}
