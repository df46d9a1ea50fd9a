//! Why a command failed: one line for a person.

use std::path::PathBuf;

/// What, where, what to do. Every command ends with one of these or well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("could not read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("could not write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{}: {why}", path.display())]
    Connector { path: PathBuf, why: String },
    #[error("worker configuration: {0}")]
    Worker(String),
    #[error("could not listen on {address}: {source}; set listeners, or stop what uses the port")]
    Listen { address: String, source: std::io::Error },
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Run(String),
}
