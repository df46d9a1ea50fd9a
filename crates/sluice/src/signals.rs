//! SIGTERM and Ctrl-C: the first asks for a drain, the second exits at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// Signals within this time are one stop: terminals and `timeout` signal a process and its group.
const ONE_STOP: Duration = Duration::from_millis(500);

/// Waits for the first signal. From then on a second one ends the process with code 130 wherever it is.
pub(crate) async fn first() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let name = tokio::select! {
        biased;
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    info!(signal = name, "draining: open files are closed and committed; a second signal exits at once");
    tokio::spawn(async move {
        let first = Instant::now();
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first.elapsed() >= ONE_STOP {
                break;
            }
        }
        warn!("second signal: leaving now; open files are read again at the next start");
        std::process::exit(130);
    });
    Ok(())
}
