//! Plays a scene: starts workers, lets things happen, tends those who died, and ends everything in order.

use std::time::Duration;

use pipeline::Wanted;
use source::MemberId;
use tokio::time::{Instant, sleep, sleep_until};

use crate::scene::{Act, STORM, Scene, record_time};
use crate::taps::Bend;
use crate::worker::Worker;
use crate::world::World;

/// How often somebody looks after the workers.
const TEND: Duration = Duration::from_millis(200);

/// After so long without a heartbeat the group removes a member.
const SESSION: Duration = Duration::from_secs(3);

/// How a world ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What is wrong, each in a sentence; empty when all is well.
    pub(crate) wrong: Vec<String>,
    pub(crate) trace: Vec<String>,
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
    wrong: Vec<String>,
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
        let mut play = Play { world: world.clone(), slots, later: Vec::new(), wrong: Vec::new() };
        play.storm(&scene).await;
        play.calm(&scene).await;
        let mut wrong = play.wrong;
        wrong.extend(world.verdict(true));
        let trace = world.truth().trace().to_vec();
        Outcome { wrong, trace }
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
                self.wrong.push(format!("{within:?} after the storm the lag is not 0"));
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
                Some(Ok(())) => {}
                None => self.world.log().kill(member),
                Some(Err(error)) if error.is_transient() => {}
                Some(Err(error)) => self.wrong.push(format!("{name} failed: {error}")),
            }
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
        for slot in &mut self.slots {
            if slot.worker.as_ref().is_some_and(Worker::has_ended) {
                let worker = slot.worker.take().expect("just seen");
                let (name, member) = (worker.name.clone(), worker.member);
                slot.restart_at = now + Duration::from_millis(self.world.weather().below(4_000));
                match worker.ended().await {
                    None => {
                        let missed_at = now + SESSION.mul_f64(self.world.weather().below(100) as f64 / 100.0);
                        self.later.push((missed_at, Later::Miss(member)));
                    }
                    Some(Ok(())) => {}
                    Some(Err(error)) if error.is_transient() => {}
                    Some(Err(error)) => self.wrong.push(format!("{name} failed: {error}")),
                }
            }
            // A world that is wrong already is not worth a new process each second.
            if slot.worker.is_none() && slot.restart_at <= now && self.wrong.is_empty() {
                slot.lives += 1;
                slot.worker = Some(Worker::start(&self.world, &format!("w{}.{}", slot.number, slot.lives)));
            }
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
            Act::Skip(partition, count) => world.log().skip(crate::world::TOPIC, *partition, *count),
            Act::Crash(number) => worker(*number).into_iter().for_each(Worker::crash),
            Act::CrashAfter(number, polls) => worker(*number).into_iter().for_each(|worker| worker.crash_after(*polls)),
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
                worker(*number).into_iter().for_each(|worker| worker.ask(Wanted::Pause));
                self.later.push((Instant::now() + *time, Later::Resume(*number)));
            }
            Act::Jump(ms) => world.jump(*ms),
        }
    }
}
