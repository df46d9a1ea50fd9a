//! Spark with Delta, one session for all tests of a process, and beside it DuckDB with its extension for Delta.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Error;
use crate::process::{free_port, last_lines};
use crate::s3::new_directory;
use crate::server::{Launch, Ready, Server};
use crate::services::install;

/// Calls share two cores with everything else that the ring does.
const CALL_LIMIT: Duration = Duration::from_secs(240);

/// The Python environment of localstack/spark-requirements.txt with a session of Spark in it.
pub struct Spark {
    port: u16,
    /// Ends it, and Spark with it, when dropped.
    _server: Server,
}

impl Spark {
    pub(crate) fn start() -> Result<Spark, Error> {
        let home = install("spark")?;
        let (port, directory) = (free_port(), new_directory("spark")?);
        let own = directory.display().to_string();
        let jars = home.join("jars").display().to_string();
        let script = include_str!("py/spark_server.py").to_owned();
        let server = Server::start(Launch {
            what: "spark",
            program: home.join("bin/python"),
            arguments: vec!["-c".to_owned(), script, port.to_string(), own.clone(), jars],
            environment: vec![
                ("TZ", "UTC".to_owned()),
                ("SPARK_LOCAL_IP", "127.0.0.1".to_owned()),
                ("SPARK_LOCAL_DIRS", own),
            ],
            directory,
            ready: Ready::Port(port),
        })?;
        Ok(Spark { port, _server: server })
    }

    /// Calls the function `action` of a Python script with the request's fields as named arguments, and reads its result
    /// from JSON. The script finds a session of Spark as `spark`, whose settings are its own.
    pub fn call<T: DeserializeOwned>(&self, script: &str, action: &str, request: &Value) -> Result<T, Error> {
        let failed = |why: String| Error::Call { what: format!("{action} of Spark"), why };
        let line = json!({"script": script, "action": action, "request": request}).to_string();
        let answer: Value = self
            .exchange(&line)
            .and_then(|answer| Ok(serde_json::from_str(&answer)?))
            .map_err(|error| failed(error.to_string()))?;
        match answer["error"].as_str() {
            Some(error) => Err(failed(last_lines(error, 40))),
            None => serde_json::from_value(answer["ok"].clone()).map_err(|error| failed(error.to_string())),
        }
    }

    fn exchange(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(CALL_LIMIT))?;
        writeln!(stream, "{line}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    }
}
