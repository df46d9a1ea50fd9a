//! A session with a real Kafka Connect 4.3.1, step by step, replayed against our router.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use api::ApiState;
use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use model::{Config, Key, Offset, Origin, TopicPartition};
use pipeline::Control;
use serde_json::{Map, Value, json};
use supervisor::fake::FakeAssembly;
use supervisor::{
    Assembly, OffsetChange, OffsetsError, Options, PluginInfo, StateStore, Supervisor, TaskFailure, TaskId, Validation,
};
use tower::ServiceExt;

/// Endpoints of a later issue: our answer must be that of an unknown path, until they are there.
const LATER: &[u64] = &[204, 205, 207, 208, 209, 211, 212];

/// Steps whose answer differs, and why. They are sent all the same: later steps may build on them.
const DIFFERENT: &[(u64, &str)] = &[
    (10, "lists the plug-ins of a Kafka distribution"),
    (11, "lists the plug-ins of a Kafka distribution"),
    (13, "lists the plug-ins of a Kafka distribution"),
    (16, "the fake has no keys of converters"),
    (34, "the fake knows no converters"),
    (36, "the fake knows no transforms"),
    (37, "the fake knows no transforms"),
    (38, "the fake knows no transforms"),
    (191, "Kafka Connect lets a PATCH give the config another connector's name; we refuse it with 400 as PUT does"),
];

/// Steps of which only the status and, in an error, the code are compared, and why.
const STATUS_ONLY: &[(u64, &str)] = &[
    (58, "the text is that of Jackson's parser"),
    (78, "the text is that of Jackson's parser"),
    (231, "the text is that of Jackson's parser"),
    (155, "ours says why: there is no such topic-partition"),
    (226, "the body is an HTML page of Jetty"),
    (247, "the body is empty; ours says what is wrong"),
];

/// Before this step the recording wrote 100 records to its topic, and waited until they were read and committed.
const DATA_BEFORE: u64 = 118;

/// The fake, with the two failures of the recording.
#[derive(Default)]
struct Recorded(FakeAssembly);

#[async_trait]
impl Assembly for Recorded {
    fn plugins(&self) -> Vec<PluginInfo> {
        self.0.plugins()
    }

    fn connector(&self, class: &str) -> Option<PluginInfo> {
        self.0.connector(class)
    }

    fn plugin_keys(&self, name: &str) -> Option<Vec<&'static Key>> {
        self.0.plugin_keys(name)
    }

    fn validate(&self, config: &Config) -> Validation {
        self.0.validate(config)
    }

    fn task_configs(&self, config: &Config) -> Vec<Config> {
        self.0.task_configs(config)
    }

    fn ends(&self, config: &Config) -> bool {
        self.0.ends(config)
    }

    async fn run_task(&self, task: TaskId, config: Config, control: Control) -> Result<(), TaskFailure> {
        let fail = |trace: &str| {
            Err(TaskFailure {
                trace: format!("org.apache.kafka.connect.errors.ConnectException: {trace}"),
                transient: false,
            })
        };
        if config["file"].starts_with("/no/such/dir") {
            return fail("Couldn't find or create file '/no/such/dir/x' for FileStreamSinkTask");
        }
        if config["topics"] == "golden-bad" && !config.contains_key("errors.tolerance") {
            return fail("Tolerance exceeded in error handler");
        }
        self.0.run_task(task, config, control).await
    }

    async fn offsets(&self, name: &str, config: &Config) -> Result<Vec<(TopicPartition, Offset)>, OffsetsError> {
        self.0.offsets(name, config).await
    }

    async fn change_offsets(&self, name: &str, config: &Config, change: OffsetChange) -> Result<String, OffsetsError> {
        self.0.change_offsets(name, config, change).await
    }

    fn topics(&self, name: &str) -> BTreeSet<String> {
        self.0.topics(name)
    }

    fn forget_topics(&self, name: &str) {
        self.0.forget_topics(name);
    }
}

struct Answer {
    status: u64,
    headers: Map<String, Value>,
    body: String,
}

async fn ask(router: &Router, step: &Value) -> Answer {
    let text = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let mut request =
        Request::builder().method(text("method").as_str()).uri(text("path")).header("Host", "127.0.0.1:18083");
    for (name, value) in step["request_headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    let response = router.clone().oneshot(request.body(Body::from(text("request_body"))).unwrap()).await.unwrap();
    let status = u64::from(response.status().as_u16());
    let shown = [("Content-Type", "content-type"), ("Location", "location"), ("Allow", "allow")];
    let header = |name: &str| response.headers().get(name).map(|value| json!(value.to_str().unwrap()));
    let headers = shown.into_iter().filter_map(|(name, key)| Some((name.to_owned(), header(key)?))).collect();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    Answer { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

/// What differs between `answer` and the recorded `step`; `None` when nothing does.
fn difference(step: &Value, answer: &Answer) -> Option<String> {
    let number = step["step"].as_u64().unwrap();
    if json!(answer.status) != step["status"] {
        return Some(format!("status {} instead of {}: {}", answer.status, step["status"], answer.body));
    }
    let status_only = STATUS_ONLY.iter().any(|(step, _)| *step == number);
    if status_only {
        let ours: Value = serde_json::from_str(&answer.body).unwrap();
        return (ours["error_code"] != answer.status).then(|| format!("body {}", answer.body));
    }
    for (name, value) in step["response_headers"].as_object().unwrap() {
        if answer.headers.get(name) != Some(value) {
            return Some(format!("header {name}: {:?} instead of {value}", answer.headers.get(name)));
        }
    }
    let is_trimmed = step["trimmed"] == true;
    let theirs = comparable(step["response_body"].as_str().unwrap(), is_trimmed);
    let ours = comparable(&answer.body, is_trimmed);
    (theirs != ours).then(|| format!("\n  ours   {ours}\n  theirs {theirs}"))
}

fn comparable(body: &str, is_trimmed: bool) -> Value {
    let Ok(mut value) = serde_json::from_str::<Value>(body) else {
        return json!(body);
    };
    normalise(&mut value);
    if let Some(configs) = value.get_mut("configs").and_then(Value::as_array_mut) {
        configs.retain(|config| {
            let has_errors = config["value"]["errors"].as_array().is_some_and(|errors| !errors.is_empty());
            is_known(&config["value"]) && (has_errors || !is_trimmed)
        });
    }
    if let Some(members) = value.as_array_mut() {
        members.retain(is_known);
    }
    if value.as_array().is_some_and(|members| members.iter().all(Value::is_string)) {
        // Names of connectors, in Java's hash order.
        value.as_array_mut().unwrap().sort_by_key(Value::to_string);
    }
    value
}

/// Keys that are declared in other crates, and those of our fake, are left out.
fn is_known(member: &Value) -> bool {
    let Some(name) = member["name"].as_str() else {
        return true;
    };
    let upstream = supervisor::KEYS.iter().filter(|key| key.origin == Origin::Upstream);
    let mut known = upstream.map(|key| key.name).chain(["topics", "topics.regex", "transforms", "predicates", "file"]);
    known.any(|key| key == name)
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                match (name.as_str(), member) {
                    // Our own words, or lists of plug-ins.
                    ("documentation" | "recommended_values", member) => *member = Value::Null,
                    ("trace", Value::String(trace)) => trace.truncate(trace.find('\n').unwrap_or(trace.len())),
                    ("message", Value::String(message)) => *message = plain(message),
                    ("tasks", Value::Array(tasks)) => {
                        tasks.sort_by_key(|task| task["id"].as_u64());
                        tasks.iter_mut().for_each(normalise);
                    }
                    // Of this process, not of the protocol.
                    ("commit" | "kafka_cluster_id", member) => *member = json!("x"),
                    (_, member) => normalise(member),
                }
            }
            let is_version =
                members.get("name").is_some_and(|name| name.as_str().is_some_and(|n| n.ends_with(".plugin.version")));
            if is_version {
                members.remove("default_value");
                members.remove("value");
            }
        }
        Value::Array(members) => members.iter_mut().for_each(normalise),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Without what only Java can say: the place in the source, the plug-ins on its class path, the exception that the
/// plug-in cache wraps around an error that it has seen before.
fn plain(message: &str) -> String {
    let mut message = message.replace("org.apache.kafka.connect.errors.ConnectException: Failed", "Failed");
    for end in ["\n at [Source", " (through reference chain", "available connectors are:"] {
        message.truncate(message.find(end).unwrap_or(message.len()));
    }
    message
}

#[tokio::test(start_paused = true)]
async fn our_answers_are_those_of_kafka_connect() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/connect-rest-transcript.jsonl");
    let transcript = std::fs::read_to_string(&path).unwrap();
    let options = Options::new("127.0.0.1:18083");
    let recorded = Arc::new(Recorded::default());
    let supervisor = Supervisor::start(recorded.clone(), StateStore::forgetful(), options, Vec::new()).await.unwrap();
    let router = api::router(ApiState {
        supervisor,
        version: "4.3.1".to_owned(),
        commit: "0123456789abcdef".to_owned(),
        cluster_id: Arc::new(|| Some("cluster".to_owned())),
        metrics: Arc::new(String::new),
    });

    let mut wrong = Vec::new();
    let mut compared = 0;
    for line in transcript.lines() {
        let step: Value = serde_json::from_str(line).unwrap();
        let number = step["step"].as_u64().unwrap();
        if number == DATA_BEFORE {
            recorded.0.read(TopicPartition::new("golden-a", 0), Offset::new(100).unwrap());
        }
        let mut answer = ask(&router, &step).await;
        if LATER.contains(&number) {
            assert_eq!(
                (answer.status, answer.body.as_str()),
                (404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#)
            );
            continue;
        }
        if let Some((_, why)) = DIFFERENT.iter().find(|(step, _)| *step == number) {
            let found = difference(&step, &answer);
            assert!(found.is_some(), "step {number} answers like Kafka Connect now, although: {why}");
            continue;
        }
        // The recording waited until asynchronous work was done.
        for _ in 0..100 {
            if step["method"] != "GET" || difference(&step, &answer).is_none() {
                break;
            }
            tokio::task::yield_now().await;
            answer = ask(&router, &step).await;
        }
        compared += 1;
        if let Some(difference) = difference(&step, &answer) {
            wrong.push(format!("step {number} {} {}: {difference}", step["method"], step["path"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {compared} steps:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(compared + LATER.len() + DIFFERENT.len(), transcript.lines().count());
}
