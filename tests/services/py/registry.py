"""Records as confluent-kafka's own serializers write them: Avro, Protobuf and JSON Schema through a schema registry."""
import datetime
import decimal
import json

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.serialization import MessageField, SerializationContext

EVERY_TYPE = {
    "type": "record", "name": "Every", "namespace": "org.example", "fields": [
        {"name": "id", "type": "string"},
        {"name": "an_int", "type": "int"},
        {"name": "a_long", "type": ["null", "long"], "default": None},
        {"name": "a_float", "type": "float"},
        {"name": "a_double", "type": "double"},
        {"name": "a_boolean", "type": "boolean"},
        {"name": "some_bytes", "type": "bytes"},
        {"name": "a_fixed", "type": {"type": "fixed", "name": "Four", "size": 4}},
        {"name": "an_enum", "type": {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]}},
        {"name": "a_list", "type": {"type": "array", "items": ["null", "string"]}},
        {"name": "a_map", "type": {"type": "map", "values": "long"}},
        {"name": "nested", "type": ["null", {"type": "record", "name": "Inner", "fields": [
            {"name": "x", "type": "double"}, {"name": "y", "type": ["null", "string"], "default": None}]}]},
        {"name": "a_union", "type": ["null", "long", "string"]},
        {"name": "a_date", "type": {"type": "int", "logicalType": "date"}},
        {"name": "a_time", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "an_instant", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "a_fine_instant", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "a_decimal", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3}},
    ],
}


def every_record(number):
    odd = number % 2 == 1
    return {
        "id": f"r-{number}",
        "an_int": number - 5,
        "a_long": None if odd else 2**40 + number,
        "a_float": number / 4,
        "a_double": number / 7,
        "a_boolean": odd,
        "some_bytes": bytes([number % 256, 0, 255]),
        "a_fixed": b"abcd",
        "an_enum": "RED" if odd else "GREEN",
        "a_list": ["ä", None, f"{number}"][: number % 4],
        "a_map": {"k": number},
        "nested": None if number % 3 == 0 else {"x": number * 1.5, "y": "y" if odd else None},
        "a_union": [None, number, f"text-{number}"][number % 3],
        "a_date": datetime.date(2026, 1, 1) + datetime.timedelta(days=number),
        "a_time": datetime.time(1, 2, 3, 4000),
        "an_instant": datetime.datetime(2026, 2, 3, 4, 5, 6, 7000, datetime.timezone.utc) + datetime.timedelta(hours=number),
        "a_fine_instant": datetime.datetime(2026, 2, 3, 4, 5, 6, 789, datetime.timezone.utc),
        "a_decimal": decimal.Decimal(number) / 8,
    }


def every_expected(number):
    """The same record as the reader of Parquet tells it (see Row in readers.rs)."""
    record = every_record(number)
    union = record["a_union"]
    for name in ("some_bytes", "a_fixed"):
        record[name] = record[name].decode("latin-1")
    record["a_union"] = None if union is None else {
        "long": union if isinstance(union, int) else None, "string": union if isinstance(union, str) else None}
    record["a_map"] = [[key, value] for key, value in record["a_map"].items()]
    for name in ("a_date", "a_time", "an_instant", "a_fine_instant"):
        record[name] = record[name].isoformat()
    record["a_decimal"] = str(record["a_decimal"].quantize(decimal.Decimal("0.001")))
    return record


def connect_registry(url):
    """A client that does not wait for ever."""
    return SchemaRegistryClient({"url": url, "timeout": 15})


def serialized(serialize, context, values):
    """All values. The first one registers its schema: a registry that has just started may keep a request for ever."""
    for attempt in range(4):
        try:
            serialize(values[0], context)
            break
        except Exception:
            if attempt == 3:
                raise
    return [serialize(value, context) for value in values]


def avro(client, schema):
    from confluent_kafka.schema_registry.avro import AvroSerializer

    return AvroSerializer(client, json.dumps(schema))


def produce_values(bootstrap, topic, serialized):
    producer, errors = Producer({"bootstrap.servers": bootstrap}), []
    for value in serialized:
        producer.produce(topic, value=value, partition=0, on_delivery=lambda error, _: error and errors.append(error))
    if producer.flush(60) or errors:
        raise RuntimeError(f"not delivered: {errors[:3]}")


def produce_every_avro(bootstrap, registry, topic, start, end):
    serialize = avro(connect_registry(registry), EVERY_TYPE)
    context = SerializationContext(topic, MessageField.VALUE)
    produce_values(bootstrap, topic, serialized(serialize, context, [every_record(n) for n in range(start, end)]))
    return [every_expected(n) for n in range(start, end)]


def produce_every_avro_anew(bootstrap, registry, topic, start, end):
    """The same records under a second schema, which has one symbol more."""
    schema = json.loads(json.dumps(EVERY_TYPE).replace('["RED", "GREEN"]', '["RED", "GREEN", "BLUE"]'))
    serialize = avro(connect_registry(registry), schema)
    context = SerializationContext(topic, MessageField.VALUE)
    produce_values(bootstrap, topic, serialized(serialize, context, [every_record(n) for n in range(start, end)]))
    return [every_expected(n) for n in range(start, end)]


def produce_json_schema(bootstrap, registry, topic, text, records):
    from confluent_kafka.schema_registry.json_schema import JSONSerializer

    serialize = JSONSerializer(text, connect_registry(registry))
    context = SerializationContext(topic, MessageField.VALUE)
    produce_values(bootstrap, topic, serialized(serialize, context, records))


def messages():
    """The classes of a file of messages, without protoc."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="prediction.proto", package="org.example", syntax="proto3", dependency=["google/protobuf/timestamp.proto"])
    inner = file.message_type.add(name="Inputs")
    inner.field.add(name="age", number=1, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL, proto3_optional=True,
                    oneof_index=0)
    inner.oneof_decl.add(name="_age")
    inner.field.add(name="region", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    kind = file.enum_type.add(name="Kind")
    kind.value.add(name="UNKNOWN", number=0)
    kind.value.add(name="CHURN", number=1)
    one = file.message_type.add(name="Prediction")
    for number, (name, kind_of) in enumerate([("id", field.TYPE_STRING), ("count", field.TYPE_INT32),
                                              ("big", field.TYPE_UINT64), ("confidence", field.TYPE_DOUBLE),
                                              ("flag", field.TYPE_BOOL), ("raw", field.TYPE_BYTES)], start=1):
        one.field.add(name=name, number=number, type=kind_of, label=field.LABEL_OPTIONAL)
    one.field.add(name="inputs", number=7, type=field.TYPE_MESSAGE, type_name=".org.example.Inputs", label=field.LABEL_OPTIONAL)
    one.field.add(name="kind", number=8, type=field.TYPE_ENUM, type_name=".org.example.Kind", label=field.LABEL_OPTIONAL)
    one.field.add(name="numbers", number=9, type=field.TYPE_INT64, label=field.LABEL_REPEATED)
    one.field.add(name="at", number=10, type=field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=field.LABEL_OPTIONAL)
    one.field.add(name="tags", number=11, type=field.TYPE_STRING, label=field.LABEL_REPEATED)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("org.example.Prediction"))


def produce_protobuf(bootstrap, registry, topic, count):
    from confluent_kafka.schema_registry.protobuf import ProtobufSerializer

    message = messages()
    serialize = ProtobufSerializer(message, connect_registry(registry), {"use.deprecated.format": False})
    context = SerializationContext(topic, MessageField.VALUE)
    values, expected = [], []
    for n in range(count):
        one = message(id=f"p-{n}", count=n - 3, big=2**40 + n, confidence=n / 7, flag=n % 2 == 1, raw=bytes([n, 255]),
                      kind=n % 2, numbers=list(range(n % 4)), tags=["a", "ö"][: n % 3])
        one.at.FromDatetime(datetime.datetime(2026, 5, 6, 7, 8, 9))
        if n % 3:
            one.inputs.region = "north"
            if n % 2:
                one.inputs.age = n
        values.append(one)
        inputs = {"age": n if n % 2 else None, "region": "north"} if n % 3 else None
        expected.append({
            "id": f"p-{n}", "count": n - 3, "big": 2**40 + n, "confidence": n / 7, "flag": n % 2 == 1,
            "raw": bytes([n, 255]).decode("latin-1"), "inputs": inputs, "kind": ["UNKNOWN", "CHURN"][n % 2],
            "numbers": list(range(n % 4)), "at": "2026-05-06T07:08:09+00:00", "tags": ["a", "ö"][: n % 3]})
    produce_values(bootstrap, topic, serialized(serialize, context, values))
    return expected
