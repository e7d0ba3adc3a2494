"""`recmtl backtest` from end to end, in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import recmtl
from recmtl import evaluate
from recmtl.cli import main
from recmtl.errors import CheckpointError, DataError, SpecError
from recmtl.run import Run
from recmtl.studies.backtest_pages import as_html, as_markdown, as_text
from recmtl.studies.backtest_table import over_days
from tests.studies.worlds import SPEC, log

HOME = Path(recmtl.__file__).parents[1]
QUICK = ["train.epochs=1"]


def write_days(folder: Path, num_days: int = 3, rows: int = 200) -> Path:
    """A log of several days in no order, without the third day of four."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [number + (number > 1) for number in range(num_days)]
    frames = [
        log(rows + 10 * number, number).with_columns(day=pl.lit(f"2025-01-0{number + 1}"))
        for number in numbers
    ]
    frame = pl.concat(frames).with_columns(pl.col("day").str.to_date())
    lost = pl.Series(np.arange(frame.height) == 17)
    frame = frame.with_columns(day=pl.when(lost).then(None).otherwise(pl.col("day")))
    frame.sample(fraction=1.0, shuffle=True, seed=0).write_parquet(folder / "train.parquet")
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return folder / "spec.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_days(folder)
    return folder


@pytest.fixture(scope="module")
def summary(world: Path) -> dict[str, Any]:
    """A backtest that nothing disturbed; most tests look at it or call it again."""
    return again(world, fresh=True, keep=True)


def again(world: Path, **changes: Any) -> dict[str, Any]:
    given = {"out": world / "out", "by": "day", "overrides": QUICK, **changes}
    return recmtl.backtest(world / "spec.yaml", **given)


def told(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what depends on time or on how it was called."""
    return {key: summary[key] for key in ("days", "tasks", "first_days", "notes", "contestants")}


@pytest.mark.slow
def test_each_day_is_scored_by_what_was_trained_before_it(
    world: Path, summary: dict[str, Any]
) -> None:
    """Metrics are those of `eval`; runs are those of `train`, by hand."""
    assert [day["day"] for day in summary["days"]] == ["2025-01-02", "2025-01-04"]
    assert [day["rows"] for day in summary["days"]] == [210, 230]
    first, second = summary["days"]
    assert first["tasks"]["ctr"]["warm"] == first["tasks"]["ctr"]["frozen"]
    assert second["tasks"]["ctr"]["warm"] != second["tasks"]["ctr"]["frozen"]
    frame = pl.read_parquet(world / "train.parquet")
    days = [frame.filter(pl.col("day").cast(pl.String) == f"2025-01-0{n}") for n in (1, 2, 4)]
    runs = {"frozen": "frozen", "warm": "warm-0001", "fresh": "fresh-0001"}
    for who, run in runs.items():
        expected = evaluate(world / "out/runs" / run, days[2])["tasks"]
        found = {task: by[who] for task, by in second["tasks"].items()}
        assert found == expected
    warm, fresh = (Run(world / "out/runs" / runs[who]) for who in ("warm", "fresh"))
    assert warm.warm_start is not None
    assert warm.warm_start["model"] == second["models"]["frozen"]
    assert warm.encoders.num_rows == 210
    assert fresh.warm_start is None
    assert fresh.encoders.num_rows == 199 + 210  # a row of the first day has lost its date
    assert not (world / "out/runs/warm-0002").exists()


@pytest.mark.slow
def test_what_there_is_to_know_of_the_days_is_said(summary: dict[str, Any]) -> None:
    assert summary["notes"] == [
        "1 rows have no `day`; they are left out.",
        "No rows of 2025-01-03: the day after is scored with what was trained up to the last day"
        " before.",
    ]
    assert summary["first_days"] == ["2025-01-01"]


@pytest.mark.slow
def test_what_is_written_is_what_is_returned(world: Path, summary: dict[str, Any]) -> None:
    assert json.loads((world / "out/backtest.json").read_text()) == summary
    assert (world / "out/backtest.md").read_text() == as_markdown(summary)
    page = (world / "out/backtest.html").read_text()
    assert page.count("<svg") == len(summary["tasks"])
    assert not re.search(r"<script|https?://", page)


@pytest.mark.slow
def test_a_finished_backtest_trains_nothing_again(
    world: Path, summary: dict[str, Any], recmtl_cli: Any
) -> None:
    states = {file: file.stat().st_mtime_ns for file in (world / "out/runs").rglob("*")}
    options = ["--by", "day", "--fresh", "--keep", "--out", world / "out", *QUICK, "--json"]
    code, out, err = recmtl_cli("backtest", world / "spec.yaml", *options)
    assert code == 0
    assert told(json.loads(out)) == told(summary)
    assert "rows have no `day`" in err
    assert {f: f.stat().st_mtime_ns for f in (world / "out/runs").rglob("*")} == states


@pytest.mark.slow
def test_another_question_is_refused(world: Path, summary: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"started with another spec: `train\.lr` differ"):
        again(world, overrides=[*QUICK, "train.lr=0.5"])
    with pytest.raises(CheckpointError, match="was started with `--first 1`"):
        again(world, first=2)
    with pytest.raises(CheckpointError, match="was started with `--optimizer-state keep`"):
        again(world, optimizer_state="reset")
    other = write_days(tmp_path, num_days=2).parent
    with pytest.raises(CheckpointError, match="started on other data"):
        again(world, data=other)
    assert told(again(world, fresh=True)) == told(summary)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(
    world: Path, summary: dict[str, Any], tmp_path: Path
) -> None:
    """Runs that nothing goes on from are gone in the end, and every number is the same."""
    command = [sys.executable, "-m", "recmtl", "backtest", world / "spec.yaml", "--by", "day"]
    command += ["--fresh", "--out", tmp_path / "out", *QUICK, "--json"]
    env = {**os.environ, "PYTHONPATH": str(HOME)}
    for wanted in ("runs/frozen/run.json", "metrics", "runs/warm-0001/checkpoints/index.json"):
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (tmp_path / "out" / wanted).exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, check=True)
    assert told(json.loads(done.stdout)) == told(summary)
    runs = sorted(path.name for path in (tmp_path / "out/runs").iterdir())
    assert runs == ["fresh-0001", "frozen", "warm-0001"]


@pytest.mark.slow
def test_a_day_without_a_class_is_scored_and_trained_on(tmp_path: Path) -> None:
    """No click on the second day: CVR is observed nowhere, and the third day goes on from it."""
    spec = write_days(tmp_path, num_days=3)
    frame = pl.read_parquet(tmp_path / "train.parquet")
    is_second = pl.col("day").cast(pl.String) == "2025-01-02"
    no = pl.when(is_second).then(0)
    frame.with_columns(
        no.otherwise(pl.col("click")).alias("click"), no.otherwise(pl.col("buy")).alias("buy")
    ).write_parquet(tmp_path / "train.parquet")
    found = recmtl.backtest(spec, by="day", out=tmp_path / "out", overrides=QUICK)
    first, second = found["days"]
    assert first["tasks"]["ctr"]["frozen"]["auc"] is None
    assert second["tasks"]["cvr"]["warm"]["auc"] is not None
    assert found["tasks"]["cvr"]["days"] == 1
    text = "\n".join(as_text(found))
    assert "2025-01-02: the AUC of `ctr` is not defined on its 210 rows, 0 positive." in text
    assert "2025-01-02: the AUC of `cvr` is not defined on its 0 rows, 0 positive." in text


@pytest.mark.slow
def test_a_day_that_cannot_be_trained_on_is_named(tmp_path: Path, recmtl_cli: Any) -> None:
    spec = write_days(tmp_path, num_days=3)
    frame = pl.read_parquet(tmp_path / "train.parquet")
    is_first = pl.col("day").cast(pl.String) == "2025-01-01"
    frame.with_columns(
        pl.when(is_first).then(None).otherwise(pl.col("buy")).alias("buy")
    ).write_parquet(tmp_path / "train.parquet")
    code, out, err = recmtl_cli("backtest", spec, "--by", "day", "--out", tmp_path / "out", *QUICK)
    assert (code, out) == (3, "")
    assert "frozen could not be trained up to the day 2025-01-01:" in err
    assert "task `cvr`: no training row" in err


def test_arguments_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    spec = write_days(tmp_path, num_days=2)
    out = tmp_path / "out"
    for error, options, match in (
        (SpecError, {"warm": False}, "there is nothing to compare with"),
        (SpecError, {"first": 0}, "first: must be a whole number from 1"),
        (SpecError, {"optimizer_state": "lost"}, "must be `keep` or `reset`, got 'lost'"),
        (SpecError, {"overrides": ["train.epochs=0"]}, "train.epochs"),
        (DataError, {"first": 2}, "at least 3 days are needed"),
        (DataError, {"by": "dya"}, "Did you mean `day`"),
    ):
        with pytest.raises(error, match=match):
            recmtl.backtest(spec, **{"by": "day", "out": out, **options})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(SpecError, match="exists and is no backtest"):
        recmtl.backtest(spec, by="day", out=tmp_path / "mine")
    assert not out.exists()


def test_the_command_needs_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["backtest", "spec.yaml", "--out", "out"])
    assert ended.value.code == 2
    assert "Missing option '--by'" in capsys.readouterr().err


def one_day(name: str, frozen: float | None, warm: float | None) -> dict[str, Any]:
    counts = {"n": 100, "positives": 10}
    tasks = {"ctr": {"frozen": {**counts, "auc": frozen}, "warm": {**counts, "auc": warm}}}
    return {"day": name, "rows": 100, "tasks": tasks, "contradictions": {"ctr": 0}}


def test_means_and_intervals_over_days(tmp_path: Path) -> None:
    """Against numbers by hand: differences .01, .03 and .02, standard error .01 / sqrt 3."""
    spec = write_days(tmp_path, num_days=2)
    lines = [line for line in spec.read_text().splitlines() if "cvr" not in line]
    spec.write_text("\n".join(lines))
    config = recmtl.load_spec(spec)
    days = [one_day("a", 0.6, 0.61), one_day("b", None, None), one_day("c", 0.5, 0.53)]
    days.append(one_day("d", 0.7, 0.72))
    (about,) = over_days(days, config, ["frozen", "warm"]).values()
    assert about["days"] == 3
    assert about["means"] == {"frozen": pytest.approx(0.6), "warm": pytest.approx(0.62)}
    versus = about["vs_frozen"]["warm"]
    assert versus["value"] == pytest.approx(0.02)
    assert versus["half_width"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert versus["better_days"] == 3
    summary = {
        "name": "shop",
        "by": "day",
        "contestants": ["frozen", "warm"],
        "first_days": ["z"],
        "optimizer_state": "keep",
        "days": days,
        "tasks": {"ctr": about},
        "notes": ["2 rows have no `day`; they are left out."],
        "command": "recmtl backtest",
        "date": "2026-01-01",
        "machine": "m",
        "versions": {"recmtl": "1"},
        "spec": "0",
    }
    text = as_text(summary)
    assert text[1].split() == ["ctr", "a", "100", "10", "AUC", ".6000", ".6100", "+.0100"]
    assert text[2].split() == ["ctr", "b", "100", "10", "AUC", "-", "-", "-"]
    assert text[5].split() == ["ctr", "mean", "AUC", ".6000", ".6200", "+.0200"]
    assert "a difference of +.0200 ± .0248; better on 3 of 3 days." in text[7]
    assert "is not defined on its 100 rows, 10 positive" in text[-1]
    assert "| ctr | c | 100 | 10 | AUC | .5000 | .5300 | +.0300 |" in as_markdown(summary)
    assert as_html(summary).count("<svg") == 1
