//! Removing what dead workers left half uploaded, in the background of a connector's first task.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::{Invalid, Settings};
use pipeline::Clock;
use source::Subscription;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};
use writer::{Layout, Store, orphan_age};

use crate::topics::TopicsRead;

/// Shortest and longest time between two looks; a look costs a list request for each topic.
const EVERY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3_600));

/// What is cleaned.
pub(crate) struct Cleaning {
    pub(crate) connector: String,
    pub(crate) store: Store,
    pub(crate) layout: Layout,
    pub(crate) subscription: Subscription,
    pub(crate) topics: Arc<TopicsRead>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Ends the clean-up when it is dropped.
#[derive(Debug)]
pub(crate) struct Cleaner(AbortHandle);

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Cleaning {
    /// Looks for orphaned uploads now and then again and again, as long as the answer lives; `None` when `settings` leave them
    /// alone. Nothing that goes wrong there is more than a warning.
    pub(crate) fn start(self, settings: &Settings) -> Result<Option<Cleaner>, Invalid> {
        let Some(age) = orphan_age(settings)? else { return Ok(None) };
        let work = tokio::spawn(async move {
            let mut ticks = interval(age.clamp(EVERY.0, EVERY.1));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.clean(age).await;
            }
        });
        Ok(Some(Cleaner(work.abort_handle())))
    }

    async fn clean(&self, age: Duration) {
        let topics = self.topics();
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        match self.store.abort_orphans(&self.layout, &names, self.clock.now_ms(), age).await {
            Ok(0) => {}
            Ok(removed) => info!(connector = %self.connector, removed, "unfinished uploads of dead workers removed"),
            Err(error) => {
                warn!(connector = %self.connector, %error, "could not look for unfinished uploads of dead workers, looking again later");
            }
        }
    }

    /// Those that are subscribed to by name, and those that were read.
    fn topics(&self) -> BTreeSet<String> {
        let mut topics = self.topics.of(&self.connector);
        topics.extend(self.subscription.topics());
        topics
    }
}
