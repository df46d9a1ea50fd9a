//! The table of converters.

use model::{Invalid, Plugin, Settings};

use crate::bytes_converter::BytesConverter;
use crate::json_converter::JsonConverter;
use crate::json_schema_converter::{JSON_SCHEMA_KEYS, JsonSchemaConverter};
use crate::keys::{
    BYTES_REGISTRY_KEYS, JSON_KEYS, JSON_REGISTRY_KEYS, LATER_REGISTRY_KEYS, STRING_KEYS, STRING_REGISTRY_KEYS,
};
use crate::protobuf_converter::{PROTOBUF_KEYS, ProtobufConverter};
use crate::registry_keys::REGISTRY_KEYS;
use crate::string_converter::StringConverter;
use crate::{Converter, Part};

/// Builds a converter of `part` from the settings below its prefix (`value.converter.`). It does no I/O, so it is also how
/// a configuration is validated.
pub type BuildConverter = fn(&Settings, Part) -> Result<Box<dyn Converter>, Invalid>;

/// Every converter whose name is known; the build function of those that are for a later version says so.
pub const CONVERTERS: &[Plugin<BuildConverter>] = &[
    Plugin {
        names: &["json", "org.apache.kafka.connect.json.JsonConverter"],
        doc: "JSON, plain or in envelopes with a schema.",
        keys: &[JSON_KEYS, JSON_REGISTRY_KEYS],
        check: none,
        build: |settings, part| JsonConverter::build(settings, part).map_err(|invalid| below(part, invalid)),
    },
    Plugin {
        names: &["string", "org.apache.kafka.connect.storage.StringConverter"],
        doc: "Text.",
        keys: &[STRING_KEYS, STRING_REGISTRY_KEYS],
        check: none,
        build: |settings, part| StringConverter::build(settings, part).map_err(|invalid| below(part, invalid)),
    },
    Plugin {
        names: &["bytes", "org.apache.kafka.connect.converters.ByteArrayConverter"],
        doc: "Bytes as they are.",
        keys: &[BYTES_REGISTRY_KEYS],
        check: none,
        build: BytesConverter::build,
    },
    later(&["avro", "io.confluent.connect.avro.AvroConverter"], |_, part| not_yet(part, "avro")),
    Plugin {
        names: &["protobuf", "io.confluent.connect.protobuf.ProtobufConverter"],
        doc: "Protobuf with a schema registry.",
        keys: &[PROTOBUF_KEYS, REGISTRY_KEYS],
        check: none,
        build: |settings, part| ProtobufConverter::build(settings, part).map_err(|invalid| below(part, invalid)),
    },
    Plugin {
        names: &["json_schema", "io.confluent.connect.json.JsonSchemaConverter"],
        doc: "JSON with a JSON Schema in a schema registry.",
        keys: &[JSON_SCHEMA_KEYS, REGISTRY_KEYS],
        check: none,
        build: |settings, part| JsonSchemaConverter::build(settings, part).map_err(|invalid| below(part, invalid)),
    },
    later(&["boolean", "org.apache.kafka.connect.converters.BooleanConverter"], |_, part| not_yet(part, "boolean")),
    later(&["short", "org.apache.kafka.connect.converters.ShortConverter"], |_, part| not_yet(part, "short")),
    later(&["integer", "org.apache.kafka.connect.converters.IntegerConverter"], |_, part| not_yet(part, "integer")),
    later(&["long", "org.apache.kafka.connect.converters.LongConverter"], |_, part| not_yet(part, "long")),
    later(&["float", "org.apache.kafka.connect.converters.FloatConverter"], |_, part| not_yet(part, "float")),
    later(&["double", "org.apache.kafka.connect.converters.DoubleConverter"], |_, part| not_yet(part, "double")),
];

const fn later(names: &'static [&'static str], build: BuildConverter) -> Plugin<BuildConverter> {
    Plugin { names, doc: "Not supported yet by this version.", keys: &[LATER_REGISTRY_KEYS], check: none, build }
}

fn not_yet(part: Part, name: &str) -> Result<Box<dyn Converter>, Invalid> {
    let why = "is not supported yet by this version; supported: json, string, bytes";
    Err(Invalid::value(part.key(), name, format!("{name} {why}")))
}

fn none(_settings: &Settings) -> Vec<Invalid> {
    Vec::new()
}

/// The same problem under the whole name of its key; the sentence stays upstream's, which does not know the prefix.
fn below(part: Part, invalid: Invalid) -> Invalid {
    Invalid::new(format!("{}.{}", part.key().name, invalid.key), invalid.message)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use model::find;

    use super::*;
    use crate::conformance;

    fn build(name: &str, part: Part, pairs: &[(&str, &str)]) -> Result<Box<dyn Converter>, Invalid> {
        let config = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        (find(CONVERTERS, "converter", name).unwrap().build)(&Settings::new(config).below("value.converter."), part)
    }

    #[test]
    fn every_converter_conforms() {
        for name in ["json", "string", "bytes"] {
            for part in [Part::Key, Part::Value] {
                block_on(conformance::converter(part, &mut || build(name, part, &[]).unwrap()));
            }
        }
        for name in ["protobuf", "json_schema"] {
            for part in [Part::Key, Part::Value] {
                let pairs = [("value.converter.schema.registry.url", "http://127.0.0.1:1")];
                block_on(conformance::converter(part, &mut || build(name, part, &pairs).unwrap()));
            }
        }
        for enable in ["true", "false"] {
            let pairs = [("value.converter.schemas.enable", enable)];
            block_on(conformance::converter(Part::Value, &mut || build("json", Part::Value, &pairs).unwrap()));
        }
    }

    #[test]
    fn later_converters_are_known_and_say_so() {
        for name in ["io.confluent.connect.avro.AvroConverter", "long"] {
            let message = build(name, Part::Key, &[]).err().unwrap();
            assert_eq!(message.key, "key.converter");
            assert!(message.message.ends_with("is not supported yet by this version; supported: json, string, bytes"));
        }
    }

    #[test]
    fn a_wrong_value_names_the_whole_key() {
        let invalid = build("json", Part::Value, &[("value.converter.schemas.enable", "yes")]).err().unwrap();
        assert_eq!(invalid.key, "value.converter.schemas.enable");
        assert_eq!(
            invalid.message,
            "Invalid value yes for configuration schemas.enable: Expected value to be either true or false"
        );
    }
}
