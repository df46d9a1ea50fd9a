//! Where the S3 client gets its credentials: static keys, one link of the chain that AWS SDKs walk, or a role that these
//! may assume.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use model::{Invalid, Secret, Settings};
use object_store::CredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};

use crate::assume_role;
use crate::counting::OnRequest;
use crate::error::OpenError;
use crate::s3::{AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, S3_CREDENTIALS_PROVIDER_CLASS};

/// Environment variables, as the process that reads them gives them in.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    seed: u64,
    on_request: OnRequest,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl Environment {
    /// Of all `variables` only `AWS_*` and `HOME` are looked at.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Environment {
        let ours = |name: &str| name.starts_with("AWS_") || name == "HOME";
        let variables = variables.into_iter().filter(|(name, _)| ours(name)).collect();
        Environment { variables, ..Environment::default() }
    }

    /// Draws the jitter of retries from `seed`, so that processes do not come back together.
    pub fn with_seed(mut self, seed: u64) -> Environment {
        self.seed = seed;
        self
    }

    /// Tells `on_request` the operation of each request to S3, under its name in the API of S3 (`PutObject`).
    pub fn counting(mut self, on_request: impl Fn(&'static str) + Send + Sync + 'static) -> Environment {
        self.on_request = OnRequest(Arc::new(on_request));
        self
    }

    pub(crate) fn on_request(&self) -> OnRequest {
        self.on_request.clone()
    }

    /// Where STS is asked, if not where AWS has it.
    pub(crate) fn sts_endpoint(&self) -> Option<String> {
        self.get("AWS_ENDPOINT_URL_STS").or_else(|| self.get("AWS_ENDPOINT_URL")).map(str::to_owned)
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The variable; `None` when it is not set or blank.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

/// What `s3.credentials.provider.class` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Chain,
    Environment,
    Profile,
    WebIdentity,
    Container,
    Instance,
    Anonymous,
    AssumeRole,
    /// A class of the SDK that the S3 sink cannot make.
    Unusable,
    /// A class of somebody's own: the chain, with a warning.
    Unknown,
}

/// Class names of the AWS SDKs for Java, versions 1 and 2, and of the S3 sink.
const CLASSES: &[(&str, Wanted)] = &[
    ("DefaultAWSCredentialsProviderChain", Wanted::Chain),
    ("DefaultCredentialsProvider", Wanted::Chain),
    ("AwsCredentialsProviderChain", Wanted::Chain),
    ("AWSCredentialsProviderChain", Wanted::Chain),
    ("EnvironmentVariableCredentialsProvider", Wanted::Environment),
    ("ProfileCredentialsProvider", Wanted::Profile),
    ("WebIdentityTokenFileCredentialsProvider", Wanted::WebIdentity),
    ("WebIdentityTokenCredentialsProvider", Wanted::WebIdentity),
    ("StsWebIdentityTokenFileCredentialsProvider", Wanted::WebIdentity),
    ("ContainerCredentialsProvider", Wanted::Container),
    ("EC2ContainerCredentialsProviderWrapper", Wanted::Container),
    ("InstanceProfileCredentialsProvider", Wanted::Instance),
    ("AnonymousCredentialsProvider", Wanted::Anonymous),
    ("AnonymousAWSCredentials", Wanted::Anonymous),
    ("AwsAssumeRoleCredentialsProvider", Wanted::AssumeRole),
    ("STSAssumeRoleSessionCredentialsProvider", Wanted::Unusable),
    ("StsAssumeRoleCredentialsProvider", Wanted::Unusable),
];

fn wanted(class: &str) -> Wanted {
    let simple = class.rsplit(['.', '$']).next().unwrap_or(class);
    CLASSES.iter().find(|(name, _)| *name == simple).map_or(Wanted::Unknown, |(_, wanted)| *wanted)
}

/// What is wrong with the credential keys together.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let class = settings.text(&S3_CREDENTIALS_PROVIDER_CLASS).unwrap_or_default();
    match wanted(class) {
        Wanted::AssumeRole => assume_role::check(settings),
        Wanted::Unusable if static_keys(settings).is_none() => {
            let why =
                "the class takes no configuration, name io.confluent.connect.s3.auth.AwsAssumeRoleCredentialsProvider";
            vec![Invalid::value(&S3_CREDENTIALS_PROVIDER_CLASS, class, why)]
        }
        Wanted::Chain
        | Wanted::Environment
        | Wanted::Profile
        | Wanted::WebIdentity
        | Wanted::Container
        | Wanted::Instance
        | Wanted::Anonymous
        | Wanted::Unusable
        | Wanted::Unknown => Vec::new(),
    }
}

/// Whether the credentials are those of a role, for which the others ask.
pub(crate) fn assumes_role(settings: &Settings) -> bool {
    wanted(settings.text(&S3_CREDENTIALS_PROVIDER_CLASS).unwrap_or_default()) == Wanted::AssumeRole
}

/// Whether requests are not signed at all.
pub(crate) fn is_anonymous(settings: &Settings) -> bool {
    let class = settings.text(&S3_CREDENTIALS_PROVIDER_CLASS).unwrap_or_default();
    static_keys(settings).is_none() && wanted(class) == Wanted::Anonymous
}

/// What a user should know about the credential keys though they are accepted.
pub(crate) fn advice(settings: &Settings) -> Option<String> {
    let class = settings.text(&S3_CREDENTIALS_PROVIDER_CLASS)?;
    if static_keys(settings).is_none() && wanted(class) == Wanted::Unknown {
        return Some(format!(
            "{} {class} is a class that this program does not have: the default credentials chain is used instead",
            S3_CREDENTIALS_PROVIDER_CLASS.name
        ));
    }
    None
}

fn static_keys(settings: &Settings) -> Option<(String, Secret)> {
    let id = settings.text(&AWS_ACCESS_KEY_ID).filter(|id| !id.is_empty())?;
    let secret = settings.text(&AWS_SECRET_ACCESS_KEY).filter(|secret| !secret.is_empty())?;
    Some((id.to_owned(), Secret::new(secret)))
}

/// One place that has credentials.
#[derive(Debug)]
enum Link {
    Static { id: String, secret: Secret, token: Option<Secret> },
    Profile(Arc<ProfileProvider>),
    WebIdentity,
    Container,
    Instance,
    Anonymous,
}

/// Gives `builder` the credentials that the settings and the environment mean, a role left aside.
pub(crate) fn apply(
    builder: AmazonS3Builder,
    settings: &Settings,
    environment: &Environment,
) -> Result<AmazonS3Builder, OpenError> {
    let set = |builder: AmazonS3Builder, key: AmazonS3ConfigKey, name: &str| match environment.get(name) {
        Some(value) => builder.with_config(key, value),
        None => builder,
    };
    Ok(match link(settings, environment)? {
        Link::Static { id, secret, token } => {
            let builder = builder.with_access_key_id(id).with_secret_access_key(secret.reveal());
            match token {
                Some(token) => builder.with_token(token.reveal()),
                None => builder,
            }
        }
        Link::Profile(provider) => builder.with_credentials(provider),
        Link::WebIdentity => {
            let builder = set(builder, AmazonS3ConfigKey::WebIdentityTokenFile, "AWS_WEB_IDENTITY_TOKEN_FILE");
            let builder = set(builder, AmazonS3ConfigKey::RoleArn, "AWS_ROLE_ARN");
            let builder = set(builder, AmazonS3ConfigKey::RoleSessionName, "AWS_ROLE_SESSION_NAME");
            match environment.sts_endpoint() {
                Some(endpoint) => builder.with_config(AmazonS3ConfigKey::StsEndpoint, endpoint),
                None => builder,
            }
        }
        Link::Container => {
            let builder = set(
                builder,
                AmazonS3ConfigKey::ContainerCredentialsRelativeUri,
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            );
            let builder =
                set(builder, AmazonS3ConfigKey::ContainerCredentialsFullUri, "AWS_CONTAINER_CREDENTIALS_FULL_URI");
            set(builder, AmazonS3ConfigKey::ContainerAuthorizationTokenFile, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        }
        Link::Instance => set(builder, AmazonS3ConfigKey::MetadataEndpoint, "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        Link::Anonymous => builder.with_skip_signature(true),
    })
}

fn link(settings: &Settings, environment: &Environment) -> Result<Link, OpenError> {
    if let Some((id, secret)) = static_keys(settings) {
        return Ok(Link::Static { id, secret, token: None });
    }
    let missing = |reason: &str| OpenError::Credentials { reason: reason.to_owned() };
    let class = settings.text(&S3_CREDENTIALS_PROVIDER_CLASS).unwrap_or_default();
    match wanted(class) {
        Wanted::Chain | Wanted::AssumeRole | Wanted::Unusable | Wanted::Unknown => chain(environment),
        Wanted::Environment => from_variables(environment)
            .ok_or_else(|| missing("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set in the environment")),
        Wanted::Profile => {
            ProfileProvider::new(environment)?.map(|provider| Link::Profile(Arc::new(provider))).ok_or_else(|| {
                missing("there is no profile with credentials: set AWS_PROFILE and AWS_SHARED_CREDENTIALS_FILE")
            })
        }
        Wanted::WebIdentity => web_identity(environment)
            .ok_or_else(|| missing("AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN are not set in the environment")),
        Wanted::Container => container(environment)?.ok_or_else(|| {
            missing("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and ..._FULL_URI are not set in the environment")
        }),
        Wanted::Instance => Ok(Link::Instance),
        Wanted::Anonymous => Ok(Link::Anonymous),
    }
}

/// The order of the AWS SDK for Java 2 (`DefaultCredentialsProvider`), without the properties of a JVM.
fn chain(environment: &Environment) -> Result<Link, OpenError> {
    if let Some(link) = from_variables(environment).or_else(|| web_identity(environment)) {
        return Ok(link);
    }
    if let Some(provider) = ProfileProvider::new(environment)? {
        return Ok(Link::Profile(Arc::new(provider)));
    }
    if let Some(link) = container(environment)? {
        return Ok(link);
    }
    if environment.get("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        let reason = "set aws.access.key.id and aws.secret.access.key, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile \
                      (web identity and container variables are not set, and AWS_EC2_METADATA_DISABLED forbids to ask the instance)";
        return Err(OpenError::Credentials { reason: reason.to_owned() });
    }
    Ok(Link::Instance)
}

fn from_variables(environment: &Environment) -> Option<Link> {
    let id = environment.get("AWS_ACCESS_KEY_ID")?.to_owned();
    let secret = Secret::new(environment.get("AWS_SECRET_ACCESS_KEY")?);
    Some(Link::Static { id, secret, token: environment.get("AWS_SESSION_TOKEN").map(Secret::new) })
}

fn web_identity(environment: &Environment) -> Option<Link> {
    environment.get("AWS_WEB_IDENTITY_TOKEN_FILE").and(environment.get("AWS_ROLE_ARN")).map(|_| Link::WebIdentity)
}

fn container(environment: &Environment) -> Result<Option<Link>, OpenError> {
    if environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").is_some() {
        return Ok(Some(Link::Container));
    }
    if environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI").is_none() {
        return Ok(None);
    }
    if environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").is_some() {
        return Ok(Some(Link::Container));
    }
    let reason = "AWS_CONTAINER_CREDENTIALS_FULL_URI without AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is not supported";
    Err(OpenError::Credentials { reason: reason.to_owned() })
}

/// Static credentials of one profile of `~/.aws/credentials` and `~/.aws/config`, read again when a file changes.
#[derive(Debug)]
struct ProfileProvider {
    profile: String,
    credentials_file: PathBuf,
    config_file: PathBuf,
    read: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    versions: [Version; 2],
    credential: Arc<AwsCredential>,
}

type Version = Option<(SystemTime, u64)>;

impl ProfileProvider {
    /// `Ok(None)` when no file has the profile and nobody asked for one.
    fn new(environment: &Environment) -> Result<Option<ProfileProvider>, OpenError> {
        let below_home = |name: &str| environment.get("HOME").map(|home| Path::new(home).join(".aws").join(name));
        let file =
            |variable: &str, name: &str| environment.get(variable).map(PathBuf::from).or_else(|| below_home(name));
        let (Some(credentials_file), Some(config_file)) =
            (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), file("AWS_CONFIG_FILE", "config"))
        else {
            return Ok(None);
        };
        let asked_for = environment.get("AWS_PROFILE");
        let profile = asked_for.unwrap_or("default").to_owned();
        let versions = [version(&credentials_file), version(&config_file)];
        match read_profile(&profile, &credentials_file, &config_file) {
            Ok(Some(credential)) => {
                let read = Mutex::new(Read { versions, credential: Arc::new(credential) });
                Ok(Some(ProfileProvider { profile, credentials_file, config_file, read }))
            }
            Ok(None) if asked_for.is_none() => Ok(None),
            Ok(None) => Err(OpenError::Credentials {
                reason: format!(
                    "AWS_PROFILE is {profile}, and neither {} nor {} has credentials for it",
                    credentials_file.display(),
                    config_file.display()
                ),
            }),
            Err(reason) => Err(OpenError::Credentials { reason }),
        }
    }

    fn current(&self) -> Result<Arc<AwsCredential>, String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = [version(&self.credentials_file), version(&self.config_file)];
        if versions != read.versions {
            let credential = read_profile(&self.profile, &self.credentials_file, &self.config_file)?
                .ok_or_else(|| format!("profile {} is gone from {}", self.profile, self.credentials_file.display()))?;
            *read = Read { versions, credential: Arc::new(credential) };
        }
        Ok(Arc::clone(&read.credential))
    }
}

#[async_trait]
impl CredentialProvider for ProfileProvider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.current().map_err(|reason| object_store::Error::Generic { store: "profile", source: reason.into() })
    }
}

fn version(file: &Path) -> Version {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// `Ok(None)` when neither file has the profile with static keys.
fn read_profile(profile: &str, credentials_file: &Path, config_file: &Path) -> Result<Option<AwsCredential>, String> {
    let mut entries = BTreeMap::new();
    // Where both files say something the credentials file wins, so it comes last.
    let headers = [(config_file, true), (credentials_file, false)];
    for (file, is_config) in headers {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("could not read {}: {error}", file.display())),
        };
        let section = if is_config && profile != "default" { format!("profile {profile}") } else { profile.to_owned() };
        entries.extend(section_of(&text, &section));
    }
    let entry = |name: &str| entries.get(name).filter(|value| !value.is_empty()).cloned();
    if let (Some(key_id), Some(secret_key)) = (entry("aws_access_key_id"), entry("aws_secret_access_key")) {
        return Ok(Some(AwsCredential { key_id, secret_key, token: entry("aws_session_token") }));
    }
    for unsupported in ["credential_process", "sso_session", "sso_start_url", "role_arn", "web_identity_token_file"] {
        if entries.contains_key(unsupported) {
            return Err(format!(
                "profile {profile} uses {unsupported}, which is not supported: put aws_access_key_id and aws_secret_access_key into {}, \
                 or export the credentials as environment variables",
                credentials_file.display()
            ));
        }
    }
    Ok(None)
}

/// The entries of one section; names in lower case. Indented lines belong to a nested value and are passed over.
fn section_of(text: &str, wanted: &str) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    let mut inside = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(header, _)| header)
        {
            inside = header.split_whitespace().eq(wanted.split_whitespace());
            continue;
        }
        if !inside || line.starts_with([' ', '\t']) {
            continue;
        }
        if let Some((name, value)) = trimmed.split_once('=') {
            let value = value.split(" #").next().unwrap_or(value);
            entries.insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    fn found(config: &[(&str, &str)], variables: &[(&str, &str)]) -> String {
        match link(&settings(config), &environment(variables)) {
            Ok(Link::Static { id, token, .. }) => {
                format!("static {id}{}", if token.is_some() { " with token" } else { "" })
            }
            Ok(Link::Profile(provider)) => format!("profile {}", provider.current().unwrap().key_id),
            Ok(other) => format!("{other:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_first_link_that_can_give_credentials_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_str().unwrap();
        std::fs::create_dir(directory.path().join(".aws")).unwrap();
        std::fs::write(
            directory.path().join(".aws/credentials"),
            "[default]\naws_access_key_id=P\naws_secret_access_key=s\n",
        )
        .unwrap();
        let keys = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"), ("AWS_ROLE_ARN", "r")];
        let container = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/c")];
        let with_home = [("HOME", home)];
        let all = [&keys[..], &web, &with_home, &container].concat();
        let class = |name: &'static str| [("s3.credentials.provider.class", name)];
        type Pairs<'a> = Vec<(&'a str, &'a str)>;
        let cases: [(Pairs<'_>, Pairs<'_>, &str); 7] = [
            (vec![("aws.access.key.id", "C"), ("aws.secret.access.key", "s")], all.clone(), "static C"),
            (vec![("aws.access.key.id", "C"), ("aws.secret.access.key", " ")], all.clone(), "static E"),
            (vec![], [&all[..], &[("AWS_SESSION_TOKEN", "t")]].concat(), "static E with token"),
            (vec![], all[2..].to_vec(), "WebIdentity"),
            (vec![], all[4..].to_vec(), "profile P"),
            (vec![], all[5..].to_vec(), "Container"),
            (vec![], vec![], "Instance"),
        ];
        for (config, variables, expected) in cases {
            assert_eq!(found(&config, &variables), expected, "{config:?} {variables:?}");
        }
        let named = [
            ("com.amazonaws.auth.DefaultAWSCredentialsProviderChain", "static E"),
            ("software.amazon.awssdk.auth.credentials.InstanceProfileCredentialsProvider", "Instance"),
            ("software.amazon.awssdk.auth.credentials.ProfileCredentialsProvider", "profile P"),
            ("com.amazonaws.auth.WebIdentityTokenCredentialsProvider", "WebIdentity"),
            ("com.amazonaws.auth.EC2ContainerCredentialsProviderWrapper", "Container"),
            ("software.amazon.awssdk.auth.credentials.AnonymousCredentialsProvider", "Anonymous"),
            ("com.example.OurProvider", "static E"),
        ];
        for (name, expected) in named {
            assert_eq!(found(&class(name), &all), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_work_says_what_to_set() {
        let class = |name: &'static str| [("s3.credentials.provider.class", name)];
        let text = found(&class("a.EnvironmentVariableCredentialsProvider"), &[]);
        assert_eq!(
            text,
            "no credentials for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set in the environment"
        );
        assert!(found(&[], &[("AWS_EC2_METADATA_DISABLED", "true")]).contains("aws.access.key.id"));
        assert!(found(&[], &[("AWS_PROFILE", "x"), ("HOME", "/nowhere")]).contains("AWS_PROFILE is x"));
        assert!(found(&[], &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://x")]).contains("is not supported"));
        let role = settings(&class("io.confluent.connect.s3.auth.AwsAssumeRoleCredentialsProvider"));
        assert_eq!(
            check(&role).into_iter().map(|problem| problem.message).collect::<Vec<_>>(),
            [
                "Missing required configuration \"s3.credentials.provider.sts.role.arn\" which has no default value.",
                "Missing required configuration \"s3.credentials.provider.sts.role.session.name\" which has no default value."
            ]
        );
        let sdk = settings(&class("software.amazon.awssdk.services.sts.auth.StsAssumeRoleCredentialsProvider"));
        assert!(check(&sdk)[0].message.contains("AwsAssumeRoleCredentialsProvider"));
        assert!(advice(&settings(&class("com.example.OurProvider"))).unwrap().contains("default credentials chain"));
        assert_eq!(advice(&settings(&[])), None);
    }

    #[test]
    fn a_profile_is_found_in_both_files_and_the_credentials_file_wins() {
        let config = "[default]\nregion=x\n[profile team]\naws_access_key_id = C # note\naws_secret_access_key=c\ns3 =\n  aws_access_key_id = nested\n";
        let credentials = "; comment\n[other]\naws_access_key_id=O\n[team]\nAWS_ACCESS_KEY_ID = T\n";
        let directory = tempfile::tempdir().unwrap();
        let (config_file, credentials_file) = (directory.path().join("config"), directory.path().join("credentials"));
        std::fs::write(&config_file, config).unwrap();
        let read = |profile| read_profile(profile, &credentials_file, &config_file);
        assert_eq!(read("team").unwrap().unwrap().key_id, "C");
        std::fs::write(&credentials_file, credentials).unwrap();
        let both = read("team").unwrap().unwrap();
        assert_eq!((both.key_id.as_str(), both.secret_key.as_str()), ("T", "c"));
        assert!(read("default").unwrap().is_none());
        std::fs::write(&credentials_file, "[team]\ncredential_process = /bin/x\n").unwrap();
        std::fs::write(&config_file, "").unwrap();
        assert!(read("team").unwrap_err().contains("credential_process, which is not supported"));
    }

    #[tokio::test]
    async fn a_changed_profile_is_read_again_and_secrets_are_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("credentials");
        std::fs::write(&file, "[default]\naws_access_key_id=A\naws_secret_access_key=hush\n").unwrap();
        let environment = environment(&[
            ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
            ("AWS_CONFIG_FILE", "/nowhere/config"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
        ]);
        assert!(!format!("{environment:?}").contains("hush"));
        let provider = ProfileProvider::new(&environment).unwrap().unwrap();
        assert_eq!(provider.get_credential().await.unwrap().key_id, "A");
        std::fs::write(&file, "[default]\naws_access_key_id=ROTATED\naws_secret_access_key=t\n").unwrap();
        assert_eq!(provider.get_credential().await.unwrap().key_id, "ROTATED");
        std::fs::remove_file(&file).unwrap();
        assert!(provider.get_credential().await.is_err());
        assert!(!format!("{provider:?}").contains("hush"));
    }
}
