//! The one way in which a request fails: a status and a text, in Kafka Connect's shape.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use supervisor::Error;
use tracing::error;

use crate::request::json;

/// A request that was not carried out. The body is `{"error_code": <status>, "message": <text>}`.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    error_code: u16,
    message: &'a str,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into() }
    }

    /// `HTTP 404 Not Found` and the like: what JAX-RS says when no resource had a word in it.
    pub(crate) fn plain(status: StatusCode) -> Refusal {
        let reason = status.canonical_reason().unwrap_or_default();
        Refusal::new(status, format!("HTTP {} {reason}", status.as_u16()))
    }

    /// What Kafka Connect answers to JSON it cannot read, and to whatever else its Java code trips over.
    pub(crate) fn internal(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// As [`From`], but as a future's failure reaches Kafka Connect's validate endpoint: 500, and the exception by name.
    pub(crate) fn of_validation(error: Error) -> Refusal {
        match error {
            Error::Refused(message) => Refusal::internal(format!(
                "org.apache.kafka.connect.runtime.rest.errors.BadRequestException: {message}"
            )),
            Error::Invalid(_)
            | Error::NotFound(_)
            | Error::AlreadyExists(_)
            | Error::State(_)
            | Error::Offsets(_)
            | Error::Stopping
            | Error::Panicked(_) => Refusal::from(error),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = match &error {
            Error::Invalid(_) | Error::Refused(_) => StatusCode::BAD_REQUEST,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::AlreadyExists(_) => StatusCode::CONFLICT,
            Error::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Error::State(_) | Error::Offsets(_) | Error::Panicked(_) => {
                error!(error = %error, "request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Refusal::new(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        json(self.status, &Body { error_code: self.status.as_u16(), message: &self.message })
    }
}
