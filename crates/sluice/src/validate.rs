//! `sluice validate`: every problem of connector configurations.

use std::path::PathBuf;

use supervisor::Assembly;

use crate::assemble::{CONNECTORS, House};
use crate::cli::WorkerOptions;
use crate::connector_file;
use crate::failure::Failure;
use crate::run::environment;
use crate::worker::Worker;

/// Prints the problems and warnings of each file, and what it guarantees if there is none; fails if there is any problem.
#[expect(clippy::print_stdout, reason = "the answer of the command")]
pub(crate) fn run(files: &[PathBuf], options: &WorkerOptions) -> Result<(), Failure> {
    let environment = environment();
    let house = House::new(Worker::read(options, &environment)?, environment);
    let mut invalid = 0;
    for path in files {
        let read = connector_file::read(path);
        let (errors, warnings) = match &read {
            Ok((_, config)) => problems(&house, config),
            // The path stands before each line already.
            Err(Failure::Connector { why, .. }) => (vec![why.clone()], Vec::new()),
            Err(failure) => (vec![failure.to_string()], Vec::new()),
        };
        for error in &errors {
            println!("{}: error: {error}", path.display());
        }
        for warning in &warnings {
            println!("{}: warning: {warning}", path.display());
        }
        match &read {
            Ok((name, config)) if errors.is_empty() => {
                println!("{}: valid", path.display());
                println!("{}: {}", path.display(), guarantee(&house, name, config)?);
            }
            Ok(_) | Err(_) => invalid += 1,
        }
    }
    match invalid {
        0 => Ok(()),
        _ => Err(Failure::Invalid(format!("{invalid} of {} configurations are invalid", files.len()))),
    }
}

/// What a valid configuration guarantees, as far as can be told without its store.
fn guarantee(house: &House, name: &str, config: &model::Config) -> Result<String, Failure> {
    let settings = crate::recipe::resolved(config, &house.environment);
    let line = settings.and_then(|settings| house.guarantee(name, &settings, None));
    line.map_err(|problem| Failure::Invalid(problem.to_string()))
}

/// Errors and warnings of a configuration, each once: `topics` and `topics.regex` are blamed in the same words.
pub(crate) fn problems(house: &House, config: &model::Config) -> (Vec<String>, Vec<String>) {
    let class = config.get("connector.class").map_or("", |class| class.trim());
    if class.is_empty() {
        return (vec!["connector.class is missing: it names what to run, for example s3".to_owned()], Vec::new());
    }
    if house.connector(class).is_none() {
        let known: Vec<&str> = CONNECTORS.iter().flat_map(|connector| connector.names).copied().collect();
        return (
            vec![format!("connector.class {class} is unknown, expected one of: {}", known.join(", "))],
            Vec::new(),
        );
    }
    let validation = house.validate(config);
    let mut errors: Vec<String> = Vec::new();
    for error in validation.errors() {
        if !errors.iter().any(|known| known == error) {
            errors.push(error.to_owned());
        }
    }
    (errors, validation.warnings.clone())
}
