//! Make finished files visible as Delta commits; table upkeep. A file is an object that nobody sees until a commit adds it
//! to the table's log. The commit also says, in one `txn` action for each topic-partition, where the table ends now, and
//! it is made only of what begins where the table ended at the very version before: that is the whole of exactly-once, so
//! there is no plan, and the table tells where reading starts. One task of a [`Table`] knows its newest version and commits
//! for all lanes of the process: one request when nobody is in the way. Nothing else of sluice knows deltalake, and of this
//! crate only `log.rs`, `open.rs` and `upkeep.rs` do: a table's objects as a log store, and its newest version over its checkpoints.
//!
//! ```text
//!  lane --large files--> DeltaCommitter --objects appear--> Table --what is due?--> 00000000000000000007.json
//!       --rows-------------------------------------------->  |  ^        decide          |
//!         FileMaker: the rows of many lanes, an object  <----+  +---- read on <--taken---+
//!                                                            +--> answers: committed | somebody else wrote | refused
//! ```

mod action;
mod batch;
mod columns;
mod commit;
mod committer;
mod decide;
mod file_maker;
#[cfg(test)]
mod lanes_tests;
mod log;
mod metrics;
mod open;
mod positions;
mod protocol;
mod stats;
mod table;
#[cfg(test)]
mod table_tests;
mod upkeep;

pub use committer::{DeltaCommitter, app_id, sealed_by};
pub use decide::Wish;
pub use metrics::{Metrics, TableMetrics};
pub use positions::{Positions, PositionsSet, set_positions};
pub use table::{CommitError, Committed, Known, NewFile, NewRows, Proposal, Table, TableOptions};
pub use upkeep::{Compaction, Removable, UpkeepOptions, Vacuum};
