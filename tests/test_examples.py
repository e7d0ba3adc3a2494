"""The examples run as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(*command: object, cwd: Path) -> str:
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "OMP_WAIT_POLICY": "PASSIVE",
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
    )
    by_command = pl.read_parquet(tmp_path / "work/scores/part-00000.parquet")
    by_script = pl.read_parquet(tmp_path / "folder/test.parquet")
    assert by_script.equals(by_command)
