//! The services ring: real Kafka, MinIO and LocalStack.

use std::process::ExitCode;

mod bad_input;
mod conformance;
mod harness;
mod main_job;
mod settings;
mod streams;
mod support;

fn main() -> ExitCode {
    tests::ring::main(
        &[harness::TESTS, main_job::TESTS, streams::TESTS, settings::TESTS, bad_input::TESTS, conformance::TESTS]
            .concat(),
    )
}
