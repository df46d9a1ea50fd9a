//! The chain of transforms of one connector: built from its settings, applied to its batches.

use std::fmt;

use arrow::array::{Array, BinaryArray, StringArray, StructArray};
use arrow::compute::concat;
use model::{Batch, Headers, Invalid, Key, Plugin, Rejected, Settings, Stage, Values, find};

use crate::keys::{NEGATE, PREDICATE, PREDICATE_ALIASES, TRANSFORM_ALIASES, TYPE};
use crate::table::{PREDICATES, TRANSFORMS};
use crate::values::{NOT_JSON, nulls_like, topic};
use crate::{Predicate, Transform, Transformed};

/// The transforms of a connector, in order, each with its condition; the default has none.
#[derive(Default)]
pub struct Chain {
    steps: Vec<Step>,
}

struct Step {
    alias: String,
    /// Upstream's class of the transform.
    class: &'static str,
    transform: Box<dyn Transform>,
    condition: Option<Condition>,
}

struct Condition {
    predicate: Box<dyn Predicate>,
    negate: bool,
}

/// What a chain makes of one batch.
#[derive(Debug, Default)]
pub struct Chained {
    /// The rows that go on, under one schema in each batch; offsets rise within and over the batches.
    pub batches: Vec<Batch>,
    /// Rows that could not be transformed; `row` counts in the batch that was given in, and rises.
    pub rejected: Vec<Rejected>,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|step| &step.alias)).finish()
    }
}

impl Chain {
    /// The chain that `settings` asks for; or everything that is wrong with it.
    pub fn build(settings: &Settings) -> Result<Chain, Vec<Invalid>> {
        let mut problems = Vec::new();
        let predicates = aliases(settings, &PREDICATE_ALIASES, &mut problems);
        for alias in &predicates {
            let prefix = format!("predicates.{alias}.");
            problems.extend(build_below(settings, &prefix, PREDICATES, "predicate").err().into_iter().flatten());
        }
        let mut steps = Vec::new();
        for alias in aliases(settings, &TRANSFORM_ALIASES, &mut problems) {
            match step(settings, &alias, &predicates) {
                Ok(step) => steps.push(step),
                Err(more) => problems.extend(more),
            }
        }
        if problems.is_empty() { Ok(Chain { steps }) } else { Err(problems) }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether some transform reads decoded keys ([`Batch::key_values`]).
    pub fn needs_keys(&self) -> bool {
        self.steps.iter().any(|step| step.transform.needs_keys())
    }

    /// Takes `batch` through all transforms.
    pub fn apply(&mut self, batch: Batch) -> Chained {
        if self.steps.is_empty() || batch.is_empty() {
            return Chained { batches: vec![batch], rejected: Vec::new() };
        }
        let offsets = batch.offsets.clone();
        let mut done = Chained { batches: vec![batch], rejected: Vec::new() };
        for step in &mut self.steps {
            for batch in std::mem::take(&mut done.batches) {
                step.apply(batch, &mut done);
            }
        }
        for rejected in &mut done.rejected {
            let row = offsets.binary_search(&rejected.at.offset.get());
            rejected.row = row.expect("transforms keep the offsets of their rows, which rise");
        }
        done.rejected.sort_by_key(|rejected| rejected.row);
        done
    }
}

impl Step {
    fn apply(&mut self, batch: Batch, done: &mut Chained) {
        let Some(condition) = &self.condition else {
            let made = self.transform(batch, &mut done.rejected);
            done.batches.extend((!made.is_empty()).then_some(made));
            return;
        };
        let met = condition.predicate.test(&batch);
        let rows = |chosen: bool| -> Vec<u32> {
            (0..batch.len())
                .filter(|row| (met.value(*row) != condition.negate) == chosen)
                .map(|row| row as u32)
                .collect()
        };
        let (chosen, others) = (rows(true), rows(false));
        if chosen.is_empty() {
            done.batches.push(batch);
            return;
        }
        if others.is_empty() {
            let made = self.transform(batch, &mut done.rejected);
            done.batches.extend((!made.is_empty()).then_some(made));
            return;
        }
        let others = batch.select(&others);
        let made = self.transform(batch.select(&chosen), &mut done.rejected);
        woven(made, others, &mut done.batches);
    }

    fn transform(&mut self, batch: Batch, rejected: &mut Vec<Rejected>) -> Batch {
        let Transformed { batch, rejected: mut refused } = self.transform.apply(batch);
        for one in &mut refused {
            // The converter passed it on unread, and would have refused it.
            if one.reason.starts_with(NOT_JSON) {
                let is_key = self.transform.needs_keys();
                one.stage = if is_key { Stage::KeyConverter } else { Stage::ValueConverter };
                continue;
            }
            one.reason = format!("transform {}: {}", self.alias, one.reason);
            one.stage = Stage::Transformation(self.class);
        }
        rejected.append(&mut refused);
        batch
    }
}

/// Puts the rows of `one` and `two` back into one order: in one batch if their schemas are equal, else in as many as the
/// order needs.
fn woven(one: Batch, two: Batch, batches: &mut Vec<Batch>) {
    if one.is_empty() || two.is_empty() {
        batches.extend([one, two].into_iter().filter(|batch| !batch.is_empty()));
        return;
    }
    if let Some(both) = joined(&one, &two) {
        let mut order: Vec<u32> = (0..both.len() as u32).collect();
        order.sort_by_key(|row| both.offsets[*row as usize]);
        batches.push(both.select(&order));
        return;
    }
    let (mut at_one, mut at_two) = (0, 0);
    while at_one < one.len() && at_two < two.len() {
        let (from, until, at, end) = if one.offsets[at_one] < two.offsets[at_two] {
            (&one, &two, &mut at_one, at_two)
        } else {
            (&two, &one, &mut at_two, at_one)
        };
        let bound = until.offsets[end];
        let count = from.offsets[*at..].iter().take_while(|offset| **offset < bound).count().max(1);
        batches.push(from.slice(*at, count));
        *at += count;
    }
    for (rest, at) in [(&one, at_one), (&two, at_two)] {
        if at < rest.len() {
            batches.push(rest.slice(at, rest.len() - at));
        }
    }
}

/// The rows of `one`, then those of `two`, if they can be of one batch.
fn joined(one: &Batch, two: &Batch) -> Option<Batch> {
    let values = joined_values(&one.values, &two.values)?;
    let schema = match (all_null(&one.values), all_null(&two.values)) {
        (true, _) => two.schema.clone(),
        (false, true) => one.schema.clone(),
        (false, false) if one.schema == two.schema => one.schema.clone(),
        (false, false) => return None,
    };
    let key_values = match (&one.key_values, &two.key_values) {
        (None, None) => None,
        (Some(one), Some(two)) => Some(joined_values(one, two)?),
        (Some(_), None) | (None, Some(_)) => return None,
    };
    if one.key_schema != two.key_schema {
        return None;
    }
    let topics = (one.topics.is_some() || two.topics.is_some()).then(|| {
        let names = |batch| (0..Batch::len(batch)).map(move |row| topic(batch, row));
        StringArray::from_iter_values(names(one).chain(names(two)))
    });
    let headers = (one.headers.is_some() || two.headers.is_some()).then(|| {
        let all = |batch: &Batch| match &batch.headers {
            Some(headers) => headers.to_vec(),
            None => vec![Headers::new(); batch.len()],
        };
        [all(one), all(two)].concat().into()
    });
    let append_times = (one.append_times.is_some() || two.append_times.is_some()).then(|| {
        let given = |batch: &Batch, row| batch.append_times.as_ref().is_some_and(|given| given.value(row));
        (0..one.len()).map(|row| given(one, row)).chain((0..two.len()).map(|row| given(two, row))).collect()
    });
    Some(Batch {
        topic_partition: one.topic_partition.clone(),
        offsets: one.offsets.iter().chain(two.offsets.iter()).copied().collect(),
        timestamps_ms: one.timestamps_ms.iter().chain(two.timestamps_ms.iter()).copied().collect(),
        append_times,
        keys: joined_arrays::<BinaryArray>(&one.keys, &two.keys)?,
        key_values,
        key_schema: one.key_schema.clone(),
        headers,
        topics,
        input_bytes: one.input_bytes.iter().chain(two.input_bytes.iter()).copied().collect(),
        schema,
        values,
    })
}

fn all_null(values: &Values) -> bool {
    values.nulls().is_some_and(|nulls| nulls.null_count() == values.len())
}

fn joined_values(one: &Values, two: &Values) -> Option<Values> {
    match (one, two) {
        (Values::Schemaless(one), Values::Schemaless(two)) => joined_arrays(one, two).map(Values::Schemaless),
        (Values::Typed(first), Values::Typed(second)) => {
            let joined: StructArray = if all_null(one) {
                joined_arrays(&nulls_like(second, first.len()), second)?
            } else if all_null(two) {
                joined_arrays(first, &nulls_like(first, second.len()))?
            } else if first.data_type() == second.data_type() {
                joined_arrays(first, second)?
            } else {
                return None;
            };
            Some(Values::Typed(joined))
        }
        (Values::Typed(_), Values::Schemaless(_)) | (Values::Schemaless(_), Values::Typed(_)) => None,
    }
}

fn joined_arrays<A: Array + Clone + 'static>(one: &A, two: &A) -> Option<A> {
    concat(&[one, two]).ok()?.as_any().downcast_ref::<A>().cloned()
}

/// Everything that is wrong with the chain of `settings`; each problem blames the key that must be changed.
pub fn check(settings: &Settings) -> Vec<Invalid> {
    Chain::build(settings).err().unwrap_or_default()
}

/// The aliases of a list, each once; a repeated one is a problem.
fn aliases(settings: &Settings, key: &Key, problems: &mut Vec<Invalid>) -> Vec<String> {
    let all = match settings.list(key) {
        Ok(all) => all,
        Err(problem) => {
            problems.push(problem);
            return Vec::new();
        }
    };
    let mut once: Vec<String> = Vec::new();
    for alias in &all {
        if once.contains(alias) {
            problems.push(Invalid::value(key, &format!("[{}]", all.join(", ")), "Duplicate alias provided."));
        } else {
            once.push(alias.clone());
        }
    }
    once
}

fn step(settings: &Settings, alias: &str, predicates: &[String]) -> Result<Step, Vec<Invalid>> {
    let prefix = format!("transforms.{alias}.");
    let transform = build_below(settings, &prefix, TRANSFORMS, "transform");
    let condition = condition(settings, &prefix, predicates);
    match (transform, condition) {
        (Ok(plugin), Ok(condition)) => match (plugin.build)(&settings.below(&prefix)) {
            Ok(transform) => {
                let class = plugin.names.last().copied().unwrap_or_default();
                Ok(Step { alias: alias.to_owned(), class, transform, condition })
            }
            Err(problem) => Err(vec![blamed(problem, &prefix)]),
        },
        (transform, condition) => Err([transform.err(), condition.err()].into_iter().flatten().flatten().collect()),
    }
}

fn condition(settings: &Settings, prefix: &str, predicates: &[String]) -> Result<Option<Condition>, Vec<Invalid>> {
    let below = settings.below(prefix);
    let fail = |problem| Err(vec![blamed(problem, prefix)]);
    let negate = match below.boolean(&NEGATE) {
        Ok(negate) => negate,
        Err(problem) => return fail(problem),
    };
    let Some(alias) = below.text(&PREDICATE) else {
        if !below.is_set(&NEGATE) {
            return Ok(None);
        }
        let why = format!(
            "Config '{prefix}negate' was provided but there is no config '{prefix}predicate' defining a predicate to be \
             negated."
        );
        return Err(vec![Invalid::new(format!("{prefix}negate"), why)]);
    };
    if !predicates.iter().any(|known| known == alias) {
        let known = predicates.join(", ");
        return fail(Invalid::value(
            &PREDICATE,
            alias,
            format!("No predicate has this alias; predicates lists: {known}"),
        ));
    }
    let prefix = format!("predicates.{alias}.");
    // What is wrong with the predicate itself is reported once, under its own alias.
    let predicate = build_below(settings, &prefix, PREDICATES, "predicate").ok();
    let predicate = predicate.and_then(|plugin| (plugin.build)(&settings.below(&prefix)).ok());
    Ok(predicate.map(|predicate| Condition { predicate, negate }))
}

/// What a line of either table builds with.
type Build<T> = fn(&Settings) -> Result<Box<T>, Invalid>;

/// The plug-in whose class the key `type` below `prefix` names, when all that it reads is good.
fn build_below<T: ?Sized>(
    settings: &Settings,
    prefix: &str,
    table: &'static [Plugin<Build<T>>],
    kind: &'static str,
) -> Result<&'static Plugin<Build<T>>, Vec<Invalid>> {
    let below = settings.below(prefix);
    let fail = |problem| Err(vec![blamed(problem, prefix)]);
    let class = match below.required_string(&TYPE) {
        Ok(class) => class,
        Err(problem) => return fail(problem),
    };
    let plugin = match find(table, kind, &class) {
        Ok(plugin) => plugin,
        Err(unknown) => {
            let known = unknown.known.join(", ");
            return fail(Invalid::value(
                &TYPE,
                &class,
                format!("Class {class} could not be found. Expected one of: {known}"),
            ));
        }
    };
    let mut problems: Vec<Invalid> = plugin.keys().filter_map(|key| below.problem(key)).collect();
    if problems.is_empty() {
        problems = (plugin.check)(&below);
    }
    if problems.is_empty() {
        problems.extend((plugin.build)(&below).err());
    }
    if problems.is_empty() {
        return Ok(plugin);
    }
    Err(problems.into_iter().map(|problem| blamed(problem, prefix)).collect())
}

/// `problem` of a key below `prefix`, under the key's whole name.
fn blamed(problem: Invalid, prefix: &str) -> Invalid {
    let Invalid { key, message } = problem;
    let message = message
        .replacen(&format!(" for configuration {key}:"), &format!(" for configuration {prefix}{key}:"), 1)
        .replacen(&format!("configuration \"{key}\" which"), &format!("configuration \"{prefix}{key}\" which"), 1);
    Invalid { key: format!("{prefix}{key}"), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::{ints, rows, schemaless, settings, typed, types, whole_texts};
    use proptest::prelude::*;

    fn problems(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        check(&settings(pairs)).into_iter().map(|problem| (problem.key, problem.message)).collect()
    }

    fn chained(pairs: &[(&str, &str)], batch: Batch) -> Chained {
        Chain::build(&settings(pairs)).unwrap().apply(batch)
    }

    const INSERT: &[(&str, &str)] =
        &[("transforms", "i"), ("transforms.i.type", "InsertField$Value"), ("transforms.i.topic.field", "t")];

    fn insert_if(predicate: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        [INSERT, &[("predicates", "p"), ("transforms.i.predicate", "p")], predicate].concat()
    }

    #[test]
    fn no_transforms_are_no_problem() {
        assert_eq!(problems(&[]), []);
        assert_eq!(problems(&[("transforms", " , "), ("predicates", ""), ("transforms.a.type", "T")]), []);
        let mut chain = Chain::build(&settings(&[])).unwrap();
        assert!(chain.is_empty() && !chain.needs_keys());
        assert_eq!(chain.apply(schemaless(&["1"])).batches.len(), 1);
    }

    #[test]
    fn each_alias_is_blamed_for_itself_under_the_whole_key() {
        let found = problems(&[
            ("transforms", "a, b,a,c,d,e"),
            ("transforms.a.type", "HoistField$Value"),
            ("transforms.c.type", "Filter"),
            ("transforms.c.predicate", "q"),
            ("transforms.d.type", "Filter"),
            ("transforms.d.negate", "true"),
            ("transforms.e.type", "TimestampConverter$Value"),
            ("transforms.e.target.type", "x"),
            ("predicates", "p"),
            ("predicates.p.type", "org.x.Y"),
        ]);
        let expected = [
            (
                "predicates.p.type",
                "Invalid value org.x.Y for configuration predicates.p.type: Class org.x.Y could not be found. Expected one of: has-header-key, record-is-tombstone, topic-name-matches",
            ),
            ("transforms", "Invalid value [a, b, a, c, d, e] for configuration transforms: Duplicate alias provided."),
            ("transforms.a.field", "Missing required configuration \"transforms.a.field\" which has no default value."),
            ("transforms.b.type", "Missing required configuration \"transforms.b.type\" which has no default value."),
            (
                "transforms.c.predicate",
                "Invalid value q for configuration transforms.c.predicate: No predicate has this alias; predicates lists: p",
            ),
            (
                "transforms.d.negate",
                "Config 'transforms.d.negate' was provided but there is no config 'transforms.d.predicate' defining a predicate to be negated.",
            ),
            (
                "transforms.e.target.type",
                "Invalid value x for configuration transforms.e.target.type: String must be one of: string, unix, Date, Time, Timestamp",
            ),
        ];
        assert_eq!(found, expected.map(|(key, message)| (key.to_owned(), message.to_owned())));
    }

    #[test]
    fn a_filter_drops_what_its_predicate_says() {
        let pairs = [
            ("transforms", "f"),
            ("transforms.f.type", "org.apache.kafka.connect.transforms.Filter"),
            ("transforms.f.predicate", "p"),
            ("predicates", "p"),
            ("predicates.p.type", "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone"),
        ];
        let made = chained(&pairs, schemaless(&["1", "null", "2"]));
        assert_eq!((made.batches.len(), made.rejected.len()), (1, 0));
        assert_eq!(made.batches[0].offsets.as_ref(), [10, 12]);
        let made = chained(&[&pairs[..], &[("transforms.f.negate", "true")]].concat(), schemaless(&["1", "null", "2"]));
        assert_eq!(made.batches[0].offsets.as_ref(), [11]);
        assert!(chained(&pairs, schemaless(&["null"])).batches.is_empty());
    }

    #[test]
    fn tombstones_that_a_transform_does_not_see_stay_in_the_same_batch() {
        let pairs = insert_if(&[("predicates.p.type", "RecordIsTombstone"), ("transforms.i.negate", "true")]);
        let columns = arrow::array::StructArray::new(
            vec![arrow::datatypes::Field::new("a", arrow::datatypes::DataType::Int64, true)].into(),
            vec![ints(vec![Some(1), None, Some(2)])],
            Some(vec![true, false, true].into()),
        );
        let made = chained(&pairs, crate::values::testing::batch(Values::Typed(columns)));
        assert_eq!(made.batches.len(), 1);
        assert_eq!(rows(&made.batches[0].values), ["{a: 1, t: test}", "null", "{a: 2, t: test}"]);
    }

    #[test]
    fn rows_of_different_schemas_come_in_batches_whose_offsets_rise() {
        let pairs = insert_if(&[("predicates.p.type", "HasHeaderKey"), ("predicates.p.name", "h")]);
        let mut batch = typed(vec![("a", ints(vec![Some(1), Some(2), Some(3), Some(4)]))]);
        let header = vec![("h".to_owned(), None)];
        batch.headers = Some(vec![vec![], header.clone(), header, vec![]].into());
        let made = chained(&pairs, batch);
        let offsets: Vec<&[i64]> = made.batches.iter().map(|batch| batch.offsets.as_ref()).collect();
        assert_eq!(offsets, [&[10][..], &[11, 12], &[13]]);
        assert_eq!(types(&made.batches[1].values), ["a Int64?", "t Utf8?"]);
        assert_eq!(types(&made.batches[2].values), ["a Int64?"]);
    }

    #[test]
    fn rejected_rows_count_in_the_batch_that_was_given_in() {
        let pairs = [
            ("transforms", "f,i"),
            ("transforms.f.type", "Filter"),
            ("transforms.f.predicate", "p"),
            ("predicates", "p"),
            ("predicates.p.type", "RecordIsTombstone"),
            ("transforms.i.type", "InsertField$Value"),
            ("transforms.i.topic.field", "t"),
        ];
        let made = chained(&pairs, schemaless(&["null", "{}", "7"]));
        assert_eq!(made.rejected[0].row, 2);
        assert_eq!(
            made.rejected[0].stage,
            Stage::Transformation("org.apache.kafka.connect.transforms.InsertField$Value")
        );
        assert_eq!(
            made.rejected[0].to_string(),
            "test-3@12: transform i: Only Map objects supported in absence of schema for [field insertion], found: java.lang.Long"
        );
        assert_eq!(rows(&made.batches[0].values), [r#"{"t":"test"}"#]);
    }

    #[test]
    fn what_is_no_json_is_refused_as_its_converter_would_have_refused_it() {
        let made = chained(INSERT, schemaless(&["{oops"]));
        assert_eq!(made.rejected[0].stage, Stage::ValueConverter);
        assert!(made.rejected[0].reason.starts_with("the value is not valid JSON"), "{}", made.rejected[0]);
    }

    #[test]
    fn keys_are_needed_when_a_key_class_is_used() {
        let pairs = [("transforms", "f"), ("transforms.f.type", "Flatten$Key")];
        assert!(Chain::build(&settings(&pairs)).unwrap().needs_keys());
        assert!(!Chain::build(&settings(INSERT)).unwrap().needs_keys());
        assert_eq!(chained(INSERT, whole_texts(vec![Some("x")])).rejected.len(), 1);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::vec(("[abc]|op|before|after", inner), 0..4)
                    .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_through_any_chain_keeps_offsets_rising_and_loses_nothing(
            values in proptest::collection::vec(json(), 1..6),
            classes in proptest::collection::vec(0..TRANSFORMS.len(), 1..5),
        ) {
            let refused = |class: &usize| TRANSFORMS[*class].name().starts_with("confluent-filter");
            let classes: Vec<usize> = classes.into_iter().filter(|class| !refused(class)).collect();
            let mut pairs = vec![
                ("transforms".to_owned(), (0..classes.len()).map(|at| format!("t{at}")).collect::<Vec<_>>().join(",")),
                ("predicates".to_owned(), "p".to_owned()),
                ("predicates.p.type".to_owned(), "RecordIsTombstone".to_owned()),
            ];
            for (at, class) in classes.iter().enumerate() {
                for (key, value) in [
                    ("type", TRANSFORMS[*class].name()), ("field", "a"), ("spec", "a:int32,b:string"), ("regex", ".*"),
                    ("replacement", "x"), ("topic.field", "t"), ("target.type", "string"), ("format", "yyyy-MM-dd"),
                    ("exclude", "c"), ("renames", "a:b"), ("fields", "a"), ("headers", "h"), ("operation", "move"), ("schema.name", "n"), ("header", "h"), ("value.literal", "1"),
                    ("predicate", "p"), ("negate", "true"),
                ] {
                    pairs.push((format!("transforms.t{at}.{key}"), value.to_owned()));
                }
            }
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            let made = chained(&pairs, schemaless(&texts.iter().map(String::as_str).collect::<Vec<_>>()));
            let offsets: Vec<i64> = made.batches.iter().flat_map(|batch| batch.offsets.to_vec()).collect();
            prop_assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]));
            let drops = ["filter", "extract-new-record-state"];
            let filters = classes.iter().any(|class| drops.contains(&TRANSFORMS[*class].name()));
            prop_assert!(filters || offsets.len() + made.rejected.len() == values.len());
            for batch in &made.batches {
                prop_assert_eq!(batch.len(), batch.values.len());
            }
        }
    }
}
