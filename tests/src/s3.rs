//! S3 stores: MinIO and LocalStack, and what tests do to their buckets.

use std::collections::BTreeMap;

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
        let home = install("minio")?;
        let port = free_port();
        let endpoint = format!("http://127.0.0.1:{port}");
        let store = S3::running_minio(endpoint);
        let directory = new_directory("minio")?;
        let disk = directory.join("disk").display().to_string();
        let address = format!("127.0.0.1:{port}");
        let server = Server::start(Launch {
            what: "minio",
            program: home.join("minio"),
            arguments: ["server", "--quiet", "--address", &address, &disk].map(str::to_owned).to_vec(),
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
            ready: Ready::Http(port, "/minio/health/ready"),
        })?;
        Ok(S3 { server: Some(server), ..store })
    }

    /// A LocalStack of the caller's own, serving S3 and STS; it ends and its data goes when dropped.
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
                ("SERVICES", "s3,sts".to_owned()),
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
        S3 { endpoint, access_key: "minioadmin", secret_key: "minioadmin", server: None }
    }

    pub(crate) fn running_localstack(endpoint: String) -> S3 {
        S3 { endpoint, access_key: "test", secret_key: "test", server: None }
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
        });
        request
    }
}

pub(crate) fn new_directory(what: &'static str) -> Result<std::path::PathBuf, Error> {
    data_directory(what).map_err(|e| Error::Server { what, why: e.to_string() })
}
