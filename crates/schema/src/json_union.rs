//! The builder of a union in JSON: a struct with a field for each branch, of which a record has only the value.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Fields};
use simd_json::{Node, StaticNode};

use crate::column::Rows;
use crate::fault::{Fault, Outcome, describe};
use crate::struct_column::{Context, StructColumn};
use crate::tape::skip;

/// A union: the branch that a value fits goes into its field, the others are null.
pub(crate) struct UnionColumn {
    branches: Fields,
    fields: StructColumn,
}

impl UnionColumn {
    pub(crate) fn new(branches: &Fields) -> UnionColumn {
        UnionColumn { branches: branches.clone(), fields: StructColumn::new(branches) }
    }

    /// Appends the value at `at`, which is not null, and gives the index after it.
    pub(crate) fn read(&mut self, nodes: &[Node<'_>], at: usize, context: &mut Context) -> Outcome<usize> {
        read_union(&self.branches, &mut self.fields, nodes, at, context)
    }
}

/// Appends the value at `at` to the field of the branch that it fits: the first one of its type, or else the object that
/// has most of its names (`JsonSchemaData`).
pub(crate) fn read_union(
    branches: &Fields,
    column: &mut StructColumn,
    nodes: &[Node<'_>],
    at: usize,
    context: &mut Context,
) -> Outcome<usize> {
    let node = &nodes[at];
    let simple = branches.iter().position(|branch| fits(branch.data_type(), node));
    let chosen = simple.or_else(|| {
        let matching = branches.iter().enumerate().filter_map(|(index, branch)| match branch.data_type() {
            DataType::Struct(fields) if matches!(node, Node::Object { .. }) => {
                Some((index, known_names(fields, nodes, at)))
            }
            _ => None,
        });
        let best = |best: (usize, usize), next: (usize, usize)| if next.1 > best.1 { next } else { best };
        matching.reduce(best).map(|(index, _)| index)
    });
    let Some(chosen) = chosen else {
        return Err(Fault::new(format!("Did not find matching oneof field for data: {}", describe(node))));
    };
    let mut next = at;
    for (index, slot) in column.slots().iter_mut().enumerate() {
        if index == chosen {
            next = slot.read(nodes, at, context)?;
        } else {
            slot.rows().push_null();
        }
    }
    column.end_row();
    Ok(next)
}

/// Whether a value is of a branch's type, which is no struct.
fn fits(data_type: &DataType, node: &Node<'_>) -> bool {
    let is_integer = matches!(node, Node::Static(StaticNode::I64(_) | StaticNode::U64(_)));
    let is_number = is_integer || matches!(node, Node::Static(StaticNode::F64(_)));
    match data_type {
        DataType::Boolean => matches!(node, Node::Static(StaticNode::Bool(_))),
        DataType::Utf8 => matches!(node, Node::String(_)),
        DataType::Float32 | DataType::Float64 => is_number,
        DataType::Decimal128(_, _) | DataType::Decimal256(_, _) => is_number || matches!(node, Node::String(_)),
        DataType::Binary => matches!(node, Node::String(_)),
        DataType::List(_) => matches!(node, Node::Array { .. }),
        DataType::Map(_, _) => matches!(node, Node::Object { .. } | Node::Array { .. }),
        DataType::Struct(_) => false,
        // Integers, and the times that are integers.
        _ => is_integer,
    }
}

/// How many names of the object at `at` are fields.
fn known_names(fields: &Fields, nodes: &[Node<'_>], at: usize) -> usize {
    let Node::Object { len, .. } = &nodes[at] else { return 0 };
    let (mut next, mut known) = (at + 1, 0);
    for _ in 0..*len {
        if let Node::String(name) = &nodes[next] {
            known += usize::from(fields.iter().any(|field| field.name() == name));
        }
        next = skip(nodes, next + 1);
    }
    known
}

impl Rows for UnionColumn {
    fn begin(&mut self) {
        self.fields.begin();
    }

    fn len(&self) -> usize {
        self.fields.len()
    }

    fn push_null(&mut self) {
        self.fields.push_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.fields.truncate(rows);
    }

    fn finish(&mut self) -> ArrayRef {
        self.fields.finish()
    }
}
