# What the crash ring produces, and how it counts what became of it.
import bisect
import collections
import concurrent.futures
import io
import json
import os
import pathlib
import random
import re
import threading
import time

# The record's number stands in its value and in its key, so that the log is counted without its values.
NAME = re.compile(r"^(?P<directory>[^/]+)/(?P<topic>[^/]+)/hour=\d\d/at=\d\d-\d\d/"
                  r"(?P=topic)\+(?P<partition>\d+)\+(?P<offset>\d{10})\.snappy\.parquet$")
# A schema's version, and what the start-up probe of the store leaves.
OURS = re.compile(r"^[^/]+/([^/]+/_sluice/(schema-\d{10}(-[0-9a-f]+)?|topic-[\w-]+)\.json|_sluice/probe)$")
# How many of the records are bad.
BAD = 0.02
# Records get a field that none had before.
FIELD_EVERY_S = 12
MARKS = ("sluice.nonce", "sluice.start", "sluice.end", "sluice.rows", "sluice.topic", "sluice.partition")


def bad_value(partition, number):
    return f'{{"p": {partition}, "n": {number}, oops'


def produce(bootstrap, topic, partitions, rate, burst_every_s, burst_records, burst_bytes, seed, stop):
    """Numbers records per partition and produces them at a steady rate, until the file `stop` is there. Now and then a
    burst of large ones goes to one partition, so that a file of it needs a multipart upload."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5,
                         "delivery.timeout.ms": 600_000, "log_level": 0})
    chance, numbers, errors = random.Random(seed), [0] * partitions, []

    def delivered(error, _message):
        if error:
            errors.append(str(error))

    def send(partition, padding, age):
        number = numbers[partition]
        numbers[partition] += 1
        # Some are bad: they are no row of anybody, and say so in their key.
        is_bad = padding is None and chance.random() < BAD
        value = bad_value(partition, number) if is_bad else json.dumps(
            {"p": partition, "n": number, "padding": padding, "more": {f"field{age // FIELD_EVERY_S}": number}})
        key = f"{partition}:{number}" + (":bad" if is_bad else "")
        while True:
            try:
                producer.produce(topic, key=key, value=value, partition=partition, on_delivery=delivered)
                return
            except BufferError:
                producer.poll(0.5)

    begin = time.monotonic()
    sent, bursts = 0, 0
    while not os.path.exists(stop):
        elapsed = time.monotonic() - begin
        # A pause of this process is not made up for: the rate stays modest.
        due = min(int(elapsed * rate) - sent, rate)
        for _ in range(due):
            send(chance.randrange(partitions), None, int(elapsed))
        sent = int(elapsed * rate)
        if burst_every_s and elapsed > (bursts + 1) * burst_every_s:
            bursts = int(elapsed / burst_every_s)
            partition = chance.randrange(partitions)
            for _ in range(burst_records):
                send(partition, os.urandom(burst_bytes // 2).hex(), int(elapsed))
        producer.poll(0.02)
    left = producer.flush(120)
    return {"produced": sum(numbers), "bursts": bursts, "errors": errors[:5], "left": left}


def log(bootstrap, topic, partitions):
    """The numbers that each partition holds, by offset: those of good records, and those of bad ones."""
    good, bad = [{} for _ in range(partitions)], [{} for _ in range(partitions)]
    for message in messages(bootstrap, topic, partitions):
        partition, number = map(int, message.key().split(b":")[:2])
        if partition != message.partition():
            raise RuntimeError(f"{message.key()} is in partition {message.partition()}")
        (bad if message.key().endswith(b":bad") else good)[partition][message.offset()] = number
    return good, bad


def letters(bootstrap, topic):
    """How often each bad record is in the dead letter topic, and what is there that should not be."""
    found, strange = collections.Counter(), []
    for message in messages(bootstrap, topic, 1):
        told = {name: value for name, value in message.headers() or []}
        place = tuple(int(told.get(f"__connect.errors.{name}", b"-1")) for name in ("partition", "offset"))
        partition, number = map(int, message.key().split(b":")[:2])
        if partition != place[0] or message.value() != bad_value(partition, number).encode():
            strange.append(f"{message.key()} of {place}: {message.value()[:100]}")
        found[place] += 1
    return found, strange


def messages(bootstrap, topic, partitions):
    """Everything in a topic."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "truth", "enable.auto.commit": False,
                         "auto.offset.reset": "earliest", "isolation.level": "read_committed"})
    all_partitions = [TopicPartition(topic, number, 0) for number in range(partitions)]
    ends = [consumer.get_watermark_offsets(partition, timeout=60)[1] for partition in all_partitions]
    limit = time.monotonic() + 300
    consumer.assign(all_partitions)
    left = {number for number, end in enumerate(ends) if end}
    while left:
        message = consumer.poll(1)
        if time.monotonic() > limit:
            raise TimeoutError(f"could not read {sorted(left)} of {topic}")
        if message is None:
            continue
        if message.error():
            raise RuntimeError(str(message.error()))
        yield message
        if message.offset() + 1 >= ends[message.partition()]:
            left.discard(message.partition())
    consumer.close()


def verdict(bootstrap, topic, partitions, store, bucket, committed, tables, dead):
    """Reads all objects and counts each record of the log; see Verdict in verdict.rs. `committed` has the offsets that
    the group of each connector committed, by the connector's name and the partition's number; `tables` are those that write tables; `dead` is the dead
    letter topic of one of them."""
    numbers, bad = log(bootstrap, topic, partitions)
    client = connect(store)
    listed = keys_and_sizes(client, bucket, "")
    found, strange = letters(bootstrap, dead)
    all_bad = {(partition, offset) for partition, held in enumerate(bad) for offset in held}
    strange += [f"a letter of {place}, which is not bad" for place in found.keys() - all_bad]
    missing = sorted(all_bad - found.keys())
    result = {"logged": sum(map(len, numbers)), "strange": strange[:20], "connectors": {},
              "bad": len(all_bad), "letters": sum(found.values()), "without_letter": len(missing),
              "without_letter_examples": [f"p{partition} at {offset}" for partition, offset in missing[:10]]}
    files = collections.defaultdict(list)
    for key, size in listed:
        if key.split("/")[0] in tables:
            continue
        match = NAME.match(key)
        if match and match["topic"] == topic and match["directory"] in committed:
            files[match["directory"]].append((key, size, int(match["partition"]), int(match["offset"])))
        elif not OURS.match(key):
            result["strange"].append(key)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for connector, offsets in committed.items():
            if connector in tables:
                result["connectors"][connector] = count_table(numbers, store, bucket, connector, topic, offsets, pool)
                continue
            read = pool.map(lambda file: (file, *contents(store, bucket, file[0])), files[connector])
            result["connectors"][connector] = count(numbers, read, offsets)
    return result


def contents(store, bucket, key):
    """The rows of an object as (p, n), the entries of its footer and the metadata of the object."""
    import pyarrow.parquet

    local = contents.__dict__.setdefault("local", threading.local())
    if not hasattr(local, "client"):
        local.client = connect(store)
    answer = local.client.get_object(Bucket=bucket, Key=key)
    file = pyarrow.parquet.ParquetFile(io.BytesIO(answer["Body"].read()))
    table = file.read(columns=["p", "n"])
    footer = {name.decode(): value.decode() for name, value in (file.metadata.metadata or {}).items()}
    return list(zip(table["p"].to_pylist(), table["n"].to_pylist())), footer, answer["Metadata"], answer["ETag"]


def count(numbers, read, committed):
    good = [sorted(held) for held in numbers]
    seen, broken, size_read, multipart, files = collections.defaultdict(list), [], 0, 0, 0
    for (key, size, partition, offset), rows, footer, metadata, etag in read:
        files, size_read = files + 1, size_read + size
        multipart += "-" in etag
        for row in rows:
            seen[row].append(key)
        # Every good record goes to one path of its cut, so a file holds what the log holds of them from its offset on.
        ahead = good[partition]
        first = bisect.bisect_left(ahead, offset)
        span = ahead[first:first + len(rows)]
        expected = [(partition, numbers[partition][at]) for at in span]
        # Bad records may follow the last row before the cut ends.
        behind = ahead[first + len(rows)] if first + len(rows) < len(ahead) else None
        if rows != expected:
            broken.append(f"{key}: rows {rows[:3]}.. are not those of the log, {expected[:3]}..")
        unmarked = [mark for mark in MARKS if mark not in footer]
        if unmarked:
            broken.append(f"{key}: no {unmarked} in its footer")
        elif int(footer["sluice.start"]) != offset or not span or int(footer["sluice.end"]) <= span[-1] or (
                behind is not None and int(footer["sluice.end"]) > behind):
            broken.append(f"{key}: {len(rows)} rows, footer says {footer['sluice.start']} to {footer['sluice.end']}")
        if "sluice.nonce" in footer and footer["sluice.nonce"] not in metadata.values():
            broken.append(f"{key}: the object's metadata has not the nonce of its footer: {metadata}")
    return {"files": files, "bytes": size_read, "multipart": multipart, "broken": broken[:20], "table": None} | compared(
        numbers, seen, committed)


def compared(numbers, seen, committed):
    """The records of the log beside those that were `seen`, each with the files that it is in."""
    logged = collections.Counter((partition, number) for partition, held in enumerate(numbers)
                                 for number in held.values())
    duplicates = {row: keys for row, keys in seen.items() if len(keys) > logged[row]}
    missing = {row for row, times in logged.items() if len(seen.get(row, ())) < times}
    # What lies behind the committed offset is not read again by anybody.
    losses = sorted((partition, number) for partition, held in enumerate(numbers) for offset, number in held.items()
                    if (partition, number) in missing and offset < committed.get(str(partition), 0))
    return {
        "records": sum(map(len, seen.values())), "duplicates": len(duplicates), "losses": len(losses),
        "unwritten": len(missing) - len(losses),
        "examples": [f"p{p} n{n} is in {keys}" for (p, n), keys in sorted(duplicates.items())[:10]]
        + [f"p{p} n{n} is in no file" for p, n in losses[:20]],
    }


def footers(store, bucket, directory):
    """Every object's footer and metadata into one file, for somebody who looks into a failure."""
    client = connect(store)
    path = pathlib.Path(directory, "objects.jsonl")
    with path.open("w") as out:
        for key, size in keys_and_sizes(client, bucket, ""):
            about = {"key": key, "size": size}
            answer = client.head_object(Bucket=bucket, Key=key)
            about |= {"modified": answer["LastModified"].isoformat(), "metadata": answer["Metadata"]}
            if key.endswith(".parquet") and "/_delta_log/" not in key:
                _, about["footer"], _, _ = contents(store, bucket, key)
            about.get("footer", {}).pop("ARROW:schema", None)
            out.write(json.dumps(about) + "\n")
    return str(path)
