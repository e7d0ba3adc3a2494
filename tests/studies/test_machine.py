"""How many runs fit side by side."""

from __future__ import annotations

from pathlib import Path

import psutil

from recmtl import load_spec
from recmtl.studies.machine import cores, jobs_for, made_on
from tests.studies.worlds import write_world


def test_memory_and_cores_are_the_limits(tmp_path: Path) -> None:
    spec = write_world(tmp_path, rows=8)
    small = ["data.memory=1MiB"]
    available = psutil.virtual_memory().available
    fits = max(1, min(cores(), available // (3 * 2**29 + 2**20 + 10_000)))
    assert jobs_for(load_spec(spec, small), 100) in {
        fits,
        max(1, fits - 1),
    }  # others take memory too
    assert jobs_for(load_spec(spec, ["data.memory=2TiB"]), 100) == 1
    assert jobs_for(load_spec(spec, small), 10**12) == 1  # a vocabulary of that many rows
    assert jobs_for(load_spec(spec, [*small, "train.devices=2"]), 100) == 1


def test_the_machine_in_words() -> None:
    assert f"{cores()} cores" in made_on()["machine"]
