//! What can go wrong in the harness.

/// An error of the harness. Cloneable, because a service that did not start is asked for by many tests.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The means to have this service are missing on this machine, or its install failed: tests are ignored.
    #[error("{what} is not available: {why}")]
    Unavailable {
        /// The service.
        what: &'static str,
        /// What is missing, or the end of the install's log.
        why: String,
    },
    /// The service is installed but did not start, stop or become ready: tests fail.
    #[error("{what} does not run: {why}")]
    Server {
        /// The service.
        what: &'static str,
        /// What happened, and the end of the service's log.
        why: String,
    },
    /// A Python script or a Java tool was refused or failed.
    #[error("{what} failed: {why}")]
    Call {
        /// The script's action or the tool's class.
        what: String,
        /// Its last words.
        why: String,
    },
}
