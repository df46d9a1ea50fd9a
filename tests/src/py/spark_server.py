# One Spark session for all tests of a run: takes scripts and calls on a loopback port. Arguments: the port, a directory for
# what Spark keeps, and the jars for Delta and Kafka.
import json
import os
import socketserver
import sys
import threading
import traceback

from pyspark.sql import SparkSession

CONFIG = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "1200m",
    # A process of minutes on two cores that it shares: no time to optimise its code.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    # Small tables: as few tasks as can be.
    "spark.sql.shuffle.partitions": "1",
    "spark.default.parallelism": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "1",
    "spark.sql.streaming.stopTimeout": "30s",
}


class Calls(socketserver.StreamRequestHandler):
    """One line of JSON in, {"script", "action", "request"}; one line out, {"ok"} or {"error"}."""

    def handle(self):
        line = self.rfile.readline()
        # The harness only looks whether somebody listens.
        if not line:
            return
        call = json.loads(line)
        try:
            # A session of its own, so that settings do not meet.
            names = {"spark": session.newSession()}
            exec(call["script"], names)  # The harness sends scripts of the tests.
            answer = {"ok": names[call["action"]](**call["request"])}
        except Exception:
            # Without what Java says about its own way there.
            answer = {"error": traceback.format_exc().split("JVM stacktrace:")[0].split("\n\tat ")[0]}
        self.wfile.write(json.dumps(answer, default=str).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


port, directory, jars = sys.argv[1:]
builder = SparkSession.builder.master("local[2]").appName("sluice-tests")
CONFIG |= {"spark.driver.extraClassPath": f"{jars}/*", "spark.local.dir": directory, "spark.sql.warehouse.dir": directory}
for name, value in CONFIG.items():
    builder = builder.config(name, value)
session = builder.getOrCreate()
session.sparkContext.setLogLevel("ERROR")
# What the first statement of a process takes long for, before anybody waits for it.
session.sql("select 1").collect()
Server(("127.0.0.1", int(port)), Calls).serve_forever()
