//! The worker's configuration: built-in defaults, a file, the environment, flags, each above the one before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use model::{Check, Config, Importance, Invalid, Key, Kind, Settings};
use pipeline::MEMORY_BUDGET_BYTES;
use serde_json::Value;

use crate::cli::WorkerOptions;
use crate::connector_file;
use crate::failure::Failure;

/// Where the brokers are.
pub(crate) const BOOTSTRAP_SERVERS: Key =
    Key::new("bootstrap.servers", Kind::List, "Kafka brokers to start from, host:port separated by commas.")
        .default("localhost:9092")
        .importance(Importance::High);

/// Where REST listens.
pub(crate) const LISTENERS: Key = Key::new(
    "listeners",
    Kind::List,
    "Addresses of the REST interface: http://host:port; without a host all interfaces, with port 0 any free port. Only the \
     first one is used.",
)
.default("http://127.0.0.1:8083")
.importance(Importance::High);

/// Where connectors put over REST are kept.
pub(crate) const STATE_DIR: Key = Key::new(
    "state.dir",
    Kind::String,
    "Directory in which connectors that came over REST are kept, so that they survive a restart of the process.",
)
.default("sluice-state")
.ours()
.importance(Importance::Medium);

/// What other workers and clients see of the REST address.
pub(crate) const ADVERTISED_HOST: Key =
    Key::new("rest.advertised.host.name", Kind::String, "Host name in worker_id; the listener's when not given.");

/// As above, the port.
pub(crate) const ADVERTISED_PORT: Key =
    Key::new("rest.advertised.port", Kind::Int, "Port in worker_id; the listener's when not given.")
        .check(Check::Between(1, 65535));

/// How long a stop may take.
pub(crate) const GRACEFUL_TIMEOUT_MS: Key = Key::new(
    "task.shutdown.graceful.timeout.ms",
    Kind::Long,
    "Milliseconds that a task may take to close and commit its open files when it is stopped.",
)
.default("30000")
.check(Check::AtLeast(0));

const NO_GROUP: &str = "a worker needs no group: tasks of one connector share its consumer group";
const NO_TOPICS: &str = "connectors are kept in state.dir";

/// Every key of a worker that is known. Converters and their keys are those of connectors; `consumer.*` is for the
/// connectors' consumers, as on Kafka Connect, and `security.protocol`, `sasl.*`, `ssl.*` without a prefix are theirs too
/// unless `consumer.*` says otherwise.
pub(crate) const KEYS: &[Key] = &[
    BOOTSTRAP_SERVERS,
    LISTENERS,
    STATE_DIR,
    MEMORY_BUDGET_BYTES,
    ADVERTISED_HOST,
    ADVERTISED_PORT,
    GRACEFUL_TIMEOUT_MS,
    schema::KEY_CONVERTER,
    schema::VALUE_CONVERTER,
    schema::HEADER_CONVERTER,
    Key::new("group.id", Kind::String, "The Connect worker group.").ignored(NO_GROUP),
    Key::new("config.storage.topic", Kind::String, "Topic of connector configurations.").ignored(NO_TOPICS),
    Key::new("offset.storage.topic", Kind::String, "Topic of source offsets.").ignored(NO_TOPICS),
    Key::new("status.storage.topic", Kind::String, "Topic of states.").ignored(NO_TOPICS),
    Key::new("offset.storage.file.filename", Kind::String, "File of source offsets.").ignored(NO_TOPICS),
    Key::new("offset.flush.interval.ms", Kind::Long, "How often offsets are committed.")
        .ignored("offsets are committed with the files, at once"),
    Key::new("plugin.path", Kind::List, "Directories of Java plug-ins.").ignored("plug-ins are built in"),
];

/// Prefixes below which any name may stand.
const FREE: &[&str] = &[
    "consumer.",
    "producer.",
    "admin.",
    "security.",
    "sasl.",
    "ssl.",
    "key.converter.",
    "value.converter.",
    "header.converter.",
    "internal.",
    "config.",
    "offset.",
    "status.",
    "metrics.",
    "metric.",
    "rest.",
    "access.control.",
    "config.providers",
    "log4j.",
    "plugin.",
];

/// A worker's settings, checked.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) settings: Settings,
    pub(crate) listen: String,
    pub(crate) advertised: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) memory_budget_bytes: usize,
    pub(crate) graceful_timeout: Duration,
    /// Accepted, yet worth saying.
    pub(crate) warnings: Vec<String>,
}

impl Worker {
    /// Reads file, environment and flags. `environment` is the process's, given in.
    pub(crate) fn read(options: &WorkerOptions, environment: &BTreeMap<String, String>) -> Result<Worker, Failure> {
        let mut figment = Figment::new();
        if let Some(path) = &options.worker {
            figment = merge_file(figment, path)?;
        }
        figment = figment.merge(Serialized::globals(nested(&from_environment(environment))));
        let flags: Result<Config, Failure> = options
            .set
            .iter()
            .map(|text| match text.split_once('=') {
                Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
                None => Err(Failure::Worker(format!("--set {text}: expected KEY=VALUE"))),
            })
            .collect();
        let value: Value = figment
            .merge(Serialized::globals(nested(&flags?)))
            .extract()
            .map_err(|error| Failure::Worker(error.to_string()))?;
        let config = match value {
            Value::Object(map) => connector_file::flatten(&map).map_err(Failure::Worker)?,
            _ => Config::new(),
        };
        // `nested` marks texts that are both a value and the beginning of longer keys.
        let config = config.into_iter().map(|(key, value)| (key.trim_end_matches(".=").to_owned(), value)).collect();
        Worker::new(config).map_err(|error| Failure::Worker(error.to_string()))
    }

    /// Checks a flat configuration.
    pub(crate) fn new(config: Config) -> Result<Worker, Invalid> {
        let settings = Settings::new(config);
        if let Some(problem) = KEYS.iter().find_map(|key| settings.problem(key)) {
            return Err(problem);
        }
        let listen = match settings.list(&LISTENERS)?.first() {
            Some(listener) => listen_address(listener)?,
            None => return Err(Invalid::value(&LISTENERS, "", "Must specify at least one listener")),
        };
        let (host, port) = listen.rsplit_once(':').unwrap_or((&listen, "8083"));
        let host = settings
            .string(&ADVERTISED_HOST)?
            .unwrap_or_else(|| if host == "0.0.0.0" { "127.0.0.1" } else { host }.to_owned());
        let port = settings.string(&ADVERTISED_PORT)?.unwrap_or_else(|| port.to_owned());
        let unknown = settings.config().keys().filter(|key| {
            !KEYS.iter().any(|known| known.name == key.as_str()) && !FREE.iter().any(|prefix| key.starts_with(prefix))
        });
        Ok(Worker {
            warnings: unknown.map(|key| format!("{key} is not a known key of a worker: it has no effect")).collect(),
            advertised: format!("{host}:{port}"),
            state_dir: settings.required_string(&STATE_DIR)?.into(),
            memory_budget_bytes: settings.size(&MEMORY_BUDGET_BYTES)?,
            graceful_timeout: settings.millis(&GRACEFUL_TIMEOUT_MS)?.unwrap_or_default(),
            listen,
            settings,
        })
    }

    /// `host:port` by which others know this worker when REST listens on `port`, which the system chose for port 0.
    pub(crate) fn advertised_at(&self, port: u16) -> String {
        match self.advertised.strip_suffix(":0") {
            Some(host) => format!("{host}:{port}"),
            None => self.advertised.clone(),
        }
    }
}

fn merge_file(figment: Figment, path: &Path) -> Result<Figment, Failure> {
    let read = || std::fs::read_to_string(path).map_err(|source| Failure::Read { path: path.to_owned(), source });
    let text = read()?;
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    Ok(match extension.as_deref() {
        Some("properties") => {
            let flat = connector_file::properties(&text)
                .map_err(|why| Failure::Worker(format!("{}: {why}", path.display())))?;
            figment.merge(Serialized::globals(nested(&flat)))
        }
        Some("yaml" | "yml") => {
            let value: Value = serde_yaml_ng::from_str(&text)
                .map_err(|error| Failure::Worker(format!("{}: not YAML: {error}", path.display())))?;
            figment.merge(Serialized::globals(value))
        }
        Some(_) | None => figment.merge(Toml::string(&text)),
    })
}

/// `CONNECT_FOO_BAR` (as the Docker images of Kafka Connect have it) and `SLUICE_FOO_BAR` mean `foo.bar`; the latter
/// stands above the former. Two underscores mean one (`FOO__BAR` is `foo_bar`), three a hyphen.
fn from_environment(environment: &BTreeMap<String, String>) -> Config {
    let mut config = Config::new();
    for prefix in ["CONNECT_", "SLUICE_"] {
        for (name, value) in environment {
            let Some(name) =
                name.strip_prefix(prefix).filter(|name| !name.starts_with("TEST_") && !name.starts_with("SIM_"))
            else {
                continue;
            };
            let key = name.replace("___", "-").replace("__", "\u{1}").replace('_', ".").replace('\u{1}', "_");
            config.insert(key.to_lowercase(), value.clone());
        }
    }
    config
}

/// Dotted keys as the nested maps that TOML makes of them, so that figment can lay one source over another.
fn nested(flat: &Config) -> Value {
    let mut root = serde_json::Map::new();
    for (key, value) in flat {
        let mut map = &mut root;
        let (parents, last) = match key.rsplit_once('.') {
            Some((parents, last)) => (parents.split('.').collect(), last),
            None => (Vec::new(), key.as_str()),
        };
        for parent in parents {
            let entry = map.entry(parent).or_insert_with(|| Value::Object(serde_json::Map::new()));
            if !entry.is_object() {
                *entry = serde_json::json!({ "=": entry.take() });
            }
            map = entry.as_object_mut().expect("made an object the line before");
        }
        match map.get_mut(last) {
            Some(Value::Object(inner)) => inner.insert("=".to_owned(), Value::String(value.clone())),
            Some(_) | None => map.insert(last.to_owned(), Value::String(value.clone())),
        };
    }
    Value::Object(root)
}

/// `http://host:port` as `host:port`; no host means all interfaces, as in Kafka Connect.
fn listen_address(listener: &str) -> Result<String, Invalid> {
    let refuse = |why: &str| Invalid::value(&LISTENERS, listener, why);
    if listener.to_ascii_lowercase().starts_with("https://") {
        return Err(refuse("https is not supported yet by this version; put a proxy before it"));
    }
    let address = listener.strip_prefix("http://").or_else(|| listener.strip_prefix("HTTP://")).unwrap_or(listener);
    let (host, port) =
        address.trim_end_matches('/').rsplit_once(':').ok_or_else(|| refuse("expected http://host:port"))?;
    let port: u16 = port.parse().map_err(|_| refuse("the port is not a number below 65536"))?;
    Ok(format!("{}:{port}", if host.is_empty() { "0.0.0.0" } else { host }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_environment_alone_is_enough() {
        let options = WorkerOptions { worker: None, set: Vec::new() };
        let variables = environment(&[
            ("CONNECT_BOOTSTRAP_SERVERS", "k:9092"),
            ("CONNECT_LISTENERS", "http://:9999"),
            ("SLUICE_STATE_DIR", "/s"),
            ("CONNECT_CONSUMER_SECURITY_PROTOCOL", "SSL"),
            ("CONNECT_VALUE_CONVERTER", "json"),
            ("CONNECT_VALUE_CONVERTER_SCHEMAS_ENABLE", "false"),
        ]);
        let worker = Worker::read(&options, &variables).unwrap();
        assert_eq!(worker.settings.text(&BOOTSTRAP_SERVERS), Some("k:9092"));
        assert_eq!((worker.listen.as_str(), worker.advertised.as_str()), ("0.0.0.0:9999", "127.0.0.1:9999"));
        assert_eq!(worker.advertised_at(9999), "127.0.0.1:9999");
        let any = Worker::new([("listeners".to_owned(), "http://h:0".to_owned())].into()).unwrap();
        assert_eq!(any.advertised_at(1234), "h:1234");
        assert_eq!(worker.state_dir, PathBuf::from("/s"));
        let config = worker.settings.config();
        assert_eq!(config["consumer.security.protocol"], "SSL");
        assert_eq!(
            (config["value.converter"].as_str(), config["value.converter.schemas.enable"].as_str()),
            ("json", "false")
        );
        assert!(worker.warnings.is_empty(), "{:?}", worker.warnings);
    }

    #[test]
    fn flags_stand_above_environment_above_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("worker.toml");
        std::fs::write(&file, "bootstrap.servers = 'file:1'\nlisteners = 'http://h:1'\nstate.dir = 'file'\n").unwrap();
        let options = WorkerOptions { worker: Some(file), set: vec!["state.dir=flag".into()] };
        let variables = environment(&[
            ("SLUICE_STATE_DIR", "env"),
            ("SLUICE_LISTENERS", "http://h:2"),
            ("CONNECT_LISTENERS", "http://h:3"),
        ]);
        let worker = Worker::read(&options, &variables).unwrap();
        let seen = (
            worker.settings.text(&BOOTSTRAP_SERVERS).unwrap(),
            worker.listen.as_str(),
            worker.state_dir.to_str().unwrap(),
        );
        assert_eq!(seen, ("file:1", "h:2", "flag"));
    }

    #[test]
    fn bad_settings_are_named() {
        for (key, value, part) in [
            ("listeners", "https://h:1", "https is not supported yet"),
            ("listeners", "http://h", "expected http://host:port"),
            ("memory.budget.bytes", "1", "Value must be at least"),
        ] {
            let error = Worker::new([(key.to_owned(), value.to_owned())].into()).unwrap_err();
            assert!(error.message.contains(part), "{error}");
        }
    }
}
