//! A dead letter topic in memory, with faults on demand.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::sleep;

use crate::{DeadLetters, Error, Letter};

/// What becomes of one attempt to write letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterFate {
    /// They are written and acknowledged.
    Acknowledge,
    /// They are written, and the acknowledgement comes this much later.
    AcknowledgeLate(Duration),
    /// They are written this much later, whether or not the writer still lives, and acknowledged then.
    WriteLate(Duration),
    /// The attempt is lost on the way; the next one follows after this time.
    Lose(Duration),
    /// The broker refuses them.
    Refuse,
}

type Fates = Box<dyn FnMut(&[Letter]) -> LetterFate + Send>;

/// The topic. Clones are handles of the same one. Needs a tokio runtime.
#[derive(Clone)]
pub struct MemoryDeadLetters(Arc<Mutex<Topic>>);

struct Topic {
    letters: Vec<Letter>,
    /// How many of them were acknowledged, in the order in which that happened.
    acknowledged: Vec<Letter>,
    fates: Fates,
}

impl Default for MemoryDeadLetters {
    fn default() -> Self {
        let fates: Fates = Box::new(|_| LetterFate::Acknowledge);
        Self(Arc::new(Mutex::new(Topic { letters: Vec::new(), acknowledged: Vec::new(), fates })))
    }
}

impl MemoryDeadLetters {
    fn lock(&self) -> MutexGuard<'_, Topic> {
        self.0.lock().expect("no code panics while it holds this lock")
    }

    /// Who decides about attempts from now on. It must not call the topic.
    pub fn set_fates(&self, fates: impl FnMut(&[Letter]) -> LetterFate + Send + 'static) {
        self.lock().fates = Box::new(fates);
    }

    /// Every letter that was written, in order.
    pub fn letters(&self) -> Vec<Letter> {
        self.lock().letters.clone()
    }

    /// Every letter whose writer was told that it is written.
    pub fn acknowledged(&self) -> Vec<Letter> {
        self.lock().acknowledged.clone()
    }
}

#[async_trait]
impl DeadLetters for MemoryDeadLetters {
    async fn write(&self, letters: Vec<Letter>) -> Result<(), Error> {
        loop {
            let fate = (self.lock().fates)(&letters);
            match fate {
                LetterFate::Acknowledge => self.lock().letters.extend(letters.iter().cloned()),
                LetterFate::AcknowledgeLate(time) => {
                    self.lock().letters.extend(letters.iter().cloned());
                    sleep(time).await;
                }
                LetterFate::WriteLate(time) => {
                    let (topic, copies) = (self.clone(), letters.clone());
                    let written = tokio::spawn(async move {
                        sleep(time).await;
                        topic.lock().letters.extend(copies);
                    });
                    if written.await.is_err() {
                        return Err(Error::Unavailable("the dead letter topic in memory is gone".to_owned()));
                    }
                }
                LetterFate::Lose(time) => {
                    sleep(time).await;
                    continue;
                }
                LetterFate::Refuse => {
                    return Err(Error::Denied("the dead letter topic in memory refuses to be written".to_owned()));
                }
            }
            self.lock().acknowledged.extend(letters);
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::letters::{LetterWorld, all, letter};

    struct Memory(MemoryDeadLetters);

    #[async_trait]
    impl LetterWorld for Memory {
        async fn open(&mut self) -> Box<dyn DeadLetters> {
            Box::new(self.0.clone())
        }

        async fn read(&mut self, count: usize) -> Vec<Letter> {
            let all = self.0.letters();
            assert_eq!(all.len(), count);
            all
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_form_conforms() {
        all(&mut Memory(MemoryDeadLetters::default())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_attempt_is_repeated_and_a_refused_one_told() {
        let topic = MemoryDeadLetters::default();
        let mut fates = vec![LetterFate::Refuse, LetterFate::Acknowledge, LetterFate::Lose(Duration::from_secs(9))];
        topic.set_fates(move |_| fates.pop().expect("three attempts"));
        let began = tokio::time::Instant::now();
        topic.write(vec![letter(1, Some(b"k"), Some(b"v"))]).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(9));
        assert_eq!((topic.letters().len(), topic.acknowledged().len()), (1, 1));
        assert!(matches!(topic.write(vec![letter(2, None, None)]).await, Err(Error::Denied(_))));
        assert_eq!(topic.letters().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_late_outlives_its_writer_and_is_not_acknowledged() {
        let topic = MemoryDeadLetters::default();
        topic.set_fates(|_| LetterFate::WriteLate(Duration::from_secs(5)));
        let gave_up = tokio::time::timeout(Duration::from_secs(1), topic.write(vec![letter(1, None, Some(b"v"))]));
        assert!(gave_up.await.is_err());
        sleep(Duration::from_secs(5)).await;
        assert_eq!((topic.letters().len(), topic.acknowledged().len()), (1, 0));
    }
}
