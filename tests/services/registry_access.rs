//! Ways to a real registry: TLS with an own authority and client certificates, every login, several addresses, outages.

use std::time::Duration;

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Authority, Error, Gate, Login, Need, Registry, Services, Sluice};

use crate::registry::produce;
use crate::support::{Scene, is_same};

const NEEDS: &[Need] = &[Need::Kafka, Need::Minio, Need::Registry];

pub(crate) const TESTS: &[Test] = &[
    Test { name: "a_registry_behind_tls_is_asked_with_our_certificate", needs: NEEDS, run: tls },
    Test { name: "a_wrong_certificate_for_a_registry_fails_the_task_with_a_sentence", needs: NEEDS, run: wrong_tls },
    Test { name: "every_login_to_a_registry_is_taken_and_kept_out_of_the_log", needs: NEEDS, run: logins },
    Test { name: "a_wrong_login_to_a_registry_fails_the_task_with_a_sentence", needs: NEEDS, run: wrong_login },
    Test { name: "the_next_registry_is_asked_when_one_does_not_answer", needs: NEEDS, run: failover },
    Test { name: "known_schemas_outlive_their_registry_and_a_new_one_waits_for_it", needs: NEEDS, run: outage },
];

/// `user:secret word` in the form of basic authentication.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQgd29yZA==";

/// Keys of a converter, without their prefix.
type Keys<'k> = &'k [(&'k str, &'k str)];

/// Ten records of Avro in a topic, and the way to their schema.
struct Stage {
    scene: Scene,
    registry: &'static Registry,
    records: Vec<Value>,
}

impl Stage {
    fn new(stem: &str) -> Result<Stage, Error> {
        let mut stage = Stage { scene: Scene::new(stem, 1)?, registry: Services::registry()?, records: Vec::new() };
        stage.produce("produce_every_avro", 10)?;
        Ok(stage)
    }

    /// Produces so many records more.
    fn produce(&mut self, action: &str, count: usize) -> Result<(), Error> {
        let range = json!({"start": self.records.len(), "end": self.records.len() + count});
        let produced: Vec<Value> = produce(&self.scene, self.registry, action, range)?;
        self.records.extend(produced);
        Ok(())
    }

    /// A connector that asks the registry at `url`, with these keys of its converter.
    fn config(&self, url: &str, keys: Keys) -> Value {
        let mut changes = json!({
            "value.converter": "io.confluent.connect.avro.AvroConverter",
            "value.converter.schemas.enable": null,
            "value.converter.schema.registry.url": url,
            "value.converter.max.retries": "1",
            "value.converter.retries.wait.ms": "50",
            "task.restart.backoff.ms": "300",
            "flush.size": "1000",
        });
        for (key, value) in keys {
            changes[format!("value.converter.{key}")] = json!(value);
        }
        self.scene.config(changes)
    }

    /// Checks that the bucket holds the records and nothing else.
    fn holds_all(&self) -> Outcome {
        let rows = self.scene.rows()?;
        assert_eq!(rows.len(), self.records.len());
        for (row, record) in rows.iter().zip(&self.records) {
            assert!(is_same(record, &row.value), "produced {record}\n    read {}", row.value);
        }
        Ok(())
    }
}

fn tls() -> Outcome {
    let stage = Stage::new("registry-tls")?;
    let authority = Authority::new()?;
    let gate = Gate::start(stage.registry.url(), Some(&authority), Login::Header(BASIC.to_owned()))?;
    let sluice = Sluice::worker(stage.scene.kafka, stage.scene.store)?;
    let place = sluice.place();
    let trusted = place.write("authority.pem", &authority.certificate)?;
    let own = place.write("client.pem", &authority.client)?;
    let files = [
        ("schema.registry.ssl.truststore.type", "PEM"),
        ("schema.registry.ssl.truststore.location", trusted.as_str()),
        ("schema.registry.ssl.keystore.type", "PEM"),
        ("schema.registry.ssl.keystore.location", own.as_str()),
        ("basic.auth.credentials.source", "USER_INFO"),
        ("basic.auth.user.info", "user:secret word"),
    ];
    sluice.create(&stage.scene.connector, &stage.config(&gate.url(""), &files))?;
    sluice.wait_written(&stage.scene.connector, 10)?;
    // The same from texts in the configuration, under another name of the group.
    let (key, certificate) = authority.client.split_at(authority.client.find("-----BEGIN CERTIFICATE").unwrap_or(0));
    let texts = [
        ("schema.registry.ssl.truststore.certificates", authority.certificate.as_str()),
        ("schema.registry.ssl.keystore.key", key),
        ("schema.registry.ssl.keystore.certificate.chain", certificate),
        ("basic.auth.credentials.source", "USER_INFO"),
        ("basic.auth.user.info", "user:secret word"),
    ];
    let second = format!("{}-texts", stage.scene.connector);
    let mut config = stage.config(&gate.url(""), &texts);
    config["topics.dir"] = json!("texts");
    sluice.create(&second, &config)?;
    sluice.wait_written(&second, 10)?;
    assert_eq!(sluice.delete(&format!("/connectors/{second}"))?.status, 204);
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    assert!(gate.counts().0 > 0 && gate.counts().1 == 0, "{:?}", gate.counts());
    Ok(())
}

fn wrong_tls() -> Outcome {
    let stage = Stage::new("registry-wrong-tls")?;
    let (authority, other) = (Authority::new()?, Authority::new()?);
    let gate = Gate::start(stage.registry.url(), Some(&authority), Login::Open)?;
    let sluice = Sluice::worker(stage.scene.kafka, stage.scene.store)?;
    let trust = ("schema.registry.ssl.truststore.certificates", authority.certificate.as_str());
    let numbered = gate.url("").replace("localhost", "127.0.0.1");
    let own = sluice.place().write("client.pem", &authority.client)?;
    let keystore = ("schema.registry.ssl.keystore.location", own.as_str());
    let anyhow = ("schema.registry.ssl.endpoint.identification.algorithm", "");
    for (name, url, keys, trace) in [
        ("no-certificate", gate.url(""), &[trust][..], "CertificateRequired"),
        ("not-trusted", gate.url(""), &[keystore], "UnknownIssuer"),
        ("another-authority", gate.url(""), &[(trust.0, other.certificate.as_str()), keystore], "certificate: "),
        ("another-host", numbered.clone(), &[trust, keystore], "not valid for name"),
    ] {
        let connector = format!("{}-{name}", stage.scene.connector);
        sluice.create(&connector, &stage.config(&url, keys))?;
        let said = sluice.wait_failed(&connector)?;
        assert!(said.contains("a certificate is refused") && said.contains(trace), "{name}: {said}");
        assert_eq!(sluice.delete(&format!("/connectors/{connector}"))?.status, 204);
    }
    assert_eq!(gate.counts().0, 0, "nobody came in");
    sluice.create(&stage.scene.connector, &stage.config(&numbered, &[trust, keystore, anyhow]))?;
    sluice.wait_written(&stage.scene.connector, 10)?;
    Ok(())
}

fn logins() -> Outcome {
    let stage = Stage::new("registry-logins")?;
    let sluice = Sluice::worker(stage.scene.kafka, stage.scene.store)?;
    let jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"user\" \
                password=\"secret word\";";
    let basic = || Login::Header(BASIC.to_owned());
    let token = || Login::Token(BASIC.to_owned(), Duration::from_secs(3_600));
    let cases: [(&str, Login, &str, Keys); 5] = [
        ("url", basic(), "user:secret%20word", &[]),
        (
            "user-info",
            basic(),
            "",
            &[("basic.auth.credentials.source", "USER_INFO"), ("basic.auth.user.info", "user:secret word")],
        ),
        ("sasl", basic(), "", &[("basic.auth.credentials.source", "SASL_INHERIT"), ("sasl.jaas.config", jaas)]),
        (
            "token",
            Login::Header("Bearer secret-token".to_owned()),
            "",
            &[("bearer.auth.credentials.source", "STATIC_TOKEN"), ("bearer.auth.token", "secret-token")],
        ),
        (
            "oauth",
            token(),
            "",
            &[
                ("bearer.auth.credentials.source", "OAUTHBEARER"),
                ("bearer.auth.client.id", "user"),
                ("bearer.auth.client.secret", "secret word"),
                ("bearer.auth.scope", "schemas"),
            ],
        ),
    ];
    for (name, login, in_url, keys) in cases {
        let gate = Gate::start(stage.registry.url(), None, login)?;
        let issuer = gate.issuer_url();
        let mut keys = keys.to_vec();
        if name == "oauth" {
            keys.push(("bearer.auth.issuer.endpoint.url", issuer.as_str()));
        }
        let connector = format!("{}-{name}", stage.scene.connector);
        let mut config = stage.config(&gate.url(in_url), &keys);
        config["topics.dir"] = json!(name);
        sluice.create(&connector, &config)?;
        sluice.wait_written(&connector, 10)?;
        let (passed, refused) = gate.counts();
        assert!(passed > 0 && refused == 0, "{name}: {passed} requests passed, {refused} were refused");
        assert!(name != "oauth" || gate.tokens() == 1, "a token is kept as long as it holds: {}", gate.tokens());
    }
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    for secret in ["secret word", "secret%20word", "secret-token", "issued-secret", BASIC] {
        assert!(!sluice.log().contains(secret), "{secret} is in the log");
    }
    Ok(())
}

fn wrong_login() -> Outcome {
    let stage = Stage::new("registry-wrong-login")?;
    let gate = Gate::start(stage.registry.url(), None, Login::Header(BASIC.to_owned()))?;
    let issuing = Gate::start(stage.registry.url(), None, Login::Token(BASIC.to_owned(), Duration::from_secs(60)))?;
    let issuer = issuing.issuer_url();
    let sluice = Sluice::worker(stage.scene.kafka, stage.scene.store)?;
    for (name, url, keys) in [
        ("none", gate.url(""), &[][..]),
        (
            "another",
            gate.url(""),
            &[("basic.auth.credentials.source", "USER_INFO"), ("basic.auth.user.info", "user:guessed")],
        ),
        (
            "client",
            issuing.url(""),
            &[
                ("bearer.auth.credentials.source", "OAUTHBEARER"),
                ("bearer.auth.client.id", "user"),
                ("bearer.auth.client.secret", "guessed"),
                ("bearer.auth.issuer.endpoint.url", issuer.as_str()),
            ],
        ),
    ] {
        let connector = format!("{}-{name}", stage.scene.connector);
        sluice.create(&connector, &stage.config(&url, keys))?;
        let said = sluice.wait_failed(&connector)?;
        assert!(said.contains("another login") && !said.contains("guessed"), "{name}: {said}");
    }
    assert_eq!((gate.counts().0, issuing.counts().0), (0, 0));
    Ok(())
}

fn failover() -> Outcome {
    let mut stage = Stage::new("registry-failover")?;
    let url = stage.registry.url();
    let (first, second) = (Gate::start(url, None, Login::Open)?, Gate::start(url, None, Login::Open)?);
    let sluice = Sluice::worker(stage.scene.kafka, stage.scene.store)?;
    // Nobody listens on the first address.
    let urls = format!("http://127.0.0.1:1,{},{}", first.url(""), second.url(""));
    sluice.create(&stage.scene.connector, &stage.config(&urls, &[]))?;
    sluice.wait_written(&stage.scene.connector, 10)?;
    assert!(first.counts().0 > 0 && second.counts().0 == 0, "{:?} {:?}", first.counts(), second.counts());
    first.close(true);
    stage.produce("produce_every_avro_anew", 5)?;
    sluice.wait_written(&stage.scene.connector, 15)?;
    assert!(second.counts().0 > 0);
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    stage.holds_all()
}

fn outage() -> Outcome {
    let mut stage = Stage::new("registry-away")?;
    let gate = Gate::start(stage.registry.url(), None, Login::Open)?;
    let sluice = Sluice::worker(stage.scene.kafka, stage.scene.store)?;
    let mut config = stage.config(&gate.url(""), &[]);
    // Even then an outage is no error of a record.
    config["errors.tolerance"] = json!("all");
    sluice.create(&stage.scene.connector, &config)?;
    sluice.wait_written(&stage.scene.connector, 10)?;
    gate.close(true);
    stage.produce("produce_every_avro", 10)?;
    sluice.wait_written(&stage.scene.connector, 20)?;
    assert_eq!(gate.counts().1, 0, "a known schema is not asked for again");
    stage.produce("produce_every_avro_anew", 5)?;
    sluice.wait("the new schema is asked for", |_| Ok((gate.counts().1 > 2).then_some(())))?;
    gate.close(false);
    // The task may have started anew, and with it the count.
    sluice.wait("all records are in files", |sluice| {
        let lag = sluice.metric("kafka_consumer_consumer_fetch_manager_metrics_records_lag", &stage.scene.connector)?;
        let states = sluice.states(&stage.scene.connector)?;
        Ok((lag == 0 && states.1 == ["RUNNING"]).then_some(()))
    })?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    stage.scene.wait_committed(&[25])?;
    stage.holds_all()
}
