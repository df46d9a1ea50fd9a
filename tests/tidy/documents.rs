//! What documents and examples must keep to.

use std::path::Path;

use serde_json::Value;

use crate::house::{File, expect_none, files, root};

/// README.md and everything below docs/ and localstack/.
fn documents() -> Vec<File> {
    let text = std::fs::read_to_string(root().join("README.md")).expect("there is a README.md");
    let mut documents = files(&["docs", "localstack"], ".md");
    documents.push(File { path: "README.md".to_owned(), text });
    documents
}

/// Targets of `[text](target)` outside code blocks, with the number of their line.
fn links(text: &str) -> Vec<(usize, String)> {
    let (mut links, mut in_code) = (Vec::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for after in line.split("](").skip(1) {
            if let Some((target, _)) = after.split_once(')') {
                links.push((number, target.to_owned()));
            }
        }
    }
    links
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let directory = root().join(&document.path).parent().map(Path::to_owned).unwrap_or_default();
        for (number, link) in links(&document.text) {
            let file = link.split('#').next().unwrap_or_default();
            let is_elsewhere = link.contains("://") || link.starts_with("mailto:") || file.is_empty();
            if !is_elsewhere && !directory.join(file).exists() {
                broken.push(format!("{}:{number}: {link}", document.path));
            }
        }
    }
    expect_none("a link leads nowhere:", "Correct it, or remove what no longer holds.", broken);
}

#[test]
fn links_are_found() {
    let text = "[a](b.md) and [c](d#e)\n```\n[no](code)\n```\n[f](https://g)";
    let found: Vec<String> = links(text).into_iter().map(|(number, link)| format!("{number} {link}")).collect();
    assert_eq!(found, ["1 b.md", "1 d#e", "5 https://g"]);
}

#[test]
fn example_connectors_are_flat_maps_of_strings() {
    let mut broken = Vec::new();
    for file in files(&["connectors"], ".json") {
        let config = match serde_json::from_str::<Value>(&file.text) {
            Ok(document) => document.get("config").cloned().unwrap_or(document),
            Err(error) => {
                broken.push(format!("{}: {error}", file.path));
                continue;
            }
        };
        let Some(config) = config.as_object() else {
            broken.push(format!("{}: not an object", file.path));
            continue;
        };
        let wrong = config.iter().filter(|(_, value)| !value.is_string());
        broken.extend(wrong.map(|(key, value)| format!("{}: {key} is {value}, not a string", file.path)));
        if !config.contains_key("connector.class") {
            broken.push(format!("{}: no connector.class", file.path));
        }
    }
    expect_none("an example is no connector config:", "See connectors/my-model.json.", broken);
}
