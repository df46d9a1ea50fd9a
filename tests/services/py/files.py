"""Reads what is not Parquet: JSON lines, Avro (by fastavro) and bytes. Put behind store.py."""
import datetime
import decimal
import gzip
import io
import json


def bodies_of(store, bucket, suffix):
    client = connect(store)
    for key, _ in keys_and_sizes(client, bucket, ""):
        if key.endswith(suffix) and "/_sluice/" not in key:
            body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            yield key, gzip.decompress(body) if key.endswith(".gz") else body


def read_json_lines(store, bucket, suffix):
    return [{"object": key, "position": position, "value": json.loads(line)}
            for key, body in bodies_of(store, bucket, suffix)
            for position, line in enumerate(body.decode().splitlines())]


def read_avro(store, bucket):
    import fastavro

    return [{"object": key, "position": position, "value": plain(record)}
            for key, body in bodies_of(store, bucket, ".avro")
            for position, record in enumerate(fastavro.reader(io.BytesIO(body)))]


def avro_schemas(store, bucket):
    import fastavro

    found = []
    for key, body in bodies_of(store, bucket, ".avro"):
        reader = fastavro.reader(io.BytesIO(body))
        found.append({"object": key, "schema": reader.writer_schema, "codec": reader.codec})
    return found


def read_texts(store, bucket, suffix):
    return [{"object": key, "position": 0, "value": body.decode("latin-1")}
            for key, body in bodies_of(store, bucket, suffix)]


def plain(value):
    match value:
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case bytes():
            return value.decode("latin-1")
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal():
            return str(value)
        case _:
            return value


def read_avro_of(store, bucket, suffix):
    import fastavro

    return [{"object": key, "position": position, "value": plain(record)}
            for key, body in bodies_of(store, bucket, suffix)
            for position, record in enumerate(fastavro.reader(io.BytesIO(body)))]


def parquet_indexes(store, bucket, key):
    """What pyarrow and DuckDB see of indexes, statistics and Bloom filters of a file with columns id and n."""
    import tempfile

    import duckdb
    import pyarrow.parquet

    body = connect(store).get_object(Bucket=bucket, Key=key)["Body"].read()
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(body)
        file.flush()
        group = pyarrow.parquet.ParquetFile(file.name).metadata.row_group(0)
        blooms = {path: offset is not None for path, offset in duckdb.execute(
            "select path_in_schema, bloom_filter_offset from parquet_metadata(?)", [file.name]).fetchall()}
        seen = {column.path_in_schema: {"bloom": blooms[column.path_in_schema],
                                        "statistics": column.is_stats_set,
                                        "column_index": column.has_column_index,
                                        "offset_index": column.has_offset_index}
                for column in map(group.column, range(group.num_columns))}
        seen["excluded"] = [all(excluded for (excluded,) in duckdb.execute(
            "select bloom_filter_excludes from parquet_bloom_probe(?, 'id', ?)", [file.name, value]).fetchall())
            for value in ("id-1x", "id-77")]
    return seen
