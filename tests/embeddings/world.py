"""A small spec with every kind of lookup, its encoders, and random rows of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from recmtl.batch import Batch, Ragged
from recmtl.embeddings import Layout, layout
from recmtl.spec import Spec

FEATURES = {
    "price": {"kind": "dense"},
    "user": {"kind": "single", "table": "user", "pooling": "sum"},
    "history": {"kind": "sequence", "table": "item.id", "max_len": 4},
    "item.id": {"kind": "single", "table": "item.id", "pooling": "sum"},
    "type": {"kind": "single", "table": "type", "pooling": "sum"},
    "tags": {"kind": "bag", "table": "tags", "pooling": "mean"},
    "topics": {"kind": "bag", "table": "topics", "pooling": "sum", "weighted": True},
    "words": {"kind": "bag", "table": "topics", "pooling": "mean", "weighted": True},
    "gaps": {"kind": "sequence", "table": "gaps", "max_len": 4},
}
LOOKED_UP = {name: f for name, f in FEATURES.items() if f["kind"] != "dense"}
ROWS = {"user": 11, "item.id": 17, "type": 3, "tags": 7, "topics": 9, "gaps": 5}
DIMS = {"user": 8, "item.id": 8, "type": 4, "tags": 8, "topics": 12, "gaps": 4}

SPEC = Spec.model_validate(
    {
        "name": "world",
        "data": {"train": "train.parquet"},
        "features": (
            {"name": "price", "type": "dense"},
            {"name": "user", "type": "sparse", "hash": 10, "dim": 8},
            {"name": "history", "type": "sequence", "table": "item.id", "max_len": 4},
            {"name": "item.id", "type": "sparse", "hash": 16, "dim": 8},
            {"name": "type", "type": "sparse", "vocab": {}, "dim": 4},
            {"name": "tags", "type": "sparse", "vocab": {}, "dim": 8, "pooling": "mean"},
            {"name": "topics", "type": "sparse", "vocab": {}, "dim": 12, "weights": "w"},
            {
                "name": "words",
                "type": "sparse",
                "table": "topics",
                "pooling": "mean",
                "weights": "v",
            },
            {"name": "gaps", "type": "sequence", "buckets": 4, "dim": 4, "max_len": 4},
        ),
        "tasks": (
            {"name": "ctr", "label": "click"},
            {"name": "cvr", "label": "buy", "given": "click"},
            {"name": "ctcvr", "label": "buy", "product_of": ("ctr", "cvr")},
            {"name": "dwell", "label": "seconds", "kind": "regression", "given": "click"},
        ),
    }
)
ENCODERS = SimpleNamespace(
    tables=ROWS,
    single=("user", "item.id", "type"),
    bags=("tags", "topics", "words"),
    labels=("click", "buy", "seconds"),
    base_rates={"ctr": 0.1, "cvr": 0.02},
    label_scales={"dwell": (20.0, 5.0)},
)


def world_layout() -> Layout:
    return layout(SPEC, ENCODERS.tables, ENCODERS.single, ENCODERS.bags)


def random_rows(num_rows: int, seed: int) -> list[dict[str, list[tuple[int, float]]]]:
    """Rows with duplicate ids, out-of-vocabulary ids, empty lists and weights that sum to zero."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        row: dict[str, list[tuple[int, float]]] = {}
        length = int(random.integers(0, 5))
        for name, feature in LOOKED_UP.items():
            count = {"single": 1, "sequence": length}.get(
                feature["kind"], int(random.integers(0, 4))
            )
            ids = random.integers(0, ROWS[feature["table"]], size=count)
            weights = random.choice([0.0, 0.5, 1.0, 2.0], size=count)
            is_weighted = feature.get("weighted", False)
            row[name] = [
                (int(i), float(w) if is_weighted else 1.0)
                for i, w in zip(ids, weights, strict=True)
            ]
        row["price"] = [(0, float(random.normal()))]
        rows.append(row)
    return rows


def to_batch(rows: list[dict[str, list[tuple[int, float]]]], seed: int = 0) -> Batch:
    def ragged(name: str) -> Ragged:
        entries = [entry for row in rows for entry in row[name]]
        weights = None
        if LOOKED_UP[name].get("weighted", False):
            weights = torch.tensor([w for _, w in entries], dtype=torch.float32)
        return Ragged(
            torch.tensor([i for i, _ in entries], dtype=torch.int64),
            torch.tensor([len(row[name]) for row in rows]),
            weights,
        )

    random = np.random.default_rng(seed)
    click = (random.random(len(rows)) < 0.5).astype("float32")
    buy = click * (random.random(len(rows)) < 0.5)
    labels = np.stack([click, buy, random.normal(20, 5, len(rows))], axis=1).astype("float32")
    return Batch(
        ids_FB=torch.tensor([[row[name][0][0] for row in rows] for name in ENCODERS.single]),
        dense_DB=torch.tensor([[row["price"][0][1] for row in rows]], dtype=torch.float32),
        bags={name: ragged(name) for name in ENCODERS.bags},
        sequences={name: ragged(name) for name in ("history", "gaps")},
        labels_BK=torch.from_numpy(labels),
        weight_B=torch.ones(len(rows)),
        rows_B=torch.arange(len(rows)),
    )


def whole(tensors: dict) -> dict[str, torch.Tensor]:
    """Copies of the sharded tensors of one rank, whole."""
    found = {}
    for key, tensor in tensors.items():
        (shard,) = tensor.local_shards()
        found[key] = shard.tensor.detach().clone()
    return found


def tables_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Table -> weights, of the tensors of a lookup."""
    return {
        key.removeprefix("tables/").removesuffix("/weight"): tensor
        for key, tensor in tensors.items()
        if key.endswith("/weight")
    }
