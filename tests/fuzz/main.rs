//! The fuzz ring: whatever bytes come, each converter and each reader of configuration gives a value or an error.
//!
//! As a test binary it runs every target on its seeds: `seeds/<target>/`, one file an input. An input that once did harm
//! stays there. With the feature `coverage` and the flags of `rustc.sh`, which work with a stable compiler, the same
//! targets are driven by libFuzzer, which looks for inputs that reach new code: `tests/fuzz/run [SECONDS] [TARGET...]`.
#![cfg_attr(feature = "coverage", no_main)]

mod connectors;
mod converters;
mod pieces;
mod registered;
mod schemas;

// The program has no library; its reader of connector files needs no more than the type of its errors.
#[expect(dead_code, reason = "only texts are read here, no files")]
#[path = "../../crates/sluice/src/connector_file.rs"]
mod connector_file;
#[expect(dead_code, reason = "only files fail here, no commands")]
#[path = "../../crates/sluice/src/failure.rs"]
mod failure;

/// What is fuzzed.
#[derive(Clone, Copy)]
struct Target {
    /// Also the name of the directory with its seeds.
    name: &'static str,
    /// Panics, or takes too much time or memory, if there is a defect.
    run: fn(&[u8]),
}

const TARGETS: &[Target] = &[
    Target { name: "json", run: converters::json },
    Target { name: "json_envelope", run: converters::json_envelope },
    Target { name: "string_bytes_numbers", run: converters::string_bytes_numbers },
    Target { name: "simple_header", run: converters::simple_header },
    Target { name: "avro", run: registered::avro },
    Target { name: "protobuf", run: registered::protobuf },
    Target { name: "json_schema", run: registered::json_schema },
    Target { name: "avro_with_its_schema", run: registered::avro_with_its_schema },
    Target { name: "protobuf_with_its_schema", run: registered::protobuf_with_its_schema },
    Target { name: "json_schema_with_its_schema", run: registered::json_schema_with_its_schema },
    Target { name: "given_schema", run: schemas::given },
    Target { name: "connector_file", run: connectors::file },
    Target { name: "connector_keys", run: connectors::keys },
    Target { name: "transforms", run: connectors::transforms },
    Target { name: "date_patterns", run: connectors::date_patterns },
    Target { name: "paths", run: connectors::paths },
];

#[cfg(feature = "coverage")]
mod driven {
    use std::sync::OnceLock;

    use super::{TARGETS, Target};

    static CHOSEN: OnceLock<Target> = OnceLock::new();

    fn choose() {
        let name: String = tests::setting("FUZZ_TARGET", String::new());
        let found = TARGETS.iter().find(|target| target.name == name);
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        let _ = CHOSEN.set(*found.unwrap_or_else(|| panic!("FUZZ_TARGET={name}, expected one of {known:?}")));
    }

    libfuzzer_sys::fuzz_target!(init: choose(), |data: &[u8]| {
        (CHOSEN.get().expect("chosen at the start").run)(data);
    });
}

/// Runs all seeds of each target.
#[cfg(not(feature = "coverage"))]
fn main() -> std::process::ExitCode {
    use std::panic::catch_unwind;
    use std::path::Path;

    use libtest_mimic::{Arguments, Failed, Trial};

    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let trial = |target: &Target| {
        let (run, directory) = (target.run, seeds.join(target.name));
        Trial::test(target.name, move || {
            let mut count = 0;
            for entry in std::fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))? {
                let path = entry?.path();
                let seed = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                catch_unwind(|| run(&seed)).map_err(|_| format!("{} panics, see above", path.display()))?;
                count += 1;
            }
            if count == 0 { Err(Failed::from(format!("{} has no seed", directory.display()))) } else { Ok(()) }
        })
    };
    libtest_mimic::run(&Arguments::from_args(), TARGETS.iter().map(trial).collect()).exit_code()
}
