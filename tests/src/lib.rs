//! The services harness: what the test rings need of the outside world.
//!
//! A ring is one test binary made of [`ring::Test`]s, each naming what it [needs](Need). [`ring::main`] brings up exactly
//! the services that the selected tests need, once per process, on free loopback ports, and takes them down at the end.
//! A service that cannot be had turns its tests into *ignored, with the reason*, and into failures under `CI=true`.
//! Kafka and MinIO can also be started for one test alone ([`Kafka::start`], [`S3::start_minio`]) and then be stopped,
//! killed and paused by it. The program itself is a [`Sluice`], started as a user starts it. What it wrote is read back by readers that share no code with it ([`Readers`]).
//!
//! ```text
//!  ring::main -> Need -> Services -> localstack/install.sh -> cache directory
//!                           |
//!                           +-> Kafka, Registry, S3 (MinIO, LocalStack): a Server each, dies with this process
//!                           +-> Readers: src/py/*.py in a Python of their own; Spark: a session that scripts are sent to
//! ```
//!
//! Services that already run are used through `SLUICE_TEST_KAFKA=host:port`, `SLUICE_TEST_REGISTRY=http://host:port/path`,
//! `SLUICE_TEST_MINIO=http://host:port` and `SLUICE_TEST_LOCALSTACK=http://host:port`; see localstack/README.md.

mod error;
mod gate;
mod kafka;
mod process;
mod proxy;
mod readers;
mod registry;
pub mod ring;
mod s3;
mod server;
mod services;
mod sluice;
mod spark;

pub use error::Error;
pub use gate::{Authority, Gate, Login};
pub use kafka::{GroupOffset, Kafka, OffsetLimits, Record};
pub use process::{announce, keep_data, setting, stop_all, unique};
pub use proxy::{Counts, Fault, Faults, Proxy, Request};
pub use readers::{Call, Readers, Row};
pub use registry::Registry;
pub use s3::{Object, S3};
pub use services::{Need, Services};
pub use sluice::{Place, Reply, Sluice, Start};
pub use spark::Spark;
