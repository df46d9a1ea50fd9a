//! Reads datums that were written with another schema than that of the columns.

use crate::avro_json::JsonPlan;
use crate::avro_reader::blocks;
use crate::avro_reader::{
    Context, boolean, double, float, int, long, no_branch, read, read_row, symbol_index, take, take_counted,
};
use crate::avro_resolution::{Number, Resolved, Step};
use crate::column::{Column, Rows};
use crate::fault::{Fault, Outcome};
use crate::struct_column::StructColumn;
use crate::table_schema::DEPTH_MAX;

/// Appends the datum of a record of the log.
pub(crate) fn read_resolved_row(
    resolved: &Resolved,
    whole_value: bool,
    column: &mut StructColumn,
    input: &mut &[u8],
    context: &mut Context<'_>,
) -> Outcome<()> {
    match resolved {
        Resolved::Branches(plans) => {
            let branch = long(input)?;
            let plan = usize::try_from(branch).ok().and_then(|branch| plans.get(branch));
            read_row(plan.ok_or_else(|| no_branch(branch, plans.len()))?, whole_value, column, input, context)
        }
        Resolved::Null => {
            column.push_null();
            Ok(())
        }
        Resolved::Mismatch(why) => Err(Fault::new(&**why)),
        Resolved::Record { steps, constants } if !whole_value => read_steps(steps, constants, column, input, context),
        Resolved::Into { field, plan } if !whole_value => {
            fill_one(*field, column, |column| read(plan, column, input, context))
        }
        resolved => {
            read_resolved(resolved, column.whole_value().column(), input, context)?;
            column.end_row();
            Ok(())
        }
    }
}

/// Appends one datum. On a fault the column may hold half of it; the caller truncates.
pub(crate) fn read_resolved(
    resolved: &Resolved,
    column: &mut Column,
    input: &mut &[u8],
    context: &mut Context<'_>,
) -> Outcome<()> {
    match (resolved, column) {
        (Resolved::Record { steps, constants }, Column::Struct(column)) => {
            read_steps(steps, constants, column, input, context)
        }
        (Resolved::Into { field, plan }, Column::Struct(column)) => {
            fill_one(*field, column, |column| read(plan, column, input, context))
        }
        (Resolved::Branches(plans), column) => {
            let branch = long(input)?;
            let plan = usize::try_from(branch).ok().and_then(|branch| plans.get(branch));
            read(plan.ok_or_else(|| no_branch(branch, plans.len()))?, column, input, context)
        }
        (Resolved::Null, column) => {
            column.rows().push_null();
            Ok(())
        }
        (Resolved::Mismatch(why), _) => Err(Fault::new(&**why)),
        (Resolved::Constant(plan, datum), column) => {
            context.add(datum.len())?;
            read(plan, column, &mut datum.as_slice(), context)
        }
        (Resolved::Enum(symbols), Column::Utf8(column)) => {
            let index = symbol_index(symbols.len(), input)?;
            let Some(symbol) = &symbols[index] else {
                return Err(Fault::new(format!("the enum of the latest schema lacks symbol {index} of the record's")));
            };
            context.add(symbol.len())?;
            column.push(symbol.as_bytes());
            Ok(())
        }
        (Resolved::Promoted(number), column) => promote(*number, column, input),
        (resolved, _) => unreachable!("plan and column come from one schema, not {resolved:?} and another"),
    }
}

fn promote(number: Number, column: &mut Column, input: &mut &[u8]) -> Outcome<()> {
    match (number, column) {
        (Number::Int, Column::Int64(column)) => column.push(i64::from(int(input)?)),
        (Number::Int, Column::TimestampMillis(column)) => column.push(i64::from(int(input)?)),
        (Number::Int, Column::TimestampMicros(column)) => column.push(i64::from(int(input)?)),
        (Number::Int, Column::Float32(column)) => column.push(int(input)? as f32),
        (Number::Int, Column::Float64(column)) => column.push(f64::from(int(input)?)),
        (Number::Long, Column::Float32(column)) => column.push(long(input)? as f32),
        (Number::Long, Column::Float64(column)) => column.push(long(input)? as f64),
        (Number::Float, Column::Float64(column)) => column.push(f64::from(float(input)?)),
        (number, _) => unreachable!("plan and column come from one schema, not {number:?} and another"),
    }
    Ok(())
}

/// Fills one field and leaves the others null.
pub(crate) fn fill_one(
    field: usize,
    column: &mut StructColumn,
    fill: impl FnOnce(&mut Column) -> Outcome<()>,
) -> Outcome<()> {
    let mut fill = Some(fill);
    for (index, slot) in column.slots().iter_mut().enumerate() {
        match fill.take_if(|_| index == field) {
            Some(fill) => fill(slot.column())?,
            None => slot.rows().push_null(),
        }
    }
    column.end_row();
    Ok(())
}

fn read_steps(
    steps: &[Step],
    constants: &[(usize, crate::avro_schema::Plan)],
    column: &mut StructColumn,
    input: &mut &[u8],
    context: &mut Context<'_>,
) -> Outcome<()> {
    for step in steps {
        match step {
            Step::Into(index, field) => {
                let slot = column.slots()[*index].column();
                read(&field.plan, slot, input, context).map_err(|fault| fault.within(&field.name))?;
            }
            Step::Skip(plan) => skip(plan, input, context, 0)?,
        }
    }
    for (index, plan) in constants {
        read(plan, column.slots()[*index].column(), &mut [].as_slice(), context)?;
    }
    column.end_row();
    Ok(())
}

/// Reads a datum that goes nowhere.
fn skip(plan: &JsonPlan, input: &mut &[u8], context: &Context<'_>, depth: usize) -> Outcome<()> {
    if depth > DEPTH_MAX * 4 {
        return Err(Fault::new(format!("the record nests deeper than {} levels", DEPTH_MAX * 4)));
    }
    match plan {
        JsonPlan::Null => {}
        JsonPlan::Boolean => drop(boolean(input)?),
        JsonPlan::Number => drop(long(input)?),
        JsonPlan::Float => drop(float(input)?),
        JsonPlan::Double => drop(double(input)?),
        JsonPlan::Bytes | JsonPlan::Text => drop(take_counted(input)?),
        JsonPlan::Fixed(size) => drop(take(input, *size)?),
        JsonPlan::Enum(symbols) => drop(symbol_index(symbols.len(), input)?),
        JsonPlan::Named(name) => skip(context.named_plan(name)?, input, context, depth + 1)?,
        JsonPlan::Union(branches) => {
            let branch = long(input)?;
            let plan = usize::try_from(branch).ok().and_then(|branch| branches.get(branch));
            skip(plan.ok_or_else(|| no_branch(branch, branches.len()))?, input, context, depth + 1)?;
        }
        JsonPlan::Record(fields) => {
            fields.iter().try_for_each(|(name, plan)| {
                skip(plan, input, context, depth + 1).map_err(|fault| fault.within(name))
            })?;
        }
        JsonPlan::Array(plan) => blocks(input, |input| skip(plan, input, context, depth + 1))?,
        JsonPlan::Map(plan) => blocks(input, |input| {
            take_counted(input)?;
            skip(plan, input, context, depth + 1)
        })?,
    }
    Ok(())
}
