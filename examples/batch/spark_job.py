"""Score Parquet with Spark: Parquet in, Parquet out, keys kept. Needs `recmtl[engines]` and Java.

    python examples/batch/spark_job.py RUN LOGS OUT --keep user_id,item_id
    spark-submit --master yarn examples/batch/spark_job.py RUN LOGS OUT

Each Python worker reads the run once and then scores Arrow batches; a task that fails is repeated,
and the output appears as a whole, with `_SUCCESS`. Scores are those of `recmtl score`: within 1e-6
wherever batches begin, and bit for bit where a batch begins at a multiple of 4,096 rows of the log
(Spark gives each worker one thread). Spark reads a folder's largest files first: go by the keys,
not by the order.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

from recmtl import BatchScorer


def main() -> None:
    """Read the arguments, and score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run, which all executors can read")
    parser.add_argument("logs", help="Parquet: a file or a folder")
    parser.add_argument("out", help="folder of the scores; it must not exist")
    parser.add_argument("--keep", default="", help="columns to copy, as a,b (default: the spec's)")
    parser.add_argument("--tables", default="fp32", choices=["fp32", "fp16", "int8"])
    parser.add_argument("--batch-rows", type=int, default=65_536)
    args = parser.parse_args()
    builder = SparkSession.builder.appName("recmtl score")
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not by spark-submit: workers are on this machine
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = builder.master("local[*,4]")  # up to 4 attempts; `local[*]` gives each task one
    spark = builder.getOrCreate()
    try:
        score(
            spark,
            args.run.resolve(),
            args.logs,
            args.out,
            keep=[column for column in args.keep.split(",") if column] or None,
            tables=args.tables,
            batch_rows=args.batch_rows,
        )
    finally:
        spark.stop()


def score(
    spark: SparkSession,
    run: Path,
    logs: str,
    out: str,
    *,
    keep: list[str] | None = None,
    tables: str = "fp32",
    batch_rows: int = 65_536,
) -> None:
    """Score every row of `logs` and write the kept columns and the scores to `out`."""
    scorer = BatchScorer(run, keep=keep, tables=tables)  # pickled by its path and options
    columns = dict.fromkeys([*scorer.encoders.columns(labels=False), *scorer.keep])
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(batch_rows))
    rows = spark.read.parquet(logs).select(*columns)

    def scored(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield with_lists(scorer(batch))

    rows.mapInArrow(scored, schema_of(scorer, rows.schema)).write.parquet(out)


def schema_of(scorer: BatchScorer, rows: StructType) -> StructType:
    """The kept columns and one of scores for each task; of a multiclass task, one of lists."""
    kinds = {task.name: task.kind for task in scorer.run.config.tasks}
    types = {"multiclass": ArrayType(FloatType())}
    return StructType(
        [rows[column] for column in scorer.keep]
        + [
            StructField(column, types.get(kinds[task], FloatType()))
            for task, column in scorer.columns().items()
        ]
    )


def with_lists(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Lists of a fixed size as lists: those are what Spark reads."""
    columns = [
        column.cast(pa.list_(column.type.value_type))
        if pa.types.is_fixed_size_list(column.type)
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


if __name__ == "__main__":
    main()
