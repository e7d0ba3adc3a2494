"""A click log in two uneven files, with every kind of feature, and its spec."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np
import polars as pl

__all__ = ["PLANS", "TOWERS", "write_log"]

SPEC = """
name: uneven
data: {train: train, valid: valid.parquet, group_by: store, weight: weight}
features:
  - {name: user, type: sparse, vocab: {}, dim: 8}
  - {name: item, type: sparse, hash: 50, dim: 8}
  - {name: device, type: sparse, vocab: {}, dim: 4}
  - {name: tags, type: sparse, vocab: {}, dim: 4, pooling: mean, weights: tag_weights}
  - {name: topics, type: sparse, hash: 20, dim: 4, pooling: sum}
  - {name: history, type: sequence, table: item, max_len: 3}
  - {name: price, type: dense}
tasks:
  - {name: ctr, label: click}
  - {name: cvr, label: buy, given: click}
  - {name: ctcvr, label: buy, product_of: [ctr, cvr]}
  - {name: mood, label: mood, kind: multiclass, classes: 3}
  - {name: dwell, label: seconds, kind: regression, given: click}
tower: mmoe
train: {batch_size: 64, epochs: 1, seed: 3}
"""

TOWERS = {
    "shared_bottom": "{kind: shared_bottom, expert_widths: [16], head_widths: [8]}",
    "mmoe": "{kind: mmoe, num_experts: 2, expert_widths: [16], head_widths: [8]}",
    "cgc": "{kind: cgc, expert_widths: [16], head_widths: [8]}",
    "ple": "{kind: ple, num_levels: 2, expert_widths: [16], head_widths: [8]}",
    "esmm": "{kind: esmm, head_widths: [16, 8]}",
    "home": "{kind: home, expert_widths: [16], head_widths: [8]}",
    "dtrn": "{kind: dtrn, head: {kind: shared_bottom, expert_widths: [16], head_widths: [8]}}",
}
"""Tower -> a small one."""

TABLES = ("user", "item", "device", "tags", "topics")
PLANS = {
    "table_wise": dict.fromkeys(TABLES, "table_wise"),
    "row_wise": dict.fromkeys(TABLES, "row_wise"),
    "mixed": {"user": "row_wise", "item": "table_wise", "device": "row_wise", "tags": "table_wise"},
    "planned": {},
}
"""Plan -> what `train.sharding` says; the planner decides about what a plan leaves out."""


def write_log(
    folder: Path,
    *,
    train: tuple[int, ...] = (1000, 700),
    valid: int = 700,
    features: Container[str] | None = None,
) -> Path:
    """A folder with a training file for each of the numbers of rows, validation rows and a spec.

    Args:
        folder: where.
        train: rows of each training file.
        valid: validation rows.
        features: names of those that the spec keeps.
    """
    (folder / "train").mkdir(parents=True)
    for number, rows in enumerate(train):
        click_log(rows, seed=number).write_parquet(
            folder / "train" / f"part-{number}.parquet", row_group_size=300
        )
    click_log(valid, seed=1000).write_parquet(folder / "valid.parquet")
    kept = [
        line
        for line in SPEC.splitlines()
        if features is None or ", type: " not in line or line.split()[2][:-1] in features
    ]
    (folder / "spec.yaml").write_text("\n".join(kept), encoding="utf-8")
    return folder


def click_log(rows: int, seed: int) -> pl.DataFrame:
    """Clicks depend on user and item, purchases on item and price; some labels are null."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 30, rows), rng.integers(0, 40, rows)
    price = rng.exponential(size=rows)
    click = rng.random(rows) < 1 / (1 + np.exp(-(1.5 * np.sin(user) + np.cos(item))))
    click[0] = True  # the smallest log has a row for each task
    buy = click & (rng.random(rows) < 1 / (1 + np.exp(-(2 * np.sin(item) - price))))
    is_hidden = rng.random(rows) < 0.1
    is_hidden[0] = False
    tags = [rng.integers(0, 25, rng.integers(0, 4)).tolist() for _ in range(rows)]
    return pl.DataFrame(
        {
            "user": user,
            "item": item,
            "device": rng.choice([f"device-{i}" for i in range(12)], rows),
            "tags": tags,
            "tag_weights": [rng.choice([0.5, 1.0, 2.0], len(tag)).tolist() for tag in tags],
            "topics": [rng.integers(0, 99, rng.integers(0, 4)).tolist() for _ in range(rows)],
            "history": [rng.integers(0, 40, rng.integers(0, 6)).tolist() for _ in range(rows)],
            "price": price,
            "weight": rng.choice([0.5, 1.0, 2.0], rows),
            "click": click.astype(np.int8),
            "buy": pl.Series(np.where(is_hidden, -1, buy), dtype=pl.Int8).replace(-1, None),
            "mood": (user + rng.integers(0, 2, rows)) % 3,
            "seconds": np.where(click, rng.exponential(20, rows), 0.0),
            # Two large groups: in small ones a single pair of close predictions decides digits.
            "store": rng.integers(0, 2, rows),
        },
        schema_overrides={
            "tags": pl.List(pl.Int64),
            "tag_weights": pl.List(pl.Float64),
            "topics": pl.List(pl.Int64),
            "history": pl.List(pl.Int64),
        },
    )
