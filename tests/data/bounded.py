"""Run by `test_memory`: the data path on a log, and how far resident memory grew in each phase."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from recmtl.data import Encoders, Log, TrainStreams, batches_in_order, open_log
from recmtl.spec import Spec

BATCH = 512


def main(few: str, full: str, spec_file: str, share: float) -> None:
    """Each phase on a few rows, which brings libraries and caches to life, then on the log."""
    torch.set_num_threads(1)
    spec = Spec.model_validate_json(Path(spec_file).read_text())
    for folder in (few, full):
        log = open_log(folder)
        with growth("fit"):
            encoders = Encoders.fit(spec, train=log)
        with growth("train"):
            plan = train(spec, log, encoders, share)
        with growth("in order"):
            for batch in batches_in_order(log, encoders, batch_size=BATCH, labels=True):
                assert len(batch)
    size = encoders.row_bytes * log.num_rows
    json.dump({"encoded": size, "in_memory": plan, "growth": GROWTH}, sys.stdout)


def train(spec: Spec, log: Log, encoders: Encoders, share: float) -> bool:
    """A part of an epoch: whether it came from memory."""
    memory = spec.data.memory_bytes
    streams = TrainStreams(log, encoders, batch_size=BATCH, seed=0, memory_bytes=memory)
    rows = 0
    for batch in streams.batches(0):
        rows += len(batch)
        if rows > share * log.num_rows:
            break
    return streams.plan.in_memory


GROWTH: dict[str, float] = {}


@contextmanager
def growth(phase: str) -> Iterator[None]:
    """The peak in the phase over what the process has before it, in bytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the last peak
    before = status("VmRSS")
    yield
    GROWTH[phase] = status("VmHWM") - before


def status(field: str) -> int:
    """A size of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main(*sys.argv[1:4], float(sys.argv[4]))  # type: ignore[misc]
