"""Two runs on the same rows: what `evaluate` says of each, and what is only said of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import recmtl
from recmtl import api
from recmtl.errors import DataError, SpecError
from recmtl.scoring import BatchScorer
from recmtl.studies.diff_pages import as_html, as_markdown, as_text

COUNTS = ("n", "positives", "gauc_groups", "gauc_undefined_groups")


@pytest.fixture(scope="module")
def told(run: Path, home_run: Path, funnel: Path) -> dict[str, Any]:
    """An MMoE and a HoME on the funnel."""
    return recmtl.diff(run, home_run, funnel / "valid.parquet", resamples=60)


def test_metrics_of_either_are_those_of_evaluate(
    told: dict[str, Any], run: Path, home_run: Path, funnel: Path
) -> None:
    for which, folder in (("a", run), ("b", home_run)):
        expected = recmtl.evaluate(folder, funnel / "valid.parquet")
        assert told["rows"] == expected["rows"]
        assert list(told["tasks"]) == list(expected["tasks"])
        pairs = [(told["tasks"], expected["tasks"])]
        assert told["segments"].keys() == expected["segments"].keys() == {"device"}
        pairs += [
            (told["segments"]["device"][value], expected["segments"]["device"][value])
            for value in expected["segments"]["device"]
        ]
        for found, by_task in pairs:
            for task, metrics in by_task.items():
                for name, value in metrics.items():
                    if name in COUNTS:
                        assert found[task][name] == value
                    else:
                        assert found[task]["metrics"][name][which] == value


def test_every_difference_has_an_interval(told: dict[str, Any]) -> None:
    for by_task in (told["tasks"], *told["segments"]["device"].values()):
        for found in by_task.values():
            for name, entry in found["metrics"].items():
                if entry["difference"] is None:
                    continue
                assert entry["difference"] == entry["b"] - entry["a"]
                low, high = entry["interval"]
                assert low <= high
                assert (entry["verdict"] is None) == (name == "pcoc")


def test_an_interval_holds_the_difference(told: dict[str, Any]) -> None:
    for name in ("auc", "logloss", "pcoc"):
        entry = told["tasks"]["ctr"]["metrics"][name]
        assert entry["interval"][0] < entry["difference"] < entry["interval"][1]


def test_scores_are_shifted_as_those_of_the_scorers(
    told: dict[str, Any], run: Path, home_run: Path, funnel: Path
) -> None:
    rows = pl.read_parquet(funnel / "valid.parquet")
    first, second = (BatchScorer(folder, keep=())(rows) for folder in (run, home_run))
    for task, found in told["tasks"].items():
        a, b = (scores[f"probs_{task}"].cast(pl.Float64) for scores in (first, second))
        scores = found["scores"]
        assert scores["a"] == pytest.approx(a.mean(), rel=1e-5)
        assert scores["b"] == pytest.approx(b.mean(), rel=1e-5)
        assert scores["ratio"] == pytest.approx(b.mean() / a.mean(), rel=1e-5)
        assert found["moves"]["mean_absolute"] == pytest.approx((b - a).abs().mean(), rel=1e-4)
        assert found["moves"]["rows"] == rows.height
        expected = np.corrcoef(a.to_numpy(), b.to_numpy())[0, 1]
        assert found["correlation"] == pytest.approx(expected, abs=1e-4)


def test_a_frame_is_as_good_as_a_file(
    told: dict[str, Any], run: Path, home_run: Path, funnel: Path
) -> None:
    frame = pl.read_parquet(funnel / "valid.parquet")
    again = recmtl.diff(run, home_run, frame, resamples=60)
    assert again["tasks"] == told["tasks"]
    assert again["segments"] == told["segments"]


def test_a_run_does_not_differ_from_itself(run: Path, funnel: Path) -> None:
    told = recmtl.diff(run, run, funnel / "valid.parquet", by="gender", resamples=20)
    assert list(told["segments"]) == ["gender"]
    for by_task in (told["tasks"], *told["segments"]["gender"].values()):
        for found in by_task.values():
            for entry in found["metrics"].values():
                if entry["difference"] is not None:
                    assert (entry["difference"], entry["interval"]) == (0.0, [0.0, 0.0])
                    assert entry["verdict"] in ("tie", None)
            assert found["scores"]["difference"] == 0.0
    assert all(found["features"] == {} for found in told["tasks"].values())
    assert {found["moves"]["most"] for found in told["tasks"].values()} == {0.0}


SPEC = """name: kinds
data: {{train: train.parquet, accept_leaks: [item], weight: w, group_by: user}}
features:
  - {{name: item, type: sparse, vocab: {{}}, dim: 4}}
  - {{name: {other}, type: sparse, vocab: {{}}, dim: 4}}
tasks:
  - {{name: number, label: y, kind: regression}}
  - {{name: stars, label: s, kind: multiclass, classes: 3}}
  - {task}
tower: {{kind: shared_bottom, expert_widths: [8], head_widths: []}}
train: {{batch_size: 256, epochs: 1, lr: 0.02, embedding: {{lr: 0.3}}}}
"""


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `a` and `b` of a regression and classes, each with a feature and a task of its own."""
    folder = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(0)
    item = rng.integers(0, 9, 600)
    pl.DataFrame(
        {
            "item": item,
            "left": rng.integers(0, 4, 600),
            "right": rng.integers(0, 4, 600),
            "user": rng.integers(0, 50, 600),
            "w": rng.random(600) + 0.5,
            "y": item * 2.0,
            "s": (item % 3).astype(np.int64),
            "n": (item > 4).astype(np.int8),
            "m": (item > 6).astype(np.int8),
        }
    ).write_parquet(folder / "train.parquet")
    for name, other, task in (
        ("a", "left", "{name: same, label: n}"),
        ("b", "right", "{name: same, label: m}"),
    ):
        file = folder / f"{name}.yaml"
        file.write_text(SPEC.format(other=other, task=task), encoding="utf-8")
        api.train(file, out=folder / name)
    return folder


def test_every_kind_and_what_is_apart(kinds: Path) -> None:
    told = recmtl.diff(kinds / "a", kinds / "b", kinds / "train.parquet", resamples=30)
    assert told["apart"] == {"same": "`label` is n and m"}
    assert list(told["tasks"]) == ["number", "stars"]
    assert set(told["tasks"]["number"]["metrics"]) == {"rmse", "mae"}
    assert set(told["tasks"]["stars"]["metrics"]) == {"logloss", "ne", "accuracy"}
    assert len(told["tasks"]["stars"]["scores"]) == 3
    for which in ("a", "b"):
        shares = [of_class[which] for of_class in told["tasks"]["stars"]["scores"]]
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert set(told["tasks"]["number"]["features"]) == {"item", "left", "right"}
    assert told["groups"] == {"by": "user", "units": 50, "is_part": False}
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    text = "\n".join(as_text(told))
    assert "Not compared: `same`: `label` is n and m." in text
    for page in (as_markdown(told), as_html(told)):
        assert "mean of class 2" in page
        assert "<script" not in page


def test_without_labels_there_are_scores_alone(kinds: Path) -> None:
    rows = pl.read_parquet(kinds / "train.parquet")
    nothing = {column: pl.lit(None, pl.Int64) for column in ("y", "s", "n")}
    told = recmtl.diff(
        kinds / "a", kinds / "a", rows.with_columns(**nothing), by="left", resamples=5
    )
    assert list(told["tasks"]) == ["number", "stars", "same"]
    for by_task in (told["tasks"], *told["segments"]["left"].values()):
        for found in by_task.values():
            assert found["n"] == 0
            assert {entry["a"] for entry in found["metrics"].values()} == {None}
            assert {entry["difference"] for entry in found["metrics"].values()} == {None}
    assert told["tasks"]["same"]["scores"]["difference"] == 0.0
    assert told["tasks"]["same"]["moves"]["rows"] == rows.height
    assert "0 rows" in "\n".join(as_text(told))
    assert "<svg" not in as_html(told)


THINNED = """name: thinned
data: {train: train.parquet, accept_leaks: [item], sampled: {keep: {n: 1.0, else: 0.25}}}
features: [{name: item, type: sparse, vocab: {}, dim: 4}]
tasks: [{name: same, label: n}]
tower: {kind: shared_bottom, expert_widths: [8], head_widths: []}
train: {batch_size: 256, epochs: 1}
"""


def test_thinned_rows_speak_for_those_left_out(kinds: Path) -> None:
    file, run = kinds / "thinned.yaml", kinds / "thinned"
    file.write_text(THINNED, encoding="utf-8")
    api.train(file, out=run)
    rows = kinds / "train.parquet"
    plain = recmtl.diff(run, run, rows, resamples=5)["tasks"]["same"]["metrics"]
    told = recmtl.diff(run, run, rows, sampled=True, resamples=5)
    found = told["tasks"]["same"]["metrics"]
    expected = recmtl.evaluate(run, rows, sampled=True)["tasks"]["same"]
    for name, entry in found.items():
        assert entry["a"] == expected[name]
    assert found["pcoc"]["a"] != plain["pcoc"]["a"]
    assert told["notes"][0].startswith("Neither spec has `data.group_by`")
    scores = BatchScorer(run, keep=())(pl.read_parquet(rows))["probs_same"].cast(pl.Float64)
    weight = np.where(pl.read_parquet(rows)["n"] == 1, 1.0, 4.0)
    mean = float(np.average(scores, weights=weight))
    assert told["tasks"]["same"]["scores"]["a"] == pytest.approx(mean, rel=1e-5)


def test_the_command_writes_pages_and_one_object(
    run: Path, home_run: Path, funnel: Path, tmp_path: Path, recmtl_cli: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    arguments = ["diff", run, home_run, "--data", funnel / "valid.parquet", "--resamples", 10]
    code, stdout, _ = recmtl_cli(*arguments, "--by", "device", "--out", out, "--json")
    assert code == 0
    assert json.loads(stdout) == json.loads((out / "diff.json").read_text())
    assert {file.name for file in out.iterdir()} == {"diff.json", "diff.md", "diff.html"}
    page = (out / "diff.html").read_text()
    assert page.count("<svg") == 9  # three tasks: moves, features, and by device
    assert "http" not in page.replace("http-equiv", "")
    code, stdout, _ = recmtl_cli(*arguments)
    assert code == 0
    assert "ctcvr: " in stdout
    assert "mean score" in stdout


def test_errors_say_what_to_do(run: Path, home_run: Path, funnel: Path, kinds: Path) -> None:
    valid = funnel / "valid.parquet"
    with pytest.raises(SpecError, match=r"no task can be compared\. `ctr`: only .*run has it"):
        recmtl.diff(run, kinds / "a", valid)
    with pytest.raises(SpecError, match=r"^by: `user_id` has [\d,]+ values, and at most 64"):
        recmtl.diff(run, home_run, valid, by="user_id")
    with pytest.raises(DataError, match=r"column `devise` .* Did you mean `device`\?"):
        recmtl.diff(run, home_run, valid, by="devise")
    with pytest.raises(SpecError, match=r"^resamples: must be a whole number from 2"):
        recmtl.diff(run, home_run, valid, resamples=1)
    with pytest.raises(SpecError, match=r"has no `data\.sampled`"):
        recmtl.diff(run, home_run, valid, sampled=True)
    with pytest.raises(DataError, match=r"^data: is a list; expected a path, a frame"):
        recmtl.diff(run, home_run, [1])
    wrong = pl.read_parquet(valid).with_columns(click=pl.lit(3))
    with pytest.raises(DataError, match=r"^data, rows 0 to \d+: column `click`: .* neither 0, 1"):
        recmtl.diff(run, home_run, wrong)
