//! Logs to stderr: text on a terminal, JSON otherwise; `RUST_LOG` chooses what.

use std::io::IsTerminal;

use tracing::subscriber::set_global_default;
use tracing_subscriber::EnvFilter;

/// Starts logging; `quiet` shows warnings and errors only, unless `RUST_LOG` says otherwise.
pub(crate) fn start(quiet: bool) {
    // The kernel of Delta tells each step of reading a log, in lines of kilobytes.
    let level = if quiet { "warn" } else { "info,buoyant_kernel=warn,buoyant_kernel_engine=warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_terminal = std::io::stderr().is_terminal();
    // Not `init`: where some crate turns on tracing-log, that would also print what libraries say through the crate log, such
    // as rdkafka's lines about a broker that is gone because we stopped it.
    let started = if is_terminal || quiet {
        set_global_default(logs.with_ansi(is_terminal).finish())
    } else {
        set_global_default(logs.json().flatten_event(true).finish())
    };
    started.expect("logging is started once");
}
