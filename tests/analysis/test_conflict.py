"""Gradients of tasks at the tower's input, against loops over rows and finite differences."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recmtl import api
from recmtl.analysis.conflict import gradient_conflict
from recmtl.analysis.rows import read_sample, validation_log
from recmtl.batch import Batch
from recmtl.run import Run
from recmtl.scoring import BatchScorer
from recmtl.towers import TowerInput

ROWS, STEP = 60, 1e-6
SMALL = "tower={kind: mmoe, num_experts: 2, expert_widths: [4], head_widths: []}"


def sample(run: Path, rows: int) -> tuple[BatchScorer, Batch]:
    scorer = BatchScorer(run, keep=())
    return scorer, read_sample(validation_log(Run(run)), scorer.encoders, rows)


def logit_gradients(tower: torch.nn.Module, x_BD: torch.Tensor) -> np.ndarray:
    """Of each logit by each number of the input, by central differences: [B, H, D]."""
    tower, x_BD = copy.deepcopy(tower).double(), x_BD.double()
    columns = []
    with torch.no_grad():
        for d in range(x_BD.shape[1]):
            step = torch.zeros(x_BD.shape[1], dtype=torch.float64)
            step[d] = STEP
            columns.append((tower(x_BD + step) - tower(x_BD - step)) / (2 * STEP))
        return torch.stack(columns, dim=2).numpy()


def cosines(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    found, norms = [], [[], []]
    for a, b in pairs:
        long_a = math.sqrt(sum(x * x for x in a))
        long_b = math.sqrt(sum(x * x for x in b))
        if long_a and long_b:
            found.append(sum(x * y for x, y in zip(a, b, strict=True)) / long_a / long_b)
            norms[0].append(long_a)
            norms[1].append(long_b)
    return {
        "count": len(found),
        "cosine": np.mean(found),
        "cosine_error": np.std(found, ddof=1) / math.sqrt(len(found)),
        "opposed": np.mean(np.array(found) < 0),
        "norm_ratio": np.mean(norms[0]) / np.mean(norms[1]),
    }


def assert_equal(found: dict[str, Any], expected: dict[str, Any], unit: str) -> None:
    assert found[unit] == expected.pop("count")
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-3, abs=2e-3), name


def test_angles_are_those_of_finite_differences(run: Path) -> None:
    """The gradient of a binary cross-entropy by its logit is p - y."""
    scorer, batch = sample(run, ROWS)
    found = gradient_conflict(scorer.net, scorer.tasks, batch, batch_rows=16)
    assert found["tasks"] == ["ctr", "cvr"]
    assert (found["rows"], found["batches"]) == (ROWS, 4)
    x_BD = scorer.net.tower_input(batch)
    assert isinstance(x_BD, torch.Tensor)
    logits = scorer.net.tower(x_BD).detach().double().numpy()
    slopes = logit_gradients(scorer.net.tower, x_BD.detach())
    click, conversion = batch.labels_BK.numpy().T
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    for b in range(ROWS):
        error = [1 / (1 + math.exp(-z)) for z in logits[b]]
        ctr = (error[0] - click[b]) * slopes[b, 0]
        cvr = (error[1] - conversion[b]) * slopes[b, 1] * (click[b] == 1)
        rows.append((ctr, cvr))
    (pair,) = found["pairs"]
    assert pair["tasks"] == ["ctr", "cvr"]
    assert pair["rows"] == int(click.sum()) > 3
    assert_equal(pair, cosines(rows), "rows")
    where = {"price": slice(0, 1), "user_id": slice(1, 17), "item_id": slice(17, 33)}
    for feature, columns in where.items():
        batches = [
            tuple(sum(row[t][columns] for row in rows[start : start + 16]) for t in (0, 1))
            for start in range(0, ROWS, 16)
        ]
        (angles,) = found["features"][feature]
        assert_equal(angles, cosines(batches), "batches")
    names = ["price", "user_id", "item_id", "age", "gender", "device", "hour", "category"]
    assert list(found["features"]) == [*names, "brand", "history"]


def test_weights_of_tasks_and_rows_decide_norms_and_not_angles(run: Path) -> None:
    scorer, batch = sample(run, 200)
    plain = gradient_conflict(scorer.net, scorer.tasks, batch)["pairs"][0]
    tasks = copy.deepcopy(scorer.tasks)
    tasks._weight_T[tasks._order.index("ctr")] *= 4
    heavy = gradient_conflict(scorer.net, tasks, batch)["pairs"][0]
    assert heavy["norm_ratio"] == pytest.approx(4 * plain["norm_ratio"], rel=1e-4)
    assert heavy["cosine"] == pytest.approx(plain["cosine"], rel=1e-4)


def test_nothing_is_changed(run: Path) -> None:
    scorer, batch = sample(run, 100)
    before = {name: tensor.clone() for name, tensor in scorer.net.dense_tensors().items()}
    first = gradient_conflict(scorer.net, scorer.tasks, batch)
    assert gradient_conflict(scorer.net, scorer.tasks, batch) == first
    assert all(torch.equal(before[n], t) for n, t in scorer.net.dense_tensors().items())
    assert all(parameter.grad is None for parameter in scorer.net.parameters())


def test_an_entire_space_has_a_product_with_a_gradient_on_every_row(home_run: Path) -> None:
    scorer, batch = sample(home_run, 100)
    found = gradient_conflict(scorer.net, scorer.tasks, batch)
    assert found["tasks"] == ["ctr", "ctcvr"]
    assert found["pairs"][0]["rows"] == 100


def test_every_tensor_of_a_tower_input_counts(dtrn_run: Path) -> None:
    scorer, batch = sample(dtrn_run, 100)
    found = gradient_conflict(scorer.net, scorer.tasks, batch)
    x = scorer.net.tower_input(batch)
    assert isinstance(x, TowerInput)
    assert x.fields_BFE is not None
    leaves = [x.fields_BFE.detach().requires_grad_(), x.target_BE.detach().requires_grad_()]
    ((behaviour, (sequence_BLE, lengths_B)),) = (x.sequences or {}).items()
    leaves.append(sequence_BLE.detach().requires_grad_())
    rows = TowerInput(x.x_BD, leaves[0], {behaviour: (leaves[2], lengths_B)}, leaves[1])
    logits_BH = scorer.net.tower(rows)
    losses = scorer.tasks.loss(logits_BH, batch.labels_BK, batch.weight_B).by_task
    grads = {task: torch.autograd.grad(losses[task], leaves, retain_graph=True) for task in losses}
    pairs = [
        tuple(
            np.concatenate([g[b].double().numpy().ravel() for g in grads[task]])
            for task in ("ctr", "cvr")
        )
        for b in range(100)
    ]
    (pair,) = found["pairs"]
    assert_equal(pair, cosines(pairs), "rows")
    names = ["user_id", "item_id", "age", "gender", "device", "hour", "category", "brand"]
    assert set(found["features"]) == {*names, "price", "history"}


def test_one_task_has_nobody_to_disagree_with(funnel: Path, tmp_path: Path) -> None:
    small = [SMALL, "tasks=[{name: ctr, label: click}]", "train.epochs=1"]
    api.train(funnel / "spec.yaml", out=tmp_path / "run", overrides=small)
    scorer, batch = sample(tmp_path / "run", 50)
    found = gradient_conflict(scorer.net, scorer.tasks, batch)
    assert (found["tasks"], found["pairs"], found["features"]) == (["ctr"], [], {})


def test_tasks_that_share_no_row_have_no_angle(run: Path) -> None:
    scorer, batch = sample(run, 300)
    unclicked = batch.select(torch.nonzero(batch.labels_BK[:, 0] == 0)[:, 0])
    found = gradient_conflict(scorer.net, scorer.tasks, unclicked)
    (pair,) = found["pairs"]
    assert pair == {
        "tasks": ["ctr", "cvr"],
        "rows": 0,
        **dict.fromkeys(("cosine", "cosine_error", "opposed", "norm_ratio")),
    }
