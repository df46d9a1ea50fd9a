//! The services ring: real Kafka, MinIO and LocalStack.

use std::process::ExitCode;

mod bad_input;
mod conformance;
mod files;
mod frontier;
mod groups;
mod harness;
mod main_job;
mod memory;
mod outside;
mod recovery;
mod registry;
mod settings;
mod store_faults;
mod store_features;
mod streams;
mod support;
mod versions;
mod views;

fn main() -> ExitCode {
    tests::ring::main(
        &[
            harness::TESTS,
            main_job::TESTS,
            streams::TESTS,
            settings::TESTS,
            bad_input::TESTS,
            groups::TESTS,
            frontier::TESTS,
            recovery::TESTS,
            registry::TESTS,
            versions::TESTS,
            store_faults::TESTS,
            store_features::TESTS,
            files::TESTS,
            views::TESTS,
            memory::TESTS,
            conformance::TESTS,
        ]
        .concat(),
    )
}
