"""Explanations of one row, against frames in which a column has other rows' values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import recmtl
from recmtl import BatchScorer
from recmtl.analysis.rows import spread_rows
from recmtl.errors import DataError, SpecError


def logits(probs: pl.Series) -> np.ndarray:
    values = probs.cast(pl.Float64).to_numpy()
    return np.log(values / (1 - values))


@pytest.fixture(scope="module")
def told(run: Path, funnel: Path) -> dict[str, Any]:
    return recmtl.explain(run, funnel / "test.parquet", row=17)


def test_changes_are_those_of_frames(run: Path, funnel: Path, told: dict[str, Any]) -> None:
    test, valid = (pl.read_parquet(funnel / f"{part}.parquet") for part in ("test", "valid"))
    others = valid[spread_rows(valid.height, 64, stretches=64)]
    row = pl.concat([test[17:18]] * 64)
    scorer = BatchScorer(run)
    base = scorer(test[17:18])
    assert told["row"] == 17
    assert told["reference"] == "64 validation rows"
    assert list(told["tasks"]) == ["ctr", "cvr", "ctcvr"]
    for task, found in told["tasks"].items():
        prob = float(base[f"probs_{task}"][0])
        assert found["prediction"] == pytest.approx(prob, rel=1e-5)
        assert found["logit"] == pytest.approx(math.log(prob / (1 - prob)), abs=1e-5)
        changes = {line["feature"]: line for line in found["features"]}
        assert len(changes) == 10
        for feature, line in changes.items():
            replaced = row.with_columns(others[feature].alias(feature))
            change = logits(scorer(replaced)[f"probs_{task}"]) - found["logit"]
            assert line["change"] == pytest.approx(change.mean(), abs=2e-5)
            assert line["deviation"] == pytest.approx(change.std(), abs=2e-5)
            value = test[feature][17]
            expected = value.to_list() if isinstance(value, pl.Series) else value
            assert line["value"] == expected
        sizes = [abs(line["change"]) for line in found["features"]]
        assert sizes == sorted(sizes, reverse=True)


def test_gates_are_those_of_the_row(told: dict[str, Any], run: Path, funnel: Path) -> None:
    scorer = BatchScorer(run)
    row = pl.read_parquet(funnel / "test.parquet")[17:18]
    explained = scorer.net.explain(scorer.encoders.encode(row, labels=False))
    (level,) = told["gates"]
    assert level["level"] == 1
    for task in ("ctr", "cvr"):
        weights = explained[f"gates/{task}"][0].tolist()
        assert list(level["gates"][task].values()) == pytest.approx(weights)
        assert list(level["gates"][task]) == ["shared 1", "shared 2"]


def test_a_frame_and_a_path_are_explained_alike(
    run: Path, funnel: Path, told: dict[str, Any]
) -> None:
    frame = pl.read_parquet(funnel / "test.parquet").drop("click", "conversion")
    for rows in (frame, frame.lazy(), frame.to_pandas(), frame.to_arrow()):
        found = recmtl.explain(run, rows, row=17, task="cvr")
        assert list(found["tasks"]) == ["cvr"]
        assert found["tasks"]["cvr"]["logit"] == pytest.approx(told["tasks"]["cvr"]["logit"])
        ours = {f["feature"]: f["change"] for f in found["tasks"]["cvr"]["features"]}
        theirs = {f["feature"]: f["change"] for f in told["tasks"]["cvr"]["features"]}
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_row_compared_with_itself_does_not_change(run: Path, funnel: Path) -> None:
    row = pl.read_parquet(funnel / "test.parquet")[3:4]
    found = recmtl.explain(run, row, reference=row)
    assert found["reference"] == "1 rows of rows"
    for task in found["tasks"].values():
        assert all(abs(line["change"]) < 1e-6 for line in task["features"])


def test_without_validation_rows_others_of_the_log_are_taken(
    plain_run: Path, tmp_path: Path
) -> None:
    data = plain_run.parent / "train.parquet"
    found = recmtl.explain(plain_run, data, row=255, num_reference=10)
    assert found["reference"].startswith(f"10 rows of {data} (The spec names no validation rows")
    assert found["gates"] == []
    assert found["tasks"]["ctr"]["features"][0]["feature"] == "item"


def test_regressions_and_classes_have_what_suits_them(odd_run: Path) -> None:
    data = odd_run.parent / "valid.parquet"
    found = recmtl.explain(odd_run, data, row=2)["tasks"]["dwell"]
    assert "logit" not in found
    frame = pl.read_parquet(data)
    scorer = BatchScorer(odd_run)
    base = float(scorer(frame[2:3])["pred_dwell"][0])
    assert found["prediction"] == pytest.approx(base, rel=1e-5)
    others = frame[spread_rows(frame.height, 64, stretches=64)]
    row = pl.concat([frame[2:3]] * 64).with_columns(others["item"].alias("item"))
    change = float(scorer(row)["pred_dwell"].cast(pl.Float64).mean() or 0) - base
    assert found["features"][0]["change"] == pytest.approx(change, abs=1e-4)


def test_classes_have_the_log_odds_of_the_likeliest(kinds_run: Path) -> None:
    frame = pl.read_parquet(kinds_run.parent / "train.parquet")
    scorer = BatchScorer(kinds_run)
    found = recmtl.explain(kinds_run, frame, row=4, reference=frame[10:30])["tasks"]["stars"]
    probs = scorer(frame[4:5])["probs_stars"][0].to_list()
    likeliest = probs.index(max(probs))
    assert found["class"] == likeliest
    assert found["prediction"] == pytest.approx(probs[likeliest], rel=1e-5)

    def log_odds(rows: pl.DataFrame) -> np.ndarray:
        said = np.array(scorer(rows)["probs_stars"].to_list(), np.float64)
        rest = np.delete(said, likeliest, axis=1).sum(axis=1)  # 1 - p would lose its digits
        return np.log(said[:, likeliest] / rest)

    base = log_odds(frame[4:5])[0]
    assert found["logit"] == pytest.approx(base, abs=1e-4)
    for line in found["features"]:
        rows = pl.concat([frame[4:5]] * 20).with_columns(frame[line["feature"]][10:30])
        assert line["change"] == pytest.approx((log_odds(rows) - base).mean(), abs=2e-3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"row": 600}, DataError, r"test\.parquet: row: 600 is asked for, but there are 600 rows"),
        ({"row": -1}, SpecError, r"row: must be at least 0, got -1"),
        ({"task": "cvx"}, SpecError, r"the run has no `cvx`\. Did you mean `cvr`\? Its tasks are"),
        ({"num_reference": 0}, SpecError, r"num_reference: must be at least 1, got 0"),
    ],
)
def test_wrong_questions_are_answered(
    options: dict[str, Any], error: type[Exception], message: str, run: Path, funnel: Path
) -> None:
    with pytest.raises(error, match=message):
        recmtl.explain(run, funnel / "test.parquet", **options)


def test_a_missing_column_is_named(run: Path, funnel: Path) -> None:
    frame = pl.read_parquet(funnel / "test.parquet").drop("price")
    with pytest.raises(DataError, match=r"column `price` .* is missing"):
        recmtl.explain(run, frame)
