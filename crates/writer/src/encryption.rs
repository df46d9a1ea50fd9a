//! Encryption of objects by the store: under its own key, one of KMS, or one that only the user has.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use model::{Check, Invalid, Key, Kind, Settings, Width};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

/// Encryption at rest.
pub const S3_SSEA_NAME: Key = Key::new(
    "s3.ssea.name",
    Kind::String,
    "Server-side encryption: AES256, or aws:kms together with s3.sse.kms.key.id; anything else leaves it to the bucket.",
)
.default("")
.check(Check::OneOf(&["", "AES256", "aws:fsx", "aws:kms", "aws:kms:dsse"]))
.group("S3", 10)
.shown(Width::Long, "S3 Server Side Encryption Algorithm");

/// Encryption with the user's own key.
pub const S3_SSE_CUSTOMER_KEY: Key = Key::new(
    "s3.sse.customer.key",
    Kind::Password,
    "Base64 of the 32 bytes that objects are encrypted with when s3.ssea.name is AES256 (SSE-C). Every request that reads or \
     writes an object carries it, so the store must be reached over TLS. What is there is read with it too: another key, or \
     the first one, needs another topics.dir.",
)
.default("")
.check(Check::With(customer_key))
.group("S3", 11)
.shown(Width::Long, "S3 Server Side Encryption Customer-Provided Key (SSE-C)");

/// Encryption with a key of KMS.
pub const S3_SSE_KMS_KEY_ID: Key =
    Key::new("s3.sse.kms.key.id", Kind::String, "The KMS key when s3.ssea.name is aws:kms.")
        .default("")
        .group("S3", 12)
        .shown(Width::Long, "S3 Server Side Encryption Key");

/// Keys of encryption.
pub(crate) const KEYS: &[Key] = &[S3_SSEA_NAME, S3_SSE_CUSTOMER_KEY, S3_SSE_KMS_KEY_ID];

fn customer_key(text: &str) -> Result<(), String> {
    let is_key = |text: &str| BASE64_STANDARD.decode(text).is_ok_and(|key| key.len() == 32);
    if text.is_empty() || is_key(text) { Ok(()) } else { Err("must be the base64 text of 32 bytes".to_owned()) }
}

/// What is wrong with the keys together.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let text = |key: &Key| settings.text(key).unwrap_or_default();
    if text(&S3_SSEA_NAME) != "AES256" && !text(&S3_SSE_CUSTOMER_KEY).is_empty() {
        return vec![Invalid::new(S3_SSE_CUSTOMER_KEY.name, "s3.sse.customer.key needs s3.ssea.name to be AES256")];
    }
    Vec::new()
}

/// What a user should know about the keys though they are accepted.
pub(crate) fn advice(settings: &Settings) -> Option<String> {
    let because = match settings.text(&S3_SSEA_NAME).unwrap_or_default() {
        "aws:kms" if settings.text(&S3_SSE_KMS_KEY_ID).unwrap_or_default().is_empty() => {
            "aws:kms without s3.sse.kms.key.id"
        }
        "aws:fsx" => "aws:fsx",
        "aws:kms:dsse" => "aws:kms:dsse",
        _ => return None,
    };
    Some(format!("s3.ssea.name is {because}: as in the S3 sink, the bucket's own encryption applies"))
}

/// Has the client's requests carry what the store needs for the encryption that the settings ask for.
pub(crate) fn apply(builder: AmazonS3Builder, settings: &Settings) -> Result<AmazonS3Builder, Invalid> {
    let algorithm = settings.required_string(&S3_SSEA_NAME)?;
    let customer_key = settings.secret(&S3_SSE_CUSTOMER_KEY)?;
    let kms_key = settings.required_string(&S3_SSE_KMS_KEY_ID)?;
    Ok(match (algorithm.as_str(), customer_key) {
        ("AES256", Some(key)) => builder.with_ssec_encryption(key.reveal()),
        ("AES256", None) => match "aws_server_side_encryption".parse::<AmazonS3ConfigKey>() {
            Ok(key) => builder.with_config(key, "AES256"),
            Err(error) => return Err(Invalid::value(&S3_SSEA_NAME, &algorithm, error)),
        },
        ("aws:kms", _) if !kms_key.is_empty() => builder.with_sse_kms_encryption(kms_key),
        _ => builder,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_customers_key_is_32_bytes_and_is_never_shown() {
        let problem = |key: &str| settings(&[("s3.sse.customer.key", key)]).problem(&S3_SSE_CUSTOMER_KEY);
        assert_eq!(problem(KEY), None);
        // 43 digits whose last one says more than 32 bytes hold.
        for key in ["short", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=", &format!("{KEY}{KEY}")] {
            let message = problem(key).unwrap().message;
            assert!(message.contains("[hidden]") && !message.contains(key), "{message}");
        }
        assert_eq!(check(&settings(&[("s3.sse.customer.key", KEY)]))[0].key, "s3.sse.customer.key");
        assert_eq!(check(&settings(&[("s3.sse.customer.key", KEY), ("s3.ssea.name", "AES256")])), []);
    }

    #[test]
    fn what_the_sink_ignores_is_accepted_and_told() {
        for (pairs, told) in [
            (vec![("s3.ssea.name", "aws:kms")], Some("aws:kms without s3.sse.kms.key.id")),
            (vec![("s3.ssea.name", "aws:kms:dsse"), ("s3.sse.kms.key.id", "k")], Some("aws:kms:dsse")),
            (vec![("s3.ssea.name", "aws:kms"), ("s3.sse.kms.key.id", "k")], None),
            (vec![("s3.ssea.name", "AES256")], None),
            (vec![], None),
        ] {
            let settings = settings(&pairs);
            assert_eq!(settings.problem(&S3_SSEA_NAME), None);
            assert_eq!(advice(&settings).as_deref().map(|text| text.contains(told.unwrap_or("?"))), told.map(|_| true));
        }
        assert!(settings(&[("s3.ssea.name", "aes256")]).problem(&S3_SSEA_NAME).is_some());
    }
}
