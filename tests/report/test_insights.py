"""Sentences: each with its number, and none where there is nothing to say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from recmtl.analysis import Analysis
from recmtl.report.insights import auc_error, insights


def said(
    summary: dict[str, Any] | None = None,
    analysis: Analysis | None = None,
    lines: list[dict[str, Any]] | None = None,
    monitor: str | None = "ctr/auc",
    mode: Any = "max",
) -> list[str]:
    found = insights(summary or {}, analysis or Analysis(), lines or [], monitor=monitor, mode=mode)
    assert len({sentence for _, sentence in found}) == len(found)
    return [f"{topic}: {sentence}" for topic, sentence in found]


def binary(n: int, positives: int, auc: float | None, pcoc: float | None) -> dict[str, Any]:
    return {"n": n, "positives": positives, "auc": auc, "pcoc": pcoc}


def test_nothing_is_said_of_nothing() -> None:
    assert said() == []
    assert said(monitor=None) == []
    assert said({"tasks": {"dwell": {"n": 9, "rmse": 1.0, "mae": 0.5}}}) == []


def test_calibration() -> None:
    tasks = {
        "good": binary(100_000, 5000, 0.8, 1.04),
        "fine": binary(100_000, 5000, 0.8, 0.93),
        "high": binary(100_000, 5000, 0.8, 1.31),
        "low": binary(100_000, 5000, 0.8, 0.72),
        "rare": binary(1_000_000, 50, 0.99, 0.8),
    }
    assert said({"tasks": tasks}) == [
        "Calibration: `high` predicts too much: its mean prediction is 1.310 times the observed"
        " rate (PCOC).",
        "Calibration: `low` predicts too little: its mean prediction is 0.720 times the observed"
        " rate (PCOC).",
        "Calibration: Whether `rare` is calibrated is open: its PCOC is 0.800, but 50 positives"
        " leave it uncertain by 28 %.",
        "Calibration: Calibrated within 10 %: `good` (PCOC 1.040), `fine` (PCOC 0.930).",
    ]


def test_chance_moves_a_rate_less_where_it_is_high() -> None:
    """The standard error of a binomial rate p is sqrt(p (1 - p) / n)."""
    tasks = {"even": binary(448, 224, 0.9, 1.02), "most": binary(100, 90, 0.99, 0.95)}
    found = said({"tasks": tasks})
    error = 1.96 * math.sqrt(0.5 * 0.5 / 448) / 0.5
    assert error < 0.1
    assert (
        found[0] == "Calibration: Calibrated within 10 %: `even` (PCOC 1.020), `most` (PCOC 0.950)."
    )
    tasks = {"open": binary(448, 150, 0.9, 1.02)}
    error = 1.96 * math.sqrt(150 / 448 * 298 / 448 / 448) / (150 / 448)
    assert f"leave it uncertain by {100 * error:.0f} %" in said({"tasks": tasks})[0]


def test_too_few_positives() -> None:
    tasks = {
        "sure": binary(10_000, 5000, 0.8, None),
        "wide": binary(500, 60, 0.75, None),
        "chance": binary(200, 12, 0.58, None),
        "none": binary(300, 0, None, None),
    }
    found = said({"tasks": tasks})
    assert [text.partition(",")[0] for text in found] == [
        "Certainty: The AUC of `wide`",
        "Certainty: The AUC of `chance`",
        "Certainty: `none` has no AUC: its validation rows are no positive and 300 negatives.",
    ]
    assert "tell it from chance" in found[1]
    assert "chance" not in found[0]
    assert f"0.750, is uncertain by {1.96 * auc_error(0.75, 60, 440):.3f}" in found[0]


def test_the_error_of_an_auc_is_that_of_many_samples() -> None:
    """For exponential scores, where Hanley's and McNeil's formula is exact."""
    rng, positives, negatives, shift = np.random.default_rng(0), 40, 160, 2.0
    found = []
    for _ in range(4000):
        above = rng.exponential(shift, positives)
        below = rng.exponential(1.0, negatives)
        found.append((above[:, None] > below).mean())
    expected = auc_error(shift / (shift + 1), positives, negatives)
    assert np.std(found) == pytest.approx(expected, rel=0.05)


def importance(**features: tuple[float, float]) -> dict[str, Any]:
    losses = {name: {"mean": mean, "std": std} for name, (mean, std) in features.items()}
    return {"rows": 9, "shuffles": 3, "tasks": {"ctr": {"metric": "auc", "features": losses}}}


def test_features() -> None:
    four = importance(a=(0.01, 0.001), b=(0.05, 0.01), c=(0.2, 0.3), d=(0.002, 0.0), e=(0.02, 0.0))
    assert said(analysis=Analysis(importance=four)) == [
        "Features: `ctr` rests most on `b` (0.0500), `e` (0.0200), `a` (0.0100): AUC lost when it"
        " is shuffled."
    ]
    noise = importance(a=(0.01, 0.01), b=(-0.05, 0.01))
    assert said(analysis=Analysis(importance=noise)) == [
        "Features: No feature of `ctr` costs more AUC when it is shuffled than twice the spread of"
        " 3 shuffles."
    ]
    noise["tasks"]["ctr"]["features"] = {}
    assert said(analysis=Analysis(importance=noise)) == []


def level(**changes: Any) -> dict[str, Any]:
    fine = {
        "level": 1,
        "experts": ["shared 1", "shared 2"],
        "gates": {"ctr": [0.5, 0.5]},
        "own": {},
        "effective": {"ctr": {"of_means": 2.0, "of_rows": 1.5}},
        "reads": {"ctr": 2},
        "deviation": {"ctr": 0.2},
        "constant": [],
        "unused": [],
        "zero_share": [0.5, 0.6],
        "spread_ratio": 1.5,
    }
    return fine | changes


def test_experts() -> None:
    assert said({"gates": [level()]}) == []
    sick = level(
        gates={"ctr": [0.999, 0.001]},
        effective={"ctr": {"of_means": 1.008, "of_rows": 1.0}},
        constant=["ctr"],
        deviation={"ctr": 0.0002},
        unused=["shared 2"],
        zero_share=[0.5, 1.0],
        spread_ratio=31.4,
    )
    sentences = [
        "Expert `shared 2` is dead: 100.0 % of its outputs are 0.",
        "No gate uses expert `shared 2`: its largest share is 0.0010.",
        "The gate `ctr` has collapsed: of 2 experts it uses 1.01.",
        "The gate `ctr` does not choose: no weight varies between rows by more than 0.0002"
        " (standard deviation).",
        "The experts are uneven: the outputs of one spread 31 times as far as those of another.",
    ]
    assert said({"gates": [sick]}) == [f"Experts: {sentence}" for sentence in sentences]
    below = said({"gates": [level(), level(level=2, unused=["shared 1"])]})
    assert below == [
        "Experts: No gate uses expert `shared 1` of level 2: its largest share is 0.5000."
    ]
    alone = level(effective={"ctr": {"of_means": 1.0, "of_rows": 1.0}}, reads={"ctr": 1})
    assert said({"gates": [alone]}) == []  # one expert is all that it can use
    old = {"level": 1, "experts": ["shared 1"], "gates": {"ctr": [1.0]}, "zero_share": None}
    assert said({"gates": [old]}) == []


def conflict(cosine: float, error: float, *, rows: int = 500, ratio: float = 2.0) -> Analysis:
    angles = {"cosine": cosine, "cosine_error": error, "opposed": 0.75, "norm_ratio": ratio}
    pair = {"tasks": ["ctr", "cvr"], "rows": rows, **angles}
    features = {
        "user": [{"tasks": ["ctr", "cvr"], "batches": 16, **angles}],
        "item": [{"tasks": ["ctr", "cvr"], "batches": 16, **angles, "cosine": 2 * cosine}],
        "few": [{"tasks": ["ctr", "cvr"], "batches": 3, **angles}],
    }
    return Analysis(conflict={"pairs": [pair], "features": features})


def test_conflict() -> None:
    assert said(analysis=conflict(0.3, 0.01)) == []
    assert said(analysis=conflict(-0.1, 0.06)) == []  # no more than chance
    assert said(analysis=conflict(-0.4, 0.01, rows=20)) == []
    assert said(analysis=conflict(-0.2, 0.01)) == [
        "Conflict: `ctr` and `cvr` pull the tower's input apart: on 500 rows where both have a"
        " gradient the mean cosine is -0.20, and 75 % of them are opposed.",
        "Conflict: Most fought over: `item` (-0.40), `user` (-0.20), the mean cosine over batches.",
    ]
    assert said(analysis=conflict(0.2, 0.01, ratio=0.04)) == [
        "Conflict: The gradient of `cvr` is 25 times as long as that of `ctr` on 500 rows."
    ]


def epochs(*values: float, falls: bool = True) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for epoch, value in enumerate(values):
        for k in range(2):
            loss = 0.5 - 0.1 * epoch * falls + 0.02 * k
            lines.append({"step": 2 * epoch + k + 1, "epoch": epoch, "train/ctr/loss": loss})
        lines.append({"step": 2 * epoch + 2, "epoch": epoch, "valid/ctr/auc": value})
    return lines


def test_training() -> None:
    assert said(lines=epochs(0.7)) == []
    assert said(lines=epochs(0.7, 0.71, 0.72)) == []
    assert said(lines=epochs(0.72, 0.71), monitor=None) == []
    assert said(lines=epochs(0.72, 0.71), mode="min") == []
    assert said(lines=epochs(0.72, 0.71, 0.70)) == [
        "Training: The first of 3 epochs was the best: after it validation `ctr/auc` went from"
        " 0.7200 to 0.7000, while its training loss fell from 0.5100 to 0.3100: over-fitting."
        " A stronger `train.embedding.prior` keeps rare ids from being learnt by heart."
    ]
    assert said(lines=epochs(0.71, 0.72, 0.70, falls=False)) == [
        "Training: Epoch 2 of 3 was the best: after it validation `ctr/auc` went from 0.7200"
        " to 0.7000."
    ]
    assert said(lines=[*epochs(0.72), {"epoch": 1, "valid/ctr/auc": None}]) == []


def test_unknown_ids() -> None:
    counts = {
        "user": {"values": 2000, "nulls": 0, "oov": 500},
        "item": {"values": 2000, "nulls": 0, "oov": 20},
        "price": {"values": 0, "nulls": 0, "oov": 0},
    }
    assert said({"counts": counts}) == [
        "Unknown ids: 25.0 % of 2,000 values of `user` in validation rows are ids that the"
        " vocabulary does not have."
    ]


def test_a_perfect_auc_has_no_error() -> None:
    assert math.isclose(auc_error(1.0, 5, 5), 0.0)


def test_nothing_is_said_of_the_features_of_a_model_that_knows_nothing() -> None:
    features = {"user": {"mean": 0.02, "std": 0.001}}
    importance = {"tasks": {"ctr": {"metric": "auc", "features": features}}, "shuffles": 3}
    known = {"auc": 0.8, "positives": 100, "n": 1000, "pcoc": None}
    for auc, expected in ((0.8, True), (0.52, False)):
        told = said(
            {"tasks": {"ctr": known | {"auc": auc}}}, analysis=Analysis(importance=importance)
        )
        assert any("rests most on `user`" in text for text in told) is expected
