//! Waiting for a future on a thread that has no runtime.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How often `stop` is asked.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Drives `future` on this thread until it is ready; `None` when `timeout` is over or `stop` says so before.
pub(crate) fn wait<F: Future>(future: F, timeout: Duration, mut stop: impl FnMut() -> bool) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let deadline = Instant::now() + timeout;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stop() {
            return None;
        }
        std::thread::park_timeout(left.min(STOP_INTERVAL));
    }
}

/// Does nothing for `duration`, or until `stop` says so.
pub(crate) fn pause(duration: Duration, stop: impl FnMut() -> bool) {
    let _never_ready = wait(std::future::pending::<()>(), duration, stop);
}
