"""outcome_metrics against scikit-learn, on each task's own population."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from recmtl.data.codes import read_aside
from recmtl.errors import RecMTLError
from recmtl.models import build_tasks, outcome_metrics
from recmtl.models.outcomes import Outcomes
from recmtl.tasks import TaskDef, TaskSet
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


def many(num_rows: int) -> tuple[dict[str, Any], pl.DataFrame]:
    """Outcomes of more rows than a block has, with weights, groups and a segment column."""
    random = np.random.default_rng(3)
    logits_BH, labels_BK = draws(num_rows)
    users = random.integers(0, num_rows // 8, num_rows)
    frame = pl.DataFrame({"user": users, "device": users % 3, "item": users * 7919 % 1000})
    weight_B = torch.tensor(random.choice([0.5, 1.0, 3.0], num_rows), dtype=torch.float32)
    weight_B[:70_000] = 1  # weights are kept from the first that is not 1
    return {"logits_BH": logits_BH, "labels_BK": labels_BK, "weight_B": weight_B}, frame


@pytest.mark.parametrize("is_weighted", [False, True])
def test_neither_memory_nor_batches_change_a_number(is_weighted: bool) -> None:
    given, frame = many(150_000)
    if not is_weighted:
        given["weight_B"] = torch.ones(150_000)
    tasks = build_tasks(SPEC, "tasks", "rows", ENCODERS)
    found = []
    for memory, size in ((None, 150_000), (200_000, 33_333)):
        aside = read_aside(frame, "user", ["device", "item"], memory=memory)
        outcomes = Outcomes(tasks, aside, memory=memory)
        for start in range(0, 150_000, size):
            outcomes.add(**{name: column[start : start + size] for name, column in given.items()})
        found.append(outcomes.metrics().table)
    if is_weighted:  # equal keys with other weights may change places
        for column in ("device", "item"):
            for value, by_task in found[0]["segments"][column].items():
                for task, metrics in by_task.items():
                    other = found[1]["segments"][column][value][task]
                    assert other == pytest.approx(metrics, rel=1e-11)
        for task, metrics in found[0]["tasks"].items():
            assert found[1]["tasks"][task] == pytest.approx(metrics, rel=1e-11)
    else:
        assert found[0] == found[1]
    table = found[1]
    clicks, odds = given["labels_BK"][:, 0].numpy(), given["logits_BH"][:, 0].numpy()
    weights = given["weight_B"].numpy()
    expected = roc_auc_score(clicks, odds, sample_weight=weights)
    assert table["tasks"]["ctr"]["auc"] == pytest.approx(expected, abs=1e-9)
    some = frame["item"].to_numpy() == 919
    expected = roc_auc_score(clicks[some], odds[some], sample_weight=weights[some])
    assert table["segments"]["item"]["919"]["ctr"]["auc"] == pytest.approx(expected, abs=1e-9)
    few = outcomes.metrics(most_values=100)
    assert list(few.table["segments"]) == ["device"]


def test_groups_within_segments_of_more_than_31_bits() -> None:
    """Many groups times many segment values do not fit into one key beside a score."""
    given, frame = many(20_000)
    far = frame["user"].cast(pl.Int64) * 200_000  # codes of 29 bits, beside 10 of the segment
    tasks = build_tasks(SPEC, "tasks", "rows", ENCODERS)
    columns = list(given.values())
    near = {"groups": frame["user"], "segments": {"item": frame["item"]}}
    wide = {"groups": far, "segments": {"item": frame["item"]}}
    found = outcome_metrics(tasks, *columns, **wide)
    expected = outcome_metrics(tasks, *columns, **near)
    assert found == expected
    assert found["segments"]["item"]["919"]["ctr"]["gauc_groups"] > 0


def test_contradictions_are_counted_and_in_no_metric_of_their_task() -> None:
    logits_BH, labels_BK = draws(400)
    tasks = build_tasks(SPEC, "tasks", "rows", ENCODERS)
    before = outcome_metrics(tasks, logits_BH, labels_BK, torch.ones(400))
    assert before["contradictions"] == {"cvr": 0}
    not_clicked = torch.nonzero(labels_BK[:, 0] == 0)[:7, 0]
    labels_BK[not_clicked, 1] = 1
    found = outcome_metrics(tasks, logits_BH, labels_BK, torch.ones(400))
    assert found["contradictions"] == {"cvr": 7}
    assert found["tasks"]["cvr"] == before["tasks"]["cvr"]


def test_each_task_of_several_classes_has_its_metrics_within_any_memory() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 70_000)
    logits_BH = torch.tensor(random.normal(size=(70_000, 4)), dtype=torch.float32)
    labels_BK = torch.tensor(np.stack([labels == 2, labels], axis=1), dtype=torch.float32)
    defs = [
        TaskDef(name="buy", label="buy"),
        TaskDef(name="stage", label="stage", kind="multiclass", classes=3),
    ]
    tasks = TaskSet(defs, labels=("buy", "stage"), objective="tasks")
    shops = pl.DataFrame({"shop": labels})
    outcomes = Outcomes(tasks, read_aside(shops, None, ["shop"], memory=0), memory=0)
    outcomes.add(logits_BH, labels_BK, torch.ones(70_000))
    table = outcomes.metrics().table
    probs = logits_BH[:, 1:].double().softmax(dim=1).numpy()
    assert table["tasks"]["stage"]["logloss"] == pytest.approx(log_loss(labels, probs), rel=1e-9)
    for shop in range(3):
        right = (probs.argmax(axis=1) == labels)[labels == shop].mean()
        found = table["segments"]["shop"][str(shop)]["stage"]
        assert found["accuracy"] == pytest.approx(right, rel=1e-12)


def test_predictions_that_are_no_numbers_are_refused_and_nobody_minds_them_elsewhere() -> None:
    tasks = build_tasks(SPEC, "tasks", "rows", ENCODERS)
    logits_BH, labels_BK = draws(100)
    clicked = labels_BK[:, 0] == 1
    logits_BH[torch.nonzero(~clicked)[:3, 0], 2] = float("nan")  # not observed for `dwell`
    found = outcome_metrics(tasks, logits_BH, labels_BK, torch.ones(100))["tasks"]
    assert found["dwell"]["n"] == int(clicked.sum())
    logits_BH[torch.nonzero(clicked)[:2, 0], 1] = float("nan")
    with pytest.raises(RecMTLError, match=r"`cvr`: .* are not finite numbers, in 2 of 100 rows"):
        outcome_metrics(tasks, logits_BH, labels_BK, torch.ones(100))
