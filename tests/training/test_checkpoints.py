"""Which checkpoints are kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recmtl.checkpoint import load_full, read_index
from recmtl.training import MultiTaskModule
from recmtl.training.checkpoints import RunCheckpoints
from recmtl.training.monitor import Monitor
from tests.training.tools import tensors

Make = Callable[..., Any]
NAN = math.nan


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("max", [0.5, 0.7, 0.6], 1),
        ("min", [0.5, 0.7, 0.6], 0),
        ("max", [0.5, 0.5, 0.5], 0),  # a tie keeps the earlier one
        ("min", [0.5, 0.4, 0.4], 1),
        ("max", [NAN, 0.1, NAN], 1),
        ("min", [NAN, NAN, 0.9], 2),
        ("max", [0.2, NAN, 0.1], 0),
        ("max", [NAN, NAN, NAN], 2),  # nothing but NaN: the last one
    ],
)
def test_the_best_is_kept_in_both_directions_with_ties_and_nan_pitfall_T41(
    mode: Any, scores: list[float], best: int
) -> None:
    monitor, found, kept = Monitor("valid/ctr/auc", mode), None, None
    for number, score in enumerate(scores):
        if monitor.is_better(score, found):
            found, kept = score, number
    assert kept == best


class Scored(MultiTaskModule):
    """Logs scores of our choice, and keeps the weights of each epoch."""

    def on_validation_epoch_end(self) -> None:
        self.weights.append(tensors(self.trainer))
        self.log("valid/score", torch.tensor(self.scores.pop(0), dtype=torch.float64))


@pytest.mark.parametrize(
    ("mode", "scores", "best"), [("max", [0.5, 0.9, 0.7], 1), ("min", [NAN, 0.9, 0.9], 1)]
)
def test_the_best_weights_are_what_is_kept_pitfall_T41(
    mode: Any,
    scores: list[float],
    best: int,
    config: Any,
    encoders: Any,
    make: Make,
    trainer: Make,
    tmp_path: Path,
) -> None:
    module = Scored(config, encoders)
    module.scores, module.weights = [*scores], []
    keep = RunCheckpoints(tmp_path / "ck", monitor=Monitor("valid/score", mode), every_n_steps=9)
    options = {"enable_checkpointing": True, "max_epochs": 3, "num_sanity_val_steps": 0}
    trainer(callbacks=[keep], **options).fit(module, make()[1])
    index = read_index(tmp_path / "ck")
    assert index == (f"step-{10 * (best + 1):08d}", "step-00000030")
    assert {p.name for p in (tmp_path / "ck").iterdir()} == {*index, "index.json"}
    kept = load_full(tmp_path / "ck" / str(index.best))
    assert [
        key
        for key, expected in module.weights[best].items()
        if not torch.equal(kept[key], expected)
    ] == []


def test_only_folders_of_its_own_are_removed(make: Make, trainer: Make, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / ".step-00000002.abcd1234.tmp").mkdir()
    keep = RunCheckpoints(tmp_path, monitor=None, every_n_steps=2)
    trainer(callbacks=[keep], enable_checkpointing=True, limit_val_batches=0).fit(*make())
    assert {p.name for p in tmp_path.iterdir()} == {"notes", "step-00000010", "index.json"}


@pytest.mark.parametrize(("takes_s", "first"), [(0.0, 1), (1e9, 10)])
def test_unless_asked_to_it_saves_only_where_that_costs_little(
    takes_s: float, first: int, make: Make, trainer: Make, tmp_path: Path
) -> None:
    saved = []

    class Noted(RunCheckpoints):
        def save(self, trainer: Any) -> None:
            super().save(trainer)
            saved.append(trainer.global_step)

    keep = Noted(tmp_path, monitor=None)
    keep._save_takes_s = takes_s
    trainer(callbacks=[keep], enable_checkpointing=True, limit_val_batches=0).fit(*make())
    assert (saved[0], saved[-1]) == (first, 10)
