//! The oracles: what must never be seen in any world, whatever happens in it.

use std::fmt;

/// What an oracle watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Oracle {
    /// No record is in two objects.
    Duplicate,
    /// In the end every record is in an object.
    Loss,
    /// No commit passes a record that is in no object.
    CommittedUnseen,
    /// The committed offset never moves back.
    WentBack,
    /// An object that is there is never given other content.
    Changed,
    /// Nor the same content once more, where the store knows a condition for that.
    MadeTwice,
    /// A file holds rows of its name's lane, path and range, in order, as they were produced.
    Content,
    /// The files of a cut are those of its plan, one for each path, and for each version where versions have files of their own.
    Cut,
    /// What is committed as a plan can be read as one.
    Plan,
    /// After a clean end no upload is left behind.
    Orphan,
    /// Nothing is ever deleted.
    Deleted,
    /// Memory in use stays below the budget and is given back.
    Memory,
    /// Nothing that covers a bad record is planned or committed before its dead letter is acknowledged.
    LetterPassed,
    /// In the end every bad record has a dead letter.
    LetterLost,
    /// A replay sends no letter of its records again: they were acknowledged before their plan was made.
    LetterReplayed,
    /// After the faults the lag reaches 0, and no plan stays behind.
    Lag,
    /// Only what a person must see stops a task.
    Stopped,
}

/// Something that is wrong in a world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) oracle: Oracle,
    pub(crate) what: String,
}

impl Wrong {
    pub(crate) fn new(oracle: Oracle, what: String) -> Wrong {
        Wrong { oracle, what }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.oracle, self.what)
    }
}
