//! `sluice plugins` and docs/reference: both are printed from the key tables.

use std::fmt::Write;
use std::path::Path;

use model::{Check, DefaultValue, Effect, Key, Kind, Origin, find};
use schema::{CONVERTERS, HEADER_CONVERTERS};
use writer::{EXTRACTORS, FORMATS, PARTITIONERS};

use crate::assemble::{CONNECTORS, connector_keys};
use crate::failure::Failure;
use crate::table;

/// One plug-in as documents show it.
struct Page {
    kind: &'static str,
    names: &'static [&'static str],
    doc: &'static str,
    keys: Vec<&'static Key>,
}

fn pages() -> Vec<Page> {
    let page = |kind, names, doc, keys| Page { kind, names, doc, keys };
    let connectors = CONNECTORS.iter().map(|one| page("connector", one.names, one.doc, connector_keys(one)));
    let converters = CONVERTERS.iter().map(|one| page("converter", one.names, one.doc, one.keys().collect()));
    // The others are those of values too.
    let of_headers = HEADER_CONVERTERS.iter().filter(|one| find(CONVERTERS, "converter", one.names[0]).is_err());
    let of_headers = of_headers.map(|one| page("header converter", one.names, one.doc, one.keys().collect()));
    let formats = FORMATS.iter().map(|one| page("format", one.names, one.doc, one.keys().collect()));
    let partitioners = PARTITIONERS.iter().map(|one| page("partitioner", one.names, one.doc, one.keys().collect()));
    let extractors = EXTRACTORS.iter().map(|one| page("timestamp extractor", one.names, one.doc, one.keys().collect()));
    connectors.chain(converters).chain(of_headers).chain(formats).chain(partitioners).chain(extractors).collect()
}

/// Prints all plug-ins, or the keys of one.
#[expect(clippy::print_stdout, reason = "the answer of the command")]
pub(crate) fn plugins(name: Option<&str>) -> Result<(), Failure> {
    let pages = pages();
    let Some(name) = name else {
        let heading = ["kind", "name", "also", "what"].map(str::to_owned).to_vec();
        let row = |page: &Page| {
            vec![page.kind.to_owned(), page.names[0].to_owned(), page.names[1..].join(", "), page.doc.to_owned()]
        };
        let rows: Vec<_> = std::iter::once(heading).chain(pages.iter().map(row)).collect();
        println!("{}", table::aligned(&rows));
        return Ok(());
    };
    let page = pages
        .iter()
        .find(|page| page.names.iter().any(|known| *known == name || known.rsplit('.').next() == Some(name)));
    let page =
        page.ok_or_else(|| Failure::Invalid(format!("unknown plug-in {name}; sluice plugins lists what there is")))?;
    println!("{} {}: {}\n", page.kind, page.names.join(", "), page.doc);
    for key in &page.keys {
        println!(
            "{}  ({}, {})\n    {}{}",
            key.name,
            key.kind.as_str().to_lowercase(),
            default(key),
            key.doc,
            effect(key)
        );
    }
    Ok(())
}

fn default(key: &Key) -> String {
    match key.default {
        DefaultValue::Required => "required".to_owned(),
        DefaultValue::Null => "no default".to_owned(),
        DefaultValue::Text(_) if key.kind == Kind::Password => "no default".to_owned(),
        DefaultValue::Text("") => "default empty".to_owned(),
        DefaultValue::Text(text) => format!("default `{text}`"),
    }
}

fn values(key: &Key) -> String {
    match key.check {
        Check::Any | Check::With(_) => String::new(),
        Check::NotEmpty => "not empty".to_owned(),
        Check::OneOf(known) | Check::OneOfIgnoringCase(known) => {
            known.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", ")
        }
        Check::AtLeast(least) => format!("{least} and up"),
        Check::Between(least, most) => format!("{least} to {most}"),
    }
}

fn effect(key: &Key) -> String {
    match key.effect {
        Effect::Works => String::new(),
        Effect::NotYet(missing) => format!(" **No effect yet: {missing}.**"),
        Effect::Ignored(why) => format!(" *Accepted, and ignored: {why}.*"),
    }
}

/// The generated pages: file name and text.
pub(crate) fn reference() -> Vec<(&'static str, String)> {
    let mut connectors = page_start("Connector keys", "Every key of a connector configuration, by plug-in.");
    for page in pages() {
        let _ = write!(connectors, "\n## {}: {}\n\n{}", page.kind, page.names[0], page.doc);
        let also: Vec<String> = page.names[1..].iter().map(|name| format!("`{name}`")).collect();
        if !also.is_empty() {
            let _ = write!(connectors, " Also called {}.", also.join(", "));
        }
        connectors.push('\n');
        key_table(&mut connectors, page.keys.iter().copied());
    }
    let mut worker = page_start(
        "Worker keys",
        "Set in the file of `--worker` (TOML, YAML or .properties), as `SLUICE_FOO_BAR` or `CONNECT_FOO_BAR` for `foo.bar` in \
         the environment, or by `--set key=value`; the last of these wins.",
    );
    key_table(&mut worker, crate::worker::KEYS.iter());
    vec![("connectors.md", connectors), ("worker.md", worker)]
}

fn page_start(title: &str, text: &str) -> String {
    format!(
        "# {title}\n\n<!-- Written by `sluice docs`; a test compares it with the key tables. Do not edit. -->\n\n{text}\n"
    )
}

fn key_table<'a>(text: &mut String, keys: impl Iterator<Item = &'a Key>) {
    let keys: Vec<&Key> = keys.collect();
    if keys.is_empty() {
        return;
    }
    text.push_str("\n| key | type | default | values | what it does |\n|---|---|---|---|---|\n");
    for key in keys {
        let ours = if key.origin == Origin::Sluice { " (sluice)" } else { "" };
        // `<name>` would be taken for HTML.
        let cell = |text: String| text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ");
        let _ = writeln!(
            text,
            "| `{}`{ours} | {} | {} | {} | {}{} |",
            key.name,
            key.kind.as_str().to_lowercase(),
            cell(default(key)),
            cell(values(key)),
            cell(key.doc.to_owned()),
            effect(key)
        );
    }
}

/// Writes the generated pages into `directory`.
pub(crate) fn write(directory: &Path) -> Result<(), Failure> {
    for (name, text) in reference() {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|source| Failure::Write { path, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_docs_is_what_the_key_tables_say() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
        for (name, text) in reference() {
            let written = std::fs::read_to_string(directory.join(name)).unwrap_or_default();
            assert!(written == text, "docs/reference/{name} is stale: run `cargo run -- docs docs/reference`");
        }
    }
}
