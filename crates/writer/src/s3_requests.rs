//! What sluice asks S3 for that object_store does not: the number of an upload, a condition on its completion, which uploads
//! there are, and properties of an object. One HTTP client, credential provider and signature serve both.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
};
use object_store::multipart::MultipartStore;
use object_store::{ClientOptions, Error as StoreError, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::code_between;

/// All that needs no escape in a query (RFC 3986, "unreserved").
pub(crate) const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// All that needs no escape in the path of an object.
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// Filled with the id of the upload that a request began.
#[derive(Debug, Clone, Default)]
pub(crate) struct UploadIdSlot(Arc<Mutex<Option<String>>>);

impl UploadIdSlot {
    /// The id, when the store told one.
    pub(crate) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn fill(&self, id: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }
}

/// Makes clients of which each request passes through [`Extended`].
#[derive(Debug)]
pub(crate) struct Connector {
    client: HttpClient,
    refuses_to_replace: bool,
}

impl Connector {
    /// Every client shares `client`'s connections. With `refuses_to_replace`, completions of uploads carry If-None-Match.
    pub(crate) fn new(client: &HttpClient, refuses_to_replace: bool) -> Connector {
        Connector { client: client.clone(), refuses_to_replace }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Extended { client: self.client.clone(), refuses_to_replace: self.refuses_to_replace }))
    }
}

#[derive(Debug)]
struct Extended {
    client: HttpClient,
    refuses_to_replace: bool,
}

#[async_trait]
impl HttpService for Extended {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        if self.refuses_to_replace && request.method().as_str() == "POST" && query.contains("uploadId=") {
            // Not among the signed headers, which S3 asks for only where they are its own.
            request.headers_mut().insert("if-none-match", HeaderValue::from_static("*"));
        }
        let slot = request.extensions().get::<UploadIdSlot>().cloned();
        let response = self.client.execute(request).await?;
        let Some(slot) = slot.filter(|_| response.status().is_success()) else { return Ok(response) };
        let (head, body) = response.into_parts();
        let body = body.bytes().await?;
        if let Some(id) = code_between(&String::from_utf8_lossy(&body), "<UploadId>", "</UploadId>") {
            slot.fill(id.to_owned());
        }
        Ok(HttpResponse::from_parts(head, body.into()))
    }
}

/// Uploads in parts whose numbers we give, so that a part can be sent again.
#[derive(Clone)]
pub(crate) struct NumberedUploads {
    /// Completes an upload even if it replaces an object.
    pub(crate) plain: Arc<dyn MultipartStore>,
    /// Completes an upload only if it replaces nothing; as `plain` on a store that does not know the condition.
    pub(crate) careful: Arc<dyn MultipartStore>,
}

/// A bucket of S3, for requests of our own.
pub(crate) struct S3Bucket {
    pub(crate) http: HttpClient,
    /// `None` where requests are not signed.
    pub(crate) credentials: Option<AwsCredentialProvider>,
    pub(crate) region: String,
    /// URL of the bucket, without a slash at its end.
    pub(crate) url: String,
}

impl fmt::Debug for S3Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Bucket({})", self.url)
    }
}

impl S3Bucket {
    /// Whether Amazon itself answers there.
    pub(crate) fn is_amazon(&self) -> bool {
        let host = self.url.split("://").nth(1).unwrap_or_default();
        let host = host.split(['/', ':']).next().unwrap_or_default();
        host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
    }

    /// A GET on the bucket itself with these names and values; the body of the answer.
    pub(crate) async fn get(&self, query: &[(&str, &str)]) -> Result<String, StoreError> {
        let pairs: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, QUERY))).collect();
        self.send("GET", format!("{}?{}", self.url, pairs.join("&")), String::new()).await
    }

    /// A PUT of `body` on what `name` calls a property of the object `key`, such as its tags.
    pub(crate) async fn put(&self, key: &str, name: &str, body: String) -> Result<(), StoreError> {
        self.send("PUT", format!("{}/{}?{name}", self.url, utf8_percent_encode(key, PATH)), body).await.map(|_| ())
    }

    async fn send(&self, method: &str, url: String, body: String) -> Result<String, StoreError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Generic { store: "S3", source };
        let digest = BASE64_STANDARD.encode(Md5::digest(&body));
        let has_body = !body.is_empty();
        let mut request = HttpRequest::new(if has_body { body.into() } else { HttpRequestBody::empty() });
        *request.method_mut() = method.parse().map_err(|_| failed(format!("{method} is no method").into()))?;
        *request.uri_mut() = url.parse().map_err(|error| failed(Box::new(error)))?;
        if has_body {
            // S3 asks for it where a body is XML.
            let digest = HeaderValue::from_str(&digest).map_err(|error| failed(Box::new(error)))?;
            request.headers_mut().insert("content-md5", digest);
            request.headers_mut().insert("content-type", HeaderValue::from_static("application/xml"));
        }
        if let Some(credentials) = &self.credentials {
            let credential = credentials.get_credential().await?;
            AwsAuthorizer::new(&credential, "s3", &self.region).authorize(&mut request, None);
        }
        let response = self.http.execute(request).await.map_err(|error| failed(Box::new(error)))?;
        let status = response.status();
        let body = response.into_body().bytes().await.map_err(|error| failed(Box::new(error)))?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            return Ok(body);
        }
        // The words of object_store, so that answers are told apart in one place.
        Err(failed(format!("Server returned non-2xx status code: {status}: {body}").into()))
    }
}
