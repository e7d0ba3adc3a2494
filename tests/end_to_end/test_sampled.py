"""Thinned logs, from the spec to scores, against the simulator's truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recmtl import BatchScorer, api
from recmtl.data import open_splits
from recmtl.errors import SpecError
from recmtl.run import Run
from recmtl.simulate import simulate

CLICKS = {"click": 1.0, "else": 0.1}
BOTH = {"conversion": 1.0, "click": 0.5, "else": 0.05}
SMALL = ("tower=mmoe", "tower.num_experts=2", "tower.expert_widths=[32]", "wide=none")
SHORT = ("train.epochs=3", "train.batch_size=512", "train.embedding.prior=0")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    simulate(folder, rows=60_000, seed=3)
    return folder


def thinned(frame: pl.DataFrame, keep: Mapping[str, float]) -> pl.DataFrame:
    """Each row by chance, at the rate of the first label that is 1."""
    rate = np.full(frame.height, keep["else"])
    for column in [name for name in reversed(keep) if name != "else"]:
        rate = np.where(frame[column] == 1, keep[column], rate)
    return frame.filter(pl.Series(np.random.default_rng(0).random(frame.height) < rate))


def trained(world: Path, keep: Mapping[str, float], *overrides: str) -> Path:
    """A run on the thinned log, which the spec tells of."""
    folder = world / "-".join(f"{name}{share}" for name, share in keep.items())
    folder.mkdir(exist_ok=True)
    for part in ("train", "valid"):
        thinned(pl.read_parquet(world / f"{part}.parquet"), keep).write_parquet(
            folder / f"{part}.parquet"
        )
    out = folder / f"run{'-'.join(overrides)}"
    said = [f"data.sampled={{keep: {json.dumps(keep)}}}"]
    api.train(
        world / "spec.yaml", data=folder, out=out, overrides=[*SMALL, *SHORT, *said, *overrides]
    )
    return out


@pytest.mark.parametrize(
    ("keep", "objective"), [(CLICKS, "tasks"), (CLICKS, "entire_space"), (BOTH, "tasks")]
)
def test_probabilities_are_those_of_all_rows(
    world: Path, keep: Mapping[str, float], objective: str
) -> None:
    run = trained(world, keep, f"objective={objective}")
    test = pl.read_parquet(world / "test.parquet")
    scores = BatchScorer(run, keep=())(test)
    p_ctr, p_cvr = (test[name].to_numpy() for name in ("p_ctr", "p_cvr"))
    ctr, cvr, ctcvr = (scores[f"probs_{task}"].to_numpy() for task in ("ctr", "cvr", "ctcvr"))
    np.testing.assert_allclose(ctcvr, ctr * cvr, rtol=1e-5)
    assert ctr.mean() == pytest.approx(p_ctr.mean(), rel=0.1)
    assert ctcvr.mean() == pytest.approx((p_ctr * p_cvr).mean(), rel=0.2)
    assert (cvr * p_ctr).mean() == pytest.approx((p_ctr * p_cvr).mean(), rel=0.2)
    valid = run.parent / "valid.parquet"
    found = api.evaluate(run, valid, sampled=True)
    assert 0.8 < found["tasks"]["ctr"]["pcoc"] < 1.2
    assert api.evaluate(run, valid)["tasks"]["ctr"]["pcoc"] < 0.4
    out = run.parent / f"export-{objective}"
    cost = api.export(run, out, format="safetensors", tables="fp16").cost["validation"]["tasks"]
    for task, metrics in cost.items():
        assert metrics["n"] == found["tasks"][task]["n"]
        for metric in ("auc", "logloss"):
            expected = pytest.approx(found["tasks"][task][metric], abs=1e-5)
            assert metrics[metric]["before"] == expected
    exported = api.load_export(out)(test)
    for column in scores.columns:
        np.testing.assert_allclose(exported[column], scores[column], atol=1e-3)
    summary = json.loads((run / "validation.json").read_text())
    for task in ("ctr", "cvr", "ctcvr"):
        assert summary["tasks"][task]["pcoc"] == pytest.approx(found["tasks"][task]["pcoc"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [line["valid/ctr/pcoc"] for line in lines if "valid/ctr/pcoc" in line]
    assert any(value == pytest.approx(found["tasks"]["ctr"]["pcoc"], rel=1e-4) for value in logged)


def test_training_rows_are_thinned_while_they_are_read(world: Path) -> None:
    out, said = world / "thinned_while_read", list[str]()
    api.train(
        world / "spec.yaml",
        out=out,
        overrides=[*SMALL, *SHORT, f"data.sample={{keep: {json.dumps(BOTH)}, seed: 4}}"],
        notify=said.append,
    )
    train = pl.read_parquet(world / "train.parquet")
    kept = Run(out).encoders.num_rows
    assert f"`data.sample` keeps {kept:,} of {train.height:,} training rows." in said
    expected = sum(
        share * train.filter(condition).height
        for share, condition in (
            (1.0, pl.col("conversion") == 1),
            (0.5, (pl.col("conversion") != 1) & (pl.col("click") == 1)),
            (0.05, pl.col("click") != 1),
        )
    )
    assert kept == pytest.approx(expected, rel=0.05)
    test = pl.read_parquet(world / "test.parquet")
    scores = BatchScorer(out, keep=())(test)
    ctr, ctcvr = (scores[f"probs_{task}"].to_numpy() for task in ("ctr", "ctcvr"))
    p_ctr, p_cvr = (test[name].to_numpy() for name in ("p_ctr", "p_cvr"))
    assert ctr.mean() == pytest.approx(p_ctr.mean(), rel=0.1)
    assert ctcvr.mean() == pytest.approx((p_ctr * p_cvr).mean(), rel=0.25)
    # Validation rows are all there: they are judged as they are.
    valid = api.evaluate(out, world / "valid.parquet")["tasks"]["ctr"]
    summary = json.loads((out / "validation.json").read_text())["tasks"]["ctr"]
    assert summary["n"] == valid["n"] == pl.read_parquet(world / "valid.parquet").height
    assert summary["pcoc"] == pytest.approx(valid["pcoc"])
    with pytest.raises(SpecError, match=r"its spec has no `data\.sampled`"):
        api.evaluate(out, world / "valid.parquet", sampled=True)


def test_drift_is_measured_by_training_rows_as_they_were_where_none_validate(
    world: Path, tmp_path: Path
) -> None:
    out, train = tmp_path / "run", world / "train.parquet"
    sample = f"data.sample={{keep: {json.dumps(CLICKS)}}}"
    alone = ["data.valid=null", "train.monitor=null"]
    api.train(world / "spec.yaml", out=out, overrides=[*SMALL, *SHORT, *alone, sample])
    log = open_splits(Run(out).config, world).train
    kept = log.read([*log.schema], 0, log.num_rows)
    probs_ctr = BatchScorer(out, keep=())(kept)["probs_ctr"].to_numpy()
    weight = np.where(kept["click"] == 1, 1.0, 10.0)
    told = api.score(out, train, tmp_path / "scores").drift["scores"]["ctr"]["reference"]
    assert told["mean"] == pytest.approx(np.average(probs_ctr, weights=weight), rel=0.05)
    assert probs_ctr.mean() > 2 * told["mean"]


def test_rows_are_taken_for_all_there_are_where_nothing_says_how_they_were_thinned(
    run: Path, funnel: Path
) -> None:
    with pytest.raises(SpecError, match=r"its spec has no `data\.sampled`"):
        api.evaluate(run, funnel / "test.parquet", sampled=True)
