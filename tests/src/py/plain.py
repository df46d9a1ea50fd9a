"""Columns and values of Arrow as JSON, the same whoever read them. Put in front of the scripts that return such."""
import datetime
import decimal
import json
import math

import pyarrow


def plain(value):
    """A value of Arrow as JSON has it: see Row in readers.rs."""
    match value:
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case bytes():
            return text(value)
        case float() if not math.isfinite(value):
            return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        case datetime.datetime() if value.tzinfo:
            return value.astimezone(datetime.timezone.utc).isoformat()
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta() | decimal.Decimal():
            return str(value)
        case _:
            return value


def text(value):
    return value.decode("latin-1")


def kind(data_type):
    """A type of Arrow as JSON. What readers choose themselves is left out: wide offsets, views, names of elements."""
    types = pyarrow.types
    if types.is_struct(data_type):
        return {field.name: kind(field.type) for field in data_type}
    if types.is_list(data_type) or types.is_large_list(data_type):
        return [kind(data_type.value_type)]
    if types.is_map(data_type):
        return {"key": kind(data_type.key_type), "value": kind(data_type.item_type)}
    if types.is_timestamp(data_type):
        return f"timestamp[{data_type.unit}]" + (" in UTC" if data_type.tz else "")
    return str(data_type).removeprefix("large_").removesuffix("_view")


def seen(table):
    """What a reader made of a table: its columns, and its rows in the order of their text."""
    rows = [plain(row) for row in table.to_pylist()]
    return {"columns": kind(pyarrow.struct(table.schema)), "rows": sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))}
