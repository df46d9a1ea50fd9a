//! From settings to a store: S3 and what speaks like it, a local directory, or memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::{Check, Importance, Invalid, Key, Kind, Settings, Width};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{HttpConnector, ReqwestConnector};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use tracing::warn;

use crate::credentials::{self, Environment};
use crate::error::OpenError;
use crate::s3_requests::{Connector, NumberedUploads, S3Bucket};
use crate::store::{Abilities, Extras, RetryRules, Store};

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

/// Encryption at rest.
pub const S3_SSEA_NAME: Key = Key::new(
    "s3.ssea.name",
    Kind::String,
    "Server-side encryption: AES256, or aws:kms together with s3.sse.kms.key.id; nothing leaves it to the bucket.",
)
.default("")
.check(Check::OneOf(&["", "AES256", "aws:kms"]))
.group("S3", 10)
.shown(Width::Long, "S3 Server Side Encryption Algorithm");

/// Encryption with the user's own key.
pub const S3_SSE_CUSTOMER_KEY: Key = Key::new(
    "s3.sse.customer.key",
    Kind::Password,
    "Base64 of the 32 bytes that objects are encrypted with when s3.ssea.name is AES256 (SSE-C).",
)
.default("")
.check(Check::With(customer_key))
.group("S3", 11)
.shown(Width::Long, "S3 Server Side Encryption Customer-Provided Key (SSE-C)");

/// Encryption with a key of KMS.
pub const S3_SSE_KMS_KEY_ID: Key =
    Key::new("s3.sse.kms.key.id", Kind::String, "The KMS key when s3.ssea.name is aws:kms.")
        .default("")
        .group("S3", 12)
        .shown(Width::Long, "S3 Server Side Encryption Key");

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

/// Bucket in the path or in the host name.
pub const S3_PATH_STYLE_ACCESS_ENABLED: Key = Key::new(
    "s3.path.style.access.enabled",
    Kind::Boolean,
    "Whether the bucket stands in the path of requests (true) or in the host name (false).",
)
.default("true")
.group("Keys and Headers", 5)
.shown(Width::Short, "Enable Path Style Access to S3");

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
    S3_SSEA_NAME,
    S3_SSE_CUSTOMER_KEY,
    S3_SSE_KMS_KEY_ID,
    S3_PART_RETRIES,
    S3_RETRY_BACKOFF_MS,
    ENABLE_CONDITIONAL_WRITES,
    S3_PATH_STYLE_ACCESS_ENABLED,
    STORE_URL,
    RETRY_BACKOFF_MS,
];

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(20);

fn part_size(text: &str) -> Result<(), String> {
    // The type is checked before.
    match text.parse::<i64>() {
        Ok(bytes) if bytes < 5_242_880 => Err("Part size must be at least: 5242880 bytes (5MB)".to_owned()),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn customer_key(text: &str) -> Result<(), String> {
    let digits = text.trim_end_matches('=');
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    // 32 bytes are 43 digits and one sign of padding.
    if text.is_empty() || (text.len() == 44 && digits.len() == 43 && digits.bytes().all(is_digit)) {
        return Ok(());
    }
    Err("must be the base64 text of 32 bytes".to_owned())
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
    let mut problems = credentials::check(settings);
    let text = |key: &Key| settings.text(key).unwrap_or_default();
    if text(&S3_SSEA_NAME) != "AES256" && !text(&S3_SSE_CUSTOMER_KEY).is_empty() {
        problems.push(Invalid::new(S3_SSE_CUSTOMER_KEY.name, "s3.sse.customer.key needs s3.ssea.name to be AES256"));
    }
    problems
}

/// What a user should know about the store's keys though they are accepted.
pub(crate) fn advice(settings: &Settings) -> Vec<String> {
    let mut advice: Vec<String> = credentials::advice(settings).into_iter().collect();
    if settings.text(&S3_SSEA_NAME) == Some("aws:kms")
        && settings.text(&S3_SSE_KMS_KEY_ID).unwrap_or_default().is_empty()
    {
        advice.push(
            "s3.ssea.name is aws:kms without s3.sse.kms.key.id: as in the S3 sink, the bucket's own encryption applies"
                .to_owned(),
        );
    }
    advice
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
            Some(Place::Endpoint(endpoint)) => s3(settings, environment, bucket, Some(endpoint), rules, conditional),
            None => {
                let endpoint = environment.get("AWS_ENDPOINT_URL_S3").or_else(|| environment.get("AWS_ENDPOINT_URL"));
                s3(settings, environment, bucket, endpoint.map(str::to_owned), rules, conditional)
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

fn s3(
    settings: &Settings,
    environment: &Environment,
    bucket: String,
    endpoint: Option<String>,
    rules: RetryRules,
    conditional: bool,
) -> Result<Store, OpenError> {
    let region = settings.required_string(&S3_REGION)?;
    let name = format!("S3 bucket {bucket} at {}", endpoint.as_deref().unwrap_or(&region));
    let failed = |source| OpenError::Client { store: name.clone(), source };
    let options =
        ClientOptions::new().with_allow_http(true).with_timeout(ATTEMPT_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
    let mut builder = AmazonS3Builder::new()
        .with_client_options(options.clone())
        .with_bucket_name(&bucket)
        .with_region(&region)
        .with_retry(inner_retry(rules));
    let path_style = settings.boolean(&S3_PATH_STYLE_ACCESS_ENABLED)?;
    let url = bucket_url(endpoint.as_deref(), &bucket, &region, path_style);
    builder = builder.with_virtual_hosted_style_request(!path_style);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(if path_style { endpoint } else { url.clone() });
    }
    builder = encryption(builder, settings)?;
    builder = credentials::apply(builder, settings, environment)?;
    let credentials = Arc::clone(builder.clone().build().map_err(failed)?.credentials());
    let http = ReqwestConnector::default().connect(&options).map_err(failed)?;
    // Our own loop repeats requests, since an outcome that is not known must be looked into.
    let once = RetryConfig { max_retries: 0, ..inner_retry(rules) };
    let builder = builder.with_credentials(Arc::clone(&credentials)).with_retry(once);
    let client = |careful| builder.clone().with_http_connector(Connector::new(&http, careful)).build().map_err(failed);
    let (plain, careful) = (Arc::new(client(false)?), Arc::new(client(true)?));
    let uploads = NumberedUploads { plain: Arc::clone(&plain) as Arc<dyn MultipartStore>, careful };
    let extras = Extras {
        bucket_name: bucket,
        bucket: Some(S3Bucket { http, credentials, region, url }),
        uploads: Some(uploads),
        directory: None,
    };
    let abilities = Abilities { metadata: true, conditional };
    Ok(Store::assembled(plain, extras, name.clone(), abilities, rules, environment.seed()))
}

/// The URL of the bucket itself, as object_store makes it.
fn bucket_url(endpoint: Option<&str>, bucket: &str, region: &str, path_style: bool) -> String {
    match (endpoint, path_style) {
        (Some(endpoint), true) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        (Some(endpoint), false) => with_bucket_in_host(endpoint, bucket),
        (None, true) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        (None, false) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
    }
}

/// Retries inside the client, for credentials.
fn inner_retry(rules: RetryRules) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: rules.backoff,
            max_backoff: rules.backoff_max.max(rules.backoff),
            base: 2.0,
        },
        max_retries: usize::try_from(rules.attempts.saturating_sub(1)).unwrap_or(usize::MAX),
        retry_timeout: rules.attempt_timeout * 2,
    }
}

/// `https://bucket.host:port`, as virtual-hosted requests need it.
fn with_bucket_in_host(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) => format!("{scheme}://{bucket}.{host}"),
        None => format!("https://{bucket}.{endpoint}"),
    }
}

fn encryption(builder: AmazonS3Builder, settings: &Settings) -> Result<AmazonS3Builder, Invalid> {
    let algorithm = settings.required_string(&S3_SSEA_NAME)?;
    let customer_key = settings.secret(&S3_SSE_CUSTOMER_KEY)?;
    let kms_key = settings.required_string(&S3_SSE_KMS_KEY_ID)?;
    Ok(match (algorithm.as_str(), customer_key) {
        ("AES256", Some(key)) => builder.with_ssec_encryption(key.reveal()),
        ("AES256", None) => match "aws_server_side_encryption".parse::<AmazonS3ConfigKey>() {
            Ok(key) => builder.with_config(key, "AES256"),
            Err(error) => return Err(Invalid::value(&S3_SSEA_NAME, &algorithm, error)),
        },
        // Upstream: without a key no header is sent.
        ("aws:kms", _) if !kms_key.is_empty() => builder.with_sse_kms_encryption(kms_key),
        _ => builder,
    })
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
        assert_eq!(with_bucket_in_host("http://h:1", "b"), "http://b.h:1");
    }

    #[test]
    fn sizes_and_keys_are_checked_with_upstreams_words() {
        let problem = |name: &'static str, value: &'static str, key: &Key| {
            settings(&[(name, value)]).problem(key).map(|p| p.message)
        };
        assert_eq!(
            problem("s3.part.size", "5242879", &S3_PART_SIZE).unwrap(),
            "Invalid value 5242879 for configuration s3.part.size: Part size must be at least: 5242880 bytes (5MB)"
        );
        assert_eq!(problem("s3.part.size", "2147483647", &S3_PART_SIZE), None);
        assert!(problem("s3.part.size", "2147483648", &S3_PART_SIZE).unwrap().ends_with("Not a number of type INT"));
        assert!(problem("s3.sse.customer.key", "short", &S3_SSE_CUSTOMER_KEY).unwrap().contains("[hidden]"));
        assert_eq!(
            problem("s3.sse.customer.key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", &S3_SSE_CUSTOMER_KEY),
            None
        );
        assert_eq!(check(&settings(&[("s3.sse.customer.key", "x")]))[0].key, "s3.sse.customer.key");
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
