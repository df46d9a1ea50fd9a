//! The command line as a person meets it: what it prints, where, and with which exit code. Nothing here needs a service.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A connector that is valid as it is.
const VALID: &str = r#"{"name": "c", "config": {"connector.class": "s3", "storage.class": "s3", "format.class": "parquet",
    "topics": "t", "s3.bucket.name": "b", "flush.size": "2"}}"#;

fn sluice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .env_clear()
        .current_dir(ROOT)
        .output()
        .expect("cargo has built it")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// [`VALID`] with these keys set, or taken away by a null.
fn changed(changes: &[(&str, Option<&str>)]) -> String {
    let mut whole: serde_json::Value = serde_json::from_str(VALID).expect("it is JSON");
    let config = whole["config"].as_object_mut().expect("it is an object");
    for (key, value) in changes {
        match value {
            Some(value) => config.insert((*key).to_owned(), (*value).into()),
            None => config.remove(*key),
        };
    }
    whole.to_string()
}

/// A file `connector.json` with this text.
fn file(directory: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = directory.path().join("connector.json");
    std::fs::write(&path, text).expect("a temporary directory can be written");
    path
}

/// What `validate` prints for this text, and its exit code.
fn validated(text_of_file: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = file(&directory, text_of_file);
    let output = sluice(&["validate", &path.display().to_string()]);
    (output.status.code(), text(&output.stdout).replace(&path.display().to_string(), "FILE"))
}

#[test]
fn every_example_is_valid_and_without_a_warning() {
    let examples = std::fs::read_dir(Path::new(ROOT).join("connectors")).expect("connectors/ is there");
    let examples: Vec<String> = examples.flatten().map(|entry| entry.path().display().to_string()).collect();
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        let output = sluice(&["validate", &example]);
        let printed = text(&output.stdout);
        let guarantee = printed.strip_prefix(&format!("{example}: valid\n{example}: guarantee: exactly once; "));
        let guarantee = guarantee.and_then(|line| line.strip_suffix('\n')).unwrap_or_else(|| panic!("{printed}"));
        assert!(!guarantee.contains('\n'), "one line: {printed}");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    }
}

#[test]
fn each_problem_of_a_connector_is_said_once_and_by_its_key() {
    let invalid = |key: &str, value: &str, why: &str| {
        format!("FILE: error: Invalid value {value} for configuration {key}: {why}\n")
    };
    let missing =
        |key: &str| format!("FILE: error: Missing required configuration \"{key}\" which has no default value.\n");
    let time: &[(&str, Option<&str>)] = &[
        ("partitioner.class", Some("TimeBasedPartitioner")),
        ("partition.duration.ms", Some("3600000")),
        ("locale", Some("en-US")),
        ("timezone", Some("UTC")),
        ("path.format", Some("'hour'=HH")),
    ];
    let timed = |key: &'static str, value: &'static str| changed(&[time, &[(key, Some(value))]].concat());
    let cases = [
        (changed(&[("topics", None)]), "FILE: error: Must configure one of topics or topics.regex\n".to_owned()),
        (
            changed(&[("topics.regex", Some("x"))]),
            "FILE: error: topics and topics.regex are mutually exclusive options, but both are set.\n".to_owned(),
        ),
        (changed(&[("s3.bucket.name", None)]), missing("s3.bucket.name")),
        (changed(&[("flush.size", None)]), missing("flush.size")),
        (
            changed(&[("errors.tolerance", Some("some"))]),
            invalid("errors.tolerance", "some", "String must be one of: none, all"),
        ),
        (
            changed(&[("format.class", Some("xml"))]),
            invalid("format.class", "xml", "Class xml could not be found. Expected one of: parquet, avro, json, bytes"),
        ),
        (
            timed("timezone", "Mars/Phobos"),
            invalid("timezone", "Mars/Phobos", "The datetime zone id 'Mars/Phobos' is not recognised"),
        ),
        (timed("path.format", "'a'=QQQ"), invalid("path.format", "'a'=QQQ", "Illegal pattern component: QQQ")),
        (
            changed(&[("connector.class", Some("s4"))]),
            "FILE: error: connector.class s4 is unknown, expected one of: s3, io.confluent.connect.s3.S3SinkConnector, \
             delta, deltalake, sluice.delta.DeltaSinkConnector\n".to_owned(),
        ),
        (r#"{"name": "c", "config": {"#.to_owned(), "FILE: error: not JSON: EOF while parsing an object at line 1 column 25\n".to_owned()),
    ];
    for (config, expected) in cases {
        assert_eq!(validated(&config), (Some(1), expected), "{config}");
    }
}

#[test]
fn keys_without_effect_are_warned_about_and_refuse_nothing() {
    let config = changed(&[("no.such.key", Some("1")), ("config.action.reload", Some("none"))]);
    let (code, printed) = validated(&config);
    assert_eq!(code, Some(0));
    let warnings = "FILE: warning: config.action.reload has no effect yet: restarting a connector when a provider's value changes\n\
                    FILE: warning: no.such.key is not a known key: it is kept and has no effect\nFILE: valid\n\
                    FILE: guarantee: exactly once; ";
    assert!(printed.starts_with(warnings), "{printed}");
}

#[test]
fn validate_says_what_is_guaranteed_and_what_weakens_it() {
    let config = changed(&[
        ("on.existing.object", Some("skip")),
        ("on.data.loss", Some("continue")),
        ("consumer.override.auto.offset.reset", Some("latest")),
        ("consumer.override.isolation.level", Some("read_uncommitted")),
        ("consumer.override.group.id", Some("shared")),
        ("consumer.override.group.instance.id", Some("me")),
    ]);
    let (code, printed) = validated(&config);
    assert_eq!(code, Some(0), "{printed}");
    let last = printed.lines().last().unwrap_or_default();
    assert!(last.starts_with("FILE: guarantee: exactly once from the first start on; "), "{last}");
    let (_, weakened) = last.split_once("; weakened by: ").unwrap_or_else(|| panic!("{last}"));
    let causes = [
        "auto.offset.reset=latest",
        "isolation.level=read_uncommitted",
        "on.data.loss=continue",
        "on.existing.object=skip",
        "group.id=shared",
    ];
    assert!(causes.iter().all(|cause| weakened.contains(cause)), "{weakened}");
    assert!(
        printed.contains("warning: consumer.override.group.instance.id=me is the same in every process"),
        "{printed}"
    );
}

#[test]
fn our_own_keys_are_checked() {
    for (key, value, why) in [
        ("on.existing.object", "replace", "String must be one of: fail, overwrite, skip"),
        ("on.data.loss", "ignore", "String must be one of: fail, continue"),
        ("upload.orphan.age.ms", "-2", "Value must be at least -1"),
        ("task.restart.enable", "perhaps", "Expected value to be either true or false"),
        ("task.restart.backoff.ms", "0", "Value must be at least 1"),
        ("task.restart.backoff.max.ms", "0", "Value must be at least 1"),
        ("task.restart.attempts", "-2", "Value must be at least -1"),
    ] {
        let expected = format!("FILE: error: Invalid value {value} for configuration {key}: {why}\n");
        assert_eq!(validated(&changed(&[(key, Some(value))])), (Some(1), expected));
    }
}

#[test]
fn offsets_are_refused_before_a_broker_is_asked_when_they_make_no_sense() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let valid = file(&directory, VALID).display().to_string();
    for (arguments, expected) in [
        (&["set"][..], "TOPIC-PARTITION=OFFSET"),
        (&["set", "t-0"][..], "expected TOPIC-PARTITION=OFFSET, for example my-topic-0=120000"),
        (&["set", "t=5"][..], "expected TOPIC-PARTITION=OFFSET"),
        (&["set", "t-0=-1"][..], "expected TOPIC-PARTITION=OFFSET"),
        (&["reset", "--to", "yesterday"][..], "expected earliest, latest or an offset"),
    ] {
        let output = sluice(&[&["offsets", &valid][..], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
    let invalid = file(&directory, &changed(&[("topics", None)])).display().to_string();
    let output = sluice(&["offsets", &invalid]);
    let expected = "sluice: connector c: Must configure one of topics or topics.regex\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(1), expected));
    let output = sluice(&["offsets", "connectors/none.json", "show"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("could not read connectors/none.json"), "{}", text(&output.stderr));
}

#[test]
fn a_port_or_a_directory_in_use_is_refused_and_the_error_says_what_to_set() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = taken.local_addr().expect("it is bound");
    let (listeners, state) =
        (format!("listeners=http://{address}"), format!("state.dir={}", directory.path().display()));
    let output = sluice(&["worker", "--set", &listeners, "--set", &state]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&format!("could not listen on {address}: ")), "{said}");
    assert!(said.contains("--set listeners=http://127.0.0.1:8084, or 0 for any that is free"), "{said}");

    let held = std::fs::File::create(directory.path().join("lock")).expect("the directory can be written");
    held.lock().expect("nobody else holds it");
    let output = sluice(&["worker", "--set", "listeners=http://127.0.0.1:0", "--set", &state]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("another sluice process uses this state.dir: give each its own, --set state.dir=DIR"),
        "{said}"
    );
}

#[test]
fn one_bad_file_among_good_ones_makes_exit_code_1() {
    let output = sluice(&["validate", "connectors/my-model.json", "connectors/none.json"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stdout);
    assert!(printed.contains("connectors/my-model.json: valid\n"), "{printed}");
    assert!(printed.contains("error: could not read connectors/none.json: No such file or directory"), "{printed}");
    assert_eq!(text(&output.stderr), "sluice: 1 of 2 configurations are invalid\n");
}

#[test]
fn run_refuses_a_bad_file_in_one_line_that_names_it() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let state = format!("state.dir={}", directory.path().join("state").display());
    let cases = [
        (r#"{"name": "#.to_owned(), "connector.json: not JSON: EOF while parsing a value at line 1 column 9\n"),
        (changed(&[("topics", None)]), "sluice: connector c: Must configure one of topics or topics.regex\n"),
    ];
    for (config, expected) in cases {
        let path = file(&directory, &config).display().to_string();
        let output = sluice(&["run", &path, "--set", "listeners=http://127.0.0.1:0", "--set", &state]);
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        assert!(format!("{last}\n").ends_with(expected), "{said}");
    }
}

#[test]
fn a_bad_worker_setting_is_named_and_bad_usage_is_exit_code_2() {
    for (setting, expected) in [
        ("listeners=https://h:1", "https is not supported yet"),
        ("memory.budget.bytes=1", "configuration memory.budget.bytes: Value must be at least"),
        ("nothing", "--set nothing: expected KEY=VALUE"),
    ] {
        let output = sluice(&["worker", "--set", setting]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
    let output = sluice(&["worker", "--worker", "no-such-file.toml"]);
    assert!(text(&output.stderr).contains("could not read no-such-file.toml"), "{}", text(&output.stderr));
    for arguments in [&["validate"][..], &["fly"][..], &[][..]] {
        assert_eq!(sluice(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
