# Reads Parquet files back, with pyarrow and with DuckDB.
import io
import pathlib
import tempfile

import pyarrow
import pyarrow.parquet


def read_parquet(store, bucket, prefix):
    return [
        row for key, body in bodies(store, bucket, prefix) for row in rows(key, pyarrow_table(io.BytesIO(body)))
    ]


def read_parquet_duckdb(store, bucket, prefix):
    found = []
    with tempfile.TemporaryDirectory() as directory:
        # One flat name: DuckDB would take columns from a path in Hive style.
        path = pathlib.Path(directory, "object.parquet")
        for key, body in bodies(store, bucket, prefix):
            path.write_bytes(body)
            found += rows(key, duckdb_table(str(path)))
    return found


def read_local_parquet(directory):
    paths = sorted(pathlib.Path(directory).rglob("*.parquet"), key=lambda path: str(path).encode())
    return [
        row for path in paths for row in rows(str(path.relative_to(directory)), pyarrow_table(str(path)))
    ]


def parquet_schema(store, bucket, key):
    file = pyarrow.parquet.ParquetFile(io.BytesIO(connect(store).get_object(Bucket=bucket, Key=key)["Body"].read()))
    footer = file.metadata
    chunks = [footer.row_group(group).column(column)
              for group in range(footer.num_row_groups) for column in range(footer.num_columns)]
    return {
        "columns": [{"name": f.name, "type": str(f.type), "nullable": f.nullable} for f in file.schema_arrow],
        "rows": footer.num_rows,
        "row_groups": footer.num_row_groups,
        "compression": sorted({chunk.compression for chunk in chunks}),
        "metadata": {text(name): text(value) for name, value in (footer.metadata or {}).items()},
        "created_by": footer.created_by,
    }


def bodies(store, bucket, prefix):
    client = connect(store)
    for key, _ in keys_and_sizes(client, bucket, prefix):
        if key.endswith(".parquet"):
            yield key, client.get_object(Bucket=bucket, Key=key)["Body"].read()


def pyarrow_table(source):
    # Not read_table: given a path, it adds columns from the directories' names.
    return pyarrow.parquet.ParquetFile(source).read()


def duckdb_table(path):
    import duckdb

    query = duckdb.connect().execute("select * from read_parquet(?, hive_partitioning = false)", [path])
    return query.to_arrow_table()


def rows(name, table):
    for position, record in enumerate(without_nanoseconds(table).to_pylist()):
        yield {"object": name, "position": position, "value": plain(record)}


def without_nanoseconds(table):
    """Python's times end at microseconds; a value that has nanoseconds is an error here, not a silent loss."""
    for number, field in enumerate(table.schema):
        if pyarrow.types.is_timestamp(field.type) and field.type.unit == "ns":
            column = table.column(number).cast(pyarrow.timestamp("us", field.type.tz), safe=True)
            table = table.set_column(number, field.name, column)
    return table
