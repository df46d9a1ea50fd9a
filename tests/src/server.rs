//! A service as a process: start it and wait until it is ready, stop, kill, pause and start it again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Error;
use crate::process::{Process, last_lines, remove_data, wait_until};

/// Longer than any service needs even on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// How to start a service, the same way each time.
pub(crate) struct Launch {
    pub(crate) what: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Working directory; holds the service's data and logs, and is removed with the [`Server`].
    pub(crate) directory: PathBuf,
    pub(crate) ready: Ready,
}

/// When a service counts as started.
pub(crate) enum Ready {
    /// Its log contains this.
    Log(&'static str),
    /// `GET` of this path is answered with 200.
    Http(u16, &'static str),
    /// Connections are taken.
    Port(u16),
}

/// A started service. Dropped, it is killed and its data removed.
pub(crate) struct Server {
    launch: Launch,
    process: Process,
    starts: u32,
}

impl Server {
    /// Returns when the service is ready.
    pub(crate) fn start(launch: Launch) -> Result<Server, Error> {
        let process = run(&launch, 1)?;
        Ok(Server { launch, process, starts: 1 })
    }

    /// Asks the service to stop (SIGTERM) and waits for its end.
    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        if self.process.terminate(STOP_LIMIT) {
            return Ok(());
        }
        self.process.kill();
        Err(failure(&self.launch, self.starts, "did not stop in time and was killed"))
    }

    /// SIGKILL, as a crash.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops the service if it runs, and starts it on the same port and data.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        if self.process.ended().is_none() {
            self.stop()?;
        }
        self.starts += 1;
        self.process = run(&self.launch, self.starts)?;
        Ok(())
    }

    /// SIGSTOP: the service keeps its connections and answers nothing.
    pub(crate) fn pause(&mut self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Ends a pause.
    pub(crate) fn resume(&mut self) {
        self.process.signal(libc::SIGCONT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill();
        remove_data(&self.launch.directory);
    }
}

fn run(launch: &Launch, start: u32) -> Result<Process, Error> {
    let process = spawn(launch, start).map_err(|e| failure(launch, start, &format!("could not be run: {e}")))?;
    let mut ended = None;
    let ready = wait_until(READY_LIMIT, || {
        ended = process.ended();
        ended.is_some() || is_ready(launch, start)
    });
    match (ready, ended) {
        (_, Some(status)) => Err(failure(launch, start, &format!("ended at once with {status}"))),
        (true, None) => Ok(process),
        (false, None) => {
            process.kill();
            Err(failure(launch, start, "was not ready in time"))
        }
    }
}

fn spawn(launch: &Launch, start: u32) -> io::Result<Process> {
    let log = File::create(log_path(&launch.directory, start))?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&launch.directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Process::spawn(command)
}

fn is_ready(launch: &Launch, start: u32) -> bool {
    match launch.ready {
        Ready::Log(line) => read_log(launch, start).contains(line),
        Ready::Http(port, path) => answers_ok(port, path).unwrap_or(false),
        Ready::Port(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
    }
}

fn answers_ok(port: u16, path: &str) -> io::Result<bool> {
    const LIMIT: Duration = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")?;
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status)?;
    Ok(status.ends_with(b" 200"))
}

fn failure(launch: &Launch, start: u32, why: &str) -> Error {
    let log = last_lines(&read_log(launch, start), 20);
    Error::Server { what: launch.what, why: format!("{why}; end of its log:\n{log}") }
}

fn read_log(launch: &Launch, start: u32) -> String {
    let bytes = std::fs::read(log_path(&launch.directory, start)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One file per start, so that the readiness of a second start is not read from the first one's log.
fn log_path(directory: &Path, start: u32) -> PathBuf {
    directory.join(format!("start-{start}.log"))
}
