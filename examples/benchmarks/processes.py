"""Several processes against one: losses, metrics, predictions and checkpoints.

    PYTHONPATH=. python examples/benchmarks/processes.py [--other PYTHON] [--work FOLDER]

Everything runs on a simulated log of 1000 and 700 rows with every kind of feature, in processes
that talk over gloo. PYTHON is the interpreter of an environment with another torch and torchrec,
for the tables about checkpoints between the two.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import provenance

from recmtl.checkpoint import load_full
from tests.distributed.conftest import chosen, made_log
from tests.distributed.log import PLANS, TOWERS
from tests.distributed.pool import Pool
from tests.distributed.test_parity import OPTIONS, SGD

WORLD_SIZES = (1, 2, 4)
OPTIMIZERS = {"adam, rowwise_adagrad": (), "SGD": SGD}
FURTHER = {
    "dropout 0.2": (*SGD, "tower.dropout=0.2"),
    "bf16-mixed": (*SGD, "train.precision=bf16-mixed"),
    "pools (48KiB)": (*SGD, "data.memory=48KiB"),
}
INTRODUCTION = """\
Largest differences from one process. *loss*: of any of the first twenty steps, each the mean over
the global batch of 64 rows, of order 1; at most 1e-6 is asked for. *metrics*: of any validation
metric of any task (AUC, GAUC, log loss, NE, PCOC, ECE, accuracy, the counts, and RMSE and MAE in
the label's unit, of order 15) after the epoch of 27 steps; at most 1e-4. A change of 1e-5 is one
pair of rows that AUC counts the other way round. *predictions*: of the 700 validation rows by the
last checkpoint, read unsharded. *batches*: the row numbers of every global batch.

One log of 1000 and 700 training rows and 700 validation rows: a vocabulary, hashes, a weighted and
an unweighted bag, a sequence that shares a table, a dense feature, sample weights, null labels; two
binary tasks, their product, three classes and a regression. Table-wise and row-wise name all five
tables, mixed has two of each kind and leaves one to the planner, planned leaves all to it.

Dropout draws a mask for each (seed, step, process): each number of processes has masks of its own,
so with dropout runs agree in distribution, not in numbers. bf16 rounds sums that each number of
processes takes in another order. Everything else does not depend on how many processes train."""
UNEVEN = {"1000 + 700": (1000, 700), "65": (65,), "2 + 1": (2, 1), "1": (1,)}


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other", type=Path, help="interpreter of another environment")
    parser.add_argument("--work", type=Path, default=Path("runs/processes"))
    results = Path(__file__).parent / "results"
    parser.add_argument("--result", type=Path, default=results / "processes.md")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    work = args.work.absolute()
    bench = Bench(Pool(work / "pool", 4), work)
    command = "PYTHONPATH=. python examples/benchmarks/processes.py"
    sections = [
        "# Several processes",
        f"`{command}{' --other PYTHON' if args.other else ''}`, {provenance()}.",
        INTRODUCTION,
        *bench.plan(),
        *bench.parity(),
        *bench.options(),
        *bench.uneven(),
        *bench.checkpoints(),
    ]
    if args.other is not None:
        other = Bench(Pool(work / "other-pool", 2, python=args.other), work / "other")
        sections += between(bench, other)
        other.pool.close()
    bench.pool.close()
    args.result.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


class Bench:
    """One environment: its processes, a log, and what was trained so far."""

    def __init__(self, pool: Pool, work: Path) -> None:
        self.pool = pool
        self.work = work
        self.log = made_log(pool, work / "uneven")
        self._done: dict[tuple[Any, ...], dict[str, Any]] = {}

    def train(self, world_size: int, tower: str, plan: str, *options: str) -> dict[str, Any]:
        """A finished training, with predictions of the validation rows; each is done once."""
        key = (world_size, tower, plan, *options)
        if key not in self._done:
            folder = self.work / "runs" / f"{len(self._done)}"
            folder.mkdir(parents=True)
            given = {"overrides": [*chosen(tower, plan), *options], "folder": str(folder)}
            ranks = self.pool.run(world_size, "train", **self.log, **given, save_at=[10])
            rows = {"resume": f"{folder}/end", "path": "valid.parquet"}
            self.pool.run(1, "predict_plainly", **self.log, **given, **rows)
            found = np.load(folder / "predicted.npy")
            self._done[key] = {**ranks[0], "folder": folder, "predicted": found}
        return self._done[key]

    def predict(self, world_size: int, checkpoint: Path) -> tuple[np.ndarray, Path]:
        """Predictions of a checkpoint by so many processes, 0 for unsharded; and what was read."""
        folder = self.work / "predicted"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job = "predict" if world_size else "predict_plainly"
        rows = {"resume": str(checkpoint), "path": "valid.parquet", "folder": str(folder)}
        self.pool.run(world_size or 1, job, **self.log, overrides=chosen("mmoe", "mixed"), **rows)
        return np.load(folder / "predicted.npy"), folder / "again"

    def plan(self) -> Iterator[str]:
        """A plan in words."""
        yield "## A plan in words (mixed, 4 processes)"
        yield f"```text\n{self.train(4, 'mmoe', 'mixed')['plan'].strip()}\n```"
        yield (
            "A rank always holds rows of a table that is split: row-wise over more processes than"
            " it has rows for is refused, and never planned."
        )

    def parity(self) -> Iterator[str]:
        """Towers, plans and optimizers."""
        for name, options in OPTIMIZERS.items():
            yield f"## Towers and plans: {name}"
            yield table(
                ["tower", "plan", "processes", "batches", "loss", "metrics", "predictions"],
                (
                    [tower, plan, world_size, *self._against_one(world_size, tower, plan, options)]
                    for tower in TOWERS
                    for plan in PLANS
                    for world_size in WORLD_SIZES[1:]
                ),
            )

    def options(self) -> Iterator[str]:
        """What else changes a step."""
        yield "## Options (ple, mixed plan)"
        yield table(
            ["option", "processes", "batches", "loss", "metrics", "predictions"],
            (
                [name, world_size, *self._against_one(world_size, "ple", "mixed", options)]
                for name, options in (OPTIONS | FURTHER).items()
                for world_size in WORLD_SIZES[1:]
            ),
        )

    def _against_one(
        self, world_size: int, tower: str, plan: str, options: tuple[str, ...]
    ) -> list[str]:
        one = self.train(1, tower, plan, *options)
        several = self.train(world_size, tower, plan, *options)
        return [
            same(several["batches"] == one["batches"]),
            f"{furthest(several['losses'][:20], one['losses'][:20]):.1e}",
            f"{furthest_metric(several, one):.1e}",
            f"{apart(several['predicted'], one['predicted']):.1e}",
        ]

    def uneven(self) -> Iterator[str]:
        """Logs that the number of processes does not divide."""
        rows = []
        for name, sizes in UNEVEN.items():
            log = made_log(self.pool, self.work / f"log-{name.replace(' ', '')}", train=sizes)
            given = {**log, "overrides": chosen("mmoe", "planned")}
            runs = [self.pool.run(n, "train", **given)[0] for n in WORLD_SIZES]
            for world_size, several in zip(WORLD_SIZES[1:], runs[1:], strict=True):
                rows.append(
                    [
                        name,
                        world_size,
                        len(several["rows"]),
                        same(several["batches"] == runs[0]["batches"]),
                        f"{furthest(several['losses'], runs[0]['losses']):.1e}",
                        f"{furthest_metric(several, runs[0]):.1e}",
                    ]
                )
        yield "## Uneven logs (mmoe, the planner's plan, 700 validation rows)"
        head = ["training files, rows", "processes", "rows read", "batches", "loss", "metrics"]
        yield table(head, rows)

    def checkpoints(self) -> Iterator[str]:
        """Each number of processes reads what each other has written."""
        read, resumed = [], []
        for saved in WORLD_SIZES:
            run = self.train(saved, "mmoe", "mixed")
            read += [
                read_row(f"{saved}, {moment}", run["folder"] / moment, self)
                for moment in ("at-10", "end")
            ]
            resumed.append(self.resumed_row(f"{saved}", run["folder"] / "at-10", WORLD_SIZES))
        yield "## Checkpoints, read by other numbers of processes (mmoe, mixed plan)"
        yield table(["written by", *(f"read by {n}" for n in WORLD_SIZES), "read back"], read)
        yield "## Training continued in mid-epoch by other numbers of processes (mmoe, mixed plan)"
        yield table(["begun by", *(f"continued by {n}" for n in WORLD_SIZES)], resumed)

    def resumed_row(self, name: str, start: Path, world_sizes: tuple[int, ...]) -> list[str]:
        """How far metrics are from those of the one process that was never stopped."""
        whole, cells = self.train(1, "mmoe", "mixed"), [name]
        for world_size in world_sizes:
            given = {**self.log, "overrides": chosen("mmoe", "mixed"), "resume": str(start)}
            rest = self.pool.run(world_size, "train", **given)[0]
            batches = same(rest["batches"] == whole["batches"][10:])
            cells.append(f"batches {batches}, metrics {furthest_metric(rest, whole):.1e}")
        return cells


def read_row(
    name: str, checkpoint: Path, bench: Bench, world_sizes: tuple[int, ...] = WORLD_SIZES
) -> list[str]:
    """How far predictions are from unsharded ones, and whether every number was read back."""
    plain, _ = bench.predict(0, checkpoint)
    whole, exact, cells = load_full(checkpoint), True, [name]
    for world_size in world_sizes:
        found, again = bench.predict(world_size, checkpoint)
        read = load_full(again)
        exact &= all(torch.equal(read[key], whole[key]) for key in read)
        cells.append(f"{apart(found, plain):.1e}")
    return [*cells, "bit for bit" if exact else "DIFFERENT"]


def between(first: Bench, second: Bench) -> Iterator[str]:
    """Checkpoints of two processes, between two environments."""
    names = [bench.pool.run(1, "versions")[0] for bench in (first, second)]
    yield f"## Checkpoints between {names[0]} (A) and {names[1]} (B)"
    read, resumed = [], []
    for one, other, a, b in ((first, second, "A", "B"), (second, first, "B", "A")):
        run = one.train(2, "mmoe", "mixed")
        predicted, _ = one.predict(0, run["folder"] / "end")
        elsewhere, _ = other.predict(0, run["folder"] / "end")
        cells = read_row(f"2 on {a}, end", run["folder"] / "end", other, (1, 2))
        read.append([*cells, b, f"{apart(elsewhere, predicted):.1e}"])
        cells = other.resumed_row(f"2 on {a}, step 10", run["folder"] / "at-10", (1, 2))
        resumed.append([*cells, b])
    yield table(
        ["written by", "read by 1", "read by 2", "read back", "on", "unsharded, A against B"], read
    )
    yield table(["begun by", "continued by 1", "continued by 2", "on"], resumed)


def furthest(found: list[float], expected: list[float]) -> float:
    """The largest difference of any step."""
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def furthest_metric(several: dict[str, Any], one: dict[str, Any]) -> float:
    """The largest difference of any validation metric; all must be defined in both, or in none."""
    names = [name for name in one["metrics"] if name.startswith("valid/")]
    pairs = [(several["metrics"][name], one["metrics"][name]) for name in names]
    if any((a is None) != (b is None) for a, b in pairs):
        return float("inf")
    return max(abs(a - b) for a, b in pairs if a is not None)


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference: of probabilities, and of the regression relative to its size."""
    probs = np.abs(found[:, :-1] - expected[:, :-1]).max()
    return float(max(probs, np.abs(found[:, -1] / expected[:, -1] - 1).max()))


def same(is_same: bool) -> str:  # a cell of a table
    """A cell."""
    return "same" if is_same else "DIFFERENT"


def table(head: list[str], rows: Any) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main()
