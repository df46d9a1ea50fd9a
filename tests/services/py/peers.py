# Tables in directories: what delta-rs and a replay of the log make of them, and tables that delta-rs makes.
import pathlib
import shutil

from deltalake import DeltaTable, write_deltalake


def read_delta_rs(place, version):
    """The table at a version, by delta-rs."""
    return seen(DeltaTable(place, version=version).to_pyarrow_table())


def read_log(place, version):
    """The table at a version, by a replay of its log from the first commit and, if there is one, from its checkpoint."""
    ways = []
    for from_checkpoint in (False, True):
        state = replay(names(place), reader(place), version, from_checkpoint)
        rows = sorted(rows_of(state, reader(place)), key=lambda row: json.dumps(row, sort_keys=True))
        ways.append({"columns": kind_of(schema(state)), "rows": rows})
    if ways[0] != ways[1]:
        raise ValueError(f"version {version} differs over its checkpoint")
    return ways[0]


def names(place):
    return [path.name for path in pathlib.Path(place, "_delta_log").iterdir()]


def reader(place):
    return lambda name: pathlib.Path(place, name).read_bytes()


def newest(place):
    """The newest version, that of the newest checkpoint, and the numbers of versions that lack."""
    known, there = commits(names(place)), checkpoints(names(place))
    lacking = sorted(set(range(max(known))) - known.keys())
    return {"version": max(known), "checkpoint": max(there, default=None), "lacking": lacking}


def copy_without_old_commits(place, copy):
    """A copy of the table that can only be read over its newest checkpoint; how many commits it lacks. The commit of the
    checkpoint's own version stays: Spark wants to see one."""
    shutil.copytree(place, copy)
    there = max(checkpoints(names(copy)))
    old = [name for version, name in commits(names(copy)).items() if version < there]
    for name in old:
        pathlib.Path(copy, "_delta_log", name).unlink()
    return len(old)


def make(place, kind):
    """A table as delta-rs makes it, with rows."""
    import datetime
    import decimal

    import pyarrow as pa

    day, moment = datetime.date(2025, 12, 31), datetime.datetime(2025, 12, 31, 23, 59, 59, 123456)
    columns, more = {
        "partitioned": ({
            "id": pa.array([1, 2], pa.int64()), "day": pa.array([day, None], pa.date32()),
            "small": pa.array([-3, None], pa.int16()), "kind": ["a b", None], "name": ["x", None],
        }, {"partition_by": ["day", "small", "kind"]}),
        "nested": ({
            "nested": pa.array([{"items": [{"x": "q", "y": 7}], "a": 1}], pa.struct(
                [("items", pa.list_(pa.struct([("x", pa.string()), ("y", pa.int64())]))), ("a", pa.int32())])),
            "id": pa.array([1], pa.int64()), "tags": pa.array([[("z", 9)]], pa.map_(pa.string(), pa.int32())),
        }, {}),
        "types": ({
            "id": pa.array([1], pa.int64()), "amount": pa.array([decimal.Decimal("-1.500")], pa.decimal128(12, 3)),
            "at": pa.array([moment], pa.timestamp("us", "UTC")), "local": pa.array([moment], pa.timestamp("us")),
            "tiny": pa.array([1], pa.int8()), "single": pa.array([math.inf], pa.float32()),
            "score": pa.array([math.nan], pa.float64()), "flag": [None], "day": pa.array([day], pa.date32()),
        }, {}),
        "not_null": ({"id": pa.array([1], pa.int64()), "name": ["x"], "note": [None]}, {}),
        "checkpointed": ({"id": pa.array([1], pa.int64()), "name": ["x"]}, {}),
    }[kind]
    table = pa.table(columns)
    types = {"flag": pa.bool_(), "note": pa.string()}
    fields = [pa.field(field.name, types.get(field.name, field.type), kind != "not_null" or field.name == "note")
              for field in table.schema]
    write_deltalake(place, table.cast(pa.schema(fields)), **more)
    if kind == "checkpointed":
        for _ in range(3):
            write_deltalake(place, table, mode="append")
        DeltaTable(place).create_checkpoint()


def append_often(place, appends):
    """Appends its own numbers again and again, and tidies up now and then; how many numbers there are."""
    import pyarrow as pa

    for append in range(appends):
        numbers = list(range(append * 5, append * 5 + 5))
        rows = pa.table({"number": pa.array(numbers, pa.int64()), "writer": ["delta-rs"] * 5})
        write_deltalake(place, rows, mode="append")
        if append % 10 == 9:
            DeltaTable(place).optimize.compact()
    return appends * 5
