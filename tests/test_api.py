"""train, evaluate and score from Python: the same as the command line."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import recmtl
from recmtl import _torchrec, api
from recmtl.config import load_spec
from recmtl.errors import CheckpointError, MissingExtraError, SpecError

QUICK = ["tower={kind: shared_bottom, expert_widths: [4], head_widths: []}", "train.epochs=1"]


def test_the_package_offers_them() -> None:
    assert recmtl.train is api.train
    assert recmtl.evaluate is api.evaluate
    assert recmtl.score is api.score


def test_training_leaves_a_whole_run(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    expected = {"config.yaml", "run.json", "versions.json", "metrics.jsonl", "plan.txt"}
    assert names >= {*expected, "encoders", "checkpoints", "validation.json"}
    state = json.loads((run / "run.json").read_text())
    assert state["status"] == "finished"
    assert set(state["summary"]) == {"best", "rows_per_s", "epochs"}
    assert "valid/ctr/auc" in state["summary"]["best"]


def test_a_loaded_config_trains_to_the_same_metrics(funnel: Path, tmp_path: Path) -> None:
    config = load_spec(funnel / "spec.yaml", QUICK)
    first = api.train(config, data=funnel, out=tmp_path / "a")
    second = api.train(funnel / "spec.yaml", out=tmp_path / "b", overrides=QUICK)
    assert first.best == second.best
    assert (first.run, first.epochs) == (tmp_path / "a", 1)
    with pytest.raises(SpecError, match=r"finished.*--overwrite"):
        api.train(config, data=funnel, out=tmp_path / "a")
    again = api.train(config, data=funnel, out=tmp_path / "a", overwrite=True)
    assert again.best == first.best
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(SpecError, match="pass them to `load_spec`"):
        api.train(config, data=funnel, out=tmp_path / "c", overrides=QUICK)


def test_a_spec_without_a_table_trains_and_scores(funnel: Path, tmp_path: Path) -> None:
    config = load_spec(
        funnel / "spec.yaml",
        [*QUICK, "wide=none", "features=[{name: price, type: dense}]", "train.epochs=2"],
    )
    result = api.train(config, data=funnel, out=tmp_path / "a")
    assert result.epochs == 2
    found = api.evaluate(tmp_path / "a", funnel / "valid.parquet")["tasks"]["ctr"]
    assert found["auc"] == pytest.approx(result.best["valid/ctr/auc"], abs=1e-6)
    written = api.score(tmp_path / "a", funnel / "test.parquet", tmp_path / "scores")
    assert written.rows > 0


def test_versions_that_do_not_fit_are_refused_before_the_log_is_read(
    funnel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = _torchrec.Versions("2.11.0", "1.8.0", None, "1.6.0")
    monkeypatch.setattr(_torchrec, "installed_versions", lambda: versions)
    monkeypatch.setattr("recmtl.data.Encoders.fit", lambda *args, **kwargs: pytest.fail("fitted"))
    with pytest.raises(MissingExtraError, match=r"torch 2\.11 goes with torchrec 1\.6 and fbgemm"):
        api.train(funnel / "spec.yaml", out=tmp_path / "a", overrides=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_resolving_a_spec_says_where_its_data_is(funnel: Path, tmp_path: Path) -> None:
    file = funnel / "spec.yaml"
    assert api.resolve(file, None, [])[1] == funnel
    assert api.resolve(file, tmp_path, [])[1] == tmp_path
    assert api.resolve(load_spec(file), None, [])[1] == Path()
    assert api.resolve(str(file), str(tmp_path), ["train.lr=0.5"])[0].train.lr == 0.5


def test_a_path_and_its_frame_have_the_same_metrics(run: Path, funnel: Path) -> None:
    file = funnel / "valid.parquet"
    by_path = api.evaluate(run, file, by="device")
    assert by_path == api.evaluate(run, pl.read_parquet(file), by="device")
    assert set(by_path) == {"rows", "tasks", "segments", "contradictions"}
    assert by_path["tasks"] == json.loads((run / "validation.json").read_text())["tasks"]


def test_scores_have_the_rows_of_the_log(run: Path, funnel: Path, tmp_path: Path) -> None:
    result = api.score(run, funnel / "test.parquet", tmp_path / "scores", keep=["item_id"])
    written = pl.read_parquet(tmp_path / "scores/part-00000.parquet")
    assert result.rows == written.height
    assert written.columns == ["item_id", "probs_ctr", "probs_cvr", "probs_ctcvr"]


def test_something_else_than_a_run_is_refused(funnel: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a run folder"):
        api.evaluate(funnel, funnel / "valid.parquet")
    with pytest.raises(CheckpointError, match="is not a run folder"):
        api.score(tmp_path, funnel / "test.parquet", tmp_path / "scores")


def test_wrong_arguments_are_spec_errors(funnel: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"overrides: must be a list .* got 'tower=ple'"):
        api.train(funnel / "spec.yaml", out=tmp_path / "a", overrides="tower=ple")
    with pytest.raises(SpecError, match=r"spec: must be the path of a spec file.*NoneType"):
        api.train(None, out=tmp_path / "a")  # type: ignore[arg-type]  # on purpose
