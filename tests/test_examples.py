"""The examples run as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*command: object, cwd: Path, **more: str) -> str:
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "OMP_WAIT_POLICY": "PASSIVE",
        **more,
    }
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_tower_in_plain_pytorch_learns(tmp_path: Path) -> None:
    before, after = map(
        float,
        run(sys.executable, EXAMPLES / "03_tower_in_plain_pytorch.py", cwd=tmp_path).split()[1::2],
    )
    assert after < before - 0.02


@pytest.mark.slow
def test_command_line_then_lightning_then_folder(tmp_path: Path) -> None:
    run("bash", EXAMPLES / "01_train_from_the_command_line.sh", "work", 10_000, cwd=tmp_path)
    assert (tmp_path / "work/run/report.html").stat().st_size > 50_000
    run(
        sys.executable,
        EXAMPLES / "02_train_with_lightning.py",
        "work/data/spec.yaml",
        "lightning",
        cwd=tmp_path,
    )
    run(
        sys.executable,
        EXAMPLES / "04_score_a_folder.py",
        "work/run",
        "work/data",
        "folder",
        cwd=tmp_path,
        OMP_NUM_THREADS="1",  # as `recmtl score` computes: to the last bit
    )
    by_command = pl.read_parquet(tmp_path / "work/scores/part-00000.parquet")
    by_script = pl.read_parquet(tmp_path / "folder/test.parquet")
    assert by_script.equals(by_command)


@pytest.mark.slow
def test_the_nightly_job_scores_goes_on_and_stops_at_drift(
    funnel: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    trained = request.getfixturevalue("run")
    job = EXAMPLES / "batch/cron.sh"
    rows = pl.read_parquet(funnel / "test.parquet")
    for day, frame in (("1", rows), ("2", rows.with_columns(pl.col("price") * 4))):
        (tmp_path / "logs" / day).mkdir(parents=True)
        frame.write_parquet(tmp_path / "logs" / day / "log.parquet")
    for _ in range(2):
        run("bash", job, trained, "logs", "scores", cwd=tmp_path, DAY="1", WORKERS="2")
        latest = tmp_path / "scores/latest"
        assert latest.resolve() == tmp_path / "scores/1"
        assert pl.read_parquet(latest / "*.parquet").height == rows.height
    with pytest.raises(AssertionError, match=r"drifted by more than 0\.2: feature `price`"):
        run("bash", job, trained, "logs", "scores", cwd=tmp_path, DAY="2", WORKERS="1")
    assert latest.resolve() == tmp_path / "scores/1"
    assert pl.read_parquet(tmp_path / "scores/2/*.parquet").height == rows.height
