from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from recmtl.metrics import (
    ClassSums,
    accuracy,
    class_table,
    multiclass_logloss,
    multiclass_ne,
    ne,
    task_metrics,
)
from recmtl.metrics.by_segment import metrics_by_segment
from recmtl.metrics.population import Population, Rows


def made(num_rows: int = 1500, classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (num_rows, classes)) + np.linspace(0, 2, classes)
    labels = np.array([rng.choice(classes, p=row) for row in softmax(logits)])
    return logits, labels, rng.gamma(2, 1, num_rows)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def loops(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Every number row by row."""
    loss = right = total = 0.0
    seen = [0.0] * logits.shape[1]
    for z, y, w in zip(logits.tolist(), labels.tolist(), weights.tolist(), strict=True):
        top = max(z)
        loss += w * (top - z[y] + math.log(math.fsum(math.exp(value - top) for value in z)))
        right += w * (z.index(top) == y)
        total, seen[y] = total + w, seen[y] + w
    entropy = -sum(s / total * math.log(s / total) for s in seen if s)
    found = {"logloss": loss / total, "ne": loss / total / entropy, "accuracy": right / total}
    return {"n": sum(w > 0 for w in weights.tolist()), **found}


@pytest.mark.parametrize("weighted", [False, True])
def test_all_numbers_are_those_of_loops_and_of_scikit_learn(weighted: bool) -> None:
    logits, labels, weights = made()
    weights[:100] = 0.0
    used = weights if weighted else None
    found = task_metrics("multiclass", logits, labels, weights=used, logits=True)
    assert found == pytest.approx(loops(logits, labels, weights if weighted else weights**0))
    probs = softmax(logits)
    assert found["logloss"] == pytest.approx(log_loss(labels, probs, sample_weight=used))
    right = accuracy_score(labels, probs.argmax(axis=1), sample_weight=used)
    assert found["accuracy"] == pytest.approx(right, rel=1e-12)
    for name, metric in (("logloss", multiclass_logloss), ("ne", multiclass_ne)):
        assert metric(probs, labels, used) == pytest.approx(found[name], rel=1e-12)
    assert accuracy(probs, labels, used) == found["accuracy"]


@pytest.mark.parametrize("weighted", [False, True])
def test_two_logits_have_the_entropy_of_their_difference_pitfall_T33(weighted: bool) -> None:
    logits, labels, weights = made(classes=2)
    used = weights if weighted else np.ones(len(labels))
    rate = float((used * labels).sum() / used.sum())
    constant = log_loss(labels, np.full(len(labels), rate), sample_weight=used)
    expected = log_loss(labels, softmax(logits), sample_weight=used) / constant
    given = used if weighted else None
    one_logit = ne(logits[:, 1] - logits[:, 0], labels, given, logits=True)
    two_logits = multiclass_ne(logits, labels, given, logits=True)
    assert one_logit == pytest.approx(expected, rel=1e-12)
    assert two_logits == pytest.approx(expected, rel=1e-12)


def test_large_logits_keep_their_digits() -> None:
    logits = np.array([[100.0, -100.0, 0.0], [-100.0, 100.0, 99.0]])
    assert multiclass_logloss(logits, [0, 0], logits=True) == pytest.approx(
        (math.exp(-100) + 200 + math.log1p(math.exp(-1))) / 2, rel=1e-12
    )
    assert multiclass_logloss(logits[:1], [0], logits=True) == pytest.approx(math.exp(-100))
    assert multiclass_logloss(np.eye(3), [0, 1, 0]) == pytest.approx(-math.log(2**-52) / 3)


def test_pieces_add_up_to_the_whole() -> None:
    logits, labels, weights = made(600)
    sums = ClassSums(4)
    for rows in (slice(0, 1), slice(1, 1), slice(1, 400), slice(400, 600)):
        sums.add(logits[rows], labels[rows], weights[rows], logits=True)
    whole = task_metrics("multiclass", logits, labels, weights=weights, logits=True)
    assert sums.metrics() == pytest.approx(whole, rel=1e-12)


def test_only_observed_rows_count() -> None:
    logits, labels, _ = made(300)
    seen = np.arange(300) % 3 == 0
    where = np.where(seen, labels, 0)
    found = task_metrics("multiclass", logits, where, observed=seen, logits=True)
    assert found == task_metrics("multiclass", logits[seen], labels[seen], logits=True)


def test_no_row_and_one_class_have_no_entropy_pitfall_T34() -> None:
    nothing = {"n": 0, "logloss": None, "ne": None, "accuracy": None}
    assert task_metrics("multiclass", np.zeros((0, 3)), []) == nothing
    one_class = task_metrics("multiclass", [[0.5, 0.25, 0.25]] * 2, [2, 2])
    assert one_class == {"n": 2, "logloss": pytest.approx(math.log(4)), "ne": None, "accuracy": 0}


def test_the_table_says_what_was_taken_for_what() -> None:
    logits, labels, weights = made(500)
    table = class_table(logits, labels, weights, logits=True)
    likeliest = logits.argmax(axis=1)
    expected = confusion_matrix(labels, likeliest, sample_weight=weights)
    np.testing.assert_allclose(table.confusion, expected)
    np.testing.assert_allclose(table.shares, np.bincount(labels, weights, 4) / weights.sum())
    mean = np.average(softmax(logits), axis=0, weights=weights)
    np.testing.assert_allclose(table.mean_probs, mean, rtol=1e-12)
    empty = class_table(np.zeros((0, 2)), [])
    assert empty.confusion.tolist() == [[0, 0], [0, 0]]
    assert empty.shares.tolist() == empty.mean_probs.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([[0.5, 0.5]], [2], r"`labels` must be classes from 0 to 1, got 2\.0 \(1 such rows\)\."),
        ([[0.5, 0.5]], [0.5], r"`labels` must be classes from 0 to 1, got 0\.5"),
        ([[0.5, 0.5]], [-1], r"`labels` must be classes from 0 to 1, got -1\.0"),
        ([[0.5, 0.5]], [math.nan], "`labels` must be finite numbers, got nan in row 0"),
        ([[1.5, -0.5]], [0], r"`probs` must be in \[0, 1\], got -0\.5 in row 0"),
        ([[0.5, 0.9]], [0], r"must add up to 1, got 1\.4 in row 0\. Are they logits\?"),
        ([0.5, 0.5], [0, 1], r"a column for each of at least two classes, got shape \(2,\)\."),
        ([[0.5, 0.5]], [0, 1], r"`labels` must be one column .* expected shape \(1,\), got \(2,\)"),
    ],
)
def test_what_cannot_be_is_refused(predictions: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multiclass_logloss(predictions, labels)


def test_sums_know_their_number_of_classes() -> None:
    with pytest.raises(ValueError, match="must have a column for each of 3 classes, got 2"):
        ClassSums(3).add([[0.5, 0.5]], [0])


def test_a_block_without_observed_rows_adds_nothing_to_segments() -> None:
    def block(rows: int) -> Rows:
        logits = np.zeros((rows, 3), np.float32)
        return Rows(logits, np.zeros(rows, np.int32), None, segments=(np.ones(rows, np.uint32),))

    def blocks() -> Iterator[Rows]:
        yield from (block(0), block(4))

    population = Population(
        kind="multiclass", blocks=blocks, num_rows=4, classes=3, logits=True, segments=(2,)
    )
    found = metrics_by_segment(population)
    assert found.whole["n"] == 4
    assert [metrics["n"] for metrics in found.columns[0]] == [0, 4]
