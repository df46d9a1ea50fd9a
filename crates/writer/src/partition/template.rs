//! The template partitioner (ours): a path with placeholders for fields, the time, the topic and the partition.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use model::{Batch, Importance, Invalid, Key, Kind, Plugin, Rejected, Settings, Stage, Width};

use super::field::{FieldPartitioner, PARTITION_FIELD_NAME};
use super::time::{PARTITION_DURATION_MS, TimePartitioner};
use super::{BuildPartitioner, Partitioner, Placed, Split, SplitBuilder, complete, encode_odd_segments};
use crate::joda::Format;
use crate::layout::without_empty_segments;
use crate::timestamp::{KEYS as EXTRACTOR_KEYS, extractor_plugin};
use crate::zone::{KEYS as ZONE_KEYS, TIMEZONE, Zone};

/// The path, with placeholders.
pub const PATH_TEMPLATE: Key = Key::new(
    "path.template",
    Kind::String,
    "Path below the topic's directory (template only), such as model={field:model_name}/dt={timestamp:yyyy-MM-dd}. {field:F} \
     is a value's field (integer, string, boolean, or null), {timestamp:P} the record's time by timestamp.extractor, printed \
     by a Joda pattern in timezone (default UTC), {topic} and {partition} are Kafka's. In values a slash, a percent sign, \
     control characters, and . or .. alone are percent-encoded, and nothing is __HIVE_DEFAULT_PARTITION__.",
)
.default("")
.ours()
.importance(Importance::Medium)
.group("Partitioner", 10)
.shown(Width::Long, "Path Template");

pub(super) const PLUGIN: Plugin<BuildPartitioner> = Plugin {
    names: &["template"],
    doc: "Directories by path.template, which mixes fields and time.",
    keys: &[&[PATH_TEMPLATE, PARTITION_DURATION_MS], ZONE_KEYS, EXTRACTOR_KEYS],
    check: |settings| TemplatePartitioner::new(settings).err().into_iter().collect(),
    build: |settings| complete(settings, Box::new(TemplatePartitioner::new(settings)?)),
};

/// What an empty text is in a path, as in Hive.
const EMPTY: &str = "__HIVE_DEFAULT_PARTITION__";

/// Whether `path.template` prints times.
pub(super) fn has_time(settings: &Settings) -> bool {
    settings.text(&PATH_TEMPLATE).unwrap_or_default().contains("{timestamp:")
}

enum Part {
    Text(String),
    Topic,
    Partition,
    Field { name: String, values: FieldPartitioner },
    Time(Box<TimePartitioner>),
}

/// What one part says of the rows of a batch: row `i` has `texts[of_row[i]]`.
struct Printed {
    texts: Vec<String>,
    of_row: Option<Vec<u32>>,
}

impl Printed {
    fn number(&self, row: usize) -> u32 {
        self.of_row.as_ref().map_or(0, |of_row| of_row[row])
    }
}

struct TemplatePartitioner {
    parts: Vec<Part>,
}

impl TemplatePartitioner {
    fn new(settings: &Settings) -> Result<Self, Invalid> {
        let template = settings.required_string(&PATH_TEMPLATE)?;
        let refused = |why: String| Invalid::value(&PATH_TEMPLATE, &template, why);
        if without_empty_segments(&template).is_empty() {
            return Err(refused("Path template cannot be empty.".to_owned()));
        }
        let mut parts = Vec::new();
        let mut rest = template.as_str();
        while let Some((text, after)) = rest.split_once('{') {
            parts.push(Part::Text(text.to_owned()));
            let (inside, after) =
                after.split_once('}').ok_or_else(|| refused(format!("the placeholder {{{after} has no end")))?;
            parts.push(part(settings, inside).map_err(|why| refused(format!("placeholder {{{inside}}}: {why}")))?);
            rest = after;
        }
        if rest.contains('}') {
            return Err(refused("a } ends no placeholder".to_owned()));
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self { parts })
    }

    fn print(&mut self, batch: &Batch, clock_ms: i64) -> (Vec<Printed>, BTreeMap<usize, Rejected>, Option<Placed>) {
        let (mut rejected, mut timed) = (BTreeMap::new(), None);
        let whole = |text: String| Printed { texts: vec![text], of_row: None };
        let mut printed = Vec::with_capacity(self.parts.len());
        for part in &mut self.parts {
            printed.push(match part {
                Part::Text(text) => whole(text.clone()),
                Part::Topic => whole(escaped(&batch.topic_partition.topic)),
                Part::Partition => whole(batch.topic_partition.partition.to_string()),
                Part::Field { name, values } => {
                    let coded = values.coded(batch);
                    for (row, reason) in coded.refused {
                        let at = batch.position(row);
                        rejected.entry(row).or_insert(Rejected { row, at, stage: Stage::TaskPut, reason });
                    }
                    // Each text is `name=value`.
                    let value = |text: &String| escaped(text.get(name.len() + 1..).unwrap_or_default());
                    Printed { texts: coded.texts.iter().map(value).collect(), of_row: Some(coded.of_row) }
                }
                Part::Time(time) => {
                    let mut placed = time.split(batch, clock_ms);
                    for one in std::mem::take(&mut placed.rejected) {
                        rejected.entry(one.row).or_insert(one);
                    }
                    let printed = match &placed.split {
                        Split::One(path) => whole(path.to_string()),
                        Split::Many { paths, of_row } => Printed {
                            texts: paths.iter().map(ToString::to_string).collect(),
                            of_row: Some(of_row.clone()),
                        },
                    };
                    timed = Some(placed);
                    printed
                }
            });
        }
        (printed, rejected, timed)
    }
}

fn part(settings: &Settings, inside: &str) -> Result<Part, String> {
    match inside.split_once(':') {
        None if inside == "topic" => Ok(Part::Topic),
        None if inside == "partition" => Ok(Part::Partition),
        Some(("field", name)) if !name.contains(',') => {
            let name = name.trim().to_owned();
            let mut config = settings.config().clone();
            config.insert(PARTITION_FIELD_NAME.name.to_owned(), name.clone());
            let values = FieldPartitioner::new(&Settings::new(config)).map_err(|problem| problem.message)?;
            Ok(Part::Field { name, values })
        }
        Some(("timestamp", pattern)) => time_part(settings, pattern).map(|time| Part::Time(Box::new(time))),
        Some(_) | None => Err("expected {field:NAME}, {timestamp:PATTERN}, {topic} or {partition}".to_owned()),
    }
}

fn time_part(settings: &Settings, pattern: &str) -> Result<TimePartitioner, String> {
    let message = |problem: Invalid| problem.message;
    let format = Format::new(pattern).map_err(|error| error.to_string())?;
    let mut sample = String::new();
    if format.print(0, &Zone::utc(), &mut sample).is_none() || without_empty_segments(&sample).is_empty() {
        return Err("the pattern prints nothing".to_owned());
    }
    let given_ms = settings.long(&PARTITION_DURATION_MS).map_err(message)?;
    let duration_ms = if given_ms > 0 { given_ms } else { finest_ms(pattern) };
    let zone = match settings.text(&TIMEZONE).unwrap_or_default() {
        "" => Zone::utc(),
        id => Zone::new(id).map_err(|error| error.to_string())?,
    };
    let extractor = (extractor_plugin(settings).map_err(message)?.build)(settings).map_err(message)?;
    Ok(TimePartitioner::with(duration_ms, format, zone, extractor))
}

/// The shortest time after which the pattern can print another text: a second, minute, hour or day.
fn finest_ms(pattern: &str) -> i64 {
    // Every other piece lies between quotes.
    let letters: String = pattern.split('\'').step_by(2).collect();
    let has = |some: &[char]| letters.contains(some);
    if has(&['S']) {
        1
    } else if has(&['s']) {
        1_000
    } else if has(&['m']) {
        60_000
    } else if has(&['H', 'h', 'k', 'K', 'a', 'Z', 'z']) {
        3_600_000
    } else {
        86_400_000
    }
}

/// A value as it can stand in a path: it stays inside its segment, and two values never share a text.
fn escaped(value: &str) -> String {
    if value.is_empty() {
        return EMPTY.to_owned();
    }
    let is_dots = matches!(value, "." | "..");
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if is_dots || c.is_ascii_control() || matches!(c, '/' | '%') {
            write!(text, "%{:02X}", u32::from(c)).expect("writing to a String never fails");
        } else {
            text.push(c);
        }
    }
    text
}

impl Partitioner for TemplatePartitioner {
    fn split(&mut self, batch: &Batch, clock_ms: i64) -> Placed {
        let (printed, rejected, timed) = self.print(batch, clock_ms);
        let mut split = SplitBuilder::with_capacity(batch.len());
        let mut numbers: HashMap<Vec<u32>, u32> = HashMap::new();
        let mut choice = Vec::with_capacity(printed.len());
        for row in 0..batch.len() {
            if rejected.contains_key(&row) {
                split.push_rejected();
                continue;
            }
            choice.clear();
            choice.extend(printed.iter().map(|part| part.number(row)));
            if let Some(number) = numbers.get(&choice) {
                split.push(*number);
                continue;
            }
            let texts = printed.iter().zip(&choice).map(|(part, number)| part.texts[*number as usize].as_str());
            let path: String = texts.collect();
            let path = without_empty_segments(&path);
            let path = encode_odd_segments(&path);
            let number = split.number(&path.into());
            numbers.insert(choice.clone(), number);
            split.push(number);
        }
        let times_ms = timed.and_then(|placed| placed.times_ms);
        Placed { split: split.finish(), times_ms, rejected: rejected.into_values().collect() }
    }

    fn wall_clock_bound_ms(&self, clock_ms: i64) -> Option<i64> {
        let bounds = self.parts.iter().filter_map(|part| match part {
            Part::Time(time) => time.wall_clock_bound_ms(clock_ms),
            Part::Text(_) | Part::Topic | Part::Partition | Part::Field { .. } => None,
        });
        bounds.min()
    }

    fn reads_values(&self) -> bool {
        self.parts.iter().any(|part| match part {
            Part::Time(time) => time.reads_values(),
            Part::Field { .. } => true,
            Part::Text(_) | Part::Topic | Part::Partition => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::{is_time_based, partitioner_plugin};
    use crate::testing::{schemaless, settings, typed};
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use std::sync::Arc;

    fn with<'a>(template: &'a str, more: &[(&'a str, &'a str)]) -> Settings {
        let mut pairs = vec![("partitioner.class", "template"), ("path.template", template)];
        pairs.extend(more);
        settings(&pairs)
    }

    fn build(settings: &Settings) -> Result<Box<dyn Partitioner>, Invalid> {
        (partitioner_plugin(settings).unwrap().build)(settings)
    }

    fn outcome(settings: &Settings, batch: &Batch) -> Vec<String> {
        let placed = build(settings).unwrap().split(batch, 0);
        let mut rejected = placed.rejected.iter().peekable();
        let path = |row| match rejected.next_if(|one| one.row == row) {
            Some(one) => one.reason.clone(),
            None => placed.path(row).to_string(),
        };
        (0..batch.len()).map(path).collect()
    }

    #[test]
    fn fields_and_time_are_mixed_and_no_value_leaves_its_segment() {
        const FIELD_TIME: &[(&str, &str)] = &[("timestamp.extractor", "RecordField"), ("timestamp.field", "at")];
        let template = "/{topic}//p{partition}/model={field:m}/dt={timestamp:yyyy-MM-dd}/";
        let models = ["spam", "../../etc", "..", "", "a/b%\n", "spam"];
        let times = [Some(1_488_448_800_000), Some(0), Some(0), Some(0), Some(0), None];
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("m", Arc::new(StringArray::from(models.to_vec()))),
            ("at", Arc::new(Int64Array::from(times.to_vec()))),
        ];
        let expected = [
            "test-topic/p12/model=spam/dt=2017-03-02",
            "test-topic/p12/model=..%2F..%2Fetc/dt=1970-01-01",
            "test-topic/p12/model=%2E%2E/dt=1970-01-01",
            "test-topic/p12/model=__HIVE_DEFAULT_PARTITION__/dt=1970-01-01",
            "test-topic/p12/model=a%2Fb%25%0A/dt=1970-01-01",
            "Error extracting timestamp from record field: at: it is null",
        ];
        let settings = with(template, FIELD_TIME);
        assert_eq!(outcome(&settings, &typed(columns, &[0; 6])), expected);
        let texts: Vec<String> =
            (0..6).map(|row| serde_json::json!({"m": models[row], "at": times[row]}).to_string()).collect();
        let texts: Vec<_> = texts.iter().map(|text| Some(text.as_str())).collect();
        assert_eq!(outcome(&settings, &schemaless(&texts)), expected);
        assert!(is_time_based(&settings).unwrap() && !is_time_based(&with("{field:m}", &[])).unwrap());
    }

    #[test]
    fn the_wall_clock_ends_a_path_when_the_pattern_prints_another() {
        for (pattern, bound_ms) in [
            ("yyyy-MM-dd", 86_400_000),
            ("yyyy-MM-dd'Thm'", 86_400_000),
            ("dd/HH", 3_600_000),
            ("HHmm", 60_000),
            ("HHmmss", 1_000),
        ] {
            let template = format!("{{timestamp:{pattern}}}/{{field:f}}");
            let partitioner = build(&with(&template, &[])).unwrap();
            assert_eq!(partitioner.wall_clock_bound_ms(0), Some(bound_ms), "{pattern}");
            assert!(partitioner.reads_values());
        }
        let zoned = with("{timestamp:yyyy-MM-dd}", &[("timezone", "Europe/Berlin"), ("timestamp.extractor", "Record")]);
        assert_eq!(outcome(&zoned, &schemaless(&[Some("1")])), ["1970-01-01"]);
    }

    #[test]
    fn what_is_no_template_is_refused_with_its_reason() {
        for (template, why) in [
            ("", "Path template cannot be empty."),
            ("//", "Path template cannot be empty."),
            ("a={field:x", "the placeholder {field:x has no end"),
            ("a}", "a } ends no placeholder"),
            ("{day}", "placeholder {day}: expected {field:NAME}, {timestamp:PATTERN}, {topic} or {partition}"),
            ("{field:a,b}", "placeholder {field:a,b}: expected"),
            ("{field:a..b}", "empty or whitespace-only path segment"),
            ("{timestamp:}", "Invalid pattern specification"),
            ("{timestamp:'/'}", "the pattern prints nothing"),
        ] {
            let problem = build(&with(template, &[])).err().unwrap();
            assert!(problem.message.contains(why), "{template}: {problem}");
        }
        assert!(build(&with("{timestamp:yyyy}", &[("timezone", "Mars")])).is_err());
    }
}
