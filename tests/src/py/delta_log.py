"""A Delta table by its log alone: what the protocol says, without any library of Delta. `names` are those of the objects in
_delta_log, and `read` fetches one by its path below the table. Put in front of the scripts that look into tables."""
import io
import json
import re
import urllib.parse

import pyarrow.parquet

COMMIT = re.compile(r"^(\d{20})\.json$")
CHECKPOINT = re.compile(r"^(\d{20})\.checkpoint(\.[\w-]+)?\.parquet$")


def commits(names):
    """The commits by version."""
    return {int(match[1]): name for name in names if (match := COMMIT.match(name))}


def checkpoints(names):
    """The checkpoints by version; those in several parts are not made here."""
    return {int(match[1]): name for name in names if (match := CHECKPOINT.match(name))}


def replay(names, read, version=None, from_checkpoint=True):
    """The table at a version, by default its newest: its protocol, metadata, positions of applications, files and, of
    those that are not in it any more, the paths. Begins at the newest checkpoint, or at the first commit."""
    known, state = commits(names), {"txns": {}, "files": {}, "removed": set()}
    version = max(known) if version is None else version
    first = 0
    if from_checkpoint:
        usable = {at: name for at, name in checkpoints(names).items() if at <= version}
        if usable:
            first = max(usable) + 1
            for action in checkpoint(usable[max(usable)], read):
                apply(state, action)
    for at in range(first, version + 1):
        for action in map(json.loads, read(f"_delta_log/{known[at]}").decode().splitlines()):
            apply(state, action)
    return state | {"version": version}


def checkpoint(name, read):
    """The actions of a checkpoint, those in its sidecars too."""
    for action in parquet_rows(read(f"_delta_log/{name}")):
        sidecar = action.get("sidecar")
        if sidecar:
            yield from parquet_rows(read(f"_delta_log/_sidecars/{urllib.parse.unquote(sidecar['path'])}"))
        else:
            yield action


def parquet_rows(body):
    for row in pyarrow.parquet.read_table(io.BytesIO(body)).to_pylist(maps_as_pydicts="strict"):
        yield {name: action for name, action in row.items() if action is not None}


def without_nulls(action):
    """A field that is null and one that is not there are the same."""
    return {name: value for name, value in action.items() if value is not None}


def apply(state, action):
    match action:
        case {"protocol": protocol}:
            state["protocol"] = without_nulls(protocol)
        case {"metaData": metadata}:
            state["metadata"] = without_nulls(metadata)
        case {"txn": txn}:
            state["txns"][txn["appId"]] = txn["version"]
        case {"add": add}:
            if add.get("deletionVector"):
                raise ValueError(f"{add['path']} has a deletion vector, which is not read here")
            state["files"][add["path"]] = add
            state["removed"].discard(add["path"])
        case {"remove": remove}:
            state["files"].pop(remove["path"], None)
            state["removed"].add(remove["path"])


def schema(state):
    return json.loads(state["metadata"]["schemaString"])


def kind_of(data_type):
    """A type of a table as `kind` of plain.py has those of Arrow."""
    if isinstance(data_type, dict):
        match data_type["type"]:
            case "struct":
                return {field["name"]: kind_of(field["type"]) for field in data_type["fields"]}
            case "array":
                return [kind_of(data_type["elementType"])]
            case "map":
                return {"key": kind_of(data_type["keyType"]), "value": kind_of(data_type["valueType"])}
    names = {"byte": "int8", "short": "int16", "integer": "int32", "long": "int64", "boolean": "bool",
             "date": "date32[day]", "timestamp": "timestamp[us] in UTC", "timestamp_ntz": "timestamp[us]"}
    decimal_type = re.match(r"decimal\((\d+),\s*(\d+)\)", data_type)
    return f"decimal128({decimal_type[1]}, {decimal_type[2]})" if decimal_type else names.get(data_type, data_type)


def rows_of(state, read):
    """Every row, as `plain` of plain.py has it: values of partition columns from the log, and null where a file is older
    than a column."""
    fields, in_paths = schema(state)["fields"], state["metadata"]["partitionColumns"]
    for path, add in state["files"].items():
        body = read(urllib.parse.unquote(path))
        if len(body) != add["size"]:
            raise ValueError(f"{path} has {len(body)} bytes, and {add['size']} by the log")
        table = pyarrow.parquet.ParquetFile(io.BytesIO(body)).read()
        if table.num_rows != json.loads(add["stats"])["numRecords"]:
            raise ValueError(f"{path} has {table.num_rows} rows, and others by the log: {add['stats']}")
        for row in table.to_pylist():
            row |= {name: of_text(add["partitionValues"][name], field["type"])
                    for field in fields if (name := field["name"]) in in_paths}
            yield {field["name"]: shaped(plain(row.get(field["name"])), field["type"]) for field in fields}


def of_text(text, data_type):
    """A value of a partition column; null and the empty text are the same there."""
    if text is None or text == "":
        return None
    match data_type:
        case "byte" | "short" | "integer" | "long":
            return int(text)
        case "float" | "double":
            return float(text)
        case "boolean":
            return text == "true"
        case "timestamp" | "timestamp_ntz":
            moment = datetime.datetime.fromisoformat(text)
            zone = datetime.timezone.utc if data_type == "timestamp" else None
            return moment.replace(tzinfo=moment.tzinfo or zone)
        case _ if data_type.startswith("decimal"):
            return decimal.Decimal(text)
        case _:
            return text


def shaped(value, data_type):
    """A value with all fields of its type, in their order."""
    if value is None or not isinstance(data_type, dict):
        return value
    match data_type["type"]:
        case "struct":
            return {field["name"]: shaped(value.get(field["name"]), field["type"]) for field in data_type["fields"]}
        case "array":
            return [shaped(item, data_type["elementType"]) for item in value]
        case "map":
            return [[key, shaped(item, data_type["valueType"])] for key, item in value]
