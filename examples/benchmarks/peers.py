"""The same work on torch-rechub, DeepCTR-Torch, FuxiCTR and NextRec, beside ours.

    python examples/benchmarks/peers.py runs/workload --quick
    python examples/benchmarks/peers.py runs/workload --only step/mmoe

Each package runs in an environment of its own, which this makes (`--envs`), with the same torch,
through its own loader, trainer and predictor (`contestants/by_*.py`). Contestants are processes
that stay open and take turns. What was measured is kept in `WORK/measured.jsonl`, one line each,
and is not measured again (`--again` does); a run that was killed goes on. The page is made of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from bench import provenance
from peers_page import FIT_ROWS, page
from peers_processes import PEERS, Contestant, alternate
from workload import write

from recmtl.metrics import auc

QUICK = ("ours", "ours, bf16", "torch-rechub")
PREDICT = ("ours", "torch-rechub", "NextRec")
FORWARD = ("ours", "ours, int8", "torch-rechub")
STEPS = {"ours": 8}
"""Batches of one round; 3 for the others, which take longer."""
FORWARDS = 12
QUICK_ROWS = 131_072
SEEDS = {"ours": 3, "ours, bf16": 3, "torch-rechub": 3, "NextRec": 3}
"""1 for the others."""

Job = tuple[str, Callable[[], dict[str, Any]]]


class Bench:
    """Everything that can be measured, each under a key."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Write the log, if it is not there."""
        self.args = args
        write(args.folder, 1 << 20)
        self.train = str((args.folder / "train.parquet").absolute())
        self.test = str((args.folder / "test.parquet").absolute())
        self.work: Path = args.work.absolute()

    def jobs(self) -> Iterator[Job]:
        """What is to be measured, most telling first."""
        names = QUICK if self.args.quick else ("ours", "ours, bf16", *list(PEERS)[1:])
        rows = QUICK_ROWS if self.args.quick else FIT_ROWS
        yield "step/mmoe/4096/1", partial(self.in_turns, "stepper", "mmoe", 4096, 1, names)
        for seed in range(1 if self.args.quick else 3):
            for name in names:
                if seed < SEEDS.get(name, 1):
                    yield (
                        f"fit/{rows}/4096/{name}/{seed}",
                        partial(self.fit, name, rows, 4096, seed),
                    )
        yield "predict/mmoe/1", partial(self.predict, [n for n in names if n in PREDICT])
        yield "profile/mmoe/4096/1", partial(self.profile, "mmoe", 4096, names)
        yield "forward/mmoe/4096/1", partial(self.in_turns, "forwarder", "mmoe", 4096, 1, FORWARD)
        if self.args.quick:
            return
        towers = ("mmoe", "ple", "esmm", "shared_bottom")
        for threads, tower in itertools.product((1, 2), towers):
            for batch in (4096, 1024) if tower == "mmoe" else (4096,):
                job = partial(self.in_turns, "stepper", tower, batch, threads, QUICK)
                yield f"step/{tower}/{batch}/{threads}", job
        for tower in towers:
            job = partial(self.in_turns, "forwarder", tower, 4096, 1, FORWARD)
            yield f"forward/{tower}/4096/1", job
        for name in QUICK:
            yield f"fit/{1 << 20}/4096/{name}/0", partial(self.fit, name, 1 << 20, 4096, 0)

    def in_turns(
        self, kind: str, tower: str, batch: int, threads: int, names: tuple[str, ...]
    ) -> dict[str, Any]:
        """Steps or forward passes on batches in memory, in turns."""
        request = {"kind": kind, "tower": tower, "train": self.train, "batch_size": batch}
        run = ""
        with ExitStack() as stack:
            turns = {}
            for name in names:
                who, _, form = name.partition(", ")
                contestant = stack.enter_context(self._start(who, threads))
                more: dict[str, Any] = {}
                if kind == "forwarder" and who == "ours":
                    run = run or self._trained(contestant, tower)
                    more = {"run": run, "tables": form or "fp32"}
                elif form == "bf16":
                    more = {"bf16": True}
                contestant.ask("open", **request, **more)
                count = FORWARDS if kind == "forwarder" else STEPS.get(who, 3)
                turns[name] = _asking(contestant, count * 4096 // batch)
            timings = alternate(turns, rounds=self.args.rounds, seconds=self.args.seconds)
        return {"timings": {name: asdict(timing) for name, timing in timings.items()}}

    def profile(self, tower: str, batch: int, names: tuple[str, ...]) -> dict[str, Any]:
        """What the time of a step goes to, by operator."""
        shares = {}
        for name in names:
            if ", " in name:
                continue
            with self._start(name, 1) as contestant:
                contestant.ask(
                    "open", kind="stepper", tower=tower, train=self.train, batch_size=batch
                )
                shares[name] = contestant.ask("profile", batches=STEPS.get(name, 3))
        return {"shares": shares}

    def fit(self, name: str, rows: int, batch: int, seed: int) -> dict[str, Any]:
        """One epoch from Parquet in a new process, and the AUC on the test rows."""
        who, _, form = name.partition(", ")
        with self._start(who, 1) as contestant:
            folder = self._empty(who, "fit")
            found = contestant.ask(
                "fit",
                tower="mmoe",
                train=self._part(rows),
                batch_size=batch,
                seed=seed,
                folder=str(folder),
                **({"precision": "bf16-mixed"} if form == "bf16" else {}),
            )
            out = folder / "scores.parquet"
            contestant.ask("predict", test=self.test, batch_size=4096, out=str(out))
        return {
            "cpu_us": 1e6 * found["cpu_s"] / found["rows"],
            "wall_us": 1e6 * found["wall_s"] / found["rows"],
            "auc": self._auc(out),
        }

    def predict(self, names: list[str]) -> dict[str, Any]:
        """A million rows from Parquet to Parquet, in turns, with models of little training.

        All tables have the ids of the whole log. NextRec is slow on a frame: it gets one of 8192
        rows.
        """
        few, some = self._part(16_384), self._part(8192)
        with ExitStack() as stack:
            turns = {}
            for name in names:
                contestant = stack.enter_context(self._start(name, 1))
                folder = self._empty(name, "predict")
                contestant.ask(
                    "fit",
                    tower="mmoe",
                    train=few,
                    batch_size=4096,
                    seed=0,
                    folder=str(folder),
                    **({"ids": "hash: {size}"} if name == "ours" else {}),
                )
                log = self._part(QUICK_ROWS) if self.args.quick else self.train
                turns[name] = _predicting(contestant, log, folder)
                if name == "ours":
                    turns["ours, int8"] = _predicting(contestant, log, folder, tables="int8")
                if name == "NextRec":
                    turns["NextRec, frame"] = _predicting(contestant, some, folder, frame=True)
            timings = alternate(turns, rounds=min(7, self.args.rounds), seconds=self.args.seconds)
        return {"timings": {name: asdict(timing) for name, timing in timings.items()}}

    def _start(self, name: str, threads: int) -> Contestant:
        return Contestant(name, self.args.envs.absolute(), self.work, threads=threads)

    def _empty(self, name: str, purpose: str) -> Path:
        folder = self.work / PEERS[name].module / purpose
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _part(self, rows: int) -> str:
        """The first rows of the log as a file of its own."""
        path = self.work / f"rows-{rows}" / "train.parquet"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = pl.scan_parquet(self.train).head(rows)
            part.sink_parquet(path.with_suffix(".part"), row_group_size=1 << 17)
            path.with_suffix(".part").rename(path)
        return str(path)

    def _trained(self, ours: Contestant, tower: str) -> str:
        """A run of little training whose tables are as large as those of the others."""
        folder = self._empty("ours", "forward")
        few = self._part(16_384)
        ours.ask(
            "fit",
            tower=tower,
            train=few,
            batch_size=4096,
            seed=0,
            folder=str(folder),
            ids="hash: {size}",
        )
        return str(folder / "run")

    def _auc(self, scores: Path) -> dict[str, float | None]:
        found = pl.read_parquet(scores / "*.parquet" if scores.is_dir() else scores)
        labels = pl.read_parquet(self.test, columns=["click", "conversion"])
        columns = ("probs_ctr", "probs_ctcvr") if scores.is_dir() else found.columns[-2:]
        return {
            task: auc(found[column].to_numpy(), labels[label].to_numpy())
            for task, label, column in zip(
                ("click", "CTCVR"), ("click", "conversion"), columns, strict=True
            )
        }


def _asking(contestant: Contestant, batches: int) -> Callable[[int], dict[str, Any]]:
    return lambda _: contestant.ask("work", batches=batches)


def _predicting(
    contestant: Contestant, test: str, folder: Path, **more: bool | str
) -> Callable[[int], dict[str, Any]]:
    def predict(turn: int) -> dict[str, Any]:
        out = str(folder / f"scores-{turn}-{'-'.join(more)}.parquet")
        return contestant.ask("predict", test=test, batch_size=4096, out=out, **more)

    return predict


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/workload"))
    parser.add_argument("--work", type=Path, help="default runs/peers/quick or runs/peers/full")
    parser.add_argument("--envs", type=Path, default=Path("runs/peers/envs"))
    parser.add_argument("--quick", action="store_true", help="torch-rechub and MMoE alone")
    parser.add_argument("--only", default="", help="what the key must begin with")
    parser.add_argument("--again", action="store_true", help="measure what is known already")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=150, help="of the rounds of one key")
    parser.add_argument("--list", action="store_true", help="print the keys that are left")
    parser.add_argument("--result", type=Path, help="write the page here too")
    args = parser.parse_args()
    args.work = args.work or Path("runs/peers") / ("quick" if args.quick else "full")
    bench = Bench(args)
    log = bench.work / "measured.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    known = _known(log)
    failed = []
    done = set() if args.again else set(known)
    for key, job in bench.jobs():
        if not key.startswith(args.only) or key in done:
            continue
        done.add(key)
        if args.list:
            sys.stdout.write(f"{key}\n")
        else:
            sys.stderr.write(f"{key}\n")
            about = {"key": key, "where": provenance(), "load": round(os.getloadavg()[0], 1)}
            try:
                known[key] = about | job()
            except (RuntimeError, subprocess.CalledProcessError) as error:
                sys.stderr.write(f"{error}\n")
                failed.append(key)
                continue
            with log.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(known[key]))  # a torn last line stays alone
    if not args.list:
        text = page(known)
        sys.stdout.write(text)
        if args.result:
            args.result.write_text(text, encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _known(log: Path) -> dict[str, dict[str, Any]]:
    """The last line of each key; torn lines do not count."""
    found = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[entry["key"]] = entry
    return found


if __name__ == "__main__":
    main()
