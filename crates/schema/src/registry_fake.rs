//! A registry for tests: an HTTP server on loopback that answers as it is told.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::Settings;

use crate::Part;
use crate::registry::Registry;

pub(crate) type Answer = fn(&str) -> (u16, &'static str);

/// A registry on loopback that answers each path as `answer` says; gives its address and the count of requests. The
/// thread ends with the process.
pub(crate) fn serve(answer: Answer) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            counted.fetch_add(1, Ordering::SeqCst);
            let (status, body) = answer(first.split(' ').nth(1).unwrap());
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    (url, count)
}

pub(crate) fn registry(url: &str, more: &[(&str, &str)]) -> Registry {
    let pairs = [("schema.registry.url", url), ("retries.wait.ms", "0"), ("max.retries", "1")];
    let config = pairs.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Registry::build(&Settings::new(config), Part::Value).unwrap()
}
