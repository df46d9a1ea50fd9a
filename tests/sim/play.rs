//! Plays a scene: starts workers, lets things happen, tends those who died, and ends everything in order.

use std::time::Duration;

use pipeline::{TaskError, Wanted};
use source::MemberId;
use tokio::time::{Instant, sleep, sleep_until};
use writer::{Fate, Request};

use crate::actions::{Action, Tally};
use crate::bends::Bend;
use crate::oracle::{Oracle, Wrong};
use crate::recipe::Pairs;
use crate::scene::{Act, Deed, STORM, Scene, record_time};
use crate::worker::Worker;
use crate::world::World;

/// How often somebody looks after the workers.
const TEND: Duration = Duration::from_millis(200);

/// After so long without a heartbeat the group removes a member.
const SESSION: Duration = Duration::from_secs(3);

/// How a world ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What is wrong; empty when all is well.
    pub(crate) wrong: Vec<Wrong>,
    pub(crate) trace: Vec<String>,
    /// What happened, and how often.
    pub(crate) tally: Tally,
}

/// A place for a worker: after a crash another process takes it.
struct Slot {
    number: usize,
    lives: usize,
    worker: Option<Worker>,
    restart_at: Instant,
}

/// What must happen later: members that the group has not missed yet, deafness and pauses that end.
enum Later {
    Miss(MemberId),
    Hear(MemberId),
    Resume(usize),
}

struct Play {
    world: World,
    slots: Vec<Slot>,
    later: Vec<(Instant, Later)>,
    wrong: Vec<Wrong>,
    /// Nobody is started while people do something.
    is_closed: bool,
    /// A worker stopped because a plan was made under other settings.
    is_refused: bool,
    /// The settings of the last life.
    known: Pairs,
}

/// Plays the world of `seed` from its beginning to its end in a runtime of its own.
pub(crate) fn play(seed: u64, bend: Bend) -> Outcome {
    let scene = Scene::draw(seed, bend);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime needs nothing").block_on(async {
        let world = World::new(scene.make.clone());
        let slots =
            (0..scene.workers).map(|number| Slot { number, lives: 0, worker: None, restart_at: Instant::now() });
        let slots = slots.collect();
        let (later, wrong, known) = (Vec::new(), Vec::new(), scene.make.pairs.clone());
        let mut play = Play { world: world.clone(), slots, later, wrong, is_closed: false, is_refused: false, known };
        play.storm(&scene).await;
        match scene.deed {
            Deed::Nothing => {}
            Deed::LoseGroup => play.lose_group(&scene).await,
            Deed::Reshape => play.reshape().await,
        }
        play.calm(&scene).await;
        let mut wrong = play.wrong;
        wrong.extend(world.verdict(true));
        let truth = world.truth();
        Outcome { wrong, trace: truth.trace().to_vec(), tally: truth.tally.clone() }
    })
}

impl Play {
    async fn storm(&mut self, scene: &Scene) {
        let began = Instant::now();
        self.world.weather().storm(Some(scene.storm));
        for (at, act) in &scene.acts {
            self.tend_until(began + *at).await;
            self.act(act);
        }
        self.tend_until(began + STORM).await;
    }

    /// All processes end, most of them at once; what they sent arrives; the group knows that they are gone.
    async fn empty(&mut self) {
        self.is_closed = true;
        for number in 0..self.slots.len() {
            let crashes = self.world.weather().below(4) > 0;
            if let Some(worker) = self.slots[number].worker.as_ref().filter(|_| crashes) {
                worker.crash();
            }
        }
        self.world.weather().clear();
        self.stop_all().await;
        sleep(Duration::from_secs(60)).await;
        for (_, later) in std::mem::take(&mut self.later) {
            match later {
                Later::Miss(member) | Later::Hear(member) => self.world.log().kill(member),
                Later::Resume(_) => {}
            }
        }
        self.is_closed = false;
    }

    /// The group loses its offsets while nobody works; then workers are told to look at the objects.
    async fn lose_group(&mut self, scene: &Scene) {
        if self.world.weather().below(2) == 0 {
            self.break_cuts().await;
        }
        self.empty().await;
        self.world.lose_group();
        self.world.set_recovers();
        for number in self.world.lanes() {
            for value in 0..self.world.weather().below(5) {
                let fields = serde_json::json!({ "color": "red", "v": value });
                self.world.produce(number, fields);
            }
        }
        self.world.weather().storm(Some(scene.storm));
        self.tend_until(Instant::now() + Duration::from_secs(10)).await;
    }

    /// Cuts of which only some files become visible.
    async fn break_cuts(&mut self) {
        for number in self.world.lanes() {
            for color in ["red", "green", "blue", "red"] {
                self.world.produce(number, serde_json::json!({ "color": color, "v": 1 }));
            }
        }
        let mut turn = 0;
        self.world.weather().order_store(move |request, key| {
            let makes = matches!(request, Request::Put | Request::CompleteUpload) && key.ends_with(".parquet");
            turn += usize::from(makes);
            if makes && turn % 2 == 0 { Fate::Hang } else { Fate::Fine }
        });
        self.tend_until(Instant::now() + Duration::from_secs(6)).await;
    }

    /// Somebody changes settings that shape objects. A plan that was made before stops every worker: then the old settings
    /// come back until it is done.
    async fn reshape(&mut self) {
        self.empty().await;
        self.world.reshape(1);
        self.world.count(Action::ShapeChanged);
        self.tend_until(Instant::now() + Duration::from_secs(8)).await;
        if !self.is_refused {
            return;
        }
        self.world.count(Action::ShapeRefused);
        self.empty().await;
        self.is_refused = false;
        self.world.reshape(0);
        let until = Instant::now() + Duration::from_secs(120);
        while self.world.has_plan() && Instant::now() < until {
            self.tend_until(Instant::now() + TEND).await;
        }
        self.is_closed = true;
        self.stop_all().await;
        if self.world.has_plan() {
            self.fail(Oracle::Lag, "the old settings do not finish the plan".to_owned());
        }
        self.is_closed = false;
        self.world.reshape(1);
    }

    fn fail(&mut self, oracle: Oracle, what: String) {
        self.wrong.push(Wrong::new(oracle, what));
    }

    /// What the end of a worker tells.
    fn judge(&mut self, name: &str, error: &TaskError) {
        match error {
            TaskError::OtherSettings { .. } if self.world.settings().1 > 0 => self.is_refused = true,
            error if error.is_transient() => {}
            // Only what is committed is removed here, so that was a zombie.
            TaskError::Data(text) if text.contains("retention") && self.world.truth().has_stale_reader => {}
            error => self.fail(Oracle::Stopped, format!("{name} failed: {error}")),
        }
    }

    /// Everything heals; then the log must be worked off.
    async fn calm(&mut self, scene: &Scene) {
        self.world.note("calm");
        self.world.weather().clear();
        for slot in &self.slots {
            if let Some(worker) = &slot.worker {
                self.world.log().set_deaf(worker.member, false);
                self.world.log().tell(worker.member);
                worker.ask(Wanted::Run);
            }
        }
        if let Some(within) = scene.quiet_within {
            let until = Instant::now() + within;
            while Instant::now() < until && !self.world.is_done() {
                self.tend_until(Instant::now() + TEND).await;
            }
            if !self.world.is_done() {
                self.fail(Oracle::Lag, format!("{within:?} after the storm the lag is not 0"));
            }
        }
        for round in 0..4 {
            self.tend_until(Instant::now() + Duration::from_secs(if round == 0 { 20 } else { 8 })).await;
            self.stop_all().await;
            if self.world.is_done() {
                break;
            }
            self.world.note("another round");
            self.slots.truncate(1);
        }
        // Whoever is still on its way arrives before the verdict.
        sleep(Duration::from_secs(20)).await;
    }

    async fn stop_all(&mut self) {
        let mut stopping = Vec::new();
        for slot in &mut self.slots {
            slot.restart_at = Instant::now();
            stopping.extend(slot.worker.take());
        }
        for worker in stopping {
            worker.ask(Wanted::Stop);
            let member = worker.member;
            let name = worker.name.clone();
            match worker.ended().await {
                Some(Ok(())) | None => {}
                Some(Err(error)) => self.judge(&name, &error),
            }
            // The dead, and static members, have not left.
            self.world.log().kill(member);
        }
    }

    fn lives(&self, member: MemberId) -> bool {
        let mut workers = self.slots.iter().filter_map(|slot| slot.worker.as_ref());
        workers.any(|worker| worker.member == member && !worker.has_ended())
    }

    async fn tend_until(&mut self, until: Instant) {
        loop {
            self.tend().await;
            let now = Instant::now();
            if now >= until {
                return;
            }
            sleep_until(until.min(now + TEND)).await;
        }
    }

    async fn tend(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(Instant, Later)> = due;
        for (_, what) in due {
            match what {
                Later::Miss(member) => self.world.log().kill(member),
                // The dead stay deaf.
                Later::Hear(member) if self.lives(member) => self.world.log().set_deaf(member, false),
                Later::Hear(_) => {}
                Later::Resume(slot) => {
                    if let Some(worker) = &self.slots[slot].worker {
                        worker.ask(Wanted::Run);
                    }
                }
            }
        }
        for number in 0..self.slots.len() {
            self.tend_slot(number).await;
        }
    }

    async fn tend_slot(&mut self, number: usize) {
        let now = Instant::now();
        let slot = &mut self.slots[number];
        if slot.worker.as_ref().is_some_and(Worker::has_ended) {
            let worker = slot.worker.take().expect("just seen");
            let (name, member) = (worker.name.clone(), worker.member);
            slot.restart_at = now + Duration::from_millis(self.world.weather().below(4_000));
            // The dead, and static members, have not left.
            let missed_at = now + SESSION.mul_f64(self.world.weather().below(100) as f64 / 100.0);
            self.later.push((missed_at, Later::Miss(member)));
            if let Some(Err(error)) = worker.ended().await {
                self.judge(&name, &error);
            }
        }
        let slot = &mut self.slots[number];
        // A world that is wrong already is not worth a new process each second.
        let is_worth_it = self.wrong.is_empty() && !self.is_closed && !self.is_refused;
        if slot.worker.is_none() && slot.restart_at <= now && is_worth_it {
            slot.lives += 1;
            let (pairs, _) = self.world.settings();
            if pairs != self.known && self.world.has_plan() {
                self.world.count(Action::SettingsChanged);
            }
            self.known = pairs;
            slot.worker = Some(Worker::start(&self.world, &format!("w{}.{}", slot.number, slot.lives)));
        }
    }

    fn act(&mut self, act: &Act) {
        let world = &self.world;
        let worker = |number: usize| self.slots[number].worker.as_ref();
        match act {
            Act::Produce(partition, fields, later_ms) => {
                let now_ms = pipeline::Clock::now_ms(&*world.clock());
                world.produce_at(*partition, fields.clone(), record_time(now_ms, *later_ms));
            }
            Act::ProduceBad(partition, text) => drop(world.produce_bad(*partition, *text)),
            Act::Skip(partition, count) => world.skip(*partition, *count),
            Act::AddLane(number) => world.add_lane(*number),
            Act::Retain(number) => {
                let begin = world.committed(*number).0;
                if begin > 0 {
                    world.count(Action::RetentionBehind);
                    world.retain_from(*number, begin);
                }
            }
            Act::FlushSize(size) => world.set("flush.size", size.to_string()),
            Act::Crash(number) => worker(*number).into_iter().for_each(Worker::crash),
            Act::CrashAfter(number, polls) => worker(*number).into_iter().for_each(|worker| worker.crash_after(*polls)),
            Act::CrashAtObject(number) => worker(*number).into_iter().for_each(Worker::crash_at_object),
            Act::Expel(number) => {
                if let Some(worker) = worker(*number) {
                    world.note(&format!("{} is expelled and does not know", worker.name));
                    world.make_untidy();
                    world.log().kill(worker.member);
                }
            }
            Act::Deafen(number, time) => {
                if let Some(member) = worker(*number).map(|worker| worker.member) {
                    world.note(&format!("{member:?} is deaf for {time:?}"));
                    world.count(Action::Deaf);
                    world.make_untidy();
                    world.log().set_deaf(member, true);
                    self.later.push((Instant::now() + *time, Later::Hear(member)));
                }
            }
            Act::Freeze(number, time) => {
                world.make_untidy();
                worker(*number).into_iter().for_each(|worker| worker.freeze(*time));
            }
            Act::Restart(number) => worker(*number).into_iter().for_each(|worker| worker.ask(Wanted::Stop)),
            Act::Pause(number, time) => {
                world.count(Action::Paused);
                worker(*number).into_iter().for_each(|worker| worker.ask(Wanted::Pause));
                self.later.push((Instant::now() + *time, Later::Resume(*number)));
            }
            Act::Jump(ms) => world.jump(*ms),
        }
    }
}
