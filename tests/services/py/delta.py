# Delta tables, read by delta-rs for Python and, file by file as the log lists them, by pyarrow.
import io
import json

import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema


def options(store):
    return {
        "AWS_ENDPOINT_URL": store["endpoint"],
        "AWS_ACCESS_KEY_ID": store["access_key"],
        "AWS_SECRET_ACCESS_KEY": store["secret_key"],
        "AWS_REGION": store["region"],
        "AWS_ALLOW_HTTP": "true",
    }


def open_table(store, place):
    return DeltaTable(place) if place.startswith("/") else DeltaTable(place, storage_options=options(store))


def create(store, place, schema, partition_by):
    """Makes a table with the columns of a StructType."""
    at = {} if place.startswith("/") else {"storage_options": options(store)}
    DeltaTable.create(place, schema=Schema.from_json(schema), partition_by=partition_by, **at)


def rows(store, place):
    """Every row, as JSON."""
    table = open_table(store, place).to_pyarrow_table()
    return [json.loads(json.dumps(row, default=str)) for row in table.to_pylist()]


def columns(store, place):
    """The type of each column, as the log has it."""
    schema = json.loads(open_table(store, place).schema().to_json())
    return {field["name"]: field["type"] for field in schema["fields"]}


def positions(store, place, apps):
    """How far each application got."""
    table = open_table(store, place)
    return {app: table.transaction_version(app) for app in apps}


def description(store, place):
    table = open_table(store, place)
    protocol = table.protocol()
    metadata = table.metadata()
    return {
        "version": table.version(),
        "protocol": [protocol.min_reader_version, protocol.min_writer_version],
        "partition_columns": metadata.partition_columns,
        "columns": [field.name for field in table.schema().fields],
        "files": len(table.file_uris()),
    }


def same(stat, value):
    if isinstance(value, float):
        return abs(stat - value) <= abs(value) * 1e-6
    return stat == value


def wrong_statistics(store, place, bucket, prefix):
    """Compares the statistics of every file that the log lists with the rows that pyarrow reads from it."""
    client = connect(store)
    listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/_delta_log/").get("Contents", [])
    wrong, adds = [], 0
    for item in listed:
        if not item["Key"].endswith(".json"):
            continue
        text = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read().decode()
        for line in map(json.loads, text.splitlines()):
            add = line.get("add")
            if add is None:
                continue
            adds += 1
            body = client.get_object(Bucket=bucket, Key=f"{prefix}/{add['path']}")["Body"].read()
            table, stats = pq.read_table(io.BytesIO(body)), json.loads(add["stats"])
            if stats["numRecords"] != table.num_rows or add["size"] != len(body):
                wrong.append([add["path"], "rows or bytes"])
            for name in table.column_names:
                column = table[name]
                if stats["nullCount"].get(name) != column.null_count:
                    wrong.append([add["path"], name, "nulls"])
                bounds = pc.min_max(column) if name in stats["minValues"] else None
                if bounds is not None and not (
                    same(stats["minValues"][name], bounds["min"].as_py())
                    and same(stats["maxValues"][name], bounds["max"].as_py())
                ):
                    wrong.append([add["path"], name, "bounds"])
    return {"wrong": wrong, "adds": adds}


def append(store, place, rows):
    """Appends as another program does."""
    import pyarrow as pa
    from deltalake import write_deltalake

    table = open_table(store, place)
    schema = table.schema().to_arrow() if hasattr(table.schema(), "to_arrow") else table.schema().to_pyarrow()
    data = pa.Table.from_pylist(rows, schema=pa.schema(schema))
    write_deltalake(place, data, mode="append", storage_options=options(store))
    return table.version()


def numbers_at(store, place, column, version):
    """The numbers of a column at a version, in order."""
    table = open_table(store, place)
    table.load_as_version(version)
    return sorted(number for number in table.to_pyarrow_table(columns=[column])[column].to_pylist() if number is not None)


def written_by(store, place, rows, txns):
    """A table of delta-rs whose last commit says how far these applications are, as kafka-delta-ingest does."""
    import pyarrow as pa
    from deltalake import CommitProperties, Transaction, write_deltalake

    types = {"sepal_length": pa.float32(), "prediction": pa.int32()}
    data = pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))
    said = CommitProperties(app_transactions=[Transaction(app, version) for app, version in txns.items()])
    write_deltalake(place, data, mode="append", storage_options=options(store), commit_properties=said)
    return open_table(store, place).version()


def history(store, place):
    return open_table(store, place).history()
