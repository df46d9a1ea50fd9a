//! Converters that need no registry.

use schema::Part;

use crate::pieces::{choose, converter, decode, settings, split, typed};

/// Plain JSON, on to columns under an inferred schema.
pub(crate) fn json(data: &[u8]) {
    let mut converter = converter("json", Part::Value, &settings(&[("schemas.enable", "false")]));
    let (first, second) = split(data);
    for batch in decode(converter.as_mut(), Part::Value, &[first, second]) {
        typed(&batch);
    }
}

/// JSON in envelopes. The first byte chooses how decimals and defaults are read.
pub(crate) fn json_envelope(data: &[u8]) {
    let (choice, data) = choose(data, 4);
    let pairs = [
        ("schemas.enable", "true"),
        ("decimal.format", if choice % 2 == 0 { "BASE64" } else { "NUMERIC" }),
        ("replace.null.with.default", if choice < 2 { "true" } else { "false" }),
    ];
    let mut converter = converter("json", Part::Value, &settings(&pairs));
    let (first, second) = split(data);
    decode(converter.as_mut(), Part::Value, &[first, second, first]);
}

/// The small converters; the first byte chooses one.
pub(crate) fn string_bytes_numbers(data: &[u8]) {
    const NAMES: [&str; 8] = ["string", "bytes", "boolean", "short", "integer", "long", "float", "double"];
    let (choice, data) = choose(data, 2 * NAMES.len());
    let part = if choice < NAMES.len() { Part::Value } else { Part::Key };
    let mut converter = converter(NAMES[choice % NAMES.len()], part, &settings(&[]));
    decode(converter.as_mut(), part, &[data, &data[..data.len() / 2]]);
}

/// What the text of a header says, which is no longer than an escape for each of its bytes.
pub(crate) fn simple_header(data: &[u8]) {
    if let Some(said) = schema::simple_header(data) {
        assert!(said.len() <= 6 * data.len(), "{said}");
    }
}
