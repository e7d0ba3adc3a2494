"""evaluate: each task on its own population, equal to scikit-learn, from any kind of input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recmtl.data import Encoders, batches_in_order, open_log
from recmtl.errors import DataError
from recmtl.run import Run
from recmtl.scoring import BatchScorer, evaluate


@pytest.fixture(scope="module")
def found(run: Path, funnel: Path) -> dict[str, Any]:
    return evaluate(run, funnel / "test.parquet")


def test_cvr_is_judged_on_clicks_and_ctcvr_on_all_rows_pitfall_T19(
    run: Path, funnel: Path, found: dict[str, Any]
) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    scores = BatchScorer(run)(rows)
    clicked = rows["click"].to_numpy() == 1
    populations = {
        "ctr": (rows["click"], np.ones_like(clicked)),
        "cvr": (rows["conversion"], clicked),
        "ctcvr": (rows["conversion"], np.ones_like(clicked)),
    }
    for task, (label, population) in populations.items():
        labels = label.to_numpy()[population]
        probs = scores[f"probs_{task}"].to_numpy()[population].astype(np.float64)
        metrics = found["tasks"][task]
        assert metrics["n"] == len(labels)
        assert metrics["positives"] == labels.sum()
        assert metrics["auc"] == pytest.approx(roc_auc_score(labels, probs), abs=1e-6)
        assert metrics["logloss"] == pytest.approx(log_loss(labels, probs), rel=1e-5)
        assert metrics["pcoc"] == pytest.approx(probs.mean() / labels.mean(), rel=1e-5)


def test_paths_frames_arrays_and_loaders_agree_pitfall_T35(
    run: Path, funnel: Path, found: dict[str, Any]
) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    for data in (rows, rows.to_pandas(), rows.to_arrow(), {c: rows[c] for c in rows.columns}):
        assert evaluate(run, data) == found
    encoders = Encoders.load(run / "encoders")
    loader = batches_in_order(
        open_log(funnel / "test.parquet"), encoders, batch_size=130, labels=True, pad=True
    )
    metrics = evaluate(run, loader)["tasks"]
    for task, expected in found["tasks"].items():
        for name, value in expected.items():
            if not name.startswith("gauc"):  # batches carry no user
                assert metrics[task][name] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("by", [None, "user_id"])
def test_a_small_budget_changes_no_number(
    run: Path, funnel: Path, monkeypatch: pytest.MonkeyPatch, by: str | None
) -> None:
    expected = evaluate(run, funnel / "test.parquet", by=by)
    config = BatchScorer(run).run.config
    data = config.data.model_copy(update={"memory": "1KiB"})
    monkeypatch.setattr(Run, "config", config.model_copy(update={"data": data}))
    assert evaluate(run, funnel / "test.parquet", by=by) == expected
    assert evaluate(run, pl.read_parquet(funnel / "test.parquet"), by=by) == expected


def test_no_row_is_no_error(run: Path, funnel: Path) -> None:
    found = evaluate(run, pl.read_parquet(funnel / "test.parquet").clear())
    assert found["rows"] == found["tasks"]["ctr"]["n"] == 0
    assert found["tasks"]["ctr"]["auc"] is None
    assert found["segments"] == {"device": {}}


def test_by_gives_the_metrics_of_each_value(run: Path, funnel: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    by_age = evaluate(run, funnel / "test.parquet", by="gender")["segments"]["gender"]
    for value, tasks in by_age.items():
        alone = evaluate(run, rows.filter(pl.col("gender").cast(pl.String) == value))
        for task, metrics in tasks.items():
            assert metrics == pytest.approx(alone["tasks"][task], abs=1e-6)


def test_by_needs_no_segment_of_the_spec(
    run: Path, funnel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BatchScorer(run).run.config
    data = config.data.model_copy(update={"segments": ("country",)})
    monkeypatch.setattr(Run, "config", config.model_copy(update={"data": data}))
    found = evaluate(run, funnel / "test.parquet", by="gender")
    assert list(found["segments"]) == ["gender"]
    with pytest.raises(DataError, match="`country`"):
        evaluate(run, funnel / "test.parquet")


def test_a_group_or_segment_column_that_is_missing_is_an_error(run: Path, funnel: Path) -> None:
    with pytest.raises(DataError, match="`nothing`"):
        evaluate(run, funnel / "test.parquet", by="nothing")
    with pytest.raises(DataError, match="`device`"):
        evaluate(run, pl.read_parquet(funnel / "test.parquet").drop("device"))


def test_a_list_is_no_segment_and_a_list_of_paths_no_data(run: Path, funnel: Path) -> None:
    file = funnel / "test.parquet"
    with pytest.raises(DataError, match=r"`history` .* is List.* must be a value"):
        evaluate(run, file, by="history")
    with pytest.raises(DataError, match=r"`history` is List.* single values"):
        evaluate(run, pl.read_parquet(file), by="history")
    with pytest.raises(DataError, match="holds a str, expected Batches"):
        evaluate(run, [str(file)])


def test_no_batch_at_all_is_an_error(run: Path) -> None:
    with pytest.raises(DataError, match="holds no batch"):
        evaluate(run, [])
