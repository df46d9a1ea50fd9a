//! What the recorded session does not show: metrics, health, conflicts, limits, contents of tasks, a real connection.

use std::sync::Arc;
use std::time::Duration;

use api::ApiState;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use supervisor::fake::FakeAssembly;
use supervisor::{Options, StateStore, Submitted, Supervisor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

const CONFIG: &str = r#"{"connector.class":"FileStreamSink","topics":"t"}"#;

async fn state() -> ApiState {
    let assembly = Arc::new(FakeAssembly::default());
    let options = Options::new("here:8083");
    ApiState {
        supervisor: Supervisor::start(assembly, StateStore::forgetful(), options, Vec::new()).await.unwrap(),
        version: "1.2.3".to_owned(),
        commit: "abc".to_owned(),
        cluster_id: Arc::new(|| None),
        metrics: Arc::new(|| "# EOF\n".to_owned()),
    }
}

fn submitted() -> Submitted {
    let pairs = [("connector.class", "FileStreamSink"), ("topics", "t")];
    pairs.map(|(key, value)| (key.to_owned(), Some(value.to_owned()))).into()
}

/// Status, content type and body of one request.
async fn ask(router: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String, String) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let media_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, media_type.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn every_answer_has_its_status_and_body() {
    let state = state().await;
    let supervisor = state.supervisor.clone();
    let router = api::router(state);
    let put = |name: &str| (format!("/connectors/{name}/config"), CONFIG.to_owned());
    let (path, body) = put("a");
    assert_eq!(ask(&router, "PUT", &path, &[], &body).await.0, 201);
    tokio::task::yield_now().await;

    let initial = |state: &str| format!(r#"{{"name":"i","config":{CONFIG},"initial_state":{state}}}"#);
    let cases: &[(&str, &str, &str, u16, &str)] = &[
        ("GET", "/", "", 200, r#"{"version":"1.2.3","commit":"abc","kafka_cluster_id":null}"#),
        (
            "GET",
            "/health/",
            "",
            200,
            r#"{"status":"healthy","message":"Worker has completed startup and is ready to handle requests."}"#,
        ),
        ("GET", "/metrics", "", 200, "# EOF\n"),
        (
            "GET",
            "/connectors/a/tasks",
            "",
            200,
            r#"[{"id":{"connector":"a","task":0},"config":{"connector.class":"FileStreamSink","name":"a","task.class":"org.apache.kafka.connect.file.FileStreamSinkTask","topics":"t"}}]"#,
        ),
        (
            "GET",
            "/connectors/a/status",
            "",
            200,
            r#"{"name":"a","connector":{"state":"RUNNING","worker_id":"here:8083","version":"4.3.1"},"tasks":[{"id":0,"state":"RUNNING","worker_id":"here:8083","version":"4.3.1"}],"type":"sink"}"#,
        ),
        (
            "POST",
            "/connectors",
            &format!(r#"{{"name":"a","config":{CONFIG}}}"#),
            409,
            r#"{"error_code":409,"message":"Connector a already exists"}"#,
        ),
        (
            "POST",
            "/connectors",
            &initial("\"ASLEEP\""),
            500,
            r#"{"error_code":500,"message":"Cannot construct instance of `org.apache.kafka.connect.runtime.rest.entities.CreateConnectorRequest$InitialState`, problem: No enum constant org.apache.kafka.connect.runtime.rest.entities.CreateConnectorRequest.InitialState.ASLEEP"}"#,
        ),
        (
            "POST",
            "/connectors",
            &initial("null"),
            201,
            r#"{"name":"i","config":{"connector.class":"FileStreamSink","name":"i","topics":"t"},"tasks":[],"type":"sink"}"#,
        ),
        (
            "POST",
            "/connectors",
            r#"{"name":[1],"config":{}}"#,
            500,
            r#"{"error_code":500,"message":"Cannot deserialize value of type `java.lang.String` from Array value (token `JsonToken.START_ARRAY`) (through reference chain: [\"name\"])"}"#,
        ),
        (
            "PATCH",
            "/connectors/a/config",
            "",
            500,
            r#"{"error_code":500,"message":"Cannot invoke \"java.util.Map.get(Object)\" because \"connectorConfig\" is null"}"#,
        ),
        ("GET", "/connectors/a%2fb", "", 400, r#"{"error_code":400,"message":"Ambiguous URI path separator"}"#),
        (
            "GET",
            "/connector-plugins",
            "",
            200,
            r#"[{"class":"org.apache.kafka.connect.file.FileStreamSinkConnector","type":"sink","version":"4.3.1"}]"#,
        ),
        (
            "GET",
            "/connector-plugins?connectorsOnly=false",
            "",
            200,
            r#"[{"class":"org.apache.kafka.connect.file.FileStreamSinkConnector","type":"sink","version":"4.3.1"},{"class":"org.apache.kafka.connect.json.JsonConverter","type":"converter","version":"4.3.1"}]"#,
        ),
        (
            "GET",
            "/connectors/a/",
            "",
            200,
            r#"{"name":"a","config":{"connector.class":"FileStreamSink","name":"a","topics":"t"},"tasks":[{"connector":"a","task":0}],"type":"sink"}"#,
        ),
        ("DELETE", "/connectors/i/", "", 204, ""),
    ];
    for (method, path, body, status, expected) in cases {
        let (found_status, _, found) = ask(&router, method, path, &[], body).await;
        assert_eq!((found_status, found.as_str()), (*status, *expected), "{method} {path} {body}");
    }

    supervisor.shutdown(Duration::from_secs(1)).await;
    let (path, body) = put("late");
    let (status, _, body) = ask(&router, "PUT", &path, &[], &body).await;
    assert_eq!((status, body.as_str()), (503, r#"{"error_code":503,"message":"the worker is shutting down"}"#));
}

#[tokio::test(start_paused = true)]
async fn offsets_that_cannot_be_read_are_refused_and_say_why() {
    let state = state().await;
    state.supervisor.clone().put_config("a", submitted()).await.unwrap();
    state.supervisor.stop("a").await.unwrap();
    let router = api::router(state);
    let lane = r#""kafka_topic":"t","kafka_partition":0"#;
    let cases: &[(&str, u16, &str)] = &[
        (r#"{"offset":null}"#, 400, "The partition for a sink connector offset cannot be null or missing"),
        (r#"{"partition":null}"#, 400, "The partition for a sink connector offset cannot be null or missing"),
        (
            r#"{"partition":{"kafka_partition":0}}"#,
            400,
            "The partition for a sink connector offset must contain the keys 'kafka_topic' and 'kafka_partition'",
        ),
        (
            r#"{"partition":{"kafka_topic":null,"kafka_partition":0}}"#,
            400,
            "Kafka topic names must be valid strings and may not be null",
        ),
        (
            r#"{"partition":{"kafka_topic":"t","kafka_partition":null}}"#,
            400,
            "Kafka partitions must be valid numbers and may not be null",
        ),
        (
            r#"{"partition":{"kafka_topic":"t","kafka_partition":"x"}}"#,
            400,
            "Failed to parse the following Kafka partition value in the provided offsets: 'x'. Partition values for sink connectors need to be integers.",
        ),
        (
            r#"{"partition":{LANE},"offset":{"offset":1}}"#,
            400,
            "The offset for a sink connector should either be null or contain the key 'kafka_offset'",
        ),
        (
            r#"{"partition":{LANE},"offset":{"kafka_offset":-1}}"#,
            400,
            "Failed to parse the following Kafka offset value in the provided offsets: '-1'. Offset values for sink connectors need to be integers.",
        ),
        (
            r#"{"partition":{LANE},"offset":{"kafka_offset":1}}"#,
            500,
            "Failed to alter consumer group offsets for connector a: there is no topic-partition t-0",
        ),
    ];
    for (entry, status, message) in cases {
        let body = format!(r#"{{"offsets":[{}]}}"#, entry.replace("LANE", lane));
        let (found, _, answer) = ask(&router, "PATCH", "/connectors/a/offsets", &[], &body).await;
        assert_eq!((found, answer), (*status, format!(r#"{{"error_code":{status},"message":"{message}"}}"#)), "{body}");
    }
    for body in [r#"{"offsets":1}"#, r#"{"offsets":[1]}"#, r#"{"other":[]}"#, "[]"] {
        let (found, _, answer) = ask(&router, "PATCH", "/connectors/a/offsets", &[], body).await;
        assert_eq!(found, 500, "{body}: {answer}");
    }
    let (found, _, answer) = ask(&router, "DELETE", "/connectors/a/offsets", &[], "").await;
    let reset = r#"{"message":"The offsets for this connector have been reset successfully"}"#;
    assert_eq!((found, answer.as_str()), (200, reset));
}

/// Method, path, headers, expected status.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], u16);

#[tokio::test(start_paused = true)]
async fn media_types_methods_and_sizes_are_checked() {
    let router = api::router(state().await);
    let cases: &[Case] = &[
        ("GET", "/connectors", &[("Accept", "text/html, application/json;q=0.5")], 200),
        ("GET", "/connectors", &[("Accept", "APPLICATION/*")], 200),
        ("GET", "/connectors", &[("Accept", "text/html"), ("Accept", "*/*")], 200),
        ("GET", "/connectors", &[("Accept", "text/html")], 406),
        ("GET", "/nope", &[("Accept", "text/html")], 404),
        ("PUT", "/connectors", &[("Accept", "text/html")], 405),
        ("GET", "/metrics", &[("Accept", "text/plain")], 200),
        ("OPTIONS", "/connectors/a", &[("Accept", "text/html")], 200),
        ("POST", "/connectors", &[("Content-Type", "application/x-www-form-urlencoded")], 415),
        ("DELETE", "/connectors/a/config", &[], 405),
    ];
    for (method, path, headers, status) in cases {
        let (found, media_type, body) = ask(&router, method, path, headers, "").await;
        assert_eq!(found, *status, "{method} {path} {headers:?} {body}");
        if found >= 400 {
            assert_eq!(media_type, "application/json", "{method} {path}");
            assert!(body.starts_with(&format!("{{\"error_code\":{found},\"message\":\"HTTP {found} ")), "{body}");
        }
    }
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(5 << 20));
    let (status, _, body) = ask(&router, "PUT", "/connectors/a/config", &[], &huge).await;
    assert_eq!(status, 413, "{body}");
    assert!(body.starts_with("{\"error_code\":413,"), "{body}");
}

#[tokio::test]
async fn a_server_answers_over_tcp_until_it_is_shut_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(api::serve(listener, state().await, async {
        let _ = stopped.await;
    }));

    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "PUT /connectors/a%20b/config HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{CONFIG}",
        CONFIG.len()
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    assert!(answer.contains(&format!("location: http://{address}/connectors/a%20b\r\n")), "{answer}");

    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
