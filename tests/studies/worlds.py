"""Small logs and specs for studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

SPEC = """name: shop
data: {train: train.parquet, valid: valid.parquet, group_by: user}
features:
  - {name: user, type: sparse, vocab: {}, dim: 4}
  - {name: item, type: sparse, vocab: {}, dim: 4}
  - {name: price, type: dense}
tasks:
  - {name: ctr, label: click}
  - {name: cvr, label: buy, given: click}
tower: {kind: mmoe, num_experts: 2, expert_widths: [8], head_widths: [4]}
train: {batch_size: 128, epochs: 2, lr: 0.01, embedding: {lr: 0.1}}
"""

ALL_KINDS = """name: kinds
data: {train: train.parquet, valid: valid.parquet, group_by: user, weight: weight}
features:
  - {name: user, type: sparse, vocab: {}, dim: 4}
  - {name: item, type: sparse, vocab: {}, dim: 4}
tasks:
  - {name: ctr, label: click}
  - {name: cvr, label: buy, given: click}
  - {name: ctcvr, label: buy, product_of: [ctr, cvr]}
  - {name: dwell, label: seconds, kind: regression, given: click}
  - {name: rating, label: stars, kind: multiclass, classes: 3, given: click}
tower: {kind: shared_bottom, expert_widths: [8], head_widths: [4]}
train: {batch_size: 128, epochs: 1, lr: 0.01}
"""


def log(rows: int, seed: int) -> pl.DataFrame:
    """Clicks depend on user and item, purchases on the item; 40 users, 20 items."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 40, rows), rng.integers(0, 20, rows)
    click = rng.random(rows) < np.where((user + item) % 3 == 0, 0.7, 0.3)
    return pl.DataFrame(
        {
            "user": user,
            "item": item,
            "price": rng.random(rows).astype(np.float32),
            "click": click.astype(np.int8),
            "buy": (click & (rng.random(rows) < np.where(item % 2, 0.6, 0.2))).astype(np.int8),
            "seconds": rng.exponential(size=rows),
            "stars": pl.Series(rng.integers(0, 3, rows)).set(pl.Series(item == 3), None),
            "weight": rng.random(rows) + 0.5,
        }
    )


def write_world(folder: Path, spec: str = SPEC, *, rows: int = 1024) -> Path:
    """Write a log and its spec; the path of the spec."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, part) in enumerate({"train": 1, "valid": 4, "test": 2}.items()):
        log(rows // part, seed).write_parquet(folder / f"{name}.parquet")
    file = folder / "spec.yaml"
    file.write_text(spec, encoding="utf-8")
    return file
