"""What is kept of each run: the rows' predictions, and metrics made of them by other code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recmtl import BatchScorer, api, evaluate, load_spec
from recmtl._progress import no_progress
from recmtl.studies.costs import cost_of
from recmtl.studies.predictions import TestRows, num_groups_of, predict, read_observed
from recmtl.studies.resampling import Resamples
from recmtl.studies.standings import _resampled
from tests.studies.worlds import ALL_KINDS, write_world

KINDS = {"ctr": "binary", "cvr": "binary", "ctcvr": "binary"} | {
    "dwell": "regression",
    "rating": "multiclass",
}
METRIC = {"binary": "auc", "regression": "rmse", "multiclass": "logloss"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    api.train(write_world(folder, ALL_KINDS), out=folder / "run")
    rows = test_rows(folder)
    rows.write_groups(folder / "rows.parquet", rows.checked())
    judge(folder)
    return folder


def test_rows(folder: Path) -> TestRows:
    return TestRows(load_spec(folder / "spec.yaml"), folder, folder / "test.parquet")


def judge(folder: Path) -> dict[str, object]:
    with no_progress("score", 0, "rows") as bar:
        scorer = BatchScorer(folder / "run", keep=())
        return predict(scorer, test_rows(folder), folder / "p.parquet", bar)


test_rows.__test__ = False  # type: ignore[attr-defined]  # a helper


def test_metrics_are_those_of_eval(world: Path) -> None:
    expected = evaluate(world / "run", world / "test.parquet")
    assert judge(world)["tasks"] == expected["tasks"]


def test_a_second_call_reads_what_the_first_one_wrote(world: Path) -> None:
    before = (world / "p.parquet").stat().st_mtime_ns
    judge(world)
    assert (world / "p.parquet").stat().st_mtime_ns == before


def test_other_rows_are_predicted_anew(world: Path, tmp_path: Path) -> None:
    few = pl.read_parquet(world / "test.parquet").head(50)
    few.write_parquet(tmp_path / "few.parquet")
    file = tmp_path / "p.parquet"
    file.write_bytes((world / "p.parquet").read_bytes())
    rows = TestRows(load_spec(world / "spec.yaml"), world, tmp_path / "few.parquet")
    with no_progress("score", 0, "rows") as bar:
        predict(BatchScorer(world / "run", keep=()), rows, file, bar)
    assert pq.read_metadata(file).num_rows == 50


@pytest.mark.parametrize("task", KINDS)
def test_headline_metrics_come_out_of_the_file(world: Path, task: str) -> None:
    """The value that the bootstrap starts from is that of `recmtl eval`, weights and all."""
    metrics = judge(world)["tasks"][task]  # type: ignore[index]
    rows = read_observed(world / "p.parquet", task, world / "rows.parquet")
    value, value_R = _resampled(KINDS[task], rows, Resamples(40, 20, seed=0))
    assert len(rows.labels) == metrics["n"]
    assert value == pytest.approx(metrics[METRIC[KINDS[task]]], rel=1e-6)
    assert np.isfinite(value_R).all()
    assert value_R.std() > 0


def test_the_file_holds_what_the_model_says_of_each_row(world: Path) -> None:
    frame = pl.read_parquet(world / "p.parquet")
    data = pl.read_parquet(world / "test.parquet")
    scores = BatchScorer(world / "run", keep=())(data)
    ctr = 1 / (1 + np.exp(-frame["prediction_ctr"].to_numpy().astype(np.float64)))
    assert np.allclose(ctr, scores["probs_ctr"].to_numpy(), rtol=1e-5)
    assert frame["prediction_dwell"].to_numpy() == pytest.approx(scores["pred_dwell"].to_numpy())
    assert frame["label_ctr"].to_list() == data["click"].to_list()
    seen = data["click"] == 1
    assert frame["label_cvr"].is_not_null().to_list() == seen.to_list()
    assert frame["label_rating"].is_not_null().to_list() == (
        (seen & data["stars"].is_not_null()).to_list()
    )
    assert frame["weight"].to_numpy() == pytest.approx(data["weight"].to_numpy())
    weight = data["weight"].to_numpy()
    auc = roc_auc_score(data["click"], ctr, sample_weight=weight)
    assert judge(world)["tasks"]["ctr"]["auc"] == pytest.approx(auc, rel=1e-6)  # type: ignore[index]
    logits = np.stack(frame["prediction_rating"].to_list())
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    where = frame["label_rating"].is_not_null().to_numpy()
    expected = log_loss(
        data["stars"].to_numpy()[where], probs[where], sample_weight=weight[where], labels=[0, 1, 2]
    )
    found = judge(world)["tasks"]["rating"]["logloss"]  # type: ignore[index]
    assert found == pytest.approx(expected, rel=1e-5)


def test_groups_are_numbered_without_gaps(world: Path, tmp_path: Path) -> None:
    far = pl.read_parquet(world / "test.parquet").with_columns(user=pl.col("user") * 1_000_000)
    far.write_parquet(tmp_path / "far.parquet")
    rows = TestRows(load_spec(world / "spec.yaml"), world, tmp_path / "far.parquet")
    rows.write_groups(tmp_path / "rows.parquet", rows.checked())
    assert (tmp_path / "rows.parquet").stat().st_size < 20_000
    near, found = (pq.read_table(d / "rows.parquet")["group"].to_numpy() for d in (world, tmp_path))
    assert near.tolist() == found.tolist()


def test_groups_are_users(world: Path) -> None:
    data = pl.read_parquet(world / "test.parquet")
    assert num_groups_of(world / "rows.parquet", data.height) == data["user"].n_unique()
    group = pq.read_table(world / "rows.parquet")["group"].to_numpy()
    pairs = set(zip(group.tolist(), data["user"].to_list(), strict=True))
    assert len(pairs) == data["user"].n_unique()


def test_without_groups_each_row_is_one(world: Path, tmp_path: Path) -> None:
    config = load_spec(world / "spec.yaml", ["data.group_by=null"])
    rows = TestRows(config, world, world / "test.parquet")
    rows.write_groups(tmp_path / "rows.parquet", rows.checked())
    assert num_groups_of(tmp_path / "rows.parquet", 512) == 512
    found = read_observed(world / "p.parquet", "cvr", tmp_path / "rows.parquet")
    clicked = pl.read_parquet(world / "test.parquet")["click"].to_numpy() == 1
    assert found.groups.tolist() == np.flatnonzero(clicked).tolist()


def test_costs_of_experts_that_have_scored(run: Path, funnel: Path) -> None:
    """MMoE of two experts of 16 units for two tasks, and the products of gates and mixtures."""
    scorer = BatchScorer(run, keep=())
    rows = TestRows(scorer.run.config, funnel, None).checked()
    scorer(rows.read(scorer.encoders.columns(labels=False), 0, 10))  # weights read for inference
    cost = cost_of(scorer, rows)
    width = scorer.net.tower.width
    experts, gates, heads = width * 2 * 16, width * 2 * 2, 2 * (16 * 8 + 8)
    assert cost.flops_per_row == pytest.approx(2 * (experts + gates + heads + 2 * 2 * 16))


def test_costs_are_those_of_the_layers(world: Path) -> None:
    """40 users and 20 items and a row for others, by 4; layers 8-8 and four heads, counted."""
    cost = cost_of(BatchScorer(world / "run", keep=()), test_rows(world).checked())
    assert cost.table_parameters == (41 + 21) * 4
    heads = sum((8 + 1) * 4 + (4 + 1) * outputs for outputs in (1, 1, 1, 3))
    assert cost.dense_parameters == (8 + 1) * 8 + heads
    products = 8 * 8 + 4 * (8 * 4 + 4 * 3)  # heads are multiplied together, each as the widest one
    assert cost.flops_per_row == 2 * products
    assert cost.seconds == pytest.approx(1024 / cost.rows_per_s)
