//! From settings to a store: S3 and what speaks like it, a local directory, or memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::{Check, Importance, Invalid, Key, Kind, Settings, Width};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use tracing::warn;

use crate::credentials::{self, Environment};
use crate::error::OpenError;
use crate::store::{Abilities, Extras, RetryRules, Store};
use crate::{encryption, proxy, s3_client};

/// The bucket.
pub const S3_BUCKET_NAME: Key =
    Key::new("s3.bucket.name", Kind::String, "The bucket; below a local store.url, a directory.")
        .required()
        .check(Check::NotEmpty)
        .importance(Importance::High)
        .group("S3", 1)
        .shown(Width::Long, "S3 Bucket");

/// The region of the bucket.
pub const S3_REGION: Key =
    Key::new("s3.region", Kind::String, "The region of the bucket; requests are signed for it, also with store.url.")
        .default("us-west-2")
        .importance(Importance::Medium)
        .group("S3", 5)
        .shown(Width::Long, "AWS region");

/// Size of the parts of an upload.
pub const S3_PART_SIZE: Key = Key::new(
    "s3.part.size",
    Kind::Int,
    "Bytes of each part of a large object, at least 5242880. A smaller file is one request and needs no such buffer.",
)
.default("26214400")
.check(Check::With(part_size))
.importance(Importance::High)
.group("S3", 6)
.shown(Width::Long, "S3 Part Size");

/// Who gives the credentials.
pub const S3_CREDENTIALS_PROVIDER_CLASS: Key = Key::new(
    "s3.credentials.provider.class",
    Kind::Class,
    "The AWS SDK's class that gives credentials when there are no static ones; names one link of the default chain or the chain.",
)
.default("software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider")
.group("S3", 7)
.shown(Width::Long, "AWS Credentials Provider Class");

/// Static credentials, public half.
pub const AWS_ACCESS_KEY_ID: Key =
    Key::new("aws.access.key.id", Kind::String, "The access key; used when the secret is given too.")
        .default("")
        .importance(Importance::High)
        .group("S3", 8)
        .shown(Width::Long, "AWS Access Key ID");

/// Static credentials, secret half.
pub const AWS_SECRET_ACCESS_KEY: Key =
    Key::new("aws.secret.access.key", Kind::Password, "The secret of the access key.")
        .default("")
        .importance(Importance::High)
        .group("S3", 9)
        .shown(Width::Long, "AWS Secret Access Key");

/// Tries per request.
pub const S3_PART_RETRIES: Key = Key::new("s3.part.retries", Kind::Int, "How often a request is tried, at least once.")
    .default("3")
    .check(Check::AtLeast(0))
    .importance(Importance::Medium)
    .group("S3", 18)
    .shown(Width::Long, "S3 Part Upload Retries");

/// Wait between tries.
pub const S3_RETRY_BACKOFF_MS: Key = Key::new(
    "s3.retry.backoff.ms",
    Kind::Long,
    "Bound in milliseconds of the random wait before the second try of a request; it doubles with each try, up to 20 s.",
)
.default("200")
.check(Check::AtLeast(0))
.group("S3", 19)
.shown(Width::Short, "Retry Backoff (ms)");

/// Conditional writes.
pub const ENABLE_CONDITIONAL_WRITES: Key = Key::new(
    "enable.conditional.writes",
    Kind::Boolean,
    "Whether objects are created with If-None-Match, so that nothing is overwritten; false looks first instead, for stores that refuse the condition.",
)
.default("true")
.group("S3", 33)
.shown(Width::Short, "Enable conditional writes during multipart upload");

/// The endpoint.
pub const STORE_URL: Key = Key::new(
    "store.url",
    Kind::String,
    "Endpoint of an S3-compatible store (https:// is put before a name without a scheme); or a local directory, as file:// URL or path.",
)
.check(Check::With(|url| Place::parse(url).map(|_| ())))
.importance(Importance::High)
.group("Storage", 3)
.shown(Width::None, "Store URL");

/// How long a failed write waits.
pub const RETRY_BACKOFF_MS: Key = Key::new(
    "retry.backoff.ms",
    Kind::Long,
    "Milliseconds after which a write is tried again that failed s3.part.retries times.",
)
.default("5000")
.check(Check::AtLeast(0))
.group("Connector", 8)
.shown(Width::Medium, "Retry Backoff (ms)");

/// Keys of the store.
pub(crate) const KEYS: &[Key] = &[
    S3_BUCKET_NAME,
    S3_REGION,
    S3_PART_SIZE,
    S3_CREDENTIALS_PROVIDER_CLASS,
    AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY,
    S3_PART_RETRIES,
    S3_RETRY_BACKOFF_MS,
    ENABLE_CONDITIONAL_WRITES,
    STORE_URL,
    RETRY_BACKOFF_MS,
];

pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(20);

fn part_size(text: &str) -> Result<(), String> {
    // The type is checked before.
    match text.parse::<i64>() {
        Ok(bytes) if bytes < 5_242_880 => Err("Part size must be at least: 5242880 bytes (5MB)".to_owned()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Where `store.url` points.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// S3, or what answers at this endpoint.
    Endpoint(String),
    Directory(PathBuf),
    Memory,
}

impl Place {
    fn parse(url: &str) -> Result<Place, String> {
        if url.starts_with(['/', '.']) {
            return Ok(Place::Directory(PathBuf::from(url)));
        }
        match url.split_once("://") {
            Some(("http" | "https", host)) if !host.is_empty() => {
                Ok(Place::Endpoint(url.trim_end_matches('/').to_owned()))
            }
            Some(("file", path)) if path.starts_with('/') => Ok(Place::Directory(PathBuf::from(path))),
            Some(("file", _)) => Err("a file URL must hold an absolute path: file:///path".to_owned()),
            Some(("memory", _)) => Ok(Place::Memory),
            Some((scheme, _)) => Err(format!("unknown scheme {scheme}, expected http, https or file")),
            None => Ok(Place::Endpoint(format!("https://{}", url.trim_end_matches('/')))),
        }
    }
}

/// What is wrong with the store's keys together.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let checks = [credentials::check, encryption::check, proxy::check, s3_client::check];
    checks.iter().flat_map(|check| check(settings)).collect()
}

/// What a user should know about the store's keys though they are accepted.
pub(crate) fn advice(settings: &Settings) -> Vec<String> {
    [credentials::advice, encryption::advice].iter().filter_map(|advice| advice(settings)).collect()
}

fn rules(settings: &Settings) -> Result<RetryRules, Invalid> {
    let attempts = u32::try_from(settings.size(&S3_PART_RETRIES)?).unwrap_or(u32::MAX).max(1);
    Ok(RetryRules {
        attempts,
        backoff: settings.millis(&S3_RETRY_BACKOFF_MS)?.unwrap_or_default(),
        backoff_max: BACKOFF_MAX,
        attempt_timeout: ATTEMPT_TIMEOUT,
        redelivery: settings.millis(&RETRY_BACKOFF_MS)?.unwrap_or_default(),
    })
}

impl Store {
    /// The store that the settings mean. Sends no request: [`Store::probe`] does. A local directory is made.
    pub fn open(settings: &Settings, environment: &Environment) -> Result<Store, OpenError> {
        let bucket = settings.required_string(&S3_BUCKET_NAME)?;
        let rules = rules(settings)?;
        let conditional = settings.boolean(&ENABLE_CONDITIONAL_WRITES)?;
        for advice in advice(settings) {
            warn!("{advice}");
        }
        let url = settings.string(&STORE_URL)?.filter(|url| !url.is_empty());
        let place =
            url.map(|url| Place::parse(&url).map_err(|why| Invalid::value(&STORE_URL, &url, why))).transpose()?;
        match place {
            Some(Place::Memory) => {
                let abilities = Abilities { metadata: true, conditional };
                Ok(Store::with(
                    Arc::new(InMemory::new()),
                    &format!("memory {bucket}"),
                    abilities,
                    rules,
                    environment.seed(),
                ))
            }
            Some(Place::Directory(directory)) => local(directory, bucket, rules, conditional, environment.seed()),
            Some(Place::Endpoint(endpoint)) => {
                s3_client::open(settings, environment, bucket, Some(endpoint), rules, conditional)
            }
            None => {
                let endpoint = environment.get("AWS_ENDPOINT_URL_S3").or_else(|| environment.get("AWS_ENDPOINT_URL"));
                s3_client::open(settings, environment, bucket, endpoint.map(str::to_owned), rules, conditional)
            }
        }
    }
}

fn local(root: PathBuf, bucket: String, rules: RetryRules, conditional: bool, seed: u64) -> Result<Store, OpenError> {
    let directory = root.join(&bucket);
    let name = directory.display().to_string();
    std::fs::create_dir_all(&directory).map_err(|source| OpenError::Directory { directory: name.clone(), source })?;
    let files = LocalFileSystem::new_with_prefix(&directory)
        .map_err(|source| OpenError::Client { store: name.clone(), source })?;
    let extras = Extras { bucket_name: bucket, directory: Some(directory), ..Extras::default() };
    Ok(Store::assembled(Arc::new(files), extras, name, Abilities { metadata: false, conditional }, rules, seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Created;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let given = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Settings::new([("s3.bucket.name".to_owned(), "b".to_owned())].into_iter().chain(given).collect())
    }

    #[test]
    fn store_url_is_an_endpoint_a_directory_or_memory() {
        let endpoint = |url: &str| Ok(Place::Endpoint(url.to_owned()));
        let directory = |path: &str| Ok(Place::Directory(PathBuf::from(path)));
        let cases = [
            ("http://127.0.0.1:9000/", endpoint("http://127.0.0.1:9000")),
            ("minio:9000", endpoint("https://minio:9000")),
            ("https://s3.example.com", endpoint("https://s3.example.com")),
            ("file:///tmp/x", directory("/tmp/x")),
            ("/tmp/x", directory("/tmp/x")),
            ("./out", directory("./out")),
            ("memory://", Ok(Place::Memory)),
        ];
        for (url, place) in cases {
            assert_eq!(Place::parse(url), place, "{url}");
        }
        assert!(
            settings(&[("store.url", "ftp://x")]).problem(&STORE_URL).unwrap().message.contains("unknown scheme ftp")
        );
    }

    #[test]
    fn sizes_are_checked_with_upstreams_words() {
        let problem = |name: &'static str, value: &'static str, key: &Key| {
            settings(&[(name, value)]).problem(key).map(|p| p.message)
        };
        assert_eq!(
            problem("s3.part.size", "5242879", &S3_PART_SIZE).unwrap(),
            "Invalid value 5242879 for configuration s3.part.size: Part size must be at least: 5242880 bytes (5MB)"
        );
        assert_eq!(problem("s3.part.size", "2147483647", &S3_PART_SIZE), None);
        assert!(problem("s3.part.size", "2147483648", &S3_PART_SIZE).unwrap().ends_with("Not a number of type INT"));
    }

    #[test]
    fn every_shape_of_s3_opens_without_a_request() {
        let keys = [("aws.access.key.id", "a"), ("aws.secret.access.key", "s")];
        for more in [
            &[("store.url", "http://127.0.0.1:1")][..],
            &[("s3.path.style.access.enabled", "false"), ("store.url", "h:1")],
            &[("s3.ssea.name", "AES256")],
            &[("s3.ssea.name", "AES256"), ("s3.sse.customer.key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")],
            &[("s3.ssea.name", "aws:kms"), ("s3.sse.kms.key.id", "k")],
            &[("s3.retry.backoff.ms", "0"), ("s3.part.retries", "0")],
            &[("s3.acl.canned", "bucket-owner-full-control")],
            &[("s3.proxy.url", "http://u:p@127.0.0.1:1")],
            &[("s3.wan.mode", "true"), ("s3.path.style.access.enabled", "false")],
            &[
                ("s3.credentials.provider.class", "io.confluent.connect.s3.auth.AwsAssumeRoleCredentialsProvider"),
                ("s3.credentials.provider.sts.role.arn", "arn:aws:iam::1:role/r"),
                ("s3.credentials.provider.sts.role.session.name", "s"),
            ],
        ] {
            let store = Store::open(&settings(&[&keys[..], more].concat()), &Environment::default());
            assert!(store.unwrap().name().starts_with("S3 bucket b at "), "{more:?}");
        }
    }

    #[tokio::test]
    async fn a_store_that_nobody_answers_for_is_named_with_bucket_and_endpoint() {
        let settings = settings(&[
            ("aws.access.key.id", "a"),
            ("aws.secret.access.key", "s"),
            ("store.url", "http://127.0.0.1:1"),
            ("s3.retry.backoff.ms", "1"),
        ]);
        let error = Store::open(&settings, &Environment::default()).unwrap().probe("_sluice/probe").await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        let text = error.to_string();
        assert!(text.contains("S3 bucket b at http://127.0.0.1:1 after 3 attempts"), "{text}");
        assert!(text.contains("Connection refused"), "{text}");
    }

    #[tokio::test]
    async fn a_local_directory_is_made_and_stands_for_the_bucket() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("new");
        let store = Store::open(&settings(&[("store.url", root.to_str().unwrap())]), &Environment::default()).unwrap();
        store.probe("_sluice/probe").await.unwrap();
        assert_eq!(store.create("t/x", "1".into()).await.unwrap(), Created::New);
        assert_eq!(std::fs::read(root.join("b/t/x")).unwrap(), b"1");
        std::fs::write(directory.path().join("file"), "").unwrap();
        let blocked = settings(&[("store.url", directory.path().join("file").to_str().unwrap())]);
        assert!(matches!(Store::open(&blocked, &Environment::default()), Err(OpenError::Directory { .. })));
    }
}
