//! How far each step of one lane has come, and what may be committed next. Pure: no I/O, no clock.

use model::{Offset, OffsetRange};

/// The positions of one lane: `received >= written >= closed >= planned >= published >= committed`, none of them ever
/// moving back.
///
/// The order of a cut is `plan` - commit of the plan at the cut's start - `published` - commit of its end. There is at most
/// one plan at a time, so a broker that lost everything but the committed offset and its metadata knows what to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Ledger {
    received: Offset,
    written: Offset,
    /// End of the last cut that takes no more rows; it may still wait for its turn to be planned.
    closed: Offset,
    planned: Offset,
    published: Offset,
    committed: Offset,
    /// What must be committed at `committed` before anything else, because the broker holds nothing: a plan, or nothing.
    unsaid: Option<String>,
    /// Whether there is a plan at `committed` that is not published: the broker holds it, or it is `unsaid`.
    plan_held: bool,
    step: Step,
    /// Records up to here were left out and no file holds any before it.
    skipped: Offset,
    in_flight: Option<InFlight>,
}

/// What the broker holds for a lane when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The start, and no plan.
    Start,
    /// The start, with the plan of a cut there, which must be replayed.
    Plan,
    /// Nothing. The start is committed first, so that a restart does not look for it again; with the metadata of a plan
    /// when the objects in the store told one, which must be replayed after that.
    Nothing {
        /// Metadata of the plan; empty for none.
        plan: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// No plan, or the last one is published.
    Free,
    /// A plan waits for its commit.
    Wanted { range: OffsetRange, metadata: String },
    /// A plan that the broker did not hold is made again and waits for its commit.
    Recovering { range: OffsetRange },
    /// The plan is committed; its objects become visible.
    Publishing { range: OffsetRange },
}

#[derive(Debug, Clone, PartialEq)]
struct InFlight {
    offset: Offset,
    carries: Carries,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Carries {
    /// The start of a lane that the broker knew nothing of.
    Start,
    /// The plan of this cut.
    Plan(OffsetRange),
    /// How far everything is visible.
    Frontier,
}

/// A step that the protocol does not allow here: a defect of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ledger refuses {step}: {why}")]
pub struct LedgerError {
    step: &'static str,
    why: String,
}

fn refuse(step: &'static str, why: String) -> LedgerError {
    LedgerError { step, why }
}

impl Ledger {
    /// A lane that starts at `start`, where the broker holds `held`.
    pub fn new(start: Offset, held: Held) -> Ledger {
        let (plan_held, unsaid) = match held {
            Held::Start => (false, None),
            Held::Plan => (true, None),
            Held::Nothing { plan } => (!plan.is_empty(), Some(plan)),
        };
        Ledger {
            received: start,
            written: start,
            closed: start,
            planned: start,
            published: start,
            committed: start,
            unsaid,
            plan_held,
            step: Step::Free,
            skipped: start,
            in_flight: None,
        }
    }

    /// Records up to `end` came in. Earlier news is no news.
    pub fn received(&mut self, end: Offset) {
        self.received = self.received.max(end);
    }

    /// Records up to `end` are in open files, or left out.
    pub fn written(&mut self, end: Offset) -> Result<(), LedgerError> {
        if end > self.received {
            return Err(refuse("written", format!("{end} is past what was received, {}", self.received)));
        }
        self.written = self.written.max(end);
        Ok(())
    }

    /// A cut that ends at `end` takes no more rows. Until it is published nothing past it may be committed.
    pub fn closed(&mut self, end: Offset) -> Result<(), LedgerError> {
        if end > self.written {
            return Err(refuse("closed", format!("{end} is past what is written, {}", self.written)));
        }
        self.closed = self.closed.max(end);
        Ok(())
    }

    fn check_plan(&self, range: OffsetRange) -> Result<(), LedgerError> {
        if range.is_empty() {
            return Err(refuse("plan", format!("{range} holds nothing")));
        }
        if !matches!(self.step, Step::Free) {
            return Err(refuse("plan", format!("{range} while another cut is under way")));
        }
        if range.start() < self.planned {
            return Err(refuse("plan", format!("{range} starts before the last plan's end {}", self.planned)));
        }
        if range.start() > self.planned.max(self.skipped) {
            return Err(refuse(
                "plan",
                format!("{range} leaves out records from {} on", self.planned.max(self.skipped)),
            ));
        }
        if range.end() > self.closed {
            return Err(refuse("plan", format!("{range} ends past the last closed cut, {}", self.closed)));
        }
        if let Some(sent) = self.in_flight.as_ref().filter(|sent| range.start() < sent.offset) {
            return Err(refuse("plan", format!("{range} starts before {}, which is being committed", sent.offset)));
        }
        Ok(())
    }

    /// The cut `range` is to be planned with `metadata` at its start.
    pub fn plan(&mut self, range: OffsetRange, metadata: String) -> Result<(), LedgerError> {
        self.check_plan(range)?;
        if self.plan_held && self.committed < range.end() && self.published <= self.committed {
            return Err(refuse("plan", format!("{range} while the plan at {} waits for its replay", self.committed)));
        }
        self.planned = range.end();
        self.step = Step::Wanted { range, metadata };
        Ok(())
    }

    /// The cut `range` repeats the plan that the lane started with. Returns whether it may be published now: it may when
    /// the broker holds that plan, else when [`Self::commit_taken`] says so.
    pub fn replay(&mut self, range: OffsetRange) -> Result<bool, LedgerError> {
        self.check_plan(range)?;
        if !self.plan_held || range.start() != self.committed {
            return Err(refuse("replay", format!("{range} is not what the broker holds at {}", self.committed)));
        }
        self.planned = range.end();
        let is_held = self.unsaid.is_none();
        self.step = if is_held { Step::Publishing { range } } else { Step::Recovering { range } };
        Ok(is_held)
    }

    /// The cut `range` may be published now, without a plan: whoever makes it visible refuses what does not begin where the
    /// last cut ended.
    pub fn unplanned(&mut self, range: OffsetRange) -> Result<(), LedgerError> {
        if range.is_empty() || !matches!(self.step, Step::Free) {
            return Err(refuse("unplanned", format!("{range} holds nothing, or another cut is under way")));
        }
        if range.start() > self.planned || range.end() <= self.planned || range.end() > self.closed {
            return Err(refuse(
                "unplanned",
                format!("{range} is not what was closed, up to {}, since {}", self.closed, self.planned),
            ));
        }
        self.planned = range.end();
        self.step = Step::Publishing { range };
        Ok(())
    }

    /// Every object of the cut that ends at `end` is visible.
    pub fn published(&mut self, end: Offset) -> Result<(), LedgerError> {
        match &self.step {
            Step::Publishing { range } if range.end() == end => {
                self.published = end;
                self.step = Step::Free;
                Ok(())
            }
            Step::Free | Step::Wanted { .. } | Step::Recovering { .. } | Step::Publishing { .. } => {
                Err(refuse("published", format!("{end} is not the end of a cut whose plan is committed")))
            }
        }
    }

    /// No file is open and no record before `to` is left to be written.
    pub fn skipped(&mut self, to: Offset) -> Result<(), LedgerError> {
        if to > self.written {
            return Err(refuse("skipped", format!("{to} is past what is written, {}", self.written)));
        }
        self.skipped = self.skipped.max(to);
        Ok(())
    }

    /// What to commit now: offset and metadata. `None` when there is nothing to say or the last request is not answered.
    pub fn next_commit(&self) -> Option<(Offset, &str)> {
        if self.in_flight.is_some() {
            return None;
        }
        if let Some(metadata) = &self.unsaid {
            return Some((self.committed, metadata));
        }
        match &self.step {
            Step::Wanted { range, metadata } => Some((range.start(), metadata)),
            // A held plan must stay until its cut is published.
            Step::Recovering { .. } | Step::Publishing { .. } => None,
            Step::Free => {
                // Records left out after a cut that still waits for its turn must wait with it.
                let is_idle = self.published >= self.closed;
                let frontier = if is_idle { self.published.max(self.skipped) } else { self.published };
                (frontier > self.committed && (!self.plan_held || self.published > self.committed))
                    .then_some((frontier, ""))
            }
        }
    }

    /// What [`Self::next_commit`] said is on its way to the broker.
    pub fn commit_sent(&mut self) {
        let carries = match (&self.unsaid, &self.step) {
            (Some(_), _) => Carries::Start,
            (None, Step::Wanted { range, .. }) => Carries::Plan(*range),
            (None, Step::Free | Step::Recovering { .. } | Step::Publishing { .. }) => Carries::Frontier,
        };
        if let Some((offset, _)) = self.next_commit() {
            self.in_flight = Some(InFlight { offset, carries });
        }
    }

    /// The broker took it. Returns whether a plan may be published now.
    pub fn commit_taken(&mut self) -> bool {
        let Some(InFlight { offset, carries }) = self.in_flight.take() else { return false };
        self.committed = self.committed.max(offset);
        match carries {
            Carries::Start => {
                self.unsaid = None;
                let Step::Recovering { range } = self.step else { return false };
                self.step = Step::Publishing { range };
                true
            }
            Carries::Plan(range) => {
                self.plan_held = true;
                // What lies between the last cut and this one was left out.
                self.published = self.published.max(range.start());
                self.step = Step::Publishing { range };
                true
            }
            Carries::Frontier => {
                self.plan_held = false;
                self.closed = self.closed.max(offset);
                self.planned = self.planned.max(offset);
                self.published = self.published.max(offset);
                false
            }
        }
    }

    /// The broker surely did not take it; it will be said again.
    pub fn commit_refused(&mut self) {
        self.in_flight = None;
    }

    /// Whether everything written is committed and no plan is left behind.
    pub fn is_settled(&self) -> bool {
        matches!(self.step, Step::Free)
            && self.in_flight.is_none()
            && self.published >= self.closed
            && self.next_commit().is_none()
    }

    /// Whether there will be something to commit soon: a closed cut has no plan yet, or is becoming visible.
    pub fn is_about_to_speak(&self) -> bool {
        match &self.step {
            Step::Free => self.closed > self.planned,
            Step::Publishing { .. } => true,
            Step::Wanted { .. } | Step::Recovering { .. } => false,
        }
    }

    /// Whether everything that was closed is visible.
    pub fn is_visible(&self) -> bool {
        self.published >= self.closed
    }

    /// Offset that a restart would go on from.
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// Offset after the last record that was received.
    pub fn received_to(&self) -> Offset {
        self.received
    }

    /// Asserts what always holds; for tests and for the edges of the task.
    pub fn check(&self) -> Result<(), LedgerError> {
        let order = [self.received, self.written, self.closed, self.planned, self.published, self.committed];
        if order.windows(2).all(|pair| pair[0] >= pair[1]) {
            return Ok(());
        }
        Err(refuse("check", format!("received, written, closed, planned, published, committed are {order:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn range(start: i64, end: i64) -> OffsetRange {
        OffsetRange::new(at(start), at(end)).unwrap()
    }

    #[test]
    fn a_cut_is_planned_committed_published_committed() {
        let mut ledger = Ledger::new(at(5), Held::Start);
        ledger.received(at(9));
        ledger.written(at(8)).unwrap();
        assert!(ledger.plan(range(5, 8), "p".into()).is_err(), "not before the cut is closed");
        ledger.closed(at(8)).unwrap();
        ledger.plan(range(5, 8), "p".into()).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(5), "p")));
        assert!(ledger.published(at(8)).is_err(), "not before the plan is committed");
        ledger.commit_sent();
        assert_eq!(ledger.next_commit(), None);
        assert!(ledger.commit_taken());
        assert_eq!(ledger.next_commit(), None, "the plan stays until its objects are visible");
        ledger.published(at(8)).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(8), "")));
        ledger.written(at(9)).unwrap();
        ledger.closed(at(9)).unwrap();
        ledger.plan(range(8, 9), "q".into()).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(8), "q")), "the end and the next plan are one commit");
    }

    #[test]
    fn a_held_plan_is_not_erased_before_its_replay_is_published() {
        let mut ledger = Ledger::new(at(5), Held::Plan);
        ledger.received(at(9));
        ledger.written(at(9)).unwrap();
        ledger.skipped(at(7)).unwrap();
        assert_eq!(ledger.next_commit(), None);
        ledger.closed(at(9)).unwrap();
        assert!(ledger.plan(range(5, 9), "other".into()).is_err(), "no other cut may take its place");
        assert!(ledger.replay(range(6, 9)).is_err());
        ledger.replay(range(5, 9)).unwrap();
        ledger.published(at(9)).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(9), "")));
    }

    #[test]
    fn a_start_that_the_broker_does_not_know_is_committed_before_all_else() {
        let mut ledger = Ledger::new(at(7), Held::Nothing { plan: String::new() });
        assert_eq!(ledger.next_commit(), Some((at(7), "")), "at once, though nothing came yet");
        ledger.received(at(9));
        ledger.written(at(9)).unwrap();
        ledger.closed(at(9)).unwrap();
        ledger.plan(range(7, 9), "p".into()).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(7), "")));
        ledger.commit_sent();
        ledger.commit_refused();
        assert_eq!(ledger.next_commit(), Some((at(7), "")), "said again");
        ledger.commit_sent();
        assert!(!ledger.commit_taken(), "the plan is not committed yet");
        assert_eq!(ledger.next_commit(), Some((at(7), "p")));
        ledger.commit_sent();
        assert!(ledger.commit_taken());
    }

    #[test]
    fn a_recovered_plan_is_committed_before_its_replay_may_be_published() {
        let recovered = || {
            let mut ledger = Ledger::new(at(5), Held::Nothing { plan: "r".into() });
            ledger.received(at(9));
            ledger.written(at(9)).unwrap();
            ledger.closed(at(9)).unwrap();
            ledger
        };
        let mut early = recovered();
        assert_eq!(early.next_commit(), Some((at(5), "r")));
        assert!(early.plan(range(5, 9), "other".into()).is_err(), "no other cut may take its place");
        assert!(!early.replay(range(5, 9)).unwrap());
        assert!(early.published(at(9)).is_err(), "the broker does not hold the plan");
        early.commit_sent();
        assert!(!early.is_settled());
        assert!(early.commit_taken());
        early.published(at(9)).unwrap();
        assert_eq!(early.next_commit(), Some((at(9), "")));

        let mut late = recovered();
        late.commit_sent();
        assert!(!late.commit_taken(), "its cut is not made yet");
        assert_eq!(late.next_commit(), None, "the plan is not erased");
        assert!(late.replay(range(5, 9)).unwrap());
        late.published(at(9)).unwrap();
    }

    #[test]
    fn left_out_records_move_the_frontier_when_nothing_is_under_way() {
        let mut ledger = Ledger::new(at(0), Held::Start);
        ledger.received(at(4));
        ledger.written(at(4)).unwrap();
        ledger.skipped(at(4)).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(4), "")));
        ledger.commit_sent();
        ledger.commit_refused();
        assert_eq!(ledger.next_commit(), Some((at(4), "")), "said again");
        ledger.commit_sent();
        assert!(!ledger.commit_taken());
        assert!(ledger.is_settled());
        ledger.check().unwrap();
    }

    #[test]
    fn records_left_out_behind_a_cut_that_waits_are_not_committed_before_it() {
        let mut ledger = Ledger::new(at(0), Held::Start);
        ledger.received(at(9));
        ledger.written(at(9)).unwrap();
        ledger.closed(at(6)).unwrap();
        ledger.skipped(at(9)).unwrap();
        assert_eq!(ledger.next_commit(), None, "the cut [0, 6) is not even planned");
        assert!(!ledger.is_settled());
        ledger.plan(range(0, 6), "p".into()).unwrap();
        ledger.commit_sent();
        ledger.commit_taken();
        ledger.published(at(6)).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(9), "")));
    }

    #[test]
    fn a_cut_of_records_that_are_being_committed_as_left_out_is_refused() {
        let mut ledger = Ledger::new(at(0), Held::Start);
        ledger.received(at(3));
        ledger.written(at(3)).unwrap();
        ledger.skipped(at(3)).unwrap();
        ledger.commit_sent();
        ledger.closed(at(3)).unwrap();
        assert!(ledger.plan(range(0, 1), "p".into()).is_err(), "its plan would take the committed offset back to 0");
    }

    #[test]
    fn a_cut_without_a_plan_is_published_at_once_and_its_end_committed_after_it() {
        let mut ledger = Ledger::new(at(5), Held::Nothing { plan: String::new() });
        ledger.received(at(9));
        ledger.written(at(9)).unwrap();
        assert!(ledger.unplanned(range(5, 8)).is_err(), "not before it is closed");
        ledger.closed(at(8)).unwrap();
        assert!(ledger.unplanned(range(6, 8)).is_err(), "not with a gap before it");
        ledger.unplanned(range(5, 8)).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(5), "")), "the start, which the broker does not know, meanwhile");
        ledger.commit_sent();
        assert!(!ledger.commit_taken());
        assert_eq!(ledger.next_commit(), None, "the end is not visible yet");
        assert!(ledger.unplanned(range(5, 8)).is_err(), "one after the other");
        ledger.published(at(8)).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(8), "")));
        ledger.check().unwrap();
    }

    #[test]
    fn a_cut_without_a_plan_covers_records_that_were_left_out_before_it() {
        let mut ledger = Ledger::new(at(0), Held::Start);
        ledger.received(at(9));
        ledger.written(at(6)).unwrap();
        ledger.skipped(at(6)).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(6), "")));
        ledger.commit_sent();
        ledger.written(at(9)).unwrap();
        ledger.closed(at(9)).unwrap();
        ledger.unplanned(range(0, 9)).unwrap();
        assert!(!ledger.commit_taken());
        ledger.check().unwrap();
        ledger.published(at(9)).unwrap();
        assert_eq!(ledger.next_commit(), Some((at(9), "")));
    }

    #[derive(Debug, Clone)]
    enum Act {
        Receive(i64),
        Write(i64),
        Close(i64),
        Plan(i64, i64),
        Replay(i64),
        Publish(i64),
        Skip(i64),
        Send,
        Taken,
        Refused,
    }

    fn act() -> impl Strategy<Value = Act> {
        let n = 0i64..12;
        prop_oneof![
            n.clone().prop_map(Act::Receive),
            n.clone().prop_map(Act::Write),
            n.clone().prop_map(Act::Close),
            (n.clone(), n.clone()).prop_map(|(a, b)| Act::Plan(a.min(b), a.max(b))),
            n.clone().prop_map(Act::Replay),
            n.clone().prop_map(Act::Publish),
            n.prop_map(Act::Skip),
            Just(Act::Send),
            Just(Act::Taken),
            Just(Act::Refused),
        ]
    }

    fn held() -> impl Strategy<Value = Held> {
        let nothing = |plan: &str| Just(Held::Nothing { plan: plan.to_owned() });
        prop_oneof![Just(Held::Start), Just(Held::Plan), nothing(""), nothing("recovered")]
    }

    proptest! {
        #[test]
        fn whatever_is_asked_the_order_holds_and_nothing_is_published_that_the_broker_does_not_know(
            held in held(),
            acts in prop::collection::vec(act(), 0..80),
        ) {
            // What the broker holds, and what is on its way there.
            let mut broker: Option<(Offset, String)> = match &held {
                Held::Start => Some((at(0), String::new())),
                Held::Plan => Some((at(0), "held".to_owned())),
                Held::Nothing { .. } => None,
            };
            let mut sent = None;
            let mut ledger = Ledger::new(at(0), held);
            for act in acts {
                let before = ledger.clone();
                let publishing = matches!(before.step, Step::Publishing { .. });
                let _ = match act {
                    Act::Receive(n) => { ledger.received(at(n)); Ok(()) }
                    Act::Write(n) => ledger.written(at(n)),
                    Act::Close(n) => ledger.closed(at(n)),
                    Act::Plan(a, b) => ledger.plan(range(a, b), format!("{a}-{b}")),
                    Act::Replay(n) => {
                        let range = OffsetRange::new(before.committed, at(n)).unwrap_or(range(0, 0));
                        ledger.replay(range).map(|may_publish| {
                            let is_known = broker.as_ref().is_some_and(|(_, metadata)| !metadata.is_empty());
                            assert_eq!(may_publish, is_known);
                        })
                    }
                    Act::Publish(n) => ledger.published(at(n)).map(|()| {
                        let Step::Publishing { range } = before.step else { panic!("{before:?}") };
                        let (offset, metadata) = broker.clone().expect("published without a commit");
                        let of_cut = format!("{}-{n}", range.start());
                        assert!(offset == range.start(), "{before:?}");
                        assert!(metadata == of_cut || metadata == "held" || metadata == "recovered", "{metadata}");
                    }),
                    Act::Skip(n) => ledger.skipped(at(n)),
                    Act::Send => {
                        if let Some((offset, metadata)) = ledger.next_commit() {
                            sent = Some((offset, metadata.to_owned()));
                        }
                        ledger.commit_sent();
                        Ok(())
                    }
                    Act::Taken => {
                        broker = sent.take().or(broker);
                        ledger.commit_taken();
                        Ok(())
                    }
                    Act::Refused => { sent = None; ledger.commit_refused(); Ok(()) }
                };
                prop_assert!(ledger.check().is_ok(), "{ledger:?}");
                prop_assert!(ledger.committed <= ledger.published);
                let known = broker.as_ref().map_or(at(0), |(offset, _)| *offset);
                prop_assert_eq!(known, ledger.committed, "{:?}", ledger);
                for (old, new) in [(before.received, ledger.received), (before.written, ledger.written),
                    (before.closed, ledger.closed), (before.planned, ledger.planned), (before.published, ledger.published), (before.committed, ledger.committed)] {
                    prop_assert!(new >= old);
                }
                if publishing && before.plan_held && ledger.step == before.step {
                    prop_assert!(ledger.plan_held && ledger.committed == before.committed, "a plan under way is not erased");
                }
            }
        }
    }
}
