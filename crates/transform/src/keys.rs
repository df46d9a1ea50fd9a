//! The keys that name a chain of transforms, and what is wrong with the chain a connector asks for.

use model::{Invalid, Key, Kind, Settings, Width};

/// Aliases of the transforms, in the order in which they are applied.
pub const TRANSFORMS: Key = Key::new(
    "transforms",
    Kind::List,
    "Aliases of the transforms to apply to each record, in this order; transforms.<alias>.type names the class.",
)
.default("")
.group("Transforms", 12)
.shown(Width::Long, "Transforms")
.not_yet("single message transforms; a connector that names one is refused");

/// Aliases of the predicates that transforms refer to.
pub const PREDICATES: Key = Key::new(
    "predicates",
    Kind::List,
    "Aliases of the predicates that transforms may depend on; predicates.<alias>.type names the class.",
)
.default("")
.group("Predicates", 13)
.shown(Width::Long, "Predicates")
.not_yet("predicates; a connector that names one is refused");

/// Every key of this crate.
pub const KEYS: &[Key] = &[TRANSFORMS, PREDICATES];

/// Everything that is wrong with the chain of `settings`. Each alias is blamed for itself: for a missing type in Kafka
/// Connect's words, else because this version has no transforms; dropping one silently would write other records than
/// the user asked for.
pub fn check(settings: &Settings) -> Vec<Invalid> {
    let mut problems = Vec::new();
    for (key, kind) in [(&TRANSFORMS, "transform"), (&PREDICATES, "predicate")] {
        match settings.list(key) {
            Ok(aliases) => check_aliases(settings, key, kind, &aliases, &mut problems),
            Err(problem) => problems.push(problem),
        }
    }
    problems
}

fn check_aliases(settings: &Settings, key: &Key, kind: &str, aliases: &[String], problems: &mut Vec<Invalid>) {
    for (index, alias) in aliases.iter().enumerate() {
        if aliases[..index].contains(alias) {
            let list = format!("[{}]", aliases.join(", "));
            problems.push(Invalid::value(key, &list, "Duplicate alias provided."));
            continue;
        }
        let type_key = format!("{}.{alias}.type", key.name);
        let class = settings.config().get(&type_key).map(|class| class.trim());
        problems.push(match class {
            None => Invalid::new(
                type_key.clone(),
                format!("Missing required configuration \"{type_key}\" which has no default value."),
            ),
            Some(class) => Invalid::new(
                type_key,
                format!("{kind} {alias} of type {class} is not supported yet by this version of sluice; remove it"),
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let settings = Settings::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect());
        check(&settings).into_iter().map(|problem| (problem.key, problem.message)).collect()
    }

    #[test]
    fn no_transforms_are_no_problem() {
        assert_eq!(problems(&[]), []);
        assert_eq!(problems(&[("transforms", " , "), ("predicates", ""), ("transforms.a.type", "T")]), []);
    }

    #[test]
    fn each_alias_is_refused_for_itself() {
        let found = problems(&[
            ("transforms", "a, b,a"),
            ("transforms.a.type", "org.x.Cast$Value"),
            ("predicates", "p"),
            ("predicates.p.type", "org.x.HasHeaderKey"),
        ]);
        let expected = [
            (
                "transforms.a.type",
                "transform a of type org.x.Cast$Value is not supported yet by this version of sluice; remove it",
            ),
            ("transforms.b.type", "Missing required configuration \"transforms.b.type\" which has no default value."),
            ("transforms", "Invalid value [a, b, a] for configuration transforms: Duplicate alias provided."),
            (
                "predicates.p.type",
                "predicate p of type org.x.HasHeaderKey is not supported yet by this version of sluice; remove it",
            ),
        ];
        assert_eq!(found, expected.map(|(key, message)| (key.to_owned(), message.to_owned())));
    }
}
