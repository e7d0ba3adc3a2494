"""TaskSet with tasks of several classes among the others, against plain loops."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from recmtl.tasks import TaskDef, TaskSet
from tests.reference.likelihood import Outcome, joint_terms

NAN = math.nan
LABELS = ("click", "stars", "seconds", "buy", "colour")
CTCVR = TaskDef(name="ctcvr", label="buy", product_of=("ctr", "cvr"))
RATING = TaskDef(
    name="rating", label="stars", kind="multiclass", classes=4, given="click", weight=0.5
)
CTR = TaskDef(name="ctr", label="click")
DWELL = TaskDef(name="dwell", label="seconds", kind="regression", mean=30.0, std=12.0)
COLOUR = TaskDef(name="colour", label="colour", kind="multiclass", classes=2)
CVR = TaskDef(name="cvr", label="buy", given="click")
TASKS = (CTCVR, RATING, CTR, DWELL, COLOUR, CVR)  # logits: 4 classes, ctr, dwell, 2 classes, cvr
OUTCOMES = {
    "ctcvr": Outcome(3, None, (4, 8)),
    "rating": Outcome(1, 0, (0, 1, 2, 3), 0.5, classes=True),
    "ctr": Outcome(0, None, (4,)),
    "dwell": Outcome(2, None, (5,), scale=(30.0, 12.0)),
    "colour": Outcome(4, None, (6, 7), classes=True),
    "cvr": Outcome(3, 0, (8,)),
}

Objective = Literal["tasks", "entire_space"]
objectives = pytest.mark.parametrize("objective", ["tasks", "entire_space"])
normalizations = pytest.mark.parametrize("normalize", ["rows", "observed"])


def rows(num_rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels with nulls, and weights of which some are 0."""
    rng = np.random.default_rng(seed)
    click = rng.random(num_rows) < 0.5
    buy = click & (rng.random(num_rows) < 0.5)
    stars, colour = rng.integers(0, 4, num_rows), rng.integers(0, 2, num_rows)
    labels = np.stack([click, stars, rng.normal(30, 12, num_rows), buy, colour], axis=1)
    labels[rng.random(labels.shape) < 0.1] = NAN
    logits, weights = rng.normal(0, 2, (num_rows, 9)), rng.choice([0.0, 0.5, 1.0, 3.0], num_rows)
    return torch.tensor(logits), torch.tensor(labels), torch.tensor(weights)


@objectives
@normalizations
def test_matches_plain_loops(objective: Objective, normalize: Literal["rows", "observed"]) -> None:
    logits_BH, labels_BK, weight_B = rows(60)
    tasks = TaskSet(TASKS, labels=LABELS, objective=objective, normalize=normalize)
    assert tasks.heads == ("rating", "ctr", "dwell", "colour", "cvr")
    assert tasks.num_logits == 9
    outcomes = dict(OUTCOMES)
    del outcomes["cvr" if objective == "entire_space" else "ctcvr"]
    lists = (t.tolist() for t in (logits_BH, labels_BK, weight_B))
    expected = joint_terms(outcomes, *lists, observed_only=normalize == "observed")
    terms = tasks.loss(logits_BH, labels_BK, weight_B)
    assert list(terms.by_task) == list(expected)
    found = {name: float(term) for name, term in terms.by_task.items()}
    assert found == pytest.approx(expected, rel=1e-12)
    assert float(terms.total) == pytest.approx(sum(expected.values()), rel=1e-12)
    halves = (tasks.observed_weight(labels_BK[r], weight_B[r]) for r in (slice(9), slice(9, 60)))
    shared = {"total_weight": weight_B.sum(), "observed_weight_T": sum(halves)}
    parts = [
        tasks.loss(logits_BH[r], labels_BK[r], weight_B[r], **shared).total
        for r in (slice(9), slice(9, 60))
    ]
    assert_close(sum(parts), terms.total, rtol=1e-12, atol=0)


@objectives
def test_gradient_matches_finite_differences(objective: Objective) -> None:
    logits_BH, labels_BK, weight_B = rows(8, seed=1)
    tasks = TaskSet(TASKS, labels=LABELS, objective=objective)
    logits_BH.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: tasks.loss(z, labels_BK, weight_B).total, (logits_BH,)
    )


def test_each_prediction_has_its_columns_in_the_order_of_the_tasks() -> None:
    logits_BH = rows(50)[0]
    tasks = TaskSet(TASKS, labels=LABELS, objective="tasks")
    probs_BO = tasks.probs(logits_BH)
    assert {name: (at.start, at.stop) for name, at in tasks.columns.items()} == {
        "ctcvr": (0, 1),
        "rating": (1, 5),
        "ctr": (5, 6),
        "dwell": (6, 7),
        "colour": (7, 9),
        "cvr": (9, 10),
    }
    ctr, cvr = (torch.special.expit(logits_BH[:, h : h + 1]) for h in (4, 8))
    powers = logits_BH.exp()
    expected_BO = [
        *(ctr * cvr, powers[:, :4] / powers[:, :4].sum(1, keepdim=True), ctr),
        *(logits_BH[:, 5:6] * 12 + 30, powers[:, 6:8] / powers[:, 6:8].sum(1, keepdim=True), cvr),
    ]
    assert_close(probs_BO, torch.cat(expected_BO, dim=1))
    log_BO, odds_BO = tasks.log_probs(logits_BH), tasks.log_odds(logits_BH)
    for name in ("rating", "colour"):
        at = tasks.columns[name]
        assert_close(log_BO[:, at].exp(), probs_BO[:, at])
        assert_close(odds_BO[:, at].softmax(dim=1), probs_BO[:, at])
    for name in ("ctcvr", "ctr", "cvr"):
        at = tasks.columns[name]
        assert_close(log_BO[:, at].exp(), probs_BO[:, at])
        assert_close(odds_BO[:, at].sigmoid(), probs_BO[:, at])


def test_another_order_of_tasks_only_moves_columns_pitfall_T11() -> None:
    logits_BH, labels_BK, weight_B = rows(30)
    first = TaskSet(TASKS, labels=LABELS, objective="entire_space")
    moved = (CVR, COLOUR, DWELL, CTR, RATING, CTCVR)
    second = TaskSet(moved, labels=LABELS, objective="entire_space")
    starts = {"cvr": [8], "colour": [6, 7], "dwell": [5], "ctr": [4], "rating": [0, 1, 2, 3]}
    moved_BH = logits_BH[:, [h for name in second.heads for h in starts[name]]]
    terms, again = (
        tasks.loss(z_BH, labels_BK, weight_B).by_task
        for tasks, z_BH in ((first, logits_BH), (second, moved_BH))
    )
    probs_BO, again_BO = first.probs(logits_BH), second.probs(moved_BH)
    assert terms.keys() == again.keys()
    for name in terms:
        assert_close(again[name], terms[name], rtol=1e-12, atol=0)
    for task in TASKS:
        assert torch.equal(
            again_BO[:, second.columns[task.name]], probs_BO[:, first.columns[task.name]]
        )


def test_a_batch_that_observes_no_class_gives_no_loss_pitfall_T21() -> None:
    tasks = TaskSet([CTR, RATING], labels=LABELS[:2], objective="tasks")
    labels_BK = torch.tensor([[0.0, 3.0], [1.0, NAN]])
    logits_BH = torch.tensor([[0.5, 100.0, -100.0, 0.0, 9.0]] * 2, requires_grad=True)
    terms = tasks.loss(logits_BH, labels_BK, torch.ones(2))
    terms.total.backward()
    assert terms.by_task["rating"].item() == 0.0
    assert logits_BH.grad is not None
    assert logits_BH.grad.isfinite().all()
    assert (logits_BH.grad[:, 1:] == 0).all()
    assert (logits_BH.grad[:, 0] != 0).all()


def test_half_precision_logits_give_a_float32_loss() -> None:
    logits_BH, labels_BK, weight_B = rows(30)
    tasks = TaskSet(TASKS, labels=LABELS, objective="tasks")
    half_BH = logits_BH.bfloat16()
    terms = tasks.loss(half_BH, labels_BK.float(), weight_B.float())
    exact = tasks.loss(half_BH.double(), labels_BK, weight_B).total
    assert terms.total.dtype == tasks.probs(half_BH).dtype == torch.float32
    assert_close(terms.total.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_compiled_loss_and_exported_outputs_are_the_same_pitfall_T15() -> None:
    tasks = TaskSet(TASKS, labels=LABELS, objective="entire_space")
    logits_BH, labels_BK, weight_B = (t.float() for t in rows(64))

    def loss(z_BH: Tensor) -> Tensor:
        return tasks.loss(z_BH, labels_BK, weight_B).total

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(compiled(logits_BH), loss(logits_BH))

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tasks = tasks

        def forward(self, z_BH: Tensor) -> Tensor:
            return self.tasks.probs(z_BH)

    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Outputs(), (logits_BH[:3],), dynamic_shapes=({0: batch},))
    assert_close(program.module()(logits_BH), tasks.probs(logits_BH))
