"""Runs whose reports are unusual."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recmtl import api

HOSTILE = "</title><script>alert(1)</script>"
SEGMENTS = ("<img src=x onerror=alert(2)>", "a & b", "plain")
SPEC = """name: "{name}"
data: {{train: train.parquet, valid: valid.parquet, segments: [shop], weight: w}}
features:
  - {{name: item, type: sparse, hash: 20, dim: 4}}
tasks:
  - {{name: ctr, label: click}}
  - {{name: dwell, label: dwell_s, kind: regression, given: click}}
tower: {{kind: ple, num_levels: 3, expert_widths: [4], head_widths: []}}
train: {{batch_size: 64}}
"""


def log(rows: int) -> pl.DataFrame:
    rng = np.random.default_rng(rows)
    click = rng.random(rows) < 0.4
    return pl.DataFrame(
        {
            "item": rng.integers(0, 30, rows),
            "shop": np.array(SEGMENTS)[rng.integers(0, 3, rows)],
            "w": rng.random(rows) + 0.5,
            "click": click.astype(np.int8),
            "dwell_s": rng.exponential(size=rows) * 20,
        }
    )


@pytest.fixture(scope="session")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with hostile names, three levels of gates, weights and a regression."""
    folder = tmp_path_factory.mktemp("odd")
    log(512).write_parquet(folder / "train.parquet")
    log(300).write_parquet(folder / "valid.parquet")
    (folder / "spec.yaml").write_text(SPEC.format(name=HOSTILE), encoding="utf-8")
    api.train(folder / "spec.yaml", out=folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one task, without validation rows and without gates."""
    folder = tmp_path_factory.mktemp("plain")
    log(256).write_parquet(folder / "train.parquet")
    text = SPEC.format(name="plain").replace(" valid: valid.parquet,", "")
    lines = [line for line in text.splitlines(keepends=True) if "dwell" not in line]
    (folder / "spec.yaml").write_text("".join(lines), encoding="utf-8")
    quick = ["tower={kind: shared_bottom, expert_widths: [4], head_widths: []}"]
    api.train(folder / "spec.yaml", out=folder / "run", overrides=quick)
    return folder / "run"
