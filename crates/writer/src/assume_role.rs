//! Credentials of a role, which AWS's Security Token Service (STS) lends for a while; they are fetched anew before they end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use model::{Invalid, Key, Kind, Settings, Width};
use object_store::aws::{AwsAuthorizer, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody};
use object_store::{CredentialProvider, Error as StoreError, HeaderValue};
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::credentials::Environment;
use crate::error::{code_between, with_cause};
use crate::s3::S3_REGION;
use crate::s3_requests::QUERY;

/// The role.
pub const STS_ROLE_ARN: Key = Key::new(
    "s3.credentials.provider.sts.role.arn",
    Kind::String,
    "The role that AwsAssumeRoleCredentialsProvider assumes, by the static keys or the default chain.",
)
.group("S3", 35)
.shown(Width::Long, "STS Role ARN");

/// What the role's owner sees of it.
pub const STS_ROLE_SESSION_NAME: Key = Key::new(
    "s3.credentials.provider.sts.role.session.name",
    Kind::String,
    "Names the sessions of that role in the logs of AWS.",
)
.group("S3", 36)
.shown(Width::Long, "STS Role Session Name");

/// What the role's owner may ask for.
pub const STS_ROLE_EXTERNAL_ID: Key = Key::new(
    "s3.credentials.provider.sts.role.external.id",
    Kind::String,
    "The external id that the role's trust policy asks for. The S3 sink cannot do without one, here it may be left out.",
)
.group("S3", 37)
.shown(Width::Long, "STS Role External ID");

/// Where it is asked for.
pub const STS_REGION: Key = Key::new(
    "s3.credentials.provider.sts.region",
    Kind::String,
    "The region of the STS that is asked; empty takes AWS_REGION, AWS_DEFAULT_REGION or s3.region. AWS_ENDPOINT_URL_STS \
     names another address.",
)
.default("")
.group("S3", 38)
.shown(Width::Long, "STS Region");

/// Keys of roles.
pub(crate) const KEYS: &[Key] = &[STS_ROLE_ARN, STS_ROLE_SESSION_NAME, STS_ROLE_EXTERNAL_ID, STS_REGION];

/// Credentials are fetched anew so long before they end, or when a quarter of their time is left if that is less.
const MARGIN: Duration = Duration::from_secs(300);

/// A fetch that failed is tried again after so long while the credentials at hand are good.
const RETRY_AFTER: Duration = Duration::from_secs(20);

/// How long credentials are taken to last that do not say it: the least that STS gives.
const LIFE_MIN: Duration = Duration::from_secs(900);

/// What is wrong with these keys, which the provider's class needs.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let is_missing = |key: &&Key| settings.text(key).unwrap_or_default().is_empty();
    [&STS_ROLE_ARN, &STS_ROLE_SESSION_NAME].into_iter().filter(is_missing).map(Invalid::missing).collect()
}

/// A role and whom to ask for it.
pub(crate) struct AssumedRole {
    role: String,
    /// Names and values of the request.
    form: String,
    endpoint: String,
    region: String,
    base: AwsCredentialProvider,
    http: HttpClient,
    lent: Mutex<Option<Lent>>,
}

struct Lent {
    credential: Arc<AwsCredential>,
    fresh_until: Instant,
    ends: Instant,
}

impl fmt::Debug for AssumedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AssumedRole({} at {})", self.role, self.endpoint)
    }
}

/// STS lent nothing. The text holds its own words.
#[derive(Debug, thiserror::Error)]
#[error("could not assume role {role} at {endpoint}: {answer}")]
pub(crate) struct NotLent {
    role: String,
    endpoint: String,
    answer: String,
    /// It will not lend anything before somebody changes something.
    is_refusal: bool,
}

impl NotLent {
    /// The refusal that `error` comes from, if any.
    pub(crate) fn refusal(error: &StoreError) -> Option<&NotLent> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            match error.downcast_ref::<NotLent>() {
                Some(not_lent) => return Some(not_lent).filter(|not_lent| not_lent.is_refusal),
                None => cause = error.source(),
            }
        }
        None
    }
}

impl AssumedRole {
    /// Nothing is asked yet. `base` signs what is asked.
    pub(crate) fn new(
        settings: &Settings,
        environment: &Environment,
        base: AwsCredentialProvider,
        http: HttpClient,
    ) -> Result<AssumedRole, Invalid> {
        let role = settings.required_string(&STS_ROLE_ARN)?;
        let mut form = vec![
            ("Action", "AssumeRole".to_owned()),
            ("Version", "2011-06-15".to_owned()),
            ("RoleArn", role.clone()),
            ("RoleSessionName", settings.required_string(&STS_ROLE_SESSION_NAME)?),
        ];
        if let Some(id) = settings.string(&STS_ROLE_EXTERNAL_ID)?.filter(|id| !id.is_empty()) {
            form.push(("ExternalId", id));
        }
        let form: Vec<String> =
            form.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, QUERY))).collect();
        let given = settings.required_string(&STS_REGION)?;
        let variable = |name: &str| environment.get(name).map(str::to_owned);
        let region = match (given.is_empty(), variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"))) {
            (false, _) => given,
            (true, Some(region)) => region,
            (true, None) => settings.required_string(&S3_REGION)?,
        };
        let endpoint = environment.sts_endpoint().unwrap_or_else(|| {
            let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
            format!("https://sts.{region}.amazonaws.com{suffix}")
        });
        Ok(AssumedRole { role, form: form.join("&"), endpoint, region, base, http, lent: Mutex::default() })
    }

    async fn ask(&self) -> Result<Lent, NotLent> {
        let asked_at = Instant::now();
        let failed = |answer: String, is_refusal| NotLent {
            role: self.role.clone(),
            endpoint: self.endpoint.clone(),
            answer,
            is_refusal,
        };
        let base = self.base.get_credential().await.map_err(|error| failed(error.to_string(), false))?;
        let mut request = HttpRequest::new(HttpRequestBody::from(self.form.clone()));
        *request.method_mut() = "POST".parse().map_err(|_| failed("POST is no method".to_owned(), true))?;
        *request.uri_mut() = format!("{}/", self.endpoint.trim_end_matches('/'))
            .parse()
            .map_err(|error| failed(format!("the address is none: {error}"), true))?;
        let form = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
        request.headers_mut().insert("content-type", form);
        AwsAuthorizer::new(&base, "sts", &self.region).authorize(&mut request, None);
        let response = self.http.execute(request).await.map_err(|error| failed(with_cause(&error), false))?;
        let status = response.status();
        let date = response.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned);
        let body = response.into_body().bytes().await.map_err(|error| failed(with_cause(&error), false))?;
        let body = String::from_utf8_lossy(&body);
        if !status.is_success() {
            let asks_again = status.is_server_error() || matches!(status.as_u16(), 408 | 429) || is_throttled(&body);
            return Err(failed(words(status.as_str(), &body), !asks_again));
        }
        let answer: Answer = quick_xml::de::from_str(&body)
            .map_err(|error| failed(format!("its answer could not be read: {error}"), false))?;
        let credentials = answer.assume_role_result.credentials;
        let life = life(date.as_deref(), &credentials.expiration).unwrap_or(LIFE_MIN);
        let credential = AwsCredential {
            key_id: credentials.access_key_id,
            secret_key: credentials.secret_access_key,
            token: Some(credentials.session_token),
        };
        debug!(role = self.role, endpoint = self.endpoint, life_s = life.as_secs(), "assumed a role");
        Ok(Lent {
            credential: Arc::new(credential),
            fresh_until: asked_at + life.saturating_sub(MARGIN.min(life / 4)),
            ends: asked_at + life,
        })
    }
}

#[async_trait]
impl CredentialProvider for AssumedRole {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Held while STS is asked, so that it is asked once; its client bounds the time.
        let mut lent = self.lent.lock().await;
        let now = Instant::now();
        if let Some(lent) = lent.as_ref().filter(|lent| now < lent.fresh_until) {
            return Ok(Arc::clone(&lent.credential));
        }
        let not_lent = match self.ask().await {
            Ok(new) => return Ok(Arc::clone(&lent.insert(new).credential)),
            Err(not_lent) => not_lent,
        };
        match lent.as_mut().filter(|lent| Instant::now() < lent.ends) {
            Some(lent) => {
                warn!(error = %not_lent, "the credentials at hand are used until they end");
                lent.fresh_until = lent.ends.min(Instant::now() + RETRY_AFTER);
                Ok(Arc::clone(&lent.credential))
            }
            None => Err(StoreError::Generic { store: "STS", source: Box::new(not_lent) }),
        }
    }
}

/// How long credentials last, by the clock of the one who lends them.
fn life(date: Option<&str>, expiration: &str) -> Option<Duration> {
    let now = rfc2822::parse(date?).ok()?.timestamp();
    let end: Timestamp = expiration.parse().ok()?;
    Duration::try_from(end.duration_since(now)).ok()
}

fn is_throttled(body: &str) -> bool {
    let code = code_between(body, "<Code>", "</Code>").unwrap_or_default();
    code.starts_with("Throttl") || matches!(code, "RequestLimitExceeded" | "TooManyRequestsException")
}

/// What STS says, in a line.
fn words(status: &str, body: &str) -> String {
    let part = |open, close| {
        let text = code_between(body, open, close).unwrap_or_default();
        quick_xml::escape::unescape(text).map(String::from).unwrap_or_else(|_| text.to_owned())
    };
    let (code, message) = (part("<Code>", "</Code>"), part("<Message>", "</Message>"));
    if code.is_empty() && message.is_empty() {
        return format!("it answers {status}");
    }
    format!("it answers {status} {code}: {message}")
}

/// An answer to AssumeRole (AWS Security Token Service API reference).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    assume_role_result: Assumed,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Assumed {
    credentials: Credentials,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Verdict, verdict};
    use crate::recorder::{Answer, Recorder};
    use crate::testing::settings;
    use object_store::ClientOptions;
    use object_store::StaticCredentialProvider;
    use object_store::client::{HttpConnector, ReqwestConnector};
    use std::sync::atomic::{AtomicU32, Ordering};

    const KEYS: &[(&str, &str)] = &[
        ("s3.credentials.provider.sts.role.arn", "arn:aws:iam::123456789012:role/writer"),
        ("s3.credentials.provider.sts.role.session.name", "sluice&co"),
    ];

    fn role(endpoint: &str, more: &[(&str, &str)]) -> AssumedRole {
        let environment = Environment::new([("AWS_ENDPOINT_URL_STS".to_owned(), endpoint.to_owned())]);
        let base = AwsCredential { key_id: "base".into(), secret_key: "s".into(), token: None };
        let http = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let base = Arc::new(StaticCredentialProvider::new(base));
        AssumedRole::new(&settings(&[KEYS, more].concat()), &environment, base, http).unwrap()
    }

    /// Credentials of an hour by the store's clock, which is far from ours.
    fn lends(key: &str) -> Answer {
        let body = format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
             <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
             <Expiration>2001-01-01T01:00:00Z</Expiration></Credentials><AssumedRoleUser><Arn>a</Arn></AssumedRoleUser>\
             </AssumeRoleResult></AssumeRoleResponse>"
        );
        Answer::new(200).header("date", "Mon, 01 Jan 2001 00:00:00 GMT").body(body)
    }

    fn refuses() -> Answer {
        let body = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: x is not authorized to \
                    perform: sts:AssumeRole on &quot;writer&quot;</Message></Error></ErrorResponse>";
        Answer::new(403).body(body)
    }

    /// Time goes on, and requests can be made again.
    async fn pass(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    async fn key_of(role: &AssumedRole) -> String {
        role.get_credential().await.map_or_else(|error| error.to_string(), |credential| credential.key_id.clone())
    }

    #[tokio::test]
    async fn a_role_is_asked_for_once_and_again_before_it_ends() {
        let asked = AtomicU32::new(0);
        let sts = Recorder::start(move |_| lends(&format!("key-{}", asked.fetch_add(1, Ordering::SeqCst))));
        let role = role(&sts.endpoint, &[("s3.credentials.provider.sts.role.external.id", "x/1")]);
        let (one, other) = tokio::join!(key_of(&role), key_of(&role));
        assert_eq!((one.as_str(), other.as_str()), ("key-0", "key-0"));
        let requests = sts.take();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].line(), "POST /");
        assert_eq!(
            requests[0].body,
            "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fwriter&\
             RoleSessionName=sluice%26co&ExternalId=x%2F1"
        );
        assert!(requests[0].header("authorization").contains("Credential=base/"));
        assert!(requests[0].header("authorization").contains("/us-west-2/sts/aws4_request"));
        pass(Duration::from_secs(54 * 60)).await;
        assert_eq!((key_of(&role).await.as_str(), sts.take().len()), ("key-0", 0));
        pass(Duration::from_secs(2 * 60)).await;
        assert_eq!((key_of(&role).await.as_str(), sts.take().len()), ("key-1", 1));
        assert!(!format!("{role:?}").contains("key-1"));
    }

    #[tokio::test]
    async fn a_role_at_hand_is_used_until_it_ends_and_then_sts_is_quoted() {
        let asked = AtomicU32::new(0);
        let sts = Recorder::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => lends("key"),
            _ => refuses(),
        });
        let role = role(&sts.endpoint, &[]);
        assert_eq!(key_of(&role).await, "key");
        pass(Duration::from_secs(56 * 60)).await;
        assert_eq!(key_of(&role).await, "key");
        assert_eq!((key_of(&role).await.as_str(), sts.take().len()), ("key", 2), "a refusal is not asked for at once");
        pass(Duration::from_secs(5 * 60)).await;
        let error = role.get_credential().await.unwrap_err();
        let text = error.to_string();
        for part in [
            "could not assume role arn:aws:iam::123456789012:role/writer",
            sts.endpoint.as_str(),
            "403 AccessDenied: User: x is not authorized to perform: sts:AssumeRole on \"writer\"",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let Verdict::Permanent(advice) = verdict(&error, "b") else { panic!("{text}") };
        assert!(advice.contains("sts:AssumeRole"), "{advice}");
    }

    #[tokio::test]
    async fn an_sts_that_cannot_answer_is_asked_again() {
        let throttled = "<ErrorResponse><Error><Code>Throttling</Code><Message>slow</Message></Error></ErrorResponse>";
        for (answer, words) in [
            (Answer::new(500), "it answers 500"),
            (Answer::new(400).body(throttled), "400 Throttling: slow"),
            (Answer::new(200).body("<html>"), "its answer could not be read"),
        ] {
            let sts = Recorder::start(move |_| answer.clone());
            let error = role(&sts.endpoint, &[]).get_credential().await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(verdict(&error, "b"), Verdict::Transient, "{error}");
        }
        let error = role("http://127.0.0.1:1", &[]).get_credential().await.unwrap_err();
        assert_eq!(verdict(&error, "b"), Verdict::Transient, "{error}");
    }

    #[test]
    fn the_sts_of_the_region_is_asked() {
        let endpoint = |variables: &[(&str, &str)], more: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let base = AwsCredential { key_id: "base".into(), secret_key: "s".into(), token: None };
            let base = Arc::new(StaticCredentialProvider::new(base));
            let http = ReqwestConnector::default().connect(&ClientOptions::new()).unwrap();
            let settings = settings(&[KEYS, more].concat());
            let role = AssumedRole::new(&settings, &Environment::new(variables), base, http).unwrap();
            (role.endpoint, role.region)
        };
        let own = |region: &str| (format!("https://sts.{region}.amazonaws.com"), region.to_owned());
        let given = ("s3.credentials.provider.sts.region", "eu-west-1");
        assert_eq!(endpoint(&[], &[]), own("us-west-2"));
        assert_eq!(endpoint(&[], &[("s3.region", "eu-north-1")]), own("eu-north-1"));
        assert_eq!(endpoint(&[("AWS_DEFAULT_REGION", "us-east-2")], &[]), own("us-east-2"));
        assert_eq!(endpoint(&[("AWS_REGION", "us-east-2")], &[given]), own("eu-west-1"));
        assert_eq!(endpoint(&[("AWS_ENDPOINT_URL", "http://h:1")], &[given]).0, "http://h:1");
        assert_eq!(endpoint(&[("AWS_REGION", "cn-north-1")], &[]).0, "https://sts.cn-north-1.amazonaws.com.cn");
    }
}
