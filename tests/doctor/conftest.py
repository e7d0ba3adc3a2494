"""A small shop log, and specs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recmtl.config import RunConfig, load_spec

SPEC = """name: shop
data: {train: train.parquet, valid: valid.parquet, group_by: user_id}
features:
  - {name: user_id, type: sparse, vocab: {}, dim: 4}
  - {name: item_id, type: sparse, hash: 50, dim: 4}
  - {name: brand, type: sparse, vocab: {}, dim: 4}
  - {name: tags, type: sparse, hash: 20, dim: 4, weights: tag_weights}
  - {name: history, type: sequence, table: item_id, max_len: 3}
  - {name: price, type: dense, transform: signed_log1p}
  - {name: look, type: vector, dim: 8, normalize: none}
tasks:
  - {name: ctr, label: click}
  - {name: cvr, label: buy, given: click}
  - {name: ctcvr, label: buy, product_of: [ctr, cvr]}
tower: {kind: shared_bottom, expert_widths: [8], head_widths: []}
train: {batch_size: 64, monitor: ctr/auc}
"""


def shop_log(rows: int = 4000, seed: int = 0) -> pl.DataFrame:
    """Rows in which nothing but chance decides."""
    rng = np.random.default_rng(seed)
    click = rng.random(rows) < 0.3
    looks_BV = np.random.default_rng(seed + 77).normal(1.0, size=(rows, 8)).astype(np.float32)
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, 200, rows),
            "item_id": rng.integers(0, 300, rows),
            "brand": np.array(["acme", "best", "cool", "deal"])[rng.integers(0, 4, rows)],
            "tags": [row.tolist() for row in rng.integers(0, 30, (rows, 2))],
            "tag_weights": [row.tolist() for row in rng.random((rows, 2)) + 0.5],
            "history": [row.tolist() for row in rng.integers(0, 300, (rows, 4))],
            "price": rng.normal(size=rows),
            "look": looks_BV,
            "click": click.astype(np.int8),
            "buy": (click & (rng.random(rows) < 0.3)).astype(np.int8),
        }
    )


Shop = Callable[..., Path]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """`shop(train, valid, spec)` writes a shop and gives the path of its spec."""

    def write(
        train: pl.DataFrame | None = None, valid: pl.DataFrame | None = None, spec: str = SPEC
    ) -> Path:
        (shop_log() if train is None else train).write_parquet(tmp_path / "train.parquet")
        valid = shop_log(1000, seed=1) if valid is None else valid
        valid.write_parquet(tmp_path / "valid.parquet")
        (tmp_path / "shop.yaml").write_text(spec, encoding="utf-8")
        return tmp_path / "shop.yaml"

    return write


@pytest.fixture
def config(shop: Shop) -> RunConfig:
    """The shop's config."""
    return load_spec(shop())
