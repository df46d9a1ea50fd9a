//! Requests to S3, counted by what they ask for: each is paid for, repeated ones too.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::client::{HttpClient, HttpError, HttpRequest, HttpResponse, HttpService};

/// Told the operation of each request, under its name in the API of S3.
#[derive(Clone)]
pub(crate) struct OnRequest(pub(crate) Arc<dyn Fn(&'static str) + Send + Sync>);

impl Default for OnRequest {
    fn default() -> Self {
        OnRequest(Arc::new(|_| {}))
    }
}

impl fmt::Debug for OnRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRequest")
    }
}

/// A client that sends through `client` and tells of each request.
pub(crate) fn counted(client: HttpClient, on_request: OnRequest) -> HttpClient {
    HttpClient::new(Counted { client, on_request })
}

#[derive(Debug)]
struct Counted {
    client: HttpClient,
    on_request: OnRequest,
}

#[async_trait]
impl HttpService for Counted {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let query = request.uri().query().unwrap_or_default();
        (self.on_request.0)(operation(request.method().as_str(), query));
        self.client.execute(request).await
    }
}

/// What a request asks for, as the API of S3 calls it.
fn operation(method: &str, query: &str) -> &'static str {
    let names: Vec<&str> = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).collect();
    let has = |name: &str| names.contains(&name);
    match method {
        "GET" if has("list-type") => "ListObjectsV2",
        "GET" if has("uploads") => "ListMultipartUploads",
        "GET" if has("uploadId") => "ListParts",
        "GET" => "GetObject",
        "HEAD" => "HeadObject",
        "PUT" if has("partNumber") => "UploadPart",
        "PUT" if has("tagging") => "PutObjectTagging",
        "PUT" if has("acl") => "PutObjectAcl",
        "PUT" => "PutObject",
        "POST" if has("uploads") => "CreateMultipartUpload",
        "POST" if has("uploadId") => "CompleteMultipartUpload",
        "POST" if has("delete") => "DeleteObjects",
        "DELETE" if has("uploadId") => "AbortMultipartUpload",
        "DELETE" => "DeleteObject",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_names_of_the_api() {
        for (method, query, expected) in [
            ("GET", "list-type=2&prefix=a%2Fuploads", "ListObjectsV2"),
            ("GET", "prefix=x&uploads=", "ListMultipartUploads"),
            ("GET", "", "GetObject"),
            ("HEAD", "", "HeadObject"),
            ("PUT", "", "PutObject"),
            ("PUT", "partNumber=3&uploadId=u", "UploadPart"),
            ("PUT", "tagging", "PutObjectTagging"),
            ("POST", "uploads=", "CreateMultipartUpload"),
            ("POST", "uploadId=u", "CompleteMultipartUpload"),
            ("POST", "delete", "DeleteObjects"),
            ("DELETE", "uploadId=u", "AbortMultipartUpload"),
            ("DELETE", "", "DeleteObject"),
            ("PATCH", "", "other"),
        ] {
            assert_eq!(operation(method, query), expected, "{method} {query}");
        }
    }
}
