//! A proxy in front of an S3 store that makes it faulty, by seed.
//!
//! It takes HTTP/1.1 requests on a loopback port and passes each one on, over a connection of its own and with its head
//! as it came, `Host` included, because signatures cover it. Every [`Fault`] is one combination of "did it happen" and
//! "what was reported"; which request meets which is drawn from the seed ([`Proxy::set`]) or said in advance
//! ([`Proxy::once`]).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::Error;
use crate::process::free_port;
use http::{refuse, reset};

pub use http::Request;
pub(crate) use http::{forward, read_request};

mod http;

/// What is done to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Not forwarded; the connection is reset.
    Reset,
    /// Not forwarded; answered with 503 SlowDown.
    SlowDown,
    /// Not forwarded; answered with 500 InternalError.
    InternalError,
    /// Forwarded, and the connection is closed without an answer.
    AnswerDropped,
    /// Forwarded, and the connection is reset in the middle of the answer.
    AnswerCut,
    /// Forwarded, and answered with 500 InternalError whatever the store said.
    ErrorAfter,
    /// The connection is reset, and the request forwarded when the client has given it up: [`Faults::late_by`].
    Late,
    /// Forwarded and answered properly, after a while: [`Faults::delay_by`].
    Delay,
    /// Forwarded at once, and answered properly in small pieces: [`Faults::slow_over`].
    SlowAnswer,
    /// Not accepted or reset, because of [`Proxy::outage`].
    Outage,
}

impl Fault {
    /// Those that are drawn; [`Fault::Outage`] is not.
    pub const DRAWN: [Fault; 9] = [
        Fault::Reset,
        Fault::SlowDown,
        Fault::InternalError,
        Fault::AnswerDropped,
        Fault::AnswerCut,
        Fault::ErrorAfter,
        Fault::Late,
        Fault::Delay,
        Fault::SlowAnswer,
    ];
}

/// How probable each fault is for a request, and how long those last that last.
#[derive(Debug, Clone)]
pub struct Faults {
    /// From 0 to 1; the sum is at most 1.
    pub probabilities: BTreeMap<Fault, f64>,
    /// Which requests may meet them.
    pub only: fn(&Request) -> bool,
    /// After how long a [`Fault::Late`] request is forwarded.
    pub late_by: Range<Duration>,
    /// How long a [`Fault::Delay`] takes.
    pub delay_by: Range<Duration>,
    /// Over how long the answer of a [`Fault::SlowAnswer`] is spread.
    pub slow_over: Range<Duration>,
}

impl Faults {
    /// None.
    pub fn none() -> Faults {
        Faults {
            probabilities: BTreeMap::new(),
            only: |_| true,
            late_by: Duration::from_millis(200)..Duration::from_secs(8),
            delay_by: Duration::from_millis(50)..Duration::from_secs(2),
            slow_over: Duration::from_millis(100)..Duration::from_secs(2),
        }
    }

    /// Each of [`Fault::DRAWN`] with this probability.
    pub fn each(probability: f64) -> Faults {
        Fault::DRAWN.iter().fold(Faults::none(), |faults, &fault| faults.with(fault, probability))
    }

    /// With another probability for this fault.
    pub fn with(mut self, fault: Fault, probability: f64) -> Faults {
        self.probabilities.insert(fault, probability);
        self
    }

    fn draw(&self, random: &mut StdRng) -> Option<Fault> {
        let mut left: f64 = random.random();
        for (&fault, probability) in &self.probabilities {
            left -= probability;
            if left < 0.0 {
                return Some(fault);
            }
        }
        None
    }
}

/// What happened so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that were read.
    pub requests: u64,
    /// Requests and, for [`Fault::Outage`], connections that met each fault.
    pub faults: BTreeMap<Fault, u64>,
}

impl Counts {
    /// How often this fault happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or_default()
    }

    /// How many faults happened.
    pub fn total(&self) -> u64 {
        self.faults.values().sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} faults", self.requests, self.total())?;
        self.faults.iter().try_for_each(|(fault, count)| write!(f, ", {fault:?} {count}"))
    }
}

/// The proxy. Dropped, it takes no more connections; late requests are still forwarded.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    store: SocketAddr,
    inner: Mutex<Inner>,
    /// Told when an outage ends or the proxy does.
    changed: Condvar,
}

struct Inner {
    random: StdRng,
    faults: Faults,
    planned: Vec<Planned>,
    counts: Counts,
    /// Late requests that are not forwarded yet.
    late: u64,
    outage: bool,
    over: bool,
}

struct Planned {
    fault: Fault,
    matches: Box<dyn Fn(&Request) -> bool + Send>,
}

/// A fault, and how long it lasts if it does.
struct Fate {
    fault: Option<Fault>,
    lasts: Duration,
}

impl Proxy {
    /// Listens in front of the store at `endpoint` (`http://127.0.0.1:port`), without faults at first.
    pub fn start(endpoint: &str, seed: u64) -> Result<Proxy, Error> {
        let failed = |why: String| Error::Server { what: "proxy", why };
        let store = endpoint.trim_start_matches("http://").trim_end_matches('/');
        let store = store.parse().map_err(|e| failed(format!("{endpoint}: {e}")))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let listener = TcpListener::bind(address).map_err(|e| failed(e.to_string()))?;
        let inner = Inner {
            random: StdRng::seed_from_u64(seed),
            faults: Faults::none(),
            planned: Vec::new(),
            counts: Counts::default(),
            late: 0,
            outage: false,
            over: false,
        };
        let state = Arc::new(State { store, inner: Mutex::new(inner), changed: Condvar::new() });
        let accepting = Arc::clone(&state);
        thread::spawn(move || accept(&accepting, listener, address));
        Ok(Proxy { address, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`, to be used in the place of the store's.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Draws from these faults from now on.
    pub fn set(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Does this to the next request that matches, before anything is drawn. Several are met in the order they were
    /// given.
    pub fn once(&self, fault: Fault, matches: impl Fn(&Request) -> bool + Send + 'static) {
        self.state.lock().planned.push(Planned { fault, matches: Box::new(matches) });
    }

    /// Begins or ends an outage: connections are refused, requests under way are reset, nothing is forwarded.
    pub fn outage(&self, outage: bool) {
        self.state.lock().outage = outage;
        self.state.changed.notify_all();
        if outage {
            self.wake();
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().counts.clone()
    }

    /// Requests given to [`Proxy::once`] that have not come yet.
    pub fn planned(&self) -> usize {
        self.state.lock().planned.len()
    }

    /// [`Fault::Late`] requests that are still to be forwarded.
    pub fn late(&self) -> u64 {
        self.state.lock().late
    }

    /// Has the accepting thread look at the state.
    fn wake(&self) {
        let _ = TcpStream::connect(self.address);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.lock().over = true;
        self.state.changed.notify_all();
        self.wake();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_out(&self) -> bool {
        let inner = self.lock();
        inner.outage || inner.over
    }

    fn count(&self, fault: Fault) {
        *self.lock().counts.faults.entry(fault).or_default() += 1;
    }

    /// Chooses what happens to a request, and counts it.
    fn choose(&self, request: &Request) -> Fate {
        let inner = &mut *self.lock();
        inner.counts.requests += 1;
        let fault = match inner.planned.iter().position(|planned| (planned.matches)(request)) {
            _ if inner.outage || inner.over => Some(Fault::Outage),
            Some(at) => Some(inner.planned.remove(at).fault),
            None if (inner.faults.only)(request) => inner.faults.draw(&mut inner.random),
            None => None,
        };
        let range = match fault {
            Some(Fault::Late) => inner.faults.late_by.clone(),
            Some(Fault::Delay) => inner.faults.delay_by.clone(),
            Some(Fault::SlowAnswer) => inner.faults.slow_over.clone(),
            _ => Duration::ZERO..Duration::ZERO,
        };
        let lasts = if range.is_empty() { range.start } else { inner.random.random_range(range) };
        if let Some(fault) = fault {
            *inner.counts.faults.entry(fault).or_default() += 1;
        }
        Fate { fault, lasts }
    }
}

/// Takes connections until the proxy is dropped. While there is an outage the port is closed.
fn accept(state: &Arc<State>, listener: TcpListener, address: SocketAddr) {
    let mut listener = Some(listener);
    loop {
        let Some(open) = &listener else {
            let waiting = state.lock();
            let inner = state.changed.wait_while(waiting, |inner| inner.outage && !inner.over);
            if inner.unwrap_or_else(PoisonError::into_inner).over {
                return;
            }
            listener = Some(TcpListener::bind(address).expect("nobody else takes a port of the harness"));
            continue;
        };
        let stream = open.accept();
        if state.lock().over {
            return;
        }
        if state.is_out() {
            listener = None;
            continue;
        }
        if let Ok((stream, _)) = stream {
            let state = Arc::clone(state);
            thread::spawn(move || {
                let _ = serve(&state, &stream);
            });
        }
    }
}

/// Serves one connection; returns when it is to be closed.
fn serve(state: &Arc<State>, client: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    while let Some(request) = read_request(&mut reader)? {
        let fate = state.choose(&request);
        if !treat(state, client, request, &fate)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Does to a request what was chosen; false if the connection is to be closed.
fn treat(state: &Arc<State>, client: &TcpStream, request: Request, fate: &Fate) -> io::Result<bool> {
    match fate.fault {
        Some(Fault::Reset | Fault::Outage) => reset(client).map(|()| false),
        Some(Fault::SlowDown) => refuse(client, &request, "503 Slow Down", "SlowDown").map(|()| true),
        Some(Fault::InternalError) => refuse(client, &request, "500 Internal Error", "InternalError").map(|()| true),
        Some(Fault::Late) => {
            reset(client)?;
            state.lock().late += 1;
            let (state, lasts) = (Arc::clone(state), fate.lasts);
            thread::spawn(move || {
                thread::sleep(lasts);
                let _ = forward(&state.store, &request);
                state.lock().late -= 1;
            });
            Ok(false)
        }
        Some(Fault::ErrorAfter) => {
            forward(&state.store, &request)?;
            refuse(client, &request, "500 Internal Error", "InternalError").map(|()| true)
        }
        Some(Fault::AnswerDropped) => forward(&state.store, &request).map(|_| false),
        Some(Fault::AnswerCut) => {
            let answer = forward(&state.store, &request)?;
            (&mut &*client).write_all(&answer.bytes[..answer.bytes.len() / 2])?;
            reset(client).map(|()| false)
        }
        Some(Fault::Delay) => {
            thread::sleep(fate.lasts);
            pass(state, client, &request, Duration::ZERO)
        }
        Some(Fault::SlowAnswer) => pass(state, client, &request, fate.lasts),
        None => pass(state, client, &request, Duration::ZERO),
    }
}

/// Forwards a request and gives the answer back, spread over a time; true if the connection stays open.
fn pass(state: &State, client: &TcpStream, request: &Request, over: Duration) -> io::Result<bool> {
    const PIECES: usize = 10;
    let answer = forward(&state.store, request)?;
    if state.is_out() {
        state.count(Fault::Outage);
        return reset(client).map(|()| false);
    }
    let piece_bytes = if over.is_zero() { answer.bytes.len() } else { answer.bytes.len().div_ceil(PIECES) };
    for piece in answer.bytes.chunks(piece_bytes.max(1)) {
        (&mut &*client).write_all(piece)?;
        thread::sleep(over / u32::try_from(PIECES).expect("ten"));
    }
    Ok(answer.has_end)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A store that keeps what it was asked and answers `ok`.
    fn store() -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let request = read_request(&mut BufReader::new(&stream)).unwrap().unwrap();
                log.lock().unwrap().push(format!("{} {}", request.method, request.header("Host").unwrap()));
                (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").unwrap();
            }
        });
        (endpoint, asked)
    }

    /// One request; its answer, or nothing if there was none.
    fn ask(proxy: &Proxy) -> Option<String> {
        let mut stream = TcpStream::connect(proxy.address()).ok()?;
        stream
            .write_all(b"PUT /b/k HTTP/1.1\r\nHost: client\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc")
            .ok()?;
        stream.shutdown(std::net::Shutdown::Write).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8(answer).unwrap()).filter(|answer| !answer.is_empty())
    }

    #[test]
    fn each_fault_is_what_it_says() {
        let (endpoint, asked) = store();
        let proxy = Proxy::start(&endpoint, 1).unwrap();
        let short = Duration::from_millis(1)..Duration::from_millis(20);
        let faults = Faults { late_by: short.clone(), delay_by: short.clone(), slow_over: short, ..Faults::none() };
        for (fault, status, happens) in [
            (None, Some("200"), true),
            (Some(Fault::Reset), None, false),
            (Some(Fault::SlowDown), Some("503"), false),
            (Some(Fault::InternalError), Some("500"), false),
            (Some(Fault::AnswerDropped), None, true),
            (Some(Fault::AnswerCut), None, true),
            (Some(Fault::ErrorAfter), Some("500"), true),
            (Some(Fault::Late), None, true),
            (Some(Fault::Delay), Some("200"), true),
            (Some(Fault::SlowAnswer), Some("200"), true),
        ] {
            proxy.set(fault.map_or(faults.clone(), |fault| faults.clone().with(fault, 1.0)));
            let answer = ask(&proxy).filter(|answer| answer.ends_with("ok") || answer.ends_with("</Error>"));
            let said = answer.as_deref().and_then(|answer| answer.split(' ').nth(1));
            assert_eq!(said, status, "{fault:?}");
            while proxy.late() > 0 {
                thread::yield_now();
            }
            let asked = std::mem::take(&mut *asked.lock().unwrap());
            assert_eq!(asked, ["PUT client"].repeat(usize::from(happens)), "{fault:?}");
        }
        assert_eq!((proxy.counts().requests, proxy.counts().total()), (10, 9), "{}", proxy.counts());
    }

    #[test]
    fn an_outage_ends_and_a_planned_fault_is_met_once() {
        let (endpoint, asked) = store();
        let proxy = Proxy::start(&endpoint, 1).unwrap();
        proxy.outage(true);
        assert_eq!(ask(&proxy), None);
        proxy.outage(false);
        proxy.once(Fault::SlowDown, |request| request.target == "/none");
        proxy.once(Fault::SlowDown, |request| request.is_write() && request.target == "/b/k");
        while ask(&proxy).is_none() {
            thread::yield_now();
        }
        assert!(ask(&proxy).unwrap().starts_with("HTTP/1.1 200"));
        assert_eq!((proxy.planned(), proxy.counts().of(Fault::SlowDown)), (1, 1));
        assert_eq!(asked.lock().unwrap().len(), 1);
    }
}
