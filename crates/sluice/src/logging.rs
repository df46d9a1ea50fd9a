//! Logs to stderr: text on a terminal, JSON otherwise; `RUST_LOG` chooses what.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; `quiet` shows warnings and errors only, unless `RUST_LOG` says otherwise.
pub(crate) fn start(quiet: bool) {
    let level = if quiet { "warn" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_terminal = std::io::stderr().is_terminal();
    if is_terminal || quiet { logs.with_ansi(is_terminal).init() } else { logs.json().flatten_event(true).init() }
}
