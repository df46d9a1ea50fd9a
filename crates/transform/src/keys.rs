//! The keys that every transform and predicate has: the lists of aliases and what each alias says of itself.

use model::{Importance, Key, Kind, Width};

/// Aliases of the transforms, in the order in which they are applied.
pub const TRANSFORM_ALIASES: Key = Key::new(
    "transforms",
    Kind::List,
    "Aliases of the transforms to apply to each record, in this order; transforms.<alias>.type names the class.",
)
.default("")
.group("Transforms", 12)
.shown(Width::Long, "Transforms");

/// Aliases of the predicates that transforms refer to.
pub const PREDICATE_ALIASES: Key = Key::new(
    "predicates",
    Kind::List,
    "Aliases of the predicates that transforms may depend on; predicates.<alias>.type names the class.",
)
.default("")
.group("Predicates", 13)
.shown(Width::Long, "Predicates");

/// The class of one transform or predicate; below its alias.
pub const TYPE: Key = Key::new("type", Kind::Class, "Class of the transform or predicate.")
    .required()
    .importance(Importance::High)
    .shown(Width::Long, "Type");

/// The predicate that decides which records a transform sees; below the alias of the transform.
pub const PREDICATE: Key = Key::new(
    "predicate",
    Kind::String,
    "Alias of the predicate that says which records the transform is applied to; without one, to all.",
)
.importance(Importance::Medium);

/// Turns the predicate round; below the alias of the transform.
pub const NEGATE: Key = Key::new(
    "negate",
    Kind::Boolean,
    "Whether the transform is applied to the records that do not meet its predicate.",
)
.default("false")
.importance(Importance::Medium);

/// Every key of a connector that this crate reads without an alias.
pub const KEYS: &[Key] = &[TRANSFORM_ALIASES, PREDICATE_ALIASES];

/// `replace.null.with.default` of the transforms that read fields.
pub(crate) const REPLACE_NULL_WITH_DEFAULT: Key = Key::new(
    "replace.null.with.default",
    Kind::Boolean,
    "Whether a null field that has a default becomes that default. It stays null otherwise.",
)
.default("true")
.importance(Importance::Medium);

/// Check of lists that may not be empty (`org.apache.kafka.connect.transforms.util.NonEmptyListValidator`).
pub(crate) fn non_empty_list(text: &str) -> Result<(), String> {
    if text.split(',').all(|part| part.trim().is_empty()) { Err("Empty list".to_owned()) } else { Ok(()) }
}
