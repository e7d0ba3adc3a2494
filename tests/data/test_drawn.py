"""Rows drawn from fitted encoders are rows that these encoders take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmtl.data import Encoders
from recmtl.spec import Spec

FEATURES: list[dict[str, Any]] = [
    {"name": "user", "type": "sparse", "vocab": {}, "dim": 4},
    {"name": "city", "type": "sparse", "vocab": {}, "dim": 4, "nulls": "error"},
    {"name": "item", "type": "sparse", "hash": 50, "dim": 4},
    {"name": "word", "type": "sparse", "hash": 50, "dim": 4},
    {"name": "age", "type": "sparse", "buckets": (18.0, 30.0), "dim": 4},
    {"name": "price", "type": "dense", "transform": "log1p", "fill": None},
    {"name": "gain", "type": "dense", "transform": "signed_log1p", "normalize": "minmax"},
    {"name": "tags", "type": "sparse", "vocab": {}, "dim": 4, "weights": "w"},
    {"name": "more", "type": "sparse", "table": "tags"},
    {"name": "seen", "type": "sequence", "table": "item", "max_len": 3},
    {"name": "gaps", "type": "sequence", "buckets": (1.0, 9.0), "dim": 4, "max_len": 3},
    {"name": "image", "type": "vector", "dim": 3, "normalize": "standard"},
]


@pytest.fixture
def encoders(tmp_path: Path) -> Encoders:
    random, n = np.random.default_rng(0), 200
    log = pl.DataFrame(
        {
            "user": random.integers(0, 20, n),
            "city": random.choice(["a", "b", "c"], n),
            "item": random.integers(0, 99, n),
            "word": random.choice(["x", "y"], n),
            "age": random.uniform(10, 50, n),
            "price": random.exponential(9, n),
            "gain": random.normal(0, 100, n),
            "tags": [[1, 2], [3]] * (n // 2),
            "more": [[2, 2], [1]] * (n // 2),
            "w": [[0.5, 1.0], [2.0]] * (n // 2),
            "seen": [[5, 6], []] * (n // 2),
            "gaps": [[2.0, 3.0], []] * (n // 2),
            "image": random.normal(5, 2, (n, 3)),
            "click": random.integers(0, 2, n),
        }
    )
    log.write_parquet(tmp_path / "train.parquet")
    spec = Spec.model_validate(
        {
            "name": "drawn",
            "data": {"train": "train.parquet"},
            "features": tuple(FEATURES),
            "tasks": ({"name": "ctr", "label": "click"},),
        }
    )
    return Encoders.fit(spec, tmp_path)


def test_encoders_take_what_is_drawn_of_them(encoders: Encoders) -> None:
    rows = encoders.draw(300, seed=1)
    assert set(rows.columns) == {*(f["name"] for f in FEATURES), "w"}
    batch = encoders.encode(rows, labels=False)
    by_name = dict(zip(encoders.single, batch.ids_FB.numpy(), strict=True))
    for name in ("user", "city", "age"):  # every row of these tables is met
        everything = set(range(encoders.tables[name])) - ({0} if name == "city" else set())
        assert set(by_name[name].tolist()) == everything
    assert (by_name["word"] > 0).mean() == pytest.approx(0.9, abs=0.06)
    assert (batch.sequences["seen"].lengths_B == batch.sequences["gaps"].lengths_B).all()
    assert set(batch.bags["tags"].lengths_B.tolist()) == set(range(6))
    standard = batch.dense_DB.numpy()[2:]
    assert abs(standard.mean()) < 0.2
    assert standard.std() == pytest.approx(1, abs=0.2)


def test_the_seed_decides(encoders: Encoders) -> None:
    assert encoders.draw(20, seed=1).equals(encoders.draw(20, seed=1))
    assert not encoders.draw(20, seed=1).equals(encoders.draw(20, seed=2))
