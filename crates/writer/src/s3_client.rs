//! The clients of one bucket of S3: its address, what their requests carry, and the way they take.

use std::sync::Arc;
use std::time::Duration;

use model::{Importance, Invalid, Key, Kind, Secret, Settings, Width};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{HttpConnector, ReqwestConnector};
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::assume_role::AssumedRole;
use crate::counting::counted;
use crate::creating::{self, Creating};
use crate::credentials::{self, Environment};
use crate::encryption;
use crate::error::OpenError;
use crate::proxy::proxy;
use crate::s3::{ATTEMPT_TIMEOUT, S3_BUCKET_NAME, S3_REGION, STORE_URL};
use crate::s3_requests::{Connector, NumberedUploads, S3Bucket};
use crate::store::{Abilities, Extras, RetryRules, Store};

/// Bucket in the path or in the host name.
pub const S3_PATH_STYLE_ACCESS_ENABLED: Key = Key::new(
    "s3.path.style.access.enabled",
    Kind::Boolean,
    "Whether the bucket stands in the path of requests (true) or in the host name (false).",
)
.default("true")
.group("Keys and Headers", 5)
.shown(Width::Short, "Enable Path Style Access to S3");

/// AWS's accelerated endpoint.
pub const S3_WAN_MODE: Key = Key::new(
    "s3.wan.mode",
    Kind::Boolean,
    "Whether requests go to the accelerated endpoint of the bucket (https://BUCKET.s3-accelerate.amazonaws.com), which must \
     be enabled there. Needs s3.path.style.access.enabled=false and no store.url.",
)
.default("false")
.importance(Importance::Medium)
.group("S3", 14)
.shown(Width::Long, "S3 accelerated endpoint enabled");

/// Keys of addresses.
pub(crate) const KEYS: &[Key] = &[S3_WAN_MODE, S3_PATH_STYLE_ACCESS_ENABLED];

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// STS answers in a moment or is not there.
const STS_TIMEOUT: Duration = Duration::from_secs(15);

/// What is wrong with the keys of the address together.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let is_true = |key: &Key| settings.text(key).is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let mut problems = Vec::new();
    if !is_true(&S3_WAN_MODE) {
        return problems;
    }
    if is_true(&S3_PATH_STYLE_ACCESS_ENABLED) {
        let message = "Both accelerate mode and path style access are being enabled. These options are mutually exclusive. \
                       Set s3.wan.mode or s3.path.style.access.enabled to false";
        problems.push(Invalid::new(S3_WAN_MODE.name, message));
        problems.push(Invalid::new(S3_PATH_STYLE_ACCESS_ENABLED.name, message));
    }
    if settings.text(&STORE_URL).is_some_and(|url| !url.is_empty()) {
        let message = "s3.wan.mode has an endpoint of its own: leave store.url out, or set s3.wan.mode to false";
        problems.push(Invalid::new(S3_WAN_MODE.name, message));
    }
    if settings.text(&S3_BUCKET_NAME).is_some_and(|bucket| bucket.contains('.')) {
        let message = "a bucket with a dot in its name has no accelerated endpoint: set s3.wan.mode to false";
        problems.push(Invalid::new(S3_WAN_MODE.name, message));
    }
    problems
}

/// The bucket as a store; `endpoint` is where it is, if not where AWS has it. Sends no request.
pub(crate) fn open(
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
    let is_virtual = settings.boolean(&S3_WAN_MODE)? || !settings.boolean(&S3_PATH_STYLE_ACCESS_ENABLED)?;
    let url = bucket_url(settings, endpoint.as_deref(), &bucket, &region, is_virtual)?;
    let mut builder = AmazonS3Builder::new()
        .with_client_options(options.clone())
        .with_bucket_name(&bucket)
        .with_region(&region)
        .with_retry(inner_retry(rules))
        .with_virtual_hosted_style_request(is_virtual);
    // With the bucket in the host name object_store takes the endpoint of the bucket for that of the store.
    if let Some(endpoint) = if is_virtual { Some(url.clone()) } else { endpoint } {
        builder = builder.with_endpoint(endpoint);
    }
    builder = encryption::apply(builder, settings)?;
    builder = credentials::apply(builder, settings, environment)?;
    let mut credentials = Arc::clone(builder.clone().build().map_err(failed)?.credentials());
    if credentials::assumes_role(settings) {
        let sts = ReqwestConnector::default().connect(&options.clone().with_timeout(STS_TIMEOUT)).map_err(failed)?;
        credentials = Arc::new(AssumedRole::new(settings, environment, credentials, sts)?);
    }
    // Only from here on, since requests for credentials go to addresses that a proxy may not reach.
    let proxied = match proxy(settings)? {
        Some(proxy) => options.clone().with_proxy_url(Secret::reveal(&proxy)),
        None => options.clone(),
    };
    let http = ReqwestConnector::default().connect(&proxied).map_err(failed)?;
    let http = counted(http, environment.on_request());
    let builder = builder.with_credentials(Arc::clone(&credentials));
    // Our own loop repeats requests, since an outcome that is not known must be looked into.
    let once = RetryConfig { max_retries: 0, ..inner_retry(rules) };
    let client = |options: &ClientOptions, careful, retry: &RetryConfig| {
        let (builder, connector) = (builder.clone().with_retry(retry.clone()), Connector::new(&http, careful));
        builder.with_client_options(options.clone()).with_http_connector(connector).build().map_err(failed)
    };
    let headers = creating::headers(settings)?;
    let with_headers = |plain: Arc<AmazonS3>, retry: &RetryConfig| -> Result<Arc<dyn ObjectStore>, OpenError> {
        let Some(headers) = headers.clone() else { return Ok(plain) };
        let creating = client(&options.clone().with_default_headers(headers), false, retry)?;
        Ok(Arc::new(Creating { creating, plain }))
    };
    let (plain, careful) = (Arc::new(client(&options, false, &once)?), Arc::new(client(&options, true, &once)?));
    let objects = with_headers(Arc::clone(&plain), &once)?;
    let repeating = with_headers(Arc::new(client(&options, false, &inner_retry(rules))?), &inner_retry(rules))?;
    let uploads = NumberedUploads { plain: plain as Arc<dyn MultipartStore>, careful };
    let credentials = (!credentials::is_anonymous(settings)).then_some(credentials);
    let extras = Extras {
        bucket_name: bucket,
        bucket: Some(S3Bucket { http, credentials, region, url }),
        uploads: Some(uploads),
        repeating: Some(repeating),
        directory: None,
    };
    let abilities = Abilities { metadata: true, conditional };
    Ok(Store::assembled(objects, extras, name.clone(), abilities, rules, environment.seed()))
}

/// The URL of the bucket itself.
fn bucket_url(
    settings: &Settings,
    endpoint: Option<&str>,
    bucket: &str,
    region: &str,
    is_virtual: bool,
) -> Result<String, Invalid> {
    if settings.boolean(&S3_WAN_MODE)? {
        return match endpoint {
            None => Ok(format!("https://{bucket}.s3-accelerate.amazonaws.com")),
            Some(endpoint) => {
                let message = format!("s3.wan.mode has an endpoint of its own, and AWS_ENDPOINT_URL is {endpoint}");
                Err(Invalid::new(S3_WAN_MODE.name, message))
            }
        };
    }
    Ok(match (endpoint, is_virtual) {
        (Some(endpoint), false) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        (Some(endpoint), true) => with_bucket_in_host(endpoint, bucket),
        (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
    })
}

/// Retries inside the client, for credentials and for whoever brings a loop without any.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    #[test]
    fn the_bucket_has_one_address() {
        let url = |pairs: &[(&str, &str)], endpoint, is_virtual| {
            bucket_url(&settings(pairs), endpoint, "b", "eu-west-1", is_virtual).unwrap()
        };
        assert_eq!(url(&[], None, false), "https://s3.eu-west-1.amazonaws.com/b");
        assert_eq!(url(&[], None, true), "https://b.s3.eu-west-1.amazonaws.com");
        assert_eq!(url(&[], Some("http://h:1"), false), "http://h:1/b");
        assert_eq!(url(&[], Some("http://h:1"), true), "http://b.h:1");
        assert_eq!(url(&[("s3.wan.mode", "true")], None, true), "https://b.s3-accelerate.amazonaws.com");
        let endpoint = bucket_url(&settings(&[("s3.wan.mode", "true")]), Some("http://h:1"), "b", "r", true);
        assert!(endpoint.unwrap_err().message.contains("AWS_ENDPOINT_URL is http://h:1"));
    }

    #[test]
    fn the_accelerated_endpoint_is_refused_where_there_is_none() {
        let virtual_hosted = ("s3.path.style.access.enabled", "false");
        let wan = ("s3.wan.mode", "true");
        let problems = |pairs: &[(&str, &str)]| check(&settings(pairs)).len();
        assert_eq!(problems(&[wan]), 2);
        assert_eq!(problems(&[wan, virtual_hosted]), 0);
        assert_eq!(problems(&[wan, virtual_hosted, ("store.url", "http://minio:9000")]), 1);
        assert_eq!(problems(&[wan, virtual_hosted, ("s3.bucket.name", "a.b")]), 1);
        assert_eq!(problems(&[("s3.bucket.name", "a.b"), ("store.url", "http://minio:9000")]), 0);
    }
}
