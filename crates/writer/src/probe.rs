//! Finding out before the first record what a store is and whether it refuses to replace objects.

use futures::StreamExt;
use object_store::{Attributes, Error as StoreError, PutMode, PutOptions, PutPayload};
use tracing::{info, warn};

use crate::error::{Error, Failure, Verdict, is_access_denied, refuses_conditions};
use crate::store::Store;

/// What the object of the probe holds.
const TEXT: &str = "sluice wrote this to find out whether the store honours If-None-Match\n";

/// What [`Store::probe`] found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Whether objects can be listed; a policy may allow writing only.
    pub listable: bool,
    /// Whether the store refuses to replace an object.
    pub conditional: Conditional,
}

/// What a store does with a PUT that asks it not to replace an object (If-None-Match).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditional {
    /// It refuses, so nothing is overwritten, whoever writes.
    Honoured,
    /// It replaces the object all the same. Names are looked for before they are written.
    Ignored,
    /// `enable.conditional.writes` is false: names are looked for before they are written.
    NotUsed,
    /// The probe's object may not be written.
    Unknown,
}

impl Conditional {
    /// A few words for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Conditional::Honoured => "conditional writes honoured",
            Conditional::Ignored => "conditional writes ignored by the store",
            Conditional::NotUsed => "conditional writes not used",
            Conditional::Unknown => "conditional writes not known",
        }
    }
}

impl Store {
    /// Finds out, in bounded time, whether the bucket is there, the credentials are good and the store answers; and, by one
    /// small object `key` (`<topics.dir>/_sluice/probe`) that stays there, whether the store honours conditional PUTs. A
    /// store that ignores them is looked into before each PUT from then on. The object may be denied, that is no error.
    pub async fn probe(&self, key: &str) -> Result<Probe, Error> {
        let listable = self.can_list().await?;
        let conditional =
            if self.abilities().conditional { self.probe_condition(key).await? } else { Conditional::NotUsed };
        match conditional {
            Conditional::Honoured | Conditional::NotUsed => {
                info!(store = self.name(), listable, "{}", conditional.as_str());
            }
            Conditional::Ignored => {
                warn!(
                    store = self.name(),
                    "the store ignores If-None-Match: names are looked for before each PUT, which another connector that \
                     writes the same names can outrun"
                );
                self.look_first();
            }
            Conditional::Unknown => {
                warn!(
                    store = self.name(),
                    key,
                    "no permission to write the probe's object, so it is not known whether the store honours If-None-Match"
                );
            }
        }
        Ok(Probe { listable, conditional })
    }

    async fn can_list(&self) -> Result<bool, Error> {
        let listed = self
            .retrying("list", "the first object", || async { self.objects().list(None).next().await.transpose() })
            .await;
        match listed {
            Ok(_) => Ok(true),
            // Upstream takes a bucket that may not be looked at as one that exists.
            Err(failure) if is_access_denied(&failure.source) => Ok(false),
            // A directory in which nothing was written yet.
            Err(failure) if matches!(self.verdict(&failure.source), Verdict::Absent) => Ok(true),
            Err(failure) => Err(self.error(failure)),
        }
    }

    /// A refusal proves that conditions are honoured, whoever made the object that it protects. Two conditional PUTs that
    /// both succeed prove the opposite.
    async fn probe_condition(&self, key: &str) -> Result<Conditional, Error> {
        let path = self.path("create", key)?;
        let payload = PutPayload::from_static(TEXT.as_bytes());
        for _ in 0..2 {
            let options = PutOptions { mode: PutMode::Create, attributes: Attributes::new(), ..PutOptions::default() };
            let put = self.retrying("create", key, || self.objects().put_opts(&path, payload.clone(), options.clone()));
            match put.await {
                Ok(_) => {}
                Err(failure) if matches!(self.verdict(&failure.source), Verdict::Present) => {
                    return Ok(Conditional::Honoured);
                }
                Err(failure) if is_access_denied(&failure.source) => return Ok(Conditional::Unknown),
                Err(failure) => return Err(self.condition_error(failure)),
            }
        }
        Ok(Conditional::Ignored)
    }

    fn condition_error(&self, failure: Box<Failure>) -> Error {
        if refuses_conditions(&failure.source) || matches!(failure.source, StoreError::NotImplemented { .. }) {
            let advice = "the store does not know conditional writes: set enable.conditional.writes=false".to_owned();
            return Error::Permanent { failure, advice };
        }
        self.error(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty::{Fate, FaultyStore, Request};
    use crate::store::{Abilities, RetryRules};
    use object_store::memory::InMemory;
    use std::sync::Arc;
    use std::time::Duration;

    const FULL: Abilities = Abilities { metadata: true, conditional: true };

    fn faulty(fates: impl Fn(Request, &str) -> Fate + Send + Sync + 'static) -> (FaultyStore, Store) {
        let objects = FaultyStore::new(Arc::new(InMemory::new()), fates);
        let store = Store::with(Arc::new(objects.clone()), "faulty", FULL, RetryRules::default(), 1);
        (objects, store)
    }

    async fn conditional(store: &Store) -> Conditional {
        store.probe("topics/_sluice/probe").await.unwrap().conditional
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_refuses_honours_conditions_also_when_answers_are_lost() {
        for fate in [Fate::Fine, Fate::FailAfter, Fate::FailBefore, Fate::Hang, Fate::Throttled] {
            let turn = std::sync::atomic::AtomicU32::new(0);
            let (objects, store) = faulty(move |request, _| {
                let is_first = turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
                if request == Request::Put && is_first { fate } else { Fate::Fine }
            });
            assert_eq!(conditional(&store).await, Conditional::Honoured, "{fate:?}");
            let puts = objects.count(Request::Put);
            assert_eq!(conditional(&store).await, Conditional::Honoured);
            assert_eq!(objects.count(Request::Put), puts + 1, "what an earlier start left is enough");
            assert!(!store.looks_first());
            assert_eq!(objects.replaced(), Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn a_store_without_conditions_is_not_asked_and_one_that_denies_the_object_is_unknown() {
        let (objects, _) = faulty(|_, _| Fate::Fine);
        let without = Abilities { metadata: true, conditional: false };
        let store = Store::with(Arc::new(objects.clone()), "plain", without, RetryRules::default(), 1);
        assert_eq!(conditional(&store).await, Conditional::NotUsed);
        assert_eq!(objects.count(Request::Put), 0);
        let (_, store) = faulty(|request, _| if request == Request::Put { Fate::Denied } else { Fate::Fine });
        assert_eq!(store.probe("k").await.unwrap(), Probe { listable: true, conditional: Conditional::Unknown });
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_store_fails_the_probe_in_bounded_time() {
        let (_, store) = faulty(|request, _| if request == Request::Put { Fate::Hang } else { Fate::Fine });
        let before = tokio::time::Instant::now();
        assert!(store.probe("k").await.unwrap_err().is_transient());
        assert!(before.elapsed() < Duration::from_secs(4 * 60));
    }
}
