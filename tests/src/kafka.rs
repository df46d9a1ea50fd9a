//! Kafka: one KRaft node, and what tests do to its topics and groups.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::process::{data_directory, free_port, last_lines, limited};
use crate::readers::latin1;
use crate::server::{Launch, Ready, Server};
use crate::services::install;
use crate::{Error, Readers, Services};

const SCRIPT: &str = include_str!("py/kafka.py");
const TOOL_LIMIT: Duration = Duration::from_secs(120);
const CLUSTER_ID: &str = "c2x1aWNlLXRlc3QtMDAwMQ";

/// A Kafka node.
///
/// The shared one ([`Services::kafka`]) only serves; a test that stops or pauses it takes one of its own with
/// [`Kafka::start`]. Topics are not created by use: a misspelt name is an error.
pub struct Kafka {
    bootstrap: String,
    /// None for a node that was running before; such a node is only ever lent as `&Kafka`.
    server: Option<Server>,
}

/// A record to produce, or one that was consumed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// None lets the producer choose.
    pub partition: Option<i32>,
    /// Set when consumed, ignored when produced.
    pub offset: Option<i64>,
    /// The key's bytes.
    #[serde(with = "latin1")]
    pub key: Option<Vec<u8>>,
    /// The value's bytes; None is a tombstone.
    #[serde(with = "latin1")]
    pub value: Option<Vec<u8>>,
    /// None is now.
    pub timestamp_ms: Option<i64>,
    /// Names and text values.
    pub headers: Vec<(String, String)>,
}

impl Record {
    /// A record with this value and nothing else; take more with `Record { key: .., ..Record::of(value) }`.
    pub fn of(value: impl Into<Vec<u8>>) -> Record {
        Record { value: Some(value.into()), ..Record::default() }
    }
}

/// How far a group got in one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOffset {
    /// The partition of the topic asked for.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// What the committer wrote beside the offset.
    pub metadata: String,
}

/// What a partition holds: offsets from `start` up to, not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetLimits {
    /// The partition of the topic asked for.
    pub partition: i32,
    /// The first offset that can be read.
    pub start: i64,
    /// The offset of the next record to come.
    pub end: i64,
}

impl Kafka {
    /// A new node of the caller's own; it ends and its data goes when dropped.
    pub fn start() -> Result<Kafka, Error> {
        Kafka::start_with(&[])
    }

    /// As [`Kafka::start`], with these properties of the broker over those of the harness.
    pub fn start_with(properties_over: &[(&str, &str)]) -> Result<Kafka, Error> {
        let home = install("kafka")?;
        let failed = |e: std::io::Error| Error::Server { what: "kafka", why: e.to_string() };
        let directory = data_directory("kafka").map_err(failed)?;
        let (port, controller_port) = (free_port(), free_port());
        let properties = directory.join("server.properties");
        let over: String = properties_over.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let text = server_properties(&directory, port, controller_port) + &over;
        std::fs::write(&properties, text).map_err(failed)?;
        let properties = properties.display().to_string();
        let format = ["format", "--cluster-id", CLUSTER_ID, "--config", &properties];
        run_java(&home, "kafka.tools.StorageTool", &format)?;

        let mut arguments = java_arguments(&home, &["-Xmx768m", "-Xms128m", "-XX:+UseG1GC"]);
        arguments.extend(["kafka.Kafka".to_owned(), properties]);
        let server = Server::start(Launch {
            what: "kafka",
            program: PathBuf::from("java"),
            arguments,
            environment: Vec::new(),
            directory,
            ready: Ready::Log("Kafka Server started"),
        })?;
        Ok(Kafka { bootstrap: format!("127.0.0.1:{port}"), server: Some(server) })
    }

    pub(crate) fn running(bootstrap: String) -> Kafka {
        Kafka { bootstrap, server: None }
    }

    /// `host:port`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic; returns when all its partitions have a leader.
    pub fn create_topic(&self, topic: &str, partitions: u32) -> Result<(), Error> {
        self.call("create_topic", json!({"topic": topic, "partitions": partitions}))
    }

    /// Produces the records, in order, with acks of all; returns where each one is, as (partition, offset).
    pub fn produce(&self, topic: &str, records: &[Record]) -> Result<Vec<(i32, i64)>, Error> {
        self.call("produce", json!({"topic": topic, "records": records}))
    }

    /// Joins `group` (classic protocol), reads `count` records from where the group is, commits behind them and leaves:
    /// a group as another consumer leaves it behind.
    pub fn consume(&self, group: &str, topic: &str, count: usize) -> Result<Vec<Record>, Error> {
        self.call("consume", json!({"group": group, "topic": topic, "count": count}))
    }

    /// Commits for a group that has no members, metadata included.
    pub fn commit(&self, group: &str, topic: &str, offsets: &[GroupOffset]) -> Result<(), Error> {
        self.call("commit", json!({"group": group, "topic": topic, "offsets": offsets}))
    }

    /// What the group has committed, by partition; partitions without a commit are left out.
    pub fn committed(&self, group: &str, topic: &str) -> Result<Vec<GroupOffset>, Error> {
        self.call("committed", json!({"group": group, "topic": topic}))
    }

    /// Waits until the group has committed exactly these offsets, one a partition, with empty metadata.
    pub fn wait_committed(&self, group: &str, topic: &str, offsets: &[i64], limit: Duration) -> Result<(), Error> {
        let found: Vec<GroupOffset> = self.call(
            "wait_committed",
            json!({"group": group, "topic": topic, "offsets": offsets, "limit_s": limit.as_secs_f64()}),
        )?;
        let is_settled = |(found, wanted): (&GroupOffset, &i64)| found.offset == *wanted && found.metadata.is_empty();
        if found.len() == offsets.len() && found.iter().zip(offsets).all(is_settled) {
            return Ok(());
        }
        Err(Error::Call {
            what: "wait_committed".to_owned(),
            why: format!("{group} was to commit {offsets:?} in {topic} within {limit:?} and has {found:?}"),
        })
    }

    /// First and next offset of each partition.
    pub fn offset_limits(&self, topic: &str) -> Result<Vec<OffsetLimits>, Error> {
        self.call("offset_limits", json!({"topic": topic}))
    }

    /// Deletes the partition's records before `offset`, as retention does.
    pub fn delete_records(&self, topic: &str, partition: i32, offset: i64) -> Result<(), Error> {
        self.call("delete_records", json!({"topic": topic, "partition": partition, "offset": offset}))
    }

    /// Runs one of Kafka's Java tools by class name, such as `org.apache.kafka.tools.TopicCommand`, with
    /// `--bootstrap-server` and these arguments; returns what it printed. Takes a second or two.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> Result<String, Error> {
        let all: Vec<&str> = ["--bootstrap-server", &self.bootstrap].iter().chain(arguments).copied().collect();
        run_java(&install("kafka")?, class, &all)
    }

    /// Stops the node in an orderly manner.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.own().stop()
    }

    /// Ends the node with SIGKILL.
    pub fn kill(&mut self) {
        self.own().kill();
    }

    /// Stops the node if it runs, and starts it with the same port and data.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.own().restart()
    }

    /// Freezes the node: connections stay open, nothing is answered.
    pub fn pause(&mut self) {
        self.own().pause();
    }

    /// Ends a pause.
    pub fn resume(&mut self) {
        self.own().resume();
    }

    fn own(&mut self) -> &mut Server {
        self.server.as_mut().expect("a node that is not ours is never lent as &mut")
    }

    fn call<T: serde::de::DeserializeOwned>(&self, action: &str, mut request: serde_json::Value) -> Result<T, Error> {
        request["bootstrap"] = json!(self.bootstrap);
        let readers: &Readers = Services::readers()?;
        readers.call(SCRIPT, action, &request)
    }
}

fn java_arguments(home: &Path, options: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    arguments.push(format!("-Dlog4j2.configurationFile={}/log4j2.properties", home.display()));
    arguments.extend(["-cp".to_owned(), format!("{}/libs/*", home.display())]);
    arguments
}

fn run_java(home: &Path, class: &str, arguments: &[&str]) -> Result<String, Error> {
    let failed = |why: String| Error::Call { what: class.to_owned(), why };
    let options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dsluice.log.level=WARN"];
    let output = limited(Path::new("java"), TOOL_LIMIT)
        .args(java_arguments(home, &options))
        .arg(class)
        .args(arguments)
        .output()
        .map_err(|e| failed(e.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(failed(last_lines(&(text(&output.stdout) + &text(&output.stderr)), 20))),
    }
}

/// Retention is off because it goes by record time: records stamped in the past would vanish within minutes. The lower
/// limits of session time-outs let tests of lost members be quick. A killed
/// node can register again only when its broker session is over, hence the short one.
fn server_properties(directory: &Path, port: u16, controller_port: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=300
log.segment.bytes=268435456
log.retention.ms=-1
log.retention.bytes=-1
",
        directory = directory.display()
    )
}
