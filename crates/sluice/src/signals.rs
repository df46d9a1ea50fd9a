//! SIGTERM and Ctrl-C: the first asks for a drain, the second exits at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

/// Signals within this time are one stop: terminals and `timeout` signal a process and its group.
const ONE_STOP: Duration = Duration::from_millis(500);

/// The signals that ask for a stop. One that comes between [`Signals::listen`] and [`Signals::first`] is kept.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on a signal does not end the process.
    pub(crate) fn listen() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the first signal. From then on a second one ends the process with code 130 wherever it is.
    pub(crate) async fn first(self) {
        let Signals { mut terminate, mut interrupt } = self;
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
    }
}
