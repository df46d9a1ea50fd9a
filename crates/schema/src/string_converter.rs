//! `org.apache.kafka.connect.storage.StringConverter`: each value is a text.

use std::sync::Arc;

use arrow::array::{Array, BinaryArray, StringArray, StructArray};
use arrow::datatypes::{DataType, Fields};
use async_trait::async_trait;
use model::{Batch, Invalid, RawBatch, Settings, Values, whole_value_field};

use crate::keys::CONVERTER_ENCODING;
use crate::{Converter, Decoded, Error, Part};

/// The charsets that `converter.encoding` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Ascii,
    Latin1,
}

/// Reads texts into one column that is the whole value ([`model::is_whole_value`]). Bytes that the encoding does not have
/// become U+FFFD, as in Java.
pub(crate) struct StringConverter {
    part: Part,
    encoding: Encoding,
}

impl StringConverter {
    pub(crate) fn build(settings: &Settings, part: Part) -> Result<Box<dyn Converter>, Invalid> {
        let name = settings.required_string(&CONVERTER_ENCODING)?;
        let encoding = match name.to_ascii_uppercase().as_str() {
            "UTF-8" | "UTF8" => Encoding::Utf8,
            "US-ASCII" | "ASCII" => Encoding::Ascii,
            "ISO-8859-1" | "ISO8859_1" | "LATIN1" => Encoding::Latin1,
            _ => {
                let why = "encoding is not supported; use UTF-8, US-ASCII or ISO-8859-1";
                return Err(Invalid::value(&CONVERTER_ENCODING, &name, why));
            }
        };
        Ok(Box::new(StringConverter { part, encoding }))
    }
}

#[async_trait]
impl Converter for StringConverter {
    async fn decode(&mut self, raw: &RawBatch) -> Result<Decoded, Error> {
        if raw.is_empty() {
            return Ok(Decoded::default());
        }
        let texts = decode_texts(self.part.column(raw), self.encoding);
        let nulls = texts.nulls().cloned();
        let fields = Fields::from(vec![whole_value_field(DataType::Utf8)]);
        let columns = StructArray::new(fields, vec![Arc::new(texts)], nulls);
        Ok(Decoded { batches: vec![Batch::decoded(raw, Values::Typed(columns))], rejected: Vec::new() })
    }
}

fn decode_texts(bytes: &BinaryArray, encoding: Encoding) -> StringArray {
    let shared = match encoding {
        Encoding::Utf8 => StringArray::try_from_binary(bytes.clone()).ok(),
        Encoding::Ascii | Encoding::Latin1 if bytes.value_data().is_ascii() => {
            StringArray::try_from_binary(bytes.clone()).ok()
        }
        Encoding::Ascii | Encoding::Latin1 => None,
    };
    if let Some(shared) = shared {
        return shared;
    }
    let ascii = |byte: &u8| {
        if byte.is_ascii() { char::from(*byte) } else { char::REPLACEMENT_CHARACTER }
    };
    let decode = |text: &[u8]| match encoding {
        Encoding::Utf8 => String::from_utf8_lossy(text).into_owned(),
        Encoding::Ascii => text.iter().map(ascii).collect(),
        Encoding::Latin1 => text.iter().map(|byte| char::from(*byte)).collect(),
    };
    bytes.iter().map(|text| text.map(decode)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_decoded_as_java_does() {
        let bytes = BinaryArray::from(vec![Some(&b"caf\xc3\xa9"[..]), None, Some(b""), Some(b"a\xff")]);
        for (encoding, expected) in [
            (Encoding::Utf8, [Some("café"), None, Some(""), Some("a\u{fffd}")]),
            (Encoding::Ascii, [Some("caf\u{fffd}\u{fffd}"), None, Some(""), Some("a\u{fffd}")]),
            (Encoding::Latin1, [Some("cafÃ©"), None, Some(""), Some("aÿ")]),
        ] {
            assert_eq!(decode_texts(&bytes, encoding), StringArray::from(expected.to_vec()), "{encoding:?}");
        }
    }

    #[test]
    fn valid_texts_are_not_copied() {
        let bytes = BinaryArray::from(vec![Some(&b"abc"[..]), None]);
        let texts = decode_texts(&bytes, Encoding::Utf8);
        assert_eq!(texts.values().as_ptr(), bytes.values().as_ptr());
    }

    #[test]
    fn an_unknown_encoding_is_refused() {
        let settings = Settings::new([("converter.encoding".to_owned(), "EBCDIC".to_owned())].into());
        assert_eq!(
            StringConverter::build(&settings, Part::Value).err().unwrap().message,
            "Invalid value EBCDIC for configuration converter.encoding: encoding is not supported; \
             use UTF-8, US-ASCII or ISO-8859-1"
        );
    }
}
