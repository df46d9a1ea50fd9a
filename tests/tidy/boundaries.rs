//! Who may depend on whom: section 1 of docs/architecture.md.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

use crate::house::{expect_none, files, root};

/// Each crate and the crates of ours that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("source", &["model"]),
    ("schema", &["model"]),
    ("transform", &["model"]),
    ("writer", &["model"]),
    ("delta", &["model", "writer", "schema"]),
    ("pipeline", &["model", "source", "schema", "transform", "writer"]),
    ("supervisor", &["model", "pipeline"]),
    ("api", &["model", "supervisor"]),
];

/// Libraries that only some crates know.
const KNOWN_ONLY_TO: &[(&str, &[&str])] = &[
    ("rdkafka", &["source"]),
    ("apache-avro", &["schema", "writer"]),
    ("schema_registry_converter", &["schema"]),
    ("simd-json", &["schema"]),
    ("parquet", &["writer"]),
    ("object_store", &["writer", "delta"]),
    ("deltalake", &["delta"]),
    ("deltalake-core", &["delta"]),
    ("buoyant_kernel", &["delta"]),
    ("axum", &["api"]),
    ("clap", &["sluice"]),
    ("figment", &["sluice"]),
    ("tracing-subscriber", &["sluice"]),
];

/// What has no place in the nouns.
const NOT_IN_MODEL: &[&str] = &["tokio", "futures", "async-trait", "object_store", "rdkafka", "rand"];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &["common", "util", "utils", "helper", "helpers", "misc", "manager", "shared"];

/// The packages of the workspace.
fn packages() -> Vec<Package> {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).no_deps().other_options(vec!["--offline".to_owned()]);
    command.exec().expect("cargo metadata works").packages
}

/// The crates of the program, `tests` left out.
fn crates() -> Vec<Package> {
    packages().into_iter().filter(|package| package.name.as_str() != "tests").collect()
}

/// What the library or program itself depends on; tests and benches may use more.
fn uses(package: &Package) -> BTreeSet<&str> {
    let kinds = [DependencyKind::Normal, DependencyKind::Build];
    let dependencies = package.dependencies.iter().filter(|dependency| kinds.contains(&dependency.kind));
    dependencies.map(|dependency| dependency.name.as_str()).collect()
}

#[test]
fn crates_use_only_the_crates_below_them() {
    let crates = crates();
    let ours: BTreeSet<&str> = crates.iter().map(|package| package.name.as_str()).collect();
    let mut broken = Vec::new();
    for package in crates.iter().filter(|package| package.name.as_str() != "sluice") {
        let name = package.name.as_str();
        let Some((_, may_use)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            broken.push(format!("{name} is not in the table of tests/tidy/boundaries.rs"));
            continue;
        };
        let wrong = uses(package).into_iter().filter(|used| ours.contains(used) && !may_use.contains(used));
        broken.extend(wrong.map(|used| format!("{name} depends on {used}")));
    }
    expect_none(
        "a crate uses one that it must not know:",
        "Let crates/sluice/src/assemble.rs bring them together, or move the boundary: docs/architecture.md, \
         docs/decisions/ and the table in tests/tidy/boundaries.rs in the same change.",
        broken,
    );
}

#[test]
fn each_library_is_known_only_where_it_belongs() {
    let mut broken = Vec::new();
    for package in &crates() {
        for (library, knowing) in KNOWN_ONLY_TO {
            if uses(package).contains(library) && !knowing.contains(&package.name.as_str()) {
                broken.push(format!("{} depends on {library}, which is for {knowing:?}", package.name));
            }
        }
    }
    expect_none("a library is used outside its crate:", "Ask the crate that knows it for what is missing.", broken);
}

#[test]
fn the_nouns_do_no_io() {
    let crates = crates();
    let model = crates.iter().find(|package| package.name.as_str() == "model").expect("there is a model");
    let wrong = uses(model).into_iter().filter(|used| NOT_IN_MODEL.contains(used));
    expect_none(
        "model depends on what does I/O, waits, or draws:",
        "Put that into the crate that acts on the noun.",
        wrong.map(str::to_owned).collect(),
    );
}

#[test]
fn versions_stand_in_the_workspace_manifest_only() {
    let mut broken = Vec::new();
    for manifest in files(&["crates", "tests"], "Cargo.toml") {
        let mut in_dependencies = false;
        for (number, line) in (1..).zip(manifest.text.lines()) {
            let line = line.trim();
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
                if line.contains("dependencies.") {
                    broken.push(format!("{}:{number}: {line}", manifest.path));
                }
            } else if in_dependencies && !line.is_empty() && !line.starts_with('#') && !is_inherited(line) {
                broken.push(format!("{}:{number}: {line}", manifest.path));
            }
        }
    }
    expect_none(
        "a dependency is not inherited from the workspace:",
        "Write `name.workspace = true` (or `name = { workspace = true, features = [..] }`) and its version into the \
         [workspace.dependencies] of Cargo.toml.",
        broken,
    );
}

fn is_inherited(line: &str) -> bool {
    line.split_once('=').is_some_and(|(name, value)| {
        let is_short = name.trim().ends_with(".workspace") && value.trim() == "true";
        is_short || (value.contains("workspace = true") && !value.contains("version"))
    })
}

#[test]
fn nothing_is_called_by_a_name_that_says_nothing() {
    let mut broken: Vec<String> = packages()
        .iter()
        .filter(|package| EMPTY_NAMES.contains(&package.name.as_str()))
        .map(|package| format!("package {}", package.name))
        .collect();
    for file in crate::house::rust() {
        let parts = file.path.trim_end_matches(".rs").split('/');
        if parts.into_iter().any(|part| EMPTY_NAMES.contains(&part)) {
            broken.push(file.path);
        }
    }
    expect_none("a name says nothing:", "Name it after what it is or does.", broken);
}
