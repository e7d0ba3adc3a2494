"""How long starting takes: the help, importing towers, `recmtl train` as far as its first step.

    python examples/benchmarks/start.py runs/workload --out examples/benchmarks/results/start.md

Each figure is the median over fresh processes that take turns. Bare imports stand beside what is
measured, so that a difference says what this package adds. The step before the last line of
`recmtl train` reads the log: versions, columns, leaks, encoders, validation rows, the first pool.
Therefore a log of 65,536 rows is measured beside the workload.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench import ROOT, provenance
from rounds import markdown
from workload import write

SMALL_ROWS = 65_536
IMPORTS = (
    "import torch; from recmtl import _torchrec; _torchrec.check_versions(); "
    "import lightning.pytorch"
)
FIRST_STEP = """
import os, sys
from contextlib import contextmanager
import recmtl.cli.train
from recmtl import api

class UntilTheFirstStep:
    @contextmanager
    def __call__(self, description, total, unit, *, done=0):
        self.is_epoch = description.startswith("epoch")
        yield self

    def advance(self, n=1, **shown):
        if self.is_epoch:
            os._exit(0)

api.train(sys.argv[1], out=sys.argv[2], progress=UntilTheFirstStep())
sys.exit("no step was made")
"""
"""`recmtl train` as far as its first step."""


class Took(NamedTuple):
    """What a process took."""

    wall_s: float
    cpu_s: float


def timed(command: list[str]) -> Took:
    """Run a command to its end."""
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    cpu, wall = _children_cpu_s(), time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return Took(time.perf_counter() - wall, _children_cpu_s() - cpu)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folders: dict[str, Path], rounds: int, work: Path) -> dict[str, list[Took]]:
    """Every process, round by round; the first round fills the caches of the disk."""
    python = [sys.executable, "-c"]
    commands = {
        "python": [*python, "pass"],
        "help": [sys.executable, "-m", "recmtl", "--help"],
        "torch": [*python, "import torch"],
        "towers": [*python, "import recmtl.towers"],
        "imports": [*python, IMPORTS],
    }
    for name, folder in folders.items():
        commands[name] = [*python, FIRST_STEP, str(folder / "mmoe.yaml"), str(work / "run")]
    found: dict[str, list[Took]] = {name: [] for name in commands}
    for turn in range(-1, rounds):
        for name, command in commands.items():
            shutil.rmtree(work / "run", ignore_errors=True)
            took = timed(command)
            if turn >= 0:
                found[name].append(took)
    return found


def table(found: dict[str, list[Took]], logs: dict[str, str]) -> str:
    """Medians, and medians of differences within a round."""

    def row(what: str, name: str, less: str | None, target: str) -> list[object]:
        base = found[less] if less else [Took(0.0, 0.0)] * len(found[name])
        pairs = list(zip(found[name], base, strict=True))
        wall = [a.wall_s - b.wall_s for a, b in pairs]
        low, _, high = statistics.quantiles(wall, n=4, method="inclusive")
        cpu = statistics.median(a.cpu_s - b.cpu_s for a, b in pairs)
        return [what, statistics.median(wall), (high - low) / 2, cpu, target]

    rows = [
        row("`python -c pass`", "python", None, ""),
        row("`recmtl --help`", "help", None, "0.5"),
        row("`import torch`", "torch", None, ""),
        row("`import recmtl.towers`, beyond `import torch`", "towers", "torch", "0.1"),
        row("imports of torch, TorchRec and Lightning", "imports", None, ""),
    ]
    for name, text in logs.items():
        what = f"`recmtl train` to the first step, {text}, beyond these imports"
        rows.append(row(what, name, "imports", "3"))
    return markdown(["", "s", "half the quartiles' distance", "CPU s", "target s"], rows)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/workload"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="Also write the table here.")
    args = parser.parse_args()
    small = args.folder.with_name(f"{args.folder.name}_{SMALL_ROWS}")
    write(args.folder, 1 << 20)
    write(small, SMALL_ROWS)
    logs = {"small": f"{SMALL_ROWS:,} rows", "workload": f"{1 << 20:,} rows"}
    with tempfile.TemporaryDirectory() as work:
        found = measure({"small": small, "workload": args.folder}, args.rounds, Path(work))
    page = "# Starting\n\nMedians of fresh processes that take turns.\n\n" + table(found, logs)
    page += f"\n`python examples/benchmarks/start.py`, {args.rounds} rounds, {provenance()}\n"
    sys.stdout.write(page)
    if args.out is not None:
        args.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
