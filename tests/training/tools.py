"""What several training tests look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from recmtl.checkpoint import load_full, read_index


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


class At:
    """A progress that does something once, after a number of steps or validation batches."""

    def __init__(self, action: Callable[[], None], *, step: int = -1, batch: int = -1) -> None:
        self.action, self.step, self.batch = action, step, batch
        self.titles: list[str] = []

    @contextmanager
    def __call__(self, description: str, total: int, unit: str, *, done: int = 0) -> Iterator[Any]:
        self.unit = unit
        self.titles.append(description)
        yield self

    def advance(self, n: int = 1, **shown: object) -> None:
        if self.unit == "rows":
            self.step -= 1
        else:
            self.batch -= 1
        if (self.step if self.unit == "rows" else self.batch) == 0:
            self.action()


def crash() -> None:
    """What an `At` may do: training ends as if the disk were gone."""
    raise OSError("gone")


def last_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint of a run."""
    return load_full(folder / "checkpoints" / str(read_index(folder / "checkpoints").last))
