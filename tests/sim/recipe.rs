//! From configuration keys to the recipe of a task, as the program's own assembly does it.

use std::sync::Arc;

use model::{Fingerprint, Plugin, Settings, find};
use pipeline::{ErrorRules, Recipe, StoreRecovery, Tolerance, TopicSchemas};
use schema::{BuildConverter, CONVERTERS, Converter, HEADER_CONVERTERS, Part, SchemaRules};
use source::Recovery;
use writer::newest::Labels;
use writer::{
    FileContext, FileLimits, KafkaColumns, Layout, NullValues, OnExisting, Rotation, Store, View, Views,
    partitioner_plugin,
};

/// Keys and values of a connector.
pub(crate) type Pairs = Vec<(&'static str, String)>;

/// Keys that decide where a cut ends, or what happens to it, and nothing about its objects.
const SHAPELESS: [&str; 7] = [
    "flush.size",
    "flush.bytes",
    "rotate.interval.ms",
    "rotate.schedule.interval.ms",
    "partitioner.max.open.files",
    "on.existing.object",
    "on.data.loss",
];

/// What every connector here has in common; `pairs` may say otherwise.
pub(crate) fn settings(pairs: &[(&'static str, String)]) -> Settings {
    let common = [("format.class", "parquet"), ("flush.size", "1000000"), ("timezone", "UTC"), ("locale", "en")];
    let common = common.map(|(key, value)| (key, value.to_owned()));
    let all = common.iter().chain(pairs);
    Settings::new(all.map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

/// What finds out from the objects in `store` where lanes were, when the group has forgotten it.
pub(crate) fn recovery(pairs: &[(&'static str, String)], store: &Store) -> Arc<dyn Recovery> {
    let settings = settings(pairs);
    let format = writer::format(&settings).expect("the keys are right");
    let views = Views::new(&settings).expect("the keys are right");
    let layout = Layout::new(&settings, format.extension()).expect("the keys are right").with_views(&views);
    let on_existing = OnExisting::new(&settings).expect("the keys are right");
    let on_data_loss = source::on_data_loss(&settings).expect("the keys are right");
    Arc::new(StoreRecovery::new(store.clone(), layout, Labels { format, views }, on_existing, on_data_loss))
}

fn plug_in(
    table: &'static [Plugin<BuildConverter>],
    name: &str,
    part: Part,
) -> Box<dyn Fn() -> Box<dyn Converter> + Send + Sync> {
    let plugin = find(table, "converter", name).expect("it is there");
    Box::new(move || (plugin.build)(&Settings::new(Default::default()), part).expect("it needs no key"))
}

/// The recipe that `pairs` give for lanes that write to `store`, and the schemas beside the objects.
/// `shape` stands for all settings that shape objects and are not among `pairs`.
pub(crate) fn recipe(
    pairs: &[(&'static str, String)],
    shape: i64,
    limits: FileLimits,
    store: &Store,
) -> (Recipe, TopicSchemas) {
    let settings = settings(pairs);
    let format = writer::format(&settings).expect("the keys are right");
    let views = Views::new(&settings).expect("the keys are right");
    let layout = Layout::new(&settings, format.extension()).expect("the keys are right").with_views(&views);
    let schemas = TopicSchemas::new(store.clone(), layout.clone());
    let shaping = pairs.iter().filter(|(key, _)| !SHAPELESS.contains(key));
    let mut texts: Vec<String> = shaping.map(|(key, value)| format!("{key}={value}")).collect();
    texts.push(shape.to_string());
    let fingerprint = Fingerprint::of(texts.iter().map(String::as_bytes));
    let tolerance = match pairs.iter().find(|(key, _)| *key == "errors.tolerance") {
        Some((_, value)) if value == "all" => Tolerance::All,
        Some(_) | None => Tolerance::None,
    };
    let (of_converter, of_partitioner) = (settings.below("value.converter."), settings.clone());
    let recipe = Recipe {
        converter: Box::new(move || (CONVERTERS[0].build)(&of_converter, Part::Value).expect("JSON needs no key")),
        key_converter: views.have(View::Keys).then(|| plug_in(CONVERTERS, "string", Part::Key)),
        header_converter: views.have(View::Headers).then(|| plug_in(HEADER_CONVERTERS, "simple", Part::Header)),
        transforms: Box::new(transform::Chain::default),
        partitioner: Box::new(move || {
            let plugin = partitioner_plugin(&of_partitioner).expect("the keys are right");
            (plugin.build)(&of_partitioner).expect("the keys are right")
        }),
        rotation: Rotation::new(&settings).expect("the keys are right"),
        null_values: NullValues::new(&settings).expect("the keys are right"),
        schema_rules: SchemaRules::new(&settings).expect("the keys are right"),
        errors: ErrorRules { context_headers: true, ..ErrorRules::of(tolerance) },
        kafka_columns: KafkaColumns::new(&settings).expect("the keys are right"),
        files: FileContext {
            store: store.clone(),
            format,
            object_key: Arc::new(move |view, whose, path, first| layout.view_key(view, whose, path, first)),
            views,
            limits,
            schema: "".into(),
            config: fingerprint,
            tagging: None,
            shared_bytes: 0,
        },
        given_schema: None,
        fingerprint,
    };
    (recipe, schemas)
}
