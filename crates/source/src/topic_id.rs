//! The topic's id in the metadata of each commit: an offset that was committed for a topic which was deleted since is told
//! from one of the topic that has its name now.

/// Before the id, which is the last member of the metadata's object.
const NAME: &str = "\"topic\":\"";

/// `metadata` with the id of the topic that it is committed for. A plan, which is an object, gets one member more, which
/// older versions pass over; no metadata becomes an object of which they think that somebody else made it. Anything else
/// is left as it is, and so is everything when the id is not one that Kafka makes.
pub(crate) fn stamped(metadata: &str, id: &str) -> String {
    if !is_id(id) {
        return metadata.to_owned();
    }
    match metadata.strip_suffix('}') {
        None if metadata.is_empty() => format!("{{{NAME}{id}\"}}"),
        Some(open) if metadata.starts_with('{') && open.len() > 1 => format!("{open},{NAME}{id}\"}}"),
        Some(_) | None => metadata.to_owned(),
    }
}

/// What [`stamped`] made its metadata from, and the id, if there is one.
pub(crate) fn unstamped(metadata: &str) -> (String, Option<String>) {
    let unmarked = || (metadata.to_owned(), None);
    let Some((before, id)) = metadata.strip_suffix("\"}").and_then(|text| text.rsplit_once(NAME)) else {
        return unmarked();
    };
    match before.strip_suffix(',') {
        _ if !is_id(id) => unmarked(),
        Some(open) if open.starts_with('{') => (format!("{open}}}"), Some(id.to_owned())),
        None if before == "{" => (String::new(), Some(id.to_owned())),
        Some(_) | None => unmarked(),
    }
}

/// Kafka's ids are 22 letters of the alphabet for addresses.
fn is_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 32
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Fingerprint, METADATA_BYTES_MAX, Nonce, Offset, Plan};

    const ID: &str = "FvVnb0zWQW-xJzxl_rAQsg";

    #[test]
    fn a_plan_with_an_id_is_read_by_versions_that_know_of_none() {
        let end = Offset::new(9).unwrap();
        let plan = Plan::new(end, 17, Nonce(1), None, Fingerprint::of([]), 3);
        let metadata = stamped(&plan.to_metadata(), ID);
        assert!(metadata.ends_with(&format!(",\"topic\":\"{ID}\"}}")) && metadata.len() < METADATA_BYTES_MAX);
        let (_, read) = Plan::from_metadata(Offset::ZERO, &metadata).unwrap().unwrap();
        assert_eq!(read, plan);
        assert_eq!(unstamped(&metadata), (plan.to_metadata(), Some(ID.to_owned())));
    }

    #[test]
    fn the_end_of_a_cut_with_an_id_is_no_plan() {
        let metadata = stamped("", ID);
        assert_eq!(metadata, format!("{{\"topic\":\"{ID}\"}}"));
        assert!(matches!(Plan::from_metadata(Offset::ZERO, &metadata), Ok(None)));
        assert_eq!(unstamped(&metadata), (String::new(), Some(ID.to_owned())));
    }

    #[test]
    fn what_is_no_id_and_metadata_of_others_stay_as_they_are() {
        assert_eq!(stamped("", "a\"b"), "");
        assert_eq!(stamped("mine", ID), "mine");
        for metadata in ["", "mine", "{}", "{\"topic\":7}", "{\"topic\":\"a b\"}", "x,\"topic\":\"a\"}"] {
            assert_eq!(unstamped(metadata), (metadata.to_owned(), None), "{metadata}");
        }
    }

    #[test]
    fn what_was_stamped_comes_back() {
        for metadata in ["", "{}", "{\"sluice\":1}", "{\"a\":{\"b\":[1]}}", "{\"a\":\"}\"}", "plan", "{", "}", "{é}"] {
            let (back, found) = unstamped(&stamped(metadata, ID));
            assert_eq!(back, metadata);
            assert!(found.is_none_or(|found| found == ID), "{metadata}");
        }
    }
}
