//! A gate in front of a server: TLS by an authority of its own, client certificates, logins, tokens that it issues.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::Error;
use crate::process::free_port;
use crate::proxy::{Request, forward, read_request};

/// What the gate asks of each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// Nothing.
    Open,
    /// This `Authorization`, and no other.
    Header(String),
    /// A token of `POST /token`, which is given to whoever sends this `Authorization` there and holds for so long.
    Token(String, Duration),
}

/// The certificates of a test, in PEM: an authority, and a client's certificate and key that come from it.
pub struct Authority {
    /// The authority's own certificate.
    pub certificate: String,
    /// A client's key and certificate.
    pub client: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// The gate. Dropped, it takes no more connections.
pub struct Gate {
    port: u16,
    has_tls: bool,
    state: Arc<State>,
}

struct State {
    server: SocketAddr,
    path: String,
    login: Login,
    tls: Option<Arc<ServerConfig>>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    closed: bool,
    over: bool,
    passed: u64,
    refused: u64,
    tokens: Vec<(String, Instant)>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Authority, Error> {
        Authority::make().map_err(|error| failed(error.to_string()))
    }

    fn make() -> Result<Authority, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate()?;
        let own = params.self_signed(&key)?;
        let (certificate, der) = (own.pem(), own.der().clone());
        let issuer = Issuer::new(params, key);
        let client_key = KeyPair::generate()?;
        let client = CertificateParams::new(vec!["client".to_owned()])?.signed_by(&client_key, &issuer)?;
        let client = format!("{}{}", client_key.serialize_pem(), client.pem());
        Ok(Authority { certificate, client, der, issuer })
    }

    /// What a server needs that is called `localhost` and lets in only the authority's clients.
    fn server(&self) -> Result<ServerConfig, Box<dyn std::error::Error>> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &self.issuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let chain = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?)
    }
}

impl Gate {
    /// A gate in front of the server at `url` (`http://127.0.0.1:port/path`), with TLS if there is an authority.
    pub fn start(url: &str, authority: Option<&Authority>, login: Login) -> Result<Gate, Error> {
        let rest = url.trim_start_matches("http://");
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let server = address.parse().map_err(|error| failed(format!("{url}: {error}")))?;
        let tls = authority.map(Authority::server).transpose().map_err(|error| failed(error.to_string()))?;
        let port = free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| failed(error.to_string()))?;
        let (has_tls, tls, path) = (tls.is_some(), tls.map(Arc::new), format!("/{path}"));
        let state = Arc::new(State { server, path, login, tls, inner: Mutex::default() });
        let accepting = state.clone();
        thread::spawn(move || accept(&accepting, &listener));
        Ok(Gate { port, has_tls, state })
    }

    /// The server's address through the gate, with `login@` in front of the host if it is not empty.
    pub fn url(&self, login: &str) -> String {
        let (scheme, host) = if self.has_tls { ("https", "localhost") } else { ("http", "127.0.0.1") };
        let at = if login.is_empty() { "" } else { "@" };
        format!("{scheme}://{login}{at}{host}:{}{}", self.port, self.state.path)
    }

    /// Where tokens are given.
    pub fn issuer_url(&self) -> String {
        let (scheme, host) = if self.has_tls { ("https", "localhost") } else { ("http", "127.0.0.1") };
        format!("{scheme}://{host}:{}/token", self.port)
    }

    /// Closes or opens it: while it is closed, connections end without an answer.
    pub fn close(&self, closed: bool) {
        self.state.lock().closed = closed;
    }

    /// Requests that went through, and requests that were refused or met a closed gate.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.state.lock();
        (inner.passed, inner.refused)
    }

    /// Tokens that were given.
    pub fn tokens(&self) -> usize {
        self.state.lock().tokens.len()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.lock().over = true;
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may pass.
    fn lets_in(&self, request: &Request) -> bool {
        let shown = request.header("authorization");
        match &self.login {
            Login::Open => true,
            Login::Header(wanted) => shown.as_ref() == Some(wanted),
            Login::Token(..) => {
                let inner = self.lock();
                let holds = |(token, until): &(String, Instant)| {
                    shown.as_deref() == Some(&format!("Bearer {token}")) && Instant::now() < *until
                };
                inner.tokens.iter().any(holds)
            }
        }
    }

    /// The answer to `POST /token`, if that is what is asked.
    fn token(&self, request: &Request) -> Option<(&'static str, String)> {
        let Login::Token(wanted, life) = &self.login else { return None };
        if request.method != "POST" || request.target != "/token" {
            return None;
        }
        if request.header("authorization").as_ref() != Some(wanted) {
            return Some(("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned()));
        }
        let mut inner = self.lock();
        let token = format!("issued-secret-{}", inner.tokens.len());
        inner.tokens.push((token.clone(), Instant::now() + *life));
        let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{}}}"#, life.as_secs());
        Some(("200 OK", body))
    }
}

fn failed(why: String) -> Error {
    Error::Server { what: "gate", why }
}

fn accept(state: &Arc<State>, listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        if state.lock().over {
            return;
        }
        let state = state.clone();
        thread::spawn(move || {
            let _ = match state.tls.clone().map(ServerConnection::new) {
                Some(Ok(connection)) => serve(&state, StreamOwned::new(connection, stream)),
                Some(Err(error)) => Err(io::Error::other(error)),
                None => serve(&state, stream),
            };
        });
    }
}

/// Serves one connection; returns when it is to be closed.
fn serve<S: Read + Write>(state: &State, stream: S) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        if state.lock().closed {
            state.lock().refused += 1;
            return Ok(());
        }
        if let Some((status, body)) = state.token(&request) {
            answer(reader.get_mut(), status, &body)?;
            continue;
        }
        if !state.lets_in(&request) {
            state.lock().refused += 1;
            answer(reader.get_mut(), "401 Unauthorized", r#"{"error_code":401,"message":"Unauthorized"}"#)?;
            continue;
        }
        let forwarded = forward(&state.server, &request)?;
        state.lock().passed += 1;
        reader.get_mut().write_all(&forwarded.bytes)?;
        reader.get_mut().flush()?;
        if !forwarded.has_end {
            return Ok(());
        }
    }
    Ok(())
}

fn answer(stream: &mut impl Write, status: &str, body: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}
