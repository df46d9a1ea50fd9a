//! The services ring: real Kafka, MinIO and LocalStack.

use std::process::ExitCode;

mod harness;

fn main() -> ExitCode {
    tests::ring::main(&[harness::TESTS].concat())
}
