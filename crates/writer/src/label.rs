//! What an object says of itself, in its user metadata or in the file, and reading it without reading the object.

use std::collections::BTreeMap;

use model::{Offset, OffsetRange, Plan, PlanError};
use object_store::{Attribute, Attributes};

use crate::error::Error;
use crate::format::{self, Format, LabelPlace, Mark};
use crate::store::{Found, Store};

/// Bytes that are read of a file at first; footers are smaller but for hundreds of columns.
const PIECE_BYTES: u64 = 64 * 1024;

/// A file whose description is longer than this is not ours.
const PIECE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Names and values that an object carries: `sluice.nonce` and so on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label(BTreeMap<String, String>);

/// What came of looking for a label in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelRead {
    /// It is there.
    Found(Label),
    /// So many bytes are needed from where the label is.
    Needs(u64),
    /// The file is of another format, torn, or not ours.
    None,
}

impl Label {
    /// A label of these names and values; `None` when no name is ours.
    pub fn new(entries: impl IntoIterator<Item = (String, String)>) -> Option<Label> {
        let entries: BTreeMap<_, _> = entries.into_iter().filter(|(name, _)| name.starts_with("sluice.")).collect();
        (!entries.is_empty()).then_some(Label(entries))
    }

    /// The value of a name such as `sluice.nonce`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whose object it is; `None` without a nonce.
    pub fn mark(&self) -> Option<Mark> {
        Mark::read(|name| self.get(name))
    }

    /// The cut that the object belongs to and its plan; `None` where the label does not hold them, as in the user metadata
    /// of an upload, which was begun before the cut ended.
    pub fn cut(&self) -> Result<Option<(OffsetRange, Plan)>, PlanError> {
        let start = self.get(format::CUT).and_then(|start| start.parse().ok()).and_then(Offset::new);
        match (start, self.get(format::PLAN)) {
            (Some(start), Some(plan)) => Plan::from_metadata(start, plan),
            (_, _) => Ok(None),
        }
    }

    /// Whether it was written when the cut had ended.
    fn is_complete(&self) -> bool {
        self.get(format::END).is_some() && self.get(format::PLAN).is_some()
    }

    /// The label in an object's user metadata, where names are written with `-` for `.`.
    pub(crate) fn of_metadata(attributes: &Attributes) -> Option<Label> {
        Label::new(attributes.iter().filter_map(|(name, value)| match name {
            Attribute::Metadata(name) => Some((name.replace('-', "."), value.as_ref().to_owned())),
            _ => None,
        }))
    }
}

/// What the object `key` says of itself: its user metadata if they tell everything, else the file itself, else what the
/// metadata tell. `None` when it is not ours or gone.
pub(crate) async fn read_label(
    store: &Store,
    format: &dyn Format,
    key: &str,
    found: &Found,
) -> Result<Option<Label>, Error> {
    if found.label.as_ref().is_some_and(Label::is_complete) {
        return Ok(found.label.clone());
    }
    let mut wanted = PIECE_BYTES.min(found.bytes);
    while wanted <= PIECE_BYTES_MAX {
        let range = match format.label_place() {
            LabelPlace::Start => 0..wanted,
            LabelPlace::End => found.bytes.saturating_sub(wanted)..found.bytes,
            LabelPlace::Nowhere => break,
        };
        let Some(piece) = store.read_range(key, range).await? else { return Ok(None) };
        match format.read_label(&piece, found.bytes) {
            LabelRead::Found(label) => return Ok(Some(label)),
            LabelRead::Needs(more) if more > wanted && more <= found.bytes => wanted = more,
            LabelRead::Needs(_) | LabelRead::None => break,
        }
    }
    Ok(found.label.clone())
}
