"""ClickLogDataModule: training and validation batches of a spec, as Lightning asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from recmtl.config import RunConfig, TrainConfig
from recmtl.data import Encoders, Splits, TrainStreams, check_columns, open_log, open_splits
from recmtl.errors import SpecError
from recmtl.spec import Spec
from recmtl.training.loaders import TrainLoader, ValidLoader

__all__ = ["ClickLogDataModule"]


class ClickLogDataModule(pl.LightningDataModule):
    """Training batches in the order of (seed, epoch), validation batches in that of the log.

    Every process count sees the same global batches, and a restart in mid-epoch goes on with the
    batch that follows. Rows for a final test are not part of a spec, so nothing here can touch
    them.

    Raises:
        SpecError: `config` is a `Spec` and the trained module has no `train_config` that gives the
            batch size.
        DataError: a file or a column is missing or does not fit.
    """

    def __init__(
        self, config: RunConfig | Spec, encoders: Encoders, *, data_dir: str | Path
    ) -> None:
        """Say which rows; files are opened by `setup`.

        Args:
            config: a `RunConfig`, or a `Spec`.
            encoders: fitted on the training rows.
            data_dir: folder that the paths of the spec are relative to.
        """
        super().__init__()
        self.config = config
        self.encoders = encoders
        self.data_dir = Path(data_dir)
        self.splits: Splits | None = None

    def setup(self, stage: str) -> None:
        """Open the files and check their columns; on every process, once."""
        if self.splits is None:
            splits = open_splits(
                self.config,
                self.data_dir,
                families=self.encoders.families,
                lists=self.encoders.bags,
            )
            for log in splits:
                if log is not None:
                    check_columns(log, self.config, labels=True)
            self.splits = splits

    def train_dataloader(self) -> TrainLoader:
        """Batches of the epoch that the trainer is in."""
        assert self.splits is not None
        assert self.trainer is not None
        train, trainer = self._train_config, self.trainer
        streams = TrainStreams(
            self.splits.train,
            self.encoders,
            batch_size=train.batch_size,
            seed=train.seed,
            streams=train.streams,
            memory_bytes=self.config.data.memory_bytes,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        progress: Any = trainer.fit_loop.epoch_progress.current
        device = trainer.strategy.root_device
        return TrainLoader(streams, lambda: progress.processed, device)

    def val_dataloader(self) -> ValidLoader | list[ValidLoader]:
        """Batches of the validation rows, or nothing where the spec has none."""
        assert self.splits is not None
        if self.splits.valid is None:
            return []
        batch_size = self._train_config.batch_size
        return ValidLoader(self.splits.valid, self.encoders, batch_size=batch_size)

    def loader(self, path: str | Path, *, batch_size: int = 4096) -> ValidLoader:
        """Batches of other labelled rows: ``trainer.test(module, data.loader("test.parquet"))``.

        Args:
            path: file, folder or glob, relative to `data_dir`.
            batch_size: rows of a global batch; it changes no number.
        """
        log = open_log(path, base=self.data_dir, columns=self.encoders.wanted(labels=True))
        check_columns(log, self.config, labels=True)
        return ValidLoader(log, self.encoders, batch_size=batch_size)

    @property
    def _train_config(self) -> TrainConfig:
        """That of the module, where the section may have been replaced, or of the config."""
        assert self.trainer is not None
        found = getattr(self.trainer.lightning_module, "train_config", None)
        found = found or getattr(self.config, "train", None)
        if not isinstance(found, TrainConfig):
            raise SpecError(
                "train: neither the config nor the module says how to train. Pass a `RunConfig`."
            )
        return found
