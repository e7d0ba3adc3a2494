"""A task with several classes, from the log to the page: learned, and equal through all doors."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
import torch
from polars.testing import assert_frame_equal

from recmtl import BatchScorer, ClickLogDataModule, Encoders, MultiTaskModule, TorchRecStrategy, api
from recmtl.cli import main
from recmtl.config import load_spec
from recmtl.data import open_log
from recmtl.report import write_report
from recmtl.run import Run
from recmtl.training.loaders import ValidLoader

SPEC = """name: ratings
data: {train: train.parquet, valid: valid.parquet, segments: [device], keep: [item]}
features:
  - {name: item, type: sparse, vocab: {}, dim: 8}
  - {name: user, type: sparse, hash: 20, dim: 4}
tasks:
  - {name: rating, label: stars, kind: multiclass, classes: 5, given: click, weight: 0.5}
  - {name: ctr, label: click}
  - {name: dwell, label: seconds, kind: regression, given: click}
tower: {kind: ple, num_levels: 2, expert_widths: [16], head_widths: [8]}
train:
  {batch_size: 128, epochs: 3, lr: 0.004, embedding: {lr: 0.08}, monitor: rating/accuracy,
   checkpoint_every_steps: 500}
"""
CLASSES = 5


def log(rows: int, seed: int) -> polars.DataFrame:
    """Stars are a function of the item, but for a tenth of the rows; class 0 is the commonest."""
    rng = np.random.default_rng(seed)
    item, click = rng.integers(0, 30, rows), rng.random(rows) < 0.6
    stars = np.array([0, 3, 1, 4, 2, 0])[item % 6]
    stars = np.where(rng.random(rows) < 0.1, rng.integers(0, CLASSES, rows), stars)
    observed = polars.Series(click)
    frame = polars.DataFrame(
        {
            "item": item,
            "user": rng.integers(0, 50, rows),
            "device": np.array(["app", "web"])[rng.integers(0, 2, rows)],
            "click": click.astype(np.int8),
            "stars": stars.astype(np.int16),
            "seconds": rng.exponential(size=rows),
        }
    )
    return frame.with_columns(stars=polars.when(observed).then("stars"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ratings")
    log(5000, 0).write_parquet(folder / "train.parquet")
    log(1500, 1).write_parquet(folder / "valid.parquet")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(shop: Path) -> Path:
    api.train(shop / "spec.yaml", out=shop / "run")
    return shop / "run"


def matrix(column: polars.Series) -> np.ndarray:
    return np.array(column.to_list(), dtype=np.float64)


def recmtl(capsys: pytest.CaptureFixture[str], *args: object) -> dict[str, Any]:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match=r"^0$"):
        main([str(arg) for arg in args])
    signal.signal(signal.SIGTERM, before)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_known_function_is_learned(trained: Path, shop: Path) -> None:
    valid = polars.read_parquet(shop / "valid.parquet")
    scores = BatchScorer(trained)(valid)
    assert scores.schema["probs_rating"] == polars.Array(polars.Float32, CLASSES)
    probs = matrix(scores["probs_rating"])
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    seen = valid["click"].to_numpy() == 1
    labels = valid["stars"].to_numpy()[seen].astype(int)
    accuracy = (probs[seen].argmax(axis=1) == labels).mean()
    commonest = np.bincount(labels).max() / len(labels)
    assert commonest < 0.4
    assert accuracy > 0.85  # at most 0.92
    found = api.evaluate(trained, shop / "valid.parquet")
    loss = -np.log(probs[seen, labels]).mean()
    share = np.bincount(labels) / len(labels)
    assert found["tasks"]["rating"] == {
        "n": seen.sum(),
        "logloss": pytest.approx(loss, rel=1e-5),
        "ne": pytest.approx(loss / -(share @ np.log(share)), rel=1e-5),
        "accuracy": pytest.approx(accuracy, abs=1e-9),
    }
    by_device = found["segments"]["device"]
    assert sum(by_device[name]["rating"]["n"] for name in ("app", "web")) == seen.sum()
    best = Run(trained).summary["best"]
    for name, value in found["tasks"]["rating"].items():
        assert best[f"valid/rating/{name}"] == pytest.approx(value, abs=1e-5)
    key = "valid/rating/accuracy"
    lines = [line for line in Run(trained).metric_lines() if line.get(key) == best[key]]
    for name in ("app", "web"):
        expected = by_device[name]["rating"]["accuracy"]
        assert lines[0][f"valid/device={name}/rating/accuracy"] == pytest.approx(expected)


def test_the_monitored_metric_decides_which_checkpoint_is_kept(trained: Path) -> None:
    lines = Run(trained).metric_lines()
    seen = [line["valid/rating/accuracy"] for line in lines if "valid/rating/accuracy" in line]
    assert len(seen) >= 3
    assert Run(trained).summary["best"]["valid/rating/accuracy"] == max(seen)
    assert seen[0] < max(seen)


def test_the_command_line_and_python_agree(
    trained: Path, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shop / "valid.parquet"
    recmtl(capsys, "score", trained, "--data", data, "--out", tmp_path / "scores", "--json")
    written = polars.read_parquet(tmp_path / "scores/part-00000.parquet")
    assert_frame_equal(written, BatchScorer(trained)(polars.read_parquet(data)))
    metrics = recmtl(capsys, "eval", trained, "--data", data, "--json")
    assert metrics == api.evaluate(trained, data)
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["eval", str(trained), "--data", str(data)])
    header, rating = capsys.readouterr().out.splitlines()[2:4]
    shown = "task n positives auc gauc logloss ne pcoc ece accuracy rmse mae"
    assert " ".join(header.split()) == shown
    assert rating.split()[0] == "rating"
    assert rating.split()[9] == f"{metrics['tasks']['rating']['accuracy']:.4f}"


def test_every_kind_of_frame_is_answered_in_kind(trained: Path, shop: Path) -> None:
    scorer, rows = BatchScorer(trained), polars.read_parquet(shop / "valid.parquet")[:40]
    expected = scorer(rows)
    in_pandas = scorer(rows.to_pandas().set_index(np.arange(40) * 7))
    assert isinstance(in_pandas, pd.DataFrame)
    assert in_pandas.index[3] == 21
    np.testing.assert_array_equal(
        np.stack(in_pandas["probs_rating"]), matrix(expected["probs_rating"])
    )
    table = scorer(rows.to_arrow())
    assert table.schema.field("probs_rating").type.list_size == CLASSES
    assert_frame_equal(polars.DataFrame(polars.from_arrow(table)), expected)
    (batch,) = rows.to_arrow().combine_chunks().to_batches()
    assert isinstance(scorer(batch), pa.RecordBatch)
    assert scorer(batch)["probs_rating"].to_pylist() == table["probs_rating"].to_pylist()
    arrays = scorer({name: rows[name].to_numpy() for name in ("item", "user")})
    assert arrays["probs_rating"].shape == (40, CLASSES)
    assert_frame_equal(scorer(rows[:1]), expected[:1], rel_tol=0, abs_tol=1e-6)
    for none in (rows[:0], rows[:0].to_pandas(), rows[:0].to_arrow()):
        assert len(scorer(none)) == 0
    assert scorer(rows[:0]).schema == expected.schema
    assert scorer(rows[:0].to_arrow()).schema.field("probs_rating").type.list_size == CLASSES


def test_a_lightning_script_predicts_the_same(trained: Path, shop: Path) -> None:
    config = load_spec(shop / "spec.yaml", ["train.epochs=1"])
    encoders = Encoders.fit(config, shop)
    module = MultiTaskModule(config, encoders)
    trainer = pl.Trainer(
        strategy=TorchRecStrategy(),
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ClickLogDataModule(config, encoders, data_dir=shop))
    api.train(shop / "spec.yaml", out=shop / "one", overrides=["train.epochs=1"])
    loader = ValidLoader(open_log(shop / "valid.parquet"), encoders, batch_size=256)
    probs_BO = torch.cat(trainer.predict(module, loader)).numpy()
    assert probs_BO.shape == (1500, CLASSES + 2)
    scores = BatchScorer(shop / "one")(polars.read_parquet(shop / "valid.parquet"))
    assert np.abs(probs_BO[:, :CLASSES] - matrix(scores["probs_rating"])).max() <= 1e-6
    assert np.abs(probs_BO[:, CLASSES] - scores["probs_ctr"].to_numpy()).max() <= 1e-6


def test_the_page_shows_the_classes(trained: Path) -> None:
    page = write_report(trained).read_text(encoding="utf-8")
    assert "<h2>Classes</h2>" in page
    assert "validation accuracy, rating" in page
    assert "5 classes, the largest" in page
    assert page.count("likeliest class (% of the row") == 1
