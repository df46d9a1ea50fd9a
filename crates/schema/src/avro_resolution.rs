//! Avro's schema resolution: how datums of the schema they were written with become the columns of another one.

use arrow::datatypes::DataType;
use serde_json::Value;

use crate::avro_defaults::encode_default;
use crate::avro_json::JsonPlan;
use crate::avro_names::{Named, full_name, own_namespace};
use crate::avro_schema::{Compiler, FieldPlan, Plan, branch_type, fixed_size, is_null, symbols};
use crate::table_schema::{FIELDS_MAX, map_fields};

/// How a datum of the writer stands for a column of the reader, where it is not simply the same.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Resolved {
    /// A narrower number.
    Promoted(Number),
    /// An enum: what each symbol of the writer is; none for those that the reader lacks.
    Enum(Vec<Option<Box<str>>>),
    /// A union of the writer: what each branch becomes.
    Branches(Vec<Plan>),
    /// A null, which takes no bytes.
    Null,
    /// What the reader's schema says itself: this plan reads this datum.
    Constant(Plan, Vec<u8>),
    /// The branch of the reader's union that has this field.
    Into { field: usize, plan: Plan },
    /// A record: its fields as they come, and those that it lacks.
    Record { steps: Vec<Step>, constants: Vec<(usize, Plan)> },
    /// Nothing of the reader's: a record that has it cannot be read.
    Mismatch(Box<str>),
}

/// A number that is widened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Int,
    Long,
    Float,
}

/// A field of the writer's record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// It goes into the reader's field of that index.
    Into(usize, FieldPlan),
    /// The reader lacks it.
    Skip(JsonPlan),
}

fn resolved(resolved: Resolved) -> Plan {
    Plan::Resolved(Box::new(resolved))
}

/// A type where it stands: its JSON and the namespace around it.
type Place<'j> = (&'j Value, &'j str);

/// The reader's type, and what it became by itself.
#[derive(Clone, Copy)]
struct Target<'r> {
    place: Place<'r>,
    plan: &'r Plan,
    data_type: &'r DataType,
}

/// Compares two schemas, type by type.
pub(crate) struct Resolver<'n, 'c> {
    pub(crate) writer: &'n Named,
    pub(crate) reader: &'n Named,
    /// Plans what becomes JSON text or is skipped: types of the writer.
    pub(crate) compiler: &'c mut Compiler<'n>,
    pub(crate) count: usize,
}

impl<'n> Resolver<'n, '_> {
    /// The plan by which datums of `written` fill the columns that `plan` fills for `read`; an error names the place where
    /// that cannot be.
    pub(crate) fn root(
        &mut self,
        written: &'n Value,
        read: &'n Value,
        plan: &'n Plan,
        data_type: &'n DataType,
    ) -> Result<Plan, String> {
        self.resolve((written, ""), Target { place: (read, ""), plan, data_type })
    }

    fn resolve(&mut self, written: Place<'n>, target: Target<'n>) -> Result<Plan, String> {
        self.count += 1;
        if self.count > FIELDS_MAX {
            return Err(format!("the two schemas have more than {FIELDS_MAX} types to compare"));
        }
        let (written, around) = definition(self.writer, written)?;
        if let Value::Array(branches) = written {
            let plans = branches.iter().map(|branch| match self.resolve((branch, around), target) {
                Ok(plan) => plan,
                Err(why) => resolved(Resolved::Mismatch(why.into())),
            });
            return Ok(resolved(Resolved::Branches(plans.collect())));
        }
        let place = definition(self.reader, target.place)?;
        match target.plan {
            Plan::Optional { inner, default, .. } => {
                if is_null(written) {
                    return Ok(resolved(match default {
                        Some(datum) => Resolved::Constant(inner.as_ref().clone(), datum.clone()),
                        None => Resolved::Null,
                    }));
                }
                let branch = place.0.as_array().into_iter().flatten().find(|branch| !is_null(branch));
                let branch = branch.ok_or_else(|| "the union of the latest schema has no type".to_owned())?;
                self.resolve((written, around), Target { place: (branch, place.1), plan: inner, ..target })
            }
            Plan::Single(inner) => {
                self.resolve((written, around), Target { place: (&place.0[0], place.1), plan: inner, ..target })
            }
            Plan::Union(plans) => self.one_of_union((written, around), place, plans, target.data_type),
            _ if is_null(written) => Err("a null cannot be what the latest schema asks for".to_owned()),
            _ => self.plain((written, around), Target { place, ..target }),
        }
    }

    fn one_of_union(
        &mut self,
        written: Place<'n>,
        (branches, around): Place<'n>,
        plans: &'n [Option<Plan>],
        data_type: &'n DataType,
    ) -> Result<Plan, String> {
        if is_null(written.0) {
            let known = plans.iter().any(Option::is_none).then(|| resolved(Resolved::Null));
            return known.ok_or_else(|| "the union of the latest schema has no null".to_owned());
        }
        let DataType::Struct(fields) = data_type else { return Err("a union is no struct".to_owned()) };
        let branches = branches.as_array().map(Vec::as_slice).unwrap_or_default();
        let known: Vec<_> =
            branches.iter().zip(plans).filter_map(|(branch, plan)| Some((branch, plan.as_ref()?))).collect();
        // The branch of the same name, or else the same type, or else the first that takes it.
        let own = self.type_name(self.writer, written);
        for exact in [true, false] {
            for (field, (branch, plan)) in known.iter().enumerate() {
                if exact && self.type_name(self.reader, (branch, around)) != own {
                    continue;
                }
                let data_type = fields[field].data_type();
                if let Ok(plan) = self.resolve(written, Target { place: (branch, around), plan, data_type }) {
                    return Ok(resolved(Resolved::Into { field, plan }));
                }
            }
        }
        Err("no type of the latest schema's union takes it".to_owned())
    }

    /// The full name of a record, enum or fixed, the type of anything else.
    fn type_name(&self, named: &'n Named, place: Place<'n>) -> String {
        match definition(named, place) {
            Ok((json, around)) => match (branch_type(json), json["name"].as_str()) {
                ("record" | "error" | "enum" | "fixed", Some(name)) => full_name(name, own_namespace(json, around)),
                (kind, _) => kind.to_owned(),
            },
            Err(_) => String::new(),
        }
    }

    fn plain(&mut self, written: Place<'n>, target: Target<'n>) -> Result<Plan, String> {
        let (json, read) = (written.0, target.place.0);
        let same = || Ok(target.plan.clone());
        match (branch_type(json), branch_type(read), target.plan) {
            ("int", "long" | "float" | "double", _) => Ok(resolved(Resolved::Promoted(Number::Int))),
            ("long", "float" | "double", _) => Ok(resolved(Resolved::Promoted(Number::Long))),
            ("float", "double", _) => Ok(resolved(Resolved::Promoted(Number::Float))),
            ("string", "bytes", _) | ("bytes", "string", _) => same(),
            ("fixed", "fixed", _) => {
                self.same_name(written, target.place)?;
                match fixed_size(json)? == fixed_size(read)? {
                    true => same(),
                    false => Err("the latest schema has a fixed of another size".to_owned()),
                }
            }
            ("enum", "enum", _) => {
                self.same_name(written, target.place)?;
                let (own, known) = (symbols(json)?, symbols(read)?);
                if known.starts_with(&own) {
                    return same();
                }
                let default = read["default"].as_str().map(Box::<str>::from);
                let one = |symbol: Box<str>| if known.contains(&symbol) { Some(symbol) } else { default.clone() };
                Ok(resolved(Resolved::Enum(own.into_iter().map(one).collect())))
            }
            ("array", "array", Plan::Array(plan)) => {
                let DataType::List(element) = target.data_type else { return Err(no_match("array", "list")) };
                let items = Target { place: (&read["items"], target.place.1), plan, data_type: element.data_type() };
                Ok(Plan::Array(Box::new(self.resolve((&json["items"], written.1), items)?)))
            }
            ("array", "array", Plan::Entries(plans)) => self.entries(written, target, plans),
            ("map", "map", Plan::Map(plan)) => {
                let DataType::Map(entries, _) = target.data_type else { return Err(no_match("map", "map")) };
                let data_type = map_fields(entries).1.data_type();
                let values = Target { place: (&read["values"], target.place.1), plan, data_type };
                Ok(Plan::Map(Box::new(self.resolve((&json["values"], written.1), values)?)))
            }
            ("record" | "error", "record" | "error", Plan::Record(fields)) => self.record(written, target, fields),
            ("record" | "error", "record" | "error", Plan::Json(_)) => {
                let name = self.type_name(self.writer, written);
                self.compiler.add_json(&name)?;
                Ok(Plan::Json(name.into()))
            }
            (own, known, _) if own == known => same(),
            (own, known, _) => Err(no_match(own, known)),
        }
    }

    /// A map with keys that are no strings.
    fn entries(&mut self, written: Place<'n>, target: Target<'n>, plans: &'n (Plan, Plan)) -> Result<Plan, String> {
        let (own, own_around) = definition(self.writer, (&written.0["items"], written.1))?;
        let (known, known_around) = definition(self.reader, (&target.place.0["items"], target.place.1))?;
        let DataType::Map(entries, _) = target.data_type else { return Err(no_match("array", "map")) };
        let fields = map_fields(entries);
        let parts = [("key", &plans.0, fields.0.data_type()), ("value", &plans.1, fields.1.data_type())];
        let mut resolved = Vec::with_capacity(2);
        for (index, (name, plan, data_type)) in parts.into_iter().enumerate() {
            let (own_field, known_field) = (&own["fields"][index], &known["fields"][index]);
            if own_field["name"] != name {
                return Err("a map whose keys are no strings changed its form".to_owned());
            }
            let own_place = (&own_field["type"], own_namespace(own, own_around));
            let place = (&known_field["type"], own_namespace(known, known_around));
            resolved.push(self.resolve(own_place, Target { place, plan, data_type })?);
        }
        let value = resolved.pop().expect("two parts");
        Ok(Plan::Entries(Box::new((resolved.pop().expect("two parts"), value))))
    }

    fn record(&mut self, written: Place<'n>, target: Target<'n>, plans: &'n [FieldPlan]) -> Result<Plan, String> {
        let DataType::Struct(columns) = target.data_type else { return Err(no_match("record", "struct")) };
        let own_around = own_namespace(written.0, written.1);
        let around = own_namespace(target.place.0, target.place.1);
        let list = |json: &'n Value| json["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (own, known) = (list(written.0), list(target.place.0));
        let mut steps = Vec::with_capacity(own.len());
        let mut filled = vec![false; known.len()];
        for field in own {
            let name = field["name"].as_str().unwrap_or_default();
            let at = (&field["type"], own_around);
            let within = |why: String| format!("field {name}: {why}");
            let Some(index) = field_of(known, name).filter(|index| !filled[*index]) else {
                steps.push(Step::Skip(self.compiler.json_plan(at.0, at.1).map_err(within)?));
                continue;
            };
            filled[index] = true;
            let plan = &plans[index].plan;
            let place = (&known[index]["type"], around);
            let plan =
                self.resolve(at, Target { place, plan, data_type: columns[index].data_type() }).map_err(within)?;
            steps.push(Step::Into(index, FieldPlan { name: name.into(), plan }));
        }
        let mut constants = Vec::new();
        for index in (0..known.len()).filter(|index| !filled[*index]) {
            let plan = missing(&known[index], &plans[index].plan, columns[index].data_type());
            constants.push((index, plan.map_err(|why| format!("field {}: {why}", plans[index].name))?));
        }
        Ok(resolved(Resolved::Record { steps, constants }))
    }

    fn same_name(&self, written: Place<'n>, read: Place<'n>) -> Result<(), String> {
        let (own, known) = (self.type_name(self.writer, written), self.type_name(self.reader, read));
        let around = own_namespace(read.0, read.1);
        let aliases = read.0["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if own == known || aliases.into_iter().any(|alias| full_name(alias, around) == own) {
            return Ok(());
        }
        Err(format!("it is {own} in the record and {known} in the latest schema"))
    }
}

/// The type behind names and `{"type": ...}`.
fn definition<'n>(named: &'n Named, (json, around): Place<'n>) -> Result<Place<'n>, String> {
    let found = named.resolve(json, around).ok_or_else(|| "a schema names a type that it lacks".to_owned())?;
    match &found.0["type"] {
        union @ Value::Array(_) => Ok((union, found.1)),
        _ => Ok(found),
    }
}

/// The field of that name, or else the one that was called so before.
fn field_of(fields: &[Value], name: &str) -> Option<usize> {
    let called =
        |field: &Value| field["aliases"].as_array().is_some_and(|aliases| aliases.iter().any(|alias| alias == name));
    fields.iter().position(|field| field["name"] == name).or_else(|| fields.iter().position(called))
}

/// What stands for a field that the writer lacks.
fn missing(field: &Value, plan: &Plan, data_type: &DataType) -> Result<Plan, String> {
    let Some(default) = field.get("default") else {
        return Err("the record's schema lacks it, and it has no default in the latest schema".to_owned());
    };
    let encoded = |plan: &Plan, data_type| {
        let mut datum = Vec::new();
        let fits = encode_default(default, plan, data_type, &mut datum);
        fits.map(|()| resolved(Resolved::Constant(plan.clone(), datum)))
            .ok_or_else(|| format!("its default {default} in the latest schema does not fit its type"))
    };
    match (plan, data_type) {
        (Plan::Optional { .. } | Plan::Union(_), _) if default.is_null() => Ok(resolved(Resolved::Null)),
        (Plan::Union(plans), DataType::Struct(fields)) => match plans.iter().flatten().next() {
            Some(first) => Ok(resolved(Resolved::Into { field: 0, plan: encoded(first, fields[0].data_type())? })),
            None => Err("its union has no type".to_owned()),
        },
        (plan, data_type) => encoded(plan, data_type),
    }
}

fn no_match(own: &str, known: &str) -> String {
    format!("it is {own} in the record and {known} in the latest schema")
}
