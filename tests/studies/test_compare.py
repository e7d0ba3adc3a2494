"""`recmtl compare` from end to end, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import recmtl
from recmtl import evaluate
from recmtl.errors import CheckpointError, DataError, SpecError
from tests.runs import run_differences
from tests.studies.worlds import SPEC, write_world

HOME = Path(recmtl.__file__).parents[1]
OPTIONS: dict[str, Any] = {"towers": ["mmoe"], "seeds": 2, "jobs": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture(scope="module")
def summary(world: Path) -> dict[str, Any]:
    """A comparison that nothing disturbed; most tests look at it or call it again."""
    test = world / "test.parquet"
    return recmtl.compare(world / "spec.yaml", out=world / "out", test=test, **OPTIONS)


def again(world: Path, **changes: Any) -> dict[str, Any]:
    given = {"out": world / "out", "test": world / "test.parquet", **OPTIONS, **changes}
    return recmtl.compare(world / "spec.yaml", **given)


def told(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what depends on time."""
    return {
        "tasks": summary["tasks"],
        "contestants": {c["name"]: c["tasks"] for c in summary["contestants"]},
        "failed": summary["failed"],
    }


@pytest.mark.slow
def test_metrics_are_those_of_eval(world: Path, summary: dict[str, Any]) -> None:
    contestants = {c["name"]: c for c in summary["contestants"]}
    assert list(contestants) == ["mmoe-tasks", "single_task", "additive"]
    for name, model in (("mmoe-tasks", "mmoe-tasks"), ("single_task", "single_task-cvr")):
        by_seed = [
            evaluate(world / f"out/runs/{model}-{seed}", world / "test.parquet")["tasks"]["cvr"]
            for seed in range(2)
        ]
        own = contestants[name]["tasks"]["cvr"]
        assert list(own["by_seed"].values()) == pytest.approx([m["auc"] for m in by_seed])
        assert own["metrics"]["ne"] == pytest.approx(sum(m["ne"] for m in by_seed) / 2)
        assert own["metrics"]["gauc"] == pytest.approx(sum(m["gauc"] for m in by_seed) / 2)
    clicks = int(pl.read_parquet(world / "test.parquet")["click"].sum())
    assert summary["tasks"]["cvr"]["n"] == clicks
    assert summary["groups"] == {"by": "user", "count": 40}
    assert not summary["failed"]


@pytest.mark.slow
def test_what_is_written_is_what_is_returned(world: Path, summary: dict[str, Any]) -> None:
    assert json.loads((world / "out/compare.json").read_text()) == summary
    markdown = (world / "out/compare.md").read_text()
    assert f"`recmtl compare {world / 'spec.yaml'} --towers mmoe --seeds 2" in markdown
    assert "validation rows" not in markdown.split("| contestant")[0]
    assert "<svg" in (world / "out/compare.html").read_text()


@pytest.mark.slow
def test_a_finished_comparison_trains_nothing_again(
    world: Path, summary: dict[str, Any], recmtl_cli: Any
) -> None:
    """And the command line says what Python says."""
    states = {file: file.stat().st_mtime_ns for file in (world / "out/runs").rglob("*")}
    options = ["--towers", "mmoe", "--seeds", "2", "--jobs", "1"]
    where = ["--test", world / "test.parquet", "--out", world / "out"]
    code, out, err = recmtl_cli("compare", world / "spec.yaml", *options, *where, "--json")
    assert code == 0
    assert told(json.loads(out)) == told(summary)
    assert "train" not in err
    assert {f: f.stat().st_mtime_ns for f in (world / "out/runs").rglob("*")} == states
    code, out, err = recmtl_cli("compare", world / "spec.yaml", *options, *where)
    assert code == 0
    assert out.splitlines()[0].startswith("contestant")
    assert "single_task" in out


@pytest.mark.slow
def test_other_specs_and_rows_are_refused(world: Path, summary: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"started with another spec: `train\.lr` differ"):
        again(world, overrides=["train.lr=0.5"])
    with pytest.raises(CheckpointError, match=r"`tower\.num_experts` differ"):
        again(world, overrides=["tower.num_experts=3"])
    with pytest.raises(CheckpointError, match="started on other test rows"):
        again(world, test=world / "valid.parquet")
    assert told(again(world)) == told(summary)


@pytest.mark.slow
def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path: Path, recmtl_cli: Any) -> None:
    """DTRN compares a sequence's items with a feature of the same table, and there is none."""
    seen = "  - {name: seen, type: sequence, vocab: {}, dim: 4, max_len: 3}\n"
    world = write_world(tmp_path, SPEC.replace("tasks:\n", f"{seen}tasks:\n")).parent
    for part in ("train", "valid"):
        frame = pl.read_parquet(world / f"{part}.parquet")
        frame.with_columns(seen=pl.concat_list("item")).write_parquet(world / f"{part}.parquet")
    out = world / "failing"
    options = ["--towers", "mmoe,dtrn", "--seeds", "1", "--no-baselines"]
    code, text, err = recmtl_cli("compare", world / "spec.yaml", *options, "--out", out)
    assert code == 2
    assert "dtrn-tasks-0 failed: SpecError: " in err
    assert "needs a target" in err
    found = json.loads((out / "compare.json").read_text())
    assert [failure["name"] for failure in found["failed"]] == ["dtrn-tasks-0"]
    contestants = {c["name"]: c for c in found["contestants"]}
    assert contestants["mmoe-tasks"]["tasks"]["ctr"]["mean"] is not None
    assert not contestants["dtrn-tasks"]["tasks"]
    assert "Judged on the validation rows" in text
    assert "Failed: dtrn-tasks-0" in text
    with pytest.raises(SpecError, match="None of 1 runs came to its end"):
        recmtl.compare(
            world / "spec.yaml", out=world / "none", towers=["dtrn"], seeds=1, baselines=False
        )


def processes_of(folder: Path) -> list[int]:
    """Processes, of whatever parent, whose command line names a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder) in (place / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(place.name))
    return [number for number in found if number != os.getpid()]


@pytest.mark.slow
def test_a_call_that_is_ended_goes_on(world: Path, summary: dict[str, Any], tmp_path: Path) -> None:
    """Ended by a signal in its first run, killed in its second one."""
    out = tmp_path / "ended"
    options = ["--towers", "mmoe", "--seeds", "2", "--jobs", "1", "--no-baselines"]
    command = [sys.executable, "-m", "recmtl", "compare", str(world / "spec.yaml")]
    for name, how, expected_code in (
        ("mmoe-tasks-0", signal.SIGTERM, 130),
        ("mmoe-tasks-1", signal.SIGKILL, -signal.SIGKILL),
    ):
        process = subprocess.Popen(
            [*command, *options, "--test", str(world / "test.parquet"), "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(HOME)},
            start_new_session=True,
        )
        begun, until = out / "runs" / name / "metrics.jsonl", time.monotonic() + 120
        while not begun.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it was to be ended"
        process.send_signal(how)
        assert process.wait(90) == expected_code
        while processes_of(out) and time.monotonic() < until:
            time.sleep(0.05)
        assert processes_of(out) == []
        assert not (out / "compare.json").exists()
    resumed = again(world, out=out, baselines=False)
    own, expected = (s["contestants"][0]["tasks"] for s in (resumed, summary))
    for task in ("ctr", "cvr"):
        same = {key: own[task][key] for key in ("mean", "half_width", "by_seed", "metrics")}
        assert same == {key: expected[task][key] for key in same}
    for run in sorted((out / "runs").iterdir()):
        assert run_differences(run, world / "out/runs" / run.name) == {}, run.name


def test_what_is_wrong_is_said_before_anything_is_written(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def call(**changes: Any) -> None:
        again(world, out=out, **changes)

    with pytest.raises(SpecError, match=r"`plee` is none of .* Did you mean `ple`\?"):
        call(towers=["plee"])
    for seeds in (0, -1, 1.5, True, 101):
        with pytest.raises(SpecError, match=r"^seeds: must be a whole number from 1 to 100"):
            call(seeds=seeds)
    with pytest.raises(SpecError, match=r"^jobs: must be a whole number from 1 to"):
        call(jobs=10_000)
    with pytest.raises(DataError, match=r"nowhere\.parquet"):
        call(test=tmp_path / "nowhere.parquet")
    unlabelled = tmp_path / "unlabelled.parquet"
    pl.read_parquet(world / "test.parquet").drop("buy").write_parquet(unlabelled)
    with pytest.raises(DataError, match="column `buy`"):
        call(test=unlabelled)
    with pytest.raises(SpecError, match="nothing to judge on"):
        call(test=None, overrides=["data.valid=null"])
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SpecError, match="exists and is no comparison"):
        call()
    assert [file.name for file in out.iterdir()] == ["notes.txt"]
