//! The services ring: real Kafka, MinIO and LocalStack.

use std::process::ExitCode;

mod bad_input;
mod conformance;
mod dead_letters;
mod delta;
mod files;
mod frontier;
mod groups;
mod harness;
mod main_job;
mod memory;
mod outside;
mod peers;
mod recovery;
mod registry;
mod registry_access;
mod settings;
mod spark;
mod spark_options;
mod store_faults;
mod store_features;
mod streams;
mod support;
mod types;
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
            dead_letters::TESTS,
            registry_access::TESTS,
            versions::TESTS,
            store_faults::TESTS,
            store_features::TESTS,
            files::TESTS,
            types::TESTS,
            delta::TESTS,
            spark_options::TESTS,
            peers::TESTS,
            spark::TESTS,
            views::TESTS,
            memory::TESTS,
            conformance::TESTS,
        ]
        .concat(),
    )
}
