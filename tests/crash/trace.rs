//! What was done and seen, with its time, in a file.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The file and when it began. Shared by the threads of a run.
pub(crate) struct Trace {
    begin: Instant,
    path: PathBuf,
    file: Mutex<File>,
}

impl Trace {
    /// A new file of this name in the target directory; an old one is replaced.
    pub(crate) fn create(name: &str) -> std::io::Result<Trace> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let file = Mutex::new(File::create(&path)?);
        Ok(Trace { begin: Instant::now(), path, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line.
    pub(crate) fn say(&self, text: impl Display) {
        let line = format!("{:9.3} {} {text}\n", self.begin.elapsed().as_secs_f64(), time_of_day());
        let _ = self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

/// UTC, to be compared with the logs of the processes.
#[expect(clippy::disallowed_methods, reason = "events of several processes are put in order by a person")]
fn time_of_day() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, since.subsec_millis())
}
