"""Score Parquet with Ray Data: Parquet in, Parquet out, keys kept. Needs `recmtl[engines]`.

    python examples/batch/ray_job.py RUN LOGS OUT --keep user_id,item_id --actors 8

Each actor reads the run once and then scores batches; an actor that dies is started again, and its
batches with it. Scores are those of `recmtl score`: within 1e-6 wherever batches begin, and bit for
bit where a batch begins at a multiple of 4,096 rows of the log (Ray gives each actor one thread).
An actor takes one CPU for good, so one more has to be left to read with: without it a job of Ray
would wait for ever.
Of a job that was killed as a whole, remove OUT and start it again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ray
from ray.data import ActorPoolStrategy, DataContext, SaveMode

from recmtl import BatchScorer


def main() -> None:
    """Read the arguments, and score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run, which all nodes can read")
    parser.add_argument("logs", help="Parquet: a file or a folder")
    parser.add_argument("out", help="folder of the scores; it must not exist")
    parser.add_argument("--keep", default="", help="columns to copy, as a,b (default: the spec's)")
    parser.add_argument("--tables", default="fp32", choices=["fp32", "fp16", "int8"])
    parser.add_argument(
        "--actors", type=int, help="processes that score (default: all CPUs of the cluster but one)"
    )
    parser.add_argument("--batch-rows", type=int, default=65_536)
    args = parser.parse_args()
    score(
        args.run.resolve(),
        args.logs,
        args.out,
        keep=[column for column in args.keep.split(",") if column] or None,
        tables=args.tables,
        actors=args.actors,
        batch_rows=args.batch_rows,
    )


def score(
    run: Path,
    logs: str,
    out: str,
    *,
    keep: list[str] | None = None,
    tables: str = "fp32",
    actors: int | None = None,
    batch_rows: int = 65_536,
) -> None:
    """Score every row of `logs` and write the kept columns and the scores to `out`."""
    if not ray.is_initialized():
        ray.init()
    cpus = int(ray.cluster_resources().get("CPU", 0))
    actors = max(cpus - 1, 1) if actors is None else actors
    if actors >= cpus:
        raise SystemExit(
            f"--actors {actors}: the cluster has {cpus} CPUs, and one of them is needed to read "
            f"with. Use at most {cpus - 1}, or a larger cluster."
        )
    scorer = BatchScorer(run, keep=keep, tables=tables)  # here: wrong arguments fail at once
    columns = dict.fromkeys([*scorer.encoders.columns(labels=False), *scorer.keep])
    DataContext.get_current().execution_options.preserve_order = True
    rows = ray.data.read_parquet(logs, columns=list(columns))
    scores = rows.map_batches(
        BatchScorer,
        fn_constructor_args=[run],
        fn_constructor_kwargs={"keep": scorer.keep, "tables": tables},
        batch_format="pyarrow",
        batch_size=batch_rows,
        compute=ActorPoolStrategy(size=actors),
        num_cpus=1,
        max_restarts=-1,
        max_task_retries=-1,
    )
    scores.write_parquet(out, mode=SaveMode.ERROR)  # else files would be added to those of before


if __name__ == "__main__":
    main()
