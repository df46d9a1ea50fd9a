//! Reads connector and `.properties` files: a flat map of texts, whatever the language of the file.

use std::path::Path;

use model::Config;
use serde_json::Value;

use crate::failure::Failure;

/// The connector that a file describes: `{"name":..., "config":{...}}` or the flat map alone. Without a `name` the
/// connector is called as its file.
pub(crate) fn read(path: &Path) -> Result<(String, Config), Failure> {
    let fail = |why: String| Failure::Connector { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    let mut config = parse(path, &text).map_err(fail)?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = config.entry("name".to_owned()).or_insert(stem).trim().to_owned();
    if name.is_empty() {
        return Err(fail("the connector's name is empty".to_owned()));
    }
    config.insert("name".to_owned(), name.clone());
    Ok((name, config))
}

/// The connector of a JSON text that says its name.
pub(crate) fn parse_json(text: &str) -> Result<(String, Config), String> {
    let config = parse(Path::new("connector.json"), text)?;
    let name = config.get("name").cloned().ok_or("the connector has no name")?;
    Ok((name, config))
}

/// The flat map that a text says, in the language that the file's name tells.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Config, String> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    let value: Value = match extension.as_deref() {
        Some("properties") => return properties(text),
        Some("yaml" | "yml") => serde_yaml_ng::from_str(text).map_err(|error| format!("not YAML: {error}"))?,
        Some("toml") => toml::from_str(text).map_err(|error| format!("not TOML: {error}"))?,
        Some(_) | None => serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?,
    };
    let Value::Object(mut whole) = value else {
        return Err("expected an object of keys and values".to_owned());
    };
    match (whole.remove("config"), whole.get("name").cloned()) {
        (Some(Value::Object(config)), name) => {
            let mut flat = flatten(&config)?;
            if let Some(Value::String(name)) = name {
                match flat.get("name") {
                    Some(inner) if *inner != name => {
                        return Err(format!(
                            "Connector name configuration ({inner}) doesn't match connector name in the file ({name})"
                        ));
                    }
                    Some(_) | None => flat.insert("name".to_owned(), name),
                };
            }
            Ok(flat)
        }
        (Some(_), _) => Err("config must be an object of keys and values".to_owned()),
        (None, _) => flatten(&whole),
    }
}

/// A nested map as Kafka's dotted keys: TOML and YAML read `s3.region: x` and `s3: {region: x}` alike.
pub(crate) fn flatten(map: &serde_json::Map<String, Value>) -> Result<Config, String> {
    fn add(prefix: &str, map: &serde_json::Map<String, Value>, flat: &mut Config) -> Result<(), String> {
        for (key, value) in map {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            let text = match value {
                Value::Object(inner) => {
                    add(&key, inner, flat)?;
                    continue;
                }
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                Value::Null => {
                    return Err(format!("{key}: Null value can not be supplied as the configuration value."));
                }
                Value::Array(list) if list.iter().all(|one| one.is_string() || one.is_number()) => {
                    let texts: Vec<_> =
                        list.iter().map(|one| one.as_str().map_or(one.to_string(), str::to_owned)).collect();
                    texts.join(",")
                }
                Value::Array(_) => return Err(format!("{key}: expected a text, a number or a list of them")),
            };
            flat.insert(key, text);
        }
        Ok(())
    }
    let mut flat = Config::new();
    add("", map, &mut flat)?;
    Ok(flat)
}

/// Java's `.properties`: `key=value`, `key: value`, `#` and `!` comments, lines continued by a backslash, `\uXXXX`
/// (`java.util.Properties.load`).
pub(crate) fn properties(text: &str) -> Result<Config, String> {
    let mut flat = Config::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut logical = line.trim_start().to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while (logical.len() - logical.trim_end_matches('\\').len()) % 2 == 1 {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next.trim_start()),
                None => break,
            }
        }
        let (key, value) = split_property(&logical);
        let unescape =
            |text: &str| unescape(text).ok_or_else(|| format!("line {}: bad escape in {text:?}", number + 1));
        flat.insert(unescape(key)?, unescape(value)?);
    }
    Ok(flat)
}

fn split_property(line: &str) -> (&str, &str) {
    let mut escaped = false;
    for (at, letter) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == '=' || letter == ':' || letter.is_whitespace() {
            let rest = line[at..].trim_start();
            let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
            return (&line[..at], value.trim_start());
        }
    }
    (line, "")
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        plain.push(match letters.next() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('f') => '\u{c}',
            Some('u') => {
                let digits: String = letters.by_ref().take(4).collect();
                char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
            }
            Some(other) => other,
            None => break,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str, text: &str) -> Result<Vec<(String, String)>, String> {
        parse(Path::new(name), text).map(|config| config.into_iter().collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        Ok(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn every_language_gives_the_same_flat_map() {
        let expected = || pairs(&[("flush.size", "2"), ("name", "c"), ("topics", "a,b")]);
        let cases = [
            ("c.json", r#"{"name":"c","config":{"topics":"a,b","flush.size":2}}"#),
            ("c.json", r#"{"name":"c","topics":"a,b","flush.size":"2"}"#),
            ("c.properties", "# comment\nname = c\ntopics:a,\\\n   b\nflush.size 2\n"),
            ("c.yaml", "name: c\nflush: {size: 2}\ntopics: [a, b]\n"),
            ("c.toml", "name = 'c'\nflush.size = 2\ntopics = 'a,b'\n"),
        ];
        for (name, text) in cases {
            assert_eq!(parsed(name, text), expected(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_place() {
        for (name, text, part) in [
            ("c.json", "{\"a\": ", "not JSON: EOF while parsing a value at line 1 column 6"),
            ("c.json", "[1]", "expected an object"),
            ("c.json", "{\"a\":null}", "a: Null value can not be supplied"),
            ("c.json", r#"{"name":"x","config":{"name":"y"}}"#, "doesn't match"),
            ("c.properties", "a=\\u00g0", "line 1: bad escape"),
        ] {
            let error = parsed(name, text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
