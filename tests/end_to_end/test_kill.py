"""Kill -9 at named points: the same command again ends as if nothing had happened."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recmtl.checkpoint import read_index
from recmtl.run import Run
from recmtl.scoring.writer import PART_ROWS
from tests.kill_points import REPORT, SCORE, SIGNALS, TRAIN, Case
from tests.runs import copied, leftovers, run_differences, score_differences
from tests.server import Server

pytestmark = pytest.mark.slow

SMALL = [
    *("tower=mmoe", "tower.num_experts=2", "tower.expert_widths=[16]", "tower.head_widths=[8]"),
    *("train.batch_size=64", "train.epochs=2", "train.checkpoint_every_steps=5"),
]
"""75 steps an epoch: a line of losses every 3 of them."""


@pytest.fixture(scope="module")
def call() -> Iterator[Server]:
    """`call(point, args...)` -> exit code (that of a killed process is -9) and stderr."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(call: Server, funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, err = call(None, "train", funnel / "spec.yaml", "--out", out, *SMALL)
    assert code == 0, err
    return out


def killed(call: Server, case: Case, *args: object) -> None:
    """Kill the command at each point of a case, then let it end."""
    for point in case.points:
        code, err = call(point, *args)
        assert code == -signal.SIGKILL, f"{point} was not reached: {err}"
    code, err = call(None, *args)
    assert code == 0, err


def chosen(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in cases if c.suite])


@chosen([case for case in TRAIN if not case.overwrite])
def test_training_ends_as_if_it_had_not_been_killed(
    case: Case, call: Server, whole: Path, funnel: Path, tmp_path: Path
) -> None:
    killed(call, case, "train", funnel / "spec.yaml", "--out", tmp_path / "run", *SMALL)
    assert run_differences(tmp_path / "run", whole) == {}
    assert leftovers(tmp_path / "run") == []
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@chosen([case for case in TRAIN if case.overwrite])
def test_overwriting_leaves_the_old_run_or_the_new_one(
    case: Case, call: Server, whole: Path, run: Path, funnel: Path, tmp_path: Path
) -> None:
    old = copied(run, tmp_path).rename(tmp_path / "run")
    before = Run(old).config
    args = ("train", funnel / "spec.yaml", "--out", old, "--overwrite", *SMALL)
    assert call(case.points[0], *args)[0] == -signal.SIGKILL
    assert Run(old).config in (before, Run(whole).config)
    code, err = call(None, *args)
    assert code == 0, err
    assert run_differences(old, whole) == {}
    assert leftovers(old) == []


@pytest.fixture(scope="module")
def log(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows for three parts, each with a number of its own."""
    rows = pl.read_parquet(funnel / "train.parquet")
    copies = -(-(2 * PART_ROWS + 1000) // rows.height)
    numbered = pl.concat([rows] * copies).head(2 * PART_ROWS + 1000).with_row_index("row")
    file = tmp_path_factory.mktemp("log") / "log.parquet"
    numbered.write_parquet(file)
    return file


@pytest.fixture(scope="module")
def scores(call: Server, log: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of a call that nothing disturbed."""
    out = tmp_path_factory.mktemp("scores") / "scores"
    code, err = call(None, "score", run, "--data", log, "--out", out, "--keep", "row,item_id")
    assert code == 0, err
    return out


@chosen(SCORE)
def test_scores_keep_input_order_and_keys_for_one_worker_killed_and_resumed_pitfall_T46(
    case: Case, call: Server, log: Path, run: Path, scores: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    killed(call, case, "score", run, "--data", log, "--out", out, "--keep", "row,item_id")
    assert score_differences(out, scores) == {}
    written = pl.read_parquet(sorted(out.glob("part-*.parquet")))
    keys = pl.read_parquet(log, columns=["row", "item_id"])
    assert_frame_equal(written.select(keys.columns), keys)
    assert written.width == 2 + 3


@chosen(REPORT)
def test_a_report_that_was_killed_leaves_the_run_as_it_was(
    case: Case, call: Server, whole: Path, tmp_path: Path
) -> None:
    run = copied(whole, tmp_path)
    assert call(case.points[0], "report", run)[0] == -signal.SIGKILL
    assert run_differences(run, whole) == {}
    code, err = call(None, "report", run)
    assert code == 0, err
    assert leftovers(run) == []
    Run(run)


ASKED = ("SIGINT in fitting", "SIGTERM in an epoch", "SIGINT in validation", "SIGTERM in the v")


@pytest.mark.parametrize(
    "case", [c for c in SIGNALS if c.name.startswith(ASKED)], ids=lambda case: case.name
)
def test_a_signal_ends_training_with_130_in_every_phase(
    case: Case, call: Server, whole: Path, funnel: Path, tmp_path: Path
) -> None:
    args = ("train", funnel / "spec.yaml", "--out", tmp_path / "run", *SMALL)
    code, err = call(case.points[0], *args)
    assert code == 130, err
    assert "goes on from here" in err
    assert "Traceback" not in err
    if case.name.endswith("an epoch"):
        assert read_index(tmp_path / "run/checkpoints").last == "step-00000018"
    elif case.name.endswith("fitting"):
        assert list(tmp_path.iterdir()) == []
    code, err = call(None, *args)
    assert code == 0, err
    assert run_differences(tmp_path / "run", whole) == {}


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_scoring_and_reports_with_130(
    number: str, call: Server, log: Path, run: Path, scores: Path, tmp_path: Path
) -> None:
    args = ("score", run, "--data", log, "--out", tmp_path / "scores", "--keep", "row,item_id")
    logits = {"at": "recmtl.scoring.scorer:BatchScorer.scores", "nth": 2, "signal": number}
    code, err = call(logits, *args)
    assert (code, "Traceback" in err) == (130, False), err
    assert [p.name for p in (tmp_path / "scores").glob("*")] == [".scoring.json"] or (
        sorted(p.name for p in (tmp_path / "scores").glob("part*")) == ["part-00000.parquet"]
    )
    code, err = call(None, *args)
    assert code == 0, err
    assert score_differences(tmp_path / "scores", scores) == {}
    copy = copied(run, tmp_path)
    code, err = call({"at": "recmtl.report.plots:lines_plot", "signal": number}, "report", copy)
    assert (code, "Traceback" in err) == (130, False), err
    assert not (copy / "report.html").exists()
