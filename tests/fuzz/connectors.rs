//! What a connector's configuration says, from the text of its file to the patterns in its values.

use std::path::Path;

use model::{Batch, Settings, TopicPartition, Values};
use schema::{CONVERTERS, Part};
use transform::Chain;
use writer::{FORMATS, Layout, PARTITIONERS, Partitioner, Rotation};

use crate::connector_file;
use crate::pieces::{choose, config, is_sound, records, settings, split, text, typed};

/// A connector file; the first byte chooses its language.
pub(crate) fn file(data: &[u8]) {
    let (choice, data) = choose(data, 4);
    let name = ["c.json", "c.properties", "c.yaml", "c.toml"][choice];
    if let Ok(config) = connector_file::parse(Path::new(name), &text(data)) {
        check(&Settings::new(config));
    }
}

/// A configuration of lines `key=value`.
pub(crate) fn keys(data: &[u8]) {
    check(&Settings::new(config(data)));
}

/// Checks and builds everything that a configuration can name, as validation does. Nothing is opened.
fn check(settings: &Settings) {
    let _ = writer::check_store_keys(settings);
    let _ = writer::store_advice(settings);
    let _ = Rotation::check(settings);
    let _ = Rotation::new(settings);
    let _ = source::check(settings);
    let _ = source::subscription(settings);
    let _ = transform::check(settings);
    let _ = Chain::build(settings);
    let _ = writer::partitioner_plugin(settings);
    for plugin in PARTITIONERS {
        let _ = (plugin.check)(settings);
        let _ = (plugin.build)(settings);
    }
    for plugin in FORMATS {
        let _ = (plugin.check)(settings);
        let _ = (plugin.build)(settings).map(|format| Layout::new(settings, format.extension()));
    }
    for part in [Part::Key, Part::Value] {
        let below = settings.below(&format!("{}.", part.key().name));
        for plugin in CONVERTERS {
            let _ = (plugin.check)(&below);
            let _ = (plugin.build)(&below, part);
        }
    }
}

/// Rows of JSON texts, and the same rows in columns.
fn both_forms(values: &[&[u8]]) -> Vec<Batch> {
    let is_json = |value: &&&[u8]| serde_json::from_slice::<serde_json::Value>(value).is_ok();
    let values: Vec<&[u8]> = values.iter().filter(is_json).copied().collect();
    let raw = records(&values);
    let schemaless = Batch::decoded(&raw, Values::Schemaless(raw.values.clone()));
    typed(&schemaless).into_iter().chain([schemaless.clone()]).collect()
}

/// A chain of transforms, and behind the first NUL two JSON values that it is applied to, in both forms.
pub(crate) fn transforms(data: &[u8]) {
    let (lines, values) = split(data);
    let (first, second) = split(values);
    let Ok(mut chain) = Chain::build(&Settings::new(config(lines))) else { return };
    for mut batch in both_forms(&[first, second]) {
        batch.key_values = chain.needs_keys().then(|| batch.values.clone());
        let rows = batch.len();
        let chained = chain.apply(batch);
        chained.batches.iter().for_each(is_sound);
        let kept: usize = chained.batches.iter().map(Batch::len).sum();
        assert!(kept + chained.rejected.len() <= rows, "a row is kept, dropped or rejected, once");
    }
}

/// A pattern of SimpleDateFormat, and behind the first NUL a text that is read with it; its bytes are also a time that is
/// written with it.
pub(crate) fn date_patterns(data: &[u8]) {
    let (pattern, value) = split(data);
    let number = value.iter().take(8).fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
    let value = serde_json::Value::from(text(value)).to_string();
    let pattern = text(pattern);
    for (target, record) in [("unix", value), ("string", number.to_string())] {
        let settings = settings(&[
            ("transforms", "t"),
            ("transforms.t.type", "org.apache.kafka.connect.transforms.TimestampConverter$Value"),
            ("transforms.t.target.type", target),
            ("transforms.t.format", &pattern),
        ]);
        let Ok(mut chain) = Chain::build(&settings) else { continue };
        let raw = records(&[record.as_bytes()]);
        let chained = chain.apply(Batch::decoded(&raw, Values::Schemaless(raw.values.clone())));
        assert_eq!(chained.batches.iter().map(Batch::len).sum::<usize>() + chained.rejected.len(), raw.len());
    }
}

/// A partitioner with its keys, and behind the first NUL two JSON values that it places.
pub(crate) fn paths(data: &[u8]) {
    let (lines, values) = split(data);
    let (first, second) = split(values);
    let settings = Settings::new(config(lines));
    let Ok(plugin) = writer::partitioner_plugin(&settings) else { return };
    let mut keys = writer::partition::KEYS.iter().copied().flatten().chain(writer::layout::KEYS);
    if keys.any(|key| settings.problem(key).is_some()) || !(plugin.check)(&settings).is_empty() {
        return;
    }
    let (Ok(mut partitioner), Ok(layout)) = ((plugin.build)(&settings), Layout::new(&settings, ".json")) else {
        return;
    };
    let clock_ms = values.iter().take(6).fold(0_i64, |number, byte| number << 8 | i64::from(*byte));
    for batch in both_forms(&[first, second]) {
        place(partitioner.as_mut(), &layout, &batch, clock_ms);
    }
}

fn place(partitioner: &mut dyn Partitioner, layout: &Layout, batch: &Batch, clock_ms: i64) {
    let placed = partitioner.split(batch, clock_ms);
    for row in (0..batch.len()).filter(|row| placed.rejected.iter().all(|rejected| rejected.row != *row)) {
        let path = placed.path(row);
        let key = layout.object_key(&TopicPartition::new("fuzzed", 0), path, batch.offset(row));
        let known = object_store::path::Path::parse(&key).unwrap_or_else(|error| panic!("{key:?}: {error}"));
        assert_eq!(known.as_ref(), key, "a store has it under the same name");
        let _ = layout.parse(&key);
    }
    let _ = partitioner.wall_clock_bound_ms(clock_ms);
}
