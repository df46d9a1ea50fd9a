//! What happens when: drawn from a seed before anything runs, so that one seed is one timetable.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Number of processes.
pub(crate) const WORKERS: usize = 3;

/// Something that happens to a process, the broker, the store, or the way to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Event {
    /// SIGKILL, and a start after `away`.
    Kill { worker: usize, away: Duration },
    /// SIGSTOP, and SIGCONT after `frozen`: longer than a session now and then.
    Freeze { worker: usize, frozen: Duration },
    /// SIGTERM, and a start after it has ended and `away`.
    Stop { worker: usize, away: Duration },
    /// The broker ends, by SIGKILL or SIGTERM, and starts after `away`.
    Broker { killed: bool, away: Duration },
    /// Nothing listens where the store was, for so long.
    Outage { lasting: Duration },
    /// The store keeps its connections and answers nothing, for so long.
    StoreFrozen { lasting: Duration },
    /// Requests to the store meet each fault with this probability, and are late with that one.
    Faults { each: f64, late: f64 },
}

/// An event and its time from the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Entry {
    pub(crate) at: Duration,
    pub(crate) event: Event,
}

/// The events of a run that lasts so long, in order.
pub(crate) fn draw(seed: u64, lasting: Duration) -> Vec<Entry> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut entries = vec![Entry { at: Duration::ZERO, event: Event::Faults { each: 0.01, late: 0.02 } }];
    let (mut at, mut broker_up) = (seconds(&mut random, 2.0, 4.0), Duration::from_secs(8));
    while at < lasting {
        let event = draw_event(&mut random, at >= broker_up);
        if let Event::Broker { away, .. } = event {
            broker_up = at + away + Duration::from_secs(20);
        }
        entries.push(Entry { at, event });
        at += seconds(&mut random, 0.3, 3.0);
    }
    entries
}

fn draw_event(random: &mut StdRng, may_stop_broker: bool) -> Event {
    let worker = random.random_range(0..WORKERS);
    match random.random_range(0..100) {
        0..26 => Event::Kill { worker, away: seconds(random, 0.0, 8.0) },
        26..41 => Event::Freeze { worker, frozen: seconds(random, 0.5, 6.0) },
        41..51 => Event::Freeze { worker, frozen: seconds(random, 6.0, 20.0) },
        51..65 => Event::Stop { worker, away: seconds(random, 0.0, 3.0) },
        65..72 if may_stop_broker => Event::Broker { killed: random.random(), away: seconds(random, 0.0, 5.0) },
        65..80 => Event::Outage { lasting: seconds(random, 0.5, 8.0) },
        80..85 => Event::StoreFrozen { lasting: seconds(random, 0.5, 8.0) },
        85..90 => Event::Faults { each: 0.0, late: 0.0 },
        90..96 => Event::Faults { each: 0.01, late: 0.1 },
        _ => Event::Faults { each: 0.05, late: 0.15 },
    }
}

fn seconds(random: &mut StdRng, from: f64, to: f64) -> Duration {
    Duration::from_secs_f64(random.random_range(from..to))
}
