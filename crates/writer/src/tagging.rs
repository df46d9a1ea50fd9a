//! Tags of objects: which rows they hold, and what the user adds.

use std::sync::Arc;

use model::{Check, Invalid, Key, Kind, Offset, Settings, Width};
use object_store::TagSet;
use tracing::warn;

use crate::error::{Error, Failure};
use crate::store::Store;

/// Whether objects are tagged.
pub const S3_OBJECT_TAGGING: Key = Key::new(
    "s3.object.tagging",
    Kind::Boolean,
    "Whether objects of values are tagged with startOffset and endOffset, the offsets of their first and last record, and \
     with recordCount. Needs the permission s3:PutObjectTagging.",
)
.default("false")
.group("S3", 2)
.shown(Width::Long, "S3 Object Tagging");

/// What the user adds.
pub const S3_OBJECT_TAGGING_KEY_VALUE_PAIRS: Key = Key::new(
    "s3.object.tagging.key.value.pairs",
    Kind::List,
    "More tags, as k:v texts; what follows a second colon is left out, as in the S3 sink. S3 takes ten tags in all.",
)
.default("")
.check(Check::With(|text| pairs(text).map(|_| ())))
.group("S3", 3)
.shown(Width::Long, "S3 Object Tagging Extra Key Value pairs");

/// What a failure does.
pub const S3_OBJECT_BEHAVIOR_ON_TAGGING_ERROR: Key = Key::new(
    "s3.object.behavior.on.tagging.error",
    Kind::String,
    "What happens when tagging an object has failed s3.part.retries times: ignore warns, fail stops the task before the \
     offsets of the object's records are committed, so that the next start tags it again.",
)
.default("ignore")
.check(Check::OneOf(&["ignore", "fail"]))
.group("S3", 4)
.shown(Width::Short, "Behavior for S3 object tagging error");

/// Keys of tagging.
pub(crate) const KEYS: &[Key] =
    &[S3_OBJECT_TAGGING, S3_OBJECT_TAGGING_KEY_VALUE_PAIRS, S3_OBJECT_BEHAVIOR_ON_TAGGING_ERROR];

/// Tags of an object, at most (Amazon S3 user guide, "Categorizing your objects using tags").
const TAGS_MAX: usize = 10;

/// Characters of a tag's name and of its value, at most.
const NAME_CHARACTERS_MAX: usize = 128;
const VALUE_CHARACTERS_MAX: usize = 256;

/// What is wrong with these keys together: tags that S3 would refuse with every object.
pub(crate) fn check(settings: &Settings) -> Vec<Invalid> {
    let is_on = settings.text(&S3_OBJECT_TAGGING).is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let Ok(pairs) = pairs(settings.text(&S3_OBJECT_TAGGING_KEY_VALUE_PAIRS).unwrap_or_default()) else {
        // The key's own check tells.
        return Vec::new();
    };
    let tags = Tagging { pairs: pairs.into(), fails: false }.of(Offset::ZERO, Offset::ZERO, 0).0;
    let problem = |why: String| vec![Invalid::new(S3_OBJECT_TAGGING_KEY_VALUE_PAIRS.name, why)];
    if is_on && tags.len() > TAGS_MAX {
        return problem(format!(
            "S3 takes {TAGS_MAX} tags of an object, three of them are startOffset, endOffset and recordCount, and these \
             make {}",
            tags.len()
        ));
    }
    let is_long = |(name, value): &&(String, String)| {
        name.chars().count() > NAME_CHARACTERS_MAX || value.chars().count() > VALUE_CHARACTERS_MAX
    };
    match tags.iter().find(is_long) {
        Some((name, _)) if is_on => problem(format!(
            "S3 takes names of tags up to {NAME_CHARACTERS_MAX} and values up to {VALUE_CHARACTERS_MAX} characters, and \
             {name} is longer"
        )),
        Some(_) | None => Vec::new(),
    }
}

/// Reads pairs as the S3 sink does (`TopicPartitionWriter.getS3Tag`), which fails for the ones refused here.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let mut pieces = pair.split(':');
        let (name, value) = (pieces.next().unwrap_or_default(), pieces.next());
        match value.filter(|_| !name.is_empty() && !pair.trim_end_matches(':').eq(name)) {
            Some(value) => pairs.push((name.to_owned(), value.to_owned())),
            None => return Err(format!("{pair} is not of the form key:value")),
        }
    }
    Ok(pairs)
}

/// How a connector tags its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagging {
    pairs: Arc<[(String, String)]>,
    fails: bool,
}

/// The tags of one object, and whether it may be left without them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tags(Vec<(String, String)>, bool);

impl Tagging {
    /// What the settings say; `None` without tags.
    pub fn new(settings: &Settings) -> Result<Option<Tagging>, Invalid> {
        if !settings.boolean(&S3_OBJECT_TAGGING)? {
            return Ok(None);
        }
        let text = settings.string(&S3_OBJECT_TAGGING_KEY_VALUE_PAIRS)?.unwrap_or_default();
        let pairs = pairs(&text).map_err(|why| Invalid::value(&S3_OBJECT_TAGGING_KEY_VALUE_PAIRS, &text, why))?;
        let fails = settings.required_string(&S3_OBJECT_BEHAVIOR_ON_TAGGING_ERROR)? == "fail";
        Ok(Some(Tagging { pairs: pairs.into(), fails }))
    }

    /// The tags of an object with so many records between these two, both in it.
    pub(crate) fn of(&self, first: Offset, last: Offset, records: u64) -> Tags {
        let mut tags = vec![
            ("startOffset".to_owned(), first.to_string()),
            ("endOffset".to_owned(), last.to_string()),
            ("recordCount".to_owned(), records.to_string()),
        ];
        for (name, value) in self.pairs.iter() {
            match tags.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => known.clone_from(value),
                None => tags.push((name.clone(), value.clone())),
            }
        }
        Tags(tags, self.fails)
    }
}

impl Tags {
    /// As a header of the request that makes the object.
    pub(crate) fn header(&self) -> TagSet {
        let mut tags = TagSet::default();
        self.0.iter().for_each(|(name, value)| tags.push(name, value));
        tags
    }

    /// As the body of a request of their own (PutObjectTagging).
    fn xml(&self) -> String {
        use quick_xml::escape::escape;
        let tag = |(name, value): &(String, String)| {
            format!("<Tag><Key>{}</Key><Value>{}</Value></Tag>", escape(name), escape(value))
        };
        let tags: String = self.0.iter().map(tag).collect();
        format!("<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><TagSet>{tags}</TagSet></Tagging>")
    }
}

impl Store {
    /// Gives an object that is there these tags and no others. An error means that the task must stop.
    pub(crate) async fn tag(&self, key: &str, tags: &Tags) -> Result<(), Error> {
        let Some(bucket) = self.bucket() else { return Ok(()) };
        let body = tags.xml();
        let tagged = self.retrying("tag", key, || bucket.put(key, "tagging", body.clone())).await;
        match tagged {
            Ok(()) => Ok(()),
            Err(failure) if tags.1 => Err(not_tagged(failure)),
            Err(failure) => {
                warn!(key, store = self.name(), error = %failure.source, attempts = failure.attempts, "the object has no tags");
                Ok(())
            }
        }
    }
}

fn not_tagged(failure: Box<Failure>) -> Error {
    let advice = "the object is there without its tags and its records are not committed: allow s3:PutObjectTagging, or set \
                  s3.object.behavior.on.tagging.error=ignore or s3.object.tagging=false";
    Error::Permanent { failure, advice: advice.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    fn tags(more: &str) -> Tags {
        let settings = settings(&[("s3.object.tagging", "TRUE"), ("s3.object.tagging.key.value.pairs", more)]);
        let at = |offset| Offset::new(offset).unwrap();
        Tagging::new(&settings).unwrap().unwrap().of(at(7), at(11), 3)
    }

    #[test]
    fn tags_tell_the_rows_and_what_the_user_adds() {
        assert_eq!(tags("").header().encoded(), "startOffset=7&endOffset=11&recordCount=3");
        assert_eq!(
            tags("team: a b, d:e:f,recordCount:many,x:<&>").xml(),
            "<Tagging xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><TagSet>\
             <Tag><Key>startOffset</Key><Value>7</Value></Tag>\
             <Tag><Key>endOffset</Key><Value>11</Value></Tag>\
             <Tag><Key>recordCount</Key><Value>many</Value></Tag>\
             <Tag><Key>team</Key><Value> a b</Value></Tag>\
             <Tag><Key>d</Key><Value>e</Value></Tag>\
             <Tag><Key>x</Key><Value>&lt;&amp;&gt;</Value></Tag></TagSet></Tagging>"
        );
        assert_eq!(Tagging::new(&settings(&[("s3.object.tagging.key.value.pairs", "a:b")])).unwrap(), None);
    }

    #[test]
    fn pairs_that_the_sink_cannot_read_are_refused() {
        for text in ["a:b,c", "c:", "c::", ":v", ":"] {
            let settings = settings(&[("s3.object.tagging.key.value.pairs", text)]);
            let problem = settings.problem(&S3_OBJECT_TAGGING_KEY_VALUE_PAIRS).unwrap().message;
            assert!(problem.contains("is not of the form key:value"), "{problem}");
        }
        assert_eq!(pairs("a:b, c::d,").unwrap(), [("a".into(), "b".into()), ("c".into(), String::new())]);
    }

    #[test]
    fn more_than_s3_takes_is_refused_while_tags_are_on() {
        let many = "a:1,b:1,c:1,d:1,e:1,f:1,g:1";
        let problems = |on, pairs: &str| {
            check(&settings(&[("s3.object.tagging", on), ("s3.object.tagging.key.value.pairs", pairs)]))
        };
        assert_eq!(problems("true", many), []);
        assert!(problems("true", &format!("{many},h:1"))[0].message.contains("and these make 11"));
        assert_eq!(problems("true", &format!("{many},startOffset:1")), []);
        assert_eq!(problems("false", &format!("{many},h:1")), []);
        assert!(problems("true", &format!("a:{}", "x".repeat(257)))[0].message.contains("a is longer"));
    }
}
