"""Spark's side of the side-by-side bench: does one work in a session of its own and prints one line of JSON about it.

benches/side_by_side calls it where MILLSTREAM_BENCH_SPARK names a Python that has pyspark. Times begin when the session
is there. What is measured in rows per second is done twice, each time with a checkpoint of its own, and the better time
counts: the first warms the JVM up. `start` prints nothing: the caller measures the process.
"""

import argparse
import json
import statistics
import time

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

LANES = 2
TIMES = 2


def session(memory: str) -> SparkSession:
    """Starts a session of two threads, and as many partitions of state."""
    builder = SparkSession.builder.master(f"local[{LANES}]").config("spark.driver.memory", memory)
    settings = {
        "spark.log.level": "ERROR",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(LANES),
        "spark.sql.streaming.numRecentProgressUpdates": "10000",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def stream(spark: SparkSession, options: argparse.Namespace, folder: str, schema: str) -> DataFrame:
    """Reads the Parquet files of a folder as a stream, the oldest first, so many a batch."""
    reader = spark.readStream.format("parquet").schema(schema)
    return reader.option("maxFilesPerTrigger", options.files_per_trigger).load(f"{options.folder}/{folder}")


def best_run(rows: DataFrame, totals: list, options: argparse.Namespace) -> dict:
    """Runs a query over what is there to its end, and adds up the totals of its batches."""
    walls, answers = [], []
    for run in range(TIMES):
        batches = []

        def add_up(batch: DataFrame, _: int) -> None:
            batches.extend(batch.agg(*totals).collect())

        began = time.monotonic()
        writer = rows.writeStream.outputMode("append").trigger(availableNow=True).foreachBatch(add_up)
        writer.option("checkpointLocation", f"{options.folder}/checkpoint-{run}").start().awaitTermination()
        walls.append(time.monotonic() - began)
        answers.append([sum(int(total or 0) for total in column) for column in zip(*batches)])
    assert all(answer == answers[0] for answer in answers), answers
    return {"wall_s": min(walls), "answer": answers[0]}


def aggregate(spark: SparkSession, options: argparse.Namespace) -> dict:
    """Windows of ten seconds by key: how many there are, their counts and sums."""
    rows = stream(spark, options, "in", "ts TIMESTAMP, k BIGINT, v DOUBLE").withWatermark("ts", "1 second")
    counted = rows.groupBy(f.window("ts", "10 seconds"), "k").agg(f.count(f.lit(1)).alias("n"), f.sum("v").alias("s"))
    return best_run(counted, [f.count(f.lit(1)), f.sum("n"), f.sum("s")], options)


def stream_join(spark: SparkSession, options: argparse.Namespace) -> dict:
    """Rows of two streams by key, the second's at most a minute before the first's: how many, and their sums."""
    a = stream(spark, options, "a", "a_ts TIMESTAMP, a_k BIGINT, a_v DOUBLE").withWatermark("a_ts", "1 second")
    b = stream(spark, options, "b", "b_ts TIMESTAMP, b_k BIGINT, b_v DOUBLE").withWatermark("b_ts", "1 second")
    near = f.expr("a_k = b_k AND b_ts >= a_ts - INTERVAL 1 MINUTE AND b_ts <= a_ts")
    joined = a.join(b, near).select("a_v", "b_v")
    return best_run(joined, [f.count(f.lit(1)), f.sum("a_v"), f.sum("b_v")], options)


def latency(spark: SparkSession, options: argparse.Namespace) -> dict:
    """Triggers of so many rows through a windowed count, one after the other: each has a window of its own."""
    source = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", options.rows)
    numbered = source.option("advanceMillisPerBatch", 10_000).option("startTimestamp", 1_767_225_600_000).load()
    rows = numbered.select(f.col("timestamp").alias("ts"), (f.col("value") % options.rows).alias("k"))
    counted = rows.withWatermark("ts", "0 seconds").groupBy(f.window("ts", "10 seconds"), "k")
    counted = counted.agg(f.count(f.lit(1)).alias("n"))
    writer = counted.writeStream.option("checkpointLocation", f"{options.folder}/checkpoint")
    table = f"{options.folder}/table"
    if options.output == "noop":
        query = writer.format("noop").outputMode("update").start()
    else:
        query = writer.format("parquet").outputMode("append").start(table)
    wanted = options.warm_up + options.triggers
    while query.isActive and (query.lastProgress or {"batchId": 0})["batchId"] < wanted:
        time.sleep(0.5)
    took = [p["durationMs"]["triggerExecution"] for p in query.recentProgress if p["numInputRows"] > 0]
    took = took[options.warm_up : wanted]
    spark.sparkContext.setLogLevel("OFF")  # what it says of the batch that is cut short
    query.stop()
    percentiles = statistics.quantiles(took, n=100, method="inclusive")
    found = {"p50_ms": percentiles[49], "p99_ms": percentiles[98], "triggers": len(took), "answer": None}
    if options.output == "parquet":
        windows = spark.read.parquet(table).groupBy("window").agg(f.sum("n").alias("n"))
        found["answer"] = list(windows.agg(f.min("n"), f.max("n")).first())
    return found


def start(spark: SparkSession, options: argparse.Namespace) -> None:
    """One batch of a few rows: windows of an hour, from a JSON file to Parquet."""
    rows = spark.readStream.format("json").schema("ts TIMESTAMP, page STRING").load(f"{options.folder}/in")
    hours = rows.withWatermark("ts", "0 seconds").groupBy(f.window("ts", "1 hour"), "page")
    writer = hours.agg(f.count(f.lit(1)).alias("n")).writeStream.format("parquet").trigger(availableNow=True)
    writer = writer.option("checkpointLocation", f"{options.folder}/checkpoint")
    writer.start(f"{options.folder}/out").awaitTermination()


def main() -> None:
    works = {"aggregate": aggregate, "stream-join": stream_join, "latency": latency, "start": start}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=works)
    parser.add_argument("folder", help="where the input is, and where checkpoint and output go")
    parser.add_argument("--files-per-trigger", type=int, default=4, help="of each stream")
    parser.add_argument("--rows", type=int, default=1_000, help="of a trigger, for latency")
    parser.add_argument("--output", choices=["noop", "parquet"], default="noop", help="for latency")
    parser.add_argument("--warm-up", type=int, default=30, help="triggers that are not counted")
    parser.add_argument("--triggers", type=int, default=100, help="triggers that are")
    parser.add_argument("--memory", default="4g", help="of the driver, which does everything")
    options = parser.parse_args()
    spark = session(options.memory)
    found = works[options.work](spark, options)
    if found is not None:
        print(json.dumps(found), flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
