//! What each Rust file must keep to.

use crate::house::{File, expect_none, rust};

/// Lines of a file before its tests. The goal is 500; it is lowered to that as files are divided.
const LINES_MAX: usize = 560;

/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;

/// Sentences at the top of a crate.
const SENTENCES_MIN: usize = 5;

/// Calls that only some files may make, and who.
const CALLS: &[(&str, &[&str], &str)] = &[
    ("SystemTime::now", &["crates/pipeline/src/clock.rs"], "take the wall clock from pipeline::Clock"),
    ("env::var", &["crates/sluice/"], "take what you need as a parameter; the sluice crate reads the environment"),
    ("env::args", &["crates/sluice/"], "take what you need as a parameter"),
    ("rand::random", &["crates/sluice/"], "take an Rng or a seed as a parameter"),
    ("rand::rng()", &["crates/sluice/"], "take an Rng or a seed as a parameter"),
    ("process::exit", &["crates/sluice/"], "return an error"),
];

fn product() -> Vec<File> {
    rust().into_iter().filter(File::is_product).collect()
}

/// The doc lines at the top of a file, without their mark.
fn top(file: &File) -> Vec<&str> {
    let lines = file.text.lines().map_while(|line| line.strip_prefix("//!"));
    lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect()
}

#[test]
fn every_file_starts_with_what_it_is() {
    let wrong = rust().into_iter().filter(|file| !file.text.starts_with("//! "));
    expect_none(
        "a file does not start with a //! line:",
        "Say in its first line what it is about.",
        wrong.map(|file| file.path).collect(),
    );
}

#[test]
fn every_crate_starts_with_five_sentences_and_a_picture() {
    let mut broken = Vec::new();
    let is_top = |file: &File| {
        let parts: Vec<&str> = file.path.split('/').collect();
        matches!(parts.as_slice(), ["crates", "sluice", "src", "main.rs"] | ["crates", _, "src", "lib.rs"])
    };
    for file in rust().into_iter().filter(is_top) {
        let top = top(&file);
        let text: Vec<&str> = top.iter().take_while(|line| !line.starts_with("```")).copied().collect();
        let text = text.join(" ");
        let ends = text.char_indices().filter(|(at, sign)| ".?!".contains(*sign) && is_end(&text[*at + 1..]));
        let sentences = ends.count();
        if sentences < SENTENCES_MIN || !top.contains(&"```text") {
            broken.push(format!("{}: {sentences} sentences, picture: {}", file.path, top.contains(&"```text")));
        }
    }
    expect_none(
        "the top of a crate is not five sentences and a picture:",
        "Say what it does, what it promises and what it leaves to others; draw the way of its data in a ```text block.",
        broken,
    );
}

fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(' ')
}

#[test]
fn files_are_short() {
    let mut broken = Vec::new();
    for file in product() {
        let lines = file.lines_before_tests().count();
        if lines > LINES_MAX {
            broken.push(format!("{}: {lines} lines before its tests", file.path));
        }
    }
    expect_none(
        &format!("a file has more than {LINES_MAX} lines before its tests:"),
        "Divide it by subject, each part with its own first sentence.",
        broken,
    );
}

#[test]
fn functions_fit_a_screen() {
    let mut broken = Vec::new();
    for file in product() {
        let lines: Vec<&str> = file.lines_before_tests().map(|(_, line)| line).collect();
        for (from, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if !is_function(line.trim_start()) || line.trim_end().ends_with(['}', ';']) {
                continue;
            }
            let end = format!("{}}}", &line[..indent]);
            let length = lines[from..].iter().position(|line| *line == end).map_or(0, |length| length + 1);
            if length > FUNCTION_LINES_MAX {
                broken.push(format!("{}:{}: {length} lines: {}", file.path, from + 1, line.trim()));
            }
        }
    }
    expect_none(
        &format!("a function has more than {FUNCTION_LINES_MAX} lines:"),
        "Give a part of it a name of its own.",
        broken,
    );
}

fn is_function(line: &str) -> bool {
    let words = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    line.split(' ').find(|word| !words.contains(word)) == Some("fn")
}

#[test]
fn unsafe_is_in_the_source_crate_only() {
    let mut broken = Vec::new();
    for file in product().into_iter().filter(|file| !file.path.starts_with("crates/source/")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let code = line.split("//").next().unwrap_or_default();
            let is_word = |word: &str| word == "unsafe";
            if code.split(|sign: char| !sign.is_alphanumeric() && sign != '_').any(is_word) {
                broken.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    expect_none("unsafe outside crates/source:", "Only librdkafka's bindings need it.", broken);
}

#[test]
fn clocks_chance_and_environment_are_passed_in() {
    let mut broken = Vec::new();
    for file in product() {
        for (number, line) in file.lines_before_tests() {
            let code = line.split("//").next().unwrap_or_default();
            for (call, allowed, advice) in CALLS {
                if code.contains(call) && !allowed.iter().any(|prefix| file.path.starts_with(prefix)) {
                    broken.push(format!("{}:{number}: {call}: {advice}", file.path));
                }
            }
        }
    }
    expect_none("a simulated world would not be a whole world:", "Pass it in.", broken);
}

#[test]
fn every_select_is_biased() {
    let mut broken = Vec::new();
    for file in product() {
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("select! {")) {
            let mut inside = lines[at + 1..].iter().filter(|line| !line.starts_with("//"));
            if inside.next() != Some(&"biased;") {
                broken.push(format!("{}:{}: {line}", file.path, at + 1));
            }
        }
    }
    expect_none("a select! is not biased:", "Write `biased;` and why this order starves nobody.", broken);
}

#[test]
fn the_project_stands_on_its_own() {
    let workplace = concat!("/work/", "shared");
    let wrong = rust().into_iter().filter(|file| file.text.contains(workplace));
    expect_none("a file refers to a place outside:", "Say what you need here.", wrong.map(|file| file.path).collect());
}
