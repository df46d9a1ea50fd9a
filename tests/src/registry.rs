//! A schema registry: Apicurio, which speaks Confluent's REST API.

use crate::Error;
use crate::process::free_port;
use crate::s3::new_directory;
use crate::server::{Launch, Ready, Server};
use crate::services::install;

/// Where Apicurio serves Confluent's API.
const API: &str = "/apis/ccompat/v7";

/// A schema registry with Confluent's API. Its schemas live in memory: a restart forgets them.
pub struct Registry {
    url: String,
    /// None for a registry that was running before; such a one is only ever lent as `&Registry`.
    server: Option<Server>,
}

impl Registry {
    /// A registry of the caller's own; it ends when dropped.
    pub fn start() -> Result<Registry, Error> {
        let home = install("registry")?;
        let port = free_port();
        let program = home.join("java21");
        let options = [
            "-Xmx256m".to_owned(),
            "-Dquarkus.http.host=127.0.0.1".to_owned(),
            format!("-Dquarkus.http.port={port}"),
            // It opens a second port whether it is enabled or not.
            format!("-Dquarkus.management.port={}", free_port()),
            "-Dquarkus.management.host=127.0.0.1".to_owned(),
            "-Dapicurio.ccompat.legacy-id-mode.enabled=false".to_owned(),
            "-jar".to_owned(),
            home.join("quarkus-run.jar").display().to_string(),
        ];
        let server = Server::start(Launch {
            what: "registry",
            program,
            arguments: options.to_vec(),
            environment: vec![
                ("APICURIO_STORAGE_KIND", "sql".to_owned()),
                ("APICURIO_STORAGE_SQL_KIND", "h2".to_owned()),
                ("QUARKUS_OTEL_SDK_DISABLED", "true".to_owned()),
            ],
            directory: new_directory("registry")?,
            ready: Ready::Http(port, "/apis/ccompat/v7/subjects"),
        })?;
        Ok(Registry { url: format!("http://127.0.0.1:{port}{API}"), server: Some(server) })
    }

    pub(crate) fn running(url: String) -> Registry {
        Registry { url, server: None }
    }

    /// What `schema.registry.url` is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub fn pause(&mut self) {
        if let Some(server) = &mut self.server {
            server.pause();
        }
    }

    /// Ends a pause.
    pub fn resume(&mut self) {
        if let Some(server) = &mut self.server {
            server.resume();
        }
    }
}
