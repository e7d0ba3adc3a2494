"""Resident memory of fitting, training, evaluating and scoring a log of ten times `data.memory`.

    python examples/benchmarks/memory.py --memory 64MiB --work runs/memory

Each command runs in a process of its own, which is watched from outside: every 50 ms the resident
memory of /proc/PID/smaps_rollup, anonymous and of files, and at the end the kernel's own peak
(VmHWM). The baseline is the peak of the very same command, with the same model and batch size, on
a log of `--few-rows` rows (two batches): interpreter, libraries, model, optimizer, one step's
activations. Growth is the difference of the two peaks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench import provenance

COMMANDS = ("fit", "train", "score", "eval")
MIB = 2**20
ROW_BYTES = 204
"""Memory of an encoded row of this log in a pool (`Encoders.row_bytes`), about."""


def main() -> None:
    """Write the logs, run every command on both, and write the page."""
    if "--child" in sys.argv:
        child(sys.argv[sys.argv.index("--child") + 1 :])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", default="64MiB", help="the budget, `data.memory`")
    parser.add_argument("--times", type=float, default=10.0, help="encoded log over budget")
    parser.add_argument("--group-rows", type=int, default=100_000, help="rows of a row group")
    parser.add_argument("--file-rows", type=int, default=0, help="rows of a file (0: one file)")
    parser.add_argument("--few-rows", type=int, default=8192, help="rows of the baseline's log")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--work", type=Path, default=Path("runs/memory"))
    parser.add_argument("--plot", type=Path, help="write the memory over time there, as PNG")
    args = parser.parse_args()
    budget = budget_bytes(args.memory)
    rows = int(args.times * budget / ROW_BYTES)
    full = args.work / f"log-{rows}-{args.group_rows}-{args.file_rows}"
    few = args.work / f"log-{args.few_rows}-few"
    write_log(full, rows, args.group_rows, args.file_rows)
    write_log(few, args.few_rows, args.few_rows, 0)
    found = {}
    for command in args.commands.split(","):
        found[command] = measure(command, full, few, args)
        sys.stderr.write(json.dumps({command: summary(found[command], budget)}) + "\n")
    if args.plot is not None:
        plot(found, budget, args)
    sys.stdout.write(page(found, budget, rows, full, args))


# The log


def write_log(folder: Path, rows: int, group_rows: int, file_rows: int) -> None:
    """A log sorted by time, in steps: 10 ids, 5 numbers, a list, a sequence, two labels."""
    if (folder / "spec.yaml").is_file():
        return
    (folder / "log").mkdir(parents=True, exist_ok=True)
    rng, writer, number = np.random.default_rng(0), None, 0
    for start in range(0, rows, group_rows):
        part = rows_of_log(rng, min(group_rows, rows - start), start)
        if writer is None:
            path = folder / "log" / f"part-{number:05d}.parquet"
            writer, number = pq.ParquetWriter(path, part.schema, compression="zstd"), number + 1
        writer.write_table(part, row_group_size=group_rows)
        if file_rows and (start + group_rows) % file_rows == 0:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")


def rows_of_log(rng: np.random.Generator, rows: int, start: int) -> pa.Table:
    """The next rows; clicks go by the user, the item and the hour."""
    columns: dict[str, Any] = {"ts": np.arange(start, start + rows)}
    for i in range(10):
        columns[f"id_{i}"] = rng.zipf(1.2, rows) % 10 ** (2 + i % 5)
    for i in range(5):
        columns[f"x_{i}"] = rng.normal(size=rows)
    columns["tags"] = lists(rng, rng.integers(0, 7, rows))
    columns["seen"] = lists(rng, rng.integers(0, 41, rows))
    hour = np.sin(columns["ts"] / 20_000)
    logit = -1.5 + hour + columns["x_0"] + (columns["id_3"] % 7 - 3) / 4
    columns["click"] = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    columns["buy"] = (columns["click"] * (rng.random(rows) < 0.2)).astype(np.int8)
    return pa.table(columns)


def lists(rng: np.random.Generator, lengths: np.ndarray) -> pa.ListArray:
    """Lists of item numbers."""
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(rng.integers(0, 50_000, offsets[-1]))
    )


HASHED = (1, 2, 3, 4, 6, 7, 8)
SPEC = "\n".join(
    [
        "name: memory",
        "data: {train: log, keep: [ts]}",
        "features:",
        *(f"  - {{name: id_{i}, type: sparse, vocab: {{}}, dim: 8}}" for i in (0, 5)),
        *(
            f"  - {{name: id_{i}, type: sparse, hash: 20000, dim: 8}}"
            for i in (1, 2, 3, 4, 6, 7, 8)
        ),
        "  - {name: id_9, type: sparse, buckets: 32, dim: 8}",
        "  - {name: tags, type: sparse, hash: 20000, dim: 8, pooling: mean}",
        "  - {name: seen, type: sequence, table: id_3, max_len: 40}",
        *(f"  - {{name: x_{i}, type: dense}}" for i in range(5)),
        "tasks:",
        "  - {name: ctr, label: click}",
        "  - {name: ctcvr, label: buy}",
        "tower: {kind: shared_bottom, expert_widths: [32], head_widths: [16]}",
        "train: {batch_size: 4096, epochs: 2}",
        "",
    ]
)


# A process that is watched


class Sample(NamedTuple):
    """Resident memory at one moment, in bytes."""

    time_s: float
    anonymous: int
    files: int

    @property
    def total(self) -> int:
        """Both."""
        return self.anonymous + self.files


class Watched(NamedTuple):
    """What was seen of a process."""

    samples: list[Sample]
    phases: list[tuple[float, str]]
    """When each phase began."""
    peak: int
    """The kernel's own peak (VmHWM)."""
    seconds: float


def measure(command: str, full: Path, few: Path, args: argparse.Namespace) -> dict[str, Watched]:
    """The command on a few rows, then on the log."""
    work = args.work / f"{command}-{args.memory}"
    found: dict[str, Any] = {}
    for name, log in (("few", few), ("full", full)):
        run = args.work / f"run-{args.memory}-{name}"
        if command in ("score", "eval") and not (run / "checkpoints").is_dir():
            watch("train", log, run, work, args.memory)  # a run to score with
        found[name] = watch(command, log, run, work, args.memory)
    return found


def watch(command: str, log: Path, run: Path, work: Path, memory: str) -> Watched:
    """Run a command in a fresh process and sample its memory until it ends."""
    work.mkdir(parents=True, exist_ok=True)
    marks = work / f"{log.name}.phases"
    marks.write_text("")
    line = [sys.executable, __file__, "--child", command, str(log), str(run), memory, str(marks)]
    process = subprocess.Popen(line)
    started, samples, peak = time.monotonic(), [], 0
    while process.poll() is None:
        try:
            samples.append(sample(process.pid))
            peak = max(peak, status_bytes(process.pid, "VmHWM"))
        except (OSError, ValueError, StopIteration):  # it has just ended
            break
        time.sleep(0.05)
    if process.wait() != 0:
        raise SystemExit(f"{command} failed on {log}")
    phases = [json.loads(line) for line in marks.read_text().splitlines()]
    found = Watched(samples, phases, peak, time.monotonic() - started)
    (work / f"{log.name}.samples").write_text(json.dumps(found))
    return found


def sample(pid: int) -> Sample:
    """What smaps_rollup says now."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) * 1024
    rss, anonymous = fields["Rss"], fields["Anonymous"]
    return Sample(time.monotonic(), anonymous, rss - anonymous)


def status_bytes(pid: int, field: str) -> int:
    """A size in /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def child(arguments: list[str]) -> None:
    """One command, whose phases are written down as they begin."""
    command, log, run, memory, marks = arguments
    spec, change = Path(log) / "spec.yaml", f"data.memory={memory}"
    progress = phases_to(Path(marks))
    if command == "fit":
        from recmtl import Encoders, load_spec

        Encoders.fit(load_spec(spec, [change]), log, progress=progress)
    elif command == "train":
        from recmtl.api import train

        train(spec, out=run, overrides=[change], overwrite=True, progress=progress)
    elif command == "score":
        from recmtl.api import score

        score(run, Path(log) / "log", Path(run) / f"scores-{time.time_ns()}", progress=progress)
    else:
        from recmtl.api import evaluate

        evaluate(run, Path(log) / "log", progress=progress)


def phases_to(marks: Path) -> Callable[..., Any]:
    """A progress that writes down when each piece of work begins."""

    class Bar:
        def advance(self, n: int = 1, **shown: object) -> None:
            """Nothing is shown."""

    @contextmanager
    def progress(description: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        with marks.open("a") as file:
            file.write(json.dumps([time.monotonic(), description]) + "\n")
        yield Bar()

    return progress


# What came of it


def budget_bytes(memory: str) -> int:
    """A size such as `64MiB`."""
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    return int(float(memory[:-3]) * units[memory[-3:]])


def summary(found: dict[str, Watched], budget: int) -> dict[str, float]:
    """Peaks, growth and its share of the budget."""
    few, full = found["few"], found["full"]
    growth = full.peak - few.peak
    return {
        "baseline_mib": round(few.peak / MIB, 1),
        "peak_mib": round(full.peak / MIB, 1),
        "sampled_peak_mib": round(max(s.total for s in full.samples) / MIB, 1),
        "growth_mib": round(growth / MIB, 1),
        "of_budget": round(growth / budget, 3),
        "seconds": round(full.seconds, 1),
    }


def page(
    found: dict[str, dict[str, Watched]],
    budget: int,
    rows: int,
    log: Path,
    args: argparse.Namespace,
) -> str:
    """The table in Markdown."""
    size = sum(file.stat().st_size for file in (log / "log").iterdir())
    files = len(list((log / "log").iterdir()))
    lines = [
        f"`python examples/benchmarks/memory.py {' '.join(sys.argv[1:])}`, {provenance()}.",
        "",
        f"Budget {args.memory}; {rows:,} rows, encoded {rows * ROW_BYTES / MIB:,.0f} MiB "
        f"({rows * ROW_BYTES / budget:.1f} times the budget), {files} file(s) of "
        f"{size / MIB:,.0f} MiB, row groups of {args.group_rows:,} rows.",
        "",
        "| command | baseline MiB | peak MiB | growth MiB | of the budget | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for command, both in found.items():
        s = summary(both, budget)
        lines.append(
            f"| {command} | {s['baseline_mib']:,.0f} | {s['peak_mib']:,.0f} | "
            f"{s['growth_mib']:,.1f} | {100 * s['of_budget']:.0f} % | {s['seconds']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(found: dict[str, dict[str, Watched]], budget: int, args: argparse.Namespace) -> None:
    """Memory over time with phases, the baseline and the budget above it."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(found), 1, figsize=(9, 2.6 * len(found)), squeeze=False)
    for axis, (command, both) in zip(axes[:, 0], found.items(), strict=True):
        few, full = both["few"], both["full"]
        start = full.samples[0].time_s
        seconds = [s.time_s - start for s in full.samples]
        files = [s.files / MIB for s in full.samples]
        anonymous = [s.anonymous / MIB for s in full.samples]
        axis.stackplot(
            seconds,
            files,
            anonymous,
            labels=["of files", "anonymous"],
            colors=["#c9d6e6", "#5b8db8"],
        )
        axis.axhline(few.peak / MIB, color="#444", lw=0.8, label="baseline")
        axis.axhline((few.peak + budget) / MIB, color="#c33", lw=1, label="baseline + budget")
        for at, phase in full.phases:
            axis.axvline(at - start, color="#999", lw=0.6, ls=":")
            axis.text(at - start, 4, f" {phase}", fontsize=6, rotation=90, va="bottom")
        axis.set(ylabel="MiB", title=f"{command}, budget {args.memory}")
        axis.set_ylim(0, 1.1 * (few.peak + budget) / MIB)
    axes[0, 0].legend(fontsize=7, loc="lower right")
    axes[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(args.plot, dpi=110)


if __name__ == "__main__":
    main()
