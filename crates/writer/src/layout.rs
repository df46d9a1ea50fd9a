//! Names of objects: where the files of a topic lie, and what the offset in a name means.

use model::{Check, Importance, Invalid, Key, Kind, Offset, Settings, TopicPartition, Width};

use crate::partition::{directories, may_route, topic_and_path};
use crate::views::{View, Views};

/// First part of every key.
pub const TOPICS_DIR: Key = Key::new(
    "topics.dir",
    Kind::String,
    "Directory below which the topics' directories lie; blank for none. Slashes at its ends are left out.",
)
.default("topics")
.check(Check::With(check_addressable))
.importance(Importance::High)
.group("Storage", 2)
.shown(Width::None, "Topics directory");

/// What stands between directories.
pub const DIRECTORY_DELIM: Key = Key::new(
    "directory.delim",
    Kind::String,
    "What stands between the directories of a key, also in the paths of the field, hourly and daily partitioners.",
)
.default("/")
.check(Check::With(check_delimiter))
.importance(Importance::Medium)
.group("Storage", 4)
.shown(Width::Long, "Directory Delimiter");

/// What stands between the parts of a file name.
pub const FILE_DELIM: Key =
    Key::new("file.delim", Kind::String, "What stands between topic, partition and offset in the name of an object.")
        .default("+")
        .check(Check::With(check_delimiter))
        .importance(Importance::Medium)
        .group("Storage", 5)
        .shown(Width::Long, "File Delimiter");

/// Digits of the offset in a file name.
pub const FILENAME_OFFSET_ZERO_PAD_WIDTH: Key = Key::new(
    "filename.offset.zero.pad.width",
    Kind::Int,
    "Digits that the offset in the name of an object has at least, filled up with zeros; 0 for no zeros.",
)
.default("10")
.check(Check::Between(0, 1000))
.group("Connector", 10)
.shown(Width::Long, "Filename Offset Zero Pad Width");

/// The keys that are declared here.
pub const KEYS: &[Key] = &[TOPICS_DIR, DIRECTORY_DELIM, FILE_DELIM, FILENAME_OFFSET_ZERO_PAD_WIDTH];

/// `text` without what clients of object stores cannot address: slashes at its ends and behind one another.
pub(crate) fn without_empty_segments(text: &str) -> String {
    let segments: Vec<_> = text.split('/').filter(|segment| !segment.is_empty()).collect();
    segments.join("/")
}

fn check_addressable(text: &str) -> Result<(), String> {
    if text.chars().any(|c| c.is_ascii_control()) || text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err("it must hold no control character and no directory . or ..".to_owned());
    }
    Ok(())
}

/// A delimiter stands between other texts, so only what lies between two slashes of its own is a directory.
fn check_delimiter(text: &str) -> Result<(), String> {
    let bad =
        text.chars().any(|c| c.is_ascii_control()) || ["//", "/./", "/../"].iter().any(|part| text.contains(part));
    if bad {
        Err("it must hold no control character and no directory that is empty, . or ..".to_owned())
    } else {
        Ok(())
    }
}

/// Makes the keys of a connector's objects:
/// `[topics.dir D] topic D path D topic F partition F offset extension` with the two delimiters D and F.
///
/// Rows that a transform (`RegexRouter`, `TimestampRouter`, `ExtractTopic`) has routed to another topic lie below that
/// topic's directory, and the name says both, because two topics that are routed to one would otherwise take each other's names:
/// `[topics.dir D] routed D path D routed F topic F partition F offset extension`. This is the one name that differs from
/// upstream's, which loses rows there. To find the objects of a topic again, all of `topics.dir` is listed then.
///
/// Files of keys and headers ([`Views`]) have the name of their file of values, with `.keys` or `.headers` before their own
/// extension.
#[derive(Debug, Clone)]
pub struct Layout {
    prefix: String,
    directory_delim: String,
    file_delim: String,
    offset_width: usize,
    /// How names end: of values first, then of the other views.
    endings: Vec<(View, String)>,
    /// Objects of a topic may lie in any directory.
    may_route: bool,
}

impl Layout {
    /// The layout of files that end in `extension` (`.snappy.parquet`).
    pub fn new(settings: &Settings, extension: &str) -> Result<Layout, Invalid> {
        let directory_delim = settings.required_string(&DIRECTORY_DELIM)?;
        let topics_dir = without_empty_segments(&settings.required_string(&TOPICS_DIR)?);
        Ok(Layout {
            prefix: if topics_dir.is_empty() { topics_dir } else { topics_dir + &directory_delim },
            directory_delim,
            file_delim: settings.required_string(&FILE_DELIM)?,
            offset_width: settings.size(&FILENAME_OFFSET_ZERO_PAD_WIDTH)?,
            endings: vec![(View::Values, extension.to_owned())],
            may_route: may_route(settings),
        })
    }

    /// The layout of files of values and of these views.
    pub fn with_views(mut self, views: &Views) -> Layout {
        self.endings.truncate(1);
        self.endings.extend(views.endings());
        self
    }

    /// The key of the object of values whose first row is the record at `first`; `path` is what the partitioner says of its
    /// rows.
    pub fn object_key(&self, topic_partition: &TopicPartition, path: &str, first: Offset) -> String {
        self.view_key(View::Values, topic_partition, path, first)
    }

    /// As [`Self::object_key`] for the object of `view`, which is one of the layout's.
    pub fn view_key(&self, view: View, topic_partition: &TopicPartition, path: &str, first: Offset) -> String {
        let ending = self.endings.iter().find(|(known, _)| *known == view);
        let (_, ending) = ending.expect("files are opened for the views of their layout");
        let (routed, path) = topic_and_path(path);
        let path = directories(path);
        let directory = self.topic_directory(routed.unwrap_or(&topic_partition.topic));
        let name = self.file_name(topic_partition, first, ending);
        match routed {
            Some(routed) => format!("{directory}{0}{path}{0}{routed}{1}{name}", self.directory_delim, self.file_delim),
            None => format!("{directory}{0}{path}{0}{name}", self.directory_delim),
        }
    }

    /// The directory of `topic`, without a delimiter at its end.
    pub fn topic_directory(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    /// What the names of all objects of `topic` begin with.
    pub fn topic_prefix(&self, topic: &str) -> String {
        format!("{}{}", self.topic_directory(topic), self.directory_delim)
    }

    /// The object that [`crate::Store::probe`] writes: in a directory of `topics.dir` that readers of tables leave out.
    pub fn probe_key(&self) -> String {
        let prefix = self.prefix.strip_suffix(&self.directory_delim).unwrap_or(&self.prefix);
        if prefix.is_empty() { "_sluice/probe".to_owned() } else { format!("{prefix}/_sluice/probe") }
    }

    /// Whose rows the object `key` holds, and the offset of the first of them; `None` if no object of this layout has this
    /// name. The inverse of [`Self::view_key`], for every path, where the delimiters leave no doubt (not with an empty
    /// `file.delim`).
    pub fn parse(&self, key: &str) -> Option<(TopicPartition, Offset)> {
        self.endings.iter().find_map(|(_, ending)| {
            let name = self.name(key, ending)?;
            let topic_partition = self.parse_plain(&name).or_else(|| self.parse_routed(&name, None))?;
            Some((topic_partition, name.first))
        })
    }

    /// As [`Self::parse`] for one topic: `None` if no object of it has this name. Tells also what view of the rows it is.
    pub(crate) fn parse_of(&self, topic: &str, key: &str) -> Option<(TopicPartition, Offset, View)> {
        if !self.may_route && !key.strip_prefix(&self.prefix)?.starts_with(topic) {
            return None;
        }
        self.endings.iter().find_map(|(view, ending)| {
            let name = self.name(key, ending)?;
            let plain = TopicPartition::new(topic, name.partition);
            let topic_partition = match self.fits(&name, &plain) {
                true => plain,
                false => self.parse_routed(&name, Some(topic))?,
            };
            Some((topic_partition, name.first, *view))
        })
    }

    fn parse_plain(&self, name: &Name<'_>) -> Option<TopicPartition> {
        // The topic begins and ends the rest; with a delimiter that topics may hold themselves, try each place.
        name.directories_and_topics.match_indices(&self.directory_delim).find_map(|(at, _)| {
            let topic_partition = TopicPartition::new(&name.directories_and_topics[..at], name.partition);
            self.fits(name, &topic_partition).then_some(topic_partition)
        })
    }

    /// Reads the name of an object of routed rows; `topic` is whose it must be.
    fn parse_routed(&self, name: &Name<'_>, topic: Option<&str>) -> Option<TopicPartition> {
        if !self.may_route {
            return None;
        }
        // The routed topic begins the rest and ends it, but for the delimiter and the lane's topic.
        let rest = name.directories_and_topics;
        rest.match_indices(&self.directory_delim).find_map(|(at, delim)| {
            let routed = &rest[..at];
            let before_topic = format!("{delim}{routed}{}", self.file_delim);
            let (directories, found) = rest.rsplit_once(&before_topic)?;
            let is_one = !routed.is_empty()
                && directories.len() > at
                && !found.is_empty()
                && found != routed
                && topic.is_none_or(|topic| topic == found);
            let topic_partition = TopicPartition::new(found, name.partition);
            // The numbers as they are printed, too.
            let file_name = self.file_name(&topic_partition, name.first, name.ending);
            (is_one && name.key.ends_with(&file_name)).then_some(topic_partition)
        })
    }

    /// The key whose emptiness keeps names from being read, if one does.
    pub(crate) fn silent_key(&self) -> Option<&'static str> {
        if self.file_delim.is_empty() {
            Some(FILE_DELIM.name)
        } else if self.directory_delim.is_empty() {
            Some(DIRECTORY_DELIM.name)
        } else {
            None
        }
    }

    /// What the names of all objects of rows of `topic` begin with, wherever they are routed to.
    pub(crate) fn listed_prefix(&self, topic: &str) -> String {
        if self.may_route { self.prefix.clone() } else { self.topic_prefix(topic) }
    }

    /// The narrowest directory that stores can list which holds every object of rows of `topic`; empty for the whole
    /// bucket.
    pub(crate) fn listed_directory(&self, topic: &str) -> String {
        let prefix = self.listed_prefix(topic);
        prefix.rsplit_once('/').map_or_else(String::new, |(directory, _)| directory.to_owned())
    }

    /// The numbers in `key`, if it ends in `ending`.
    fn name<'a>(&self, key: &'a str, ending: &'a str) -> Option<Name<'a>> {
        if self.silent_key().is_some() {
            return None;
        }
        let stem = key.strip_prefix(&self.prefix)?.strip_suffix(ending)?;
        let (stem, offset) = stem.rsplit_once(&self.file_delim)?;
        let (directories_and_topics, partition) = stem.rsplit_once(&self.file_delim)?;
        let (partition, first) = (partition.parse().ok()?, Offset::new(offset.parse().ok()?)?);
        Some(Name { key, ending, directories_and_topics, partition, first })
    }

    fn fits(&self, name: &Name<'_>, topic_partition: &TopicPartition) -> bool {
        let begin = self.topic_prefix(&topic_partition.topic);
        let end = format!("{}{}", self.directory_delim, self.file_name(topic_partition, name.first, name.ending));
        name.key.len() >= begin.len() + end.len() && name.key.starts_with(&begin) && name.key.ends_with(&end)
    }

    fn file_name(&self, topic_partition: &TopicPartition, first: Offset, ending: &str) -> String {
        let TopicPartition { topic, partition } = topic_partition;
        let (delim, width, first) = (&self.file_delim, self.offset_width, first.get());
        format!("{topic}{delim}{partition}{delim}{first:0>width$}{ending}")
    }
}

/// What a key tells before it is known whose it is.
struct Name<'a> {
    key: &'a str,
    ending: &'a str,
    /// What stands between `topics.dir` and the partition in the last part.
    directories_and_topics: &'a str,
    partition: i32,
    first: Offset,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;
    use proptest::prelude::*;

    fn layout(pairs: &[(&str, &str)], extension: &str) -> Layout {
        Layout::new(&settings(pairs), extension).unwrap()
    }

    fn at(offset: i64) -> Offset {
        Offset::new(offset).unwrap()
    }

    #[test]
    fn keys_are_upstream_s() {
        /// Settings, extension, path, offset, key.
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, i64, &'a str);
        let cases: &[Case<'_>] = &[
            (&[], ".avro", "partition=12", 0, "topics/test-topic/partition=12/test-topic+12+0000000000.avro"),
            (
                &[("filename.offset.zero.pad.width", "2")],
                ".avro",
                "partition=12",
                3,
                "topics/test-topic/partition=12/test-topic+12+03.avro",
            ),
            (
                &[("filename.offset.zero.pad.width", "2")],
                ".avro",
                "partition=12",
                12345,
                "topics/test-topic/partition=12/test-topic+12+12345.avro",
            ),
            (
                &[("filename.offset.zero.pad.width", "0")],
                ".avro",
                "partition=12",
                3,
                "topics/test-topic/partition=12/test-topic+12+3.avro",
            ),
            (
                &[("topics.dir", "")],
                ".avro",
                "partition=12",
                0,
                "test-topic/partition=12/test-topic+12+0000000000.avro",
            ),
            (
                &[("topics.dir", " ")],
                ".avro",
                "partition=12",
                0,
                "test-topic/partition=12/test-topic+12+0000000000.avro",
            ),
            (
                &[("directory.delim", "_"), ("file.delim", "#")],
                ".avro",
                "partition=12",
                0,
                "topics_test-topic_partition=12_test-topic#12#0000000000.avro",
            ),
            (&[], ".avro", "int=17", 1, "topics/test-topic/int=17/test-topic+12+0000000001.avro"),
            (
                &[],
                ".avro",
                "int=16/boolean=true",
                0,
                "topics/test-topic/int=16/boolean=true/test-topic+12+0000000000.avro",
            ),
            (&[], ".avro", "outer.inner=18", 2, "topics/test-topic/outer.inner=18/test-topic+12+0000000002.avro"),
            (
                &[],
                ".snappy.parquet",
                "partition=12",
                0,
                "topics/test-topic/partition=12/test-topic+12+0000000000.snappy.parquet",
            ),
            (&[], ".json.gz", "partition=12", 6, "topics/test-topic/partition=12/test-topic+12+0000000006.json.gz"),
            (
                &[],
                ".customExtensionForTest",
                "partition=12",
                0,
                "topics/test-topic/partition=12/test-topic+12+0000000000.customExtensionForTest",
            ),
            (
                &[("topics.dir", "/my-model//serving/")],
                ".snappy.parquet",
                "partition=0",
                i64::MAX,
                "my-model/serving/test-topic/partition=0/test-topic+12+9223372036854775807.snappy.parquet",
            ),
        ];
        let topic_partition = TopicPartition::new("test-topic", 12);
        for (pairs, extension, path, offset, key) in cases {
            let layout = layout(pairs, extension);
            assert_eq!(layout.object_key(&topic_partition, path, at(*offset)), *key);
            assert_eq!(layout.parse(key), Some((topic_partition.clone(), at(*offset))), "{key}");
        }
    }

    #[test]
    fn an_extension_inside_a_topic_s_name_is_left_alone() {
        let layout = layout(&[], ".avro");
        let topic_partition = TopicPartition::new("my.avro.topic", 0);
        let key = layout.object_key(&topic_partition, "partition=0", at(5));
        assert_eq!(key, "topics/my.avro.topic/partition=0/my.avro.topic+0+0000000005.avro");
        assert_eq!(layout.parse(&key), Some((topic_partition, at(5))));
    }

    #[test]
    fn other_names_are_not_ours() {
        let layout = layout(&[], ".avro");
        for key in [
            "",
            "topics/t/partition=0/t+0+0000000005.json",
            "other/t/partition=0/t+0+0000000005.avro",
            "topics/t/partition=0/u+0+0000000005.avro",
            "topics/t/partition=0/t+0+5.avro",
            "topics/t/partition=0/t+0+00000000005.avro",
            "topics/t/partition=0/t+0+-000000005.avro",
            "topics/t/partition=0/t+x+0000000005.avro",
            "topics/t/partition=0/t+00+0000000005.avro",
            "topics/t/t+0+0000000005.avro",
            "topics/t/_sluice/schema.avro",
        ] {
            assert_eq!(layout.parse(key), None, "{key}");
        }
    }

    /// Rows 19, 20, 21 and 24 of the examples, and others: formats of values, keys and headers; view, path, first offset, name.
    #[test]
    fn keys_and_headers_have_the_name_of_their_values() {
        let lane = TopicPartition::new("test-topic", 12);
        let avro = "io.confluent.connect.s3.format.avro.AvroFormat";
        let (values, keys, headers) = (View::Values, View::Keys, View::Headers);
        for ([value, key, header], view, path, first, name) in [
            ([avro, avro, avro], values, "partition=12", 3, "partition=12/test-topic+12+0000000003.avro"),
            ([avro, avro, avro], keys, "partition=12", 3, "partition=12/test-topic+12+0000000003.keys.avro"),
            ([avro, avro, avro], headers, "partition=12", 3, "partition=12/test-topic+12+0000000003.headers.avro"),
            ([avro, avro, "json"], headers, "partition=12", 3, "partition=12/test-topic+12+0000000003.headers.json"),
            (["json", avro, "parquet"], headers, "a=1", 0, "a=1/test-topic+12+0000000000.headers.snappy.parquet"),
            (["json", "json", avro], keys, "\u{1}tombstone", 2, "tombstone/test-topic+12+0000000002.keys.json"),
            (["json", "bytes", avro], keys, "a=1", 2, "a=1/test-topic+12+0000000002.keys.bin"),
        ] {
            let settings = settings(&[
                ("format.class", value),
                ("store.kafka.keys", "true"),
                ("store.kafka.headers", "true"),
                ("keys.format.class", key),
                ("headers.format.class", header),
            ]);
            let format = crate::format::format(&settings).unwrap();
            let views = Views::new(&settings).unwrap();
            let layout = Layout::new(&settings, format.extension()).unwrap().with_views(&views);
            let name = format!("topics/test-topic/{name}");
            assert_eq!(layout.view_key(view, &lane, path, at(first)), name);
            assert_eq!(layout.parse(&name), Some((lane.clone(), at(first))), "{name}");
            assert_eq!(layout.parse_of("test-topic", &name), Some((lane.clone(), at(first), view)), "{name}");
        }
        let settings =
            settings(&[("format.class", "avro"), ("store.kafka.keys", "true"), ("keys.format.class", "json")]);
        let layout = Layout::new(&settings, ".avro").unwrap().with_views(&Views::new(&settings).unwrap());
        for name in ["keys.avro", "headers.json", "keys", "keys.json.gz"] {
            let key = format!("topics/test-topic/partition=12/test-topic+12+0000000003.{name}");
            assert_eq!(layout.parse(&key), None, "{key}");
        }
    }

    #[test]
    fn names_of_routed_rows_tell_both_topics_where_a_router_is() {
        const ROUTER: (&str, &str) = ("transforms.r.type", "TimestampRouter");
        let lane = TopicPartition::new("my.topic", 3);
        let path = "\0all-models\0dt=2024/h=1";
        for (pairs, expected) in [
            (vec![ROUTER], "topics/all-models/dt=2024/h=1/all-models+my.topic+3+0000000009.json"),
            (vec![ROUTER, ("topics.dir", "")], "all-models/dt=2024/h=1/all-models+my.topic+3+0000000009.json"),
            (vec![ROUTER, ("file.delim", "-")], "topics/all-models/dt=2024/h=1/all-models-my.topic-3-0000000009.json"),
            (
                vec![ROUTER, ("directory.delim", "#")],
                "topics#all-models#dt=2024/h=1#all-models+my.topic+3+0000000009.json",
            ),
        ] {
            let routing = layout(&pairs, ".json");
            let key = routing.object_key(&lane, path, at(9));
            assert_eq!(key, expected);
            assert_eq!(routing.parse(&key), Some((lane.clone(), at(9))), "{key}");
            assert_eq!(routing.parse_of("my.topic", &key), Some((lane.clone(), at(9), View::Values)), "{key}");
            assert_eq!(routing.parse_of("topic", &key), None, "{key}");
            assert_eq!(routing.parse_of("all-models", &key), None, "{key}");
            let plain = layout(&pairs[1..], ".json");
            assert_eq!((plain.parse(&key), plain.parse_of("my.topic", &key)), (None, None), "{key}");
            let own = routing.object_key(&lane, "p=0", at(9));
            assert_eq!(routing.parse_of("my.topic", &own), Some((lane.clone(), at(9), View::Values)), "{own}");
            assert_eq!(routing.parse(&own), Some((lane.clone(), at(9))), "{own}");
        }
        let routing = layout(&[ROUTER], ".json");
        for key in [
            "topics/a/p/a+t+0+5.json",
            "topics/a/a+t+0+0000000005.json",
            "topics/a/p/b+t+0+0000000005.json",
            "topics/a/p/a++0+0000000005.json",
            "topics/a/p/a+a+0+0000000005.json",
        ] {
            assert_eq!(routing.parse(key), None, "{key}");
        }
        assert_eq!((routing.listed_directory("t"), routing.listed_prefix("t")), ("topics".into(), "topics/".into()));
    }

    #[test]
    fn directories_that_cannot_be_addressed_are_refused() {
        for (key, value, good) in [
            ("topics.dir", "../other", false),
            ("topics.dir", "a/./b", false),
            ("topics.dir", "a\tb", false),
            ("topics.dir", "a..b/..c", true),
            ("directory.delim", "//", false),
            ("directory.delim", "/../", false),
            ("directory.delim", "a\u{1}b", false),
            ("directory.delim", "..", true),
            ("file.delim", "/", true),
            ("filename.offset.zero.pad.width", "-1", false),
            ("filename.offset.zero.pad.width", "2000000000", false),
        ] {
            assert_eq!(Layout::new(&settings(&[(key, value)]), "").is_ok(), good, "{key}={value}");
        }
    }

    proptest! {
        #[test]
        fn a_key_says_what_it_was_made_of(
            topic in "[a-z_.-]{1,8}",
            partition in 0i32..2000,
            path in "[a-z0-9=+/_.-]{1,12}",
            offset in 0i64..i64::MAX,
            width in "[0-9]",
            directory_delim in "[/_#]",
            file_delim in "[+#_.-]",
        ) {
            let pairs = [
                ("filename.offset.zero.pad.width", width.as_str()),
                ("directory.delim", &directory_delim),
                ("file.delim", &file_delim),
            ];
            let layout = layout(&pairs, ".snappy.parquet");
            let topic_partition = TopicPartition::new(topic.as_str(), partition);
            let key = layout.object_key(&topic_partition, &path, at(offset));
            // Topics hold no other of these delimiters, but with `_` a shorter topic can fit as well.
            let parsed = layout.parse(&key);
            prop_assert!(parsed.is_some(), "{}", key);
            if directory_delim != "_" {
                prop_assert_eq!(parsed, Some((topic_partition, at(offset))));
            }
        }
    }
}
