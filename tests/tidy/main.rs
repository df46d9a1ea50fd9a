//! The tidy ring: what docs/architecture.md says of the house, and the rules that a reader relies on, as tests.
//!
//! Each test is one rule. A failure names the files and says what to do. Nothing is compiled or run for it: `cargo
//! metadata` tells which crate depends on what, the rest is read from the files. A rule that no longer fits is changed
//! here in the same change as the document that states it.
//!
//! ```text
//!  cargo metadata --> boundaries: who may depend on whom, who alone knows a library
//!  *.rs           --> sources: length, first lines, unsafe, clocks and environment, select!
//!  *.md, *.json   --> documents: links lead somewhere, example connectors are connectors
//! ```

mod boundaries;
mod documents;
mod house;
mod sources;
