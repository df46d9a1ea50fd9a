//! The program under test, as a user runs it: the real binary, its environment, signals, log and REST.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::process::{Process, announce, data_directory, environment, free_port, last_lines, limited, remove_data};
use crate::{Error, Kafka, S3};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Longer than the program needs for anything even on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A process of the program. Dropped, it is killed and its data removed; its log is shown if the test panicked.
pub struct Sluice {
    process: Process,
    start: Start,
    place: Place,
    starts: u32,
}

/// Where a process works.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its own directory, empty at first.
    pub directory: PathBuf,
    /// Free for its REST interface.
    pub port: u16,
}

/// How the program is started. It sees these environment variables, `PATH`, and nothing else.
#[derive(Debug, Clone)]
pub struct Start {
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Names and values.
    pub environment: Vec<(String, String)>,
}

/// An answer of REST.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body as JSON; as a JSON string if it is something else, null if it is empty.
    pub body: Value,
}

impl Place {
    /// The value for `listeners`.
    pub fn listener(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The value for `state.dir`.
    pub fn state_directory(&self) -> String {
        self.directory.join("state").display().to_string()
    }

    /// Writes a file into the directory and returns its path.
    pub fn write(&self, name: &str, text: &str) -> Result<String, Error> {
        let path = self.directory.join(name);
        std::fs::write(&path, text).map_err(|error| failed(error.to_string()))?;
        Ok(path.display().to_string())
    }
}

impl Start {
    /// `sluice worker` with nothing but the environment: brokers, listener, state directory, credentials of the store.
    pub fn worker(bootstrap: &str, store: &S3, place: &Place) -> Start {
        let own = [
            ("CONNECT_BOOTSTRAP_SERVERS", bootstrap.to_owned()),
            ("CONNECT_LISTENERS", place.listener()),
            ("SLUICE_STATE_DIR", place.state_directory()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        Start { arguments: vec!["worker".to_owned()], environment: own.into_iter().chain(credentials(store)).collect() }
    }
}

/// The environment variables that hold the credentials of `store`.
fn credentials(store: &S3) -> [(String, String); 2] {
    [
        ("AWS_ACCESS_KEY_ID".to_owned(), store.access_key().to_owned()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), store.secret_key().to_owned()),
    ]
}

impl Sluice {
    /// Starts a worker by [`Start::worker`]; returns when REST answers.
    pub fn worker(kafka: &Kafka, store: &S3) -> Result<Sluice, Error> {
        Sluice::start(|place| Ok(Start::worker(kafka.bootstrap(), store, place)))
    }

    /// Starts `sluice run` with a connector file and a worker file, and the store's credentials in the environment;
    /// returns when REST answers.
    pub fn run(kafka: &Kafka, store: &S3, connector: &Value) -> Result<Sluice, Error> {
        let sluice = Sluice::begin(kafka, store, connector)?;
        sluice.wait_ready()?;
        Ok(sluice)
    }

    /// As [`Sluice::run`], without waiting for REST: for connectors that end by themselves.
    pub fn begin(kafka: &Kafka, store: &S3, connector: &Value) -> Result<Sluice, Error> {
        Sluice::spawn(|place| {
            let worker = format!(
                "bootstrap.servers = '{}'\nlisteners = '{}'\nstate.dir = '{}'\n",
                kafka.bootstrap(),
                place.listener(),
                place.state_directory()
            );
            let connector = place.write("connector.json", &connector.to_string())?;
            let worker = place.write("worker.toml", &worker)?;
            Ok(Start {
                arguments: ["run", &connector, "--worker", &worker].map(str::to_owned).to_vec(),
                environment: credentials(store).to_vec(),
            })
        })
    }

    /// Starts the program as `prepare` says for the place it is given; returns when REST answers.
    pub fn start(prepare: impl FnOnce(&Place) -> Result<Start, Error>) -> Result<Sluice, Error> {
        let sluice = Sluice::spawn(prepare)?;
        sluice.wait_ready()?;
        Ok(sluice)
    }

    fn spawn(prepare: impl FnOnce(&Place) -> Result<Start, Error>) -> Result<Sluice, Error> {
        let directory = data_directory("sluice").map_err(|error| failed(error.to_string()))?;
        let place = Place { directory, port: free_port() };
        let start = prepare(&place)?;
        let process = spawn(&start, &place, 1)?;
        Ok(Sluice { process, start, place, starts: 1 })
    }

    /// Where it works.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts it again after it ended, with the same port and state.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.spawn_again()?;
        self.wait_ready()
    }

    /// As [`Sluice::restart`], without waiting for REST.
    pub fn spawn_again(&mut self) -> Result<(), Error> {
        self.starts += 1;
        self.process = spawn(&self.start, &self.place, self.starts)?;
        Ok(())
    }

    fn wait_ready(&self) -> Result<(), Error> {
        self.wait("REST answers", |sluice| match sluice.process.ended() {
            Some(status) => Err(sluice.failure(&format!("ended at once with {status}"))),
            None => Ok(sluice.exchange("GET", "/health", None).is_ok_and(|reply| reply.status == 200).then_some(())),
        })
    }

    // ---- signals

    /// Sends SIGTERM.
    pub fn ask_to_stop(&self) {
        self.process.signal(libc::SIGTERM);
    }

    /// The exit code if it has ended, or 128 plus the signal that ended it.
    pub fn exit(&self) -> Option<i32> {
        self.process.ended().map(exit_code)
    }

    /// Waits for its end; the exit code, or 128 plus the signal that ended it.
    pub fn wait_exit(&self, limit: Duration) -> Result<i32, Error> {
        let end = Instant::now() + limit;
        loop {
            if let Some(code) = self.exit() {
                return Ok(code);
            }
            if Instant::now() > end {
                return Err(self.failure(&format!("did not end within {limit:?}")));
            }
            thread::sleep(LOOK);
        }
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(&self) -> Result<i32, Error> {
        self.ask_to_stop();
        self.wait_exit(LIMIT)
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Freezes the process, heartbeats and all.
    pub fn pause(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Whether the process is there.
    pub fn is_running(&self) -> bool {
        self.process.ended().is_none()
    }

    /// What it has logged since it was first started.
    pub fn log(&self) -> String {
        let read = |start| std::fs::read(log_path(&self.place, start)).unwrap_or_default();
        (1..=self.starts).map(|start| String::from_utf8_lossy(&read(start)).into_owned()).collect()
    }

    /// Runs another command of the program, such as `offsets`, in this one's environment; its exit code and what it printed
    /// on stdout and, behind that, on stderr.
    pub fn ask(&self, arguments: &[&str]) -> Result<(i32, String), Error> {
        let output = limited(program()?, LIMIT)
            .args(arguments)
            .env_clear()
            .envs(environment("PATH").map(|path| ("PATH", path)))
            .envs(self.start.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(ROOT)
            .output()
            .map_err(|error| failed(format!("could not be run: {error}")))?;
        let printed = [output.stdout, output.stderr].concat();
        Ok((exit_code(output.status), String::from_utf8_lossy(&printed).into_owned()))
    }

    // ---- REST

    /// `GET`.
    pub fn get(&self, path: &str) -> Result<Reply, Error> {
        self.request("GET", path, None)
    }

    /// `GET`; None if there is no answer within `limit`, as from a process that is paused.
    pub fn get_within(&self, path: &str, limit: Duration) -> Option<Reply> {
        self.exchange_within("GET", path, None, limit).ok()
    }

    /// `PUT`, with a JSON body if there is one.
    pub fn put(&self, path: &str, body: Option<&Value>) -> Result<Reply, Error> {
        self.request("PUT", path, body)
    }

    /// `POST` without a body.
    pub fn post(&self, path: &str) -> Result<Reply, Error> {
        self.request("POST", path, None)
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> Result<Reply, Error> {
        self.request("DELETE", path, None)
    }

    /// Puts a connector that must be new and valid.
    pub fn create(&self, name: &str, config: &Value) -> Result<(), Error> {
        let reply = self.put(&format!("/connectors/{name}/config"), Some(config))?;
        match reply.status {
            201 => Ok(()),
            _ => Err(self.failure(&format!("refused {name}: {reply:?}"))),
        }
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Reply, Error> {
        self.exchange(method, path, body).map_err(|error| self.failure(&format!("{method} {path}: {error}")))
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Reply> {
        self.exchange_within(method, path, body, LIMIT)
    }

    fn exchange_within(&self, method: &str, path: &str, body: Option<&Value>, limit: Duration) -> io::Result<Reply> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.place.port)), limit)?;
        stream.set_read_timeout(Some(limit))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parse_reply(&answer)
            .ok_or_else(|| io::Error::other(format!("no HTTP answer: {}", String::from_utf8_lossy(&answer))))
    }

    // ---- what it does

    /// The states of the connector and of its tasks.
    pub fn states(&self, connector: &str) -> Result<(String, Vec<String>), Error> {
        let status = self.get(&format!("/connectors/{connector}/status"))?.body;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let tasks = status["tasks"].as_array().into_iter().flatten().map(|task| text(&task["state"]));
        Ok((text(&status["connector"]["state"]), tasks.collect()))
    }

    /// Waits until the connector and `tasks` tasks are all in `state`.
    pub fn wait_state(&self, connector: &str, state: &str, tasks: usize) -> Result<(), Error> {
        self.wait(&format!("{connector} is {state}"), |sluice| {
            let (own, of_tasks) = sluice.states(connector)?;
            let all = own == state && of_tasks.len() == tasks && of_tasks.iter().all(|one| one == state);
            Ok(all.then_some(()))
        })
    }

    /// Waits until a task of the connector has failed; its trace.
    pub fn wait_failed(&self, connector: &str) -> Result<String, Error> {
        self.wait(&format!("a task of {connector} is FAILED"), |sluice| {
            let status = sluice.get(&format!("/connectors/{connector}/status"))?.body;
            let failed = status["tasks"].as_array().into_iter().flatten().find(|task| task["state"] == json!("FAILED"));
            Ok(failed.map(|task| task["trace"].as_str().unwrap_or_default().to_owned()))
        })
    }

    /// The sum of a metric over all samples of a connector; 0 while there is none.
    pub fn metric(&self, name: &str, connector: &str) -> Result<u64, Error> {
        self.samples(name, &[("connector", connector)])
    }

    /// Requests of a connector to S3 that ask for `operation`.
    pub fn requests(&self, connector: &str, operation: &str) -> Result<u64, Error> {
        self.samples("sluice_store_requests_total", &[("connector", connector), ("operation", operation)])
    }

    /// The sum of a metric over all samples with these labels.
    fn samples(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64, Error> {
        let samples = self.get("/metrics")?.body;
        let prefix = format!("{name}{{");
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let lines = samples.as_str().unwrap_or_default().lines();
        let values =
            lines.filter(|line| line.starts_with(&prefix) && labels.iter().all(|label| line.contains(label.as_str())));
        Ok(values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
    }

    /// Records of the connector in objects that this process made visible.
    pub fn published(&self, connector: &str) -> Result<u64, Error> {
        self.metric("sluice_published_records_total", connector)
    }

    /// Waits until [`Sluice::published`] is at least `records`.
    pub fn wait_published(&self, connector: &str, records: u64) -> Result<(), Error> {
        self.wait(&format!("{connector} has published {records} records"), |sluice| {
            Ok((sluice.published(connector)? >= records).then_some(()))
        })
    }

    /// Waits until so many records of the connector are in files, open or closed.
    pub fn wait_written(&self, connector: &str, records: u64) -> Result<(), Error> {
        self.wait(&format!("{connector} has written {records} records"), |sluice| {
            let written = sluice.metric("kafka_connect_sink_task_metrics_sink_record_send_total", connector)?;
            Ok((written >= records).then_some(()))
        })
    }

    /// Waits until the log contains `text`.
    pub fn wait_log(&self, text: &str) -> Result<(), Error> {
        self.wait(&format!("the log says {text:?}"), |sluice| Ok(sluice.log().contains(text).then_some(())))
    }

    /// Looks until `find` finds something; an error, with the end of the log, after 90 s.
    pub fn wait<T>(&self, what: &str, find: impl FnMut(&Sluice) -> Result<Option<T>, Error>) -> Result<T, Error> {
        self.wait_within(LIMIT, what, find)
    }

    /// As [`Sluice::wait`], with another limit.
    pub fn wait_within<T>(
        &self,
        limit: Duration,
        what: &str,
        mut find: impl FnMut(&Sluice) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let end = Instant::now() + limit;
        loop {
            if let Some(found) = find(self)? {
                return Ok(found);
            }
            if Instant::now() > end {
                return Err(self.failure(&format!("waited {limit:?} in vain until {what}")));
            }
            thread::sleep(LOOK);
        }
    }

    /// The most memory that the process ever had in RAM, in bytes (`VmHWM` of proc_pid_status(5)).
    pub fn peak_memory_bytes(&self) -> Result<u64, Error> {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(&path).map_err(|error| failed(format!("{path}: {error}")))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>();
        kilobytes
            .map(|kilobytes| kilobytes * 1024)
            .map_err(|error| failed(format!("{path} has VmHWM {line:?}: {error}")))
    }

    /// Seconds of all cores that the process used so far, in user and system mode (proc_pid_stat(5)).
    pub fn cpu_seconds(&self) -> Result<f64, Error> {
        const TICKS_PER_SECOND: f64 = 100.0;
        let path = format!("/proc/{}/stat", self.process.id());
        let stat = std::fs::read_to_string(&path).map_err(|error| failed(format!("{path}: {error}")))?;
        // Behind the name, which may have spaces: the 12th and 13th field.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default().split_whitespace();
        let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        match ticks[..] {
            [user, system] => Ok((user + system) / TICKS_PER_SECOND),
            _ => Err(failed(format!("{path} has no times: {stat}"))),
        }
    }

    fn failure(&self, why: &str) -> Error {
        failed(format!("{why}; end of its log:\n{}", last_lines(&self.log(), 30)))
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        self.process.kill();
        if thread::panicking() {
            announce(&format!("--- log of sluice on port {}\n{}", self.place.port, last_lines(&self.log(), 60)));
        }
        remove_data(&self.place.directory);
    }
}

fn failed(why: String) -> Error {
    Error::Server { what: "sluice", why }
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

fn spawn(start: &Start, place: &Place, number: u32) -> Result<Process, Error> {
    let log = File::create(log_path(place, number)).map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program()?);
    command
        .args(&start.arguments)
        .env_clear()
        .envs(environment("PATH").map(|path| ("PATH", path)))
        .envs(start.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(ROOT)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(|error| failed(error.to_string()))?)
        .stderr(log);
    Process::spawn(command).map_err(|error| failed(format!("could not be run: {error}")))
}

fn log_path(place: &Place, number: u32) -> PathBuf {
    place.directory.join(format!("sluice-{number}.log"))
}

fn parse_reply(answer: &[u8]) -> Option<Reply> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = match body {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    };
    Some(Reply { status, body })
}

/// The binary: `SLUICE_TEST_BINARY`, else the one beside this test's own executable. `cargo test --workspace` has built
/// that one (crates/sluice has tests of its own that run it); it is built here when it is missing or older than its sources.
fn program() -> Result<&'static Path, Error> {
    static PROGRAM: OnceLock<Result<PathBuf, Error>> = OnceLock::new();
    PROGRAM.get_or_init(find_program).as_ref().map(PathBuf::as_path).map_err(Error::clone)
}

fn find_program() -> Result<PathBuf, Error> {
    if let Some(path) = environment("SLUICE_TEST_BINARY") {
        return Ok(path.into());
    }
    let this = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let profile =
        this.parent().and_then(Path::parent).ok_or_else(|| failed(format!("{} has no profile", this.display())))?;
    let program = profile.join("sluice");
    let built = program.metadata().and_then(|metadata| metadata.modified());
    if built.is_ok_and(|built| newest_source(&Path::new(ROOT).join("crates")).is_some_and(|changed| changed <= built)) {
        return Ok(program);
    }
    announce("building sluice for the tests that run it ...");
    let cargo = environment("CARGO").unwrap_or_else(|| "cargo".to_owned());
    let profile_flag: &[&str] = if profile.ends_with("release") { &["--release"] } else { &[] };
    let built = Command::new(cargo)
        .args(["build", "--quiet", "-p", "sluice"])
        .args(profile_flag)
        .current_dir(ROOT)
        .output()
        .map_err(|error| failed(format!("could not be built: {error}")))?;
    match built.status.success() {
        true => Ok(program),
        false => {
            Err(failed(format!("could not be built:\n{}", last_lines(&String::from_utf8_lossy(&built.stderr), 30))))
        }
    }
}

/// When a source of the program last changed.
fn newest_source(crates: &Path) -> Option<SystemTime> {
    let mut newest = None;
    let entries = std::fs::read_dir(crates).ok()?;
    let mut directories: Vec<PathBuf> = entries.flatten().map(|entry| entry.path().join("src")).collect();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                _ => newest = newest.max(entry.metadata().and_then(|metadata| metadata.modified()).ok()),
            }
        }
    }
    newest
}
