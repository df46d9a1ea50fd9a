//! Properties of Kafka's Java clients, as worker files and `consumer.override.*` and its like hold them, for librdkafka.

use std::collections::BTreeMap;

use model::Invalid;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

/// Properties that librdkafka takes, and what was left out of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Translated {
    /// Names and values for librdkafka. Values may be secrets.
    pub properties: BTreeMap<String, String>,
    /// One sentence for each property that has no effect.
    pub warnings: Vec<String>,
}

impl std::fmt::Debug for Translated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Translated")
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("warnings", &self.warnings)
            .finish()
    }
}

/// Properties of the Java clients that need nothing here.
const NOT_NEEDED: &[&str] = &[
    "key.deserializer",
    "value.deserializer",
    "key.serializer",
    "value.serializer",
    "max.poll.records",
    "default.api.timeout.ms",
    "exclude.internal.topics",
    "metric.reporters",
    "metrics.num.samples",
    "metrics.recording.level",
    "metrics.sample.window.ms",
    "auto.include.jmx.reporter",
    "ssl.truststore.password",
    "ssl.protocol",
    "ssl.provider",
    "ssl.keymanager.algorithm",
    "ssl.trustmanager.algorithm",
    "internal.leave.group.on.close",
    "max.block.ms",
    "buffer.memory",
    "metadata.max.idle.ms",
    "partitioner.adaptive.partitioning.enable",
    "partitioner.availability.timeout.ms",
];

/// The same thing under another name.
const RENAMED: &[(&str, &str)] = &[
    ("fetch.max.wait.ms", "fetch.wait.max.ms"),
    ("request.timeout.ms", "socket.timeout.ms"),
    ("max.request.size", "message.max.bytes"),
    ("ssl.keystore.certificate.chain", "ssl.certificate.pem"),
    ("ssl.keystore.key", "ssl.key.pem"),
    ("ssl.truststore.certificates", "ssl.ca.pem"),
];

const NO_LETTER_LOST: &str =
    "dead letters are written idempotently until all in-sync replicas have them, however long that takes";

/// What the exactly-once protocol decides, and what would run programs or load code from a configuration.
const KEPT_OUT: &[(&str, &str)] = &[
    ("enable.auto.commit", "offsets are committed with the files"),
    ("enable.auto.offset.store", "offsets are committed with the files"),
    ("auto.commit.interval.ms", "offsets are committed with the files"),
    ("enable.partition.eof", "ends of logs are told already"),
    ("log.queue", "logs are taken already"),
    ("acks", NO_LETTER_LOST),
    ("request.required.acks", NO_LETTER_LOST),
    ("enable.idempotence", NO_LETTER_LOST),
    ("retries", NO_LETTER_LOST),
    ("message.send.max.retries", NO_LETTER_LOST),
    ("delivery.timeout.ms", NO_LETTER_LOST),
    ("message.timeout.ms", NO_LETTER_LOST),
    ("transactional.id", "dead letters are written without a transaction"),
    ("partitioner.class", "it names Java code"),
    ("interceptor.classes", "interceptors are Java code"),
    ("plugin.library.paths", "it would load code"),
    ("ssl.engine.location", "it would load code"),
    ("ssl.providers", "it would load code"),
    ("sasl.kerberos.kinit.cmd", "it would run a command"),
    ("sasl.login.callback.handler.class", "login handlers are Java code"),
    ("sasl.client.callback.handler.class", "login handlers are Java code"),
    ("sasl.login.class", "login handlers are Java code"),
    ("ssl.engine.factory.class", "it names Java code"),
    ("ssl.cipher.suites", "Java's names of cipher suites are not OpenSSL's"),
    ("ssl.enabled.protocols", "OpenSSL's choice of TLS 1.2 and 1.3 is used"),
    ("test.mock.num.brokers", "it is for tests"),
];

/// Translates properties of a Java client (names without `prefix`; `prefix` only stands in messages). Names that
/// librdkafka has are taken as they are, names that it does not know are left out with a warning. An error names the
/// first property whose value cannot be used, among them Java's own key stores.
pub fn translate<'a>(
    prefix: &str,
    properties: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Translated, Invalid> {
    let given: BTreeMap<&str, &str> = properties.into_iter().map(|(name, value)| (name, value.trim())).collect();
    let mut translation = Translation { prefix, given: &given, done: Translated::default() };
    for (name, value) in &given {
        translation.one(name, value)?;
    }
    Ok(translation.done)
}

struct Translation<'a> {
    prefix: &'a str,
    given: &'a BTreeMap<&'a str, &'a str>,
    done: Translated,
}

impl Translation<'_> {
    fn one(&mut self, name: &str, value: &str) -> Result<(), Invalid> {
        if NOT_NEEDED.contains(&name) || name.starts_with("metrics.context.") {
            return Ok(());
        }
        if let Some((_, why)) = KEPT_OUT.iter().find(|(kept_out, _)| *kept_out == name) {
            self.warn(name, why);
            return Ok(());
        }
        if let Some((_, renamed)) = RENAMED.iter().find(|(java, _)| *java == name) {
            return self.set(name, renamed, value);
        }
        match name {
            "auto.offset.reset" => self.set(name, name, if value == "none" { "error" } else { value }),
            "security.protocol" => self.set(name, name, &value.to_lowercase()),
            "ssl.endpoint.identification.algorithm" => {
                self.set(name, name, if value.is_empty() { "none" } else { value })
            }
            "send.buffer.bytes" | "receive.buffer.bytes" => {
                let ours = format!("socket.{name}");
                self.set(name, &ours, if value == "-1" { "0" } else { value })
            }
            "metadata.max.age.ms" => self.metadata_age(name, value),
            "partition.assignment.strategy" => self.strategy(name, value),
            "sasl.jaas.config" => self.jaas(name, value),
            "ssl.truststore.location" => self.truststore(name, value),
            "ssl.keystore.location" => self.keystore(name, value),
            "ssl.truststore.type" | "ssl.keystore.type" => Ok(()),
            // It opens the PKCS12 store only; a PEM key has ssl.key.password.
            "ssl.keystore.password" if self.is_pem("ssl.keystore") => Ok(()),
            _same_name => self.set(name, name, value),
        }
    }

    fn warn(&mut self, name: &str, why: &str) {
        self.done.warnings.push(format!("{}{name} has no effect: {why}", self.prefix));
    }

    fn invalid(&self, name: &str, why: impl std::fmt::Display) -> Invalid {
        let name = format!("{}{name}", self.prefix);
        Invalid::new(name.clone(), format!("Invalid value for configuration {name}: {why}"))
    }

    /// Asks librdkafka whether it takes the property.
    fn set(&mut self, name: &str, ours: &str, value: &str) -> Result<(), Invalid> {
        if ours.ends_with("_cb") || value.contains('\0') {
            return Err(self.invalid(name, "it cannot be given as text"));
        }
        match ClientConfig::new().set(ours, value).create_native_config() {
            Ok(_) => {
                self.done.properties.insert(ours.to_owned(), value.to_owned());
                Ok(())
            }
            Err(KafkaError::ClientConfig(result, why, ..)) if is_unknown(result) => {
                tracing::trace!(name, why, "librdkafka does not know the property");
                self.warn(name, "the Kafka client of sluice (librdkafka) does not know it");
                Ok(())
            }
            Err(KafkaError::ClientConfig(_, why, ..)) => Err(self.invalid(name, why)),
            Err(error) => Err(self.invalid(name, error)),
        }
    }

    /// In Java it is the time between refreshes; librdkafka has another name for that, and forgets after three of them.
    fn metadata_age(&mut self, name: &str, value: &str) -> Result<(), Invalid> {
        let millis: u32 = value.parse().map_err(|_| self.invalid(name, "Not a number of type LONG"))?;
        let refresh = millis.clamp(10, 3_600_000);
        self.set(name, "topic.metadata.refresh.interval.ms", &refresh.to_string())?;
        self.set(name, "metadata.max.age.ms", &(refresh * 3).to_string())
    }

    /// Java lists eager and cooperative strategies together to move a group from one to the other; librdkafka wants one
    /// kind. The eager ones are what such a group agrees on.
    fn strategy(&mut self, name: &str, value: &str) -> Result<(), Invalid> {
        let mut eager = Vec::new();
        let mut cooperative = false;
        for strategy in value.split(',').map(str::trim).filter(|strategy| !strategy.is_empty()) {
            match strategy.rsplit('.').next().unwrap_or(strategy) {
                "RangeAssignor" | "range" => eager.push("range"),
                "RoundRobinAssignor" | "roundrobin" => eager.push("roundrobin"),
                "CooperativeStickyAssignor" | "cooperative-sticky" => cooperative = true,
                unknown => self.warn(
                    name,
                    &format!("strategy {unknown} is not known; range, roundrobin and cooperative-sticky are"),
                ),
            }
        }
        match (eager.is_empty(), cooperative) {
            (true, true) => self.set(name, name, "cooperative-sticky"),
            (true, false) => Ok(()),
            (false, _) => self.set(name, name, &eager.join(",")),
        }
    }

    fn jaas(&mut self, name: &str, value: &str) -> Result<(), Invalid> {
        if value.is_empty() {
            return Ok(());
        }
        let jaas = Jaas::parse(value).map_err(|why| self.invalid(name, why))?;
        match jaas.module.rsplit('.').next().unwrap_or_default() {
            "PlainLoginModule" | "ScramLoginModule" => {
                for (option, ours) in [("username", "sasl.username"), ("password", "sasl.password")] {
                    let Some(text) = jaas.options.get(option) else {
                        return Err(self.invalid(name, format!("{option} is missing")));
                    };
                    self.set(name, ours, text)?;
                }
                Ok(())
            }
            other => Err(self.invalid(
                name,
                format!("login module {other} is not supported; PlainLoginModule and ScramLoginModule are",),
            )),
        }
    }

    /// Whether the store at `<which>.location` is PEM: its type says so, else the end of its name.
    fn is_pem(&self, which: &str) -> bool {
        match self.given.get(format!("{which}.type").as_str()) {
            Some(kind) => kind.eq_ignore_ascii_case("PEM"),
            None => {
                let path = self.given.get(format!("{which}.location").as_str()).copied().unwrap_or_default();
                [".pem", ".crt", ".cer", ".cert"].iter().any(|end| path.to_lowercase().ends_with(end))
            }
        }
    }

    fn is_pkcs12(&self, which: &str) -> bool {
        match self.given.get(format!("{which}.type").as_str()) {
            Some(kind) => kind.eq_ignore_ascii_case("PKCS12"),
            None => {
                let path = self.given.get(format!("{which}.location").as_str()).copied().unwrap_or_default();
                [".p12", ".pfx", ".pkcs12"].iter().any(|end| path.to_lowercase().ends_with(end))
            }
        }
    }

    fn truststore(&mut self, name: &str, path: &str) -> Result<(), Invalid> {
        if path.is_empty() {
            return Ok(());
        }
        if self.is_pem("ssl.truststore") {
            return self.set(name, "ssl.ca.location", path);
        }
        Err(self.invalid(name, format!(
            "{path} is a Java trust store; convert it to PEM (keytool -list -rfc -keystore {path} > ca.pem) and set \
             ssl.truststore.type=PEM",
        )))
    }

    fn keystore(&mut self, name: &str, path: &str) -> Result<(), Invalid> {
        if path.is_empty() {
            return Ok(());
        }
        if self.is_pem("ssl.keystore") {
            // One PEM file holds certificates and key.
            self.set(name, "ssl.certificate.location", path)?;
            return self.set(name, "ssl.key.location", path);
        }
        if self.is_pkcs12("ssl.keystore") {
            return self.set(name, name, path);
        }
        Err(self.invalid(name, format!(
            "{path} is a Java key store; convert it to PKCS12 (keytool -importkeystore -srckeystore {path} -destkeystore \
             client.p12 -deststoretype PKCS12) and set ssl.keystore.type=PKCS12",
        )))
    }
}

fn is_unknown(result: rdkafka::types::RDKafkaConfRes) -> bool {
    result == rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN
}

/// `module flag option="value" ...;` as in `sasl.jaas.config`.
struct Jaas {
    module: String,
    options: BTreeMap<String, String>,
}

impl Jaas {
    fn parse(text: &str) -> Result<Jaas, String> {
        let mut words = Vec::new();
        let mut characters = text.chars().peekable();
        'words: loop {
            while characters.next_if(|character| character.is_whitespace()).is_some() {}
            let (mut word, mut quote) = (String::new(), None);
            loop {
                match (characters.next(), quote) {
                    (None, Some(_)) => return Err("a quote is not closed".to_owned()),
                    (None, None) => return Err("it does not end with a semicolon".to_owned()),
                    (Some('\\'), Some(_)) => word.extend(characters.next()),
                    (Some(end), Some(open)) if end == open => quote = None,
                    (Some(open @ ('"' | '\'')), None) => quote = Some(open),
                    (Some(';'), None) => {
                        words.push(word);
                        break 'words;
                    }
                    (Some(space), None) if space.is_whitespace() => {
                        words.push(word);
                        break;
                    }
                    (Some(other), _) => word.push(other),
                }
            }
        }
        let mut words = words.into_iter().filter(|word| !word.is_empty());
        let module = words.next().ok_or("the login module is missing")?;
        let _flag = words.next().ok_or("the word `required` is missing")?;
        let options =
            words.filter_map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(Jaas { module, options: options.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn translated(pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        match translate("consumer.override.", pairs.iter().copied()) {
            Ok(done) => Ok(done.properties.into_iter().collect()),
            Err(problem) => Err(format!("{}: {}", problem.key, problem.message)),
        }
    }

    const SCRAM: &str =
        r#"org.apache.kafka.common.security.scram.ScramLoginModule required username="us er" password="p\"w;d";"#;

    #[test]
    fn java_names_and_values_become_librdkafkas() {
        let cases: &[(Pairs, Pairs)] = &[
            (
                &[("bootstrap.servers", "a:1,b:2"), ("group.id", "g")],
                &[("bootstrap.servers", "a:1,b:2"), ("group.id", "g")],
            ),
            (&[("security.protocol", "SASL_SSL")], &[("security.protocol", "sasl_ssl")]),
            (&[("auto.offset.reset", "none")], &[("auto.offset.reset", "error")]),
            (&[("ssl.endpoint.identification.algorithm", "")], &[("ssl.endpoint.identification.algorithm", "none")]),
            (&[("fetch.max.wait.ms", "100"), ("max.poll.records", "5")], &[("fetch.wait.max.ms", "100")]),
            (&[("receive.buffer.bytes", "-1")], &[("socket.receive.buffer.bytes", "0")]),
            (
                &[("max.request.size", "2000000"), ("compression.type", "zstd"), ("buffer.memory", "1")],
                &[("compression.type", "zstd"), ("message.max.bytes", "2000000")],
            ),
            (
                &[(
                    "partition.assignment.strategy",
                    "org.apache.kafka.clients.consumer.RangeAssignor,org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
                )],
                &[("partition.assignment.strategy", "range")],
            ),
            (
                &[("metadata.max.age.ms", "1000")],
                &[("metadata.max.age.ms", "3000"), ("topic.metadata.refresh.interval.ms", "1000")],
            ),
            (
                &[("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.jaas.config", SCRAM)],
                &[("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.password", "p\"w;d"), ("sasl.username", "us er")],
            ),
            (
                &[("ssl.truststore.location", "/ca"), ("ssl.truststore.type", "PEM"), ("ssl.truststore.password", "x")],
                &[("ssl.ca.location", "/ca")],
            ),
            (
                &[("ssl.keystore.location", "/me.p12"), ("ssl.keystore.password", "x")],
                &[("ssl.keystore.location", "/me.p12"), ("ssl.keystore.password", "x")],
            ),
            (
                &[("ssl.keystore.location", "/me.pem"), ("ssl.key.password", "x")],
                &[("ssl.certificate.location", "/me.pem"), ("ssl.key.location", "/me.pem"), ("ssl.key.password", "x")],
            ),
        ];
        for (java, expected) in cases {
            let found = translated(java).unwrap();
            let found: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, *expected);
        }
    }

    #[test]
    fn bad_values_name_the_key_and_do_not_show_secrets() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("auto.offset.reset", "sometimes")], "auto.offset.reset"),
            (&[("ssl.truststore.location", "/trust.jks")], "keytool"),
            (&[("ssl.keystore.location", "/keys.jks")], "PKCS12"),
            (&[("sasl.jaas.config", "org.x.PlainLoginModule required username=\"a\"")], "semicolon"),
            (
                &[("sasl.jaas.config", "org.x.PlainLoginModule required username=\"a\" token=\"secret\";")],
                "password is missing",
            ),
            (&[("sasl.jaas.config", "org.x.OAuthBearerLoginModule required;")], "OAuthBearerLoginModule"),
            (&[("metadata.max.age.ms", "soon")], "LONG"),
        ];
        for (java, part) in cases {
            let error = translated(java).unwrap_err();
            assert!(error.starts_with("consumer.override.") && error.contains(part), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_has_no_effect_is_left_out_with_a_warning() {
        let cases = [
            ("no.such.property", "does not know it"),
            ("enable.auto.commit", "committed with the files"),
            ("plugin.library.paths", "load code"),
            ("interceptor.classes", "Java code"),
            ("acks", "in-sync replicas"),
        ];
        for (name, part) in cases {
            let done = translate("consumer.override.", [(name, "x")]).unwrap();
            assert!(done.properties.is_empty(), "{name}");
            assert!(done.warnings.len() == 1 && done.warnings[0].contains(part), "{:?}", done.warnings);
        }
    }
}
