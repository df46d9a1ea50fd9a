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
    #[error(
        "could not listen on {address}: {source}; each process needs a port of its own: choose one with --set \
         listeners=http://127.0.0.1:8084, or 0 for any that is free"
    )]
    Listen { address: String, source: std::io::Error },
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Run(String),
}
