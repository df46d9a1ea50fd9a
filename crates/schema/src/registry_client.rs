//! Requests to a schema registry: addresses with failover, logins, TLS, proxy, retries.

use std::error::Error as _;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use model::{Invalid, Key, Secret, Settings};
use reqwest::{Certificate, Client, Identity, Proxy, RequestBuilder, StatusCode, Url};
use rustls::AlertDescription;
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, sleep};

use crate::registry_keys as keys;

const ACCEPT: &str = "application/vnd.schemaregistry.v1+json, application/vnd.schemaregistry+json, application/json";

/// The part of a token's life after which a new one is asked for.
const TOKEN_LIFE_PERCENT: u32 = 80;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The registry says that it has no such thing.
    Missing(String),
    /// It does not answer, or cannot for now.
    Unavailable(String),
    /// A certificate is to blame, its own or ours: as if it did not answer, but nobody mends that by waiting.
    Untrusted(String),
    /// It refuses, or cannot be asked like this.
    Config(String),
}

/// Asks one registry, which may have several addresses. Built without I/O; files of certificates are read with the first
/// request.
pub(crate) struct RegistryClient {
    urls: Vec<Url>,
    /// The address that answered last.
    current: AtomicUsize,
    login: Login,
    headers: Vec<(&'static str, String)>,
    tls: Tls,
    proxy: Option<String>,
    connect_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
    retries: Retries,
    client: OnceCell<Client>,
}

struct Retries {
    max: usize,
    wait: Duration,
    wait_max: Duration,
}

/// How we say who we are.
enum Login {
    /// As the address says, if it does.
    Url,
    Basic(Secret),
    Token(Secret),
    OAuth(Box<Issuer>),
}

/// Who gives tokens, and the one it gave last with the time to ask again.
struct Issuer {
    url: Url,
    client_id: String,
    client_secret: Secret,
    scope: Option<String>,
    token: Mutex<Option<(Instant, Secret)>>,
}

/// A text in PEM, or the file that has it.
enum Pem {
    Text(Secret),
    File(String),
}

struct Tls {
    trusted: Option<Pem>,
    identity: Option<Pem>,
    check_host: bool,
}

impl RegistryClient {
    /// The client that the settings of a converter describe.
    pub(crate) fn build(settings: &Settings) -> Result<RegistryClient, Invalid> {
        let urls = settings.list(&keys::URL)?;
        let login = login(settings)?;
        let urls: Vec<Url> = urls.iter().map(|text| url(text, &login)).collect::<Result<_, _>>()?;
        if urls.is_empty() {
            return Err(Invalid::missing(&keys::URL));
        }
        let mut headers = Vec::new();
        if matches!(login, Login::Token(_) | Login::OAuth(_)) {
            for (name, key) in
                [("target-sr-cluster", &keys::LOGICAL_CLUSTER), ("Confluent-Identity-Pool-Id", &keys::IDENTITY_POOL)]
            {
                headers.extend(settings.string(key)?.map(|value| (name, value)));
            }
        }
        let (host, port) = (settings.required_string(&keys::PROXY_HOST)?, settings.long(&keys::PROXY_PORT)?);
        let proxy = (!host.is_empty() && port > 0).then(|| format!("http://{host}:{port}"));
        if let Some(Err(error)) = proxy.as_ref().map(Proxy::all) {
            return Err(Invalid::value(&keys::PROXY_HOST, &host, error));
        }
        Ok(RegistryClient {
            urls,
            current: AtomicUsize::new(0),
            login,
            headers,
            tls: tls(settings)?,
            proxy,
            connect_timeout: settings.millis(&keys::CONNECT_TIMEOUT)?,
            read_timeout: settings.millis(&keys::READ_TIMEOUT)?,
            retries: Retries {
                max: settings.size(&keys::MAX_RETRIES)?,
                wait: settings.millis(&keys::RETRIES_WAIT)?.unwrap_or_default(),
                wait_max: settings.millis(&keys::RETRIES_WAIT_MAX)?.unwrap_or_default(),
            },
            client: OnceCell::new(),
        })
    }

    /// The JSON at `path`, which is a list of segments, from the first address that answers.
    pub(crate) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        let client = self.client.get_or_try_init(|| async { self.connect() }).await?;
        let mut wait = self.retries.wait;
        for _ in 0..self.retries.max {
            match self.get_from_any(client, path, query).await {
                Err(Failure::Unavailable(why)) => {
                    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    tracing::warn!(error = why, wait_ms, "schema registry does not answer, retrying");
                }
                other => return other,
            }
            sleep(wait.min(self.retries.wait_max)).await;
            wait = wait.saturating_mul(2).min(self.retries.wait_max);
        }
        self.get_from_any(client, path, query).await
    }

    /// Asks each address once, beginning with the one that answered last.
    async fn get_from_any(&self, client: &Client, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        let first = self.current.load(Ordering::Relaxed);
        let (mut silent, mut all_untrusted) = (Vec::new(), true);
        for index in (0..self.urls.len()).map(|turn| (first + turn) % self.urls.len()) {
            let base = &self.urls[index];
            match self.get_from(client, base, path, query).await {
                Err(Failure::Unavailable(why)) => {
                    all_untrusted = false;
                    silent.push(format!("{}: {why}", shown(base)));
                }
                Err(Failure::Untrusted(why)) => silent.push(format!("{}: {why}", shown(base))),
                Err(Failure::Config(why)) => {
                    return Err(Failure::Config(format!("schema registry {}: {why}", shown(base))));
                }
                other => {
                    self.current.store(index, Ordering::Relaxed);
                    return other;
                }
            }
        }
        let silent = silent.join("; ");
        Err(match all_untrusted {
            true => Failure::Untrusted(format!(
                "a certificate is refused, see schema.registry.ssl.truststore.location and keystore.location: schema registry \
                 {silent}"
            )),
            false => Failure::Unavailable(format!("the schema registry does not answer: {silent}")),
        })
    }

    async fn get_from(
        &self,
        client: &Client,
        base: &Url,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Value, Failure> {
        let mut url = base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.sign(client, client.get(url).header("Accept", ACCEPT)).await?;
        let (status, body) = send(request).await?;
        if status.is_success() {
            let no_json =
                |error| Failure::Config(format!("what answers is no schema registry: its answer is no JSON: {error}"));
            return serde_json::from_slice(&body).map_err(no_json);
        }
        Err(refusal(status, &body))
    }

    /// Adds what says who we are.
    async fn sign(&self, client: &Client, mut request: RequestBuilder) -> Result<RequestBuilder, Failure> {
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        Ok(match &self.login {
            Login::Url => request,
            Login::Basic(user_info) => {
                let (user, password) = user_info.reveal().split_once(':').unwrap_or((user_info.reveal(), ""));
                request.basic_auth(user, Some(password))
            }
            Login::Token(token) => request.bearer_auth(token.reveal()),
            Login::OAuth(issuer) => request.bearer_auth(issuer.token(client).await?.reveal()),
        })
    }

    /// The HTTP client, with its certificates.
    fn connect(&self) -> Result<Client, Failure> {
        // Another part of the process may have chosen the same provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder().user_agent("sluice");
        builder = match &self.proxy {
            Some(proxy) => {
                builder.proxy(Proxy::all(proxy).map_err(|error| Failure::Config(format!("proxy.host: {error}")))?)
            }
            None => builder.no_proxy(),
        };
        if let Some(timeout) = self.connect_timeout {
            builder = builder.connect_timeout(timeout);
        }
        if let Some(timeout) = self.read_timeout {
            builder = builder.read_timeout(timeout);
        }
        let issuer_has_tls = matches!(&self.login, Login::OAuth(issuer) if issuer.url.scheme() == "https");
        if let Some(pem) = &self.tls.trusted {
            builder = builder.tls_certs_only(certificates(pem)?);
        } else if !issuer_has_tls && self.urls.iter().all(|url| url.scheme() == "http") {
            // Plain HTTP needs no certificates, and a small container has none.
            builder = builder.tls_certs_only([]);
        }
        if let Some(pem) = &self.tls.identity {
            builder = builder.identity(identity(pem)?);
        }
        if !self.tls.check_host {
            builder = builder.tls_danger_accept_invalid_hostnames(true);
        }
        builder
            .build()
            .map_err(|error| Failure::Config(format!("cannot set up TLS to the schema registry: {}", chain(error))))
    }
}

impl Issuer {
    /// The token, asked for anew when most of its life is over.
    async fn token(&self, client: &Client) -> Result<Secret, Failure> {
        let mut kept = self.token.lock().await;
        if let Some((until, token)) = kept.as_ref()
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let mut form = self.url.clone();
        form.set_query(None);
        form.query_pairs_mut().append_pair("grant_type", "client_credentials");
        if let Some(scope) = &self.scope {
            form.query_pairs_mut().append_pair("scope", scope);
        }
        let request = client
            .post(self.url.clone())
            .basic_auth(&self.client_id, Some(self.client_secret.reveal()))
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(form.query().unwrap_or_default().to_owned());
        let (status, body) = send(request).await?;
        if !status.is_success() {
            return Err(match refusal(status, &body) {
                Failure::Unavailable(why) => Failure::Unavailable(format!("token issuer {}: {why}", shown(&self.url))),
                Failure::Untrusted(why) => Failure::Untrusted(format!("token issuer {}: {why}", shown(&self.url))),
                Failure::Missing(why) | Failure::Config(why) => {
                    Failure::Config(format!("token issuer {}: {why}", shown(&self.url)))
                }
            });
        }
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let Some(token) = answer["access_token"].as_str().map(Secret::new) else {
            return Err(Failure::Config(format!("token issuer {} gave no access_token", shown(&self.url))));
        };
        let life = Duration::from_secs(answer["expires_in"].as_u64().unwrap_or(0).min(86_400));
        *kept = Some((Instant::now() + life * TOKEN_LIFE_PERCENT / 100, token.clone()));
        Ok(token)
    }
}

async fn send(request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), Failure> {
    let failed = |error: reqwest::Error| {
        let (builder, untrusted) = (error.is_builder(), blames_certificate(&error));
        let why = chain(error);
        match (builder, untrusted) {
            (true, _) => Failure::Config(why),
            (false, true) => Failure::Untrusted(why),
            (false, false) => Failure::Unavailable(why),
        }
    };
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    Ok((status, response.bytes().await.map_err(failed)?.to_vec()))
}

/// Whether TLS failed on a certificate: one that we do not trust, or ours, or that we have none.
fn blames_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return io.get_ref().is_some_and(|inner| blames_certificate(inner));
    }
    match error.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => true,
        Some(rustls::Error::AlertReceived(alert)) => matches!(
            alert,
            AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
        ),
        Some(_) => false,
        None => error.source().is_some_and(blames_certificate),
    }
}

/// What an answer that is no success means.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let code = answer["error_code"].as_i64();
    let said = match (answer["message"].as_str(), code) {
        (Some(message), Some(code)) => format!("{message}; error code: {code}"),
        (Some(message), None) => message.to_owned(),
        (None, _) => format!("HTTP status {status}"),
    };
    match status.as_u16() {
        404 if code.is_some() => Failure::Missing(said),
        404 => Failure::Config(format!(
            "what answers is no schema registry ({said}); check the path of schema.registry.url"
        )),
        401 => Failure::Config(format!(
            "it wants another login ({said}); see basic.auth.credentials.source and bearer.auth.credentials.source"
        )),
        403 => Failure::Config(format!("it refuses the request ({said}); the user may not read schemas")),
        408 | 429 | 500..=599 => Failure::Unavailable(said),
        _ => Failure::Config(format!("it refuses the request: {said} (HTTP status {status})")),
    }
}

/// An error with its causes, without the address, which may hold a password.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// An address without its login.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.to_string()
}

fn url(text: &str, login: &Login) -> Result<Url, Invalid> {
    // The text may hold a password, so errors do not repeat it.
    let wrong = |why: String| {
        Invalid::new(keys::URL.name, format!("Invalid value for configuration {}: {why}", keys::URL.name))
    };
    let mut url = Url::parse(text).map_err(|error| wrong(format!("an address is no URL: {error}")))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => {}
        other => return Err(wrong(format!("an address must begin with http:// or https://, not {other}:"))),
    }
    match login {
        Login::Url => {}
        Login::Basic(_) | Login::Token(_) | Login::OAuth(_) => {
            let _ = url.set_username("").and_then(|()| url.set_password(None));
        }
    }
    Ok(url)
}

fn login(settings: &Settings) -> Result<Login, Invalid> {
    if let Some(source) = settings.string(&keys::BEARER_SOURCE)? {
        if settings.is_set(&keys::BASIC_SOURCE) {
            let why = "and bearer.auth.credentials.source exclude each other; give one of them";
            return Err(Invalid::new(keys::BASIC_SOURCE.name, format!("{} {why}", keys::BASIC_SOURCE.name)));
        }
        if source == "OAUTHBEARER" {
            return Ok(Login::OAuth(Box::new(issuer(settings)?)));
        }
        let token = settings.secret(&keys::BEARER_TOKEN)?;
        return Ok(Login::Token(token.ok_or_else(|| wanted(&keys::BEARER_TOKEN, "STATIC_TOKEN"))?));
    }
    match settings.required_string(&keys::BASIC_SOURCE)?.as_str() {
        "USER_INFO" => {
            let user_info = match settings.secret(&keys::USER_INFO)? {
                Some(user_info) => Some(user_info),
                None => settings.secret(&keys::OLD_USER_INFO)?,
            };
            Ok(Login::Basic(user_info.ok_or_else(|| wanted(&keys::USER_INFO, "USER_INFO"))?))
        }
        "SASL_INHERIT" => {
            let jaas = settings.secret(&keys::SASL_JAAS_CONFIG)?;
            let jaas = jaas.ok_or_else(|| wanted(&keys::SASL_JAAS_CONFIG, "SASL_INHERIT"))?;
            match (jaas_option(jaas.reveal(), "username"), jaas_option(jaas.reveal(), "password")) {
                (Some(user), Some(password)) => Ok(Login::Basic(Secret::new(format!("{user}:{password}")))),
                (None, _) | (_, None) => {
                    Err(Invalid::value(&keys::SASL_JAAS_CONFIG, "", "it has no username=\"...\" password=\"...\""))
                }
            }
        }
        _ => Ok(Login::Url),
    }
}

fn issuer(settings: &Settings) -> Result<Issuer, Invalid> {
    let text = settings.string(&keys::ISSUER_URL)?.ok_or_else(|| wanted(&keys::ISSUER_URL, "OAUTHBEARER"))?;
    Ok(Issuer {
        url: Url::parse(&text).map_err(|error| Invalid::value(&keys::ISSUER_URL, &text, error))?,
        client_id: settings.string(&keys::CLIENT_ID)?.ok_or_else(|| wanted(&keys::CLIENT_ID, "OAUTHBEARER"))?,
        client_secret: settings
            .secret(&keys::CLIENT_SECRET)?
            .ok_or_else(|| wanted(&keys::CLIENT_SECRET, "OAUTHBEARER"))?,
        scope: settings.string(&keys::SCOPE)?.filter(|scope| !scope.is_empty()),
        token: Mutex::new(None),
    })
}

fn wanted(key: &Key, source: &str) -> Invalid {
    Invalid::new(key.name, format!("{} must be given with the credentials source {source}", key.name))
}

/// The value of `name="..."` in a JAAS line.
fn jaas_option(line: &str, name: &str) -> Option<String> {
    let mut rest = line;
    while let Some(at) = rest.find(name) {
        let begins_word = rest[..at].chars().next_back().is_none_or(char::is_whitespace);
        rest = &rest[at + name.len()..];
        if let Some(value) = rest.trim_start().strip_prefix('=').filter(|_| begins_word) {
            let value = value.trim_start();
            return match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').map(|(value, _)| value.to_owned()),
                None => value.split([' ', ';']).next().map(str::to_owned),
            };
        }
    }
    None
}

fn tls(settings: &Settings) -> Result<Tls, Invalid> {
    for (kind, location) in
        [(&keys::TRUSTSTORE_TYPE, &keys::TRUSTSTORE_LOCATION), (&keys::KEYSTORE_TYPE, &keys::KEYSTORE_LOCATION)]
    {
        let file = settings.string(location)?.unwrap_or_default();
        let named = match settings.string(kind)? {
            Some(named) => named.to_ascii_uppercase(),
            None if file.ends_with(".jks") => "JKS".to_owned(),
            None if file.ends_with(".p12") || file.ends_with(".pfx") => "PKCS12".to_owned(),
            None => continue,
        };
        if named != "PEM" && settings.is_set(location) {
            return Err(Invalid::value(location, &file, not_pem(&named, &file)));
        }
    }
    let text_or_file = |text: &Key, file: &Key| -> Result<Option<Pem>, Invalid> {
        Ok(match settings.secret(text)? {
            Some(text) => Some(Pem::Text(text)),
            None => settings.string(file)?.filter(|file| !file.is_empty()).map(Pem::File),
        })
    };
    let identity = match (settings.secret(&keys::KEYSTORE_KEY)?, settings.secret(&keys::KEYSTORE_CERTIFICATES)?) {
        (Some(key), Some(chain)) => Some(Pem::Text(Secret::new(format!("{}\n{}", key.reveal(), chain.reveal())))),
        (None, _) | (_, None) => text_or_file(&keys::KEYSTORE_KEY, &keys::KEYSTORE_LOCATION)?,
    };
    Ok(Tls {
        trusted: text_or_file(&keys::TRUSTSTORE_CERTIFICATES, &keys::TRUSTSTORE_LOCATION)?,
        identity,
        check_host: settings.text(&keys::IDENTIFICATION) != Some(""),
    })
}

fn not_pem(kind: &str, file: &str) -> String {
    format!(
        "a store of type {kind} cannot be read, only PEM. Convert it: keytool -importkeystore -srckeystore {file} \
         -destkeystore store.p12 -deststoretype PKCS12, then openssl pkcs12 -in store.p12 -nodes -out store.pem, and name \
         store.pem with type PEM"
    )
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Pem::Text(text) => Ok(text.reveal().replace("\\n", "\n").into_bytes()),
            Pem::File(path) => {
                let bytes = std::fs::read(path)
                    .map_err(|error| Failure::Config(format!("cannot read {path} for the schema registry: {error}")))?;
                if memchr::memmem::find(&bytes, b"-----BEGIN").is_none() {
                    return Err(Failure::Config(format!("{path}: {}", not_pem("JKS or PKCS12", path))));
                }
                Ok(bytes)
            }
        }
    }

    fn name(&self) -> &str {
        match self {
            Pem::Text(_) => "the PEM text for the schema registry",
            Pem::File(path) => path,
        }
    }
}

fn certificates(pem: &Pem) -> Result<Vec<Certificate>, Failure> {
    let found = Certificate::from_pem_bundle(&pem.read()?)
        .map_err(|error| Failure::Config(format!("{} has no good certificates: {}", pem.name(), chain(error))))?;
    if found.is_empty() {
        return Err(Failure::Config(format!("{} has no certificate", pem.name())));
    }
    Ok(found)
}

fn identity(pem: &Pem) -> Result<Identity, Failure> {
    let bytes = pem.read()?;
    if memchr::memmem::find(&bytes, b"ENCRYPTED").is_some() {
        return Err(Failure::Config(format!(
            "the private key in {} is encrypted, which cannot be read; decrypt it: openssl pkey -in key.pem -out plain.pem",
            pem.name()
        )));
    }
    Identity::from_pem(&bytes).map_err(|error| {
        Failure::Config(format!("{} must have a private key and its certificates: {}", pem.name(), chain(error)))
    })
}
