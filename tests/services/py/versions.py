"""Records of two versions of a schema that alternate, as confluent-kafka's own serializers write them."""


def prediction(number):
    """A record of version 1 if the number is even, of version 2 if it is odd."""
    value = {
        "id": f"p-{number}", "model_name": "insurance", "model_version": "1.0.0",
        "inputs": {"age": None if number % 3 == 0 else 20 + number, "previously_insured": number % 2 == 0,
                   "region": "söuth" if number % 4 == 0 else None},
        "outputs": {"will_buy_insurance": number % 2 == 1, "confidence": number / 7},
    }
    if number % 2 == 1:
        value["outputs"]["calibrated"] = number / 9
        value["latency_ms"] = None if number % 5 == 0 else number * 3
        value["stage"] = "shadow"
    return value


def without_nulls(value):
    if not isinstance(value, dict):
        return value
    return {name: without_nulls(field) for name, field in value.items() if field is not None}


def message_class(descriptor):
    import base64

    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    files = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(descriptor))
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("org.example.insurance.Prediction"))


def avro_of(client, schema):
    from confluent_kafka.schema_registry.avro import AvroSerializer

    return AvroSerializer(client, schema), lambda value: value


def json_of(client, schema):
    from confluent_kafka.schema_registry.json_schema import JSONSerializer

    return JSONSerializer(schema, client), lambda value: value


def protobuf_of(client, schema):
    from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
    from google.protobuf import json_format

    message = message_class(schema)
    serialize = ProtobufSerializer(message, client, {"use.deprecated.format": False})
    return serialize, lambda value: json_format.ParseDict(without_nulls(value), message())


def produce_versions(bootstrap, registry, topic, language, schemas, count):
    """Two producers take turns; each registers its schema with its first record, the older one first."""
    client = connect_registry(registry)
    writers = [{"avro": avro_of, "json": json_of, "protobuf": protobuf_of}[language](client, one) for one in schemas]
    context = SerializationContext(topic, MessageField.VALUE)
    records = [prediction(number) for number in range(count)]
    for number in range(2):
        serialize, form = writers[number]
        serialized(serialize, context, [form(records[number])])
    values = []
    for number, record in enumerate(records):
        serialize, form = writers[number % 2]
        values.append(serialize(form(record), context))
    produce_values(bootstrap, topic, values)
    return records
