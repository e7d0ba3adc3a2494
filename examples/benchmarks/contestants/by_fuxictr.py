"""FuxiCTR: its MultiTaskModel, feature embedding, MLP blocks and NPZ loader.

The package ships no MMoE: its zoo is outside the wheel. So this one is put together from the blocks
of the package, as its guide for own models says, without BatchNorm. Its `fit` clips the norm of all
gradients, tables included. It reads NPZ, which is written from Parquet first, and counted; its
`fit` must validate and checkpoint once: it gets one batch for that.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from batches import FEATURES, LABELS, batches_of, cycling, read
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import MultiTaskModel
from torch import nn
from workload import DENSE, DIM, IDS, SIZES

__all__ = ["fit", "predict", "stepper"]
MAX_NORM = 10.0
"""Default of its `fit`."""


class MMoE(MultiTaskModel):
    """Eight experts, linear gates."""

    def __init__(self, feature_map: FeatureMap, folder: str) -> None:
        """Experts, gates and heads."""
        super().__init__(
            feature_map,
            model_id="mmoe",
            task=["binary_classification"] * 2,
            num_tasks=2,
            model_root=folder,
            metrics=["AUC"],
            verbose=0,
        )
        width = feature_map.sum_emb_out_dim()
        self.embedding = FeatureEmbedding(feature_map, DIM)
        self.experts = nn.ModuleList(MLP_Block(width, [128, 64]) for _ in range(8))
        self.gates = nn.ModuleList(nn.Linear(width, 8) for _ in range(2))
        self.heads = nn.ModuleList(MLP_Block(64, [32], output_dim=1) for _ in range(2))
        self.compile("adam", "binary_crossentropy", lr=1e-3)
        self.reset_parameters()
        self.model_to_device()
        self._max_gradient_norm = MAX_NORM

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Probabilities under the names that the package looks for."""
        x = self.embedding(self.get_inputs(inputs), flatten_emb=True)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        found = {}
        for i, label in enumerate(LABELS):
            gate = self.gates[i](x).softmax(dim=1).unsqueeze(-1)
            logit = self.heads[i]((gate * experts).sum(dim=1))
            found[f"{label}_pred"] = self.output_activation[i](logit)
        return found


def stepper(tower: str, train: str, batch_size: int) -> Callable[[int], int]:
    """Its `train_step` on batches that are tensors already."""
    model = _model(tower, seed=0, folder="fuxictr").train()

    def steps(batches: list[dict[str, torch.Tensor]]) -> None:
        for batch in batches:
            model.train_step(batch).item()

    batches = [
        {name: torch.from_numpy(column) for name, column in batch.items()}
        for batch in batches_of(train, batch_size)
    ]
    return cycling(steps, batches, batch_size)


def fit(tower: str, train: str, batch_size: int, seed: int, folder: str) -> tuple[Any, int]:
    """One epoch from Parquet."""
    model = _model(tower, seed, folder)
    columns = read(train, (*FEATURES, *LABELS))
    path, few = f"{folder}/train.npz", f"{folder}/valid.npz"
    np.savez(path, **columns)
    np.savez(few, **{name: column[:batch_size] for name, column in columns.items()})
    batches, valid = RankDataLoader(
        model.feature_map, "train", train_data=path, valid_data=few, batch_size=batch_size
    )
    model.fit(batches, epochs=1, validation_data=valid, max_gradient_norm=MAX_NORM)
    return model, len(columns["click"])


def predict(model: Any, test: str, batch_size: int, out: str) -> int:
    """Probabilities of a log."""
    path = f"{model.model_dir}/test.npz"
    np.savez(path, **read(test, (*FEATURES, *LABELS)))
    batches = RankDataLoader(
        model.feature_map, "test", test_data=path, batch_size=batch_size, shuffle=False
    )
    probs = model.predict(batches)
    frame = pd.DataFrame({"click": probs["click"], "ctcvr": probs["conversion"]})
    frame.to_parquet(out)
    return len(frame)


def _model(tower: str, seed: int, folder: str) -> MMoE:
    if tower != "mmoe":
        raise ValueError(f"`{tower}` is not compared here.")
    torch.manual_seed(seed)
    ids: list[dict[str, dict[str, object]]] = [
        {name: {"source": "", "type": "categorical", "vocab_size": size}}
        for name, size in zip(IDS, SIZES, strict=True)
    ]
    numbers: list[dict[str, dict[str, object]]] = [
        {name: {"source": "", "type": "numeric", "embedding_dim": 1}} for name in DENSE
    ]
    about = {"dataset_id": "log", "labels": LABELS, "features": [*ids, *numbers]}
    at = Path(folder, "log")
    at.mkdir(parents=True, exist_ok=True)
    (at / "feature_map.json").write_text(json.dumps(about))
    features = FeatureMap("log", str(at))
    features.load(str(at / "feature_map.json"), {"embedding_dim": DIM})
    return MMoE(features, folder)
