//! What a connector configuration is made of: every plug-in it names, built and checked without any I/O but the reading
//! of a schema file.

use std::path::Path;
use std::sync::Arc;

use model::{Config, Fingerprint, Invalid, Key, Plugin, Settings, find};
use pipeline::{ConverterClasses, ErrorRules, Recipe, TopicSchemas};
use schema::{
    BuildConverter, CONVERTERS, Converter, GivenSchema, HEADER_CONVERTER, HEADER_CONVERTERS, KEY_CONVERTER, Part,
    SchemaRules, UNION_NAMES, VALUE_CONVERTER,
};
use transform::Chain;
use writer::{
    FileContext, FileLimits, KafkaColumns, Layout, NullValues, Rotation, Store, Tagging, View, Views,
    partitioner_plugin,
};

use crate::dead_letters;

/// The converters that read keys and values, and headers, when neither connector nor worker names one.
const DEFAULT_CONVERTER: &str = "json";
const DEFAULT_HEADER_CONVERTER: &str = "simple";

/// Settings that shape the names and rows of a cut, besides those of converters and transforms. A plan that was made under
/// others must not be replayed. Where cuts end (`flush.*`, `rotate.*`) is not among them, for a plan has its end; nor is what
/// becomes of objects that exist.
const SHAPING: &[&str] = &[
    "format.class",
    "parquet.codec",
    "s3.compression.type",
    "s3.compression.level",
    "json.decimal.format",
    "format.bytearray.extension",
    "avro.codec",
    "connect.meta.data",
    "enhanced.avro.schema.support",
    "s3.bucket.name",
    "store.url",
    "topics.dir",
    "directory.delim",
    "file.delim",
    "filename.offset.zero.pad.width",
    "partitioner.class",
    "partition.field.name",
    "partition.duration.ms",
    "path.format",
    "path.template",
    "s3.schema.partition.affix.type",
    "locale",
    "timezone",
    "timestamp.extractor",
    "timestamp.field",
    "timestamp.unit",
    "behavior.on.null.values",
    "kafka.columns",
    "kafka.columns.prefix",
    "store.kafka.keys",
    "store.kafka.headers",
    "keys.format.class",
    "headers.format.class",
    "tombstone.encoded.partition",
    "errors.tolerance",
    "schema.compatibility",
    "schema.change.files",
];

/// The plug-in and settings of a converter: the connector's, else the worker's. A connector that names a converter gets
/// none of the worker's keys for it (`ConnectorConfig` of Kafka Connect).
pub(crate) struct ChosenConverter {
    pub(crate) plugin: &'static Plugin<BuildConverter>,
    pub(crate) settings: Settings,
}

pub(crate) fn converter(settings: &Settings, worker: &Settings, part: Part) -> Result<ChosenConverter, Invalid> {
    let key = part.key();
    let (table, default) = match part {
        Part::Key | Part::Value => (CONVERTERS, DEFAULT_CONVERTER),
        Part::Header => (HEADER_CONVERTERS, DEFAULT_HEADER_CONVERTER),
    };
    let (name, from) = match (settings.text(key), worker.text(key)) {
        (Some(name), _) if !name.is_empty() => (name.to_owned(), settings),
        (_, Some(name)) if !name.is_empty() => (name.to_owned(), worker),
        (_, _) => (default.to_owned(), settings),
    };
    let plugin = find(table, "converter", &name).map_err(|unknown| {
        Invalid::value(
            key,
            &name,
            format!("Class {name} could not be found. Expected one of: {}", unknown.known.join(", ")),
        )
    })?;
    Ok(ChosenConverter { plugin, settings: from.below(&format!("{}.", key.name)) })
}

/// The converter's settings as its files need them: columns get names that Avro and readers of Parquet take.
fn for_files(value: &ChosenConverter, needs_columns: bool) -> Settings {
    let has_unions = value.plugin.keys.iter().any(|keys| keys.iter().any(|key| key.name == UNION_NAMES.name));
    if !needs_columns || !has_unions || value.settings.is_set(&UNION_NAMES) {
        return value.settings.clone();
    }
    value.settings.with(&UNION_NAMES, "legal")
}

/// The header converter, where something reads what headers say, or where it can find them wrong.
fn header_converter(
    settings: &Settings,
    worker: &Settings,
    is_needed: bool,
) -> Result<Option<ChosenConverter>, Invalid> {
    let chosen = converter(settings, worker, Part::Header)?;
    (chosen.plugin.build)(&chosen.settings, Part::Header)?;
    let takes_all = matches!(chosen.plugin.name(), "simple" | "string" | "bytes");
    Ok((is_needed || !takes_all).then_some(chosen))
}

/// What `value.converter.schema` gives; file names are relative to the working directory.
fn given_schema(settings: &Settings) -> Result<Option<GivenSchema>, Invalid> {
    GivenSchema::new(settings, &|file| std::fs::read_to_string(Path::new(file)))
}

/// What becomes of bad records, under the names of these converters. Keys and headers that nobody reads are not converted,
/// so nobody is to blame for them.
fn errors(
    settings: &Settings,
    value: &ChosenConverter,
    key: Option<&ChosenConverter>,
    header: Option<&ChosenConverter>,
) -> Result<ErrorRules, Invalid> {
    let class = |chosen: &ChosenConverter| dead_letters::class(chosen.plugin);
    let (key, header) = (key.map_or("", class), header.map_or("", class));
    dead_letters::rules(settings, ConverterClasses { key, value: class(value), header })
}

/// Of all that shapes names and rows. A given schema counts by what it says: its key may only name a file.
fn fingerprint(
    settings: &Settings,
    converters: [(&Key, Option<&ChosenConverter>); 3],
    given_schema: Option<&GivenSchema>,
    keys: &[&'static Key],
) -> Fingerprint {
    let shaping = SHAPING.iter().map(|name| {
        let key = keys.iter().find(|key| key.name == *name);
        format!("{name}={}", key.and_then(|key| settings.text(key)).unwrap_or(""))
    });
    let converters =
        converters.iter().filter_map(|(key, chosen)| Some((key.name, (*chosen)?))).flat_map(|(name, chosen)| {
            let keys = chosen.settings.with_prefix("").map(move |(key, text)| format!("{name}.{key}={text}"));
            [format!("{name}={}", chosen.plugin.name())].into_iter().chain(keys)
        });
    let prefixes = ["transforms", "predicates", "format.bytearray.separator"];
    let raw = settings.config().iter().filter(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    let raw = raw.map(|(name, text)| format!("{name}={text}"));
    let schema = given_schema.map(|given| format!("given schema={}", given.schema.fingerprint()));
    let corrupt = given_schema.and_then(|given| given.corrupt_column.as_ref()).map(|name| format!("corrupt={name}"));
    let parts: Vec<String> = shaping.chain(converters).chain(raw).chain(schema).chain(corrupt).collect();
    Fingerprint::of(parts.iter().map(String::as_bytes))
}

/// Everything of a recipe that needs no store: building it is also how a configuration is validated.
pub(crate) struct Dry {
    pub(crate) rotation: Rotation,
    pub(crate) layout: Layout,
    pub(crate) format: Arc<dyn writer::Format>,
    /// The files beside those of values.
    pub(crate) views: Views,
    limits: FileLimits,
    tagging: Option<Tagging>,
    null_values: NullValues,
    schema_rules: SchemaRules,
    errors: ErrorRules,
    kafka_columns: Option<KafkaColumns>,
    /// Whether something reads the headers of records.
    pub(crate) needs_headers: bool,
    given_schema: Option<GivenSchema>,
    fingerprint: Fingerprint,
    value: ChosenConverter,
    /// Only where something reads decoded keys.
    key: Option<ChosenConverter>,
    /// Only where something reads what headers say, or where it can find them wrong.
    header: Option<ChosenConverter>,
    settings: Settings,
}

impl Dry {
    /// Builds every plug-in once; the first problem is the answer.
    pub(crate) fn new(settings: &Settings, worker: &Settings, keys: &[&'static Key]) -> Result<Dry, Invalid> {
        let format = writer::format(settings)?;
        let mut value = converter(settings, worker, Part::Value)?;
        value.settings = for_files(&value, format.needs_columns());
        (value.plugin.build)(&value.settings, Part::Value)?;
        let transforms = Chain::build(settings).map_err(|mut problems| problems.remove(0))?;
        let views = Views::new(settings)?;
        let key = match transforms.needs_keys() || views.have(View::Keys) {
            true => Some(converter(settings, worker, Part::Key)?),
            false => None,
        };
        if let Some(key) = &key {
            (key.plugin.build)(&key.settings, Part::Key)?;
        }
        let header = header_converter(settings, worker, views.have(View::Headers))?;
        (partitioner_plugin(settings)?.build)(settings)?;
        let kafka_columns = KafkaColumns::new(settings)?;
        let given_schema = given_schema(settings)?;
        Ok(Dry {
            rotation: Rotation::new(settings)?,
            layout: Layout::new(settings, format.extension())?.with_views(&views),
            views,
            limits: FileLimits::new(settings)?,
            tagging: Tagging::new(settings)?,
            null_values: NullValues::new(settings)?,
            schema_rules: SchemaRules::new(settings)?,
            errors: errors(settings, &value, key.as_ref(), header.as_ref())?,
            needs_headers: header.is_some()
                || !transforms.is_empty()
                || kafka_columns.as_ref().is_some_and(KafkaColumns::have_headers),
            kafka_columns,
            fingerprint: fingerprint(
                settings,
                [
                    (&VALUE_CONVERTER, Some(&value)),
                    (&KEY_CONVERTER, key.as_ref()),
                    (&HEADER_CONVERTER, header.as_ref()),
                ],
                given_schema.as_ref(),
                keys,
            ),
            given_schema,
            format,
            value,
            key,
            header,
            settings: settings.clone(),
        })
    }

    /// The recipe for lanes that write to `store`, and the topics' schemas beside their objects.
    pub(crate) fn with(self, store: &Store) -> (Recipe, TopicSchemas) {
        let Dry { value, key, header, settings, layout, .. } = self;
        let for_chain = settings.clone();
        let schemas = TopicSchemas::new(store.clone(), layout.clone());
        let recipe = Recipe {
            converter: builder(value, Part::Value),
            key_converter: key.map(|key| builder(key, Part::Key)),
            header_converter: header.map(|header| builder(header, Part::Header)),
            transforms: Box::new(move || Chain::build(&for_chain).expect("built once by Dry::new")),
            partitioner: Box::new(move || {
                let plugin = partitioner_plugin(&settings).expect("found once by Dry::new");
                (plugin.build)(&settings).expect("built once by Dry::new")
            }),
            rotation: self.rotation,
            null_values: self.null_values,
            schema_rules: self.schema_rules,
            errors: self.errors,
            kafka_columns: self.kafka_columns,
            files: FileContext {
                store: store.clone(),
                format: self.format,
                object_key: Arc::new(move |view, topic_partition, path, first| {
                    layout.view_key(view, topic_partition, path, first)
                }),
                views: self.views,
                limits: self.limits,
                schema: "".into(),
                config: self.fingerprint,
                tagging: self.tagging,
                shared_bytes: 0,
            },
            given_schema: self.given_schema,
            fingerprint: self.fingerprint,
        };
        (recipe, schemas)
    }
}

/// Builds a converter again for each lane.
fn builder(chosen: ChosenConverter, part: Part) -> Box<dyn Fn() -> Box<dyn Converter> + Send + Sync> {
    Box::new(move || (chosen.plugin.build)(&chosen.settings, part).expect("built once by Dry::new"))
}

/// The keys of plug-ins that `config` could name, for unknown-key warnings, are open below these prefixes.
pub(crate) const FREE_PREFIXES: &[&str] = &[
    "consumer.override.",
    "producer.override.",
    "admin.override.",
    "transforms.",
    "predicates.",
    "key.converter.",
    "value.converter.",
    "header.converter.",
    "s3.credentials.provider.",
    "topic.creation.",
];

/// The configuration with its references resolved, for checks and tasks.
pub(crate) fn resolved(
    config: &Config,
    environment: &std::collections::BTreeMap<String, String>,
) -> Result<Settings, Invalid> {
    crate::references::resolve(config, &|name| environment.get(name).cloned()).map(Settings::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assemble::{CONNECTORS, connector_keys};

    fn shape(changes: &[(&str, &str)]) -> Fingerprint {
        let base = [("topics", "t"), ("format.class", "parquet"), ("s3.bucket.name", "b"), ("flush.size", "1")];
        let pairs = base.iter().chain(changes);
        let config: Config = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Dry::new(&Settings::new(config), &Settings::new(Config::new()), &connector_keys(&CONNECTORS[0]))
            .unwrap()
            .fingerprint
    }

    #[test]
    fn only_what_shapes_names_and_rows_is_in_the_fingerprint() {
        let base = shape(&[]);
        let same = [
            ("flush.size", "2"),
            ("rotate.schedule.interval.ms", "60000"),
            ("on.existing.object", "skip"),
            ("on.data.loss", "continue"),
            ("task.restart.attempts", "3"),
            ("upload.orphan.age.ms", "-1"),
            ("tasks.max", "4"),
            ("enable.conditional.writes", "false"),
        ];
        // A schedule needs it.
        let zone = ("timezone", "UTC");
        for change in same {
            assert_eq!(shape(&[zone, change]), shape(&[zone]), "{change:?}");
        }
        for change in [
            ("topics.dir", "d"),
            ("parquet.codec", "zstd"),
            ("timezone", "UTC"),
            ("behavior.on.null.values", "ignore"),
            ("errors.tolerance", "all"),
            ("value.converter", "string"),
            ("value.converter.schema", "a BIGINT"),
        ] {
            assert_ne!(shape(&[change]), base, "{change:?}");
        }
    }

    #[test]
    fn a_schema_file_counts_by_what_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("schema.json");
        let mut shapes = Vec::new();
        for kind in ["long", "long", "string"] {
            let schema = format!(r#"{{"type":"record","name":"r","fields":[{{"name":"a","type":"{kind}"}}]}}"#);
            std::fs::write(&path, schema).unwrap();
            shapes.push(shape(&[("value.converter.schema", &path.display().to_string())]));
        }
        assert_eq!(shapes[0], shapes[1]);
        assert_ne!(shapes[0], shapes[2]);
    }
}
