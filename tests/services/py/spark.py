# What Spark does to tables and topics, and what DuckDB's extension for Delta reads. `spark` is a session of the harness.
import pathlib
import threading
import time


def table(place):
    return f"delta.`{place}`"


def read(place, version):
    """The table at a version, by Spark."""
    reader = spark.read.format("delta")
    if version is not None:
        reader = reader.option("versionAsOf", version)
    return seen(reader.load(place).toArrow())


def read_duckdb(place, version):
    """The table at a version, by DuckDB."""
    import duckdb
    import duckdb_extension_delta

    extension = next(pathlib.Path(duckdb_extension_delta.__file__).parent.rglob("*.duckdb_extension"))
    connection = duckdb.connect()
    connection.execute(f"load '{extension}'")
    connection.execute("set timezone = 'UTC'")
    at = "" if version is None else f", version {version}"
    connection.execute(f"attach '{place}' as lake (type delta{at})")
    return seen(connection.execute("select * from lake").to_arrow_table())


def sql(statements):
    """Does statements one after the other."""
    for statement in statements:
        spark.sql(statement).collect()


def build(place, method, arguments):
    """Makes a table with a column `id` and a column `made` that a method of Spark's builder describes."""
    tables = spark._jvm.io.delta.tables.DeltaTable
    made = tables.columnBuilder(spark._jsparkSession, "made").dataType("bigint")
    made = getattr(made, method)(*arguments).build()
    tables.create(spark._jsparkSession).location(place).addColumn("id", "bigint").addColumn(made).execute()


def history(place):
    rows = spark.sql(f"describe history {table(place)}").select("version", "operation", "engineInfo").collect()
    return [row.asDict() for row in sorted(rows, key=lambda row: row["version"])]


def skipping(place, conditions):
    """Rows that meet each condition, and how many files were read for them: with the statistics of files, and without."""
    # Plans that change while they run do not tell it.
    spark.conf.set("spark.sql.adaptive.enabled", "false")
    answers = []
    for condition in conditions:
        answer = {"condition": condition}
        for name, is_on in (("skipping", "true"), ("scanning", "false")):
            spark.conf.set("spark.databricks.delta.stats.skipping", is_on)
            frame = spark.read.format("delta").load(place).where(condition)
            frame.collect()
            scan = frame._jdf.queryExecution().executedPlan().collectLeaves().apply(0)
            files = scan.metrics().get("numFiles").get().value()
            answer[name] = {"rows": seen(frame.toArrow())["rows"], "files": files}
        answers.append(answer)
    return answers


def parsed(lines, schema):
    """What from_json makes of texts."""
    frame = spark.createDataFrame([(line,) for line in lines], "value string")
    return seen(frame.selectExpr(f"from_json(value, '{schema}') as row").select("row.*").toArrow())


def stream(bootstrap, topic, place, checkpoint, schema, options, columns=("row.*",)):
    """The job that many teams have: a topic of JSON into a table, up to the topic's end; how often it committed."""
    source = spark.readStream.format("kafka").option("kafka.bootstrap.servers", bootstrap).option("subscribe", topic)
    frame = source.options(**options).load()
    frame = frame.selectExpr("*", f"from_json(cast(value as string), '{schema}') as row").selectExpr(*columns)
    sink = frame.writeStream.format("delta").outputMode("append").option("mergeSchema", "true")
    query = sink.option("checkpointLocation", checkpoint).trigger(availableNow=True).start(place)
    query.awaitTermination()
    return len(list(pathlib.Path(checkpoint, "commits").glob("[0-9]*")))


def beside(place, bootstrap, topic, checkpoint, schema, seconds):
    """Everything that Spark does to a table, at once and for so long: a loop of appends of its own numbers, its own stream
    of the topic, and upkeep; checkpoints come with commits. Answers how often it did each."""
    done, errors, end = {"appends": 0, "streams": 0, "upkeep": 0}, [], time.monotonic() + seconds

    def often(name, work):
        try:
            while done[name] == 0 or time.monotonic() < end:
                work(done[name])
                done[name] += 1
        except Exception as error:
            errors.append(f"{name}: {error}"[:2000])

    def append(number):
        frame = spark.range(number * 10, number * 10 + 10).selectExpr("id as number", "'loop' as writer")
        frame.write.format("delta").mode("append").save(place)

    def follow(_):
        stream(bootstrap, topic, place, checkpoint, schema, {"startingOffsets": "earliest"},
               ["row.number as number", "'stream' as writer"])

    def upkeep(_):
        spark.sql(f"optimize {table(place)}").collect()
        spark.sql(f"vacuum {table(place)}").collect()

    works = {"appends": append, "streams": follow, "upkeep": upkeep}
    threads = [threading.Thread(target=often, args=work) for work in works.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done | {"errors": errors}
