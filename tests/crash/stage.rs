//! A run: services and processes, the timetable's events done to them, and what must hold at the end.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::ring::Outcome;
use tests::{Call, Error, Fault, Faults, Kafka, Proxy, S3, Services, keep_data, unique};

use crate::connectors::{self, Connector};
use crate::timetable::{self, Entry, Event, WORKERS};
use crate::trace::Trace;
use crate::verdict::{SCRIPT, Verdict, about};
use crate::worker::{State, Worker};

const PARTITIONS: u32 = 12;

/// How long everything may take to be written and committed when the faults have stopped.
const SETTLE_LIMIT: Duration = Duration::from_secs(150);

/// How often the processes are looked after.
const STEP: Duration = Duration::from_millis(50);

/// How often their counters are read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Everything that a run has to do with.
struct Stage {
    trace: Arc<Trace>,
    kafka: Arc<Mutex<Kafka>>,
    store: S3,
    proxy: Proxy,
    topic: String,
    bucket: String,
    connectors: Vec<Connector>,
    workers: Vec<Worker>,
    /// Restarting the broker, beside everything else.
    broker: Option<JoinHandle<Result<(), Error>>>,
    outage_until: Option<Instant>,
    frozen_until: Option<Instant>,
    looked: Instant,
    tally: Tally,
    failures: Vec<String>,
}

/// Events that were done; some find nothing to be done to.
#[derive(Debug, Default)]
struct Tally {
    kills: u32,
    freezes: u32,
    stops: u32,
    broker_restarts: u32,
    outages: u32,
    store_freezes: u32,
    /// Tasks that were FAILED in the end, although others may have done their work.
    tasks_left_failed: usize,
}

/// Plays the timetable of a seed for so long, lets everything settle, and counts.
pub(crate) fn play(lasting: Duration, seed: u64, rate: u64) -> Outcome {
    let trace = Arc::new(Trace::create(&format!("crash-seed-{seed}.trace"))?);
    trace.say(format!("seed {seed}, {lasting:?}, {rate} records a second"));
    let entries = timetable::draw(seed, lasting);
    entries.iter().for_each(|entry| trace.say(format!("planned {:.3?} {:?}", entry.at, entry.event)));
    let mut stage = Stage::set_up(&trace, seed)?;
    let (producer, stop) = stage.produce(seed, rate)?;
    stage.run(&entries, lasting)?;
    let produced = stage.calm_down(producer, &stop);
    let verdict = stage.settle_and_count();
    match (produced, verdict) {
        (Ok(produced), Ok(verdict)) => {
            trace.say(format!("produced {produced}"));
            stage.failures.extend(verdict.faults());
            stage.report(seed, lasting, &verdict);
        }
        (produced, verdict) => {
            let errors = [produced.err(), verdict.err()];
            stage.failures.extend(errors.into_iter().flatten().map(|error| error.to_string()));
        }
    }
    stage.judge(seed)
}

impl Stage {
    fn set_up(trace: &Arc<Trace>, seed: u64) -> Result<Stage, Error> {
        let (kafka, store) = thread::scope(|scope| {
            // Sessions as short as those of the classic protocol, which the members choose themselves.
            let sessions =
                [("group.consumer.session.timeout.ms", "4000"), ("group.consumer.heartbeat.interval.ms", "500")];
            let kafka = scope.spawn(move || Kafka::start_with(&sessions));
            (kafka.join().expect("starting a service does not panic"), S3::start_minio())
        });
        let (kafka, store) = (kafka?, store?);
        let proxy = Proxy::start(store.endpoint(), seed)?;
        let (topic, bucket) = (unique("crash"), unique("crash"));
        kafka.create_topic(&topic, PARTITIONS)?;
        store.create_bucket(&bucket)?;
        let connectors = connectors::all(&topic, &bucket, &proxy.endpoint(), seed);
        let started: Result<Vec<Worker>, Error> =
            (0..WORKERS).map(|number| Worker::start(number, &kafka, &store, &connectors)).collect();
        let workers = started?;
        for worker in &workers {
            trace.say(format!("worker {} in {}", worker.number, worker.directory()));
        }
        Ok(Stage {
            trace: Arc::clone(trace),
            kafka: Arc::new(Mutex::new(kafka)),
            store,
            proxy,
            topic,
            bucket,
            connectors,
            workers,
            broker: None,
            outage_until: None,
            frozen_until: None,
            looked: Instant::now(),
            tally: Tally::default(),
            failures: Vec::new(),
        })
    }

    /// Starts the producer; it ends when the file is there.
    fn produce(&self, seed: u64, rate: u64) -> Result<(Call, PathBuf), Error> {
        let stop = self.trace.path().with_extension(format!("{}.stop", std::process::id()));
        let request = json!({
            "bootstrap": lock(&self.kafka).bootstrap(), "topic": self.topic, "partitions": PARTITIONS, "rate": rate,
            "burst_every_s": 10, "burst_records": 25, "burst_bytes": 600_000, "seed": seed, "stop": stop,
        });
        let limit = Duration::from_secs(24 * 3600);
        Ok((Services::readers()?.begin(SCRIPT, "produce", &request, limit)?, stop))
    }

    /// Does what the timetable says when it is due, and looks after the processes meanwhile.
    fn run(&mut self, entries: &[Entry], lasting: Duration) -> Result<(), Error> {
        let begin = Instant::now();
        self.trace.say("begin");
        let mut left = entries.iter().peekable();
        while begin.elapsed() < lasting {
            while let Some(entry) = left.next_if(|entry| entry.at <= begin.elapsed()) {
                let done = self.act(entry.event)?;
                self.trace.say(format!("{} {:?}", if done { "done" } else { "nothing to do:" }, entry.event));
            }
            self.step();
            thread::sleep(STEP);
        }
        Ok(())
    }

    /// Does one event; false if there is nothing to do it to.
    fn act(&mut self, event: Event) -> Result<bool, Error> {
        let now = Instant::now();
        let tally = &mut self.tally;
        let (count, done) = match event {
            Event::Kill { worker, away } => (&mut tally.kills, self.workers[worker].kill(away)),
            Event::Freeze { worker, frozen } => (&mut tally.freezes, self.workers[worker].freeze(frozen)),
            Event::Stop { worker, away } => (&mut tally.stops, self.workers[worker].stop(away)),
            Event::Broker { killed, away } => {
                let done = self.broker.is_none();
                if done {
                    self.broker = Some(restart_broker(&self.kafka, killed, away, &self.trace));
                }
                (&mut tally.broker_restarts, done)
            }
            Event::Outage { lasting } => {
                self.proxy.outage(true);
                self.outage_until = self.outage_until.max(Some(now + lasting));
                (&mut tally.outages, true)
            }
            Event::StoreFrozen { lasting } => {
                self.store.pause();
                self.frozen_until = self.frozen_until.max(Some(now + lasting));
                (&mut tally.store_freezes, true)
            }
            Event::Faults { each, late } => {
                self.proxy.set(Faults::each(each).with(Fault::Late, late));
                return Ok(true);
            }
        };
        *count += u32::from(done);
        Ok(done)
    }

    /// Ends what has lasted long enough, and notes what the program did wrong.
    fn step(&mut self) {
        let now = Instant::now();
        if self.outage_until.take_if(|until| *until <= now).is_some() {
            self.proxy.outage(false);
            self.trace.say("outage ends");
        }
        if self.frozen_until.take_if(|until| *until <= now).is_some() {
            self.store.resume();
            self.trace.say("store goes on");
        }
        if let Some(broker) = self.broker.take_if(|broker| broker.is_finished())
            && let Err(error) = broker.join().expect("restarting the broker does not panic")
        {
            self.failures.push(error.to_string());
        }
        for worker in &mut self.workers {
            if let Err(failure) = worker.step(&self.trace) {
                self.trace.say(&failure);
                self.failures.push(failure);
            }
        }
        if self.looked.elapsed() >= LOOK_EVERY {
            self.workers.iter_mut().for_each(|worker| worker.look(&self.connectors, &self.trace));
            self.looked = Instant::now();
        }
    }

    /// No more faults, everything up, no more records; what the producer said.
    fn calm_down(&mut self, producer: Call, stop: &Path) -> Result<Value, Error> {
        self.trace.say("faults stop");
        self.proxy.set(Faults::none());
        self.outage_until = self.outage_until.map(|_| Instant::now());
        self.frozen_until = self.frozen_until.map(|_| Instant::now());
        // An outage ends here, even if nobody has to be waited for.
        self.step();
        let end = Instant::now() + SETTLE_LIMIT;
        while self.broker.is_some() || self.workers.iter().any(|worker| worker.state != State::Up) {
            self.workers.iter_mut().for_each(Worker::hurry);
            self.step();
            if Instant::now() > end {
                self.failures.push("not everything was up in time".to_owned());
                break;
            }
            thread::sleep(STEP);
        }
        std::fs::write(stop, "").map_err(|e| Error::Call { what: "stop".to_owned(), why: e.to_string() })?;
        let produced = producer.finish();
        let _ = std::fs::remove_file(stop);
        self.trace.say("everything is up, the producer has ended");
        produced
    }

    /// Waits until all groups have committed everything and no plan is left, stops the processes, and counts.
    fn settle_and_count(&mut self) -> Result<Verdict, Error> {
        let limits = lock(&self.kafka).offset_limits(&self.topic)?;
        let ends: Vec<i64> = limits.iter().map(|partition| partition.end).collect();
        let begin = Instant::now();
        for connector in self.connectors.clone() {
            let left = SETTLE_LIMIT.saturating_sub(begin.elapsed()).max(Duration::from_secs(5));
            let settled = lock(&self.kafka).wait_committed(&connector.group(), &self.topic, &ends, left);
            match settled {
                Ok(()) => self.trace.say(format!("{} has committed everything", connector.name)),
                Err(error) => self.failures.push(error.to_string()),
            }
            self.step();
        }
        self.trace.say(format!("settled after {:.1?}", begin.elapsed()));
        for worker in &mut self.workers {
            worker.look(&self.connectors, &self.trace);
            for status in worker.status(&self.connectors) {
                self.trace.say(format!("worker {}: {status}", worker.number));
                let tasks = status["tasks"].as_array().into_iter().flatten();
                for task in tasks.filter(|task| task["state"] == json!("FAILED")) {
                    self.tally.tasks_left_failed += 1;
                    let (number, connector) = (worker.number, &status["name"]);
                    self.failures.push(format!("worker {number} leaves a task of {connector} FAILED: {task}"));
                }
            }
            // Not to be started again.
            worker.stop(Duration::from_secs(24 * 3600));
        }
        while self.workers.iter().any(|worker| matches!(worker.state, State::Ending { .. })) {
            self.step();
            thread::sleep(STEP);
        }
        let kafka = lock(&self.kafka);
        let verdict = Verdict::reach(&kafka, &self.topic, PARTITIONS, &self.store, &self.bucket, &self.connectors)?;
        self.trace.say(&verdict);
        Ok(verdict)
    }

    /// One paragraph for people, and the trace.
    fn report(&self, seed: u64, lasting: Duration, verdict: &Verdict) {
        let sum = |name: &str| self.workers.iter().map(|worker| worker.counter(name)).sum::<u64>();
        let uploads = self.store.open_uploads(&self.bucket, "").map_or(0, |uploads| uploads.len());
        let troubles: usize = self.workers.iter().map(|worker| worker.troubles().len()).sum();
        let text = format!(
            "crash ring, seed {seed}, {lasting:?}: {:?}\n  {} rebalances, {} commits refused or lost, \
             {} task restarts, {troubles} kinds of task failures, {uploads} uploads left open\n  \
             proxy: {}\n  {verdict}",
            self.tally,
            sum("sluice_rebalances_total"),
            sum("sluice_offset_commit_failures_total"),
            sum("sluice_task_restarts_total"),
            self.proxy.counts(),
        );
        self.trace.say(&text);
        tests::announce(&text);
    }

    /// Fails with all that was wrong, and leaves everything behind for somebody who looks into it.
    fn judge(self, seed: u64) -> Outcome {
        if self.failures.is_empty() && std::env::var_os("SLUICE_CRASH_KEEP").is_none() {
            return Ok(());
        }
        let kept = keep_data();
        let kafka = lock(&self.kafka);
        for connector in &self.connectors {
            let committed = kafka.committed(&connector.group(), &self.topic);
            self.trace.say(format!("{} committed {committed:?}", connector.name));
        }
        let directory = self.trace.path().with_extension("objects");
        let _ = std::fs::create_dir_all(&directory);
        let request = json!({"store": about(&self.store), "bucket": self.bucket, "directory": directory});
        let objects: Result<String, Error> = Services::readers()?.call(SCRIPT, "footers", &request);
        let failures = self.failures.join("\n");
        self.trace.say(&failures);
        Err(format!(
            "seed {seed}: {failures}\n\ntrace: {}\nobjects: {}\nlogs and data: {}",
            self.trace.path().display(),
            objects.unwrap_or_else(|error| error.to_string()),
            kept.display()
        )
        .into())
    }
}

/// Ends the broker and starts it again after a while, on a thread of its own.
fn restart_broker(
    kafka: &Arc<Mutex<Kafka>>,
    killed: bool,
    away: Duration,
    trace: &Arc<Trace>,
) -> JoinHandle<Result<(), Error>> {
    let (kafka, trace) = (Arc::clone(kafka), Arc::clone(trace));
    thread::spawn(move || {
        let mut kafka = lock(&kafka);
        match killed {
            true => kafka.kill(),
            false => kafka.stop()?,
        }
        trace.say("broker is away");
        thread::sleep(away);
        kafka.restart()?;
        trace.say("broker is there");
        Ok(())
    })
}

fn lock(kafka: &Mutex<Kafka>) -> MutexGuard<'_, Kafka> {
    kafka.lock().unwrap_or_else(PoisonError::into_inner)
}
