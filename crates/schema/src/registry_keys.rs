//! The configuration keys of converters that ask a schema registry.

use model::{Check, Importance, Key, Kind};

use crate::registry_latest::{LATEST_CACHE_TTL, USE_LATEST_VERSION, USE_LATEST_WITH_METADATA};

const PRODUCER: &str = "it is for producers, and a sink registers no schema";

/// Where the registry is.
pub(crate) const URL: Key = Key::new(
    "schema.registry.url",
    Kind::List,
    "Addresses of the schema registry, separated by commas: http:// or https://, with a path if it has one. Each is tried \
     when the one before does not answer.",
)
.required()
.importance(Importance::High)
.group("Schema Registry", 0);

/// Where the user comes from.
pub(crate) const BASIC_SOURCE: Key = Key::new(
    "basic.auth.credentials.source",
    Kind::String,
    "Where the registry's user and password come from: URL (http://user:password@host), USER_INFO (basic.auth.user.info) or \
     SASL_INHERIT (username and password of sasl.jaas.config).",
)
.default("URL")
.check(Check::OneOf(&["URL", "USER_INFO", "SASL_INHERIT"]))
.importance(Importance::Medium)
.group("Schema Registry", 1);

/// User and password.
pub(crate) const USER_INFO: Key =
    Key::new("basic.auth.user.info", Kind::Password, "The registry's user and password, as user:password.")
        .importance(Importance::Medium)
        .group("Schema Registry", 2);

/// The same under its older name.
pub(crate) const OLD_USER_INFO: Key =
    Key::new("schema.registry.basic.auth.user.info", Kind::Password, "Older name of basic.auth.user.info.")
        .importance(Importance::Medium)
        .group("Schema Registry", 3);

/// The login of Kafka, where SASL_INHERIT takes the user from.
pub(crate) const SASL_JAAS_CONFIG: Key = Key::new(
    "sasl.jaas.config",
    Kind::Password,
    "With basic.auth.credentials.source=SASL_INHERIT: the JAAS line whose username and password the registry gets.",
)
.importance(Importance::Medium)
.group("Schema Registry", 4);

/// Where the token comes from.
pub(crate) const BEARER_SOURCE: Key = Key::new(
    "bearer.auth.credentials.source",
    Kind::String,
    "Where the registry's token comes from: STATIC_TOKEN (bearer.auth.token) or OAUTHBEARER (asked from \
     bearer.auth.issuer.endpoint.url).",
)
.check(Check::With(|source| match source {
    "STATIC_TOKEN" | "OAUTHBEARER" => Ok(()),
    _ => Err("is not supported; use STATIC_TOKEN or OAUTHBEARER".to_owned()),
}))
.importance(Importance::Medium)
.group("Schema Registry", 5);

/// The token.
pub(crate) const BEARER_TOKEN: Key = Key::new("bearer.auth.token", Kind::Password, "The registry's token.")
    .importance(Importance::Medium)
    .group("Schema Registry", 6);

/// Who issues tokens.
pub(crate) const ISSUER_URL: Key = Key::new(
    "bearer.auth.issuer.endpoint.url",
    Kind::String,
    "With OAUTHBEARER: the address that gives a token for client id and secret.",
)
.group("Schema Registry", 7);

/// Client id for the issuer.
pub(crate) const CLIENT_ID: Key =
    Key::new("bearer.auth.client.id", Kind::String, "With OAUTHBEARER: the client id.").group("Schema Registry", 8);

/// Client secret for the issuer.
pub(crate) const CLIENT_SECRET: Key =
    Key::new("bearer.auth.client.secret", Kind::Password, "With OAUTHBEARER: the client secret.")
        .group("Schema Registry", 9);

/// Scope of the token.
pub(crate) const SCOPE: Key =
    Key::new("bearer.auth.scope", Kind::String, "With OAUTHBEARER: the scope that is asked for.")
        .group("Schema Registry", 10);

/// Logical cluster.
pub(crate) const LOGICAL_CLUSTER: Key = Key::new(
    "bearer.auth.logical.cluster",
    Kind::String,
    "With a token: the registry's logical cluster, sent as target-sr-cluster.",
)
.group("Schema Registry", 11);

/// Identity pool.
pub(crate) const IDENTITY_POOL: Key = Key::new(
    "bearer.auth.identity.pool.id",
    Kind::String,
    "With a token: the identity pool, sent as Confluent-Identity-Pool-Id.",
)
.group("Schema Registry", 12);

/// Kind of trust store.
pub(crate) const TRUSTSTORE_TYPE: Key = Key::new(
    "schema.registry.ssl.truststore.type",
    Kind::String,
    "Kind of the trust store; PEM is the only one that can be read.",
)
.group("Schema Registry", 20);

/// Trust store.
pub(crate) const TRUSTSTORE_LOCATION: Key = Key::new(
    "schema.registry.ssl.truststore.location",
    Kind::String,
    "PEM file with the certificates that the registry's certificate must come from. Not given, those of the system.",
)
.group("Schema Registry", 21);

/// Password of the trust store.
pub(crate) const TRUSTSTORE_PASSWORD: Key =
    Key::new("schema.registry.ssl.truststore.password", Kind::Password, "Password of the trust store.")
        .ignored("certificates in PEM have none")
        .group("Schema Registry", 22);

/// Trusted certificates in the configuration itself.
pub(crate) const TRUSTSTORE_CERTIFICATES: Key = Key::new(
    "schema.registry.ssl.truststore.certificates",
    Kind::Password,
    "The certificates themselves, in PEM, instead of a file.",
)
.group("Schema Registry", 23);

/// Kind of key store.
pub(crate) const KEYSTORE_TYPE: Key = Key::new(
    "schema.registry.ssl.keystore.type",
    Kind::String,
    "Kind of the key store; PEM is the only one that can be read.",
)
.group("Schema Registry", 24);

/// Key store.
pub(crate) const KEYSTORE_LOCATION: Key = Key::new(
    "schema.registry.ssl.keystore.location",
    Kind::String,
    "PEM file with our private key and certificates, for a registry that asks for them.",
)
.group("Schema Registry", 25);

/// Password of the key store.
pub(crate) const KEYSTORE_PASSWORD: Key =
    Key::new("schema.registry.ssl.keystore.password", Kind::Password, "Password of the key store.")
        .ignored("a file in PEM has none")
        .group("Schema Registry", 26);

/// Our key in the configuration itself.
pub(crate) const KEYSTORE_KEY: Key =
    Key::new("schema.registry.ssl.keystore.key", Kind::Password, "Our private key itself, in PEM, not encrypted.")
        .group("Schema Registry", 27);

/// Our certificates in the configuration itself.
pub(crate) const KEYSTORE_CERTIFICATES: Key =
    Key::new("schema.registry.ssl.keystore.certificate.chain", Kind::Password, "Our certificates themselves, in PEM.")
        .group("Schema Registry", 28);

/// Password of the key.
pub(crate) const KEY_PASSWORD: Key = Key::new(
    "schema.registry.ssl.key.password",
    Kind::Password,
    "Password of our private key. Only keys that are not encrypted can be read.",
)
.ignored("a key that is encrypted is refused, with the command that decrypts it")
.group("Schema Registry", 29);

/// Whether the certificate must name the host.
pub(crate) const IDENTIFICATION: Key = Key::new(
    "schema.registry.ssl.endpoint.identification.algorithm",
    Kind::String,
    "https: the registry's certificate must name its host. Empty: it need not.",
)
.default("https")
.group("Schema Registry", 30);

/// Host of a proxy.
pub(crate) const PROXY_HOST: Key =
    Key::new("proxy.host", Kind::String, "Host of an HTTP proxy between here and the registry.")
        .default("")
        .group("Schema Registry", 31);

/// Port of a proxy.
pub(crate) const PROXY_PORT: Key = Key::new("proxy.port", Kind::Int, "Port of that proxy.")
    .default("-1")
    .check(Check::Between(-1, 65_535))
    .group("Schema Registry", 32);

/// How long a connection may take.
pub(crate) const CONNECT_TIMEOUT: Key =
    Key::new("http.connect.timeout.ms", Kind::Int, "Milliseconds that a connection to the registry may take.")
        .default("60000")
        .check(Check::AtLeast(0))
        .group("Schema Registry", 33);

/// How long an answer may take.
pub(crate) const READ_TIMEOUT: Key =
    Key::new("http.read.timeout.ms", Kind::Int, "Milliseconds that the registry may be silent.")
        .default("60000")
        .check(Check::AtLeast(0))
        .group("Schema Registry", 34);

/// How often a request is repeated.
pub(crate) const MAX_RETRIES: Key = Key::new(
    "max.retries",
    Kind::Int,
    "How often a request is repeated when no address answers, before it is an error of the batch.",
)
.default("3")
.check(Check::Between(0, 1_000))
.group("Schema Registry", 35);

/// The first wait.
pub(crate) const RETRIES_WAIT: Key =
    Key::new("retries.wait.ms", Kind::Int, "Milliseconds before the first repetition; doubled each time.")
        .default("1000")
        .check(Check::AtLeast(0))
        .group("Schema Registry", 36);

/// The longest wait.
pub(crate) const RETRIES_WAIT_MAX: Key =
    Key::new("retries.max.wait.ms", Kind::Int, "The most milliseconds between two repetitions.")
        .default("20000")
        .check(Check::AtLeast(0))
        .group("Schema Registry", 37);

/// Subjects of keys.
pub(crate) const KEY_SUBJECT_NAME_STRATEGY: Key = Key::new(
    "key.subject.name.strategy",
    Kind::Class,
    "The subject under which a key's schema has its version: TopicNameStrategy, RecordNameStrategy or \
     TopicRecordNameStrategy. If it has none there, the others are looked at.",
)
.default("io.confluent.kafka.serializers.subject.TopicNameStrategy")
.group("Schema Registry", 40);

/// Subjects of values.
pub(crate) const VALUE_SUBJECT_NAME_STRATEGY: Key = Key::new(
    "value.subject.name.strategy",
    Kind::Class,
    "The subject under which a value's schema has its version: TopicNameStrategy, RecordNameStrategy or \
     TopicRecordNameStrategy. If it has none there, the others are looked at.",
)
.default("io.confluent.kafka.serializers.subject.TopicNameStrategy")
.group("Schema Registry", 41);

/// Every key that has to do with the registry.
pub(crate) const REGISTRY_KEYS: &[Key] = &[
    URL,
    BASIC_SOURCE,
    USER_INFO,
    OLD_USER_INFO,
    SASL_JAAS_CONFIG,
    BEARER_SOURCE,
    BEARER_TOKEN,
    ISSUER_URL,
    CLIENT_ID,
    CLIENT_SECRET,
    SCOPE,
    LOGICAL_CLUSTER,
    IDENTITY_POOL,
    TRUSTSTORE_TYPE,
    TRUSTSTORE_LOCATION,
    TRUSTSTORE_PASSWORD,
    TRUSTSTORE_CERTIFICATES,
    KEYSTORE_TYPE,
    KEYSTORE_LOCATION,
    KEYSTORE_PASSWORD,
    KEYSTORE_KEY,
    KEYSTORE_CERTIFICATES,
    KEY_PASSWORD,
    IDENTIFICATION,
    PROXY_HOST,
    PROXY_PORT,
    CONNECT_TIMEOUT,
    READ_TIMEOUT,
    MAX_RETRIES,
    RETRIES_WAIT,
    RETRIES_WAIT_MAX,
    KEY_SUBJECT_NAME_STRATEGY,
    VALUE_SUBJECT_NAME_STRATEGY,
    Key::new("max.schemas.per.subject", Kind::Int, "How many schemas of a subject are remembered.")
        .default("1000")
        .ignored("schemas are remembered by id")
        .group("Schema Registry", 50),
    Key::new("schemas.cache.config", Kind::Int, "How many schemas are remembered.")
        .default("1000")
        .ignored("schemas are remembered by id")
        .group("Schema Registry", 51),
    Key::new("key.schema.id.deserializer", Kind::Class, "Where a key's schema id is: in a header or in front of it.")
        .ignored("both places are looked at, the header first")
        .group("Schema Registry", 52),
    Key::new(
        "value.schema.id.deserializer",
        Kind::Class,
        "Where a value's schema id is: in a header or in front of it.",
    )
    .ignored("both places are looked at, the header first")
    .group("Schema Registry", 53),
    Key::new("auto.register.schemas", Kind::Boolean, "Whether a producer registers schemas.")
        .default("true")
        .ignored(PRODUCER)
        .group("Schema Registry", 54),
    Key::new("normalize.schemas", Kind::Boolean, "Whether schemas are normalised before they are registered.")
        .default("false")
        .ignored(PRODUCER)
        .group("Schema Registry", 55),
    Key::new("use.schema.id", Kind::Int, "The id that a producer writes.")
        .default("-1")
        .ignored(PRODUCER)
        .group("Schema Registry", 56),
    Key::new("id.compatibility.strict", Kind::Boolean, "Whether that id's schema must be compatible.")
        .default("true")
        .ignored(PRODUCER)
        .group("Schema Registry", 57),
    USE_LATEST_VERSION,
    USE_LATEST_WITH_METADATA,
    LATEST_CACHE_TTL,
    Key::new("latest.cache.size", Kind::Int, "How many subjects' latest schemas are remembered.")
        .default("1000")
        .ignored("it is 1000")
        .group("Schema Registry", 61),
    Key::new("latest.compatibility.strict", Kind::Boolean, "Whether the latest schema must be compatible.")
        .default("true")
        .ignored("it is for producers: readers take the latest schema, and what does not fit is an error of the record")
        .group("Schema Registry", 62),
];
