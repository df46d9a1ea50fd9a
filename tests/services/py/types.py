"""The table of types: for each source what is produced and what every reader must find, value by value. Put behind
store.py and registry.py.

A source is a list of columns, each with its type in the source's language, the values that are produced, and, where they
differ, the values that a reader must find. Record n holds value n of each column, counted round."""
import base64
import collections
import datetime
import decimal
import gzip
import io
import json
import math
import struct
import tempfile
import uuid

from decimal import Decimal

RECORDS = 40
UTC = datetime.timezone.utc
Column = collections.namedtuple("Column", "name type values expected", defaults=[None])


class Single(float):
    """A float of 32 bits: in text it may have fewer digits."""


class Map(list):
    """Pairs of a map, in order."""


class Entries(Map):
    """Pairs of a map whose keys are no texts."""


TEXTS = ["", "ä", "東京 😀", "a\0b", "line\nbreak\u2028\"\\", "x" * 1000]
BYTES = [b"", b"\0\xff", bytes(range(256))]
SINGLES = [Single(value) for value in (0.0, -0.0, 1.5, 3.4028234663852886e38, 1.401298464324817e-45, math.nan, math.inf, -math.inf)]
DOUBLES = [0.0, -0.0, 0.1, 1.7976931348623157e308, 5e-324, math.nan, math.inf, -math.inf]
INTS = [0, 1, -1, 2**31 - 1, -(2**31)]
LONGS = [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)]
DATES = [datetime.date(1970, 1, 1), datetime.date(1969, 12, 31), datetime.date(1, 1, 1), datetime.date(9999, 12, 31)]
TIMES = [datetime.time(0), datetime.time(23, 59, 59, 999000), datetime.time(1, 2, 3, 4000)]
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
MILLIS = [EPOCH, EPOCH - datetime.timedelta(milliseconds=1), datetime.datetime(1, 1, 1, tzinfo=UTC),
          datetime.datetime(9999, 12, 31, 23, 59, 59, 999000, UTC), datetime.datetime(2026, 3, 29, 2, 30, 0, 7000, UTC)]
MICROS = [*MILLIS, EPOCH - datetime.timedelta(microseconds=1), datetime.datetime(2026, 2, 3, 4, 5, 6, 789, UTC)]
SMALL = [Decimal(text) for text in ("0.00", "1.25", "-1.25", "999.99", "-999.99")]
LARGE = [Decimal(text) for text in ("0E-10", "0.0000000001", "-1.0000000000", "9" * 28 + "." + "9" * 10, "-" + "9" * 28 + "." + "9" * 10)]
WIDE = [Decimal(text) for text in ("0E-20", "-0.00000000000000000001", "9" * 40 + "." + "9" * 20, "-" + "9" * 40 + "." + "9" * 20)]


# ---- sources

def logical(base, name, **more):
    return {"type": base, "logicalType": name, **more}


def record(name, *fields):
    return {"type": "record", "name": name, "fields": [{"name": field, "type": kind} for field, kind in fields]}


def naive(values):
    return [value.replace(tzinfo=None) for value in values]


AVRO = [
    Column("an_int", "int", INTS),
    Column("a_long", "long", LONGS),
    Column("a_float", "float", SINGLES),
    Column("a_double", "double", DOUBLES),
    Column("a_boolean", "boolean", [True, False]),
    Column("a_string", "string", TEXTS),
    Column("some_bytes", "bytes", BYTES),
    Column("a_fixed", {"type": "fixed", "name": "Four", "size": 4}, [b"abcd", b"\0\xff\0\xff"]),
    Column("an_enum", {"type": "enum", "name": "Colour", "symbols": ["RED", "GREEN"]}, ["RED", "GREEN"]),
    Column("a_uuid", logical("string", "uuid"), [uuid.UUID(int=5)], [str(uuid.UUID(int=5))]),
    Column("a_date", logical("int", "date"), DATES),
    Column("a_time", logical("int", "time-millis"), TIMES),
    Column("a_fine_time", logical("long", "time-micros"), [datetime.time(0, 0, 1, 5)], [1000005]),
    Column("an_instant", logical("long", "timestamp-millis"), MILLIS),
    Column("a_fine_instant", logical("long", "timestamp-micros"), MICROS),
    Column("a_local_instant", logical("long", "local-timestamp-millis"), naive(MILLIS), MILLIS),
    Column("a_small_decimal", logical("bytes", "decimal", precision=5, scale=2), SMALL),
    Column("a_large_decimal", logical("bytes", "decimal", precision=38, scale=10), LARGE),
    Column("a_fixed_decimal", {"type": "fixed", "name": "D", "size": 9, "logicalType": "decimal", "precision": 20, "scale": 2}, SMALL),
    Column("maybe", ["null", "string"], [None, "x", ""]),
    Column("with_default", ["int", "null"], [1, 2]),
    Column("a_list", {"type": "array", "items": ["null", "string"]}, [[], ["a", None, "ö"], [None]]),
    Column("lists", {"type": "array", "items": {"type": "array", "items": "long"}}, [[], [[]], [[1, 2], [], [3]]]),
    Column("records", {"type": "array", "items": record("Item", ("n", "int"), ("s", ["null", "string"]))},
           [[], [{"n": 1, "s": None}, {"n": 2, "s": "x"}]]),
    Column("a_map", {"type": "map", "values": ["null", "double"]}, [{}, {"k": 1.5, "ä": None}],
           [Map(), Map([("k", 1.5), ("ä", None)])]),
    Column("map_of_lists", {"type": "map", "values": {"type": "array", "items": "int"}}, [{"a": [1, 2], "b": []}],
           [Map([("a", [1, 2]), ("b", [])])]),
    Column("nested", record("Outer", ("x", "double"), ("inner", ["null", record("Inner", ("y", ["null", "long"]))])),
           [{"x": 1.0, "inner": None}, {"x": 2.0, "inner": {"y": None}}, {"x": 3.0, "inner": {"y": 4}}]),
    Column("maybe_nested", ["null", record("Maybe", ("z", "string"))], [None, {"z": "z"}]),
    Column("a_union", ["null", "long", "string"], [None, 5, "five"],
           [None, {"long": 5, "string": None}, {"long": None, "string": "five"}]),
]

AVRO_WIDE = [
    Column("n", "int", INTS),
    Column("wide", logical("bytes", "decimal", precision=60, scale=20), WIDE),
    Column("maybe_wide", ["null", logical("bytes", "decimal", precision=60, scale=20)], [None, *WIDE]),
]


def connect_type(kind, name=None, **more):
    schema = {"type": kind, **more}
    if name:
        schema["name"] = f"org.apache.kafka.connect.data.{name}"
    return schema


def millis(values):
    return [(value - EPOCH) // datetime.timedelta(milliseconds=1) for value in values]


def days(values):
    return [(value - EPOCH.date()).days for value in values]


def day_millis(values):
    return [((value.hour * 60 + value.minute) * 60 + value.second) * 1000 + value.microsecond // 1000 for value in values]


def unscaled(value):
    """The bytes of BigInteger.toByteArray in base64."""
    sign, digits, _ = value.as_tuple()
    number = int("".join(map(str, digits))) * (-1 if sign else 1)
    length = ((number if number >= 0 else ~number).bit_length() + 8) // 8
    return base64.b64encode(number.to_bytes(length, "big", signed=True)).decode()


def in_base64(values):
    return [base64.b64encode(value).decode() for value in values]


ENVELOPE = [
    Column("an_int8", connect_type("int8"), [0, 127, -128]),
    Column("an_int16", connect_type("int16"), [0, 32767, -32768]),
    Column("an_int32", connect_type("int32"), INTS),
    Column("an_int64", connect_type("int64"), LONGS),
    Column("a_float", connect_type("float"), [value for value in SINGLES if math.isfinite(value)]),
    Column("a_double", connect_type("double"), [value for value in DOUBLES if math.isfinite(value)]),
    Column("a_boolean", connect_type("boolean"), [True, False]),
    Column("a_string", connect_type("string"), TEXTS),
    Column("some_bytes", connect_type("bytes"), in_base64(BYTES), BYTES),
    Column("a_decimal", connect_type("bytes", "Decimal", parameters={"scale": "2"}), [unscaled(value) for value in SMALL], SMALL),
    Column("a_large_decimal", connect_type("bytes", "Decimal", parameters={"scale": "10", "connect.decimal.precision": "38"}),
           [unscaled(value) for value in LARGE], LARGE),
    Column("a_date", connect_type("int32", "Date"), days(DATES), DATES),
    Column("a_time", connect_type("int32", "Time"), day_millis(TIMES), TIMES),
    Column("an_instant", connect_type("int64", "Timestamp"), millis(MILLIS), MILLIS),
    Column("maybe", connect_type("string", optional=True), [None, "x"]),
    Column("with_default", connect_type("int32", optional=True, default=7), [None, 1], [7, 1]),
    Column("a_list", connect_type("array", items=connect_type("int64", optional=True)), [[], [1, None, 2**63 - 1]]),
    Column("lists", connect_type("array", items=connect_type("array", items=connect_type("string"))), [[], [[], ["a"]]]),
    Column("a_map", connect_type("map", keys=connect_type("string"), values=connect_type("double", optional=True)), [{}, {"k": 1.5, "ö": None}],
           [Map(), Map([("k", 1.5), ("ö", None)])]),
    Column("a_map_of_numbers", connect_type("map", keys=connect_type("int32"), values=connect_type("string")), [[], [[1, "a"], [-1, "b"]]],
           [Entries(), Entries([(1, "a"), (-1, "b")])]),
    Column("nested", connect_type("struct", optional=True, fields=[
        {"field": "x", "type": "double"},
        {"field": "y", "type": "struct", "optional": True, "fields": [{"field": "z", "type": "string", "optional": True}]}]),
        [None, {"x": 1.0, "y": None}, {"x": 2.0, "y": {"z": None}}, {"x": 3.0, "y": {"z": "z"}}]),
]

PLAIN = [
    Column("a_whole_number", None, LONGS),
    Column("a_number", None, [0.5, -0.0, 1.7976931348623157e308, 5e-324, 0.1]),
    Column("a_boolean", None, [True, False]),
    Column("a_text", None, TEXTS),
    Column("maybe", None, [None, "x"]),
    Column("a_list", None, [[], [1, None, 3]]),
    Column("lists", None, [[["a"], []], []]),
    Column("records", None, [[{"n": 1, "s": None}], [{"n": 2, "s": "x"}, {"n": 3, "s": ""}]]),
    Column("nested", None, [{"x": 1.5, "y": {"z": "z"}}, {"x": 2.5, "y": None}]),
]


def json_schema(kind, **more):
    return {"type": kind, **more}


def null_or(schema):
    return {"oneOf": [{"type": "null"}, schema]}


JSON_SCHEMA = [
    Column("an_integer", json_schema("integer"), LONGS),
    Column("an_int8", json_schema("integer", **{"connect.type": "int8"}), [0, 127, -128]),
    Column("an_int32", json_schema("integer", **{"connect.type": "int32"}), INTS),
    Column("a_float", json_schema("number", **{"connect.type": "float32"}), [value for value in SINGLES if math.isfinite(value)]),
    Column("a_number", json_schema("number"), [value for value in DOUBLES if math.isfinite(value)]),
    Column("a_boolean", json_schema("boolean"), [True, False]),
    Column("a_string", json_schema("string"), TEXTS),
    Column("an_enum", {"enum": ["RED", "GREEN"]}, ["RED", "GREEN"]),
    Column("some_bytes", json_schema("string", **{"connect.type": "bytes"}), in_base64(BYTES), BYTES),
    Column("a_date", json_schema("integer", title="org.apache.kafka.connect.data.Date", **{"connect.type": "int32"}), days(DATES), DATES),
    Column("a_time", json_schema("integer", title="org.apache.kafka.connect.data.Time", **{"connect.type": "int32"}),
           day_millis(TIMES), TIMES),
    Column("an_instant", json_schema("integer", title="org.apache.kafka.connect.data.Timestamp", **{"connect.type": "int64"}),
           millis(MILLIS), MILLIS),
    Column("a_decimal", json_schema("string", title="org.apache.kafka.connect.data.Decimal",
                                    **{"connect.type": "bytes", "connect.parameters": {"scale": "2"}}),
           [unscaled(value) for value in SMALL], SMALL),
    Column("maybe", null_or(json_schema("string")), [None, "x"]),
    Column("a_list", json_schema("array", items=null_or(json_schema("integer"))), [[], [1, None, 3]]),
    Column("lists", json_schema("array", items=json_schema("array", items=json_schema("string"))), [[["a"], []], []]),
    Column("a_map", json_schema("object", additionalProperties=json_schema("number"), **{"connect.type": "map"}),
           [{}, {"k": 1.5}], [Map(), Map([("k", 1.5)])]),
    Column("nested", null_or(json_schema("object", properties={
        "x": json_schema("number"), "y": null_or(json_schema("object", properties={"z": json_schema("string")}))})),
        [None, {"x": 1.5, "y": None}, {"x": 2.5, "y": {"z": "z"}}]),
]

# Columns of the message below; a value of None is a field that is not set.
PROTOBUF = [
    Column("a_double", "DOUBLE", DOUBLES),
    Column("a_float", "FLOAT", SINGLES),
    Column("an_int32", "INT32", INTS),
    Column("an_int64", "INT64", LONGS),
    Column("a_uint32", "UINT32", [0, 1, 2**32 - 1]),
    Column("a_uint64", "UINT64", [0, 1, 2**63 - 1]),
    Column("a_sint32", "SINT32", INTS),
    Column("a_sint64", "SINT64", LONGS),
    Column("a_fixed32", "FIXED32", [0, 2**32 - 1]),
    Column("a_fixed64", "FIXED64", [0, 2**63 - 1]),
    Column("an_sfixed32", "SFIXED32", INTS),
    Column("an_sfixed64", "SFIXED64", LONGS),
    Column("a_bool", "BOOL", [True, False]),
    Column("a_string", "STRING", TEXTS),
    Column("some_bytes", "BYTES", BYTES),
    Column("an_enum", ".types.Colour", [0, 1], ["RED", "GREEN"]),
    Column("maybe", "optional INT32", [None, 0, 5]),
    Column("maybe_text", "optional STRING", [None, "", "x"]),
    Column("a_list", "repeated SINT64", [[], [1, -1, 2**63 - 1]]),
    Column("texts", "repeated STRING", [[], ["", "ö"]]),
    Column("an_instant", ".google.protobuf.Timestamp", [None, *MILLIS]),
    Column("nested", ".types.Nested", [None, {}, {"n": 5, "leaf": {"n": 6}}],
           [None, {"n": 0, "leaf": None}, {"n": 5, "leaf": {"n": 6}}]),
    Column("several", "repeated .types.Leaf", [[], [{"n": 1}, {}]], [[], [{"n": 1}, {"n": 0}]]),
    Column("a_map", "map", [{}, {"k": 5}], [Map(), Map([("k", 5)])]),
    Column("choice_0", "oneof", [None, ("a_text", "x"), ("a_number", 5)],
           [None, {"a_text": "x", "a_number": None}, {"a_text": None, "a_number": 5}]),
]
SOURCES = {"avro": AVRO, "avro_wide": AVRO_WIDE, "protobuf": PROTOBUF, "json_schema": JSON_SCHEMA, "envelope": ENVELOPE, "plain": PLAIN}


def at(values, number):
    return values[number % len(values)]


def produced(source, number):
    return {column.name: at(column.values, number) for column in SOURCES[source]}


def expected(source, number):
    return {column.name: at(column.expected or column.values, number) for column in SOURCES[source]}


# ---- producers

def protobuf_class():
    """The message with the columns of PROTOBUF, without protoc."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="types.proto", package="types", syntax="proto3", dependency=["google/protobuf/timestamp.proto"])

    def add(message, name, kind, label=field.LABEL_OPTIONAL, **more):
        named = {"type_name": kind, "type": field.TYPE_ENUM if kind == ".types.Colour" else field.TYPE_MESSAGE}
        kinds = named if kind.startswith(".") else {"type": getattr(field, f"TYPE_{kind}")}
        return message.field.add(name=name, number=len(message.field) + 1, label=label, **kinds, **more)

    colour = file.enum_type.add(name="Colour")
    colour.value.add(name="RED", number=0)
    colour.value.add(name="GREEN", number=1)
    every = file.message_type.add(name="Every")
    leaf = file.message_type.add(name="Leaf")
    add(leaf, "n", "INT32")
    nested = file.message_type.add(name="Nested")
    add(nested, "n", "INT32")
    add(nested, "leaf", ".types.Leaf")
    entry = every.nested_type.add(name="AMapEntry")
    entry.options.map_entry = True
    add(entry, "key", "STRING")
    add(entry, "value", "INT64")
    every.oneof_decl.add(name="choice")  # its column has its index too
    for column in PROTOBUF:
        match column.type.split(" "):
            case ["map"]:
                add(every, column.name, ".types.Every.AMapEntry", field.LABEL_REPEATED)
            case ["oneof"]:
                add(every, "a_text", "STRING", oneof_index=0)
                add(every, "a_number", "INT64", oneof_index=0)
            case ["optional", kind]:
                every.oneof_decl.add(name=f"_{column.name}")
                add(every, column.name, kind, proto3_optional=True, oneof_index=len(every.oneof_decl) - 1)
            case ["repeated", kind]:
                add(every, column.name, kind, field.LABEL_REPEATED)
            case [kind]:
                add(every, column.name, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("types.Every"))


def protobuf_message(message_class, values):
    message = message_class()
    for name, value in values.items():
        match value:
            case None:
                pass
            case datetime.datetime():
                getattr(message, name).FromDatetime(value)
            case tuple():
                setattr(message, *value)
            case dict() if name == "a_map":
                message.a_map.update(value)
            case dict():
                fill(getattr(message, name), value)
            case [dict(), *_]:
                for item in value:
                    fill(getattr(message, name).add(), item)
            case list():
                getattr(message, name).extend(value)
            case _:
                setattr(message, name, value)
    return message


def fill(message, values):
    message.SetInParent()
    for name, value in values.items():
        fill(getattr(message, name), value) if isinstance(value, dict) else setattr(message, name, value)


def serializer(source, client):
    columns = SOURCES[source]
    match source:
        case "avro" | "avro_wide":
            fields = [{"name": column.name, "type": column.type} for column in columns]
            return avro(client, {"type": "record", "name": "Every", "namespace": "org.example", "fields": fields})
        case "protobuf":
            from confluent_kafka.schema_registry.protobuf import ProtobufSerializer

            message_class = protobuf_class()
            serialize = ProtobufSerializer(message_class, client, {"use.deprecated.format": False})
            return lambda values, context: serialize(protobuf_message(message_class, values), context)
        case "json_schema":
            from confluent_kafka.schema_registry.json_schema import JSONSerializer

            properties = {column.name: column.type for column in columns}
            schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Every", "type": "object",
                      "properties": properties, "required": list(properties)}
            return JSONSerializer(json.dumps(schema), client)
        case "envelope":
            fields = [{"field": column.name, **column.type} for column in columns]
            schema = {"type": "struct", "name": "org.example.Every", "fields": fields}
            return lambda values, _: json.dumps({"schema": schema, "payload": values}).encode()
        case "plain":
            return lambda values, _: json.dumps(values).encode()


def produce_types(bootstrap, registry, topic, source):
    serialize = serializer(source, connect_registry(registry))
    context = SerializationContext(topic, MessageField.VALUE)
    values = [produced(source, number) for number in range(RECORDS)]
    produce_values(bootstrap, topic, serialized(serialize, context, values))
    return RECORDS


# ---- readers: a body to rows, and what they must hold

def of_pyarrow(body):
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(io.BytesIO(body)).read().to_pylist()


def of_duckdb(body):
    import duckdb

    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(body)
        file.flush()
        query = duckdb.connect().execute("select * from read_parquet(?, hive_partitioning = false)", [file.name])
        return query.to_arrow_table().to_pylist()


def of_polars(body):
    import polars

    return polars.read_parquet(io.BytesIO(body)).to_dicts()


def of_fastavro(body):
    import fastavro

    return list(fastavro.reader(io.BytesIO(body)))


def of_json(body):
    return [json.loads(line, parse_float=Decimal) for line in body.decode().split("\n")[:-1]]


READERS = {
    "parquet": {"pyarrow": of_pyarrow, "duckdb": of_duckdb, "polars": of_polars},
    "avro": {"fastavro": of_fastavro},
    "json": {"json": of_json},
}


def as_json(value, decimals):
    """What a value is in JSON lines."""
    match value:
        case dict():
            return {name: as_json(item, decimals) for name, item in value.items()}
        case Entries() | tuple():
            return [as_json(item, decimals) for item in value]
        case Map():
            return {key: as_json(item, decimals) for key, item in value}
        case list():
            return [as_json(item, decimals) for item in value]
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return value if decimals == "NUMERIC" else unscaled(value)
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case float() if math.isnan(value):
            return "NaN"
        case datetime.datetime():
            micros = (value - EPOCH) // datetime.timedelta(microseconds=1)
            return micros // 1000 if micros % 1000 == 0 else Decimal(micros) / 1000
        case datetime.date():
            return days([value])[0]
        case datetime.time():
            return day_millis([value])[0]
        case _:
            return value


def same(want, got):
    """Whether a reader found what was wanted, of the same type."""
    match want:
        case Map():
            return same([list(pair) for pair in want], pairs(got))
        case dict():
            return isinstance(got, dict) and want.keys() == got.keys() and all(same(want[name], got[name]) for name in want)
        case list() | tuple():
            return isinstance(got, (list, tuple)) and len(want) == len(got) and all(map(same, want, got))
        case bool() | None | str() | bytes():
            return type(want) is type(got) and want == got
        case Single() if isinstance(got, (float, Decimal)):
            return struct.pack("<f", want) == struct.pack("<f", float(got)) or math.isnan(want) and math.isnan(got)
        case float() if isinstance(got, (float, Decimal)):
            return struct.pack("<d", want) == struct.pack("<d", float(got)) or math.isnan(want) and math.isnan(got)
        case int():
            return type(got) is int and want == got
        case Decimal():
            # A number in JSON may be an integer.
            return isinstance(got, (Decimal, int)) and want == got
        case datetime.datetime():
            return isinstance(got, datetime.datetime) and want == (got if got.tzinfo else got.replace(tzinfo=UTC))
        case _:
            return type(want) is type(got) and want == got


def pairs(got):
    """The pairs of a map in any of the forms that readers give it."""
    match got:
        case dict():
            return [list(pair) for pair in got.items()]
        case [{"key": _, "value": _}, *_]:
            return [[entry["key"], entry["value"]] for entry in got]
        case list():
            return [list(pair) for pair in got]
        case _:
            return got


def codec_of(kind, key, body):
    """What the file says of its compression."""
    match kind:
        case "parquet":
            import pyarrow.parquet

            return pyarrow.parquet.ParquetFile(io.BytesIO(body)).metadata.row_group(0).column(0).compression
        case "avro":
            import fastavro

            return fastavro.reader(io.BytesIO(body)).codec
        case _:
            return "gzip" if key.endswith(".gz") else "none"


def compare_types(store, bucket, source, directory, kind, codec, readers, decimals):
    """The first difference of each reader and column between what was produced and what is in the files below a
    directory, as text."""
    client, differences, seen, found = connect(store), [], {}, {name: [] for name in readers}
    for key, _ in keys_and_sizes(client, bucket, f"{directory}/"):
        if "/_sluice/" in key:
            continue
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        if codec_of(kind, key, body) != codec:
            differences.append(f"{key} has the codec {codec_of(kind, key, body)}, not {codec}")
        body = gzip.decompress(body) if key.endswith(".gz") else body
        for name in readers:
            found[name] += READERS[kind][name](body)
    for name, rows in found.items():
        if len(rows) != RECORDS:
            differences.append(f"{name} reads {len(rows)} rows of {RECORDS}")
        for number, row in enumerate(rows):
            want = expected(source, number)
            want = as_json(want, decimals) if kind == "json" else want
            differ = {column: f"row {number}: {row.get(column)!r}, not {value!r}"
                      for column, value in want.items() if not same(value, row.get(column))}
            differ |= {column: f"row {number}: not wanted" for column in row.keys() - want.keys()}
            for column, difference in differ.items():
                seen.setdefault((name, column), difference)
    return differences + [f"{name} {column} {difference}" for (name, column), difference in seen.items()]
