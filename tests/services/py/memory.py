"""Millions of predictions to a topic, and how often each of them is in a bucket."""
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pyarrow
import pyarrow.compute
import pyarrow.parquet
from confluent_kafka import Producer

MODELS = ["insurance", "churn", "fraud", "credit", "demand"]


def produce_many(bootstrap, topic, partitions, records):
    """Record n goes to partition n % partitions; returns the bytes of all values."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": 1, "linger.ms": 50, "compression.type": "lz4",
                         "batch.size": 1 << 20, "queue.buffering.max.messages": 1_000_000,
                         "queue.buffering.max.kbytes": 1 << 18})
    total, failed = 0, []
    # Different partitions have different lengths of text and different rest of the fields.
    tails = [
        json.dumps({
            "model_version": f"1.{n % 7}.{n % 3}",
            "inputs": {"age": 20 + n % 60, "vehicle_damage": "Yes" if n % 3 else "No", "region": "region-" + "x" * (n % 40),
                       "annual_premium": n * 1.25, "vintage": n % 300, "policy_sales_channel": n % 160},
            "outputs": {"will_buy_insurance": n % 2 == 0, "confidence": n / 977.0, "explanation": "abcdefgh" * (n % 9)},
        })[1:]
        for n in range(977)
    ]
    on_delivery = lambda error, _: failed.append(str(error)) if error else None
    for n in range(records):
        value = '{"id":%d,"model_name":"%s","request":"%016x",%s' % (
            n, MODELS[n // partitions % 5], n * 0x9E3779B97F4A7C15 % (1 << 64), tails[n % 977])
        total += len(value)
        while True:
            try:
                producer.produce(topic, value, partition=n % partitions, on_delivery=on_delivery)
                break
            except BufferError:
                producer.poll(0.1)
        if n % 1000 == 0:
            producer.poll(0)
    left = producer.flush(120)
    if failed or left:
        raise RuntimeError(f"{len(failed)} records refused, {left} not answered: {failed[:3]}")
    return total


def count_once(store, bucket, records):
    """How often each id in 0..records is in the Parquet objects of the bucket."""
    client = connect(store)
    objects = [(key, size) for key, size in keys_and_sizes(client, bucket, "") if key.endswith(".parquet")]

    def ids(item):
        body = client.get_object(Bucket=bucket, Key=item[0])["Body"].read()
        file = pyarrow.parquet.ParquetFile(io.BytesIO(body))
        return file.read(columns=["id"])["id"].combine_chunks(), file.num_row_groups

    columns, groups = [], 0
    with ThreadPoolExecutor(4) as pool:
        for column, row_groups in pool.map(ids, objects):
            columns.append(column)
            groups += row_groups
    read = pyarrow.concat_arrays(columns)
    distinct = len(read.unique())
    ends = pyarrow.compute.min_max(read)
    in_order = (ends["min"].as_py(), ends["max"].as_py()) == (0, records - 1)
    return {
        "files": len(objects),
        "bytes": sum(size for _, size in objects),
        "row_groups": groups,
        "records": len(read),
        "duplicates": len(read) - distinct,
        "missing": records - distinct if in_order else records,
    }
