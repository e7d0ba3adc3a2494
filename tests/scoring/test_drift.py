"""Drift: what moved is named, what did not is not, and the scores are written either way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmtl import api
from recmtl.analysis.reference import keep_reference
from recmtl.data import EncodeCounts, open_splits
from recmtl.errors import CheckpointError
from recmtl.run import Run
from recmtl.scoring import BatchScorer, score, writer
from recmtl.scoring.drift import compare, drift_lines, read_reference
from recmtl.scoring.row_stats import RowStats
from tests.runs import change_state, copied, settle


def drift_of(run: Path, rows: pl.DataFrame, folder: Path, **options: Any) -> dict[str, Any]:
    """The report of a log, which is in the manifest too."""
    rows.write_parquet(folder / "log.parquet")
    result = score(run, folder / "log.parquet", folder / "scores", **options)
    assert json.loads((folder / "scores/manifest.json").read_text())["drift"] == result.drift
    return result.drift


def psi_of(before: list[float], after: list[float]) -> float:
    """The formula, in a loop."""
    total = 0.0
    for a, b in zip(before, after, strict=True):
        p, q = max(a / sum(before), 1e-4), max(b / sum(after), 1e-4)
        total += (q - p) * np.log(q / p)
    return total


def test_rows_like_those_of_validation_have_not_drifted(
    run: Path, funnel: Path, tmp_path: Path
) -> None:
    drift = drift_of(run, pl.read_parquet(funnel / "test.parquet"), tmp_path)
    assert drift["reference"] == {"rows": 600, "rows_of": "validation"}
    assert (drift["threshold"], drift["over"]) == (0.2, [])
    assert all(0 <= entry["psi"] < 0.2 for entry in drift["features"].values())


def test_the_figures_are_those_of_the_rows(run: Path, funnel: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    drift = drift_of(run, rows, tmp_path)
    price = np.log1p(rows["price"].to_numpy())
    found = drift["features"]["price"]
    assert found["mean"] == pytest.approx(price.mean(), rel=1e-5)
    assert found["std"] == pytest.approx(price.std(), rel=1e-5)
    assert (found["min"], found["max"]) == pytest.approx((price.min(), price.max()), rel=1e-5)
    assert found["quantiles"]["0.5"] == pytest.approx(np.median(price), abs=0.05 * price.std())
    lengths = rows["history"].list.len().fill_null(0).clip(0, 20)
    assert drift["features"]["history"]["length"]["mean"] == pytest.approx(lengths.mean())
    probs = pl.read_parquet(tmp_path / "scores/part-00000.parquet")["probs_ctr"].to_numpy()
    ctr = drift["scores"]["ctr"]
    assert ctr["mean"] == pytest.approx(probs.mean(dtype=np.float64), rel=1e-12)
    assert ctr["quantiles"]["0.9"] == pytest.approx(np.quantile(probs, 0.9), rel=0.03)
    valid = pl.read_parquet(funnel / "valid.parquet")
    known = BatchScorer(run)(valid)["probs_ctr"].to_numpy()
    assert ctr["reference"]["mean"] == pytest.approx(known.mean(dtype=np.float64), rel=1e-6)


def test_unknown_ids_and_nulls_are_named(run: Path, funnel: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    is_odd = pl.int_range(pl.len()) % 2 == 1
    moved = rows.with_columns(
        item_id=pl.when(is_odd).then(-1).otherwise("item_id"),
        device=pl.when(is_odd).then(None).otherwise("device"),
    )
    drift = drift_of(run, moved, tmp_path)
    assert {"feature `item_id`", "feature `device`"} <= {*drift["over"]}
    assert "feature `gender`" not in drift["over"]
    device = drift["features"]["device"]
    assert device["null_rate"] == pytest.approx(0.5)
    assert device["psi"] == pytest.approx(psi_of([0, 0, 600], [300, 0, 300]), rel=1e-9)
    lines = drift_lines(drift)
    assert "600 validation rows" in lines[0]
    assert [line.split()[0] for line in lines if line.endswith("!")][:2] != []


def test_dense_values_that_moved_are_named(run: Path, funnel: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    drift = drift_of(run, rows.with_columns(pl.col("price") * 4), tmp_path)
    assert "feature `price`" in drift["over"]
    assert drift["features"]["price"]["psi"] > 0.5


def test_a_threshold_of_ones_own(run: Path, funnel: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet").with_columns(pl.col("price") * 4)
    assert drift_of(run, rows, tmp_path, drift_threshold=50.0)["over"] == []


def test_few_rows_do_not_cry_wolf(run: Path, funnel: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(funnel / "valid.parquet")
    for seed in range(10):
        (tmp_path / f"{seed}").mkdir()
        some = rows.sample(10, seed=seed)
        assert drift_of(run, some, tmp_path / f"{seed}")["over"] == []


def test_a_run_without_a_reference_says_so(run: Path, funnel: Path, tmp_path: Path) -> None:
    old = copied(run, tmp_path)
    files = {k: v for k, v in Run(old)._state["files"].items() if k != "reference.json"}
    change_state(old, files=files)
    (old / "reference.json").unlink()
    drift = drift_of(old, pl.read_parquet(funnel / "test.parquet"), tmp_path)
    assert (drift["reference"], drift["over"]) == (None, [])
    assert drift["features"]["price"]["psi"] is None
    assert drift["features"]["price"]["mean"] > 0
    assert "has no reference to compare with" in drift_lines(drift)[0]


def test_a_changed_reference_is_refused(run: Path, funnel: Path, tmp_path: Path) -> None:
    bad = copied(run, tmp_path)
    text = (bad / "reference.json").read_text()
    (bad / "reference.json").write_text(text.replace('"rows": 600', '"rows": 601', 1))
    with pytest.raises(CheckpointError, match=r"reference\.json: its sha256 is not the recorded"):
        score(bad, funnel / "test.parquet", tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_parts_scored_beside_another_reference_are_scored_again(
    run: Path, funnel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 300)
    out, twin = tmp_path / "scores", copied(run, tmp_path)
    score(twin, funnel / "test.parquet", out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    files = {k: v for k, v in Run(twin)._state["files"].items() if k != "reference.json"}
    change_state(twin, files=files)
    (twin / "reference.json").unlink()
    assert score(twin, funnel / "test.parquet", out).drift["reference"] is None
    (twin / "reference.json").write_bytes((run / "reference.json").read_bytes())
    assert score(twin, funnel / "test.parquet", out).rows_per_s > 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_what_is_counted_does_not_depend_on_the_pieces(run: Path, funnel: Path) -> None:
    scorer = BatchScorer(run, keep=())
    reference = read_reference(scorer)
    assert reference is not None
    rows = pl.concat([pl.read_parquet(funnel / "train.parquet")] * 3)
    found = []
    for step in (4096, 8192, 100_000):
        stats = RowStats(scorer.encoders, scorer.tasks, reference.stats)
        for start in range(0, rows.height, step):
            counts = EncodeCounts()
            batch = scorer.encoders.encode(rows[start : start + step], labels=False, counts=counts)
            scores = scorer.scores(batch)
            stats.add(batch, {t: scores[c] for t, c in scorer.columns().items()}, counts)
        found.append(stats)
    assert found[0].to_dict() == found[1].to_dict() == found[2].to_dict()
    again = RowStats(scorer.encoders, scorer.tasks).restored(
        json.loads(json.dumps(found[0].to_dict()))
    )
    assert compare(again, reference, 0.2) == compare(found[0], reference, 0.2)


def test_scores_that_are_no_numbers_are_drift(run: Path, funnel: Path) -> None:
    scorer = BatchScorer(run, keep=())
    stats = RowStats(scorer.encoders, scorer.tasks)
    counts, rows = EncodeCounts(), pl.read_parquet(funnel / "test.parquet")
    batch = scorer.encoders.encode(rows, labels=False, counts=counts)
    scores = {t: scorer.scores(batch)[c] for t, c in scorer.columns().items()}
    stats.add(batch, {**scores, "cvr": np.full(len(batch), np.nan, np.float32)}, counts)
    report = compare(stats, read_reference(scorer), 0.2)
    assert report["over"] == ["scores of `cvr`"]
    json.dumps(report, allow_nan=False)


@pytest.mark.slow
def test_a_thinned_log_is_compared_as_if_it_were_whole(funnel: Path, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        rows = pl.concat([pl.read_parquet(funnel / f"{part}.parquet")] * 4)
        chance = np.where(rows["click"] == 1, 1.0, 0.1)
        keep = np.random.default_rng(0).random(rows.height) < chance
        rows.filter(pl.Series(keep)).write_parquet(tmp_path / f"{part}.parquet")
    quick = ["tower=mmoe", "wide=none", "tower.num_experts=2", "tower.expert_widths=[16]"]
    quick += ["tower.head_widths=[8]", "train.batch_size=256", "train.epochs=1"]
    thin = ["data.sampled={keep: {click: 1.0, else: 0.1}}"]
    run = tmp_path / "run"
    api.train(funnel / "spec.yaml", data=tmp_path, out=run, overrides=[*quick, *thin])
    reference = read_reference(BatchScorer(run))
    assert reference is not None
    kept = pl.read_parquet(tmp_path / "valid.parquet")
    expected = 0.1 * kept["click"].sum() + (kept["click"] == 0).sum()
    assert reference.stats.rows == pytest.approx(expected, rel=0.15)


def test_without_validation_rows_training_rows_are_compared_with(
    run: Path, funnel: Path, tmp_path: Path
) -> None:
    twin = Run(copied(run, tmp_path))
    splits = open_splits(twin.config, funnel)
    keep_reference(twin, splits._replace(valid=None))
    settle(twin.path)
    reference = read_reference(BatchScorer(twin.path))
    assert reference is not None
    assert (reference.rows_of, reference.stats.rows) == ("training", splits.train.num_rows)
