"""What several training tests look at."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback


def tensors(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
    """Copies of all tensors of a single process by their logical names."""
    found = trainer.strategy.tensors()
    whole = {
        key: tensor.local_shards()[0].tensor if hasattr(tensor, "local_shards") else tensor
        for key, tensor in found.items()
    }
    return {key: tensor.detach().clone() for key, tensor in whole.items()}


class Watch(Callback):
    """Keeps the tensors of the start, the rows of each batch, and the last batch."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = tensors(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.rows.append(batch.rows_B.tolist())
        self.batch = batch
