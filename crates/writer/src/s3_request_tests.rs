//! What S3 is asked, request by request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use model::{Fingerprint, Nonce, Offset, OffsetRange, Plan, TopicPartition};
use object_store::{GetOptions, ObjectStore};

use crate::Environment;
use crate::conformance::{batch, context, nested_rows, noisy_rows};
use crate::cut::OpenCut;
use crate::error::PublishError;
use crate::file_context::FileContext;
use crate::publish::{Committer, FinishedFile, ObjectCommitter, OnExisting, PublishedFile};
use crate::recorder::{Answer, Asked, Recorder};
use crate::store::Store;
use crate::tagging::Tagging;
use crate::testing::settings;

const CUSTOMER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const ACL: (&str, &str) = ("s3.acl.canned", "bucket-owner-full-control");
const TAGGING: (&str, &str) = ("s3.object.tagging", "true");
const KEY: &str = "/b/x/t/p/t%2B0%2B0000000000.snappy.parquet";

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// A bucket that holds what is put and knows what a client asks in these tests.
fn s3() -> impl Fn(&Asked) -> Answer + Send + Sync + 'static {
    let objects: Mutex<BTreeMap<String, Asked>> = Mutex::default();
    move |asked: &Asked| {
        let mut objects = objects.lock().unwrap();
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        let xml = |text: &str| Answer::new(200).body(text);
        match (asked.method.as_str(), query) {
            ("POST", "uploads=") => xml(
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId></InitiateMultipartUploadResult>",
            ),
            ("POST", _) => {
                objects.insert(path.to_owned(), asked.clone());
                xml("<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>")
            }
            ("PUT", "") if objects.contains_key(path) => Answer::new(412),
            ("PUT", "") => {
                objects.insert(path.to_owned(), asked.clone());
                Answer::new(200).header("etag", "\"e\"")
            }
            ("PUT", _) => Answer::new(200).header("etag", "\"e\""),
            ("HEAD" | "GET", "") => match objects.get(path) {
                Some(object) => {
                    let about = object.headers.iter().filter(|(name, _)| name.starts_with("x-amz-meta-"));
                    let answer = about
                        .fold(Answer::new(200), |answer, (name, value)| answer.header(name, value))
                        .header("last-modified", "Thu, 26 Nov 2026 11:05:27 GMT")
                        .header("etag", "\"e\"");
                    match asked.method.as_str() {
                        "HEAD" => answer.header("content-length", object.header("content-length")),
                        _ => answer.body("some bytes"),
                    }
                }
                None => Answer::new(404),
            },
            _ => xml("<ListBucketResult></ListBucketResult>"),
        }
    }
}

fn store(endpoint: &str, pairs: Pairs<'_>) -> Store {
    let base = [
        ("s3.bucket.name", "b"),
        ("store.url", endpoint),
        ("aws.access.key.id", "a"),
        ("aws.secret.access.key", "s"),
        ("s3.retry.backoff.ms", "1"),
    ];
    Store::open(&settings(&[&base[..], pairs].concat()), &Environment::default()).unwrap()
}

/// One file of the rows from 0 to 8, of which a large one has parts.
async fn file(store: &Store, pairs: Pairs<'_>, is_large: bool) -> Vec<FinishedFile> {
    let whole = FileContext::clone(&context(store, "x"));
    let context = Arc::new(FileContext { tagging: Tagging::new(&settings(pairs)).unwrap(), ..whole });
    let lane = TopicPartition::new("t", 0);
    let at = |offset| Offset::new(offset).unwrap();
    let mut open = OpenCut::new(context, lane.clone(), Nonce(7));
    let rows = if is_large { noisy_rows(0, 8, 1_024 * 1_024) } else { nested_rows(0, 8) };
    open.append(&batch(&lane, 0, rows), &"p".into()).unwrap();
    open.spill(if is_large { 0 } else { usize::MAX }).await.unwrap();
    // The cut ends behind records that are no rows.
    let plan = Plan::new(at(11), 0, Nonce(7), None, Fingerprint::of([]), 1);
    let files = open.finish(OffsetRange::new(at(0), at(11)).unwrap(), &plan).await.unwrap();
    assert_eq!(files[0].is_multipart(), is_large);
    files
}

async fn publish(store: &Store, files: Vec<FinishedFile>) -> Result<Vec<PublishedFile>, PublishError> {
    ObjectCommitter::new(store.clone(), OnExisting::Fail).publish(files).await
}

fn is_signed(asked: &Asked, header: &str) -> bool {
    asked
        .header("authorization")
        .split("SignedHeaders=")
        .nth(1)
        .is_some_and(|signed| signed.split(',').next().is_some_and(|names| names.split(';').any(|name| name == header)))
}

#[tokio::test]
async fn a_small_file_is_one_request_with_tags_and_access_list() {
    let recorder = Recorder::start(s3());
    let pairs = &[ACL, TAGGING, ("s3.object.tagging.key.value.pairs", "team:models")];
    let store = store(&recorder.endpoint, pairs);
    publish(&store, file(&store, pairs, false).await).await.unwrap();
    let asked = recorder.take();
    assert_eq!(asked.iter().map(Asked::line).collect::<Vec<_>>(), [format!("PUT {KEY}")]);
    let put = &asked[0];
    assert_eq!(put.header("x-amz-acl"), "bucket-owner-full-control");
    assert_eq!(put.header("x-amz-tagging"), "startOffset=0&endOffset=7&recordCount=8&team=models");
    assert_eq!(put.header("if-none-match"), "*");
    assert!(is_signed(put, "x-amz-acl") && is_signed(put, "x-amz-tagging"));

    // The next owner of the plan finds the object and cannot know how it came there.
    let again = publish(&store, file(&store, pairs, false).await).await.unwrap();
    assert!(again[0].already_there);
    let asked = recorder.take();
    let lines: Vec<_> = asked.iter().map(Asked::line).collect();
    assert_eq!(
        lines,
        [format!("PUT {KEY}"), format!("HEAD {KEY}"), format!("HEAD {KEY}"), format!("PUT {KEY}?tagging")]
    );
    let tagging = &asked[3];
    assert!(tagging.body.contains("<Tag><Key>endOffset</Key><Value>7</Value></Tag>"), "{}", tagging.body);
    assert!(!tagging.header("content-md5").is_empty() && is_signed(tagging, "content-md5"));
    assert_eq!(tagging.header("x-amz-acl"), "");
}

#[tokio::test]
async fn without_keys_of_its_own_a_file_is_what_it_was() {
    let recorder = Recorder::start(s3());
    let store = store(&recorder.endpoint, &[]);
    publish(&store, file(&store, &[], false).await).await.unwrap();
    publish(&store, file(&store, &[], false).await).await.unwrap();
    let asked = recorder.take();
    assert_eq!(asked.len(), 4);
    for name in ["x-amz-acl", "x-amz-tagging", "x-amz-server-side-encryption"] {
        assert!(asked.iter().all(|asked| asked.header(name).is_empty()), "{name}");
    }
}

#[tokio::test]
async fn a_large_file_is_tagged_when_it_is_there() {
    let recorder = Recorder::start(s3());
    let store = store(&recorder.endpoint, &[ACL, TAGGING]);
    publish(&store, file(&store, &[TAGGING], true).await).await.unwrap();
    let asked = recorder.take();
    let lines: Vec<_> = asked.iter().map(Asked::line).collect();
    assert_eq!(lines[0], format!("POST {KEY}?uploads="));
    assert_eq!(
        lines[lines.len() - 3..],
        [format!("HEAD {KEY}"), format!("POST {KEY}?uploadId=u"), format!("PUT {KEY}?tagging"),]
    );
    assert!(lines.len() >= 6, "two parts at least: {lines:?}");
    for (number, asked) in asked.iter().enumerate() {
        let expected = if number == 0 { "bucket-owner-full-control" } else { "" };
        assert_eq!(asked.header("x-amz-acl"), expected, "{}", asked.line());
        assert_eq!(asked.header("x-amz-tagging"), "", "nobody knows the last row before the end");
    }
}

#[tokio::test]
async fn tags_that_are_refused_keep_no_object_away_and_stop_the_task_where_told() {
    for behavior in ["ignore", "fail"] {
        let inner = s3();
        let recorder = Recorder::start(move |asked| {
            let is_tagged = !asked.header("x-amz-tagging").is_empty() || asked.target.ends_with("?tagging");
            let denied = "<Error><Code>AccessDenied</Code><Message>no s3:PutObjectTagging</Message></Error>";
            if is_tagged { Answer::new(403).body(denied) } else { inner(asked) }
        });
        let pairs = &[TAGGING, ("s3.object.behavior.on.tagging.error", behavior)];
        let store = store(&recorder.endpoint, pairs);
        let outcome = publish(&store, file(&store, pairs, false).await).await;
        assert_eq!(
            recorder.lines(),
            [format!("PUT {KEY}"), format!("PUT {KEY}"), format!("PUT {KEY}?tagging")],
            "{behavior}"
        );
        // From then on it is not tried again with each object.
        let again = publish(&store, file(&store, pairs, false).await).await;
        assert_eq!(
            recorder.lines(),
            [format!("PUT {KEY}"), format!("HEAD {KEY}"), format!("HEAD {KEY}"), format!("PUT {KEY}?tagging")],
            "{behavior}"
        );
        for outcome in [outcome, again] {
            match (behavior, outcome) {
                ("ignore", Ok(files)) => assert_eq!(files[0].rows, 8),
                ("fail", Err(PublishError::Permanent { source })) => {
                    let text = source.to_string();
                    assert!(text.contains("could not tag x/t/p/") && text.contains("s3:PutObjectTagging"), "{text}");
                }
                (behavior, outcome) => panic!("{behavior}: {outcome:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_tagging_that_stumbles_is_repeated_as_often_as_told() {
    let inner = s3();
    let recorder = Recorder::start(move |asked| match asked.target.ends_with("?tagging") {
        true => Answer::new(503).body("<Error><Code>SlowDown</Code></Error>"),
        false => inner(asked),
    });
    let pairs = &[TAGGING, ("s3.object.behavior.on.tagging.error", "fail"), ("s3.part.retries", "4")];
    let store = store(&recorder.endpoint, pairs);
    let error = publish(&store, file(&store, pairs, true).await).await.unwrap_err();
    assert!(error.to_string().contains("after 4 attempts"), "{error}");
    let tries = recorder.lines().iter().filter(|line| line.ends_with("?tagging")).count();
    assert_eq!(tries, 4);
}

#[tokio::test]
async fn a_customer_s_key_goes_with_all_that_reads_or_writes_the_object() {
    let recorder = Recorder::start(s3());
    let pairs = &[("s3.ssea.name", "AES256"), ("s3.sse.customer.key", CUSTOMER_KEY)];
    let store = store(&recorder.endpoint, pairs);
    publish(&store, file(&store, pairs, false).await).await.unwrap();
    publish(&store, file(&store, pairs, false).await).await.unwrap();
    store.read("x/t/p/t+0+0000000000.snappy.parquet").await.unwrap();
    store.list("x").await.unwrap();
    let small = recorder.take();
    let recorder = Recorder::start(s3());
    let store = self::store(&recorder.endpoint, pairs);
    publish(&store, file(&store, pairs, true).await).await.unwrap();
    let mut kinds = BTreeMap::new();
    let large = recorder.take();
    for asked in small.iter().chain(&large) {
        let query = asked.target.split_once('?').map_or("", |(_, query)| query);
        let kind = match (asked.method.as_str(), query) {
            ("PUT", query) if query.contains("partNumber") => "part",
            ("POST", query) if query.contains("uploadId") => "complete",
            ("POST", _) => "begin",
            ("GET", query) if query.contains("list-type") => "list",
            (method, _) => method,
        };
        let has_key = asked.header("x-amz-server-side-encryption-customer-key") == CUSTOMER_KEY
            && asked.header("x-amz-server-side-encryption-customer-algorithm") == "AES256"
            // MD5 of 32 bytes of zero.
            && asked.header("x-amz-server-side-encryption-customer-key-md5") == "cLyPS3KoaSFGi/joRB3OUQ==";
        assert_eq!(asked.header("x-amz-server-side-encryption"), "");
        assert_eq!(*kinds.entry(kind).or_insert(has_key), has_key, "{kind}");
    }
    let with: Vec<_> = kinds.iter().filter(|(_, has_key)| **has_key).map(|(kind, _)| *kind).collect();
    let without: Vec<_> = kinds.iter().filter(|(_, has_key)| !**has_key).map(|(kind, _)| *kind).collect();
    assert_eq!(with, ["GET", "HEAD", "PUT", "begin", "part"]);
    assert_eq!(without, ["complete", "list"]);
}

#[tokio::test]
async fn the_store_s_encryption_is_asked_for_where_an_object_begins() {
    for (pairs, algorithm, key) in [
        (&[("s3.ssea.name", "AES256")][..], "AES256", ""),
        (&[("s3.ssea.name", "aws:kms"), ("s3.sse.kms.key.id", "k1")], "aws:kms", "k1"),
        (&[("s3.ssea.name", "aws:kms")], "", ""),
    ] {
        for is_large in [false, true] {
            let recorder = Recorder::start(s3());
            let store = store(&recorder.endpoint, pairs);
            publish(&store, file(&store, pairs, is_large).await).await.unwrap();
            for (number, asked) in recorder.take().iter().enumerate() {
                let (expected, expected_key) = if number == 0 { (algorithm, key) } else { ("", "") };
                assert_eq!(asked.header("x-amz-server-side-encryption"), expected, "{}", asked.line());
                assert_eq!(asked.header("x-amz-server-side-encryption-aws-kms-key-id"), expected_key);
            }
        }
    }
}

#[tokio::test]
async fn requests_go_through_the_proxy_with_its_login() {
    let recorder = Recorder::start(s3());
    let url = recorder.endpoint.replace("http://", "http://old:name@");
    let proxy = [("s3.proxy.url", url.as_str()), ("s3.proxy.user", "me"), ("s3.proxy.password", "p:w d")];
    let store = store("http://store.invalid:9000", &proxy);
    publish(&store, file(&store, &[], false).await).await.unwrap();
    let asked = recorder.take();
    assert_eq!(asked[0].line(), format!("PUT http://store.invalid:9000{KEY}"));
    // me:p:w d
    assert_eq!(asked[0].header("proxy-authorization"), "Basic bWU6cDp3IGQ=");
    assert_eq!(asked[0].header("host"), "store.invalid:9000");
}

#[tokio::test]
async fn the_accelerated_endpoint_is_asked() {
    let recorder = Recorder::start(|_| Answer::new(403));
    let pairs = [
        ("s3.bucket.name", "models"),
        ("aws.access.key.id", "a"),
        ("aws.secret.access.key", "s"),
        ("s3.wan.mode", "true"),
        ("s3.path.style.access.enabled", "false"),
        ("s3.part.retries", "1"),
        ("s3.proxy.url", recorder.endpoint.as_str()),
    ];
    let store = Store::open(&settings(&pairs), &Environment::default()).unwrap();
    assert!(store.probe("_sluice/probe").await.is_err());
    assert_eq!(recorder.lines()[0], "CONNECT models.s3-accelerate.amazonaws.com:443");
}

#[tokio::test]
async fn nobody_signs_what_anybody_may_do() {
    let recorder = Recorder::start(s3());
    let pairs = [
        ("s3.bucket.name", "b"),
        ("store.url", recorder.endpoint.as_str()),
        ("s3.credentials.provider.class", "software.amazon.awssdk.auth.credentials.AnonymousCredentialsProvider"),
    ];
    let store = Store::open(&settings(&pairs), &Environment::default()).unwrap();
    publish(&store, file(&store, &[TAGGING], true).await).await.unwrap();
    assert_eq!(store.orphaned_uploads("x/", i64::MAX).await.unwrap(), []);
    let asked = recorder.take();
    assert!(asked.iter().any(|asked| asked.target.ends_with("?tagging")));
    assert!(asked.iter().any(|asked| asked.target.contains("?uploads=&prefix")));
    assert!(asked.iter().all(|asked| asked.header("authorization").is_empty()));
}

#[tokio::test]
async fn what_libraries_ask_is_repeated() {
    let left = Mutex::new(2);
    let recorder = Recorder::start(move |_| {
        let mut left = left.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return Answer::new(503);
        }
        let date = "Thu, 26 Nov 2026 11:05:27 GMT";
        Answer::new(200).header("last-modified", date).header("etag", "\"e\"").body("some bytes")
    });
    let client = store(&recorder.endpoint, &[]).client();
    let answer = client.get_opts(&"log/1.json".into(), GetOptions::default()).await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), "some bytes");
    assert_eq!(recorder.take().len(), 3);
}
