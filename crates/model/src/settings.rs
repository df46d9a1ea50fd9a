//! A connector's flat map of texts, and typed reading of it through declared keys.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::{Check, DefaultValue, Key, Kind};

/// A connector configuration as it was submitted: a flat map of texts.
pub type Config = BTreeMap<String, String>;

/// What stands for a secret in REST answers and logs (`org.apache.kafka.common.config.types.Password.HIDDEN`).
pub const MASK: &str = "[hidden]";

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A value that cannot be used, or one that is missing. Its text is what Kafka Connect's `ConfigException` says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// The key to blame.
    pub key: String,
    /// The whole sentence.
    pub message: String,
}

impl Invalid {
    /// A sentence about `key` in our own words.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }

    /// `Invalid value V for configuration K: why`.
    pub fn value(key: &Key, value: &str, why: impl fmt::Display) -> Self {
        let shown = if key.kind == Kind::Password { MASK } else { value };
        Self::new(key.name, format!("Invalid value {shown} for configuration {}: {why}", key.name))
    }

    /// `Missing required configuration "K" which has no default value.`
    pub fn missing(key: &Key) -> Self {
        Self::new(key.name, format!("Missing required configuration \"{}\" which has no default value.", key.name))
    }
}

/// Typed reading of a [`Config`]: trims, applies defaults, checks.
#[derive(Debug, Clone)]
pub struct Settings {
    config: Config,
    prefix: String,
}

impl Settings {
    /// Reads `config`, whose `${provider:path:key}` references are resolved already.
    pub fn new(config: Config) -> Self {
        Self { config, prefix: String::new() }
    }

    /// The same settings seen below `prefix`: key `k` reads `<prefix>k`. Used for `value.converter.` and the like.
    pub fn below(&self, prefix: &str) -> Settings {
        Settings { config: self.config.clone(), prefix: format!("{}{prefix}", self.prefix) }
    }

    /// The same settings with `key` set to `text`.
    pub fn with(&self, key: &Key, text: &str) -> Settings {
        let mut config = self.config.clone();
        config.insert(format!("{}{}", self.prefix, key.name), text.to_owned());
        Settings { config, prefix: self.prefix.clone() }
    }

    /// Everything that starts with `prefix`, without it: `consumer.override.` and the like.
    pub fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        let whole = format!("{}{prefix}", self.prefix);
        self.config.iter().filter_map(move |(key, value)| Some((key.strip_prefix(whole.as_str())?, value.as_str())))
    }

    /// Every key as submitted.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the key was given, even as an empty text.
    pub fn is_set(&self, key: &Key) -> bool {
        self.config.contains_key(&format!("{}{}", self.prefix, key.name))
    }

    /// The value as submitted, white space kept; for the few keys where white space means something.
    pub fn raw(&self, key: &Key) -> Option<&str> {
        self.config.get(&format!("{}{}", self.prefix, key.name)).map(String::as_str)
    }

    /// The trimmed value or the default, without any check; `None` for null.
    pub fn text(&self, key: &Key) -> Option<&str> {
        match (self.raw(key), key.default) {
            (Some(value), _) => Some(value.trim()),
            (None, DefaultValue::Text(text)) => Some(text),
            (None, DefaultValue::Null | DefaultValue::Required) => None,
        }
    }

    /// What is wrong with the value of `key`, if anything.
    pub fn problem(&self, key: &Key) -> Option<Invalid> {
        let Some(value) = self.text(key) else {
            return (key.default == DefaultValue::Required).then(|| Invalid::missing(key));
        };
        if !self.is_set(key) {
            return None;
        }
        let typed = match key.kind {
            Kind::Int => value.parse::<i32>().map(i64::from).map(Some).map_err(|_| "Not a number of type INT"),
            Kind::Long => value.parse::<i64>().map(Some).map_err(|_| "Not a number of type LONG"),
            Kind::Short => value.parse::<i16>().map(i64::from).map(Some).map_err(|_| "Not a number of type SHORT"),
            Kind::Double => value.parse::<f64>().map(|_| None).map_err(|_| "Not a number of type DOUBLE"),
            Kind::Boolean => match value.to_ascii_lowercase().as_str() {
                "true" | "false" => Ok(None),
                _ => Err("Expected value to be either true or false"),
            },
            Kind::String | Kind::List | Kind::Class | Kind::Password => Ok(None),
        };
        let number = match typed {
            Ok(number) => number,
            Err(why) => return Some(Invalid::value(key, value, why)),
        };
        check(key.check, value, number).err().map(|why| Invalid::value(key, value, why))
    }

    /// The checked text; `None` for null.
    pub fn string(&self, key: &Key) -> Result<Option<String>, Invalid> {
        match self.problem(key) {
            Some(problem) => Err(problem),
            None => Ok(self.text(key).map(str::to_owned)),
        }
    }

    /// The checked text of a key that is required or has a default.
    pub fn required_string(&self, key: &Key) -> Result<String, Invalid> {
        self.string(key)?.ok_or_else(|| Invalid::missing(key))
    }

    /// The checked number of an INT, LONG or SHORT key that is required or has a default.
    pub fn long(&self, key: &Key) -> Result<i64, Invalid> {
        let value = self.required_string(key)?;
        value.parse().map_err(|_| Invalid::value(key, &value, "Not a number of type LONG"))
    }

    /// As [`Self::long`], for keys whose check keeps the number at 0 and up.
    pub fn size(&self, key: &Key) -> Result<usize, Invalid> {
        let value = self.long(key)?;
        usize::try_from(value).map_err(|_| Invalid::value(key, &value.to_string(), "Value must be at least 0"))
    }

    /// A number of milliseconds; `None` when it is 0 or negative, which switches such keys off.
    pub fn millis(&self, key: &Key) -> Result<Option<Duration>, Invalid> {
        let value = self.long(key)?;
        Ok(u64::try_from(value).ok().filter(|ms| *ms > 0).map(Duration::from_millis))
    }

    /// The checked boolean of a key that is required or has a default.
    pub fn boolean(&self, key: &Key) -> Result<bool, Invalid> {
        Ok(self.required_string(key)?.eq_ignore_ascii_case("true"))
    }

    /// The comma-separated texts, trimmed, empty ones left out.
    pub fn list(&self, key: &Key) -> Result<Vec<String>, Invalid> {
        let value = self.string(key)?.unwrap_or_default();
        Ok(value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
    }

    /// The secret; `None` when it is not given or blank.
    pub fn secret(&self, key: &Key) -> Result<Option<Secret>, Invalid> {
        Ok(self.string(key)?.filter(|text| !text.is_empty()).map(Secret::new))
    }
}

fn check(check: Check, value: &str, number: Option<i64>) -> Result<(), String> {
    let is = |good: bool, why: String| if good { Ok(()) } else { Err(why) };
    match check {
        Check::Any => Ok(()),
        Check::NotEmpty => is(!value.is_empty(), "String must be non-empty".to_owned()),
        Check::OneOf(known) => is(known.contains(&value), format!("String must be one of: {}", known.join(", "))),
        Check::OneOfIgnoringCase(known) => is(
            known.iter().any(|one| one.eq_ignore_ascii_case(value)),
            format!("String must be one of (case insensitive): {}", known.join(", ")),
        ),
        Check::AtLeast(least) => {
            is(number.is_none_or(|number| number >= least), format!("Value must be at least {least}"))
        }
        Check::Between(least, most) => match number {
            Some(number) if number < least => Err(format!("Value must be at least {least}")),
            Some(number) if number > most => Err(format!("Value must be no more than {most}")),
            Some(_) | None => Ok(()),
        },
        Check::With(accept) => accept(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Key = Key::new("size", Kind::Int, "A number.").required().check(Check::Between(1, 9));
    const MODE: Key = Key::new("mode", Kind::String, "A mode.").default("none").check(Check::OneOf(&["none", "all"]));
    const FLAG: Key = Key::new("flag", Kind::Boolean, "A flag.").default("false");
    const WAIT: Key = Key::new("wait.ms", Kind::Long, "A time.").default("-1");
    const WORD: Key = Key::new("word", Kind::Password, "A secret.").check(Check::With(|_| Err("is bad".to_owned())));
    const NAMES: Key = Key::new("names", Kind::List, "Names.").default("");

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn problems_read_as_kafka_connects() {
        type Case<'a> = (&'a Key, &'a [(&'a str, &'a str)], &'a str);
        let cases: &[Case<'_>] = &[
            (&SIZE, &[], "Missing required configuration \"size\" which has no default value."),
            (&SIZE, &[("size", "x")], "Invalid value x for configuration size: Not a number of type INT"),
            (
                &SIZE,
                &[("size", "99999999999")],
                "Invalid value 99999999999 for configuration size: Not a number of type INT",
            ),
            (&SIZE, &[("size", "0")], "Invalid value 0 for configuration size: Value must be at least 1"),
            (&SIZE, &[("size", "10")], "Invalid value 10 for configuration size: Value must be no more than 9"),
            (&MODE, &[("mode", "x")], "Invalid value x for configuration mode: String must be one of: none, all"),
            (
                &FLAG,
                &[("flag", "1")],
                "Invalid value 1 for configuration flag: Expected value to be either true or false",
            ),
            (&WORD, &[("word", "abc")], "Invalid value [hidden] for configuration word: is bad"),
        ];
        for (key, pairs, message) in cases {
            assert_eq!(settings(pairs).problem(key).map(|problem| problem.message).as_deref(), Some(*message));
        }
    }

    #[test]
    fn values_are_trimmed_and_defaults_apply() {
        let settings = settings(&[("size", " 4 "), ("flag", " TRUE "), ("names", "a, b,,c "), ("p.size", "5")]);
        assert_eq!(settings.long(&SIZE), Ok(4));
        assert_eq!(settings.boolean(&FLAG), Ok(true));
        assert_eq!(settings.string(&MODE), Ok(Some("none".to_owned())));
        assert_eq!(settings.millis(&WAIT), Ok(None));
        assert_eq!(settings.list(&NAMES), Ok(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
        assert_eq!(settings.below("p.").long(&SIZE), Ok(5));
        assert_eq!(settings.with_prefix("p.").collect::<Vec<_>>(), [("size", "5")]);
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("abc")), "***");
    }
}
