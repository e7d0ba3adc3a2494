"""What a run says while it trains: bars with losses on the terminal, and `metrics.jsonl`."""

from __future__ import annotations

import hashlib
import json
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from recmtl._files import naming, write_text
from recmtl._progress import Bar, Progress, no_progress
from recmtl.errors import CheckpointError
from recmtl.training.validation import json_number

__all__ = ["EpochBars", "JsonLinesLogger"]


class EpochBars(Callback):
    """One bar for each epoch and each validation, with rows/s, time left and the loss of each task.

    Losses are read from the device about once a second, not each step.
    """

    def __init__(
        self, progress: Progress, *, num_rows: int, batch_size: int, every_s: float = 1.0
    ) -> None:
        """Say what an epoch is made of.

        Args:
            progress: what shows the bars.
            num_rows: rows of an epoch.
            batch_size: rows of a global batch.
            every_s: how often losses are read.
        """
        self.progress = progress
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.every_s = every_s
        self._stack = ExitStack()
        self._bar: Bar | None = None
        self._shown_s = 0.0
        self._resumed_at = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember where a restarted run goes on, to say so."""
        self._resumed_at = trainer.global_step

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Only rank 0 shows anything."""
        if not trainer.is_global_zero:
            self.progress = no_progress

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Open the bar of the epoch."""
        if self._bar is None:
            title = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            if self._resumed_at > 0:
                title, self._resumed_at = f"{title}, from step {self._resumed_at:,} on", 0
            done = min(batch_idx * self.batch_size, self.num_rows)
            self._open(title, self.num_rows, done)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar; now and then show losses."""
        assert self._bar is not None
        before, after = (
            min(k * self.batch_size, self.num_rows) for k in (batch_idx, batch_idx + 1)
        )
        is_last = batch_idx + 1 == trainer.num_training_batches
        shown = {}
        if is_last or time.monotonic() - self._shown_s >= self.every_s:
            shown = pl_module.recent_losses()  # type: ignore[operator]  # of MultiTaskModule
            self._shown_s = time.monotonic()
        self._bar.advance(after - before, **shown)
        if is_last:
            self._close()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar of the validation."""
        self._close()
        self._open("validation", int(sum(trainer.num_val_batches)), 0, "batches")

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.advance(1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        self._close()

    def _open(self, title: str, total: int, done: int, unit: str = "rows") -> None:
        self._bar = self._stack.enter_context(self.progress(title, total, unit, done=done))

    def _close(self) -> None:
        self._bar = None
        self._stack.close()


class JsonLinesLogger(Logger):
    """One JSON object a line: ``{"step": 100, "epoch": 0, "train/loss": ...}``, NaN as null."""

    def __init__(self, file: Path, *, written: Mapping[str, Any] | None = None) -> None:
        """Open the file, dropping what will be written anew.

        Args:
            file: the file to append to.
            written: where it stood (see `position`) when the checkpoint was saved from which a
                restarted run goes on; what comes after is dropped. None drops everything.

        Raises:
            CheckpointError: what was written before is no longer there.
        """
        super().__init__()
        self.file = file
        self._size, self._digest = 0, hashlib.sha256()
        self._open(written)

    @rank_zero_only
    def _open(self, written: Mapping[str, Any] | None) -> None:
        size = 0 if written is None else int(written["bytes"])
        text = self.file.read_bytes() if self.file.is_file() else b""
        self._size, self._digest = size, hashlib.sha256(text[:size])
        if written is not None and (
            len(text) < size or self._digest.hexdigest() != written["sha256"]
        ):
            raise CheckpointError(
                f"{self.file}: its first {size:,} bytes are not those that were there when the last"
                " checkpoint was saved; it was changed or damaged. Restore it, or train again."
            )
        if len(text) > size:
            write_text(self.file, text[:size].decode("utf-8"))

    def position(self) -> dict[str, Any]:
        """How much was written so far, and its sha256; it is on the disk when this returns."""
        if self._size:
            with self.file.open("rb") as file:
                os.fsync(file.fileno())
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one file, whatever the number of restarts."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line; Lightning counts steps from 0, the file those that were made."""
        line: dict[str, Any] = {"step": (step or 0) + 1, "epoch": int(metrics.get("epoch", 0))}
        line |= {key: json_number(key, value) for key, value in metrics.items() if key != "epoch"}
        text = (json.dumps(line, allow_nan=False) + "\n").encode()
        with naming(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self.file.open("ab") as file:
                    file.write(text)
            except OSError:
                if self.file.is_file():
                    os.truncate(self.file, self._size)  # no half of a line
                raise
        self._size += len(text)
        self._digest.update(text)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """The config of a run stands in its `config.yaml`."""
