//! A task that fails on something transient: when it is started again, what `/status` says meanwhile, and how it is
//! steered while it waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::State::{Failed, Paused, Restarting, Running, Stopped};
use crate::fake::FakeAssembly;
use crate::{Assembly, Options, Restart, State, StateStore, Submitted, Supervisor, TaskId, TaskStatus};

struct World {
    assembly: Arc<FakeAssembly>,
    supervisor: Supervisor,
    options: Options,
}

impl World {
    async fn new() -> World {
        let assembly = Arc::new(FakeAssembly::default());
        let options = Options::new("here:8083");
        let dynamic = Arc::clone(&assembly) as Arc<dyn Assembly>;
        let supervisor =
            Supervisor::start(dynamic, StateStore::forgetful(), options.clone(), Vec::new()).await.unwrap();
        World { assembly, supervisor, options }
    }

    /// Puts connector `a`, whose task does `behaviour`.
    async fn put(&self, behaviour: &str, more: &[(&str, &str)]) {
        let pairs = [("connector.class", "FileStreamSink"), ("topics", "t"), ("fake.task", behaviour)];
        let pairs = pairs.iter().chain(more);
        let config: Submitted = pairs.map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect();
        self.supervisor.put_config("a", config).await.unwrap();
    }

    fn task(&self) -> TaskStatus {
        self.supervisor.task_status("a", 0).unwrap()
    }

    /// Lets time go by until the task is in `state`; how long that took.
    async fn reaches(&self, state: State) -> Duration {
        let begin = Instant::now();
        for _ in 0..100_000 {
            if self.supervisor.task_status("a", 0).is_ok_and(|task| task.placed.state == state) {
                return begin.elapsed();
            }
            // Paused time: every timer that is due earlier goes off before this one.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the task is {:?}, not {state:?}", self.task());
    }

    fn restarts(&self) -> u64 {
        self.options.metrics.restarts(&TaskId { connector: "a".into(), task: 0 })
    }
}

/// Waits of up to an hour: long enough to be steered meanwhile.
const SLOW: &[(&str, &str)] = &[("task.restart.backoff.ms", "3600000"), ("task.restart.backoff.max.ms", "3600000")];

#[tokio::test(start_paused = true)]
async fn a_transient_failure_heals_itself() {
    let world = World::new().await;
    world.put("flaky:5", &[]).await;
    let took = world.reaches(Running).await;
    assert!(took <= Duration::from_secs(1 + 2 + 4 + 8 + 16 + 1), "{took:?}");
    assert_eq!((world.assembly.started_count(), world.restarts()), (6, 5));
    assert_eq!(world.task().placed.trace, None);
}

#[tokio::test(start_paused = true)]
async fn a_failure_on_data_waits_for_somebody() {
    let world = World::new().await;
    for behaviour in ["fail", "panic", "end"] {
        let before = world.assembly.started_count();
        world.put(behaviour, &[]).await;
        world.reaches(Failed).await;
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(world.task().placed.state, Failed);
        assert_eq!((world.assembly.started_count() - before, world.restarts()), (1, 0), "{behaviour}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_says_why_it_waits_and_until_when() {
    let world = World::new().await;
    world.put("unavailable", SLOW).await;
    world.reaches(Restarting).await;
    let trace = world.task().placed.trace.unwrap();
    let (failure, wait) = trace.split_once('\n').unwrap();
    assert_eq!(failure, "a-0 failed: the store does not answer");
    let seconds = |wait: &str| {
        let wait =
            wait.strip_prefix("it is started again in ").unwrap().strip_suffix(" s, restart 1 in a row").unwrap();
        wait.parse::<f64>().unwrap()
    };
    tokio::time::sleep(Duration::from_secs(10)).await;
    let later = world.task().placed.trace.unwrap();
    let gone = seconds(wait) - seconds(later.split_once('\n').unwrap().1);
    assert!((9.9..10.2).contains(&gone), "{trace} {later}");
    assert_eq!(world.supervisor.status("a").unwrap().connector.state, Running);
}

#[tokio::test(start_paused = true)]
async fn restarts_can_be_switched_off_and_limited() {
    let world = World::new().await;
    world.put("unavailable", &[("task.restart.enable", "false")]).await;
    world.reaches(Failed).await;
    assert_eq!(world.task().placed.trace.as_deref(), Some("a-0 failed: the store does not answer"));
    assert_eq!(world.restarts(), 0);
    world.put("unavailable", &[("task.restart.attempts", "3")]).await;
    world.reaches(Restarting).await;
    world.reaches(Failed).await;
    let trace = world.task().placed.trace.unwrap();
    assert!(trace.ends_with("\ngiven up after 3 restarts in a row (task.restart.attempts)"), "{trace}");
    assert_eq!((world.assembly.started_count(), world.restarts()), (1 + 4, 3));
}

#[tokio::test(start_paused = true)]
async fn the_backoff_starts_anew_after_the_task_worked_for_a_while() {
    let limits = [("task.restart.attempts", "2"), ("task.restart.backoff.max.ms", "1000")];
    for (lasts, gives_up) in [("lasts:1900", true), ("lasts:2100", false)] {
        let world = World::new().await;
        world.put(lasts, &limits).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        let restarts = world.restarts();
        assert_eq!(world.task().placed.state == Failed, gives_up, "{lasts} {:?}", world.task());
        assert_eq!(restarts == 2, gives_up, "{lasts} {restarts}");
    }
}

#[tokio::test(start_paused = true)]
async fn stop_and_delete_end_the_wait() {
    let world = World::new().await;
    world.put("unavailable", SLOW).await;
    world.reaches(Restarting).await;
    let begin = Instant::now();
    world.supervisor.stop("a").await.unwrap();
    let status = world.supervisor.status("a").unwrap();
    assert_eq!((status.connector.state, status.tasks.len()), (Stopped, 0));
    world.supervisor.resume("a").await.unwrap();
    world.reaches(Restarting).await;
    world.supervisor.delete("a").await.unwrap();
    assert_eq!(world.supervisor.list(), Vec::<String>::new());
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    tokio::time::sleep(Duration::from_secs(7_200)).await;
    assert_eq!((world.assembly.started_count(), world.restarts()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_the_wait() {
    let world = World::new().await;
    world.put("unavailable", SLOW).await;
    world.reaches(Restarting).await;
    let begin = Instant::now();
    world.supervisor.shutdown(Duration::from_secs(5)).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(world.assembly.started_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_configuration_is_tried_at_once_and_the_same_one_changes_nothing() {
    let world = World::new().await;
    world.put("unavailable", SLOW).await;
    world.reaches(Restarting).await;
    world.put("unavailable", SLOW).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((world.task().placed.state, world.assembly.started_count()), (Restarting, 1));
    world.put("run", SLOW).await;
    assert!(world.reaches(Running).await < Duration::from_secs(1));
    assert_eq!(world.assembly.started_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_restart_over_rest_is_at_once() {
    let world = World::new().await;
    world.put("flaky:3", SLOW).await;
    world.reaches(Restarting).await;
    world.supervisor.restart_task("a", 0).await.unwrap();
    world.reaches(Restarting).await;
    assert_eq!(world.assembly.started_count(), 2);
    for (only_failed, started) in [(true, 3), (false, 4)] {
        let restart = Restart { include_tasks: true, only_failed };
        let status = world.supervisor.restart("a", restart).await.unwrap();
        assert_eq!(status.tasks[0].placed.state, Restarting);
        // The next operation begins when the restart is over.
        world.supervisor.resume("a").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(world.assembly.started_count(), started, "{restart:?}");
    }
    assert!(world.reaches(Running).await < Duration::from_secs(1));
    assert_eq!(world.restarts(), 0, "those were asked for");
}

#[tokio::test(start_paused = true)]
async fn a_pause_while_it_waits_holds_when_it_runs_again() {
    let world = World::new().await;
    world.put("flaky:1", &[]).await;
    world.reaches(Restarting).await;
    world.supervisor.pause("a").await.unwrap();
    assert_eq!(world.task().placed.state, Restarting);
    world.reaches(Paused).await;
    world.supervisor.resume("a").await.unwrap();
    world.reaches(Running).await;
    assert_eq!((world.assembly.started_count(), world.restarts()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connector_whose_tasks_have_finished_is_stopped_and_can_be_run_again() {
    let world = World::new().await;
    world.put("finish", &[]).await;
    world.reaches(Running).await;
    let begin = Instant::now();
    assert_eq!(world.supervisor.ended().await, Ok(()));
    assert!(begin.elapsed() <= Duration::from_millis(1_200), "{:?}", begin.elapsed());
    let state = || world.supervisor.status("a").unwrap().connector.state;
    assert_eq!((world.task().placed.state, state()), (Stopped, Stopped));
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!((world.assembly.started_count(), world.restarts()), (1, 0));
    let all = Restart { include_tasks: true, only_failed: false };
    world.supervisor.restart("a", all).await.unwrap();
    world.reaches(Running).await;
    assert_eq!(state(), Running);
    world.reaches(Stopped).await;
    assert_eq!(world.assembly.started_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_all_connectors_tells_of_one_that_failed_and_never_comes_while_one_goes_on() {
    let world = World::new().await;
    let never =
        async |world: &World| tokio::time::timeout(Duration::from_secs(3_600), world.supervisor.ended()).await.is_err();
    assert!(never(&world).await, "there is no connector");
    world.put("run", &[]).await;
    assert!(never(&world).await, "it does not end");
    world.put("panic", &[]).await;
    assert!(never(&world).await, "it has failed, and would not have ended by itself");
    world.put("fail", &[]).await;
    assert_eq!(world.supervisor.ended().await, Err("connector a failed: a-0 failed: no such file".to_owned()));
}
