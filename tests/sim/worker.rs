//! A worker: one process with one task, which can be stopped, crash between two polls, and freeze.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use pipeline::{Control, Deadlines, Doing, Metrics, Steering, Task, TaskError, Wanted, control};
use source::MemberId;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until};
use writer::{ObjectCommitter, OnExisting};

use crate::actions::Action;
use crate::lanes::lane;
use crate::letters::TappedLetters;
use crate::oracle::Oracle;
use crate::recipe::{Pairs, recipe, recovery, settings};
use crate::taps::Tapped;
use crate::world::{GROUP, World};

/// How a worker's task ended; `None` when it crashed.
pub(crate) type Ended = Option<Result<(), TaskError>>;

/// A running worker.
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) member: MemberId,
    world: World,
    steering: Steering,
    doom: Arc<Mutex<Doom>>,
    obituary: Obituary,
    handle: JoinHandle<Ended>,
}

/// What will befall a process.
#[derive(Default)]
pub(crate) struct Doom {
    pub(crate) polls_left: Option<u64>,
    frozen_until: Option<Instant>,
}

/// What must be noted at the moment of a crash.
type Obituary = Arc<dyn Fn() + Send + Sync>;

type Running = Pin<Box<dyn Future<Output = Result<(), TaskError>> + Send>>;

/// A task that may be dropped after a number of polls, or not be polled for a while.
struct Mortal {
    task: Option<Running>,
    doom: Arc<Mutex<Doom>>,
    obituary: Obituary,
    thaw: Option<Pin<Box<Sleep>>>,
}

impl Future for Mortal {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let this = &mut *self;
        let frozen_until = {
            let mut doom = this.doom.lock().expect("no panic holds it");
            match &mut doom.polls_left {
                Some(0) => {
                    (this.obituary)();
                    this.task = None;
                    return Poll::Ready(None);
                }
                Some(left) => *left -= 1,
                None => {}
            }
            doom.frozen_until.filter(|until| *until > Instant::now())
        };
        if let Some(until) = frozen_until {
            let thaw = this.thaw.insert(Box::pin(sleep_until(until)));
            if thaw.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        let task = this.task.as_mut().expect("it is polled until it ends");
        task.as_mut().poll(context).map(Some)
    }
}

/// Notes what a process leaves behind when it dies.
fn obituary(world: &World, name: &str, member: MemberId, commits: Arc<AtomicBool>) -> Obituary {
    let (world, name) = (world.clone(), name.to_owned());
    Arc::new(move || {
        let owns = |lane: &i32| world.log().owner(GROUP, &self::lane(*lane)) == Some(member);
        let lanes: Vec<i32> = world.lanes().into_iter().filter(owns).collect();
        world.truth().died(&name, &lanes, commits.load(Ordering::Relaxed));
    })
}

impl Worker {
    /// Starts a process that reads the world's topics.
    pub(crate) fn start(world: &World, name: &str) -> Worker {
        let (pairs, shape) = world.settings();
        Worker::start_shaped(world, name, pairs, shape, GROUP)
    }

    /// As [`Self::start`] with other settings, as a member of any group.
    pub(crate) fn start_with(world: &World, name: &str, pairs: Pairs, group: &str) -> Worker {
        Worker::start_shaped(world, name, pairs, 0, group)
    }

    fn start_shaped(world: &World, name: &str, pairs: Pairs, shape: i64, group: &str) -> Worker {
        let make = world.make();
        let seed = world.weather().below(u64::MAX);
        let store = world.store(name, seed);
        let (recipe, schemas) = recipe(&pairs, shape, make.limits, &store);
        let on_existing = OnExisting::new(&settings(&pairs)).expect("the keys are right");
        let recovery = world.recovers().then(|| recovery(&pairs, &store));
        let place = name.split('.').next().filter(|_| make.is_static);
        let source = Arc::new(world.log().join_as(group, world.subscription(), recovery, place));
        let member = source.id();
        world.note(&format!("{name} starts as {member:?}"));
        let revoke = make.revoke_timeout / 5 * 4;
        let commits = Arc::new(AtomicBool::new(false));
        let tapped = Tapped {
            source,
            world: world.clone(),
            name: name.to_owned(),
            bend: make.bend,
            commits: commits.clone(),
            held_back: Arc::default(),
        };
        let letters = TappedLetters {
            topic: world.letters().clone(),
            world: world.clone(),
            name: name.to_owned(),
            bend: make.bend,
        };
        let task = Task {
            dead_letters: Some(Arc::new(letters)),
            source: Arc::new(tapped),
            recipe: Arc::new(recipe),
            committer: Arc::new(ObjectCommitter::new(store, on_existing)),
            schemas: Arc::new(schemas),
            budget: world.budget(),
            clock: world.clock(),
            metrics: Metrics::default().task("sim", 0),
            deadlines: Deadlines { drain: Duration::from_secs(20), revoke },
            pace: None,
            until_end: false,
            seed,
        };
        let (steering, control): (Steering, Control) = control(Wanted::Run);
        let doom = Arc::new(Mutex::new(Doom::default()));
        let obituary = obituary(world, name, member, commits);
        let task: Running = Box::pin(task.run(control));
        let mortal = Mortal { task: Some(task), doom: doom.clone(), obituary: obituary.clone(), thaw: None };
        let handle = tokio::spawn(mortal);
        Worker { name: name.to_owned(), member, world: world.clone(), steering, doom, obituary, handle }
    }

    /// Asks the task for something.
    pub(crate) fn ask(&self, wanted: Wanted) {
        self.world.note(&format!("{} is asked to {wanted:?}", self.name));
        self.steering.ask(wanted);
    }

    /// What the task does.
    pub(crate) fn doing(&self) -> Doing {
        self.steering.doing()
    }

    /// The process dies now. The group does not know.
    pub(crate) fn crash(&self) {
        self.world.note(&format!("{} crashes", self.name));
        self.world.make_untidy();
        if !self.has_ended() {
            (self.obituary)();
        }
        self.handle.abort();
    }

    /// The process dies when the next object of its own appears.
    pub(crate) fn crash_at_object(&self) {
        self.world.note(&format!("{} will crash at its next object", self.name));
        self.world.make_untidy();
        self.world.truth().doomed.insert(self.name.clone(), self.doom.clone());
    }

    /// The process dies after so many polls of its task.
    pub(crate) fn crash_after(&self, polls: u64) {
        self.world.note(&format!("{} will crash after {polls} polls", self.name));
        self.world.make_untidy();
        self.doom.lock().expect("no panic holds it").polls_left = Some(polls);
    }

    /// The task's loop stands still for a while; its lanes and publishers go on.
    pub(crate) fn freeze(&self, time: Duration) {
        self.world.note(&format!("{} freezes for {time:?}", self.name));
        self.world.count(Action::Frozen);
        self.doom.lock().expect("no panic holds it").frozen_until = Some(Instant::now() + time);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits for the end.
    pub(crate) async fn ended(self) -> Ended {
        let Worker { name, world, handle, .. } = self;
        let ended = match handle.await {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => None,
            Err(error) => {
                world.truth().accuse(Oracle::Stopped, format!("{name} panicked: {error}"));
                None
            }
        };
        match &ended {
            None => world.note(&format!("{name} is dead")),
            Some(Ok(())) => {
                world.count(Action::StoppedInOrder);
                world.note(&format!("{name} has stopped"));
            }
            Some(Err(error)) => {
                world.make_untidy();
                world.note(&format!("{name} has failed: {error}"));
            }
        }
        ended
    }

    /// Stops the task in order.
    pub(crate) async fn stop(self) {
        self.ask(Wanted::Stop);
        let (name, world) = (self.name.clone(), self.world.clone());
        match self.ended().await {
            Some(Ok(())) => {}
            Some(Err(error)) => panic!("{name} failed: {error}\n{}", world.tail(60)),
            None => panic!("{name} crashed\n{}", world.tail(60)),
        }
    }

    /// Crashes and is removed from the group, as after the session time-out.
    pub(crate) async fn kill(self) {
        let (world, member) = (self.world.clone(), self.member);
        self.crash();
        self.ended().await;
        world.log().kill(member);
    }

    /// Waits until the task failed and gives the error.
    pub(crate) async fn failure(self) -> TaskError {
        let (name, world) = (self.name.clone(), self.world.clone());
        match self.ended().await {
            Some(Err(error)) => error,
            Some(Ok(())) => panic!("{name} did not fail\n{}", world.tail(60)),
            None => panic!("{name} crashed\n{}", world.tail(60)),
        }
    }
}
