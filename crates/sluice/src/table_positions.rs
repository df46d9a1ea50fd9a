//! What commands and REST do with the table of a connector that does not run: see and set where it goes on.

use delta::{Known, Positions, PositionsSet, Table, TableOptions};
use model::{Config, Invalid, Settings};
use supervisor::OffsetsError;
use writer::{Conditional, Environment, Layout, Probe, Store};

use crate::assemble::{House, is_table, seed};
use crate::spark_checkpoint::Checkpoint;
use crate::{delta_connector, recipe};

fn wrong(problem: Invalid) -> OffsetsError {
    OffsetsError(problem.to_string())
}

/// Why no table can be in `store`.
pub(crate) fn overwrites(store: &Store, probe: Probe) -> String {
    let (store, found) = (store.name(), probe.conditional.as_str());
    format!("a table needs a store that refuses to overwrite its commits; {store}: {found}")
}

impl House {
    /// The store of the table of connector `name`, which must refuse to overwrite, and how the table is written to; `None`
    /// for connectors that write to none.
    async fn table_place(&self, name: &str, config: &Config) -> Result<Option<(Store, TableOptions)>, OffsetsError> {
        let given = recipe::resolved(config, &self.environment).map_err(wrong)?;
        if !is_table(&given) {
            return Ok(None);
        }
        let settings = delta_connector::translated(&given).map_err(wrong)?;
        let store = self.store(&settings)?;
        let layout = Layout::new(&settings, ".parquet").map_err(wrong)?;
        let probe = store.probe(&layout.probe_key()).await.map_err(|error| OffsetsError(error.to_string()))?;
        if probe.conditional != Conditional::Honoured {
            return Err(OffsetsError(overwrites(&store, probe)));
        }
        let options = delta_connector::table_options(name, &given, self.surroundings(seed()));
        Ok(Some((store, options.map_err(wrong)?)))
    }

    fn store(&self, settings: &Settings) -> Result<Store, OffsetsError> {
        let environment = Environment::new(self.environment.clone()).with_seed(seed());
        Store::open(settings, &environment).map_err(|error| OffsetsError(error.to_string()))
    }

    /// What is known of the table of connector `name`; `None` for connectors that write to none.
    pub(crate) async fn table_known(&self, name: &str, config: &Config) -> Result<Option<Known>, OffsetsError> {
        let Some((store, options)) = self.table_place(name, config).await? else { return Ok(None) };
        let table = Table::open(store, options).await.map_err(|error| OffsetsError(error.to_string()))?;
        Ok(Some(table.known()))
    }

    /// Puts connector `name` where `decide` says in its table ([`delta::set_positions`]); `None` when there is none.
    pub(crate) async fn set_in_table(
        &self,
        name: &str,
        config: &Config,
        may_replace: bool,
        decide: impl Fn(&Known) -> Result<Positions, String>,
    ) -> Result<Option<PositionsSet>, OffsetsError> {
        let Some((store, options)) = self.table_place(name, config).await? else { return Ok(None) };
        let set = delta::set_positions(store, options, may_replace, decide).await;
        set.map_err(|error| OffsetsError(error.to_string()))
    }

    /// The Spark checkpoint in the directory `path`.
    pub(crate) async fn spark_checkpoint(&self, config: &Config, path: &str) -> Result<Checkpoint, OffsetsError> {
        let given = recipe::resolved(config, &self.environment).map_err(wrong)?;
        let (settings, location) = delta_connector::store_of(&given, path).map_err(wrong)?;
        let checkpoint = Checkpoint::read(&self.store(&settings)?, &location).await;
        checkpoint.map_err(|why| OffsetsError(format!("could not read the checkpoint {path}: {why}")))
    }
}
