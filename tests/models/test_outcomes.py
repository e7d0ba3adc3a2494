"""outcome_metrics against scikit-learn, on each task's own population."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from sklearn.metrics import log_loss, roc_auc_score

from recmtl.models import build_tasks, outcome_metrics
from tests.embeddings.world import ENCODERS, SPEC


def draws(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    logits_BH = random.normal(size=(num_rows, 3))
    click = random.random(num_rows) < 0.4
    buy = click & (random.random(num_rows) < 0.3)
    seconds = np.where(click, random.normal(20, 5, num_rows), np.nan)
    labels_BK = np.stack([click, buy, seconds], axis=1)
    return torch.tensor(logits_BH, dtype=torch.float32), torch.tensor(
        labels_BK, dtype=torch.float32
    )


def test_each_task_on_its_own_population_pitfall_T19() -> None:
    logits_BH, labels_BK = draws(400)
    tasks = build_tasks(SPEC, "tasks", "rows", ENCODERS)
    found = outcome_metrics(tasks, logits_BH, labels_BK, torch.ones(400))
    click, buy = labels_BK[:, 0].numpy(), labels_BK[:, 1].numpy()
    probs = logits_BH.double().sigmoid().numpy()
    clicked = click == 1
    assert found["rows"] == 400
    assert found["tasks"]["cvr"]["n"] == clicked.sum()
    for name, expected, predicted in (
        ("ctr", click, probs[:, 0]),
        ("cvr", buy[clicked], probs[clicked, 1]),
        ("ctcvr", buy, probs[:, 0] * probs[:, 1]),
    ):
        metrics = found["tasks"][name]
        np.testing.assert_allclose(metrics["auc"], roc_auc_score(expected, predicted), atol=1e-9)
        np.testing.assert_allclose(metrics["logloss"], log_loss(expected, predicted), atol=1e-6)
    seconds = labels_BK[clicked, 2].numpy()
    errors = logits_BH[clicked, 2].numpy() * 5 + 20 - seconds
    assert found["tasks"]["dwell"]["n"] == clicked.sum()
    np.testing.assert_allclose(found["tasks"]["dwell"]["rmse"], np.sqrt(np.mean(errors**2)), 1e-5)


def test_weights_count_and_weight_zero_does_not() -> None:
    logits_BH, labels_BK = draws(300)
    weight_B = torch.tensor(np.random.default_rng(1).integers(0, 3, 300), dtype=torch.float32)
    tasks = build_tasks(SPEC, "tasks", "rows", ENCODERS)
    found = outcome_metrics(tasks, logits_BH, labels_BK, weight_B)["tasks"]["ctr"]
    expected = roc_auc_score(labels_BK[:, 0], logits_BH[:, 0], sample_weight=weight_B)
    np.testing.assert_allclose(found["auc"], expected, atol=1e-9)
    assert found["n"] == int((weight_B > 0).sum())


def test_segments_are_metrics_of_their_rows() -> None:
    logits_BH, labels_BK = draws(200)
    device = np.array(["web", "app"])[np.arange(200) % 2]
    tasks = build_tasks(SPEC, "tasks", "rows", ENCODERS)
    ones_B = torch.ones(200)
    found = outcome_metrics(tasks, logits_BH, labels_BK, ones_B, segments={"device": device})
    assert list(found["segments"]["device"]) == ["app", "web"]
    for name in ("app", "web"):
        rows = torch.from_numpy(device == name)
        alone = outcome_metrics(tasks, logits_BH[rows], labels_BK[rows], ones_B[rows])
        assert found["segments"]["device"][name] == alone["tasks"]


def test_groups_give_gauc() -> None:
    logits_BH, labels_BK = draws(200)
    users = np.arange(200) % 10
    tasks = build_tasks(SPEC, "tasks", "rows", ENCODERS)
    found = outcome_metrics(tasks, logits_BH, labels_BK, torch.ones(200), groups=users)
    expected = np.mean(
        [roc_auc_score(labels_BK[users == u, 0], logits_BH[users == u, 0]) for u in range(10)]
    )
    np.testing.assert_allclose(found["tasks"]["ctr"]["gauc"], expected, atol=1e-9)


def test_large_ids_beside_a_null_stay_apart() -> None:
    logits_BH, labels_BK = draws(200)
    user = np.arange(200) % 10
    ids = pl.Series(user).cast(pl.UInt64) + (2**63 - 20)
    ids = pl.select(pl.when(pl.Series(user) > 0).then(ids)).to_series()
    tasks = build_tasks(SPEC, "tasks", "rows", ENCODERS)
    given = {"groups": user, "segments": {"user": user}}
    expected = outcome_metrics(tasks, logits_BH, labels_BK, torch.ones(200), **given)
    given = {"groups": ids, "segments": {"user": ids}}
    found = outcome_metrics(tasks, logits_BH, labels_BK, torch.ones(200), **given)
    assert found["tasks"] == expected["tasks"]
    names = [*(str(2**63 - 20 + u) for u in range(1, 10)), "null"]
    assert list(found["segments"]["user"]) == names
