//! `${provider:path:key}` in a configuration: resolved where a task or a check needs the value, never in REST or logs.

use std::path::Path;

use model::{Config, Invalid};

use crate::connector_file;

/// Replaces the references of `config` (`org.apache.kafka.common.config.provider`: EnvVarConfigProvider as `env`,
/// FileConfigProvider as `file`, DirectoryConfigProvider as `directory` or `dir`). A reference to another provider stays
/// as it is, as in Kafka Connect. An error names the key, not the value.
pub(crate) fn resolve(config: &Config, environment: &dyn Fn(&str) -> Option<String>) -> Result<Config, Invalid> {
    config
        .iter()
        .map(|(key, value)| match resolve_text(value, environment) {
            Ok(resolved) => Ok((key.clone(), resolved)),
            Err(why) => Err(Invalid::new(key, format!("Invalid value {value} for configuration {key}: {why}"))),
        })
        .collect()
}

fn resolve_text(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let Some(length) = rest[start..].find('}') else { break };
        let reference = &rest[start + 2..start + length];
        resolved.push_str(&rest[..start]);
        match look_up(reference, environment)? {
            Some(value) => resolved.push_str(&value),
            None => resolved.push_str(&rest[start..=start + length]),
        }
        rest = &rest[start + length + 1..];
    }
    resolved.push_str(rest);
    Ok(resolved)
}

fn look_up(reference: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    let Some((provider, rest)) = reference.split_once(':') else { return Ok(None) };
    let (path, key) = rest.rsplit_once(':').unwrap_or(("", rest));
    match provider {
        "env" => environment(key).map(Some).ok_or_else(|| format!("environment variable {key} is not set")),
        "file" => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("could not read {path}: {error}"))?;
            let value = connector_file::properties(&text)?.remove(key);
            value.map(Some).ok_or_else(|| format!("{path} has no key {key}"))
        }
        "directory" | "dir" => {
            let file = Path::new(path).join(key);
            let text = std::fs::read_to_string(&file)
                .map_err(|error| format!("could not read {}: {error}", file.display()))?;
            Ok(Some(text))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_wherever_they_stand_and_foreign_ones_stay() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secrets.properties");
        std::fs::write(&file, "key=from file\n").unwrap();
        let config: Config = [
            ("a", "x${env:HOME_OF_A}y${env:HOME_OF_A}".to_owned()),
            ("b", format!("${{file:{}:key}}", file.display())),
            ("c", format!("${{directory:{}:secrets.properties}}", directory.path().display())),
            ("d", "${vault:path:key} ${topic}-${timestamp} ${".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let environment = |name: &str| (name == "HOME_OF_A").then(|| "1".to_owned());
        let resolved = resolve(&config, &environment).unwrap();
        assert_eq!(
            resolved.values().collect::<Vec<_>>(),
            ["x1y1", "from file", "key=from file\n", config["d"].as_str()]
        );
        let missing = [("k".to_owned(), "${env:NOT_THERE}".to_owned())].into();
        let error = resolve(&missing, &environment).unwrap_err();
        assert!(error.message.contains("configuration k: environment variable NOT_THERE is not set"), "{error}");
    }
}
