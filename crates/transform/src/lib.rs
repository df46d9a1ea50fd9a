//! Single message transforms and predicates, columnar: a batch in, a batch out. A chain is built from the `transforms`
//! and `predicates` keys of a connector, in the order of the aliases. Both forms of a batch are served, typed by columns
//! and schemaless row by row, as Kafka Connect's transforms serve both. The keys are declared and the chain is checked.
//! The transforms themselves are not built yet: a connector that names one is refused.
//!
//! ```text
//!  Batch -> [Transform]* -> Batch (+ Rejected)
//! ```

mod keys;

pub use keys::{KEYS, PREDICATES, TRANSFORMS, check};
