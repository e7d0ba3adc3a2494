"""Resident memory of eval, the report's summary and validation, on ten times `data.memory`.

    python examples/benchmarks/memory_eval.py --memory 64MiB --plot memory_eval.png

As `memory.py` measures: each command in a process of its own, watched from outside; growth is its
peak above that of the same command, with the same run, on a log of a few rows. The log has groups
(3 million users), a segment column of 50 cities, and, for `eval weighted`, sample weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import memory
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench import recmtl

TRAIN_ROWS = 8192
COMMANDS = ("eval", "eval weighted", "summary", "validate")


def main() -> None:
    """Write the logs, train a small run, run every command on both logs, and print the table."""
    if "--child" in sys.argv:
        child(*sys.argv[sys.argv.index("--child") + 1 :])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", default="64MiB", help="the budget, `data.memory`")
    parser.add_argument("--times", type=float, default=10.0, help="encoded log over budget")
    parser.add_argument("--group-rows", type=int, default=100_000, help="rows of a row group")
    parser.add_argument("--few-rows", type=int, default=8192, help="rows of the baseline's log")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--work", type=Path, default=Path("runs/memory_eval"))
    parser.add_argument("--plot", type=Path, help="write the memory over time there, as PNG")
    args = parser.parse_args()
    args.file_rows = 0
    budget = memory.budget_bytes(args.memory)
    rows = int(args.times * budget / memory.ROW_BYTES)
    full, few = args.work / f"log-{rows}", args.work / "log-few"
    for folder, count in ((full, rows), (few, args.few_rows)):
        write_log(folder, count, args.group_rows)
    found = {}
    for command in args.commands.split(","):
        run = args.work / f"run-{args.memory}-{command.replace(' ', '-')}"
        weight = "w" if "weighted" in command else "null"
        if not (run / "checkpoints").is_dir():
            changes = [f"data.memory={args.memory}", f"data.weight={weight}"]
            recmtl("train", few / "spec.yaml", *changes, "--out", run, "--json")
        found[command] = {
            name: watch(command, folder, run) for name, folder in (("few", few), ("full", full))
        }
        sys.stderr.write(json.dumps({command: memory.summary(found[command], budget)}) + "\n")
    if args.plot is not None:
        memory.plot(found, budget, args)
    text = memory.page(found, budget, rows, full, args)
    sys.stdout.write(text.replace("memory.py", "memory_eval.py"))


def write_log(folder: Path, rows: int, group_rows: int) -> None:
    """The log of `memory.py`, and users, cities and weights."""
    if (folder / "spec.yaml").is_file():
        return
    (folder / "log").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    some = rows_of_log(rng, TRAIN_ROWS, 0)
    pq.write_table(some, folder / "train.parquet")
    with pq.ParquetWriter(folder / "log/part-0.parquet", some.schema, compression="zstd") as file:
        for start in range(0, rows, group_rows):
            file.write_table(rows_of_log(rng, min(group_rows, rows - start), start))
    data = "data: {train: train.parquet, valid: log, group_by: user, segments: [city]}"
    spec = memory.SPEC.replace("data: {train: log, keep: [ts]}", data)
    spec = spec.replace("{name: ctcvr, label: buy}", "{name: cvr, label: buy, given: click}")
    (folder / "spec.yaml").write_text(spec, encoding="utf-8")


def rows_of_log(rng: np.random.Generator, rows: int, start: int) -> pa.Table:
    """The next rows."""
    part = memory.rows_of_log(rng, rows, start)
    cities = np.array([f"city {c}" for c in range(50)])
    part = part.append_column("user", pa.array(rng.integers(0, 3_000_000, rows)))
    part = part.append_column("city", pa.array(cities[rng.integers(0, 50, rows)]))
    return part.append_column("w", pa.array(rng.gamma(2, 1, rows)))


def watch(command: str, log: Path, run: Path) -> memory.Watched:
    """Run a command in a fresh process and sample its memory until it ends."""
    marks = run.parent / f"{log.name}.phases"
    marks.write_text("")
    line = [sys.executable, __file__, "--child", command, str(log), str(run), str(marks)]
    process = subprocess.Popen(line)
    started, samples, peak = time.monotonic(), [], 0
    while process.poll() is None:
        try:
            samples.append(memory.sample(process.pid))
            peak = max(peak, memory.status_bytes(process.pid, "VmHWM"))
        except (OSError, ValueError, StopIteration):  # it has just ended
            break
        time.sleep(0.05)
    if process.wait() != 0:
        raise SystemExit(f"{command} failed on {log}")
    phases = [json.loads(text) for text in marks.read_text().splitlines()]
    return memory.Watched(samples, phases, peak, time.monotonic() - started)


def child(command: str, log: str, run: str, marks: str) -> None:
    """One command, whose phases are written down as they begin."""
    progress = memory.phases_to(Path(marks))
    if command.startswith("eval"):
        from recmtl.api import evaluate

        evaluate(run, Path(log) / "log", progress=progress)
    elif command == "summary":
        from recmtl.data import open_log
        from recmtl.report import summarise
        from recmtl.run import Run

        summarise(Run(run), open_log(Path(log) / "log"), progress=progress)
    else:
        validate(log, run)


def validate(log: str, run: str) -> None:
    """The validation of a training, without the training."""
    import lightning.pytorch as pl

    from recmtl import ClickLogDataModule, MultiTaskModule, TorchRecStrategy
    from recmtl.run import Run

    opened = Run(run)
    options: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    trainer = pl.Trainer(accelerator="cpu", devices=1, strategy=TorchRecStrategy(), **options)
    module = MultiTaskModule(opened.config, opened.encoders)
    data = ClickLogDataModule(opened.config, opened.encoders, data_dir=log)
    trainer.validate(module, data, verbose=False)


if __name__ == "__main__":
    main()
