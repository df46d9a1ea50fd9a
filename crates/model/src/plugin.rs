//! A plug-in: something a configuration can name, with the keys it reads and the function that builds it.

use crate::{Invalid, Key, Settings};

/// One line of a visible static table. `B` is the build function of the table's kind (partitioner, format, ...).
#[derive(Debug)]
pub struct Plugin<B: 'static> {
    /// Our short name first, then the Java class names that users have.
    pub names: &'static [&'static str],
    /// One sentence for `sluice plugins` and docs/reference.
    pub doc: &'static str,
    /// The keys it reads, each declared once.
    pub keys: &'static [&'static [Key]],
    /// What one key alone cannot tell: combinations, patterns, names of zones. Reported with the key to blame.
    pub check: fn(&Settings) -> Vec<Invalid>,
    /// Builds it.
    pub build: B,
}

impl<B> Plugin<B> {
    /// Our short name.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// The keys it reads.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<B> {
        self.keys.iter().copied().flatten()
    }

    /// Whether a configuration means this plug-in by `name`: our name, a full Java class name, its simple name, or
    /// (as Kafka Connect allows for connectors) the simple name without `suffix`.
    fn is_named(&self, name: &str, suffix: &str) -> bool {
        self.names.iter().any(|known| {
            let simple = known.rsplit('.').next().unwrap_or(known);
            *known == name || simple == name || (!suffix.is_empty() && simple.strip_suffix(suffix) == Some(name))
        })
    }
}

/// No plug-in of the table has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {name}, expected one of: {}", known.join(", "))]
pub struct UnknownPlugin {
    /// What was looked for: `format`, `partitioner`, ...
    pub kind: &'static str,
    /// The name that was given.
    pub name: String,
    /// Our names for what there is.
    pub known: Vec<&'static str>,
}

/// The plug-in of `table` that a configuration calls `name`.
pub fn find<B>(
    table: &'static [Plugin<B>],
    kind: &'static str,
    name: &str,
) -> Result<&'static Plugin<B>, UnknownPlugin> {
    named(table, name, "").ok_or_else(|| UnknownPlugin {
        kind,
        name: name.to_owned(),
        known: table.iter().map(Plugin::name).collect(),
    })
}

/// As [`find`], also by simple class names without `suffix` (`S3Sink` for `S3SinkConnector`).
pub fn named<B>(table: &'static [Plugin<B>], name: &str, suffix: &str) -> Option<&'static Plugin<B>> {
    table.iter().find(|plugin| plugin.is_named(name, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: &[Plugin<u8>] = &[
        Plugin { names: &["json", "org.x.JsonFormat"], doc: "", keys: &[], check: |_| Vec::new(), build: 1 },
        Plugin { names: &["s3", "io.x.S3SinkConnector"], doc: "", keys: &[], check: |_| Vec::new(), build: 2 },
    ];

    #[test]
    fn a_plugin_is_found_by_our_name_class_name_and_simple_name() {
        for name in ["json", "org.x.JsonFormat", "JsonFormat"] {
            assert_eq!(find(TABLE, "format", name).map(|plugin| plugin.build), Ok(1), "{name}");
        }
        assert_eq!(named(TABLE, "S3Sink", "Connector").map(|plugin| plugin.build), Some(2));
        let error = find(TABLE, "format", "S3Sink").unwrap_err();
        assert_eq!(error.to_string(), "unknown format S3Sink, expected one of: json, s3");
    }
}
