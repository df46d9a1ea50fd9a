"""What tests do to topics and groups, with confluent-kafka."""
import json
import re
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

LIMIT_S = 60


def create_topic(bootstrap, topic, partitions):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, partitions, -1)])[topic].result(LIMIT_S)
    end = time.monotonic() + LIMIT_S
    while True:
        found = admin.list_topics(topic, timeout=LIMIT_S).topics[topic].partitions.values()
        if len(found) == partitions and all(partition.leader >= 0 for partition in found):
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{topic} has no leaders after {LIMIT_S} s")
        time.sleep(0.05)


def produce(bootstrap, topic, records):
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5,
                         "queue.buffering.max.messages": max(100_000, len(records)),
                         "message.max.bytes": 100_000_000})
    written, errors = [None] * len(records), []

    def callback(index):
        def delivered(error, message):
            if error:
                errors.append(str(error))
            else:
                written[index] = (message.partition(), message.offset())
        return delivered

    for index, record in enumerate(records):
        partition, timestamp = record["partition"], record["timestamp_ms"]
        producer.produce(
            topic,
            key=encoded(record["key"]),
            value=encoded(record["value"]),
            partition=-1 if partition is None else partition,
            timestamp=0 if timestamp is None else timestamp,
            headers=[(name, value.encode()) for name, value in record["headers"]],
            on_delivery=callback(index),
        )
        producer.poll(0)
    left = producer.flush(LIMIT_S)
    if errors or left:
        raise RuntimeError(f"{len(errors)} records refused, {left} not answered: {errors[:3]}")
    return written


def consume(bootstrap, group, topic, count):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False,
                         "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    records, next_offsets, end = [], {}, time.monotonic() + LIMIT_S
    while len(records) < count:
        message = consumer.poll(0.2)
        if time.monotonic() > end:
            raise TimeoutError(f"{len(records)} of {count} records after {LIMIT_S} s")
        if message is None:
            continue
        if message.error():
            raise RuntimeError(str(message.error()))
        records.append(record_of(message))
        next_offsets[message.partition()] = message.offset() + 1
    if next_offsets:
        commit_now(consumer, [TopicPartition(topic, *item) for item in next_offsets.items()])
    consumer.close()
    return records


def commit(bootstrap, group, topic, offsets):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    commit_now(consumer, [TopicPartition(topic, o["partition"], o["offset"], o["metadata"]) for o in offsets])
    consumer.close()


def committed(bootstrap, group, topic):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    partitions = partitions_of(consumer, topic)
    found = checked(lambda: consumer.committed(partitions, timeout=LIMIT_S))
    consumer.close()
    return [{"partition": p.partition, "offset": p.offset, "metadata": metadata_of(p)} for p in found if p.offset >= 0]


def wait_committed(bootstrap, group, topic, offsets, limit_s):
    """Returns what the group has committed once that is exactly `offsets` without metadata, or when the time is over."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    partitions, end = partitions_of(consumer, topic), time.monotonic() + limit_s
    while True:
        found = [{"partition": p.partition, "offset": p.offset, "metadata": metadata_of(p)}
                 for p in checked(lambda: consumer.committed(partitions, timeout=LIMIT_S)) if p.offset >= 0]
        wanted = [{"partition": number, "offset": offset, "metadata": ""} for number, offset in enumerate(offsets)]
        if found == wanted or time.monotonic() > end:
            consumer.close()
            return found
        time.sleep(0.05)


def offset_limits(bootstrap, topic):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "offset-limits"})
    found = []
    for partition in partitions_of(consumer, topic):
        start, end = consumer.get_watermark_offsets(partition, timeout=LIMIT_S)
        found.append({"partition": partition.partition, "start": start, "end": end})
    consumer.close()
    return found


def delete_records(bootstrap, topic, partition, offset):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
        future.result(LIMIT_S)


def partitions_of(consumer, topic):
    described = consumer.list_topics(topic, timeout=LIMIT_S).topics[topic]
    if described.error:
        raise RuntimeError(str(described.error))
    return [TopicPartition(topic, number) for number in sorted(described.partitions)]


def commit_now(consumer, offsets):
    checked(lambda: consumer.commit(offsets=offsets, asynchronous=False))


def checked(call):
    """The partitions that an offset request returns, once the group's coordinator is up; raises any other error."""
    starting = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE,
                KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            partitions = call()
            errors = [partition.error for partition in partitions if partition.error]
        except KafkaException as exception:
            errors = [exception.args[0]]
        if not errors:
            return partitions
        if errors[0].code() not in starting or time.monotonic() > end:
            raise KafkaException(errors[0])
        time.sleep(0.1)


def record_of(message):
    kind, timestamp_ms = message.timestamp()
    return {
        "partition": message.partition(),
        "offset": message.offset(),
        "key": decoded(message.key()),
        "value": decoded(message.value()),
        "timestamp_ms": timestamp_ms if kind else None,
        "headers": [(name, (value or b"").decode()) for name, value in message.headers() or []],
    }


def metadata_of(partition):
    """What was committed beside an offset. confluent-kafka reads it to the next NUL, which librdkafka does not put at its
    end; what follows the objects of a plan are other bytes of the heap."""
    try:
        read = partition.metadata or ""
    except UnicodeDecodeError as error:
        read = error.object.decode("utf-8", "replace")
    end = 0
    while read.startswith("{", end):
        try:
            end = json.JSONDecoder().raw_decode(read, end)[1]
        except ValueError:
            break
    read = read[:end] if end else read
    # The topic's id, which sluice puts into every commit.
    read = re.sub(r',"topic":"[\w-]+"}$', '}', read)
    # And the identity of the table that the records went to.
    return re.sub(r'^{("delta":"[\w-]+"|"topic":"[\w-]+")}$', '', read)


def encoded(text):
    return None if text is None else text.encode("latin-1")


def decoded(value):
    return None if value is None else value.decode("latin-1")
