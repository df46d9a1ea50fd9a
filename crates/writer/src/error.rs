//! What can go wrong between rows and objects, split by what the caller does about it.

use std::fmt;

use model::Invalid;
use object_store::Error as StoreError;

use crate::assume_role::NotLent;
use crate::publish::FinishedFile;

/// A request that the store did not fulfil.
#[derive(Debug)]
pub struct Failure {
    /// What was asked for, as a verb: `create`, `read`, `list`, ...
    pub action: &'static str,
    /// The object or prefix it was about.
    pub key: String,
    /// The store: bucket and endpoint, or directory.
    pub store: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The last answer.
    pub source: StoreError,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} {} in {}", self.action, self.key, self.store)?;
        if self.attempts > 1 {
            write!(f, " after {} attempts", self.attempts)?;
        }
        f.write_str(": ")?;
        f.write_str(&with_cause(&self.source))
    }
}

/// An error and its first cause, which the clients of stores leave out where it is the network's or TLS's.
pub(crate) fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let cause = cause.to_string();
    if text.contains(&cause) { text } else { format!("{text}: {cause}") }
}

/// Why rows did not become objects. Each variant asks something else of the caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store does not answer or is overloaded. A write may have happened. Everything is kept: call again later.
    #[error("{0}")]
    Transient(Box<Failure>),
    /// The store refuses and will go on refusing until somebody changes something. It did not happen.
    #[error("{failure}: {advice}")]
    Permanent {
        /// What failed.
        failure: Box<Failure>,
        /// What to do.
        advice: String,
    },
    /// Rows that were handed to an upload are gone with it: drop the cut and read it again from its start.
    #[error("the upload of {key} to {store} is lost ({reason}): its rows are read again")]
    Lost {
        /// The object it would have become.
        key: String,
        /// Bucket and endpoint, or directory.
        store: String,
        /// The last answer.
        reason: String,
    },
    /// These rows cannot be a file of this format, or their path no object key.
    #[error("could not write {at} to {key}: {reason}")]
    Rows {
        /// The object.
        key: String,
        /// Topic-partition and first offset of the rows.
        at: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl Error {
    /// Whether a repeated call can succeed without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Transient(_) => true,
            Error::Permanent { .. } | Error::Lost { .. } | Error::Rows { .. } => false,
        }
    }
}

/// Why the files of a cut are not all visible. Those that are stay so; publishing them again changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Something else has the name. Nothing was overwritten; the lane must stop.
    #[error(
        "could not publish {key} in {store}: an object with that name is there and is not ours: it holds {held}, \
         this file holds {wanted}; {advice}"
    )]
    Conflict {
        /// The object.
        key: String,
        /// Bucket and endpoint, or directory.
        store: String,
        /// What the object there says of itself.
        held: String,
        /// What would have been written.
        wanted: String,
        /// Why that is so, and what to do.
        advice: &'static str,
    },
    /// The store does not answer. Publish `files` again later: all of them, in any state.
    #[error("{source}")]
    Transient {
        /// Every file of the cut, also those that are visible already.
        files: Vec<FinishedFile>,
        /// What failed.
        source: Error,
    },
    /// An upload is lost: replay the plan.
    #[error("{source}")]
    Lost {
        /// Which one, and why.
        source: Error,
    },
    /// The store refuses for good, or the file makes no sense.
    #[error("{source}")]
    Permanent {
        /// What failed and what to do.
        source: Error,
    },
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A key is missing or wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// No usable credentials.
    #[error("no credentials for S3: {reason}")]
    Credentials {
        /// What was looked at and what to set.
        reason: String,
    },
    /// The client cannot be built from these settings.
    #[error("could not open {store}: {source}")]
    Client {
        /// Bucket and endpoint, or directory.
        store: String,
        /// Why.
        source: StoreError,
    },
    /// The local directory cannot be made.
    #[error("could not create directory {directory} of s3.bucket.name below store.url: {source}")]
    Directory {
        /// The directory.
        directory: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What an answer of the store means for the one who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is no such object.
    Absent,
    /// There is such an object.
    Present,
    /// Ask again.
    Transient,
    /// Asking again is useless; the text says what to do.
    Permanent(String),
}

/// Reads an answer; `bucket` names the bucket for the advice.
pub(crate) fn verdict(error: &StoreError, bucket: &str) -> Verdict {
    if NotLent::refusal(error).is_some() {
        let advice = "allow sts:AssumeRole to these credentials and name them in the role's trust policy, or correct \
                      s3.credentials.provider.sts.*";
        return Verdict::Permanent(advice.to_owned());
    }
    let text = error.to_string();
    let code = code_between(&text, "<Code>", "</Code>");
    if let Some(advice) = code.and_then(|code| advice_on(code, bucket)) {
        return Verdict::Permanent(advice);
    }
    if code.is_some_and(passes) {
        return Verdict::Transient;
    }
    if text.contains("Received redirect without LOCATION") {
        return Verdict::Permanent(wrong_region(bucket));
    }
    match error {
        StoreError::NotFound { .. } => Verdict::Absent,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => Verdict::Present,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => Verdict::Permanent(denied(bucket)),
        StoreError::InvalidPath { .. } => {
            Verdict::Permanent("the path makes no object key, change the partitioner".to_owned())
        }
        StoreError::NotSupported { .. }
        | StoreError::NotImplemented { .. }
        | StoreError::UnknownConfigurationKey { .. } => Verdict::Permanent("the store cannot do this".to_owned()),
        StoreError::NotModified { .. } | StoreError::JoinError { .. } | StoreError::Generic { .. } => from_text(&text),
        // object_store's enum is open: what it adds is unknown, and what is unknown is asked again.
        _ => Verdict::Transient,
    }
}

fn from_text(text: &str) -> Verdict {
    let status = code_between(text, "non-2xx status code: ", " ").and_then(|status| status.parse::<u16>().ok());
    if text.contains("Permission denied (os error") || text.contains("Read-only file system") {
        return Verdict::Permanent("give this user the right to write there".to_owned());
    }
    match status {
        Some(501) => Verdict::Permanent(
            "the store does not know conditional writes: set enable.conditional.writes=false".to_owned(),
        ),
        // 408 and 429 ask to come again.
        Some(status) if (400..500).contains(&status) && status != 408 && status != 429 => Verdict::Permanent(
            "the store does not take such a request: check store.url, s3.region, the S3 keys and encryption".to_owned(),
        ),
        Some(_) | None => Verdict::Transient,
    }
}

/// Error codes of S3 that a repetition cures, whatever status they come with: a body that was too slow, torn or changed on
/// its way is answered with 400.
fn passes(code: &str) -> bool {
    matches!(
        code,
        "RequestTimeout"
            | "IncompleteBody"
            | "BadDigest"
            | "SlowDown"
            | "InternalError"
            | "ServiceUnavailable"
            | "TooManyRequests"
            | "OperationAborted"
    )
}

/// Error codes of S3 that no repetition cures (Amazon S3 API reference, "Error responses").
fn advice_on(code: &str, bucket: &str) -> Option<String> {
    match code {
        "NoSuchBucket" => Some(format!("Non-existent S3 bucket: {bucket}; create it or correct s3.bucket.name")),
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" | "TokenRefreshRequired" => Some(
            "the credentials are not accepted: correct aws.access.key.id and aws.secret.access.key, or the environment, \
             profile or role that they come from"
                .to_owned(),
        ),
        "RequestTimeTooSkewed" => Some("the clock of this machine is wrong: set it".to_owned()),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => Some(wrong_region(bucket)),
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => Some(denied(bucket)),
        "InvalidBucketName" | "KeyTooLongError" => Some("S3 does not take this name".to_owned()),
        _ => None,
    }
}

/// Whether the policy says no, which is another thing than keys that are not known.
pub(crate) fn is_access_denied(error: &StoreError) -> bool {
    let text = error.to_string();
    match code_between(&text, "<Code>", "</Code>") {
        Some(code) => code == "AccessDenied",
        None => matches!(error, StoreError::PermissionDenied { .. }),
    }
}

/// Whether the store took the request for one that it does not know, as those do that lack conditional writes.
pub(crate) fn refuses_conditions(error: &StoreError) -> bool {
    let text = error.to_string();
    let status = code_between(&text, "non-2xx status code: ", " ").and_then(|status| status.parse::<u16>().ok());
    let code = code_between(&text, "<Code>", "</Code>");
    let is_unknown =
        matches!(code, None | Some("NotImplemented" | "InvalidArgument" | "InvalidRequest" | "BadRequest"));
    matches!(status, Some(400 | 501)) && is_unknown
}

fn denied(bucket: &str) -> String {
    format!(
        "access denied: allow s3:PutObject, s3:GetObject, s3:AbortMultipartUpload on {bucket}/* and s3:ListBucket on {bucket}"
    )
}

fn wrong_region(bucket: &str) -> String {
    format!("bucket {bucket} is in another region: correct s3.region")
}

/// The part of `text` after `open` and before `close`.
pub(crate) fn code_between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let rest = &text[text.find(open)? + open.len()..];
    Some(&rest[..rest.find(close)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> StoreError {
        StoreError::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn answers_of_s3_are_told_apart() {
        let status = |code: &str| generic(&format!("Server returned non-2xx status code: {code}"));
        let permanent = |answer: &StoreError, part: &str| match verdict(answer, "b") {
            Verdict::Permanent(advice) => assert!(advice.contains(part), "{advice}"),
            other => panic!("{answer} is {other:?}"),
        };
        permanent(&status("404 Not Found: <Error><Code>NoSuchBucket</Code></Error>"), "Non-existent S3 bucket: b");
        permanent(&status("403 Forbidden: <Code>InvalidAccessKeyId</Code>"), "aws.access.key.id");
        permanent(&status("301 Moved: <Code>PermanentRedirect</Code>"), "s3.region");
        permanent(&status("400 Bad Request: <Code>ExpiredToken</Code>"), "credentials");
        permanent(&status("501 Not Implemented: "), "enable.conditional.writes");
        permanent(&status("405 Method Not Allowed: "), "store.url");
        permanent(&generic("Received redirect without LOCATION, this normally indicates"), "s3.region");
        permanent(&StoreError::PermissionDenied { path: "k".into(), source: "no".into() }, "s3:PutObject");
        for answer in [
            status("503 Slow Down: <Code>SlowDown</Code>"),
            status("429 Too Many: "),
            status("400 Bad Request: <Code>RequestTimeout</Code>"),
            status("400 Bad Request: <Code>IncompleteBody</Code>"),
            generic("Server returned error response: <Error><Code>InternalError</Code></Error>"),
            generic("connection reset"),
        ] {
            assert_eq!(verdict(&answer, "b"), Verdict::Transient, "{answer}");
        }
        for (text, refuses) in [
            ("501 Not Implemented: <Code>NotImplemented</Code>", true),
            ("400 Bad Request: ", true),
            ("400 Bad Request: <Code>InvalidArgument</Code>", true),
            ("400 Bad Request: <Code>EntityTooSmall</Code>", false),
            ("503 Slow Down: <Code>SlowDown</Code>", false),
        ] {
            assert_eq!(refuses_conditions(&status(text)), refuses, "{text}");
        }
        let denied = |text: &str| StoreError::PermissionDenied { path: "k".into(), source: text.to_owned().into() };
        assert!(is_access_denied(&denied("<Code>AccessDenied</Code>")) && is_access_denied(&denied("403")));
        assert!(!is_access_denied(&denied("<Code>InvalidAccessKeyId</Code>")), "other keys are needed");
        assert_eq!(verdict(&StoreError::NotFound { path: "k".into(), source: "".into() }, "b"), Verdict::Absent);
        assert_eq!(verdict(&StoreError::AlreadyExists { path: "k".into(), source: "".into() }, "b"), Verdict::Present);
    }
}
