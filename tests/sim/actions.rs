//! The kinds of things that can happen in a world, after the actions of the protocol's model, and how often they did.

use std::collections::BTreeMap;

use writer::{Fate, Request};

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Action {
    // ---- the group
    /// A lane is assigned, without and with a plan to replay.
    Assigned,
    AssignedWithPlan,
    /// While its old owner, who does not know, still reads it.
    AssignedWhileOthersRead,
    /// A member gets lanes beside those it keeps.
    KeptLanes,
    /// A lane is revoked, also while objects of it are on their way.
    Revoked,
    RevokedWhilePublishing,
    /// A member is late to let go; is removed and does not know; hears that all is lost.
    LateToLetGo,
    Expelled,
    AllLost,
    /// A static member comes back as another process, or under a new generation of its own.
    CameBack,

    // ---- commits
    CommitTaken,
    CommitFenced,
    CommitRefused,
    CommitLost,
    /// After its sender gave up on it.
    CommitTakenLate,
    CommitFencedLate,
    CommitWithoutLease,
    /// Of a plan; of plans of several lanes at once; of an end with the next plan; of an end.
    PlanCommitted,
    PlansCommittedTogether,
    EndCommittedWithPlan,
    EndCommitted,
    /// After an unknown outcome.
    LeftAndJoinedAgain,

    // ---- the store, besides [`Action::Store`]
    /// The request was late: its sender had given up, or had died.
    PutAfterGivingUp,
    PutAfterDeath,
    CompletionAfterGivingUp,
    CompletionAfterDeath,
    /// ... and another one had made the object by then.
    PutAfterReplay,
    CompletionAfterReplay,
    /// What became of a request of this kind.
    Store(Request, Reported),

    // ---- workers and time
    /// With nothing planned; with a plan and nothing, a part, everything of it visible; with a commit under way.
    CrashWithoutPlan,
    CrashBeforePublishing,
    CrashWhilePublishing,
    CrashBeforeEnd,
    CrashWhileCommitting,
    StoppedInOrder,
    Frozen,
    Deaf,
    Paused,
    ClockForward,
    ClockBack,

    // ---- records and topics
    BadRecord,
    Tombstone,
    /// A file of keys or headers appeared; one of tombstones.
    ViewVisible,
    TombstonesVisible,
    OffsetsWithoutRecords,
    LaneWithoutRecords,
    /// A dead letter is acknowledged, late too; written after its sender gave up; lost on the way; sent once more because
    /// its record was read once more.
    LetterAcknowledged,
    LetterLate,
    LetterWrittenLate,
    LetterLost,
    LetterAgain,
    NewPartition,
    NewTopic,
    RetentionBehind,

    // ---- people
    /// Settings that shape nothing are other ones in the next life; so that a replay meets them.
    SettingsChanged,
    /// Settings that shape objects changed: fine without a plan, refused with one.
    ShapeChanged,
    ShapeRefused,
    /// The group forgot everything; lanes were found again by their objects, with and without a plan.
    GroupLost,
    LaneRecovered,
    PlanRecovered,
}

/// What happened to a request to the store, and what was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reported {
    Done,
    DoneLate,
    DoneReportedBroken,
    NotDoneReportedBroken,
    NotDoneUnanswered,
    DoneLaterUnanswered,
    NotDoneThrottled,
    NotDoneConflict,
}

impl Reported {
    /// What a fate means; `None` for one that storms do not have.
    pub(crate) fn of(fate: Fate) -> Option<Reported> {
        Some(match fate {
            Fate::Fine => Reported::Done,
            Fate::Slow(_) => Reported::DoneLate,
            Fate::FailAfter => Reported::DoneReportedBroken,
            Fate::FailBefore => Reported::NotDoneReportedBroken,
            Fate::Hang => Reported::NotDoneUnanswered,
            Fate::HangThenHappen(_) => Reported::DoneLaterUnanswered,
            Fate::Throttled => Reported::NotDoneThrottled,
            Fate::Conflict => Reported::NotDoneConflict,
            Fate::Denied => return None,
        })
    }
}

/// Requests that sluice sends, and whether S3 answers them with a conflict of writers.
pub(crate) const REQUESTS: [(Request, bool); 8] = [
    (Request::Put, true),
    (Request::CreateUpload, false),
    (Request::PutPart, false),
    (Request::CompleteUpload, true),
    (Request::AbortUpload, false),
    (Request::Get, false),
    (Request::Head, false),
    (Request::List, false),
];

impl Action {
    /// Every kind that the seeds must produce.
    pub(crate) fn all() -> Vec<Action> {
        use Action::*;
        let mut all = vec![
            Assigned,
            AssignedWithPlan,
            AssignedWhileOthersRead,
            KeptLanes,
            Revoked,
            RevokedWhilePublishing,
            LateToLetGo,
            Expelled,
            AllLost,
            CameBack,
            CommitTaken,
            CommitFenced,
            CommitRefused,
            CommitLost,
            CommitTakenLate,
            CommitFencedLate,
            CommitWithoutLease,
            PlanCommitted,
            PlansCommittedTogether,
            EndCommittedWithPlan,
            EndCommitted,
            LeftAndJoinedAgain,
            PutAfterGivingUp,
            PutAfterDeath,
            CompletionAfterGivingUp,
            CompletionAfterDeath,
            PutAfterReplay,
            CompletionAfterReplay,
            CrashWithoutPlan,
            CrashBeforePublishing,
            CrashWhilePublishing,
            CrashBeforeEnd,
            CrashWhileCommitting,
            StoppedInOrder,
            Frozen,
            Deaf,
            Paused,
            ClockForward,
            ClockBack,
            BadRecord,
            Tombstone,
            ViewVisible,
            TombstonesVisible,
            OffsetsWithoutRecords,
            LaneWithoutRecords,
            LetterAcknowledged,
            LetterLate,
            LetterWrittenLate,
            LetterLost,
            LetterAgain,
            NewPartition,
            NewTopic,
            RetentionBehind,
            SettingsChanged,
            ShapeChanged,
            ShapeRefused,
            GroupLost,
            LaneRecovered,
            PlanRecovered,
        ];
        let reported = [
            Reported::Done,
            Reported::DoneLate,
            Reported::DoneReportedBroken,
            Reported::NotDoneReportedBroken,
            Reported::NotDoneUnanswered,
            Reported::DoneLaterUnanswered,
            Reported::NotDoneThrottled,
        ];
        for (request, conflicts) in REQUESTS {
            all.extend(reported.map(|reported| Store(request, reported)));
            all.extend(conflicts.then_some(Store(request, Reported::NotDoneConflict)));
        }
        all
    }
}

/// How often each kind happened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(BTreeMap<Action, u64>);

impl Tally {
    pub(crate) fn count(&mut self, action: Action) {
        *self.0.entry(action).or_default() += 1;
    }

    pub(crate) fn of(&self, action: Action) -> u64 {
        self.0.get(&action).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        for (action, times) in &other.0 {
            *self.0.entry(*action).or_default() += times;
        }
    }
}
