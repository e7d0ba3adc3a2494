"""NextRec: its MMOE, `compile`, `fit` from a Parquet path, and `predict` to Parquet.

`fit` reads the file into memory and collates rows, which is its default; it clips the norm of all
gradients and computes the AUC of the training rows after the epoch, as it always does. The bare
step is its `train_epoch` on batches that are tensors already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from batches import FEATURES, LABELS, batches_of, cycling
from nextrec.basic.features import DenseFeature, SparseFeature
from nextrec.models.multitask.mmoe import MMOE
from torch.utils.data import DataLoader
from workload import DENSE, DIM, IDS, SIZES

__all__ = ["fit", "predict", "stepper"]


def stepper(tower: str, train: str, batch_size: int) -> Callable[[int], int]:
    """Its trainer's epoch over batches that are tensors already."""
    model = _model(tower, seed=0)
    batches = [
        {
            "features": {name: torch.from_numpy(batch[name]) for name in FEATURES},
            "labels": {name: torch.from_numpy(batch[name]).float() for name in LABELS},
        }
        for batch in batches_of(train, batch_size)
    ]
    first: Any = DataLoader(batches[:1], batch_size=None, collate_fn=_same)
    model.fit(first, metrics=["auc"], epochs=1, early_stop_patience=0, use_tensorboard=False)

    def steps(some: Any) -> None:
        model.steps_per_epoch = len(some)
        model.train_epoch(DataLoader(some, batch_size=None, collate_fn=_same), is_streaming=True)

    return cycling(steps, batches, batch_size)


def fit(tower: str, train: str, batch_size: int, seed: int, folder: str) -> tuple[Any, int]:
    """One epoch from Parquet."""
    model = _model(tower, seed)
    model.fit(train, metrics=["auc"], epochs=1, batch_size=batch_size, use_tensorboard=False)
    return model, _rows(train)


def predict(model: Any, test: str, batch_size: int, out: str, frame: bool = False) -> int:
    """Probabilities of a log: of the file in a stream, or of a frame, as its guide does."""
    if frame:
        rows = pd.read_parquet(test, columns=list(FEATURES))
        model.predict(rows, batch_size=batch_size, save_path=out, save_format="parquet")
        return len(rows)
    model.predict(
        test,
        batch_size=batch_size,
        stream_chunk_size=batch_size,
        save_path=out,
        save_format="parquet",
        return_dataframe=False,
    )
    return _rows(test)


def _rows(path: str) -> int:
    import pyarrow.parquet as pq

    return int(pq.ParquetFile(path).metadata.num_rows)


def _same(batch: Any) -> Any:
    return batch


def _model(tower: str, seed: int) -> Any:
    if tower != "mmoe":
        raise ValueError(f"`{tower}` is not compared here.")
    torch.manual_seed(seed)
    model = MMOE(
        dense_features=[DenseFeature(name) for name in DENSE],
        sparse_features=[
            SparseFeature(n, vocab_size=s, embedding_dim=DIM)
            for n, s in zip(IDS, SIZES, strict=True)
        ],
        expert_mlp_params={"hidden_dims": [128, 64]},
        num_experts=8,
        tower_mlp_params_list=[{"hidden_dims": [32]}, {"hidden_dims": [32]}],
        target=list(LABELS),
        task=["binary", "binary"],
    )
    model.compile(optimizer="adam", optimizer_params={"lr": 1e-3}, loss="bce")
    return model
