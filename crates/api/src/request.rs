//! Reading requests and writing bodies: JSON maps as Jackson reads them, query parameters as JAX-RS does.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::value::RawValue;
use supervisor::Submitted;

use crate::error::Refusal;

/// A response with a JSON body.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(body).expect("our bodies have text keys and no failing serializers");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response with nothing in it.
pub(crate) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The values of the query parameter `name`, decoded, in their order.
pub(crate) fn query_values(query: Option<&str>, name: &str) -> Vec<String> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| decode(key) == name).map(|(_, value)| decode(value)).collect()
}

/// A boolean query parameter: true is `true` in any case, everything else is false (`Boolean.valueOf`).
pub(crate) fn query_flag(query: Option<&str>, name: &str, default: bool) -> bool {
    query_values(query, name).first().map_or(default, |value| value.eq_ignore_ascii_case("true"))
}

/// The body of a request that must be JSON: 415 for another type, 413 for one that is too large.
pub(crate) fn json_body(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refusal> {
    let body = body.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
    let media_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let essence =
        media_type.and_then(|value| value.split(';').next()).map(|essence| essence.trim().to_ascii_lowercase());
    match essence.as_deref() {
        None | Some("application/json") => Ok(body),
        Some(_) => Err(Refusal::plain(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
    }
}

/// A JSON object of texts, numbers, booleans and nulls, as Jackson makes a `Map<String, String>` of it: scalars become
/// the texts they were written as, the last of equal keys wins. `None` for an empty body and for `null`.
pub(crate) fn flat_map(body: &[u8]) -> Result<Option<Submitted>, Refusal> {
    let Some(members) = object(body, "java.util.LinkedHashMap<java.lang.String,java.lang.String>")? else {
        return Ok(None);
    };
    members.into_iter().map(|(key, value)| Ok((key.clone(), scalar(&key, &value)?))).collect::<Result<_, _>>().map(Some)
}

/// The members of a JSON object that Kafka Connect reads as the Java class `class`; `None` for nothing and for `null`.
pub(crate) fn object(body: &[u8], class: &str) -> Result<Option<BTreeMap<String, Box<RawValue>>>, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let value: &RawValue = serde_json::from_slice(body)
        .map_err(|error| Refusal::internal(format!("could not read the body as JSON: {error}")))?;
    match kind_of(value.get()) {
        ("Null", _) => Ok(None),
        ("Object", _) => serde_json::from_str(value.get())
            .map(Some)
            .map_err(|error| Refusal::internal(format!("could not read the body as JSON: {error}"))),
        (kind, token) => Err(Refusal::internal(format!(
            "Cannot deserialize value of type `{class}` from {kind} value (token `JsonToken.{token}`)"
        ))),
    }
}

/// The text of a scalar member; `None` for null.
pub(crate) fn scalar(key: &str, value: &RawValue) -> Result<Option<String>, Refusal> {
    let text = value.get();
    match kind_of(text) {
        ("Null", _) => Ok(None),
        (kind @ ("Object" | "Array"), token) => Err(Refusal::internal(format!(
            "Cannot deserialize value of type `java.lang.String` from {kind} value (token `JsonToken.{token}`) (through reference chain: [\"{key}\"])"
        ))),
        ("String", _) => serde_json::from_str(text)
            .map(Some)
            .map_err(|error| Refusal::internal(format!("could not read the value of {key}: {error}"))),
        _ => Ok(Some(text.to_owned())),
    }
}

/// Jackson's words for the kind of a JSON value and for its first token.
fn kind_of(text: &str) -> (&'static str, &'static str) {
    match text.as_bytes().first() {
        Some(b'{') => ("Object", "START_OBJECT"),
        Some(b'[') => ("Array", "START_ARRAY"),
        Some(b'"') => ("String", "VALUE_STRING"),
        Some(b'n') => ("Null", "VALUE_NULL"),
        Some(b't') => ("Boolean", "VALUE_TRUE"),
        Some(b'f') => ("Boolean", "VALUE_FALSE"),
        Some(_) if text.contains(['.', 'e', 'E']) => ("Floating-point", "VALUE_NUMBER_FLOAT"),
        Some(_) | None => ("Integer", "VALUE_NUMBER_INT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_become_the_texts_they_were_written_as() {
        let body = br#" {"a": 1, "b": 1.50, "c": 1e3, "d": 123456789012345678901234567890, "e": true, "f": null, "g": "x\n", "a": "2"} "#;
        let map = flat_map(body).unwrap().unwrap();
        let found: Vec<(&str, Option<&str>)> =
            map.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        let expected = [
            ("a", Some("2")),
            ("b", Some("1.50")),
            ("c", Some("1e3")),
            ("d", Some("123456789012345678901234567890")),
            ("e", Some("true")),
            ("f", None),
            ("g", Some("x\n")),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn nothing_and_null_are_no_map_and_other_json_is_refused() {
        for body in ["", "  ", "null"] {
            assert_eq!(flat_map(body.as_bytes()).unwrap(), None, "{body:?}");
        }
        for (body, message) in [
            ("{bad", "could not read the body as JSON: key must be a string at line 1 column 2"),
            ("{} trailing", "could not read the body as JSON: trailing characters at line 1 column 4"),
            (
                "3",
                "Cannot deserialize value of type `java.util.LinkedHashMap<java.lang.String,java.lang.String>` from Integer value (token `JsonToken.VALUE_NUMBER_INT`)",
            ),
            (
                "{\"x\": [1]}",
                "Cannot deserialize value of type `java.lang.String` from Array value (token `JsonToken.START_ARRAY`) (through reference chain: [\"x\"])",
            ),
        ] {
            let refusal = flat_map(body.as_bytes()).unwrap_err();
            assert!(format!("{refusal:?}").contains(&format!("{message:?}")), "{refusal:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(flat_map(deep.as_bytes()).is_err(), "deep nesting is refused, not followed");
    }

    #[test]
    fn query_parameters_are_decoded_and_repeatable() {
        let query = Some("expand=info&x=1&expand=sta%74us&a+b&flag=TRUE&other=yes");
        assert_eq!(query_values(query, "expand"), ["info", "status"]);
        assert_eq!(query_values(query, "a b"), [""]);
        assert_eq!(query_values(None, "expand"), Vec::<String>::new());
        assert!(query_flag(query, "flag", false));
        assert!(!query_flag(query, "other", true));
        assert!(query_flag(query, "absent", true));
    }
}
