//! The table of converters.

use model::{Invalid, Plugin, Settings};

use crate::avro_converter::{AVRO_KEYS, AvroConverter};
use crate::bytes_converter::BytesConverter;
use crate::json_converter::JsonConverter;
use crate::json_schema_converter::{JSON_SCHEMA_KEYS, JsonSchemaConverter};
use crate::keys::{
    BYTES_REGISTRY_KEYS, JSON_KEYS, JSON_REGISTRY_KEYS, NUMBER_REGISTRY_KEYS, STRING_KEYS, STRING_REGISTRY_KEYS,
};
use crate::number_converters::{Number, NumberConverter};
use crate::protobuf_converter::{PROTOBUF_KEYS, ProtobufConverter};
use crate::registry_keys::REGISTRY_KEYS;
use crate::simple_header::SimpleHeaderConverter;
use crate::string_converter::StringConverter;
use crate::{Converter, Part};

/// Builds a converter of `part` from the settings below its prefix (`value.converter.`). It does no I/O, so it is also how
/// a configuration is validated.
pub type BuildConverter = fn(&Settings, Part) -> Result<Box<dyn Converter>, Invalid>;

/// Every converter of keys and values.
pub const CONVERTERS: &[Plugin<BuildConverter>] =
    &[JSON, STRING, BYTES, AVRO, PROTOBUF, JSON_SCHEMA, BOOLEAN, SHORT, INTEGER, LONG, FLOAT, DOUBLE];

/// Every converter of headers (`org.apache.kafka.connect.storage.HeaderConverter`). Those that ask a registry are none.
pub const HEADER_CONVERTERS: &[Plugin<BuildConverter>] =
    &[SIMPLE, JSON, STRING, BYTES, BOOLEAN, SHORT, INTEGER, LONG, FLOAT, DOUBLE];

const SIMPLE: Plugin<BuildConverter> = Plugin {
    names: &["simple", "org.apache.kafka.connect.storage.SimpleHeaderConverter"],
    doc: "The text of a header, brought to the form of what it looks like: a number, a list, a map.",
    keys: &[],
    check: none,
    build: SimpleHeaderConverter::build,
};

const JSON: Plugin<BuildConverter> = Plugin {
    names: &["json", "org.apache.kafka.connect.json.JsonConverter"],
    doc: "JSON, plain or in envelopes with a schema.",
    keys: &[JSON_KEYS, JSON_REGISTRY_KEYS],
    check: none,
    build: |settings, part| JsonConverter::build(settings, part).map_err(|invalid| below(part, invalid)),
};

const STRING: Plugin<BuildConverter> = Plugin {
    names: &["string", "org.apache.kafka.connect.storage.StringConverter"],
    doc: "Text.",
    keys: &[STRING_KEYS, STRING_REGISTRY_KEYS],
    check: none,
    build: |settings, part| StringConverter::build(settings, part).map_err(|invalid| below(part, invalid)),
};

const BYTES: Plugin<BuildConverter> = Plugin {
    names: &["bytes", "org.apache.kafka.connect.converters.ByteArrayConverter"],
    doc: "Bytes as they are.",
    keys: &[BYTES_REGISTRY_KEYS],
    check: none,
    build: BytesConverter::build,
};

const AVRO: Plugin<BuildConverter> = Plugin {
    names: &["avro", "io.confluent.connect.avro.AvroConverter"],
    doc: "Avro, with its schema in a schema registry.",
    keys: &[AVRO_KEYS, REGISTRY_KEYS],
    check: none,
    build: |settings, part| AvroConverter::build(settings, part).map_err(|invalid| below(part, invalid)),
};

const PROTOBUF: Plugin<BuildConverter> = Plugin {
    names: &["protobuf", "io.confluent.connect.protobuf.ProtobufConverter"],
    doc: "Protobuf with a schema registry.",
    keys: &[PROTOBUF_KEYS, REGISTRY_KEYS],
    check: none,
    build: |settings, part| ProtobufConverter::build(settings, part).map_err(|invalid| below(part, invalid)),
};

const JSON_SCHEMA: Plugin<BuildConverter> = Plugin {
    names: &["json_schema", "io.confluent.connect.json.JsonSchemaConverter"],
    doc: "JSON with a JSON Schema in a schema registry.",
    keys: &[JSON_SCHEMA_KEYS, REGISTRY_KEYS],
    check: none,
    build: |settings, part| JsonSchemaConverter::build(settings, part).map_err(|invalid| below(part, invalid)),
};

const BOOLEAN: Plugin<BuildConverter> =
    number(&["boolean", "org.apache.kafka.connect.converters.BooleanConverter"], |settings, part| {
        NumberConverter::build(settings, part, Number::Boolean)
    });

const SHORT: Plugin<BuildConverter> =
    number(&["short", "org.apache.kafka.connect.converters.ShortConverter"], |settings, part| {
        NumberConverter::build(settings, part, Number::Short)
    });

const INTEGER: Plugin<BuildConverter> =
    number(&["integer", "org.apache.kafka.connect.converters.IntegerConverter"], |settings, part| {
        NumberConverter::build(settings, part, Number::Integer)
    });

const LONG: Plugin<BuildConverter> =
    number(&["long", "org.apache.kafka.connect.converters.LongConverter"], |settings, part| {
        NumberConverter::build(settings, part, Number::Long)
    });

const FLOAT: Plugin<BuildConverter> =
    number(&["float", "org.apache.kafka.connect.converters.FloatConverter"], |settings, part| {
        NumberConverter::build(settings, part, Number::Float)
    });

const DOUBLE: Plugin<BuildConverter> =
    number(&["double", "org.apache.kafka.connect.converters.DoubleConverter"], |settings, part| {
        NumberConverter::build(settings, part, Number::Double)
    });

const fn number(names: &'static [&'static str], build: BuildConverter) -> Plugin<BuildConverter> {
    Plugin { names, doc: "One value of fixed size, big endian.", keys: &[NUMBER_REGISTRY_KEYS], check: none, build }
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
        for name in ["json", "string", "bytes", "boolean", "short", "integer", "long", "float", "double"] {
            for part in [Part::Key, Part::Value, Part::Header] {
                block_on(conformance::converter(part, &mut || build(name, part, &[]).unwrap()));
            }
        }
        for plugin in HEADER_CONVERTERS {
            let settings = Settings::new(Default::default());
            block_on(conformance::converter(Part::Header, &mut || (plugin.build)(&settings, Part::Header).unwrap()));
        }
        for name in ["avro", "protobuf", "json_schema"] {
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
    fn a_wrong_value_names_the_whole_key() {
        let invalid = build("json", Part::Value, &[("value.converter.schemas.enable", "yes")]).err().unwrap();
        assert_eq!(invalid.key, "value.converter.schemas.enable");
        assert_eq!(
            invalid.message,
            "Invalid value yes for configuration schemas.enable: Expected value to be either true or false"
        );
    }
}
