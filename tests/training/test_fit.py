"""fit: a run from start to end, interrupted and continued."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recmtl.checkpoint import read_index
from recmtl.config import RunConfig, load_spec
from recmtl.data import Encoders
from recmtl.towers import chunked
from recmtl.training import TrainResult, fit
from tests.training.tools import At, crash, last_tensors


def valid_lines(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if any(key.startswith("valid/") for key in line)]


def assert_same_run(ours: Path, theirs: Path) -> None:
    found, expected = last_tensors(ours), last_tensors(theirs)
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    assert valid_lines(ours) == valid_lines(theirs)


@pytest.fixture(scope="module")
def whole(
    config: RunConfig, encoders: Encoders, log_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of two epochs of ten steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    fit(config, encoders, data_dir=log_dir, folder=folder)
    return folder


def test_leaves_a_run_and_says_what_it_came_to(
    config: RunConfig,
    encoders: Encoders,
    log_dir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    level = logging.getLogger("lightning.pytorch").level
    result = fit(config, encoders, data_dir=log_dir, folder=tmp_path)
    assert isinstance(result, TrainResult)
    assert (result.run, result.epochs) == (tmp_path, 2)
    assert result.rows_per_s > 0
    assert result.best["valid/cvr/n"] == 265
    assert not any("=" in key for key in result.best)
    assert "item" in (tmp_path / "plan.txt").read_text()
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"index.json", "step-00000020"}
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lightning.pytorch").level == level
    assert not dist.is_initialized()


def test_loss_decreases(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("step", [4, 13])
def test_interrupted_and_continued_equals_uninterrupted_pitfall_T40(
    step: int, config: RunConfig, encoders: Encoders, log_dir: Path, tmp_path: Path, whole: Path
) -> None:
    number = signal.SIGTERM if step == 4 else signal.SIGINT
    before = signal.getsignal(number)
    stop = At(lambda: signal.raise_signal(number), step=step)
    with pytest.raises(KeyboardInterrupt, match=f"stopped at step {step}"):
        fit(config, encoders, data_dir=log_dir, folder=tmp_path, progress=stop)
    assert signal.getsignal(number) == before
    assert read_index(tmp_path / "checkpoints").last == f"step-{step:08d}"
    listen = At(lambda: None)
    fit(config, encoders, data_dir=log_dir, folder=tmp_path, progress=listen)
    assert listen.titles[0] == f"epoch {1 + step // 10} of 2, from step {step} on"
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_so_it_does_where_experts_run_by_hand(
    precision: str,
    config: RunConfig,
    encoders: Encoders,
    log_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked, "_CHUNK_FLOATS", 0)
    train = config.train.model_copy(update={"precision": precision})
    config = config.model_copy(update={"train": train})
    fit(config, encoders, data_dir=log_dir, folder=tmp_path / "whole")
    stop = At(lambda: signal.raise_signal(signal.SIGTERM), step=4)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 4"):
        fit(config, encoders, data_dir=log_dir, folder=tmp_path / "cut", progress=stop)
    fit(config, encoders, data_dir=log_dir, folder=tmp_path / "cut")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("where", [{"step": 10}, {"batch": 7}])
def test_interrupted_around_a_validation(
    where: dict[str, int],
    config: RunConfig,
    encoders: Encoders,
    log_dir: Path,
    tmp_path: Path,
    whole: Path,
) -> None:
    stop = At(lambda: signal.raise_signal(signal.SIGINT), **where)
    with pytest.raises(KeyboardInterrupt, match="stopped at step"):
        fit(config, encoders, data_dir=log_dir, folder=tmp_path, progress=stop)
    fit(config, encoders, data_dir=log_dir, folder=tmp_path)
    assert_same_run(tmp_path, whole)


def test_continues_after_a_crash(
    config: RunConfig, encoders: Encoders, log_dir: Path, tmp_path: Path, whole: Path
) -> None:
    for step in (3, 12):  # counted from where it goes on
        with pytest.raises(OSError, match="gone"):
            fit(config, encoders, data_dir=log_dir, folder=tmp_path, progress=At(crash, step=step))
    fit(config, encoders, data_dir=log_dir, folder=tmp_path)
    assert_same_run(tmp_path, whole)


def test_a_second_signal_does_not_wait(
    config: RunConfig, encoders: Encoders, log_dir: Path, tmp_path: Path
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped after step 0"):
        fit(config, encoders, data_dir=log_dir, folder=tmp_path, progress=At(twice, step=2))


def test_a_run_that_has_nothing_left_to_train_says_the_same(
    config: RunConfig, encoders: Encoders, log_dir: Path, tmp_path: Path
) -> None:
    first = fit(config, encoders, data_dir=log_dir, folder=tmp_path)
    again = fit(config, encoders, data_dir=log_dir, folder=tmp_path)
    assert (again.best, again.epochs, again.rows_per_s) == (first.best, first.epochs, 0.0)


def test_early_stopping_remembers_across_a_restart(
    encoders: Encoders, log_dir: Path, tmp_path: Path
) -> None:
    # A learning rate of next to nothing: later epochs are no better than the first.
    overrides = [
        "train.monitor=ctr/ece",
        "train.patience=2",
        "train.epochs=9",
        "train.embedding.lr=1e-30",
        "train.lr=1e-30",
    ]
    config = load_spec(log_dir / "spec.yaml", overrides)
    stop = At(lambda: signal.raise_signal(signal.SIGINT), step=25)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 25"):
        fit(config, encoders, data_dir=log_dir, folder=tmp_path, progress=stop)
    result = fit(config, encoders, data_dir=log_dir, folder=tmp_path)
    assert result.epochs == 3
    index = read_index(tmp_path / "checkpoints")
    assert (index.best, index.last) == ("step-00000010", "step-00000030")
    assert fit(config, encoders, data_dir=log_dir, folder=tmp_path).epochs == 3


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        key: [(event.step, event.value) for event in events.Scalars(key)]
        for key in events.Tags()["scalars"]
    }


def test_tensorboard_shows_one_curve_over_a_restart(
    encoders: Encoders, log_dir: Path, tmp_path: Path
) -> None:
    more = ["train.loggers=[tensorboard]", "train.epochs=2"]
    config = load_spec(log_dir / "spec.yaml", more)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(config, encoders, data_dir=log_dir, folder=whole)
    with pytest.raises(OSError, match="gone"):  # the first epoch's validation was logged
        fit(config, encoders, data_dir=log_dir, folder=parts, progress=At(crash, step=18))
    fit(config, encoders, data_dir=log_dir, folder=parts)
    expected, found = tensorboard_scalars(whole), tensorboard_scalars(parts)
    assert [step for step, _ in expected["valid/ctr/auc"]] == [9, 19]
    assert expected["train/ctr/loss"]
    assert found.keys() == expected.keys()
    for key in (key for key in expected if key.startswith("valid/")):
        assert found[key] == expected[key]
    assert [step for step, _ in found["train/loss"]] == sorted(
        {step for step, _ in found["train/loss"]}
    )


def test_early_stopping_is_the_same_over_restarts_at_every_point(
    encoders: Encoders, log_dir: Path, tmp_path: Path
) -> None:
    # Tables that learn so fast that the second epoch is worse than the first.
    overrides = ["train.monitor=ctr/logloss", "train.patience=2", "train.epochs=9"]
    overrides += ["train.embedding.lr=1.0"]
    config = load_spec(log_dir / "spec.yaml", overrides)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = fit(config, encoders, data_dir=log_dir, folder=whole)
    assert 2 < expected.epochs < 9

    crashes = 0
    for where in ({"step": 8}, {"batch": 2}, {"step": 3}, {"step": 7}, {"batch": 2}, {"step": 9}):
        try:
            fit(config, encoders, data_dir=log_dir, folder=parts, progress=At(crash, **where))
        except OSError:
            crashes += 1
    found = fit(config, encoders, data_dir=log_dir, folder=parts)
    assert crashes >= 4
    assert (found.epochs, found.best) == (expected.epochs, expected.best)
    assert_same_run(parts, whole)
    assert read_index(parts / "checkpoints") == read_index(whole / "checkpoints")


def test_without_validation_the_last_checkpoint_is_the_best(
    encoders: Encoders, log_dir: Path, tmp_path: Path
) -> None:
    config = load_spec(
        log_dir / "spec.yaml", ["data.valid=null", "train.monitor=null", "train.epochs=1"]
    )
    result = fit(config, encoders, data_dir=log_dir, folder=tmp_path)
    assert result.best == {}
    assert read_index(tmp_path / "checkpoints") == ("step-00000010", "step-00000010")
