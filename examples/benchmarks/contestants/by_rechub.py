"""torch-rechub: DataGenerator, MTLTrainer and its models, as its tutorials use them.

Every layer of its MLPs has a BatchNorm, gates included; there is no switch. Its ESMM takes no dense
features. The trainer's default Adam (1e-3, weight decay 1e-5) is kept. No validation: `fit` would
score the validation rows after the epoch, `train_one_epoch` is what it calls before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from batches import FEATURES, LABELS, batches_of, cycling
from torch import nn
from torch.utils.data import DataLoader
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import ESMM, MMOE, PLE, SharedBottom
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator, PredictDataset, df_to_dict
from workload import DENSE, DIM, IDS, SIZES

__all__ = ["fit", "forwarder", "predict", "stepper"]


def stepper(tower: str, train: str, batch_size: int) -> Callable[[int], int]:
    """Its trainer's epoch over batches that are tensors already."""
    trainer = _trainer(tower)
    batches = [(_tensors(b), _labels(tower, b)) for b in batches_of(train, batch_size)]
    return cycling(trainer.train_one_epoch, batches, batch_size)


def forwarder(tower: str, train: str, batch_size: int) -> Callable[[int], int]:
    """Its model in evaluation mode over batches that are tensors already."""
    model = _model(tower).eval()

    def forward(batches: list[dict[str, torch.Tensor]]) -> None:
        with torch.no_grad():
            for x in batches:
                model(x)

    return cycling(forward, [_tensors(b) for b in batches_of(train, batch_size)], batch_size)


def fit(tower: str, train: str, batch_size: int, seed: int, folder: str) -> tuple[MTLTrainer, int]:
    """One epoch from Parquet."""
    torch.manual_seed(seed)
    frame = pd.read_parquet(train)
    x, y = df_to_dict(frame[list(FEATURES)]), frame[list(LABELS)].to_numpy()
    few = {name: column[:1] for name, column in x.items()}
    loader, _, _ = DataGenerator(x, y).generate_dataloader(
        x_val=few, y_val=y[:1], x_test=few, y_test=y[:1], batch_size=batch_size
    )
    trainer = _trainer(tower)
    trainer.train_one_epoch(loader)
    return trainer, len(frame)


def predict(trainer: MTLTrainer, test: str, batch_size: int, out: str) -> int:
    """Probabilities of a log."""
    frame = pd.read_parquet(test, columns=list(FEATURES))
    dataset = PredictDataset(df_to_dict(frame))
    probs = trainer.predict(trainer.model, DataLoader(dataset, batch_size=batch_size))
    pd.DataFrame(probs, columns=["click", "ctcvr"]).to_parquet(out)
    return len(frame)


def _trainer(tower: str) -> MTLTrainer:
    tasks = 3 if tower == "esmm" else 2
    return MTLTrainer(
        _model(tower), ["classification"] * tasks, n_epoch=1, model_path=tempfile.gettempdir()
    )


def _model(tower: str) -> nn.Module:
    ids = [SparseFeature(n, s, embed_dim=DIM) for n, s in zip(IDS, SIZES, strict=True)]
    features = [*ids, *(DenseFeature(name) for name in DENSE)]
    tasks = ["classification"] * 2
    experts: dict[str, Any] = {"dims": [128, 64]}
    heads = [{"dims": [32]}, {"dims": [32]}]
    model: nn.Module
    if tower == "mmoe":
        model = MMOE(features, tasks, 8, experts, heads)
    elif tower == "ple":
        model = PLE(features, tasks, 2, 2, 4, experts, heads)
    elif tower == "shared_bottom":
        model = SharedBottom(features, tasks, experts, heads)
    else:
        model = ESMM(ids[:10], ids[10:], cvr_params=experts, ctr_params=experts)
    return model


def _tensors(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(batch[name]) for name in FEATURES}


def _labels(tower: str, batch: dict[str, Any]) -> torch.Tensor:
    click, conversion = (torch.from_numpy(batch[name]) for name in LABELS)
    columns = [conversion, click, conversion] if tower == "esmm" else [click, conversion]
    return torch.stack(columns, dim=1)
