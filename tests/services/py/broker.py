"""What tests do to a broker beyond the harness: topics with configurations, transactions, groups, compaction."""
import time

from confluent_kafka import Consumer, ConsumerGroupState, Producer, TopicPartition
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
                                   ResourceType)

LIMIT_S = 60


def create_topic(bootstrap, topic, partitions, config):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, partitions, -1, config=config)])[topic].result(LIMIT_S)
    wait_for(lambda: has_leaders(admin, topic, partitions), f"{topic} has no leaders")


def add_partitions(bootstrap, topic, partitions):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(LIMIT_S)
    wait_for(lambda: has_leaders(admin, topic, partitions), f"new partitions of {topic} have no leaders")


def has_leaders(admin, topic, partitions):
    described = admin.list_topics(topic, timeout=LIMIT_S).topics[topic]
    return len(described.partitions) == partitions and all(one.leader >= 0 for one in described.partitions.values())


def delete_topic(bootstrap, topic):
    """Returns when the broker no longer knows the topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.delete_topics([topic])[topic].result(LIMIT_S)
    wait_for(lambda: topic not in admin.list_topics(timeout=LIMIT_S).topics, f"{topic} is still there")


def delete_group(bootstrap, group):
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.delete_consumer_groups([group])[group].result(LIMIT_S)


def wait_group_empty(bootstrap, group):
    admin = AdminClient({"bootstrap.servers": bootstrap})

    def is_empty():
        found = admin.list_consumer_groups(states={ConsumerGroupState.EMPTY}).result(LIMIT_S).valid
        return any(one.group_id == group for one in found)

    wait_for(is_empty, f"{group} has members")


def transact(bootstrap, topic, transactions):
    """Each of `transactions` is {"records": [[partition, value], ..], "commit": bool}, one after the other."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"of-{topic}"})
    producer.init_transactions(LIMIT_S)
    for transaction in transactions:
        producer.begin_transaction()
        for partition, value in transaction["records"]:
            producer.produce(topic, value=value.encode(), partition=partition)
        if producer.flush(LIMIT_S):
            raise RuntimeError("records are not answered")
        if transaction["commit"]:
            producer.commit_transaction(LIMIT_S)
        else:
            producer.abort_transaction(LIMIT_S)


def set_broker_config(bootstrap, name, value):
    alter(bootstrap, ResourceType.BROKER, "1", {name: value})


def alter(bootstrap, kind, name, config):
    entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in config.items()]
    resource = ConfigResource(kind, name, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.incremental_alter_configs([resource])[resource].result(LIMIT_S)


def wait_compacted(bootstrap, topic, records):
    """Waits until partition 0 has at most so many records left; their offsets."""
    end = time.monotonic() + LIMIT_S
    while True:
        offsets = offsets_left(bootstrap, topic)
        if len(offsets) <= records:
            return offsets
        if time.monotonic() > end:
            raise TimeoutError(f"{topic} still has the records {offsets}")
        time.sleep(0.2)


def offsets_left(bootstrap, topic):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"left-{topic}", "enable.partition.eof": True,
                         "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    offsets = []
    while True:
        message = consumer.poll(LIMIT_S)
        if message is None:
            raise TimeoutError(f"{topic} cannot be read")
        if message.error():
            consumer.close()
            return offsets
        offsets.append(message.offset())


def wait_for(condition, otherwise):
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{otherwise} after {LIMIT_S} s")
        time.sleep(0.05)
