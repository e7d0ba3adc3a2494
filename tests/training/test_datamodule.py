"""ClickLogDataModule: which rows are read, and which never."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recmtl.config import RunConfig, TrainConfig
from recmtl.data import Encoders
from recmtl.errors import DataError, SpecError
from recmtl.spec import Spec
from recmtl.training import ClickLogDataModule, MultiTaskModule
from tests.training.conftest import NUM_ROWS
from tests.training.tools import Watch

Make = Callable[..., Any]


def test_every_row_is_trained_on_once_an_epoch_in_another_order(make: Make, trainer: Make) -> None:
    watch = Watch()
    trainer(max_epochs=2, callbacks=[watch]).fit(*make())
    epochs = [
        [row for batch in half for row in batch if row >= 0]
        for half in (watch.rows[:10], watch.rows[10:])
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(NUM_ROWS))] * 2
    assert epochs[0] != epochs[1]


def test_fit_never_touches_test_rows_pitfall_T42(
    config: RunConfig, encoders: Encoders, log_dir: Path, trainer: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    shutil.copytree(log_dir, folder)
    (folder / "test.parquet").write_bytes(b"not even Parquet")
    data = ClickLogDataModule(config, encoders, data_dir=folder)
    fitted = trainer()
    fitted.fit(MultiTaskModule(config, encoders), data)
    fitted.validate(MultiTaskModule(config, encoders), data, verbose=False)
    assert not any(key.startswith("test/") for key in fitted.callback_metrics)
    with pytest.raises(DataError, match=r"test\.parquet"):
        data.loader("test.parquet")


def test_the_modules_section_decides_about_batches(
    config: RunConfig, encoders: Encoders, log_dir: Path, trainer: Make
) -> None:
    watch = Watch()
    spec = Spec(**{name: getattr(config, name) for name in Spec.model_fields})
    module = MultiTaskModule(spec, encoders, tower=config.tower, train=TrainConfig(batch_size=400))
    trainer(callbacks=[watch]).fit(module, ClickLogDataModule(spec, encoders, data_dir=log_dir))
    assert [len(rows) for rows in watch.rows] == [400, 400, 400]


def test_without_validation_rows_there_is_no_validation(make: Make, trainer: Make) -> None:
    fitted = trainer()
    fitted.fit(*make("data.valid=null", "train.monitor=null"))
    assert not any(key.startswith("valid/") for key in fitted.callback_metrics)


def test_someone_has_to_say_how_to_train(
    config: RunConfig, encoders: Encoders, log_dir: Path, trainer: Make
) -> None:
    spec = Spec(**{name: getattr(config, name) for name in Spec.model_fields})
    data = ClickLogDataModule(spec, encoders, data_dir=log_dir)
    data.setup("fit")
    data.trainer = trainer()
    data.trainer.strategy.connect(data)  # a module without `train_config`
    with pytest.raises(SpecError, match="neither the config nor the module says how to train"):
        data.train_dataloader()
