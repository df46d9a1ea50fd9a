//! Dead letters: who listens to them in every world, and one world for each thing promised about them.

use std::time::Duration;

use async_trait::async_trait;
use model::Position;
use pipeline::TaskError;
use source::{DeadLetters, Error, Letter, LetterFate, MemoryDeadLetters};
use tokio::time::{Instant, sleep};
use writer::{Fate, Request};

use crate::bends::Bend;
use crate::lanes::number;
use crate::oracle::Oracle;
use crate::scenarios::{pairs, produce, until_first_plan, world};
use crate::worker::Worker;
use crate::world::{GROUP, Make, World};

/// How long a letter that nobody waits for is on its way.
const UNAWAITED: Duration = Duration::from_millis(400);

/// A worker's way to the dead letter topic, held against the truth.
#[derive(Clone)]
pub(crate) struct TappedLetters {
    pub(crate) topic: MemoryDeadLetters,
    pub(crate) world: World,
    pub(crate) name: String,
    pub(crate) bend: Bend,
}

fn place(at: &Position) -> (i32, i64) {
    (number(&at.topic_partition), at.offset.get())
}

impl TappedLetters {
    async fn write_and_tell(self, letters: Vec<Letter>) -> Result<(), Error> {
        let places: Vec<(i32, i64)> = letters.iter().map(|letter| place(&letter.at)).collect();
        self.topic.write(letters).await?;
        self.world.truth().letters_acknowledged(&self.name, &places);
        Ok(())
    }
}

#[async_trait]
impl DeadLetters for TappedLetters {
    async fn write(&self, letters: Vec<Letter>) -> Result<(), Error> {
        let places: Vec<(i32, i64)> = letters.iter().map(|letter| place(&letter.at)).collect();
        self.world.truth().letters_sent(&self.name, &places);
        self.world.look();
        if self.bend != Bend::NoLetterAwaited {
            return self.clone().write_and_tell(letters).await;
        }
        let unawaited = self.clone();
        tokio::spawn(async move {
            sleep(UNAWAITED).await;
            let _nobody_asks = unawaited.write_and_tell(letters).await;
        });
        Ok(())
    }
}

const TOLERANT: (&str, &str) = ("errors.tolerance", "all");

/// How many letters there are of the record at `offset` of the first lane.
fn letters_of(world: &World, offset: i64) -> usize {
    world.letters().letters().iter().filter(|letter| place(&letter.at) == (0, offset)).count()
}

#[tokio::test(start_paused = true)]
async fn a_plan_waits_for_the_letters_of_its_cut() {
    let world = world(&[TOLERANT, ("flush.size", "2")]);
    world.weather().order_letters(|_| LetterFate::AcknowledgeLate(Duration::from_secs(10)));
    produce(&world, 1);
    let bad = world.produce_bad(0, Some("no JSON"));
    produce(&world, 2);
    let worker = Worker::start(&world, "a");
    sleep(Duration::from_secs(9)).await;
    assert_eq!((letters_of(&world, bad), world.committed(0)), (1, (0, String::new())), "nothing may be planned yet");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(world.committed(0).0, 3);
    worker.stop().await;
    assert_eq!(letters_of(&world, bad), 1, "first rows are looked at twice and reported once");
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_quiet_topic_of_bad_records_reaches_its_end_when_the_letters_are_there() {
    let world = world(&[TOLERANT]);
    world.weather().order_letters(|_| LetterFate::WriteLate(Duration::from_secs(10)));
    let worker = Worker::start(&world, "a");
    sleep(Duration::from_secs(2)).await;
    for _ in 0..3 {
        world.produce_bad(0, Some("no JSON"));
    }
    sleep(Duration::from_secs(9)).await;
    assert_eq!(world.committed(0).0, 0);
    sleep(Duration::from_secs(30)).await;
    assert!(world.is_done() && world.files().is_empty());
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_replay_sends_no_letter_again() {
    let world = world(&[TOLERANT, ("flush.size", "2")]);
    produce(&world, 1);
    let bad = world.produce_bad(0, Some("no JSON"));
    produce(&world, 1);
    world.weather().order_store(|request, key| match request {
        Request::Put if key.ends_with(".parquet") => Fate::Hang,
        _ => Fate::Fine,
    });
    let first = Worker::start(&world, "first");
    world.until("a plan", |world| !world.committed(0).1.is_empty()).await;
    first.kill().await;
    world.weather().clear();
    let second = Worker::start(&world, "second");
    world.until("the replay", World::is_done).await;
    second.stop().await;
    assert_eq!(letters_of(&world, bad), 1);
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_letter_and_plan_sends_it_again() {
    let world = world(&[TOLERANT, ("flush.size", "2")]);
    produce(&world, 1);
    let bad = world.produce_bad(0, Some("no JSON"));
    let first = Worker::start(&world, "first");
    world.until("the letter", |world| letters_of(world, bad) == 1).await;
    first.kill().await;
    produce(&world, 1);
    let second = Worker::start(&world, "second");
    world.until("the cut", World::is_done).await;
    second.stop().await;
    assert_eq!(letters_of(&world, bad), 2);
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn without_tolerance_the_letter_is_written_before_the_task_fails() {
    let world = world(&[("flush.size", "2")]);
    world.weather().order_letters(|_| LetterFate::AcknowledgeLate(Duration::from_secs(5)));
    produce(&world, 3);
    let bad = world.produce_bad(0, Some("no JSON"));
    let worse = world.produce_bad(0, Some("no JSON either"));
    let began = Instant::now();
    let error = Worker::start(&world, "a").failure().await;
    assert!(matches!(error, TaskError::Record { .. }) && error.to_string().contains("t-0@3"), "{error}");
    assert!(began.elapsed() >= Duration::from_secs(5));
    assert_eq!((letters_of(&world, bad), letters_of(&world, worse)), (1, 0), "only the first one");
    assert_eq!(world.committed(0).0, 2);
    world.expect_right();
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_refuses_a_letter_stops_the_task_before_the_record() {
    let world = world(&[TOLERANT, ("flush.size", "2")]);
    world.weather().order_letters(|_| LetterFate::Refuse);
    produce(&world, 3);
    world.produce_bad(0, Some("no JSON"));
    produce(&world, 3);
    let error = Worker::start(&world, "a").failure().await;
    assert!(matches!(&error, TaskError::Refused(text) if text.contains("refuses to be written")), "{error:?}");
    assert!(world.committed(0).0 <= 3);
    world.weather().clear();
    let again = Worker::start(&world, "again");
    world.until("it goes on", |world| world.committed(0).0 >= 6).await;
    again.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_letters_beyond_its_deadline() {
    let world = world(&[TOLERANT, ("flush.size", "2")]);
    world.weather().order_letters(|_| LetterFate::Lose(Duration::from_secs(3_600)));
    produce(&world, 2);
    world.until("nothing", |_| true).await;
    world.produce_bad(0, Some("no JSON"));
    produce(&world, 1);
    let worker = Worker::start(&world, "a");
    sleep(Duration::from_secs(5)).await;
    let began = Instant::now();
    worker.stop().await;
    assert!(began.elapsed() <= Duration::from_secs(21), "{:?}", began.elapsed());
    world.weather().clear();
    let again = Worker::start(&world, "again");
    sleep(Duration::from_secs(5)).await;
    again.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn letters_that_wait_fill_no_memory() {
    let world = World::new(Make { pairs: pairs(&[TOLERANT]), budget_bytes: 8 << 20, ..Make::default() });
    world.weather().order_letters(|_| LetterFate::Lose(Duration::from_secs(30)));
    let worker = Worker::start(&world, "a");
    sleep(Duration::from_secs(1)).await;
    let text = format!("no JSON {}", "x".repeat(2_000));
    for _ in 0..10_000 {
        world.produce_bad(0, Some(&text));
    }
    // 20 MB of them.
    sleep(Duration::from_secs(20)).await;
    assert!(world.letters().letters().is_empty());
    world.look();
    world.weather().clear();
    world.until("all of them", World::is_done).await;
    worker.stop().await;
    world.expect_whole();
}

#[tokio::test(start_paused = true)]
async fn a_letter_is_its_record_and_says_what_is_wrong() {
    let world = world(&[TOLERANT]);
    let header = ("h".to_owned(), None);
    world.truth().records.insert((0, 0), crate::truth::Record { value: None, is_tombstone: false, time_ms: 5 });
    world.log().produce("t", 0, Some(b"\xff key"), Some(b"no JSON"), 5, vec![header.clone()]);
    let worker = Worker::start(&world, "a");
    world.until("the end", World::is_done).await;
    worker.stop().await;
    let letters = world.letters().letters();
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (Some(&b"\xff key"[..]), Some(&b"no JSON"[..])));
    assert_eq!((letter.timestamp_ms, &letter.headers[0]), (5, &header));
    let shown: Vec<String> = letter.headers[1..]
        .iter()
        .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_deref().unwrap_or_default())))
        .collect();
    let expected = [
        "topic=t",
        "partition=0",
        "offset=0",
        "connector.name=sim",
        "task.id=0",
        "stage=VALUE_CONVERTER",
        "class.name=org.apache.kafka.connect.json.JsonConverter",
        "exception.class.name=org.apache.kafka.connect.errors.DataException",
        "exception.message=",
        "exception.stacktrace=org.apache.kafka.connect.errors.DataException: ",
    ];
    assert_eq!(shown.len(), expected.len());
    for (shown, expected) in shown.iter().zip(expected) {
        assert!(shown.starts_with(&format!("__connect.errors.{expected}")), "{shown}");
    }
    world.expect_whole();
}

/// Records that a plan passes before their letters are acknowledged are lost when the process dies.
#[tokio::test(start_paused = true)]
async fn a_lane_that_does_not_wait_for_letters_is_noticed() {
    for (bend, oracles) in [(Bend::Not, vec![]), (Bend::NoLetterAwaited, vec![Oracle::LetterPassed])] {
        let world = World::new(Make { pairs: pairs(&[TOLERANT, ("flush.size", "2")]), bend, ..Make::default() });
        produce(&world, 1);
        world.produce_bad(0, Some("no JSON"));
        produce(&world, 1);
        world.weather().order_commits(until_first_plan());
        let first = Worker::start_with(&world, "first", world.settings().0, GROUP);
        world.until("the plan", |world| !world.committed(0).1.is_empty()).await;
        first.kill().await;
        world.weather().clear();
        let second = Worker::start(&world, "second");
        world.until("the end", World::is_done).await;
        second.stop().await;
        sleep(2 * UNAWAITED).await;
        let mut found: Vec<Oracle> = world.verdict(true).iter().map(|wrong| wrong.oracle).collect();
        found.dedup();
        assert_eq!(found, oracles, "{bend:?}");
    }
}
