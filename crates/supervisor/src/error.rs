//! Why an operation on a connector is refused or fails.

use crate::{StateError, Validation};

/// Why an operation was not carried out. Nothing has changed, unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is invalid.
    #[error("{}", .0.refusal())]
    Invalid(Box<Validation>),
    /// The request makes no sense; the text says why.
    #[error("{0}")]
    Refused(String),
    /// There is no such connector, task or status.
    #[error("{0}")]
    NotFound(String),
    /// There is a connector of this name.
    #[error("Connector {0} already exists")]
    AlreadyExists(String),
    /// The store failed; the running connector is as it was.
    #[error(transparent)]
    State(#[from] StateError),
    /// The group's offsets could not be read or changed.
    #[error("{0}")]
    Offsets(String),
    /// The worker is shutting down.
    #[error("the worker is shutting down")]
    Stopping,
    /// The operation itself panicked, which is a bug; how far it came is not known.
    #[error("the operation on connector {0} ended without an answer; look for a panic in the log")]
    Panicked(String),
}

pub(crate) fn connector_not_found(name: &str) -> Error {
    Error::NotFound(format!("Connector {name} not found"))
}
