//! sluice: one binary that moves Kafka topics into object storage, each record visible exactly once. This crate reads
//! the command line, the worker's configuration and the environment, puts the other crates together in `assemble`, runs
//! them, and stops them in order when a signal comes. It knows every concrete type so that nobody else has to. Results go
//! to stdout, logs to stderr. Exit codes: 0 done, 1 failed or invalid, 2 bad usage.
//!
//! ```text
//!  argv, worker.toml, SLUICE_*, CONNECT_*      connectors/*.json
//!        |                                          |
//!        v                                          v
//!      worker --> assemble (impl Assembly) --> Supervisor --> api on `listeners`
//!                                                  ^
//!                             SIGTERM, Ctrl-C -----+ drain, bounded; a second signal exits at once
//! ```

mod assemble;
mod cli;
mod connector_file;
mod consumer;
mod dead_letters;
mod delta_connector;
mod delta_upkeep;
mod documents;
mod failure;
mod guarantee;
mod logging;
mod offsets;
mod offsets_command;
mod offsets_import;
mod orphans;
mod quickstart;
mod recipe;
mod references;
mod run;
mod signals;
mod spark_checkpoint;
mod spark_options;
mod table;
mod table_owner;
mod table_positions;
mod table_recovery;
mod topics;
mod validate;
mod worker;

use std::process::ExitCode;

use clap::Parser;

/// librdkafka allocates for each message, so malloc is replaced for the C library too (feature `override`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    logging::start(arguments.command.quiet());
    // Two providers of cryptography are linked (docs/decisions/0018), between which rustls does not choose.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match arguments.command {
        cli::Command::Run { connectors, worker } => run::run(&connectors, &worker),
        cli::Command::Worker { worker } => run::run(&[], &worker),
        cli::Command::Quickstart(options) => quickstart::run(&options),
        cli::Command::Validate { connectors, worker } => validate::run(&connectors, &worker),
        cli::Command::Offsets(options) => offsets_command::run(&options),
        cli::Command::Plugins { name } => documents::plugins(name.as_deref()),
        cli::Command::Docs { directory } => documents::write(&directory),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sluice: {failure}");
            ExitCode::from(1)
        }
    }
}
