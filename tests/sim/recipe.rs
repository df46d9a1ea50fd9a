//! From configuration keys to the recipe of a task, as the program's own assembly does it.

use std::sync::Arc;

use model::{Fingerprint, Settings};
use pipeline::{Recipe, Tolerance, TopicSchemas};
use schema::{CONVERTERS, Part};
use writer::{FileContext, FileLimits, Layout, NullValues, Rotation, Store, partitioner_plugin};

/// Keys and values of a connector.
pub(crate) type Pairs = Vec<(&'static str, String)>;

/// What every connector here has in common; `pairs` may say otherwise.
pub(crate) fn settings(pairs: &[(&'static str, String)]) -> Settings {
    let common = [("format.class", "parquet"), ("flush.size", "1000000"), ("timezone", "UTC"), ("locale", "en")];
    let common = common.map(|(key, value)| (key, value.to_owned()));
    let all = common.iter().chain(pairs);
    Settings::new(all.map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

/// The recipe that `pairs` give for lanes that write to `store`, and the schemas beside the objects.
pub(crate) fn recipe(pairs: &[(&'static str, String)], limits: FileLimits, store: &Store) -> (Recipe, TopicSchemas) {
    let settings = settings(pairs);
    let format = writer::format(&settings).expect("the keys are right");
    let layout = Layout::new(&settings, format.extension()).expect("the keys are right");
    let schemas = TopicSchemas::new(store.clone(), layout.clone());
    let texts: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let fingerprint = Fingerprint::of(texts.iter().map(String::as_bytes));
    let tolerance = match pairs.iter().find(|(key, _)| *key == "errors.tolerance") {
        Some((_, value)) if value == "all" => Tolerance::All,
        Some(_) | None => Tolerance::None,
    };
    let (of_converter, of_partitioner) = (settings.below("value.converter."), settings.clone());
    let recipe = Recipe {
        converter: Box::new(move || (CONVERTERS[0].build)(&of_converter, Part::Value).expect("JSON needs no key")),
        partitioner: Box::new(move || {
            let plugin = partitioner_plugin(&of_partitioner).expect("the keys are right");
            (plugin.build)(&of_partitioner).expect("the keys are right")
        }),
        rotation: Rotation::new(&settings).expect("the keys are right"),
        null_values: NullValues::new(&settings).expect("the keys are right"),
        tolerance,
        files: FileContext {
            store: store.clone(),
            format,
            object_key: Arc::new(move |topic_partition, path, first| layout.object_key(topic_partition, path, first)),
            limits,
            schema: "".into(),
            config: fingerprint,
        },
        given_schema: None,
        fingerprint,
    };
    (recipe, schemas)
}
