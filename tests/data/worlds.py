"""Small logs on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from recmtl.data import Log, open_log
from recmtl.spec import Spec
from tests.data.strategies import make_spec


def log_of(frame: pl.DataFrame, *, group_rows: int = 5) -> Log:
    """The frame as a log; its file lives as long as the interpreter."""
    folder = Path(tempfile.mkdtemp(dir=_ROOT.name))
    path = folder / "train.parquet"
    frame.write_parquet(path, row_group_size=group_rows)
    return open_log(path)


_ROOT = tempfile.TemporaryDirectory(prefix="recmtl-logs-")

FUNNEL = [
    {"name": "user", "type": "sparse", "vocab": {}, "dim": 4},
    {"name": "tags", "type": "sparse", "hash": 20, "dim": 4, "weights": "tag_weights"},
    {"name": "seen", "type": "sequence", "table": "user", "max_len": 3},
    {"name": "price", "type": "dense"},
]


def funnel(rows: int, *, group_rows: int = 100, seed: int = 0) -> tuple[Log, Spec]:
    """A log sorted by `user`, with every kind of column, and its spec."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, rows)
    frame = pl.DataFrame(
        {
            "user": np.arange(rows) // 3,
            "tags": [rng.integers(0, 99, n).tolist() for n in lengths],
            "tag_weights": [rng.random(n).tolist() for n in lengths],
            "seen": [rng.integers(0, rows, n).tolist() for n in rng.integers(0, 6, rows)],
            "price": rng.normal(size=rows),
            "click": rng.integers(0, 2, rows),
        },
        schema_overrides={"tags": pl.List(pl.Int64), "tag_weights": pl.List(pl.Float64)},
    )
    spec = make_spec(FUNNEL, [{"name": "ctr", "label": "click"}])
    return log_of(frame, group_rows=group_rows), spec
