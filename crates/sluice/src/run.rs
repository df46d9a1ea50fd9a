//! `sluice run` and `sluice worker`: connectors from files and REST, until a signal comes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::ApiState;
use prometheus_client::registry::Registry;
use supervisor::{Options, StateStore, Supervisor};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::assemble::{House, seed};
use crate::cli::WorkerOptions;
use crate::connector_file;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::validate;
use crate::worker::{BOOTSTRAP_SERVERS, Worker};

/// Commit this binary was built from, if the build said so.
const COMMIT: Option<&str> = option_env!("SLUICE_COMMIT");

/// The environment, read once.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn environment() -> BTreeMap<String, String> {
    std::env::vars().collect()
}

/// A runtime with a thread a core.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Run(format!("could not start threads: {error}")))
}

/// Runs until a signal, or until the connectors of `files` and all others are at their end; those of `files` win over stored
/// ones of the same name.
pub(crate) fn run(files: &[PathBuf], options: &WorkerOptions) -> Result<(), Failure> {
    let environment = environment();
    let worker = Worker::read(options, &environment)?;
    for warning in &worker.warnings {
        warn!("{warning}");
    }
    let given = files.iter().map(|path| connector_file::read(path)).collect::<Result<Vec<_>, _>>()?;
    runtime()?.block_on(serve(worker, environment, given))
}

async fn serve(
    worker: Worker,
    environment: BTreeMap<String, String>,
    given: Vec<(String, model::Config)>,
) -> Result<(), Failure> {
    let signals = Signals::listen().map_err(|error| Failure::Run(format!("could not wait for signals: {error}")))?;
    let listener = TcpListener::bind(&worker.listen)
        .await
        .map_err(|source| Failure::Listen { address: worker.listen.clone(), source })?;
    let state = StateStore::open(&worker.state_dir).map_err(|error| Failure::Run(error.to_string()))?;
    let address = listener.local_addr().map_err(|error| Failure::Run(error.to_string()))?;
    let (advertised, graceful_timeout) = (worker.advertised_at(address.port()), worker.graceful_timeout);
    let cluster_id = cluster_id(&worker);
    let house = Arc::new(House::new(worker, environment));
    for (name, config) in &given {
        let (errors, _) = validate::problems(&house, config);
        if !errors.is_empty() {
            return Err(Failure::Invalid(format!("connector {name}: {}", errors.join("; "))));
        }
    }
    // A worker waits for connectors that come over REST.
    let ends = !given.is_empty();
    let mut registry = Registry::default();
    house.metrics.register(&mut registry);
    house.table_metrics.register(&mut registry);
    let options = Options { graceful_timeout, seed: seed(), ..Options::new(advertised) };
    options.metrics.register(&mut registry);
    let supervisor =
        Supervisor::start(house, state, options, given).await.map_err(|error| Failure::Invalid(error.to_string()))?;
    let (stop, stopped) = oneshot::channel::<()>();
    let state = ApiState {
        supervisor: supervisor.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: COMMIT.unwrap_or("unknown").to_owned(),
        cluster_id: Arc::new(move || cluster_id.get().cloned()),
        metrics: Arc::new(move || {
            let mut text = String::new();
            let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
            text
        }),
    };
    let server = tokio::spawn(api::serve(listener, state, async move {
        let _ = stopped.await;
    }));
    info!(%address, "REST listens");
    let ended = tokio::select! {
        biased;
        () = signals.first() => Ok(()),
        ended = supervisor.ended(), if ends => ended.map_err(Failure::Run),
    };
    supervisor.shutdown(graceful_timeout + Duration::from_secs(1)).await;
    let _ = stop.send(());
    match server.await {
        Ok(Ok(())) => ended,
        Ok(Err(error)) => Err(Failure::Run(format!("REST failed: {error}"))),
        Err(error) => Err(Failure::Run(format!("REST failed: {error}"))),
    }
}

/// Asks the brokers for the cluster's id in the background, until they answer.
fn cluster_id(worker: &Worker) -> Arc<OnceLock<String>> {
    let known = Arc::new(OnceLock::new());
    let (found, settings) = (known.clone(), worker.settings.clone());
    let servers = settings.text(&BOOTSTRAP_SERVERS).unwrap_or_default().to_owned();
    std::thread::spawn(move || {
        let mut properties = vec![("bootstrap.servers".to_owned(), servers)];
        for prefix in ["security.", "sasl.", "ssl."] {
            properties
                .extend(settings.with_prefix(prefix).map(|(key, value)| (format!("{prefix}{key}"), value.to_owned())));
        }
        let pairs = properties.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let Ok(translated) = source::properties::translate("", pairs) else { return };
        if let Some(id) = source::cluster_id(&translated.properties, Duration::from_secs(600)) {
            let _ = found.set(id);
        }
    });
    known
}
