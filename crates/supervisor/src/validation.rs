//! What is known and what is wrong about a submitted configuration, key by key, as Kafka Connect's `ConfigInfos` has it.

use std::collections::BTreeMap;

use model::{Check, Config, DefaultValue, Effect, Importance, Invalid, Key, Kind, MASK, Settings, Width};

/// A configuration as it came over REST: a value may be null, which is an error of its own.
pub type Submitted = BTreeMap<String, Option<String>>;

/// A key as it is shown to a client; from a [`Key`], or made for a key whose name is only known at run time.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Its whole name.
    pub name: String,
    /// Type of its value.
    pub kind: Kind,
    /// Whether it must be given.
    pub required: bool,
    /// Value when it is not given; masked for passwords.
    pub default_value: Option<String>,
    /// How much it matters.
    pub importance: Importance,
    /// What it means.
    pub documentation: String,
    /// Group in forms, if any.
    pub group: Option<String>,
    /// Rank in its group.
    pub order: i32,
    /// Width in forms.
    pub width: Width,
    /// Title in forms.
    pub display_name: String,
    /// Keys that depend on it.
    pub dependents: Vec<String>,
    check: Check,
}

impl Definition {
    /// The definition of `key`.
    pub fn of(key: &Key) -> Definition {
        Definition {
            name: key.name.to_owned(),
            kind: key.kind,
            required: key.default == DefaultValue::Required,
            default_value: match key.default {
                DefaultValue::Text(_) if key.kind == Kind::Password => Some(MASK.to_owned()),
                DefaultValue::Text(text) => Some(text.to_owned()),
                DefaultValue::Required | DefaultValue::Null => None,
            },
            importance: key.importance,
            documentation: key.doc.to_owned(),
            group: (!key.group.0.is_empty()).then(|| key.group.0.to_owned()),
            order: key.group.1,
            width: key.width,
            display_name: if key.display_name.is_empty() { key.name } else { key.display_name }.to_owned(),
            dependents: key.dependents.iter().map(|name| (*name).to_owned()).collect(),
            check: key.check,
        }
    }

    /// The definition of `key` below `prefix` (`value.converter.`): the whole name, and no place in the forms.
    pub fn below(prefix: &str, key: &Key) -> Definition {
        Definition { name: format!("{prefix}{}", key.name), group: None, order: -1, ..Definition::of(key) }
    }
}

/// One key with its value and what is wrong with it.
#[derive(Debug, Clone)]
pub struct Validated {
    /// The key's whole name.
    pub name: String,
    /// Its definition; `None` for a key that nobody declared.
    pub definition: Option<Definition>,
    /// The value in force, masked for passwords; `None` for null and for what is not of the key's type.
    pub value: Option<String>,
    /// What is wrong with it, in Kafka Connect's words.
    pub errors: Vec<String>,
    /// Values to choose from.
    pub recommended: Vec<String>,
    /// Whether forms show it.
    pub visible: bool,
}

/// The result of validating a configuration.
#[derive(Debug, Clone)]
pub struct Validation {
    /// `connector.class` as submitted.
    pub class: String,
    /// Every key, in the order in which it was added.
    pub configs: Vec<Validated>,
    /// What is accepted and yet worth saying: keys without effect, and keys that nobody declared.
    pub warnings: Vec<String>,
}

impl Validation {
    /// An empty result for a connector of `class`.
    pub fn new(class: &str) -> Validation {
        Validation { class: class.to_owned(), configs: Vec::new(), warnings: Vec::new() }
    }

    /// Adds `keys` with their values, each checked for itself as `ConfigDef.validate` does. A key that is there already
    /// is left out: plug-ins share some.
    pub fn add<'a>(&mut self, settings: &Settings, keys: impl IntoIterator<Item = &'a Key>) {
        for key in keys {
            self.push(settings, key, Definition::of(key));
        }
    }

    /// As [`Self::add`] for the keys of a plug-in that is configured below `prefix`.
    pub fn add_below<'a>(&mut self, settings: &Settings, prefix: &str, keys: impl IntoIterator<Item = &'a Key>) {
        let settings = settings.below(prefix);
        for key in keys {
            self.push(&settings, key, Definition::below(prefix, key));
        }
    }

    /// Adds problems that no single key can tell; what is known of a key already is not said again. A problem of an
    /// unknown key makes an entry without a definition.
    pub fn blame(&mut self, problems: impl IntoIterator<Item = Invalid>) {
        for problem in problems {
            let errors = &mut self.entry(&problem.key).errors;
            if !errors.contains(&problem.message) {
                errors.push(problem.message);
            }
        }
    }

    /// Says which values `name` may choose from.
    pub fn recommend(&mut self, name: &str, values: Vec<String>) {
        if let Some(validated) = self.configs.iter_mut().find(|validated| validated.name == name) {
            validated.recommended = values;
        }
    }

    /// Warns about the keys of `config` that nobody declared; names that start with one of `free` are free.
    pub fn warn_unknown(&mut self, config: &Config, free: &[&str]) {
        for name in config.keys() {
            let known = self.configs.iter().any(|validated| validated.name == *name && validated.definition.is_some());
            if !known && !free.iter().any(|prefix| name.starts_with(prefix)) {
                self.warnings.push(format!("{name} is not a known key: it is kept and has no effect"));
            }
        }
    }

    /// Blames the keys that were submitted as null, as Kafka Connect does: a null is neither absent nor a default.
    pub(crate) fn blame_nulls<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            let validated = self.entry(name);
            validated.value = None;
            validated.errors.retain(|error| !error.starts_with("Missing required configuration"));
            let unchecked = validated.definition.as_ref().and_then(|definition| null_problem(name, definition.check));
            if let Some(message) = unchecked.filter(|message| !validated.errors.contains(message)) {
                validated.errors.insert(0, message);
            }
            validated.errors.push("Null value can not be supplied as the configuration value.".to_owned());
        }
    }

    /// The groups of the declared keys, each once, in order of first appearance.
    pub fn groups(&self) -> Vec<&str> {
        let mut groups = Vec::new();
        for group in self.configs.iter().filter_map(|validated| validated.definition.as_ref()?.group.as_deref()) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }

    /// All error messages, in the order of the keys.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        self.configs.iter().flat_map(|validated| validated.errors.iter().map(String::as_str))
    }

    /// The one text in which Kafka Connect refuses an invalid configuration.
    pub fn refusal(&self) -> String {
        let errors: Vec<&str> = self.errors().collect();
        format!(
            "Connector configuration is invalid and contains the following {} error(s):\n{}\nYou can also find the above list of errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
            errors.len(),
            errors.join("\n")
        )
    }

    fn entry(&mut self, name: &str) -> &mut Validated {
        let index = self.configs.iter().position(|validated| validated.name == name).unwrap_or_else(|| {
            self.configs.push(Validated {
                name: name.to_owned(),
                definition: None,
                value: None,
                errors: Vec::new(),
                recommended: Vec::new(),
                visible: true,
            });
            self.configs.len() - 1
        });
        &mut self.configs[index]
    }

    fn push(&mut self, settings: &Settings, key: &Key, definition: Definition) {
        if self.configs.iter().any(|validated| validated.name == definition.name) {
            return;
        }
        if let Some(warning) = effect_warning(settings, key, &definition.name) {
            self.warnings.push(warning);
        }
        let (value, errors) = checked(settings, key);
        self.configs.push(Validated {
            name: definition.name.clone(),
            definition: Some(definition),
            value,
            errors,
            recommended: Vec::new(),
            visible: true,
        });
    }
}

/// Value and errors of one key. A value that is not of the key's type, and one that is missing, count as null for the
/// key's check, which may then complain a second time (`ConfigDef.parseForValidate`).
fn checked(settings: &Settings, key: &Key) -> (Option<String>, Vec<String>) {
    let typed_only = Key { check: Check::Any, ..*key };
    if let Some(problem) = settings.problem(&typed_only) {
        let errors = [Some(problem.message), null_problem(key.name, key.check)].into_iter().flatten().collect();
        return (None, errors);
    }
    let errors = settings.problem(key).map(|problem| problem.message).into_iter().collect();
    let value = settings.text(key).map(|text| match key.kind {
        Kind::Password => MASK.to_owned(),
        Kind::Boolean => text.to_ascii_lowercase(),
        Kind::List => text.split(',').map(str::trim).collect::<Vec<_>>().join(","),
        Kind::String | Kind::Int | Kind::Long | Kind::Short | Kind::Double | Kind::Class => text.to_owned(),
    });
    (value, errors)
}

fn null_problem(name: &str, check: Check) -> Option<String> {
    let why = match check {
        Check::AtLeast(_) | Check::Between(..) => "Value must be non-null".to_owned(),
        Check::OneOf(known) => format!("String must be one of: {}", known.join(", ")),
        Check::OneOfIgnoringCase(known) => format!("String must be one of (case insensitive): {}", known.join(", ")),
        Check::Any | Check::NotEmpty | Check::With(_) => return None,
    };
    Some(format!("Invalid value null for configuration {name}: {why}"))
}

fn effect_warning(settings: &Settings, key: &Key, name: &str) -> Option<String> {
    let is_default = || match key.default {
        DefaultValue::Text(text) => settings.text(key) == Some(text),
        DefaultValue::Null | DefaultValue::Required => settings.text(key).is_none_or(str::is_empty),
    };
    match key.effect {
        Effect::NotYet(missing) if settings.is_set(key) && !is_default() => {
            Some(format!("{name} has no effect yet: {missing}"))
        }
        Effect::NotYet(_) | Effect::Works | Effect::Ignored(_) => None,
    }
}

/// `config` with its secrets masked, for logs and messages: the keys that `is_password` knows, and every name that
/// looks like a secret, because client overrides and the keys of unknown plug-ins are declared nowhere.
pub fn masked(config: &Config, is_password: impl Fn(&str) -> bool) -> Config {
    let mask = |name: &str, value: &str| {
        if is_password(name) || looks_secret(name) { MASK.to_owned() } else { value.to_owned() }
    };
    config.iter().map(|(name, value)| (name.clone(), mask(name, value))).collect()
}

fn looks_secret(name: &str) -> bool {
    const MARKS: &[&str] =
        &["password", "secret", "token", "jaas.config", "user.info", "credential", "private.key", "sse.customer.key"];
    let name = name.to_ascii_lowercase();
    MARKS.iter().any(|mark| name.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Key = Key::new("size", Kind::Int, "A number.").required().check(Check::AtLeast(1)).group("A", 1);
    const MODE: Key =
        Key::new("mode", Kind::String, "A mode.").default("none").check(Check::OneOf(&["none", "all"])).group("B", 1);
    const WORD: Key = Key::new("word", Kind::Password, "A secret.").default("").group("A", 2);
    const SOON: Key = Key::new("soon", Kind::Boolean, "A plan.").default("false").not_yet("the plan").group("", -1);
    const KEYS: &[Key] = &[SIZE, MODE, WORD, SOON];

    fn validation(pairs: &[(&str, &str)]) -> Validation {
        let config: Config = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let mut validation = Validation::new("X");
        validation.add(&Settings::new(config.clone()), KEYS);
        validation.warn_unknown(&config, &["free."]);
        validation
    }

    /// A configuration and its errors.
    type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);

    #[test]
    fn errors_read_as_those_of_config_def() {
        let cases: &[Case] = &[
            (&[("size", "1")], &[]),
            (
                &[("size", "x"), ("mode", "bad")],
                &[
                    "Invalid value x for configuration size: Not a number of type INT",
                    "Invalid value null for configuration size: Value must be non-null",
                    "Invalid value bad for configuration mode: String must be one of: none, all",
                ],
            ),
            (&[("size", "0")], &["Invalid value 0 for configuration size: Value must be at least 1"]),
        ];
        for (pairs, errors) in cases {
            assert_eq!(validation(pairs).errors().collect::<Vec<_>>(), *errors, "{pairs:?}");
        }
    }

    #[test]
    fn a_null_is_neither_absent_nor_the_default() {
        let mut validation = validation(&[("mode", "all")]);
        validation.blame_nulls(["size", "unheard.of"]);
        assert_eq!(
            validation.errors().collect::<Vec<_>>(),
            [
                "Invalid value null for configuration size: Value must be non-null",
                "Null value can not be supplied as the configuration value.",
                "Null value can not be supplied as the configuration value.",
            ]
        );
        assert!(validation.configs.last().is_some_and(|last| last.definition.is_none()));
        assert!(validation.refusal().starts_with(
            "Connector configuration is invalid and contains the following 3 error(s):\nInvalid value null"
        ));
    }

    #[test]
    fn passwords_are_masked_and_groups_keep_their_order() {
        let validation = validation(&[("size", "1"), ("word", "abc")]);
        assert_eq!(validation.groups(), ["A", "B"]);
        let word = validation.configs.iter().find(|validated| validated.name == "word").unwrap();
        assert_eq!(word.value.as_deref(), Some("[hidden]"));
        assert_eq!(word.definition.as_ref().unwrap().default_value.as_deref(), Some("[hidden]"));
    }

    #[test]
    fn keys_without_effect_and_unknown_keys_are_warned_about() {
        let quiet = validation(&[("size", "1"), ("soon", "false"), ("free.x", "1")]);
        assert_eq!(quiet.warnings, Vec::<String>::new());
        let loud = validation(&[("size", "1"), ("soon", "true"), ("sizee", "1")]);
        assert_eq!(
            loud.warnings,
            ["soon has no effect yet: the plan", "sizee is not a known key: it is kept and has no effect"]
        );
    }

    #[test]
    fn keys_below_a_prefix_have_whole_names_and_are_added_once() {
        let settings = Settings::new(Config::from([("p.size".into(), "7".into())]));
        let mut validation = Validation::new("X");
        validation.add_below(&settings, "p.", KEYS);
        validation.add_below(&settings, "p.", KEYS);
        let names: Vec<&str> = validation.configs.iter().map(|validated| validated.name.as_str()).collect();
        assert_eq!(names, ["p.size", "p.mode", "p.word", "p.soon"]);
        assert_eq!(validation.configs[0].value.as_deref(), Some("7"));
        assert_eq!(validation.groups(), Vec::<&str>::new());
    }

    #[test]
    fn secrets_are_masked_by_declaration_and_by_name() {
        let config = Config::from(
            ["word", "consumer.override.sasl.jaas.config", "aws.secret.access.key", "topics"]
                .map(|name| (name.to_owned(), "v".to_owned())),
        );
        let masked = masked(&config, |name| name == "word");
        let shown: Vec<&str> =
            masked.iter().filter(|(_, value)| *value == "v").map(|(name, _)| name.as_str()).collect();
        assert_eq!(shown, ["topics"]);
    }
}
