//! The shared services of a test process, started when first asked for, once.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::{announce, environment, last_lines, limited};
use crate::{Error, Kafka, Readers, Registry, S3, Spark};

/// What a test needs from outside. Kafka, MinIO and LocalStack bring the readers with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The shared node: [`Services::kafka`].
    Kafka,
    /// A node of the test's own, to be stopped and paused: [`Kafka::start`].
    OwnKafka,
    /// The shared schema registry: [`Services::registry`].
    Registry,
    /// A registry of the test's own: [`Registry::start`].
    OwnRegistry,
    /// The shared MinIO: [`Services::minio`].
    Minio,
    /// A MinIO of the test's own: [`S3::start_minio`].
    OwnMinio,
    /// The shared LocalStack: [`Services::localstack`].
    Localstack,
    /// Only the independent readers: [`Services::readers`].
    Readers,
    /// The shared session of Spark: [`Services::spark`].
    Spark,
}

impl Need {
    /// Installs what is missing and starts what is shared.
    pub fn resolve(self) -> Result<(), Error> {
        Services::readers()?;
        match self {
            Need::Kafka => Services::kafka().map(drop),
            Need::OwnKafka => install("kafka").map(drop),
            Need::Registry => Services::registry().map(drop),
            Need::OwnRegistry => install("registry").map(drop),
            Need::Minio => Services::minio().map(drop),
            Need::OwnMinio => install("minio").map(drop),
            Need::Localstack => Services::localstack().map(drop),
            Need::Readers => Ok(()),
            Need::Spark => Services::spark().map(drop),
        }
    }
}

/// The shared services. Tests run side by side on them, so each test takes [unique](crate::unique) names.
pub struct Services;

impl Services {
    /// One Kafka node; `SLUICE_TEST_KAFKA=host:port` names one that already runs.
    pub fn kafka() -> Result<&'static Kafka, Error> {
        static KAFKA: OnceLock<Result<Kafka, Error>> = OnceLock::new();
        shared(&KAFKA, || environment("SLUICE_TEST_KAFKA").map_or_else(Kafka::start, |at| Ok(Kafka::running(at))))
    }

    /// A schema registry; `SLUICE_TEST_REGISTRY=http://host:port/path` names one that already runs.
    pub fn registry() -> Result<&'static Registry, Error> {
        static REGISTRY: OnceLock<Result<Registry, Error>> = OnceLock::new();
        shared(&REGISTRY, || {
            environment("SLUICE_TEST_REGISTRY").map_or_else(Registry::start, |url| Ok(Registry::running(url)))
        })
    }

    /// MinIO; `SLUICE_TEST_MINIO=http://host:port` names one that already runs, with minioadmin as both keys.
    pub fn minio() -> Result<&'static S3, Error> {
        static MINIO: OnceLock<Result<S3, Error>> = OnceLock::new();
        shared(&MINIO, || environment("SLUICE_TEST_MINIO").map_or_else(S3::start_minio, |at| Ok(S3::running_minio(at))))
    }

    /// LocalStack; `SLUICE_TEST_LOCALSTACK=http://host:port` names one that already runs.
    pub fn localstack() -> Result<&'static S3, Error> {
        static LOCALSTACK: OnceLock<Result<S3, Error>> = OnceLock::new();
        shared(&LOCALSTACK, || {
            environment("SLUICE_TEST_LOCALSTACK").map_or_else(S3::start_localstack, |at| Ok(S3::running_localstack(at)))
        })
    }

    /// Spark with Delta, and DuckDB with its extension for Delta. It costs 1.5 GB, so there is one for a process.
    pub fn spark() -> Result<&'static Spark, Error> {
        static SPARK: OnceLock<Result<Spark, Error>> = OnceLock::new();
        shared(&SPARK, Spark::start)
    }

    /// Readers that share no code with the program: pyarrow, DuckDB, polars, fastavro, boto3, confluent-kafka.
    pub fn readers() -> Result<&'static Readers, Error> {
        static READERS: OnceLock<Result<Readers, Error>> = OnceLock::new();
        shared(&READERS, || Ok(Readers::of(&install("readers")?)))
    }
}

fn shared<T>(
    cell: &'static OnceLock<Result<T, Error>>,
    start: impl FnOnce() -> Result<T, Error>,
) -> Result<&'static T, Error> {
    cell.get_or_init(start).as_ref().map_err(Error::clone)
}

/// Has `localstack/install.sh` bring `what` into the cache directory, and returns where it is.
pub(crate) fn install(what: &'static str) -> Result<PathBuf, Error> {
    const LIMIT: Duration = Duration::from_secs(40 * 60);
    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../localstack/install.sh");
    let unavailable = |why: String| Error::Unavailable { what, why };
    let mut script = limited(Path::new("bash"), LIMIT)
        .args([SCRIPT, what])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| unavailable(format!("could not run {SCRIPT}: {e}")))?;
    let mut notices = String::new();
    for line in BufReader::new(script.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok) {
        announce(&line);
        notices.push_str(&line);
        notices.push('\n');
    }
    let output = script.wait_with_output().map_err(|e| unavailable(e.to_string()))?;
    match output.status.success() {
        true => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end())),
        false => Err(unavailable(last_lines(&notices, 16))),
    }
}
