"""Records with any bytes, and the letters that became of them, by confluent-kafka. Bytes are hexadecimal text."""
import time


def produce(bootstrap, topic, records):
    from confluent_kafka import Producer

    producer, errors = Producer({"bootstrap.servers": bootstrap}), []
    for record in records:
        headers = [(name, None if value is None else bytes.fromhex(value)) for name, value in record["headers"]]
        producer.produce(topic, partition=0, timestamp=record["timestamp"], headers=headers,
                         key=None if record["key"] is None else bytes.fromhex(record["key"]),
                         value=None if record["value"] is None else bytes.fromhex(record["value"]),
                         on_delivery=lambda error, _: error and errors.append(error))
    if producer.flush(60) or errors:
        raise RuntimeError(f"not delivered: {errors[:3]}")


def letters(bootstrap, topic, count, limit_s):
    """Everything in the topic, once there are `count` letters in it."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "letters", "enable.auto.commit": False,
                         "isolation.level": "read_committed", "log_level": 0})
    limit, end = time.monotonic() + limit_s, 0
    while end < count:
        if time.monotonic() > limit:
            raise TimeoutError(f"{topic} has {end} letters of {count}")
        time.sleep(0.1)
        try:
            end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]
        except Exception:
            continue
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    while len(found) < end:
        message = consumer.poll(1)
        if time.monotonic() > limit + 30:
            raise TimeoutError(f"could not read {topic}")
        if message is None:
            continue
        if message.error():
            raise RuntimeError(str(message.error()))
        shown = lambda value: None if value is None else value.hex()
        found.append({"key": shown(message.key()), "value": shown(message.value()), "timestamp": message.timestamp()[1],
                      "headers": [[name, shown(value)] for name, value in message.headers() or []]})
    consumer.close()
    return found
