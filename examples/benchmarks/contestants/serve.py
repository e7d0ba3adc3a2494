"""One package in its environment, asked through a pipe: a line of JSON in, a line of JSON out.

    python examples/benchmarks/contestants/serve.py by_rechub --threads 1

It runs with the Python of the package, so it needs nothing but torch and pyarrow beside it. Imports
are done before anything is timed; CPU time is that of all threads and of finished child processes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))  # the workload is described there
WARM_UP = 2


class Server:
    """What a contestant's module can do, timed."""

    def __init__(self, name: str) -> None:
        """Import the module, and the package with it."""
        self._module = importlib.import_module(name)
        self._work: Callable[[int], int] | None = None
        self._model: Any = None

    def open(self, kind: str, **request: Any) -> dict[str, Any]:
        """Make a model and batches in memory: `kind` is stepper or forwarder."""
        self._work = getattr(self._module, kind)(**request)
        self._work(WARM_UP)
        return {}

    def work(self, batches: int) -> dict[str, float]:
        """Steps or forward passes on the next batches."""
        work = self._work
        assert work is not None
        return _timed(lambda: work(batches))

    def profile(self, batches: int) -> dict[str, float]:
        """Share of the time of the next steps that each kind of operator takes."""
        work = self._work
        assert work is not None
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            begun = time.perf_counter()
            work(batches)
            elapsed_us = 1e6 * (time.perf_counter() - begun)
        shares: dict[str, float] = defaultdict(float)
        for event in profiler.events():
            shares[_kind(event)] += event.self_cpu_time_total / elapsed_us
        shares["Python and the rest"] += 1 - sum(shares.values())
        return dict(shares)

    def fit(self, **request: Any) -> dict[str, float]:
        """Train from Parquet."""

        def fit() -> int:
            self._model, rows = self._module.fit(**request)
            return int(rows)

        return _timed(fit)

    def predict(self, **request: Any) -> dict[str, float]:
        """Score from Parquet to Parquet."""
        return _timed(lambda: self._module.predict(self._model, **request))


KINDS = {
    "Optimizer.step": "optimizer",
    "embedding_dense_backward": "dense gradients of tables",
    "embedding_lookup": "lookup and fused update",
    "split_embedding": "lookup and fused update",
    "aten::embedding": "lookup and fused update",
    "batch_norm": "batch norm",
    "addmm": "matrix products",
    "aten::mm": "matrix products",
    "aten::bmm": "matrix products",
    "aten::baddbmm": "matrix products",
}
"""Part of the name of an operator, or of one that called it -> kind; the first that fits."""


def _kind(event: Any) -> str:
    names = []
    at = event
    while at is not None:
        names.append(at.name)
        at = at.cpu_parent
    for part, kind in KINDS.items():
        if any(part in name for name in names):
            return kind
    return "other operators"


def _timed(work: Callable[[], int]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), _cpu()
    rows = work()
    return {"rows": rows, "wall_s": time.perf_counter() - wall, "cpu_s": _cpu() - cpu}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + used.ru_utime + used.ru_stime


def main() -> None:
    """Answer until the pipe is closed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="module of the contestant")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print is not an answer
    torch.set_num_threads(args.threads)
    server = Server(args.name)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, request.pop("do"))(**request)
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
