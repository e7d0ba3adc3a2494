"""Runs that are unusual."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recmtl import api
from tests.report.conftest import odd_run, plain_run

__all__ = ["odd_run", "plain_run"]

SPEC = """name: kinds
data: {train: train.parquet, accept_leaks: [item]}
features:
  - {name: item, type: sparse, vocab: {}, dim: 4}
  - {name: noise, type: sparse, vocab: {}, dim: 4}
tasks:
  - {name: number, label: y, kind: regression}
  - {name: stars, label: s, kind: multiclass, classes: 3}
  - {name: never, label: n}
tower: {kind: shared_bottom, expert_widths: [8], head_widths: []}
train: {batch_size: 64, epochs: 4, lr: 0.02, embedding: {lr: 0.3}}
"""


@pytest.fixture(scope="session")
def kinds_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a regression, a task with classes and one without a positive; item decides all."""
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    item = rng.integers(0, 9, 1000)
    frame = pl.DataFrame(
        {
            "item": item,
            "noise": rng.integers(0, 9, 1000),
            "y": item * 2.0,
            "s": (item % 3).astype(np.int64),
            "n": np.zeros(1000, np.int8),
        }
    )
    frame.write_parquet(folder / "train.parquet")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    api.train(folder / "spec.yaml", out=folder / "run")
    return folder / "run"
