"""The data path alone: Parquet to encoded, shuffled batches, rows a second and CPU time a row.

    python examples/benchmarks/data.py runs/workload --page runs/data.md

One thread each for polars, Arrow and torch. `ids as they are` are integers below the size of their
table, read through a vocabulary: one table lookup an id, the cheapest way that a spec has (a hash
takes half as long again). A first epoch reads the file, later ones come from memory; `in order` is
what evaluation and scoring read. The floor is decoding the same columns and nothing else.
"""

from __future__ import annotations

import argparse
import os

# Before polars is imported, which makes its threads then.
os.environ.update(POLARS_MAX_THREADS="1", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch
from bench import provenance
from rounds import Timing, alternate, markdown, write_result
from workload import GROUP_ROWS, SEQUENCES, spec, write

from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders, batches_in_order, open_log
from recmtl.data.streams import TrainStreams

BATCH_SIZE = 4096
SMALL_BUDGET = "32MiB"
MEMORY_BUDGET = "64MiB"
VECTOR_DIM = 64
WIDTHS = {10: (7, 3), 100: (72, 28), 300: (216, 84)}
"""Features -> ids and numbers among them."""


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/workload"))
    parser.add_argument("--rows", type=int, default=1 << 20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--page", type=Path, help="where to write the page (default: print it)")
    parser.add_argument("--out", type=Path, help="where to write all rounds, as JSON")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak_of is not None:
        sys.stdout.write(json.dumps(peak_bytes(args.peak_of)))
        return
    plain, lists = args.folder / "plain", args.folder / "seq"
    write(plain, args.rows)
    write(lists, args.rows // 2, sequences=True)
    contestants = cases(plain, lists, args.folder)
    contestants = floors(plain, lists, args.folder / "vector") | contestants
    timings = alternate(contestants, rounds=args.rounds)
    beyond = {
        f"28 columns hashed, {SMALL_BUDGET}": first_epoch(
            case(plain, hashed(), memory=SMALL_BUDGET)
        ),
        f"two sequences, {SMALL_BUDGET}": first_epoch(
            case(lists, hashed(sequences=True), memory=SMALL_BUDGET)
        ),
    }
    timings |= alternate(beyond, rounds=3, warm_up=0)
    peaks = {copies: peak(plain, args.folder / f"{copies}x", copies) for copies in (1, 4)}
    beside = beside_a_step(case(plain, spec("shared_bottom")))
    if args.out is not None:
        write_result(args.out, about=provenance(), timings=timings, peaks=peaks, beside=beside)
    text = page(timings, peaks, beside, args)
    if args.page is None:
        sys.stdout.write(text)
    else:
        args.page.write_text(text, encoding="utf-8")


class Case(NamedTuple):
    """A log, and what encodes it."""

    folder: Path
    config: RunConfig
    encoders: Encoders


def cases(plain: Path, lists: Path, folder: Path) -> dict[str, Callable[[], int]]:
    """Name -> one epoch, in memory."""
    as_they_are = case(plain, spec("shared_bottom"))
    with_hash = case(plain, hashed())
    sequences = case(lists, spec("shared_bottom", sequences=True))
    bags = case(lists, as_bags(spec("shared_bottom", sequences=True)))
    found = {
        "28 columns, ids as they are": first_epoch(as_they_are),
        "28 columns, ids as they are, later epochs": later_epoch(as_they_are),
        "28 columns, ids as they are, in order": in_order(as_they_are),
        "28 columns, 20 hashed": first_epoch(with_hash),
        "28 columns, 20 hashed, in order": in_order(with_hash),
        "28 columns and two sequences": first_epoch(sequences),
        "28 columns and two sequences, later epochs": later_epoch(sequences),
        "28 columns and two sequences, in order": in_order(sequences),
        "28 columns and two lists pooled": first_epoch(bags),
    }
    vectors = with_vector(plain, folder)
    found |= {
        f"28 columns and a vector of {VECTOR_DIM}": first_epoch(vectors),
        f"28 columns and a vector of {VECTOR_DIM}, later epochs": later_epoch(vectors),
        f"28 columns and a vector of {VECTOR_DIM}, in order": in_order(vectors),
        f"fitting: 28 columns and a vector of {VECTOR_DIM}": fitting(vectors),
    }
    for width in WIDTHS:
        found[f"{width} columns, ids as they are"] = first_epoch(wide(plain, folder, width))
    for name, fitted in (
        ("28 columns, ids as they are", as_they_are),
        ("two sequences", sequences),
    ):
        found[f"fitting: {name}"] = fitting(fitted)
    return found


def floors(plain: Path, lists: Path, vectors: Path) -> dict[str, Callable[[], int]]:
    """Name -> decoding of a file, and nothing else."""

    def in_polars(path: Path) -> int:
        rows = pq.read_metadata(path).num_rows
        for start in range(0, rows, GROUP_ROWS):
            pl.scan_parquet(path).slice(start, GROUP_ROWS).collect()
        return rows

    def in_arrow(path: Path) -> int:
        rows = 0
        for part in pq.ParquetFile(path).iter_batches(1 << 14, use_threads=False):
            rows += part.num_rows
        return rows

    found: dict[str, Callable[[], int]] = {}
    logs = {
        "28 columns": plain,
        "28 columns and two sequences": lists,
        f"28 columns and a vector of {VECTOR_DIM}": vectors,
    }
    for name, folder in logs.items():
        path = folder / "train.parquet"
        found[f"floor: {name}, polars, a row group at a time"] = lambda p=path: in_polars(p)
        found[f"floor: {name}, pyarrow, 16,384 rows at a time"] = lambda p=path: in_arrow(p)
    return found


def hashed(*, sequences: bool = False) -> str:
    """The spec with hashes."""
    return spec("shared_bottom", sequences=sequences, ids="hash: {size}")


def as_bags(text: str) -> str:
    """The spec with its sequences as lists that are pooled, in tables of their own."""
    for name in SEQUENCES:
        start = text.index(f"  - {{name: {name}, type: sequence")
        stop = text.index("\n", start)
        text = (
            text[:start] + f"  - {{name: {name}, type: sparse, vocab: {{}}, dim: 16}}" + text[stop:]
        )
    return text


def case(folder: Path, text: str, *, memory: str = "1GiB", name: str | None = None) -> Case:
    """Encoders fitted on a log."""
    path = folder / f"data-{name or abs(hash((text, memory)))}.yaml"
    path.write_text(text.replace("memory: 1GiB", f"memory: {memory}"), encoding="utf-8")
    config = load_spec(path)
    path.unlink()
    return Case(folder, config, Encoders.fit(config, folder))


def wide(plain: Path, folder: Path, width: int) -> Case:
    """The plain log's columns, some of them several times."""
    num_ids, num_dense = WIDTHS[width]
    path = folder / str(width)
    if not (path / "train.parquet").is_file():
        path.mkdir(parents=True, exist_ok=True)
        rows = min(GROUP_ROWS * 16 // max(width // 20, 2), GROUP_ROWS * 8)
        frame = pl.scan_parquet(plain / "train.parquet").head(rows).collect()
        ids = [pl.col(f"id_{i % 20}").alias(f"c_{i}") for i in range(num_ids)]
        dense = [pl.col(f"x_{i % 8}").alias(f"d_{i}") for i in range(num_dense)]
        narrow = frame.select(*ids, *dense, "click", "conversion")
        narrow.write_parquet(path / "train.parquet", row_group_size=GROUP_ROWS)
        narrow.head(1000).write_parquet(path / "test.parquet")
    lines = spec("shared_bottom").splitlines()
    first, tasks = lines.index("features:") + 1, lines.index("tasks:")
    features = [
        *(f"  - {{name: c_{i}, type: sparse, vocab: {{}}, dim: 16}}" for i in range(num_ids)),
        *(f"  - {{name: d_{i}, type: dense}}" for i in range(num_dense)),
    ]
    return case(path, "\n".join([*lines[:first], *features, *lines[tasks:], ""]))


def with_vector(plain: Path, folder: Path) -> Case:
    """A fourth of the plain log, each row with a vector of 64 numbers beside its columns."""
    path = folder / "vector"
    if not (path / "train.parquet").is_file():
        path.mkdir(parents=True, exist_ok=True)
        rows = pq.read_metadata(plain / "train.parquet").num_rows // 4
        frame = pl.scan_parquet(plain / "train.parquet").head(rows).collect()
        vectors = np.random.default_rng(0).normal(size=(rows, VECTOR_DIM)).astype(np.float32)
        frame = frame.with_columns(pl.Series("vector", vectors).arr.to_list())
        frame.write_parquet(path / "train.parquet", row_group_size=GROUP_ROWS)
        frame.head(1000).write_parquet(path / "test.parquet")
    feature = f"  - {{name: vector, type: vector, dim: {VECTOR_DIM}}}"
    return case(path, spec("shared_bottom").replace("tasks:", f"{feature}\ntasks:", 1))


def streams(of: Case) -> TrainStreams:
    """Its batches."""
    return TrainStreams(
        open_log(of.folder / "train.parquet"),
        of.encoders,
        batch_size=BATCH_SIZE,
        seed=0,
        memory_bytes=of.config.data.memory_bytes,
    )


def first_epoch(of: Case) -> Callable[[], int]:
    """From the file."""
    return lambda: used(streams(of).batches(0), of)


def later_epoch(of: Case) -> Callable[[], int]:
    """From memory."""
    kept = streams(of)
    used(kept.batches(0), of)
    return lambda: used(kept.batches(1), of)


def in_order(of: Case) -> Callable[[], int]:
    """As evaluation reads."""
    log = open_log(of.folder / "train.parquet")
    return lambda: used(batches_in_order(log, of.encoders, batch_size=BATCH_SIZE, labels=True), of)


def fitting(of: Case) -> Callable[[], int]:
    """One pass that fits."""
    return lambda: Encoders.fit(of.config, of.folder).num_rows


def used(batches: Iterable[object], of: Case) -> int:
    """Take every batch; how many rows there were."""
    for _ in batches:
        pass
    return of.encoders.num_rows


def peak(plain: Path, folder: Path, copies: int) -> int:
    """Growth of the resident memory over that of the imports, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(copies):
        link = folder / f"part-{i}.parquet"
        if not link.exists():
            link.hardlink_to(plain / "train.parquet")
    command = [sys.executable, __file__, str(plain), "--peak-of", str(folder)]
    return int(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def peak_bytes(folder: Path) -> int:
    """The same, here: a quarter of an epoch, out of core."""
    text = (
        hashed().replace("train.parquet", "'part-*.parquet'").replace(", valid: test.parquet", "")
    )
    path = folder / "data.yaml"
    path.write_text(text.replace("memory: 1GiB", f"memory: {MEMORY_BUDGET}"), encoding="utf-8")
    config = load_spec(path)
    before = resident("VmRSS")
    encoders = Encoders.fit(config, folder)
    log = open_log(str(folder / "part-*.parquet"))
    found = TrainStreams(
        log, encoders, batch_size=BATCH_SIZE, seed=0, memory_bytes=config.data.memory_bytes
    )
    for _ in islice(found.batches(0), found.num_batches // 4):
        pass
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of a field of the process's status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def beside_a_step(of: Case) -> dict[str, float]:
    """Milliseconds of a step of small operations, alone and while the thread reads for it."""
    kept = streams(of)
    used(kept.batches(0), of)
    x_BD, weight_DH = torch.randn(BATCH_SIZE, 328), torch.randn(328, 64)

    def step() -> float:
        begun = time.perf_counter()
        for _ in range(20):
            (x_BD @ weight_DH).relu_().sum()
        return time.perf_counter() - begun

    found: dict[str, list[float]] = {"alone": [], "a later epoch": [], "the first epoch": []}
    for _ in range(3):
        found["alone"] += [step() for _ in range(64)]
        found["a later epoch"] += [step() for _ in islice(kept.batches(1), 192)]
        found["the first epoch"] += [step() for _ in streams(of).batches(0)]
    return {name: 1e3 * sorted(times)[len(times) // 2] for name, times in found.items()}


def page(
    timings: dict[str, Timing],
    peaks: dict[int, int],
    beside: dict[str, float],
    args: argparse.Namespace,
) -> str:
    """All figures as Markdown."""
    rows = [
        [name, round(1e6 / t.cpu), round(t.rows_per_s), t.cpu, t.wall, f"{t.noise:.0%}"]
        for name, t in timings.items()
    ]
    command = f"python examples/benchmarks/data.py {args.folder} --rounds {args.rounds}"
    head = ["", "rows a CPU second", "rows/s", "CPU µs a row", "wall µs a row", "noise"]
    text = "\n\n".join(
        [
            "# Data path: Parquet to batches, one thread",
            f"`{command}`, {provenance()}; {args.rows:,} rows of the workload, batches of "
            f"{BATCH_SIZE}, medians of rounds in which all took turns. A thread reads ahead; "
            "its CPU time and that of the thread that takes the batches are counted together.",
            markdown(head, rows),
            f"Peak of the resident memory over the imports', `memory: {MEMORY_BUDGET}`, hashed: "
            + ", ".join(f"{size / 2**20:.0f} MiB at {n}x" for n, size in peaks.items())
            + f" the log of {args.rows:,} rows.",
            "A step of 20 small products takes "
            + ", ".join(f"{ms:.2f} ms {name}" for name, ms in beside.items())
            + " (first two of its batches from memory, the last from the file).",
        ]
    )
    return text + "\n"


if __name__ == "__main__":
    main()
