//! The files of the repository, and how a broken rule is reported.

use std::fs;
use std::path::{Path, PathBuf};

/// A file: its path from the root of the repository, and its text.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// Lines before the tests at the end of the file, with their numbers.
    pub(crate) fn lines_before_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let product = self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        (1..).zip(product.lines())
    }

    /// Whether it is part of a program or library, not of tests or benches.
    pub(crate) fn is_product(&self) -> bool {
        self.path.starts_with("crates/") && self.path.contains("/src/")
    }
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_owned()
}

/// All files below `directories` whose names end in `extension`, by path.
pub(crate) fn files(directories: &[&str], extension: &str) -> Vec<File> {
    let mut found = Vec::new();
    for directory in directories {
        collect(&root().join(directory), extension, &mut found);
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(!found.is_empty(), "no {extension} file in {directories:?}: does this test look in the right place?");
    found
}

fn collect(directory: &Path, extension: &str, found: &mut Vec<File>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.expect("the directory can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, extension, found);
        } else if name.ends_with(extension) && path.is_file() {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let path = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            found.push(File { path, text });
        }
    }
}

/// Every Rust file.
pub(crate) fn rust() -> Vec<File> {
    files(&["crates", "tests"], ".rs")
}

/// Fails with all of `broken`, if there is anything, and with what to do about it.
pub(crate) fn expect_none(rule: &str, advice: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{rule}\n  {}\n{advice}\n", broken.join("\n  "));
}
