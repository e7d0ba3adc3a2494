"""TorchRecStrategy under real Trainers: tables move, checkpoints of every kind come back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
)
from lightning.pytorch.loggers import CSVLogger

from recmtl.checkpoint import load_full
from recmtl.errors import CheckpointError
from recmtl.training import MultiTaskModule, TorchRecStrategy
from tests.training.tools import Watch, tensors

Make = Callable[..., Any]


def test_every_table_and_every_dense_parameter_moves(make: Make, trainer: Make) -> None:
    module, data = make()
    watch = Watch()
    fitted = trainer(callbacks=[watch])
    fitted.fit(module, data)
    end = tensors(fitted)
    still = [key for key, start in watch.start.items() if torch.equal(start, end[key])]
    assert still == []
    assert {"tables/user/weight", "tables/item/weight", "tables/tags/weight"} <= end.keys()
    assert {"tables/user/optimizer/momentum1"} <= end.keys()
    assert "item" in fitted.strategy.plan_text


def test_opens_no_port_and_leaves_the_environment_alone(
    make: Make, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a store that listens on a port")

    monkeypatch.setattr(dist, "TCPStore", no_network)
    before = dict(os.environ)
    trainer(max_steps=1).fit(*make())
    assert dist.get_world_size() == 1
    assert dict(os.environ) == before


def test_lightnings_callbacks_and_loggers_work(make: Make, trainer: Make, tmp_path: Path) -> None:
    module, data = make()
    keep = ModelCheckpoint(
        tmp_path / "ck", monitor="valid/ctr/auc", mode="max", save_top_k=1, save_last=True
    )
    stop = EarlyStopping("valid/cvr/logloss", patience=5)
    fitted = trainer(
        max_epochs=2,
        callbacks=[keep, stop, LearningRateMonitor("step")],
        logger=CSVLogger(tmp_path, name="csv"),
        enable_checkpointing=True,
        log_every_n_steps=5,
        use_distributed_sampler=True,
    )
    fitted.fit(module, data)
    assert Path(keep.best_model_path).is_dir()
    assert len([p for p in (tmp_path / "ck").iterdir() if p.name.startswith("epoch")]) == 1
    (again,) = fitted.validate(module, data, ckpt_path="best", verbose=False)
    assert again["valid/ctr/auc"] == pytest.approx(float(keep.best_model_score), abs=1e-12)
    fresh, data = make()
    (elsewhere,) = trainer().validate(fresh, data, ckpt_path=keep.best_model_path, verbose=False)
    assert elsewhere == again
    columns = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    for name in (
        "train/loss",
        "valid/cvr/auc",
        "lr-TablesAndDense/sparse",
        "lr-TablesAndDense/dense",
    ):
        assert name in columns.split(",")


def test_resume_in_mid_epoch_equals_the_uninterrupted_run_pitfall_T40(
    make: Make, trainer: Make, tmp_path: Path
) -> None:
    every_n_steps = 7

    def run(**options: Any) -> tuple[Watch, dict[str, torch.Tensor], dict[str, Any]]:
        module, data = make("tower.dropout=0.2")
        watch = Watch()
        keep = ModelCheckpoint(
            tmp_path,
            "at-{step}",
            every_n_train_steps=every_n_steps,
            save_top_k=-1,
            save_on_train_epoch_end=False,
        )
        fitted = trainer(max_epochs=2, callbacks=[watch, keep], enable_checkpointing=True)
        fitted.fit(module, data, **options)
        return watch, tensors(fitted), fitted.callback_metrics

    whole, end, metrics = run()
    for step in range(every_n_steps, 20, every_n_steps):
        if step % 10:
            resumed, end_again, metrics_again = run(ckpt_path=tmp_path / f"at-step={step}.ckpt")
            assert resumed.rows == whole.rows[step:]
            assert [key for key in end if not torch.equal(end[key], end_again[key])] == []
            valid = [key for key in metrics if key.startswith("valid/")]
            assert [
                k
                for k in valid
                if not torch.equal(metrics[k].nan_to_num(), metrics_again[k].nan_to_num())
            ] == []


class ScheduledModule(MultiTaskModule):
    """Halves both learning rates every three steps."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class KernelRates(Callback):
    """The learning rates in the kernels and of the dense group, at each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        kernels = pl_module.net.module.lookup.kernels()
        (rate,) = {float(kernel.get_learning_rate()) for kernel in kernels}
        self.seen.append((rate, optimizer.param_groups[1]["lr"]))


def test_a_schedule_reaches_kernels_at_the_same_step_and_survives_a_restart(
    make: Make, trainer: Make, config: Any, encoders: Any, tmp_path: Path
) -> None:
    def run(**options: Any) -> list[tuple[float, float]]:
        rates = KernelRates()
        keep = ModelCheckpoint(tmp_path, "at-{step}", every_n_train_steps=4, save_top_k=-1)
        module, data = ScheduledModule(config, encoders), make()[1]
        trainer(callbacks=[rates, keep], enable_checkpointing=True, max_steps=8).fit(
            module, data, **options
        )
        return rates.seen

    whole = run()
    expected = [(0.1 * 0.5 ** (step // 3), 0.01 * 0.5 ** (step // 3)) for step in range(8)]
    assert whole == [pytest.approx(pair) for pair in expected]
    assert run(ckpt_path=tmp_path / "at-step=4.ckpt") == whole[4:]


def test_weights_alone_can_be_validated_but_not_trained_on(
    make: Make, trainer: Make, tmp_path: Path
) -> None:
    module, data = make()
    keep = ModelCheckpoint(tmp_path, "weights", save_weights_only=True)
    fitted = trainer(callbacks=[keep], enable_checkpointing=True)
    fitted.fit(module, data)
    path = tmp_path / "weights.ckpt"
    assert not [key for key in load_full(path) if "optimizer" in key]
    module, data = make()
    (metrics,) = trainer().validate(module, data, ckpt_path=path, verbose=False)
    assert metrics["valid/ctr/auc"] == float(fitted.callback_metrics["valid/ctr/auc"])
    module, data = make()
    with pytest.raises(CheckpointError, match="holds weights alone"):
        trainer(max_epochs=2).fit(module, data, ckpt_path=path)


def test_a_checkpoint_of_another_model_is_refused(
    make: Make, trainer: Make, tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path, "mmoe")
    trainer(callbacks=[keep], enable_checkpointing=True, max_steps=1).fit(*make())
    with pytest.raises(CheckpointError, match="it belongs to another model or optimizer"):
        trainer().validate(*make("tower=ple"), ckpt_path=tmp_path / "mmoe.ckpt")


class Unwritable(Callback):
    """Has a state that only a pickle could hold."""

    def state_dict(self) -> dict[str, Any]:
        return {"what": object()}


def test_a_state_that_json_cannot_hold_names_its_callback(
    make: Make, trainer: Make, tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path)
    with pytest.raises(CheckpointError, match="callback `Unwritable`: its state holds a `object`"):
        trainer(callbacks=[Unwritable(), keep], enable_checkpointing=True, max_steps=1).fit(*make())


def test_fit_twice_and_then_test_on_other_rows(make: Make, trainer: Make) -> None:
    module, data = make()
    trainer(max_steps=3).fit(module, data)
    trainer(max_steps=3).fit(module, data)
    (metrics,) = trainer().test(module, data.loader("valid.parquet"), verbose=False)
    assert metrics["test/ctr/n"] == 500
    (by_validation,) = trainer().validate(module, data, verbose=False)
    assert metrics["test/cvr/auc"] == by_validation["valid/cvr/auc"]


def test_strategy_keeps_its_type_through_the_trainer(trainer: Make) -> None:
    assert isinstance(trainer().strategy, TorchRecStrategy)
