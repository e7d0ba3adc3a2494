"""Importance of features, against shuffled frames, the scoring path and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from recmtl.analysis.features import feature_groups, with_values_of
from recmtl.analysis.importance import permutation_importance
from recmtl.analysis.rows import read_sample, validation_log
from recmtl.config import RunConfig
from recmtl.data import Encoders
from recmtl.run import Run
from recmtl.scoring import BatchScorer
from recmtl.spec import parse_yaml


def shuffled(frame: pl.DataFrame, columns: list[str], seed: list[int]) -> pl.DataFrame:
    order = np.random.default_rng(seed).permutation(frame.height)
    return frame.with_columns(frame[column].gather(order) for column in columns)


def test_losses_are_those_of_shuffled_frames(run: Path, funnel: Path) -> None:
    scorer = BatchScorer(run, keep=())
    frame = pl.read_parquet(funnel / "valid.parquet")
    batch = scorer.encoders.encode(frame, labels=True)
    found = permutation_importance(scorer, batch, shuffles=2, seed=5)
    assert (found["rows"], found["shuffles"]) == (frame.height, 2)
    seen = {"ctr": pl.lit(value=True), "cvr": pl.col("click") == 1, "ctcvr": pl.lit(value=True)}
    label = {"ctr": "click", "cvr": "conversion", "ctcvr": "conversion"}

    def auc(rows: pl.DataFrame, task: str) -> float:
        scored = rows.with_columns(said=pl.Series(scorer(rows)[f"probs_{task}"])).filter(seen[task])
        return float(roc_auc_score(scored[label[task]], scored["said"]))

    features = ["user_id", "item_id", "price", "history", "hour"]
    for task, told in found["tasks"].items():
        assert told["metric"] == "auc"
        base = auc(frame, task)
        assert told["base"] == pytest.approx(base, abs=2e-4)
        assert len(told["features"]) == 10
        for feature in features:
            rows = [shuffled(frame, [feature], [5, k, *feature.encode()]) for k in range(2)]
            losses = [base - auc(one, task) for one in rows]
            assert told["features"][feature]["losses"] == pytest.approx(losses, abs=4e-4)
            assert told["features"][feature]["mean"] == pytest.approx(np.mean(losses), abs=4e-4)
            expected = abs(losses[0] - losses[1]) / 2**0.5
            assert told["features"][feature]["std"] == pytest.approx(expected, abs=4e-4)


def test_every_kind_has_its_metric_and_the_feature_that_decides_stands_out(
    kinds_run: Path,
) -> None:
    scorer = BatchScorer(kinds_run, keep=())
    frame = pl.read_parquet(kinds_run.parent / "train.parquet")
    batch = scorer.encoders.encode(frame, labels=True)
    found = permutation_importance(scorer, batch)["tasks"]
    assert {task: told["metric"] for task, told in found.items()} == {
        "number": "rmse",
        "stars": "ne",
        "never": "auc",
    }
    assert (found["never"]["base"], found["never"]["features"]) == (None, {})

    def scores(rows: pl.DataFrame) -> tuple[float, float]:
        said = scorer(rows)
        probs = np.array(said["probs_stars"].to_list(), np.float64)
        shares = np.bincount(frame["s"].to_numpy()) / frame.height
        entropy = -(shares * np.log(shares)).sum()
        ne = log_loss(frame["s"], probs / probs.sum(axis=1, keepdims=True)) / entropy
        return float(((said["pred_number"] - frame["y"]) ** 2).mean() ** 0.5), ne

    base = scores(frame)
    for feature in ("item", "noise"):
        others = [scores(shuffled(frame, [feature], [0, k, *feature.encode()])) for k in range(3)]
        for t, task in enumerate(("number", "stars")):
            assert found[task]["base"] == pytest.approx(base[t], rel=1e-4)
            losses = [other[t] - base[t] for other in others]
            assert found[task]["features"][feature]["losses"] == pytest.approx(
                losses, rel=1e-3, abs=1e-4
            )
    for task in ("number", "stars"):
        losses = {name: loss["mean"] for name, loss in found[task]["features"].items()}
        assert losses["item"] > 20 * abs(losses["noise"])


def test_shuffles_of_a_feature_do_not_depend_on_the_others(run: Path) -> None:
    scorer = BatchScorer(run, keep=())
    batch = read_sample(validation_log(Run(run)), scorer.encoders, 200)
    first = permutation_importance(scorer, batch, shuffles=1, seed=1)
    assert permutation_importance(scorer, batch, shuffles=1, seed=1) == first
    assert permutation_importance(scorer, batch, shuffles=1, seed=2) != first


ALIGNED = """name: aligned
data: {train: train.parquet, accept_leaks: [item]}
features:
  - {name: item, type: sparse, vocab: {}, dim: 4}
  - {name: items, type: sequence, table: item, max_len: 3, behaviour: seen}
  - {name: look, type: vector, dim: 2, normalize: none}
  - {name: price, type: dense}
  - {name: gaps, type: sequence, vocab: {}, dim: 4, max_len: 3, behaviour: seen}
  - {name: tags, type: sparse, vocab: {}, dim: 4, weights: w}
  - {name: others, type: sequence, table: item, max_len: 3, behaviour: bought}
tasks: [{name: ctr, label: click}]
tower: {kind: shared_bottom}
"""


def test_a_behaviour_is_one_feature_and_those_of_its_table_stay(tmp_path: Path) -> None:
    rows = pl.DataFrame(
        {
            "item": [1, 2, 3],
            "items": [[1], [2, 3], []],
            "look": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
            "price": [1.0, 2.0, 3.0],
            "gaps": [[7], [8, 9], []],
            "tags": [["a"], ["a", "b"], ["b"]],
            "w": [[0.5], [1.0, 2.0], [3.0]],
            "others": [[3], [3], [1, 2]],
            "click": [0, 1, 0],
        }
    )
    rows.write_parquet(tmp_path / "train.parquet")
    spec = parse_yaml(RunConfig, ALIGNED)
    encoders = Encoders.fit(spec, tmp_path)
    groups = {group.name: group for group in feature_groups(encoders)}
    assert list(groups) == ["item", "items + gaps", "look", "price", "tags", "others"]
    assert groups["items + gaps"].members == ("items", "gaps")
    batch = encoders.encode(rows, labels=True)
    order = [2, 0, 1]
    for group in groups.values():
        columns = [*group.members, *(["w"] if group.name == "tags" else [])]
        frame = rows.with_columns(rows[column].gather(order) for column in columns)
        expected = encoders.encode(frame, labels=True)
        found = with_values_of(batch, group, batch, torch.tensor(order), encoders)
        assert torch.equal(found.ids_FB, expected.ids_FB)
        assert torch.equal(found.dense_DB, expected.dense_DB)
        for name, column in {**expected.bags, **expected.sequences}.items():
            ours = {**found.bags, **found.sequences}[name]
            assert torch.equal(ours.values_N, column.values_N)
            assert torch.equal(ours.lengths_B, column.lengths_B)
            if column.weights_N is not None:
                assert ours.weights_N is not None
                assert torch.equal(ours.weights_N, column.weights_N)
