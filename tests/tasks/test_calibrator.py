"""Calibrators: the line itself, and where it stands among corrections and products."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from recmtl.tasks import Calibrator, TaskDef, TaskSet, Thinning

BENT = Calibrator(at=(-3.0, -1.5, 0.25), values=(-2.0, -1.75, 1.0), below=0.5, above=2.0)
STRAIGHT = Calibrator(at=(0.0,), values=(-0.7,), below=1.3, above=1.3)
TASKS = (
    TaskDef(name="ctr", label="click"),
    TaskDef(name="cvr", label="conversion", given="click"),
    TaskDef(name="ctcvr", label="conversion", product_of=("ctr", "cvr")),
    TaskDef(name="stars", label="rating", kind="multiclass", classes=3),
    TaskDef(name="spend", label="money", kind="regression", mean=2.0, std=3.0),
)
LABELS = ("click", "conversion", "rating", "money")


def line(calibrator: Calibrator, z: float) -> float:
    """In plain Python."""
    at, values = calibrator.at, calibrator.values
    if z < at[0]:
        return values[0] + calibrator.below * (z - at[0])
    if z >= at[-1]:
        return values[-1] + calibrator.above * (z - at[-1])
    return float(np.interp(z, at, values))


@pytest.mark.parametrize("calibrator", [BENT, STRAIGHT], ids=["bent", "straight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_line_through_its_knots(calibrator: Calibrator, dtype: torch.dtype) -> None:
    z_B = torch.cat([torch.linspace(-8, 8, 401), torch.tensor(calibrator.at)]).to(dtype)
    expected_B = torch.tensor([line(calibrator, z) for z in z_B.tolist()], dtype=dtype)
    assert_close(calibrator(z_B), expected_B, rtol=1e-6, atol=1e-6)


def test_products_are_those_of_calibrated_factors_and_other_tasks_stay() -> None:
    plain = TaskSet(TASKS, labels=LABELS, objective="tasks")
    tasks = TaskSet(
        TASKS, labels=LABELS, objective="tasks", calibrators={"ctr": BENT, "cvr": STRAIGHT}
    )
    z_BH = torch.randn(64, tasks.num_logits, generator=torch.Generator().manual_seed(0)) * 3
    before_BO, after_BO = plain.probs(z_BH), tasks.probs(z_BH)
    expected_B2 = torch.tensor(
        [[line(BENT, ctr), line(STRAIGHT, cvr)] for ctr, cvr in z_BH[:, :2].tolist()]
    ).sigmoid()
    assert_close(after_BO[:, :2], expected_B2, rtol=1e-5, atol=1e-6)
    assert_close(after_BO[:, 2], expected_B2.prod(dim=1), rtol=1e-5, atol=1e-6)
    assert_close(after_BO[:, 3:], before_BO[:, 3:], rtol=0, atol=0)
    assert_close(tasks.log_probs(z_BH)[:, :3].exp(), after_BO[:, :3])
    assert_close(tasks.log_odds(z_BH)[:, :3].sigmoid(), after_BO[:, :3])


def test_it_comes_after_the_correction_of_a_thinned_log() -> None:
    thinned = Thinning((("click", 1.0),), 0.1)
    tasks = TaskSet(
        TASKS[:3],
        labels=LABELS,
        objective="tasks",
        thinnings=[thinned],
        calibrators={"ctr": BENT},
    )
    z_BH = torch.randn(16, tasks.num_logits, generator=torch.Generator().manual_seed(1)) * 2
    expected_B = torch.tensor([line(BENT, z - math.log(10)) for z in z_BH[:, 0].tolist()])
    assert_close(tasks.corrected(z_BH)[:, 0], expected_B, rtol=1e-5, atol=1e-5)
    assert_close(tasks.corrected(z_BH)[:, 1:], z_BH[:, 1:])


def test_the_loss_does_not_know_it() -> None:
    plain = TaskSet(TASKS, labels=LABELS, objective="tasks")
    tasks = TaskSet(TASKS, labels=LABELS, objective="tasks", calibrators={"ctr": BENT})
    z_BH, labels_BK = torch.randn(8, tasks.num_logits), torch.ones(8, 4)
    ours, theirs = (t.loss(z_BH, labels_BK, torch.ones(8)).total for t in (tasks, plain))
    assert_close(ours, theirs, rtol=0, atol=0)
    assert not list(tasks.parameters())
    assert not tasks.state_dict()


@pytest.mark.parametrize("name", ["ctcvr", "stars", "spend", "other"])
def test_only_heads_of_binary_tasks_have_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is no head of a binary task"):
        TaskSet(TASKS, labels=LABELS, objective="tasks", calibrators={name: BENT})


def test_it_comes_back_from_json() -> None:
    assert Calibrator.of(BENT._asdict()) == BENT


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": ()},
        {"at": (0.0, 1.0)},
        {"values": (1.0, 0.5, 2.0)},
        {"at": (0.0, 0.0, 1.0)},
        {"below": 0.0},
        {"above": math.nan},
        {"values": (0.0, 1.0, math.inf)},
    ],
    ids=str,
)
def test_what_is_no_rising_line_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no increasing line"):
        Calibrator.of({**BENT._asdict(), **wrong})


def test_it_is_exported_with_a_batch_of_any_size() -> None:
    tasks = TaskSet(TASKS, labels=LABELS, objective="tasks", calibrators={"ctr": BENT})

    class Probs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tasks = tasks

        def forward(self, z_BH: torch.Tensor) -> torch.Tensor:
            return self.tasks.probs(z_BH)

    rows = torch.export.Dim("rows", min=1)
    example_BH = torch.randn(5, tasks.num_logits)
    program = torch.export.export(Probs(), (example_BH,), dynamic_shapes=({0: rows},))
    for count in (1, 7, 300):
        z_BH = torch.randn(count, tasks.num_logits)
        assert_close(program.module()(z_BH), tasks.probs(z_BH))
