"""Resident memory, as the kernel counts it, of the data path in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data import bounded
from tests.data.strategies import make_spec

MIB = 2**20
BUDGET = 24 * MIB
FEATURES = [
    {"name": "user", "type": "sparse", "vocab": {}, "dim": 4},
    {"name": "item", "type": "sparse", "hash": 1000, "dim": 4},
    {"name": "price", "type": "dense"},
    {"name": "seen", "type": "sequence", "table": "item", "max_len": 400},
]


def write(folder: Path, rows: int, group_rows: int, items: int) -> None:
    """A log sorted by time, of about 4 bytes an item when it is encoded."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    writer = None
    for start in range(0, rows, group_rows):
        size = min(group_rows, rows - start)
        lengths = rng.integers(items // 2, items * 3 // 2, size)
        offsets = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32())
        table = pa.table(
            {
                "user": rng.integers(0, 5000, size),
                "item": rng.integers(0, 10**9, size),
                "price": rng.normal(size=size),
                "seen": pa.ListArray.from_arrays(offsets, rng.integers(0, 9999, lengths.sum())),
                "click": rng.integers(0, 2, size),
            }
        )
        writer = writer or pq.ParquetWriter(folder / "log.parquet", table.schema)
        writer.write_table(table, row_group_size=group_rows)
    assert writer is not None
    writer.close()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("rows", "group_rows", "times", "share"),
    [
        pytest.param(260_000, 10_000, 10, 0.3, id="ten times the budget"),
        pytest.param(40_000, 40_000, 1.5, 0.1, id="one row group larger than the budget"),
    ],
)
def test_memory_grows_by_the_budget_at_most(
    rows: int, group_rows: int, times: float, share: float, tmp_path: Path
) -> None:
    write(tmp_path / "few", 2000, 2000, 240)
    write(tmp_path / "full", rows, group_rows, 240)
    spec = make_spec(FEATURES, [{"name": "ctr", "label": "click"}], memory=f"{BUDGET // MIB}MiB")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    found = run(tmp_path, share)
    assert found["encoded"] > times * BUDGET
    assert not found["in_memory"]
    for phase, growth in found["growth"].items():
        assert growth < 1.1 * BUDGET, (phase, f"{growth / MIB:.1f} MiB")


def run(folder: Path, share: float) -> dict[str, Any]:
    arguments = [folder / "few", folder / "full", folder / "spec.json", share]
    done = subprocess.run(
        [sys.executable, "-m", bounded.__name__, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        # The second as the command line sets it: Arrow's other pools keep what they once had.
        env={**os.environ, "OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
