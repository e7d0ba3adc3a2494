"""What is kept for the page, against scikit-learn, loops, and the scoring path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmtl import api
from recmtl.data import open_splits
from recmtl.report import summarise
from recmtl.run import Run
from recmtl.scoring import BatchScorer


def summary_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "validation.json").read_text())
    return found


def test_metrics_are_those_of_evaluate(run: Path, funnel: Path) -> None:
    summary, evaluated = summary_of(run), api.evaluate(run, funnel / "valid.parquet")
    assert {key: summary[key] for key in evaluated} == evaluated


def test_it_is_the_same_when_computed_again(run: Path, funnel: Path) -> None:
    config = Run(run).config
    before = (run / "validation.json").read_bytes()
    valid = open_splits(config.data, funnel).valid
    assert valid is not None
    summarise(Run(run), valid)
    assert (run / "validation.json").read_bytes() == before


def test_curves_count_every_observed_row(run: Path, funnel: Path) -> None:
    rows = pl.read_parquet(funnel / "valid.parquet")
    clicks = rows.filter(pl.col("click") == 1)
    curves = summary_of(run)["curves"]
    assert list(curves) == ["ctr", "cvr", "ctcvr"]
    labels = {"ctr": rows["click"], "cvr": clicks["conversion"], "ctcvr": rows["conversion"]}
    probs = BatchScorer(run, keep=["click"])(rows)
    for task, label in labels.items():
        histogram, reliability = curves[task]["histogram"], curves[task]["reliability"]
        assert sum(histogram["positives"]) == label.sum()
        assert sum(histogram["negatives"]) == len(label) - label.sum()
        prob = probs.filter(pl.col("click") == 1) if task == "cvr" else probs
        weights = np.array(reliability["weights"])
        assert weights @ reliability["base_rates"] == pytest.approx(label.sum())
        expected = prob[f"probs_{task}"].cast(pl.Float64).sum()
        assert weights @ reliability["mean_probs"] == pytest.approx(expected, rel=1e-4)
        odds = np.log(prob[f"probs_{task}"].to_numpy().astype(float))
        assert histogram["edges"][0] <= odds.min() + 1  # log-odds, not probabilities
        assert histogram["edges"][0] < 0


def test_every_gate_of_a_level_is_there(odd_run: Path) -> None:
    levels = summary_of(odd_run)["gates"]
    assert [level["level"] for level in levels] == [1, 2, 3]
    for level in levels:
        shared = ["shared gate"] if level["level"] < 3 else []
        assert list(level["gates"]) == ["ctr", "dwell", *shared]
        experts = level["experts"]
        assert experts[:3] == ["ctr 1", "ctr 2", "dwell 1"]
        assert experts[-1] == "shared 4"
        assert len(level["zero_share"]) == len(experts)
        for gate, weights in level["gates"].items():
            assert sum(weights) == pytest.approx(1.0)
            foreign = [w for w, e in zip(weights, experts, strict=True) if e.split()[0] == "dwell"]
            assert any(foreign) == (gate != "ctr")


def test_a_run_without_gates_has_none(run: Path, plain_run: Path) -> None:
    assert not (plain_run / "validation.json").exists()
    (level,) = summary_of(run)["gates"]
    assert level["experts"] == ["shared 1", "shared 2"]


def test_a_regression_is_shown_in_bins(odd_run: Path) -> None:
    (kind, numbers), *others = summary_of(odd_run)["curves"]["dwell"].items()
    assert (kind, others) == ("numbers", [])
    assert {name: len(column) for name, column in numbers.items()} == dict.fromkeys(
        ("mean_predictions", "mean_labels", "low", "high"), 20
    )
