"""A pretrained vector, from the log to scores: learned, and equal through all doors."""

from __future__ import annotations

import json
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import polars
import pytest
import torch
from polars.testing import assert_frame_equal

import recmtl
from recmtl import BatchScorer, ClickLogDataModule, Encoders, MultiTaskModule, TorchRecStrategy, api
from recmtl.config import load_spec
from recmtl.data import open_log
from recmtl.errors import DataError
from recmtl.run import Run
from recmtl.training.loaders import ValidLoader

DIM = 12
SPEC = f"""name: looks
data: {{train: train.parquet, valid: valid.parquet}}
features:
  - {{name: look, type: vector, dim: {DIM}}}
  - {{name: user, type: sparse, hash: 20, dim: 4}}
  - {{name: price, type: dense}}
  - {{name: text, type: vector, dim: 2, normalize: standard}}
tasks:
  - {{name: ctr, label: click}}
  - {{name: cvr, label: buy, given: click}}
tower: {{kind: mmoe, num_experts: 2, expert_widths: [16], head_widths: [8]}}
train: {{batch_size: 128, epochs: 3, lr: 0.01, monitor: ctr/auc}}
"""


def log(rows: int, seed: int) -> polars.DataFrame:
    """A click follows the direction of `look`, whatever its length, and nothing else."""
    rng = np.random.default_rng(seed)
    look_BV = rng.normal(size=(rows, DIM))
    direction_B = look_BV @ np.linspace(-1, 1, DIM) / np.linalg.norm(look_BV, axis=1)
    click = direction_B + 0.2 * rng.normal(size=rows) > 0.3
    look_BV *= rng.lognormal(sigma=2.0, size=(rows, 1))
    frame = polars.DataFrame(
        {
            "look": look_BV.astype(np.float32),
            "user": rng.integers(0, 50, rows),
            "price": rng.normal(size=rows),
            "text": rng.normal(3.0, 2.0, size=(rows, 2)),
            "click": click.astype(np.int8),
            "buy": (click & (rng.random(rows) < 0.5)).astype(np.int8),
        }
    )
    is_null = polars.Series(rng.random(rows) < 0.05)
    return frame.with_columns(look=polars.when(~is_null).then("look"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("looks")
    log(5000, 0).write_parquet(folder / "train.parquet")
    log(1500, 1).write_parquet(folder / "valid.parquet")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(shop: Path) -> Path:
    api.train(shop / "spec.yaml", out=shop / "run")
    return shop / "run"


def test_a_known_function_is_learned(trained: Path, shop: Path) -> None:
    assert Run(trained).summary["best"]["valid/ctr/auc"] > 0.9
    without = api.train(
        shop / "spec.yaml", out=shop / "without", overrides=["features.look.normalize=none"]
    )
    # Norms that differ by a hundred drown the direction.
    assert without.best["valid/ctr/auc"] < Run(trained).summary["best"]["valid/ctr/auc"]


def test_every_kind_of_frame_gives_the_same_scores(trained: Path, shop: Path) -> None:
    scorer, rows = BatchScorer(trained), polars.read_parquet(shop / "valid.parquet")[:60]
    expected = scorer(rows)
    as_lists = rows.with_columns(polars.col("look", "text").arr.to_list())
    for same in (as_lists, rows.with_columns(polars.col("look").cast(polars.Array(float, DIM)))):
        assert_frame_equal(scorer(same), expected, rel_tol=0, abs_tol=0)
    table = scorer(rows.to_arrow())
    assert_frame_equal(polars.DataFrame(polars.from_arrow(table)), expected)
    in_pandas = scorer(rows.to_pandas())
    np.testing.assert_array_equal(in_pandas["probs_ctr"], expected["probs_ctr"])
    there = rows.filter(polars.col("look").is_not_null())
    arrays = {name: there[name].to_numpy() for name in ("look", "user", "price", "text")}
    assert arrays["look"].shape == (len(there), DIM)
    np.testing.assert_allclose(scorer(arrays)["probs_ctr"], scorer(there)["probs_ctr"], atol=1e-7)


def test_what_scoring_refuses(trained: Path, shop: Path, tmp_path: Path) -> None:
    rows = polars.read_parquet(shop / "valid.parquet")
    shorter = rows.with_columns(polars.col("look").arr.to_list().list.head(DIM - 1))
    expected = rf"lists have another length than `dim`, {DIM} \(for example {DIM - 1} in row \d+\)"
    with pytest.raises(DataError, match=expected):
        BatchScorer(trained)(shorter)
    shorter.write_parquet(tmp_path / "shorter.parquet")
    with pytest.raises(DataError, match=expected):
        recmtl.score(trained, tmp_path / "shorter.parquet", tmp_path / "scores")
    with pytest.raises(DataError, match="`text` is Float64, but it was fitted on lists of 2 numb"):
        BatchScorer(trained)(rows.with_columns(polars.lit(1.0).alias("text")))


def test_the_manifest_counts_nulls(trained: Path, shop: Path, tmp_path: Path) -> None:
    recmtl.score(trained, shop / "valid.parquet", tmp_path / "scores")
    nulls = polars.read_parquet(shop / "valid.parquet")["look"].null_count()
    manifest = (tmp_path / "scores" / "manifest.json").read_text(encoding="utf-8")
    assert nulls > 0
    found = json.loads(manifest)
    assert {"values": 1500, "nulls": nulls, "oov": 0} in list(found["features"].values())


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("tower={kind: ple, num_levels: 2, expert_widths: [16], head_widths: [8]}",),
        ("tower={kind: home, expert_widths: [16], head_widths: [8]}",),
        ("wide=fwfm", "interaction=fm"),
    ],
    ids=["mmoe", "ple", "home", "fields"],
)
def test_scores_are_those_of_the_training_network(
    overrides: tuple[str, ...], shop: Path, tmp_path: Path
) -> None:
    config = load_spec(shop / "spec.yaml", overrides)
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
    recmtl.save_run(trainer, tmp_path / "run")
    loader = ValidLoader(open_log(shop / "valid.parquet"), encoders, batch_size=256)
    probs_BO = torch.cat(trainer.predict(module, loader)).numpy()
    scores = BatchScorer(tmp_path / "run")(polars.read_parquet(shop / "valid.parquet"))
    for t, task in enumerate(("ctr", "cvr")):
        found = scores[f"probs_{task}"].to_numpy()
        np.testing.assert_allclose(probs_BO[:, t], found, rtol=0, atol=1e-6)
