//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use model::{Offset, TopicPartition};

use crate::offsets::StartPoint;

/// Moves Kafka topics into object storage: Parquet on S3, each record visible exactly once.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, max_term_width = 120)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run these connectors from their files, and what REST adds (kept in state.dir). Ctrl-C drains.
    Run {
        /// Connector configurations: .json ({"name":..,"config":{..}} or the flat map), .properties, .yaml or .toml.
        connectors: Vec<PathBuf>,
        #[command(flatten)]
        worker: WorkerOptions,
    },
    /// Run a worker without connector files: connectors come through REST and are kept in state.dir.
    Worker {
        #[command(flatten)]
        worker: WorkerOptions,
    },
    /// The main job with nothing installed: an embedded broker, sample predictions, Parquet files in a local directory.
    Quickstart(QuickstartOptions),
    /// Print every problem of connector configurations; exit code 1 if there is any.
    Validate {
        /// Connector configuration files.
        #[arg(required = true)]
        connectors: Vec<PathBuf>,
        #[command(flatten)]
        worker: WorkerOptions,
    },
    /// Show or change the offsets that a connector's group has committed; change them only while the connector is stopped.
    Offsets(OffsetsOptions),
    /// What can be named in a configuration, with its keys.
    Plugins {
        /// A plug-in, by our short name or its Java class name; all are listed without it.
        name: Option<String>,
    },
    /// Write the reference pages that are generated from the key tables.
    #[command(hide = true)]
    Docs {
        /// docs/reference
        directory: PathBuf,
    },
}

impl Command {
    /// Whether the command's own output is all a person wants to see: then only warnings are logged.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Command::Run { .. } | Command::Worker { .. } => false,
            Command::Quickstart(_)
            | Command::Validate { .. }
            | Command::Offsets(_)
            | Command::Plugins { .. }
            | Command::Docs { .. } => true,
        }
    }
}

/// Where the worker's configuration comes from, beside `SLUICE_*` and `CONNECT_*` in the environment.
#[derive(Debug, Args)]
pub(crate) struct WorkerOptions {
    /// Worker configuration: .toml, .yaml or .properties.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) worker: Option<PathBuf>,
    /// One setting of the worker; stands above file and environment.
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct QuickstartOptions {
    /// How many predictions to produce.
    #[arg(long, default_value_t = 200_000)]
    pub(crate) records: u64,
    /// Directory for the Parquet files.
    #[arg(long, value_name = "DIR", default_value = "sluice-quickstart")]
    pub(crate) output: PathBuf,
    /// The connector to run; the one of the repository when it is not given.
    #[arg(long, value_name = "FILE")]
    pub(crate) connector: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct OffsetsOptions {
    /// Connector configuration file; with the worker's configuration it says which group on which brokers.
    pub(crate) connector: PathBuf,
    #[command(subcommand)]
    pub(crate) action: Option<OffsetsAction>,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) worker: WorkerOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OffsetsAction {
    /// Committed offsets beside the ends of the logs, and plans of cuts that are being published. This is the default.
    Show,
    /// Commit these offsets, to the group and to the table that a connector writes to: reading goes on with them.
    Set {
        /// my-topic-0=120000
        #[arg(required = true, value_name = "TOPIC-PARTITION=OFFSET", value_parser = one_offset)]
        offsets: Vec<(TopicPartition, Offset)>,
    },
    /// Let a connector go on where kafka-delta-ingest or a Spark query, which must be stopped, left its table.
    #[command(group(ArgGroup::new("origin").required(true)))]
    Import {
        /// The app_id that kafka-delta-ingest wrote the table with.
        #[arg(long, value_name = "APP_ID", group = "origin")]
        kafka_delta_ingest: Option<String>,
        /// The topic that it read; the connector's topic when it has only one.
        #[arg(long, requires = "kafka_delta_ingest")]
        topic: Option<String>,
        /// The checkpointLocation of the query: a local directory or s3://bucket/directory.
        #[arg(long, value_name = "DIRECTORY", group = "origin")]
        spark_checkpoint: Option<String>,
        /// Also where the table knows positions of the connector already.
        #[arg(long)]
        replace: bool,
        /// Show what would be set, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Commit a starting point for every topic-partition of the connector.
    Reset {
        /// Where: the beginning of the log, its end, or an offset; what auto.offset.reset says when it is not given.
        #[arg(long, value_name = "earliest|latest|OFFSET", value_parser = start_point)]
        to: Option<StartPoint>,
    },
}

/// `topic-partition=offset`, the partition after the last hyphen.
fn one_offset(text: &str) -> Result<(TopicPartition, Offset), String> {
    let parts = text.split_once('=').and_then(|(lane, offset)| {
        let (topic, partition) = lane.rsplit_once('-')?;
        let partition: i32 = partition.parse().ok().filter(|partition| *partition >= 0)?;
        Some((TopicPartition::new(topic, partition), offset.parse().ok().and_then(Offset::new)?))
    });
    parts.ok_or_else(|| "expected TOPIC-PARTITION=OFFSET, for example my-topic-0=120000".to_owned())
}

fn start_point(text: &str) -> Result<StartPoint, String> {
    match (text, text.parse().ok().and_then(Offset::new)) {
        ("earliest", _) => Ok(StartPoint::Earliest),
        ("latest", _) => Ok(StartPoint::Latest),
        (_, Some(offset)) => Ok(StartPoint::At(offset)),
        (_, None) => Err("expected earliest, latest or an offset".to_owned()),
    }
}
