//! How the supervisor steers a running task and what it can see of it.

use std::sync::Mutex;

use tokio::sync::watch;

/// What a task is asked to do. `Stop` is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Read and write.
    Run,
    /// Keep assignment and open files, read nothing.
    Pause,
    /// Close and commit the open files, then end.
    Stop,
}

/// What a task is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Joining the group, checking the store.
    Starting,
    /// Reading and writing.
    Running,
    /// Paused, with its open files.
    Paused,
    /// Over: everything that was there when it started is written and committed.
    Finished,
}

/// The task's end of the line.
#[derive(Debug)]
pub struct Control {
    wanted: watch::Receiver<Wanted>,
    doing: watch::Sender<Doing>,
}

/// The supervisor's end of the line. Dropping it asks the task to stop.
#[derive(Debug)]
pub struct Steering {
    wanted: watch::Sender<Wanted>,
    doing: watch::Receiver<Doing>,
    asked: Mutex<Wanted>,
}

/// Both ends; the task begins as `wanted`.
pub fn control(wanted: Wanted) -> (Steering, Control) {
    let (wanted_sender, wanted_receiver) = watch::channel(wanted);
    let (doing_sender, doing_receiver) = watch::channel(Doing::Starting);
    (
        Steering { wanted: wanted_sender, doing: doing_receiver, asked: Mutex::new(wanted) },
        Control { wanted: wanted_receiver, doing: doing_sender },
    )
}

impl Steering {
    /// Asks the task for something else. After `Stop` nothing changes any more.
    pub fn ask(&self, wanted: Wanted) {
        let mut asked = self.asked.lock().expect("no code panics while it holds this lock");
        if *asked != Wanted::Stop {
            *asked = wanted;
            self.wanted.send_replace(wanted);
        }
    }

    /// What the task is doing now.
    pub fn doing(&self) -> Doing {
        *self.doing.borrow()
    }
}

impl Control {
    /// What is wanted now.
    pub fn wanted(&self) -> Wanted {
        if self.wanted.has_changed().is_err() { Wanted::Stop } else { *self.wanted.borrow() }
    }

    /// Waits until something else is wanted than `known`; cancel-safe.
    pub async fn other_than(&mut self, known: Wanted) -> Wanted {
        let changed = self.wanted.wait_for(|wanted| *wanted != known).await.map(|wanted| *wanted);
        match changed {
            Ok(wanted) => wanted,
            Err(_) if known == Wanted::Stop => std::future::pending().await,
            Err(_) => Wanted::Stop,
        }
    }

    /// Tells what the task is doing.
    pub fn report(&self, doing: Doing) {
        self.doing.send_replace(doing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_is_final_and_a_dropped_supervisor_means_stop() {
        let (steering, mut control) = control(Wanted::Run);
        steering.ask(Wanted::Pause);
        assert_eq!(control.other_than(Wanted::Run).await, Wanted::Pause);
        steering.ask(Wanted::Stop);
        steering.ask(Wanted::Run);
        assert_eq!(control.other_than(Wanted::Pause).await, Wanted::Stop);

        let (steering, mut control) = super::control(Wanted::Run);
        drop(steering);
        assert_eq!(control.wanted(), Wanted::Stop);
        assert_eq!(control.other_than(Wanted::Run).await, Wanted::Stop);
    }
}
