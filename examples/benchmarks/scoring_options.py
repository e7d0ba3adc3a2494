"""Every way to score a log with a run, side by side: whole jobs, from Parquet to Parquet.

    python examples/benchmarks/scoring_options.py runs/workload --page results.md

Each option is a process of its own, as a user starts it, and is run on the log and on one of 4,096
rows, in turns: the difference is the time that the rows took, the rest is what starting costs.
`in memory` reads the log whole, calls `BatchScorer` on it and writes one file; so does an export,
with `load_export`, of each format that can be made here. Ray and Spark take part where they are
installed (`recmtl[engines]`): Spark with `--cores` workers, Ray with one actor less, since a core
has to be left to read with.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import workload
from bench import ROOT, provenance, train_once
from rounds import Timing, alternate, markdown, paired_ratio, write_result

import recmtl
from recmtl.errors import MissingExtraError
from recmtl.exporting.formats import FORMATS

FEW_ROWS = 4096
JOBS = ROOT / "examples" / "batch"
IN_MEMORY = """
import sys
import polars as pl
from recmtl import BatchScorer
run, log, out = sys.argv[1:]
BatchScorer(run, keep=["row"])(pl.read_parquet(log)).write_parquet(out + "/scores.parquet")
"""
EXPORTED = """
import sys
import polars as pl
import recmtl
export, log, out = sys.argv[1:]
scorer = recmtl.load_export(export, keep=["row"])
scorer(pl.read_parquet(log)).write_parquet(out + "/scores.parquet")
"""

Command = Callable[[Path, Path], list[str]]
"""Log and folder of the output -> what to start."""


def main() -> None:
    """Measure all options in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/workload"))
    parser.add_argument("--rows", type=int, default=1 << 20, help="rows of the log, if not there")
    parser.add_argument("--scored", type=int, default=1 << 20, help="rows that are scored")
    parser.add_argument("--tower", default="mmoe", choices=list(workload.TOWERS))
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="for the engines")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--page", type=Path, help="where to write the tables, as Markdown")
    parser.add_argument("--out", type=Path, help="JSON of all rounds")
    args = parser.parse_args()
    workload.write(args.folder, args.rows)
    run = args.folder / "runs" / args.tower
    train_once(run, args.folder / f"{args.tower}.yaml")
    logs = {rows: log_of(args.folder, rows) for rows in (args.scored, FEW_ROWS)}
    exports = dict(exports_of(run, args.folder / "exports"))
    options = dict(commands(run.resolve(), exports, args.workers, args.cores))
    with tempfile.TemporaryDirectory(prefix="recmtl-scoring-", dir=args.folder) as work:
        found = alternate(
            {
                f"{name}/{rows}": job(command, log, Path(work) / "scores", rows)
                for name, command in options.items()
                for rows, log in logs.items()
            },
            rounds=args.rounds,
            warm_up=0,
        )
    head = ["option", "whole job, s", "noise", "times one worker", "start, s", "rows/s after it"]
    table = markdown([*head, "times one worker after it"], rows_of(found, options, args.scored))
    command = " ".join(["python", "examples/benchmarks/scoring_options.py", *sys.argv[1:]])
    page = f"""# Batch scoring, option by option

`{command}`; {provenance()}.

{args.scored:,} rows of the benchmark's log with an {args.tower} tower, from Parquet to Parquet,
each option in processes of its own, in turns; medians of {args.rounds} rounds. Noise is half the
distance between the quartiles. The time that starting takes is that of the same job on {FEW_ROWS:,}
rows. Spark has {args.cores} workers, Ray an actor less: a core is left to read with.

One worker of `recmtl score` uses all cores: it reads and encodes while it computes. Others share
them with it, and what they need to start (importing torch, above all) is among the time of the
rows here, since few rows start no second worker. In memory, encoding and computing take turns.

{table}"""
    sys.stdout.write(page)
    if args.page is not None:
        args.page.write_text(page, encoding="utf-8")
    if args.out is not None:
        write_result(args.out, about=provenance(), timings=found)


def log_of(folder: Path, rows: int) -> Path:
    """The first rows of the log, numbered."""
    log = folder / f"numbered-{rows}.parquet"
    if not log.is_file():
        frame = pl.read_parquet(folder / "train.parquet", n_rows=rows).with_row_index("row")
        frame.write_parquet(log, row_group_size=workload.GROUP_ROWS)
    return log


def exports_of(run: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """The formats of exports that can be had here, and the export of each."""
    for kind in FORMATS:
        out = folder / f"{run.name}-{kind}"
        if not out.is_dir():
            try:
                recmtl.export(run, format=kind, out=out)
            except MissingExtraError as error:
                sys.stderr.write(f"{kind}: left out. {error}\n")
                continue
        yield kind, out.resolve()


def commands(
    run: Path, exports: dict[str, Path], workers: list[int], cores: int
) -> Iterator[tuple[str, Command]]:
    """The options that can be had here."""

    def score(*more: object) -> Command:
        call = [sys.executable, "-m", "recmtl", "score", str(run), "--keep", "row"]
        return lambda log, out: [*call, *map(str, more), "--data", str(log), "--out", str(out)]

    def script(name: str, *more: object) -> Command:
        call = [sys.executable, str(JOBS / name), str(run)]
        return lambda log, out: [*call, str(log), str(out), "--keep", "row", *map(str, more)]

    def code(text: str, model: Path) -> Command:
        return lambda log, out: [sys.executable, "-c", text, str(model), str(log), str(out)]

    for count in dict.fromkeys([1, *workers]):
        yield f"recmtl score --workers {count}", score("--workers", count)
    for tables in ("fp16", "int8"):
        yield f"recmtl score --tables {tables}", score("--tables", tables)
    yield "BatchScorer in memory", code(IN_MEMORY, run)
    for kind, export in exports.items():
        yield f"{kind} export in memory", code(EXPORTED, export)
    if importlib.util.find_spec("ray") is not None:
        yield f"Ray, {max(cores - 1, 1)} actors", script("ray_job.py")
    if importlib.util.find_spec("pyspark") is not None and shutil.which("java"):
        yield f"Spark, local[{cores}]", script("spark_job.py")


def job(command: Command, log: Path, out: Path, rows: int) -> Callable[[], int]:
    """A process that scores a log into an empty place."""

    def done() -> int:
        shutil.rmtree(out, ignore_errors=True)
        if "-c" in command(log, out):
            out.mkdir()
        said = subprocess.run(
            command(log, out),
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        files = sorted(out.rglob("*.parquet"))
        written = sum(pl.scan_parquet(file).select(pl.len()).collect().item() for file in files)
        if said.returncode or written != rows:
            raise RuntimeError(f"{command(log, out)}: {written:,} rows.\n{said.stdout[-4000:]}")
        return rows

    return done


def rows_of(
    found: dict[str, Timing], options: dict[str, Command], rows: int
) -> Iterator[tuple[object, ...]]:
    """A row of the table for each option; the first one is one worker."""
    first = next(iter(options))
    after = {
        name: Timing(
            wall_us=[
                max(whole * rows - few * FEW_ROWS, 1.0) / (rows - FEW_ROWS)
                for whole, few in zip(
                    found[f"{name}/{rows}"].wall_us,
                    found[f"{name}/{FEW_ROWS}"].wall_us,
                    strict=True,
                )
            ],
            cpu_us=[],
        )
        for name in options
    }
    for name in options:
        whole, few = found[f"{name}/{rows}"], found[f"{name}/{FEW_ROWS}"]
        yield (
            name,
            round(whole.wall * rows / 1e6, 2),
            whole.noise,
            paired_ratio(found[f"{first}/{rows}"], whole),
            round(few.wall * FEW_ROWS / 1e6, 2),
            round(1e6 / after[name].wall),
            paired_ratio(after[first], after[name]),
        )


if __name__ == "__main__":
    main()
