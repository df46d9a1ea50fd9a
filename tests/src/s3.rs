//! S3 stores: MinIO and LocalStack, and what tests do to their buckets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::process::{data_directory, free_port};
use crate::readers::text_of;
use crate::server::{Launch, Ready, Server};
use crate::services::install;
use crate::{Error, Services};

const SCRIPT: &str = concat!(include_str!("py/store.py"), include_str!("py/s3.py"));
const LOCALSTACK_MAIN: &str = include_str!("py/localstack_main.py");

/// An S3 store that is addressed path-style in region `us-east-1`.
///
/// The shared ones ([`Services::minio`], [`Services::localstack`]) only serve; a test that stops or pauses a store takes
/// one of its own. MinIO checks signatures and keeps its data over a restart; LocalStack does neither.
pub struct S3 {
    endpoint: String,
    access_key: &'static str,
    secret_key: &'static str,
    /// Of a store that is reached over TLS: the certificate of its own authority.
    certificate: Option<PathBuf>,
    /// None for a store that was running before; such a store is only ever lent as `&S3`.
    server: Option<Server>,
}

/// An object as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// The whole key.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// User metadata, names in lower case and without `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
}

impl S3 {
    /// The region that clients name.
    pub const REGION: &str = "us-east-1";

    /// A MinIO of the caller's own; it ends and its data goes when dropped.
    pub fn start_minio() -> Result<S3, Error> {
        minio(None)
    }

    /// As [`S3::start_minio`], over TLS, without which MinIO takes no keys of customers.
    pub fn start_minio_over_tls() -> Result<S3, Error> {
        let certificates = new_directory("minio")?;
        certify(&certificates)?;
        minio(Some(certificates))
    }

    /// The certificate that a client must trust, of a store that is reached over TLS.
    pub fn certificate(&self) -> Option<&Path> {
        self.certificate.as_deref()
    }

    /// A LocalStack of the caller's own, serving S3, STS and KMS; it ends and its data goes when dropped.
    pub fn start_localstack() -> Result<S3, Error> {
        let home = install("localstack")?;
        let port = free_port();
        let store = S3::running_localstack(format!("http://127.0.0.1:{port}"));
        let directory = new_directory("localstack")?;
        let inside = |name: &str| directory.join(name).display().to_string();
        let server = Server::start(Launch {
            what: "localstack",
            program: home.join("bin/python"),
            arguments: vec!["-c".to_owned(), LOCALSTACK_MAIN.to_owned()],
            environment: vec![
                ("GATEWAY_LISTEN", format!("127.0.0.1:{port}")),
                ("SERVICES", "s3,sts,kms".to_owned()),
                ("EAGER_SERVICE_LOADING", "0".to_owned()),
                ("STRICT_SERVICE_LOADING", "1".to_owned()),
                ("DISABLE_EVENTS", "1".to_owned()),
                ("SKIP_SSL_CERT_DOWNLOAD", "1".to_owned()),
                ("DNS_ADDRESS", "0".to_owned()),
                ("LOCALSTACK_VOLUME_DIR", inside("volume")),
                ("FILESYSTEM_ROOT", inside("root")),
                ("XDG_CACHE_HOME", inside("cache")),
                ("TMPDIR", directory.display().to_string()),
                ("PYTHONUNBUFFERED", "1".to_owned()),
            ],
            directory,
            ready: Ready::Http(port, "/_localstack/health"),
        })?;
        Ok(S3 { server: Some(server), ..store })
    }

    pub(crate) fn running_minio(endpoint: String) -> S3 {
        S3 { endpoint, access_key: "minioadmin", secret_key: "minioadmin", certificate: None, server: None }
    }

    pub(crate) fn running_localstack(endpoint: String) -> S3 {
        S3 { endpoint, access_key: "test", secret_key: "test", certificate: None, server: None }
    }

    /// `http://host:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The access key id.
    pub fn access_key(&self) -> &str {
        self.access_key
    }

    /// The secret access key.
    pub fn secret_key(&self) -> &str {
        self.secret_key
    }

    /// Creates a bucket.
    pub fn create_bucket(&self, bucket: &str) -> Result<(), Error> {
        self.call("create_bucket", json!({"bucket": bucket}))
    }

    /// Writes an object.
    pub fn put(&self, bucket: &str, key: &str, body: &[u8], metadata: &[(&str, &str)]) -> Result<(), Error> {
        let metadata: BTreeMap<_, _> = metadata.iter().copied().collect();
        self.call("put", json!({"bucket": bucket, "key": key, "body": text_of(body), "metadata": metadata}))
    }

    /// Reads an object.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Error> {
        Services::readers()?.run(SCRIPT, "get", &self.request(json!({"bucket": bucket, "key": key})))
    }

    /// Deletes an object; one that is not there is no error.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<(), Error> {
        self.call("delete", json!({"bucket": bucket, "key": key}))
    }

    /// All objects whose key starts with `prefix`, by key.
    pub fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<Object>, Error> {
        self.call("list_objects", json!({"bucket": bucket, "prefix": prefix}))
    }

    /// The keys of all objects whose key starts with `prefix`, in order. Asks for no object, as [`S3::list`] does.
    pub fn list_keys(&self, bucket: &str, prefix: &str) -> Result<Vec<String>, Error> {
        self.call("list_keys", json!({"bucket": bucket, "prefix": prefix}))
    }

    /// Begins a multipart upload and leaves it behind.
    pub fn start_upload(&self, bucket: &str, key: &str) -> Result<(), Error> {
        self.call("start_upload", json!({"bucket": bucket, "key": key}))
    }

    /// Keys of the multipart uploads that are neither completed nor aborted. MinIO knows only the empty prefix and whole
    /// keys, and of uploads that are older than its last start only whole keys.
    pub fn open_uploads(&self, bucket: &str, prefix: &str) -> Result<Vec<String>, Error> {
        self.call("open_uploads", json!({"bucket": bucket, "prefix": prefix}))
    }

    /// Stops the store in an orderly manner.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.own().stop()
    }

    /// Ends the store with SIGKILL.
    pub fn kill(&mut self) {
        self.own().kill();
    }

    /// Stops the store if it runs, and starts it on the same port and, for MinIO, with the same data.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.own().restart()
    }

    /// Freezes the store: connections stay open, nothing is answered.
    pub fn pause(&mut self) {
        self.own().pause();
    }

    /// Ends a pause.
    pub fn resume(&mut self) {
        self.own().resume();
    }

    fn own(&mut self) -> &mut Server {
        self.server.as_mut().expect("a store that is not ours is never lent as &mut")
    }

    fn call<T: serde::de::DeserializeOwned>(&self, action: &str, request: serde_json::Value) -> Result<T, Error> {
        Services::readers()?.call(SCRIPT, action, &self.request(request))
    }

    /// `request`, with the store for py/store.py to connect to.
    pub fn request(&self, mut request: serde_json::Value) -> serde_json::Value {
        request["store"] = json!({
            "endpoint": self.endpoint,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "region": S3::REGION,
            "certificate": self.certificate,
        });
        request
    }
}

pub(crate) fn new_directory(what: &'static str) -> Result<std::path::PathBuf, Error> {
    data_directory(what).map_err(|e| Error::Server { what, why: e.to_string() })
}

/// Starts MinIO, over TLS with the certificate in a directory if there is one.
fn minio(certificates: Option<PathBuf>) -> Result<S3, Error> {
    let home = install("minio")?;
    let port = free_port();
    let scheme = if certificates.is_some() { "https" } else { "http" };
    let store = S3::running_minio(format!("{scheme}://127.0.0.1:{port}"));
    let directory = match &certificates {
        Some(directory) => directory.clone(),
        None => new_directory("minio")?,
    };
    let disk = directory.join("disk").display().to_string();
    let address = format!("127.0.0.1:{port}");
    let mut arguments = ["server", "--quiet", "--address", &address, &disk].map(str::to_owned).to_vec();
    if certificates.is_some() {
        arguments.extend(["--certs-dir".to_owned(), directory.display().to_string()]);
    }
    let certificate = certificates.map(|directory| directory.join("public.crt"));
    let ready = match &certificate {
        Some(_) => Ready::Port(port),
        None => Ready::Http(port, "/minio/health/ready"),
    };
    let server = Server::start(Launch {
        what: "minio",
        program: home.join("minio"),
        arguments,
        environment: vec![
            ("MINIO_ROOT_USER", store.access_key.to_owned()),
            ("MINIO_ROOT_PASSWORD", store.secret_key.to_owned()),
            ("MINIO_UPDATE", "off".to_owned()),
            ("MINIO_CALLHOME_ENABLE", "off".to_owned()),
            ("MINIO_BROWSER", "off".to_owned()),
            // A fixed key, so that requests with server-side encryption are served and not refused.
            ("MINIO_KMS_SECRET_KEY", "test-key:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned()),
        ],
        directory,
        ready,
    })?;
    Ok(S3 { server: Some(server), certificate, ..store })
}

/// Makes a key and a certificate for 127.0.0.1, signed by itself, as MinIO names them.
fn certify(directory: &Path) -> Result<(), Error> {
    let failed = |why: String| Error::Server { what: "minio", why: format!("no certificate: openssl: {why}") };
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
        // Clients take no certificate of an authority for that of a server.
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "private.key", "-out", "public.crt"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if made.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&made.stderr).into_owned())) }
}
