//! Which schemas the files of a lane's open cut have, and what becomes of rows that came with another one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::StructArray;
use arrow::datatypes::{DataType, Field, Fields};
use model::{Batch, ConnectMarks, Fingerprint, ValueSchema, Values};
use schema::{Compatibility, Fit, Projection, RecordSchema, SchemaRules, TableSchema};
use writer::{FileContext, KafkaColumns, Placed, Split, is_of_tombstones};

use crate::{Recipe, TaskError};

/// Schemas that a cut holds side by side; one more closes it.
const SCHEMAS_OF_A_CUT_MAX: usize = 100;

/// Schemas that a lane remembers; more are forgotten when rows of another one begin a cut.
const SCHEMAS_KNOWN_MAX: usize = 1_000;

/// The schemas of rows that bring their own, and of the files that the open cut has for them.
pub(crate) struct FileSchemas {
    rules: SchemaRules,
    open_files_max: Option<usize>,
    known: Vec<Known>,
    /// What becomes of rows of one schema in a file of another.
    ways: HashMap<(usize, usize), Way>,
    /// The schema of each path's file, where a path has one file only.
    of_path: HashMap<Arc<str>, usize>,
    /// Schemas, and paths with each, that the open cut has rows of.
    schemas: HashSet<usize>,
    places: HashSet<(usize, Arc<str>)>,
}

struct Known {
    schema: RecordSchema,
    /// Names it in its files.
    context: Arc<FileContext>,
}

/// What becomes of rows at a path.
#[derive(Debug, Clone)]
enum Way {
    /// They go to a file of their own schema.
    Own,
    /// They are brought to the schema of that file.
    Projected(Arc<Projection>),
    /// The cut must end first.
    Changed,
    /// They cannot be brought to it, for this reason.
    Refused(String),
}

/// Why rows cannot simply be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The cut must end before the row.
    Change,
    /// The row must be left out, for this reason.
    Refused(String),
}

/// Rows ready for their file.
pub(crate) struct Fitted {
    pub(crate) rows: Batch,
    pub(crate) context: Arc<FileContext>,
}

impl FileSchemas {
    pub(crate) fn new(recipe: &Recipe) -> FileSchemas {
        FileSchemas {
            rules: recipe.schema_rules,
            open_files_max: recipe.rotation.open_paths_max(),
            known: Vec::new(),
            ways: HashMap::new(),
            of_path: HashMap::new(),
            schemas: HashSet::new(),
            places: HashSet::new(),
        }
    }

    /// The number of the schema of typed rows, by which the other calls mean it.
    pub(crate) fn learn(&mut self, fields: &Fields, value: Option<&Arc<ValueSchema>>, recipe: &Recipe) -> usize {
        let schema = RecordSchema { fields: fields.clone(), value: value.cloned().unwrap_or_default() };
        if let Some(known) = self.known.iter().position(|known| known.schema == schema) {
            return known;
        }
        if self.known.len() >= SCHEMAS_KNOWN_MAX && self.schemas.is_empty() {
            // Only here, where no number of one is in use: the rows of the last are written.
            self.known.clear();
            self.ways.clear();
        }
        let context = recipe.files_with_schema(&name_of(&schema));
        self.known.push(Known { schema, context });
        self.known.len() - 1
    }

    /// Names the files of rows of `schema`.
    pub(crate) fn context(&self, schema: usize) -> Arc<FileContext> {
        self.known[schema].context.clone()
    }

    /// The first of `count` rows of `schema` from `from` on that cannot simply be appended.
    pub(crate) fn first_stop(
        &mut self,
        schema: usize,
        placed: &Placed,
        from: usize,
        count: usize,
    ) -> Option<(usize, Stop)> {
        let paths: &[Arc<str>] = match &placed.split {
            Split::One(path) => std::slice::from_ref(path),
            Split::Many { paths, .. } => paths,
        };
        let mut stop = |path: &Arc<str>| if is_of_tombstones(path) { None } else { self.way(schema, path).stop() };
        let stops: Vec<Option<Stop>> = paths.iter().map(&mut stop).collect();
        let is_fresh = |path: &Arc<str>| !is_of_tombstones(path) && !self.has_place(schema, path);
        let may_grow = self.has_places() && paths.iter().any(is_fresh);
        if stops.iter().all(Option::is_none) && !may_grow {
            return None;
        }
        let mut fresh = HashSet::new();
        (from..from + count).find_map(|row| {
            let path = match &placed.split {
                Split::One(_) => 0,
                Split::Many { of_row, .. } => of_row[row] as usize,
            };
            if let Some(stop) = &stops[path] {
                return Some((row, stop.clone()));
            }
            let is_new = may_grow && is_fresh(&paths[path]) && fresh.insert(path);
            let is_one_more = self.open_files_max.is_some_and(|max| self.places.len() + fresh.len() > max);
            (is_new && is_one_more && self.places.len() + fresh.len() > 1).then_some((row, Stop::Change))
        })
    }

    /// Rows of `schema` as the file at `path` takes them; [`Self::first_stop`] had nothing against it.
    pub(crate) fn fit(
        &mut self,
        schema: usize,
        rows: Batch,
        path: &Arc<str>,
        more: Option<&KafkaColumns>,
    ) -> Result<Fitted, TaskError> {
        let way = self.way(schema, path);
        let file = *self.of_path.get(path).unwrap_or(&schema);
        let rows = match (&way, &rows.values) {
            (Way::Projected(projection), Values::Typed(columns)) => {
                let columns = projected(projection, columns, more).map_err(|why| {
                    TaskError::Data(format!("could not bring rows to the schema of their file: {why}"))
                })?;
                let value = self.known[file].schema.value.clone();
                Batch { values: Values::Typed(columns), schema: Some(value), ..rows }
            }
            (_, _) => rows,
        };
        self.schemas.insert(schema);
        if self.is_one_file() {
            self.of_path.entry(path.clone()).or_insert(schema);
            return Ok(Fitted { rows, context: self.context(file) });
        }
        if self.has_places() && !self.has_place(schema, path) {
            self.places.insert((schema, path.clone()));
        }
        Ok(Fitted { rows, context: self.context(schema) })
    }

    /// The open cut ended.
    pub(crate) fn reset(&mut self) {
        self.of_path.clear();
        self.schemas.clear();
        self.places.clear();
    }

    /// Whether a path has one file whatever the schemas of its rows are.
    fn is_one_file(&self) -> bool {
        self.rules.compatibility != Compatibility::None || !self.rules.separate_files
    }

    /// Whether files must be counted here, since a path may have several.
    fn has_places(&self) -> bool {
        self.open_files_max.is_some() && !self.is_one_file()
    }

    fn has_place(&self, schema: usize, path: &Arc<str>) -> bool {
        self.places.contains(&(schema, path.clone()))
    }

    fn way(&mut self, schema: usize, path: &Arc<str>) -> Way {
        let is_full = self.schemas.len() >= SCHEMAS_OF_A_CUT_MAX && !self.schemas.contains(&schema);
        if is_full {
            return Way::Changed;
        }
        let Some(file) = self.of_path.get(path).copied().filter(|file| *file != schema) else { return Way::Own };
        if let Some(way) = self.ways.get(&(schema, file)) {
            return way.clone();
        }
        let (record, open) = (&self.known[schema].schema, &self.known[file].schema);
        let way = match self.rules.compatibility.fit(record, open) {
            Err(why) => Way::Refused(why),
            Ok(Fit::Same) => Way::Own,
            Ok(Fit::Changed(_)) => Way::Changed,
            Ok(Fit::Projected) => match Projection::new(&record.fields, &open.fields) {
                Ok(projection) => Way::Projected(Arc::new(projection)),
                Err(why) => Way::Refused(why),
            },
        };
        self.ways.insert((schema, file), way.clone());
        way
    }
}

impl Way {
    fn stop(&self) -> Option<Stop> {
        match self {
            Way::Own | Way::Projected(_) => None,
            Way::Changed => Some(Stop::Change),
            Way::Refused(why) => Some(Stop::Refused(why.clone())),
        }
    }
}

/// The rows under the schema of their file; columns of `more` stay what they are.
fn projected(projection: &Projection, rows: &StructArray, more: Option<&KafkaColumns>) -> Result<StructArray, String> {
    let Some(more) = more else { return projection.apply(rows) };
    let mut failed = None;
    let rows = more.change_values(rows, |values| match projection.apply(values) {
        Ok(projected) => projected,
        Err(why) => {
            failed = Some(why);
            values.clone()
        }
    });
    failed.map_or(Ok(rows), Err)
}

/// How files name a schema that rows brought: no two have one name.
fn name_of(schema: &RecordSchema) -> String {
    let table = TableSchema::new(&schema.fields).map(|schema| schema.to_json()).unwrap_or_default();
    let mut marks = String::new();
    add_marks(&schema.fields, &mut marks);
    let value = &schema.value;
    let own = format!("{:?} {:?}", value.name, value.version);
    let parts: Vec<&str> = match (marks.is_empty(), value.name.is_none() && value.version.is_none()) {
        // As before there were marks, names and versions.
        (true, true) => vec![&table],
        (_, _) => vec![&table, &own, &marks],
    };
    format!("0-{}", Fingerprint::of(parts.iter().map(|part| part.as_bytes())))
}

fn add_marks(fields: &Fields, text: &mut String) {
    for field in fields {
        add_marks_of(field, text);
    }
}

fn add_marks_of(field: &Field, text: &mut String) {
    let marks = ConnectMarks::of(field);
    if marks != ConnectMarks::default() {
        let ConnectMarks { name, parameters, default } = marks;
        text.push_str(&format!("{} {name:?} {parameters:?} {default:?};", field.name()));
    }
    match field.data_type() {
        DataType::Struct(fields) => add_marks(fields, text),
        DataType::List(element) => add_marks_of(element, text),
        DataType::Map(entries, _) => add_marks_of(entries, text),
        _ => {}
    }
}
