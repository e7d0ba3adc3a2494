"""Calibration, from the spec to scores, of a model that is off by a lot."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from recmtl import BatchScorer, api
from recmtl.cli.app import _cli
from recmtl.errors import CheckpointError
from recmtl.simulate import simulate
from tests.end_to_end.test_sampled import SHORT, SMALL, thinned

BOTH = ("tasks.ctr.calibration=isotonic", "tasks.cvr.calibration=platt")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose training rows were thinned, and whose spec does not say so."""
    folder = tmp_path_factory.mktemp("world")
    simulate(folder, rows=60_000, seed=3)
    train = folder / "train.parquet"
    thinned(pl.read_parquet(train), {"click": 1.0, "else": 0.2}).write_parquet(train)
    return folder


@pytest.fixture(scope="module")
def calibrated(world: Path) -> Path:
    out = world / "run"
    said: list[str] = []
    api.train(world / "spec.yaml", out=out, overrides=[*SMALL, *SHORT, *BOTH], notify=said.append)
    assert any(re.match("task `ctcvr` is calibrated: ECE 0", line) for line in said)
    return out


def metrics(run: Path, world: Path, *, calibrated: bool = True) -> dict[str, dict[str, float]]:
    tasks: dict[str, dict[str, float]] = api.evaluate(
        run, world / "test.parquet", calibrated=calibrated
    )["tasks"]
    return tasks


def test_probabilities_are_brought_to_the_rates_that_come(calibrated: Path, world: Path) -> None:
    before, after = (metrics(calibrated, world, calibrated=flag) for flag in (False, True))
    assert before["ctr"]["pcoc"] > 2
    assert after["ctr"]["pcoc"] == pytest.approx(1, abs=0.05)
    assert after["ctcvr"]["pcoc"] == pytest.approx(1, abs=0.3)
    for task in ("ctr", "ctcvr"):
        assert after[task]["ece"] < 0.3 * before[task]["ece"]
        assert after[task]["logloss"] < before[task]["logloss"]
    for task in ("ctr", "cvr"):  # rising lines leave the order as it is
        assert after[task]["auc"] == pytest.approx(before[task]["auc"], abs=1e-4)


def test_scores_are_calibrated_and_products_stay_products(calibrated: Path, world: Path) -> None:
    test = pl.read_parquet(world / "test.parquet")
    scores = BatchScorer(calibrated)(test)
    ctr, cvr, ctcvr = (scores[f"probs_{task}"].to_numpy() for task in ("ctr", "cvr", "ctcvr"))
    np.testing.assert_allclose(ctcvr, ctr * cvr, rtol=1e-5)
    assert ctr.mean() == pytest.approx(test["p_ctr"].mean(), rel=0.1)
    as_is = BatchScorer(calibrated, calibrated=False)
    raw = as_is(test)["probs_ctr"].to_numpy()
    assert raw.mean() > 2 * ctr.mean()
    assert pickle.loads(pickle.dumps(as_is))(test)["probs_ctr"].equals(as_is(test)["probs_ctr"])


def test_the_command_line_leaves_it_out_when_asked(
    calibrated: Path, world: Path, tmp_path: Path
) -> None:
    def run(*args: object) -> str:
        result = CliRunner().invoke(_cli, [str(arg) for arg in args], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    data = ("--data", world / "test.parquet")
    found = {
        flag: json.loads(run("eval", calibrated, *data, "--json", *flag))["tasks"]["ctr"]["pcoc"]
        for flag in ((), ("--uncalibrated",))
    }
    assert found["--uncalibrated",] > 2 > 1.1 > found[()]
    run("score", calibrated, *data, "--out", tmp_path / "a")
    run("score", calibrated, *data, "--out", tmp_path / "b", "--uncalibrated")
    with_it, without = (
        pl.read_parquet(tmp_path / name / "*.parquet")["probs_ctr"].mean() for name in "ab"
    )
    assert without > 2 * with_it
    with pytest.raises(CheckpointError, match=r"holds scores with calibration\."):
        api.score(calibrated, world / "test.parquet", tmp_path / "a", calibrated=False)


def test_scores_of_another_calibration_are_not_gone_on_with(
    calibrated: Path, world: Path, tmp_path: Path
) -> None:
    """The weights are the same ones, and so is the name of the model."""
    other = ("tasks.ctr.calibration=platt", "tasks.cvr.calibration=isotonic")
    api.train(world / "spec.yaml", out=tmp_path / "run", overrides=[*SMALL, *SHORT, *other])
    runs = (calibrated, tmp_path / "run")
    assert len({BatchScorer(run).fingerprint for run in runs}) == 1
    data, out = world / "test.parquet", tmp_path / "scores"
    api.score(calibrated, data, out)
    with pytest.raises(CheckpointError, match="holds scores with another calibration"):
        api.score(tmp_path / "run", data, out)


def test_the_report_judges_it_on_rows_that_were_not_fitted_to(
    calibrated: Path, world: Path
) -> None:
    kept = json.loads((calibrated / "calibration.json").read_text())
    assert set(kept["tasks"]) == {"ctr", "cvr"}
    assert set(kept["before"]) == set(kept["after"]) == {"ctr", "cvr", "ctcvr"}
    valid = world / "valid.parquet"
    raw = api.evaluate(calibrated, valid, calibrated=False)["tasks"]["ctr"]
    seen = api.evaluate(calibrated, valid)["tasks"]["ctr"]
    before, after = (kept[when]["ctr"]["metrics"] for when in ("before", "after"))
    assert before == pytest.approx({name: raw[name] for name in before})
    assert seen["logloss"] < after["logloss"] < raw["logloss"]
    page = api_report(calibrated)
    assert "<h2>Calibration</h2>" in page
    assert re.search(r"ctcvr</td><td class=\"left\">its factors</td>", page)
    assert not re.search("`?ctr`? predicts too much", page)


def api_report(run: Path) -> str:
    from recmtl.report import write_report

    return write_report(run, analysis=False).read_text()


def test_a_calibration_that_was_changed_is_refused(calibrated: Path) -> None:
    file = calibrated / "calibration.json"
    text = file.read_text()
    try:
        file.write_text(text.replace('"below": 1.0', '"below": 1.5', 1))
        with pytest.raises(CheckpointError, match=r"calibration\.json: its sha256"):
            BatchScorer(calibrated)
        file.unlink()
        with pytest.raises(CheckpointError, match=r"calibration\.json: is missing"):
            BatchScorer(calibrated)
    finally:
        file.write_text(text)


def test_a_thinned_log_is_corrected_first(world: Path, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        source = pl.read_parquet(world / f"{part}.parquet")
        # The training rows are thinned by 0.2 already.
        share = 0.2 if part == "valid" else 1.0
        thinned(source, {"click": 1.0, "else": share}).write_parquet(tmp_path / f"{part}.parquet")
    out = tmp_path / "run"
    sampled = "data.sampled={keep: {click: 1.0, else: 0.2}}"
    api.train(
        world / "spec.yaml", data=tmp_path, out=out, overrides=[*SMALL, *SHORT, *BOTH, sampled]
    )
    assert metrics(out, world)["ctr"]["pcoc"] == pytest.approx(1, abs=0.1)
    knots = json.loads((out / "calibration.json").read_text())["tasks"]["ctr"]["calibrator"]
    shift = np.array(knots["values"]) - np.array(knots["at"])
    assert abs(np.median(shift)) < 0.8  # of log 5 = 1.6, were the log not corrected


def test_too_few_rows_leave_a_task_as_it_is(world: Path, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        frame = pl.read_parquet(world / f"{part}.parquet")
        if part == "valid":
            frame = frame.filter(pl.col("conversion") == 0).head(3000)
        frame.write_parquet(tmp_path / f"{part}.parquet")
    said: list[str] = []
    out = tmp_path / "run"
    api.train(
        world / "spec.yaml",
        data=tmp_path,
        out=out,
        overrides=[*SMALL, "train.epochs=1", *BOTH],
        notify=said.append,
    )
    assert any(
        re.match("task `cvr` is left uncalibrated: it has 0 positive validation rows", line)
        for line in said
    )
    kept = json.loads((out / "calibration.json").read_text())
    assert set(kept["tasks"]) == {"ctr"}
    assert set(kept["after"]) == {"ctr", "ctcvr"}
