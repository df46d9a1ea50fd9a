//! What the store keeps beside the bytes of objects, and how it is reached: tags, access lists, encryption, credentials of
//! a role, a proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tests::ring::{Outcome, Test};
use tests::{Error, Fault, Faults, Need, Place, Proxy, Request, S3, Services, Sluice, Start, unique};

use crate::outside::{assume_role, create_kms_key, encrypted_ids, encryption, grants, tags};
use crate::store_faults::{large, large_files};
use crate::support::{Scene, predictions};

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "small_and_large_objects_are_tagged_with_their_rows_on_minio",
        needs: &[Need::Kafka, Need::Minio],
        run: tags_on_minio,
    },
    Test {
        name: "a_worker_killed_between_publishing_and_tagging_leaves_an_object_that_the_next_one_tags",
        needs: &[Need::Kafka, Need::Minio],
        run: killed_before_tagging,
    },
    Test {
        name: "tags_that_the_policy_denies_stop_the_task_only_where_told",
        needs: &[Need::Kafka, Need::Minio],
        run: denied_tags,
    },
    Test {
        name: "tags_access_list_kms_key_and_a_role_work_on_localstack",
        needs: &[Need::Kafka, Need::Localstack],
        run: all_on_localstack,
    },
    Test {
        name: "objects_are_encrypted_under_the_store_s_key_and_one_of_kms_on_minio",
        needs: &[Need::Kafka, Need::Minio],
        run: encrypted_by_the_store,
    },
    Test {
        name: "objects_are_encrypted_under_a_customer_s_key_and_replays_know_them_over_tls",
        needs: &[Need::Kafka, Need::OwnMinio],
        run: encrypted_by_the_customer,
    },
    Test { name: "a_role_is_assumed_at_minio_s_sts", needs: &[Need::Kafka, Need::Minio], run: role_on_minio },
    Test { name: "the_store_is_reached_through_a_proxy", needs: &[Need::Kafka, Need::Minio], run: through_a_proxy },
];

const CUSTOMER_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A worker that sees more of the environment.
fn worker(scene: &Scene, environment: &[(&str, &str)]) -> Result<Sluice, Error> {
    Sluice::start(|place: &Place| {
        let mut start = Start::worker(scene.kafka.bootstrap(), scene.store, place);
        for (name, value) in environment {
            start.environment.retain(|(known, _)| known != name);
            start.environment.push(((*name).to_owned(), (*value).to_owned()));
        }
        Ok(start)
    })
}

fn with(config: Value, changes: &Value) -> Value {
    let mut config = config;
    for (key, value) in changes.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

fn expected_tags(first: i64, last: i64, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let count = last - first + 1;
    let own = [("startOffset", first), ("endOffset", last), ("recordCount", count)];
    let own = own.map(|(name, number)| (name.to_owned(), number.to_string()));
    own.into_iter().chain(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).collect()
}

fn tags_on_minio() -> Outcome {
    let more = json!({
        "s3.object.tagging": "true",
        "s3.object.tagging.key.value.pairs": "team:ml models,cost:a/b+c",
        "s3.object.behavior.on.tagging.error": "fail",
        "s3.acl.canned": "bucket-owner-full-control",
    });
    let scene = Scene::new("tags", 1)?;
    scene.produce(&predictions(0..5))?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &with(scene.config(json!({"flush.size": "3"})), &more))?;
    sluice.wait_published(&scene.connector, 3)?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    let pairs = [("team", "ml models"), ("cost", "a/b+c")];
    let objects = scene.objects()?;
    assert_eq!(objects.len(), 2);
    for (key, (first, last)) in objects.iter().zip([(0, 2), (3, 4)]) {
        assert_eq!(tags(scene.store, &scene.bucket, key)?, expected_tags(first, last, &pairs), "{key}");
    }
    scene.holds_exactly(&predictions(0..5))?;

    let scene = Scene::new("large-tags", 1)?;
    let records = large(0..24, 512 << 10);
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    sluice.create(&scene.connector, &with(with(scene.config(json!({})), &large_files()), &more))?;
    scene.produce(&records[..16])?;
    sluice.wait_written(&scene.connector, 16)?;
    scene.produce(&records[16..])?;
    scene.wait_committed(&[24])?;
    let key = &scene.objects()?[0];
    assert_eq!(tags(scene.store, &scene.bucket, key)?, expected_tags(0, 23, &pairs));
    Ok(())
}

fn is_tagging(request: &Request) -> bool {
    request.method == "PUT" && request.target.ends_with("?tagging")
}

fn killed_before_tagging() -> Outcome {
    let scene = Scene::new("untagged", 1)?;
    let proxy = Proxy::start(scene.store.endpoint(), 11)?;
    let mut config = with(scene.config(json!({})), &large_files());
    config["store.url"] = json!(proxy.endpoint());
    config["s3.object.tagging"] = json!("true");
    config["s3.object.behavior.on.tagging.error"] = json!("fail");
    let mut sluice = Sluice::run(scene.kafka, scene.store, &json!({"name": scene.connector, "config": config}))?;
    let records = large(0..24, 512 << 10);
    scene.produce(&records[..16])?;
    sluice.wait_written(&scene.connector, 16)?;
    // Longer than the test takes.
    proxy.set(Faults { delay_by: Duration::from_secs(600)..Duration::from_secs(601), ..Faults::none() });
    proxy.once(Fault::Delay, is_tagging);
    scene.produce(&records[16..])?;
    sluice.wait("the object is to be tagged", |_| Ok((proxy.planned() == 0).then_some(())))?;
    let key = scene.objects()?[0].clone();
    assert_eq!(tags(scene.store, &scene.bucket, &key)?, BTreeMap::new());
    let committed = scene.kafka.committed(&scene.group(), &scene.topic)?;
    assert!(committed[0].offset == 0 && !committed[0].metadata.is_empty(), "{committed:?}");
    sluice.kill();
    sluice.restart()?;
    scene.wait_committed(&[24])?;
    assert_eq!(tags(scene.store, &scene.bucket, &key)?, expected_tags(0, 23, &[]));
    assert_eq!(scene.objects()?, [key]);
    crate::support::same_records(&records, &Services::readers()?.read_parquet(scene.store, &scene.bucket, "")?);
    Ok(())
}

fn denied_tags() -> Outcome {
    let scene = Scene::new("denied-tags", 1)?;
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]},
        {"Effect": "Deny", "Action": ["s3:PutObjectTagging"], "Resource": ["arn:aws:s3:::*"]},
    ]});
    let [id, secret, token] = assume_role(scene.store, &policy)?;
    let lent = [("AWS_ACCESS_KEY_ID", id.as_str()), ("AWS_SECRET_ACCESS_KEY", &secret), ("AWS_SESSION_TOKEN", &token)];
    let sluice = worker(&scene, &lent)?;
    let config = with(scene.config(json!({"s3.object.tagging": "true"})), &large_files());
    sluice.create(&scene.connector, &config)?;
    let failing = format!("{}-failing", scene.connector);
    let changes = json!({"topics.dir": "failing", "s3.object.behavior.on.tagging.error": "fail"});
    sluice.create(&failing, &with(config, &changes))?;
    // MinIO looks at the policy only where tags come by themselves, as those of large objects do.
    let records = large(0..24, 512 << 10);
    scene.produce(&records[..16])?;
    sluice.wait_written(&scene.connector, 16)?;
    sluice.wait_written(&failing, 16)?;
    scene.produce(&records[16..])?;

    scene.wait_committed(&[24])?;
    sluice.wait_log("the object has no tags")?;
    let trace = sluice.wait_failed(&failing)?;
    assert!(trace.contains("could not tag failing/") && trace.contains("s3:PutObjectTagging"), "{trace}");
    let committed = scene.kafka.committed(&format!("connect-{failing}"), &scene.topic)?;
    assert!(committed[0].offset == 0 && !committed[0].metadata.is_empty(), "{committed:?}");
    let objects = scene.objects()?;
    assert_eq!(objects.len(), 2, "{objects:?}");
    for key in objects {
        assert_eq!(tags(scene.store, &scene.bucket, &key)?, BTreeMap::new());
    }
    Ok(())
}

/// LocalStack checks no signature; MinIO does in the other tests.
fn all_on_localstack() -> Outcome {
    let scene = Scene {
        kafka: Services::kafka()?,
        store: Services::localstack()?,
        topic: unique("on-localstack"),
        bucket: unique("bucket-on-localstack"),
        connector: unique("connector-on-localstack"),
    };
    scene.kafka.create_topic(&scene.topic, 1)?;
    scene.store.create_bucket(&scene.bucket)?;
    let key_id = create_kms_key(scene.store)?;
    let records = predictions(0..4);
    scene.produce(&records)?;
    let sluice = worker(&scene, &[("AWS_ENDPOINT_URL", scene.store.endpoint())])?;
    let config = scene.config(json!({
        "flush.size": "2",
        "s3.region": S3::REGION,
        "s3.object.tagging": "true",
        "s3.object.behavior.on.tagging.error": "fail",
        "s3.acl.canned": "public-read",
        "s3.ssea.name": "aws:kms",
        "s3.sse.kms.key.id": key_id,
        "s3.credentials.provider.class": "io.confluent.connect.s3.auth.AwsAssumeRoleCredentialsProvider",
        "s3.credentials.provider.sts.role.arn": "arn:aws:iam::000000000000:role/writer",
        "s3.credentials.provider.sts.role.session.name": "sluice",
        "s3.credentials.provider.sts.role.external.id": "x",
    }));
    sluice.create(&scene.connector, &config)?;
    scene.wait_committed(&[4])?;
    scene.holds_exactly(&records)?;
    for (key, first) in scene.objects()?.iter().zip([0, 2]) {
        assert_eq!(tags(scene.store, &scene.bucket, key)?, expected_tags(first, first + 1, &[]));
        let grants = grants(scene.store, &scene.bucket, key)?;
        assert!(grants.iter().any(|grant| grant.ends_with("AllUsers READ")), "{grants:?}");
        let [algorithm, kms_key, _] = encryption(scene.store, &scene.bucket, key, None)?;
        assert_eq!((algorithm.as_deref(), kms_key), (Some("aws:kms"), Some(key_id.clone())));
    }
    Ok(())
}

fn encrypted_by_the_store() -> Outcome {
    for (stem, changes, expected) in [
        ("sse-s3", json!({"s3.ssea.name": "AES256"}), ("AES256", None)),
        ("sse-kms", json!({"s3.ssea.name": "aws:kms", "s3.sse.kms.key.id": "test-key"}), ("aws:kms", Some("test-key"))),
    ] {
        let scene = Scene::new(stem, 1)?;
        let records = predictions(0..4);
        scene.produce(&records)?;
        let sluice = Sluice::worker(scene.kafka, scene.store)?;
        sluice.create(&scene.connector, &with(scene.config(json!({"flush.size": "2"})), &changes))?;
        scene.wait_committed(&[4])?;
        scene.holds_exactly(&records)?;
        for key in scene.objects()? {
            let [algorithm, kms_key, customer] = encryption(scene.store, &scene.bucket, &key, None)?;
            let kms_key = kms_key.as_deref().map(|key| key.trim_start_matches("arn:aws:kms:"));
            assert_eq!((algorithm.as_deref(), kms_key, customer), (Some(expected.0), expected.1, None), "{key}");
        }
    }
    Ok(())
}

/// Small and large objects; the group is lost and then a cut is replayed, so that objects are looked into.
fn encrypted_by_the_customer() -> Outcome {
    let store = S3::start_minio_over_tls()?;
    let scene = Scene::new("sse-c", 1)?;
    store.create_bucket(&scene.bucket)?;
    let certificate = store.certificate().map(|path| path.display().to_string()).unwrap_or_default();
    let config = with(
        with(scene.config(json!({})), &large_files()),
        &json!({
            "store.url": store.endpoint(),
            "s3.ssea.name": "AES256",
            "s3.sse.customer.key": CUSTOMER_KEY,
            "s3.object.tagging": "true",
            "s3.object.behavior.on.tagging.error": "fail",
        }),
    );
    let mut sluice = worker(&scene, &[("SSL_CERT_FILE", &certificate)])?;
    sluice.create(&scene.connector, &config)?;
    let records = [large(0..24, 512 << 10), predictions(24..30)].concat();
    scene.produce(&records[..16])?;
    sluice.wait_written(&scene.connector, 16)?;
    scene.produce(&records[16..])?;
    sluice.wait_published(&scene.connector, 24)?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    scene.wait_committed(&[30])?;

    // Without the group's offsets the objects tell where it was; one that is gone from them is written again.
    crate::outside::wait_group_empty(scene.kafka, &scene.group())?;
    crate::outside::delete_group(scene.kafka, &scene.group())?;
    sluice.restart()?;
    scene.produce(&predictions(30..33))?;
    sluice.wait_written(&scene.connector, 3)?;
    assert_eq!(sluice.terminate()?, 0, "{}", sluice.log());
    scene.wait_committed(&[33])?;

    let mut ids: Vec<String> = (0..33).map(|number| format!("prediction-{number}")).collect();
    ids.sort();
    assert_eq!(encrypted_ids(&store, &scene.bucket, CUSTOMER_KEY)?, ids);
    let objects: Vec<_> = store.list_keys(&scene.bucket, "")?;
    let objects: Vec<_> = objects.iter().filter(|key| key.ends_with(".parquet")).collect();
    assert_eq!(objects.len(), 3, "{objects:?}");
    for (key, (first, last)) in objects.into_iter().zip([(0, 23), (24, 29), (30, 32)]) {
        let [_, _, customer] = encryption(&store, &scene.bucket, key, Some(CUSTOMER_KEY))?;
        assert_eq!(customer.as_deref(), Some("AES256"));
        assert!(encryption(&store, &scene.bucket, key, None).is_err(), "nobody reads it without the key");
        assert_eq!(tags(&store, &scene.bucket, key)?, expected_tags(first, last, &[]));
    }
    Ok(())
}

fn role_on_minio() -> Outcome {
    let scene = Scene::new("role", 1)?;
    let proxy = Proxy::start(scene.store.endpoint(), 13)?;
    // Notes whose keys sign what is written, and never strikes.
    let signers: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let noted = Arc::clone(&signers);
    proxy.once(Fault::Reset, move |request| {
        let authorization = request.header("authorization").unwrap_or_default();
        let key = authorization.split("Credential=").nth(1).and_then(|rest| rest.split('/').next());
        noted.lock().expect("nobody panics").extend(key.map(str::to_owned));
        false
    });
    let records = predictions(0..4);
    scene.produce(&records)?;
    let sts = [("AWS_ENDPOINT_URL_STS", scene.store.endpoint())];
    let sluice = worker(&scene, &sts)?;
    let config = scene.config(json!({
        "flush.size": "2",
        "store.url": proxy.endpoint(),
        "s3.credentials.provider.class": "io.confluent.connect.s3.auth.AwsAssumeRoleCredentialsProvider",
        "s3.credentials.provider.sts.role.arn": "arn:minio:iam:::role/writer",
        "s3.credentials.provider.sts.role.session.name": "sluice",
        "s3.credentials.provider.sts.role.external.id": "",
        "s3.credentials.provider.sts.region": S3::REGION,
    }));
    sluice.create(&scene.connector, &config)?;
    scene.wait_committed(&[4])?;
    scene.holds_exactly(&records)?;
    let signers = signers.lock().expect("nobody panics").clone();
    assert!(signers.len() == 1 && !signers.contains(scene.store.access_key()), "{signers:?}");
    drop(sluice);

    // Keys that STS does not know are refused in its own words.
    let sluice = worker(&scene, &[sts[0], ("AWS_ACCESS_KEY_ID", "nobody")])?;
    let name = format!("{}-refused", scene.connector);
    sluice.create(&name, &config)?;
    let trace = sluice.wait_failed(&name)?;
    assert!(trace.contains("could not assume role arn:minio:iam:::role/writer"), "{trace}");
    assert!(trace.contains("it answers 403"), "{trace}");
    Ok(())
}

fn through_a_proxy() -> Outcome {
    let scene = Scene::new("proxied", 1)?;
    let proxy = Proxy::start(scene.store.endpoint(), 17)?;
    let records = predictions(0..4);
    scene.produce(&records)?;
    let sluice = Sluice::worker(scene.kafka, scene.store)?;
    let config = scene.config(json!({
        "flush.size": "2",
        "s3.proxy.url": proxy.endpoint(),
        "s3.proxy.user": "user",
        "s3.proxy.password": "secret",
    }));
    let whole = format!("{}/{}/", scene.store.endpoint(), scene.bucket);
    proxy.once(Fault::SlowDown, move |request| {
        request.method == "PUT"
            && request.target.starts_with(&whole)
            && request.header("proxy-authorization").as_deref() == Some("Basic dXNlcjpzZWNyZXQ=")
    });
    sluice.create(&scene.connector, &config)?;
    scene.wait_committed(&[4])?;
    scene.holds_exactly(&records)?;
    assert_eq!((proxy.planned(), proxy.counts().of(Fault::SlowDown)), (0, 1), "{}", proxy.counts());
    Ok(())
}
