"""Which checkpoints a run keeps: the best one and the last one."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from recmtl._files import is_leftover, naming
from recmtl.checkpoint import read_index, write_index
from recmtl.training.monitor import Monitor
from recmtl.training.reporting import JsonLinesLogger
from recmtl.training.signals import TrainingInterrupted

__all__ = ["RunCheckpoints", "tidy"]

_STEP = re.compile(r"step-\d{8,}")
_SHARE = 0.025
"""Of the time, for checkpoints that nobody asked for."""
_FIRST_SAVE_S = 0.5
"""What a checkpoint takes, until one was saved."""


class RunCheckpoints(Checkpoint):
    """Saves every so many steps and after each validation; keeps the best checkpoint and the last.

    ``FOLDER/index.json`` names both. A checkpoint that is neither is removed once the index no
    longer names it, so that a process killed at any moment leaves an index of whole checkpoints.
    Without validation the last one is the best.

    Attributes:
        best: name of the best checkpoint so far.
        best_score: its monitored value.
        best_metrics: all validation metrics of the best checkpoint.
        last: name of the last checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        *,
        monitor: Monitor | None,
        every_n_steps: int | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        metrics: JsonLinesLogger | None = None,
    ) -> None:
        """Say what to keep where.

        Args:
            folder: where the checkpoints go, as `step-00001234`.
            monitor: what decides about the best; None without validation.
            every_n_steps: None for a tenth of an epoch, unless saving would then take more than a
                fortieth of the time.
            interrupted: asked after each batch; if it says yes, a checkpoint is written and
                `TrainingInterrupted` raised.
            metrics: its position is kept, so that a restart goes on with the same lines.
        """
        self.folder = Path(folder)
        self.monitor = monitor
        self.every_n_steps = every_n_steps
        self.interrupted = interrupted
        self.metrics = metrics
        self.best: str | None = None
        self.best_score: float | None = None
        self.best_metrics: dict[str, float] = {}
        self.last: str | None = None
        self._saved_step = -1
        self._saved_s = 0.0
        self._save_takes_s = _FIRST_SAVE_S

    def state_dict(self) -> dict[str, Any]:
        """What was found so far."""
        return {
            "best": self.best,
            "best_score": self.best_score,
            "best_metrics": self.best_metrics,
            "last": self.last,
            "metrics": None if self.metrics is None else self.metrics.position(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what was found."""
        self.best, self.best_score = state_dict["best"], state_dict["best_score"]
        self.best_metrics, self.last = state_dict["best_metrics"], state_dict["last"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Settle how often to save, and remove what a killed process left."""
        self._saved_step, self._saved_s = trainer.global_step, time.monotonic()
        if trainer.is_global_zero:
            tidy(self.folder)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save now and then, and when training was asked to stop."""
        if batch_idx + 1 == trainer.num_training_batches:
            return  # the end of the epoch saves: a restart from here would leave out its validation
        interrupted = self._any_interrupted(trainer)
        if interrupted or self._is_due(trainer):
            self.save(trainer)
        if interrupted:
            raise TrainingInterrupted

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop when asked to: a restart goes on from the last checkpoint, and validates."""
        if (
            trainer.state.fn == "fit"
            and not trainer.sanity_checking
            and self._any_interrupted(trainer)
        ):
            raise TrainingInterrupted  # a restart goes on from the last checkpoint, and validates

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide about the best, and save."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.monitor is not None:
            score = float(trainer.callback_metrics[self.monitor.key])
            if self.monitor.is_better(score, self.best_score):
                self.best, self.best_score = self._name(trainer), score
                metrics = trainer.callback_metrics.items()
                self.best_metrics = {
                    key: float(value) for key, value in metrics if key.startswith("valid/")
                }
        self.save(trainer)
        if self._any_interrupted(trainer):
            raise TrainingInterrupted

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where no validation did."""
        if self._saved_step != trainer.global_step:
            self.save(trainer)
        if self._any_interrupted(trainer):
            raise TrainingInterrupted

    def save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint of this moment, name it in the index, remove what is not named."""
        self.last = self._name(trainer)
        self._saved_step, begun_s = trainer.global_step, time.monotonic()
        best = self.best or self.last
        with naming(self.folder / self.last):
            trainer.save_checkpoint(self.folder / self.last)
        if trainer.is_global_zero:
            write_index(self.folder, best=best, last=self.last)
            tidy(self.folder)
        self._saved_s = time.monotonic()
        self._save_takes_s = self._saved_s - begun_s

    def _name(self, trainer: pl.Trainer) -> str:
        return f"step-{trainer.global_step:08d}"

    def _is_due(self, trainer: pl.Trainer) -> bool:
        """Whether it is time to save; the same on every rank."""
        if self.every_n_steps is not None:
            return trainer.global_step % self.every_n_steps == 0
        if trainer.global_step % max(1, math.ceil(trainer.num_training_batches / 10)):
            return False
        pays = (time.monotonic() - self._saved_s) * _SHARE >= self._save_takes_s
        if trainer.world_size == 1:
            return pays
        return trainer.strategy.reduce_boolean_decision(pays, all=True)

    def _any_interrupted(self, trainer: pl.Trainer) -> bool:
        interrupted = self.interrupted()
        if trainer.world_size == 1:
            return interrupted
        return trainer.strategy.reduce_boolean_decision(interrupted, all=False)


def tidy(folder: Path) -> None:
    """Remove checkpoints that the index does not name, and what killed processes left of others."""
    if not folder.is_dir():
        return
    named = read_index(folder)
    for found in list(folder.iterdir()):
        half = is_leftover(found.name) and found.name.startswith(".step-")
        if half or (_STEP.fullmatch(found.name) and found.name not in named):
            shutil.rmtree(found)
