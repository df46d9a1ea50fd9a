//! Child processes that cannot outlive this one, their data directory, ports and names.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Children that [`stop_all`] ends.
static RUNNING: Mutex<Vec<Process>> = Mutex::new(Vec::new());

/// Ends every process the harness started and removes its data. Called at the end of `ring::main`.
///
/// When this process dies without calling it, the children die all the same; their data is removed by the next run.
pub fn stop_all() {
    for process in lock(&RUNNING).drain(..) {
        process.kill();
    }
    let Some(root) = DATA_ROOT.get() else { return };
    match KEPT.load(Ordering::Relaxed) {
        true => drop(std::fs::rename(root, kept_root())),
        false => drop(std::fs::remove_dir_all(root)),
    }
}

/// Set by [`keep_data`].
static KEPT: AtomicBool = AtomicBool::new(false);

/// Has all data of services and programs stay after this run, for somebody to look into a failure; returns where it will
/// be. Nobody removes it later.
pub fn keep_data() -> PathBuf {
    KEPT.store(true, Ordering::Relaxed);
    kept_root()
}

fn kept_root() -> PathBuf {
    std::env::temp_dir().join(format!("sluice-kept-{}", std::process::id()))
}

/// Removes the data of a service that ended, unless it is [kept](keep_data).
pub(crate) fn remove_data(directory: &Path) {
    if !KEPT.load(Ordering::Relaxed) {
        let _ = std::fs::remove_dir_all(directory);
    }
}

/// A name that no other test uses, fit for topics, groups and buckets: `<stem>-<process id>-<number>`.
pub fn unique(stem: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    format!("{stem}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A long running child of this process.
#[derive(Clone)]
pub(crate) struct Process(Arc<Mutex<Child>>);

impl Process {
    /// Starts `command`; it is killed by the kernel when this process ends, however it ends.
    ///
    /// The kernel's death signal follows the *thread* that started the child, and threads of tests are short-lived.
    /// Hence one thread that lives as long as the process starts all of them.
    pub(crate) fn spawn(mut command: Command) -> io::Result<Process> {
        type Job = (Command, mpsc::Sender<io::Result<Child>>);
        static STARTER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
        let starter = STARTER.get_or_init(|| {
            let (jobs, inbox) = mpsc::channel::<Job>();
            thread::spawn(move || {
                for (mut command, reply) in inbox {
                    let _ = reply.send(command.spawn());
                }
            });
            jobs
        });
        die_with_parent(&mut command, libc::SIGKILL);
        let (reply, answer) = mpsc::channel();
        starter.send((command, reply)).expect("the starter thread never ends");
        let child = answer.recv().expect("the starter thread answers every job")?;
        let process = Process(Arc::new(Mutex::new(child)));
        lock(&RUNNING).push(process.clone());
        Ok(process)
    }

    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        lock(&self.0).try_wait().ok().flatten()
    }

    /// Sends `signal` unless the process has ended.
    #[expect(unsafe_code, reason = "the standard library can only send SIGKILL")]
    pub(crate) fn signal(&self, signal: libc::c_int) {
        let mut child = lock(&self.0);
        if matches!(child.try_wait(), Ok(None)) {
            let pid = libc::pid_t::try_from(child.id()).expect("a process id is a pid_t");
            // SAFETY: kill takes plain numbers; the child is not reaped yet, so the id is still its own.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// The number that the system knows it by.
    pub(crate) fn id(&self) -> u32 {
        lock(&self.0).id()
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) fn kill(&self) {
        let mut child = lock(&self.0);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGTERM; false if the process was still there after `limit`.
    pub(crate) fn terminate(&self, limit: Duration) -> bool {
        self.signal(libc::SIGCONT);
        self.signal(libc::SIGTERM);
        wait_until(limit, || self.ended().is_some())
    }
}

/// Makes the child receive `signal` when the thread that starts it ends.
#[expect(unsafe_code, reason = "there is no safe way to set a parent death signal")]
pub(crate) fn die_with_parent(command: &mut Command, signal: libc::c_int) {
    // SAFETY: prctl is async-signal-safe and changes only the child.
    unsafe {
        command.pre_exec(move || match libc::prctl(libc::PR_SET_PDEATHSIG, signal) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// A command that is ended, with all its own children, after `limit` or when the calling thread ends.
pub(crate) fn limited(program: &Path, limit: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=10").arg(limit.as_secs().to_string()).arg(program);
    die_with_parent(&mut command, libc::SIGTERM);
    command
}

/// Looks at `condition` every 20 ms; false if it did not hold within `limit`.
pub(crate) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !condition() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

static DATA_ROOT: OnceLock<PathBuf> = OnceLock::new();

/// A new, empty directory for one service, removed at the end.
pub(crate) fn data_directory(service: &str) -> io::Result<PathBuf> {
    const PREFIX: &str = "sluice-tests-";
    let root = DATA_ROOT.get_or_init(|| {
        let temporary = std::env::temp_dir();
        remove_data_of_the_dead(&temporary, PREFIX);
        temporary.join(format!("{PREFIX}{}", std::process::id()))
    });
    let directory = root.join(unique(service));
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn remove_data_of_the_dead(temporary: &Path, prefix: &str) {
    for entry in std::fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else {
            continue;
        };
        let dead = pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if dead {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A loopback port that is free now and stays so: below the range from which the kernel takes ports for connections, so
/// that a service that is stopped for a while finds its port free again.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(37);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("32,000 fits");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("none of {COUNT} loopback ports is free");
}

/// A setting from outside; empty counts as unset.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok().filter(|value| !value.is_empty())
}

/// Says something to whoever watches the run.
#[expect(clippy::print_stderr, reason = "a test run talks to a person")]
pub fn announce(text: &str) {
    eprintln!("{text}");
}

/// A number from outside; what is no number counts as unset.
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    environment(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The end of a text, for error messages.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
