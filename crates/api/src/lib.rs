//! Kafka Connect's REST dialect: every path of the API that this version has is one line of the table in `routes`. A
//! handler asks the [`Supervisor`] and puts its answer into the body that Kafka Connect 4.3.1 would have sent, member for
//! member. Whatever goes wrong becomes one type, `error::Refusal`, and thus one shape. The
//! `/admin/loggers` endpoints are not there yet and answer 404 as unknown paths. Nothing here waits for a task: slow
//! operations go on in the supervisor when a client hangs up or its time is over.
//!
//! ```text
//!  TcpListener --> guard (path, time) --> routes --> handler --> Supervisor
//!                    |                      |           |
//!                    +------ 400, 404, 405, 406, 415, 5xx: {"error_code", "message"}
//! ```

mod bodies;
mod connectors;
mod error;
mod offsets;
mod plugins;
mod request;
mod routes;
mod worker;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use supervisor::Supervisor;
use tokio::net::TcpListener;

pub use routes::router;

/// How long open connections may take to finish when the server is shut down.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What the handlers answer from. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// The connectors.
    pub supervisor: Supervisor,
    /// Version of this worker, for `GET /`.
    pub version: String,
    /// Commit it was built from, for `GET /`.
    pub commit: String,
    /// The Kafka cluster's id, as far as it is known now. Must not wait.
    pub cluster_id: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// All metrics in Prometheus' text format. Must not wait.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

impl fmt::Debug for ApiState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiState").field("version", &self.version).field("commit", &self.commit).finish_non_exhaustive()
    }
}

/// Answers requests on `listener` until `shutdown` is over, then lets open connections finish for 5 s at most.
pub async fn serve(
    listener: TcpListener,
    state: ApiState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (closing, closed) = tokio::sync::oneshot::channel();
    let announced = async move {
        shutdown.await;
        // Nobody hears it only when the server has failed already.
        let _ = closing.send(());
    };
    let overdue = async {
        let _ = closed.await;
        tokio::time::sleep(CLOSE_DEADLINE).await;
    };
    let server = axum::serve(listener, router(state)).with_graceful_shutdown(announced);
    // The server first: when both are ready, its result counts.
    tokio::select! {
        biased;
        result = server.into_future() => result,
        () = overdue => Ok(()),
    }
}
