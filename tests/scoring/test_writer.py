"""score: rows out equal rows in, in order; a killed call is continued to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recmtl.errors import CheckpointError, DataError, SpecError
from recmtl.scoring import BatchScorer, score, writer


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(writer, "PART_ROWS", 100)
    return 100


def parts(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("part-*.parquet"))}


def test_parts_hold_all_rows_in_order(
    run: Path, funnel: Path, tmp_path: Path, small_parts: int
) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    result = score(run, funnel / "test.parquet", tmp_path / "scores")
    assert (result.rows, result.parts) == (rows.height, -(-rows.height // small_parts))
    names = [f"part-{p:05d}.parquet" for p in range(result.parts)]
    assert list(parts(tmp_path / "scores")) == names
    written = pl.concat([pl.read_parquet(tmp_path / "scores" / name) for name in names])
    assert_frame_equal(written, BatchScorer(run)(rows), rel_tol=0, abs_tol=1e-6)


def test_the_manifest_says_what_was_scored(run: Path, funnel: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    unknown = rows.with_columns(
        item_id=pl.when(pl.int_range(pl.len()) < 5).then(-1).otherwise("item_id")
    )
    unknown.write_parquet(tmp_path / "log.parquet")
    score(run, tmp_path / "log.parquet", tmp_path / "scores", keep=["item_id"])
    manifest = json.loads((tmp_path / "scores/manifest.json").read_text())
    known = BatchScorer(run).encoders.encode(rows.slice(5), labels=False)
    unseen = int((known.ids_FB[BatchScorer(run).encoders.single.index("item_id")] == 0).sum())
    assert manifest["rows"] == rows.height
    assert manifest["columns"] == ["item_id", "probs_ctr", "probs_cvr", "probs_ctcvr"]
    assert manifest["features"]["item_id"] == {"values": rows.height, "nulls": 0, "oov": unseen + 5}
    assert sorted(os.listdir(tmp_path / "scores")) == ["manifest.json", "part-00000.parquet"]


def test_an_interrupted_call_is_continued_to_the_same_bytes(
    run: Path, funnel: Path, tmp_path: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(run, funnel / "test.parquet", tmp_path / "whole")
    scores, calls = BatchScorer.scores, []

    def stopped(self: BatchScorer, *args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scores(self, *args, **kwargs)

    monkeypatch.setattr(BatchScorer, "scores", stopped)
    out = tmp_path / "killed[1]*"  # no glob
    with pytest.raises(KeyboardInterrupt):
        score(run, funnel / "test.parquet", out)
    assert len(parts(out)) == 2
    assert not (out / "manifest.json").exists()
    monkeypatch.setattr(BatchScorer, "scores", scores)
    score(run, funnel / "test.parquet", out)
    assert parts(out) == parts(tmp_path / "whole")
    manifests = [(folder / "manifest.json").read_text() for folder in (tmp_path / "whole", out)]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_a_killed_process_is_continued_to_the_same_bytes(
    run: Path, funnel: Path, tmp_path: Path
) -> None:
    rows = pl.read_parquet(funnel / "train.parquet")
    pl.concat([rows] * 60).write_parquet(tmp_path / "log.parquet")
    command = [
        sys.executable,
        "-m",
        "recmtl",
        "score",
        str(run),
        "--data",
        str(tmp_path / "log.parquet"),
    ]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "killed")], stderr=subprocess.DEVNULL
    )
    first = tmp_path / "killed/part-00000.parquet"
    while not first.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/manifest.json").exists()
    subprocess.run([*command, "--out", str(tmp_path / "killed")], check=True, capture_output=True)
    assert parts(tmp_path / "killed") == parts(tmp_path / "whole")


def test_a_finished_call_has_nothing_left_to_do(run: Path, funnel: Path, tmp_path: Path) -> None:
    first = score(run, funnel / "test.parquet", tmp_path / "scores")
    again = score(run, funnel / "test.parquet", tmp_path / "scores")
    assert (again.rows, again.parts, again.rows_per_s) == (first.rows, first.parts, 0.0)


def test_scores_of_other_data_are_not_mixed_in(run: Path, funnel: Path, tmp_path: Path) -> None:
    score(run, funnel / "test.parquet", tmp_path / "scores")
    with pytest.raises(CheckpointError, match="holds scores with other data"):
        score(run, funnel / "valid.parquet", tmp_path / "scores")
    with pytest.raises(CheckpointError, match="holds scores with other kept columns"):
        score(run, funnel / "test.parquet", tmp_path / "scores", keep=["price"])
    with pytest.raises(CheckpointError, match="holds scores with tables of another precision"):
        score(run, funnel / "test.parquet", tmp_path / "scores", tables="int8")
    with pytest.raises(CheckpointError, match=r"with other data, other kept columns\. Choose"):
        score(run, funnel / "valid.parquet", tmp_path / "scores", keep=["price"])
    again = score(run, funnel / "test.parquet", tmp_path / "scores", calibrated=False)
    assert again.rows_per_s == 0.0  # of a run without calibrators they are the same scores


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_a_threshold_is_a_number_above_0(
    run: Path, funnel: Path, tmp_path: Path, threshold: float
) -> None:
    with pytest.raises(SpecError, match="`drift_threshold` must be a number above 0"):
        score(run, funnel / "test.parquet", tmp_path / "scores", drift_threshold=threshold)
    assert not (tmp_path / "scores").exists()


def test_a_log_without_any_list_is_scored(run: Path, funnel: Path, tmp_path: Path) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    for name, dtype in (("untyped", pl.Null), ("typed", rows["history"].dtype)):
        nothing = pl.lit(None).cast(dtype).alias("history")
        rows.with_columns(nothing).write_parquet(tmp_path / f"{name}.parquet")
        score(run, tmp_path / f"{name}.parquet", tmp_path / name)
    untyped, typed = (
        pl.read_parquet(tmp_path / name / "part-00000.parquet") for name in ("untyped", "typed")
    )
    assert untyped.equals(typed)


@pytest.mark.parametrize("how", ["cut", "a byte", "of another model"])
def test_a_damaged_part_is_named(how: str, run: Path, funnel: Path, tmp_path: Path) -> None:
    score(run, funnel / "test.parquet", tmp_path / "scores")
    part = tmp_path / "scores/part-00000.parquet"
    content = bytearray(part.read_bytes())
    if how == "cut":
        del content[-20:]
    elif how == "a byte":
        content[len(content) // 2] ^= 1
    else:
        score(run, funnel / "test.parquet", tmp_path / "other", tables="int8")
        content = bytearray((tmp_path / "other/part-00000.parquet").read_bytes())
    part.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"part-00000\.parquet: is corrupt, or not the file"):
        score(run, funnel / "test.parquet", tmp_path / "scores")


def test_a_part_that_came_from_elsewhere_is_scored_again(
    run: Path, funnel: Path, tmp_path: Path
) -> None:
    for tables in ("fp32", "int8"):
        score(run, funnel / "test.parquet", tmp_path / tables, tables=tables)
    manifest = json.loads((tmp_path / "fp32/manifest.json").read_text())
    right = (tmp_path / "fp32/part-00000.parquet").read_bytes()
    for name in ("fp32/manifest.json", "fp32/part-00000.parquet"):
        (tmp_path / name).unlink()
    (tmp_path / "fp32/.scoring.json").write_text(json.dumps({**manifest, "files": {}}))
    shutil.copy(tmp_path / "int8/part-00000.parquet", tmp_path / "fp32/part-00000.parquet")
    score(run, funnel / "test.parquet", tmp_path / "fp32")
    assert (tmp_path / "fp32/part-00000.parquet").read_bytes() == right


def test_a_call_that_failed_before_its_first_part_leaves_the_place_free(
    run: Path, funnel: Path, tmp_path: Path
) -> None:
    rows = pl.read_parquet(funnel / "test.parquet")
    wrong, out = tmp_path / "wrong.parquet", tmp_path / "scores"
    rows.with_columns(pl.lit("x").alias("brand")).write_parquet(wrong)
    with pytest.raises(DataError, match=r"wrong\.parquet: column `brand` is String"):
        score(run, wrong, out)
    assert not out.exists()
    rows.with_columns(price=-5.0).write_parquet(wrong)
    with pytest.raises(
        DataError, match=r"wrong\.parquet, rows 0 to \d+: column `price`: .* negative"
    ):
        score(run, wrong, out)
    assert sorted(os.listdir(out)) == [".scoring.json"]
    assert score(run, funnel / "test.parquet", out).rows == rows.height


def test_a_kept_column_must_not_be_called_like_a_score(
    run: Path, funnel: Path, tmp_path: Path
) -> None:
    rows = pl.read_parquet(funnel / "test.parquet").with_columns(probs_ctr=pl.lit(0.0))
    rows.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(SpecError, match="`probs_ctr`"):
        score(run, tmp_path / "log.parquet", tmp_path / "scores", keep=["probs_ctr"])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "a model of another tool"}'])
def test_a_manifest_of_something_else_is_left_alone(
    run: Path, funnel: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match="holds something else than scores"):
        score(run, funnel / "test.parquet", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["manifest.json"]


def test_a_column_that_is_kept_twice_comes_once(run: Path, funnel: Path, tmp_path: Path) -> None:
    score(run, funnel / "test.parquet", tmp_path / "scores", keep=["item_id", "item_id"])
    written = pl.read_parquet(tmp_path / "scores/part-00000.parquet")
    assert written.columns[:2] == ["item_id", "probs_ctr"]
