//! HTTP/1.1 as far as a proxy needs it: whole requests in, whole answers out.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

/// The largest body of a request; parts of uploads are smaller.
const BODY_BYTES_MAX: usize = 256 << 20;

/// How long the proxy waits for the store.
const STORE_LIMIT: Duration = Duration::from_secs(120);

/// A request, as far as faults may depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `PUT`.
    pub method: String,
    /// Path and query, encoded as they came.
    pub target: String,
    /// From its first line to the empty line.
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Request {
    /// Whether it changes the store.
    pub fn is_write(&self) -> bool {
        matches!(self.method.as_str(), "PUT" | "POST" | "DELETE")
    }

    /// The value of a header; names are compared without case.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.head);
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }
}

/// What the store said.
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    /// Whether the client can tell where it ends.
    pub(crate) has_end: bool,
}

/// Sends a request to the store and reads the answer to its end.
pub(crate) fn forward(store: &SocketAddr, request: &Request) -> io::Result<Answer> {
    let mut store = TcpStream::connect_timeout(store, STORE_LIMIT)?;
    store.set_read_timeout(Some(STORE_LIMIT))?;
    store.write_all(&without(&request.head, &["connection", "expect"], "Connection: close\r\n"))?;
    let mut sending = store.try_clone()?;
    let mut answer = Vec::new();
    // A store may answer before it has read all, and then close the connection: a condition that does not hold.
    thread::scope(|scope| {
        scope.spawn(|| sending.write_all(&request.body));
        store.read_to_end(&mut answer)
    })
    .or_else(|error| if answer.is_empty() { Err(error) } else { Ok(answer.len()) })?;
    let Some(head_bytes) = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let head = String::from_utf8_lossy(&answer[..head_bytes]).to_ascii_lowercase();
    let has_body = request.method != "HEAD" && ![" 204 ", " 304 "].iter().any(|status| head[8..].starts_with(status));
    let has_end = !has_body || head.contains("\r\ncontent-length:") || head.contains("\r\ntransfer-encoding: chunked");
    let bytes = [&without(&answer[..head_bytes], &["connection"], ""), &answer[head_bytes..]].concat();
    Ok(Answer { bytes, has_end })
}

/// A head without the fields of these names, and with `added` at its end.
fn without(head: &[u8], names: &[&str], added: &str) -> Vec<u8> {
    let mut kept = Vec::with_capacity(head.len() + added.len());
    for line in head.split_inclusive(|&byte| byte == b'\n') {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        if line == b"\r\n" {
            kept.extend(added.as_bytes());
        }
        if !names.iter().any(|dropped| name.eq_ignore_ascii_case(dropped.as_bytes())) {
            kept.extend(line);
        }
    }
    kept
}

/// None when the client has closed the connection.
pub(crate) fn read_request<S: Read + Write>(reader: &mut BufReader<S>) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
    }
    let first = String::from_utf8_lossy(head.split(|&byte| byte == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request { method, target, head, body: Vec::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    if length > BODY_BYTES_MAX || request.header("transfer-encoding").is_some() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    if request.header("expect").is_some() {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// An error as S3 words it.
pub(super) fn refuse(client: &TcpStream, request: &Request, status: &str, code: &str) -> io::Result<()> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>by the proxy</Message></Error>"
    );
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nServer: proxy\r\n\r\n",
        body.len()
    );
    let body = if request.method == "HEAD" { "" } else { body.as_str() };
    (&mut &*client).write_all(format!("{head}{body}").as_bytes())
}

/// Closes the connection by RST, so that the client sees it at once and loses what it has not read.
#[expect(unsafe_code, reason = "the standard library cannot set SO_LINGER")]
pub(super) fn reset(client: &TcpStream) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = libc::socklen_t::try_from(size_of::<libc::linger>()).expect("eight bytes");
    // SAFETY: the descriptor is open while `client` lives; the pointer and the length are those of `linger`.
    let done = unsafe {
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast::<libc::c_void>(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
