//! What every [`DeadLetters`] must do: run by the memory form, by the Kafka form on the embedded broker, and on a real
//! Kafka by the services tests.

use std::time::Duration;

use async_trait::async_trait;
use model::{Offset, TopicPartition};

use crate::{DeadLetters, Letter};

/// No step takes longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A dead letter topic to try writers on.
#[async_trait]
pub trait LetterWorld: Send {
    /// A writer to the topic, which is empty at first.
    async fn open(&mut self) -> Box<dyn DeadLetters>;

    /// The first `count` letters of the topic, in order; all there are. [`Letter::at`] means nothing in them.
    async fn read(&mut self, count: usize) -> Vec<Letter>;
}

/// A letter about the record at `t-0@offset`, with a time and without headers.
pub fn letter(offset: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Letter {
    let offset = Offset::new(offset).expect("callers count from 0");
    Letter {
        at: TopicPartition::new("t", 0).at(offset),
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        timestamp_ms: 1_700_000_000_000 + offset.get(),
        headers: Vec::new(),
    }
}

/// Runs everything on one topic.
pub async fn all(world: &mut dyn LetterWorld) {
    let mut sent = every_shape();
    let writer = world.open().await;
    write(&*writer, sent.clone()).await;
    write(&*writer, Vec::new()).await;
    same(&sent, &world.read(sent.len()).await);

    let many: Vec<Letter> = (100..600).map(|number| letter(number, None, Some(&[b'x'; 2_000]))).collect();
    write(&*writer, many.clone()).await;
    sent.extend(many);
    // Another writer, as after a restart, adds to what is there.
    let another = world.open().await;
    write(&*another, vec![letter(600, Some(b"k"), None)]).await;
    sent.push(letter(600, Some(b"k"), None));
    same(&sent, &world.read(sent.len()).await);
}

/// Nulls and empty texts are two things; names may repeat; bytes need be no text.
fn every_shape() -> Vec<Letter> {
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    vec![
        letter(0, None, None),
        letter(1, Some(b""), Some(b"")),
        letter(2, Some(&[0, 0xff]), Some(&[0xff, 0, 0xfe])),
        Letter {
            headers: vec![
                header("a", Some(b"1")),
                header("none", None),
                header("a", Some(b"")),
                header("ü", Some(&[0xff, 0])),
            ],
            ..letter(3, None, Some(b"with headers"))
        },
    ]
}

async fn write(writer: &dyn DeadLetters, letters: Vec<Letter>) {
    match tokio::time::timeout(PATIENCE, writer.write(letters)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("letters are refused: {error}"),
        Err(_) => panic!("no acknowledgement in {PATIENCE:?}"),
    }
}

fn same(sent: &[Letter], read: &[Letter]) {
    assert_eq!(sent.len(), read.len());
    for (sent, read) in sent.iter().zip(read) {
        assert_eq!(&Letter { at: sent.at.clone(), ..read.clone() }, sent);
    }
}
