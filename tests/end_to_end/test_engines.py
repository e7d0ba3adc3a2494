"""The batch jobs of `examples/batch`, on Ray and Spark themselves: the scores of `recmtl score`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal

from recmtl.scoring import BatchScorer, score

pytestmark = [pytest.mark.engines, pytest.mark.multiprocess]

JOBS = Path(__file__).parents[2] / "examples/batch"
KEYS = ["row", "item_id"]
ROWS = 5_000
WAIT_S = 1_200


def needs(package: str, program: str | None = None) -> pytest.MarkDecorator:
    """Skip where an engine is absent."""
    is_there = importlib.util.find_spec(package) is not None
    reason = f"needs `{package}`: pip install 'recmtl[engines]', or `make check-engines`"
    if is_there and program is not None and shutil.which(program) is None:
        is_there, reason = False, f"`{package}` needs `{program}` on the PATH"
    return pytest.mark.skipif(not is_there, reason=reason)


needs_ray, needs_spark = needs("ray"), needs("pyspark", "java")


@pytest.fixture(scope="module")
def log(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with numbers of their own, in one file and one row group."""
    rows = pl.read_parquet(funnel / "train.parquet")
    file = tmp_path_factory.mktemp("log") / "log.parquet"
    rows.sample(ROWS, with_replacement=True, seed=0).with_row_index("row").write_parquet(file)
    return file


@pytest.fixture(scope="module")
def scores(run: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """What `recmtl score` says."""
    out = tmp_path_factory.mktemp("scores") / "scores"
    score(run, log, out, keep=KEYS)
    return pl.read_parquet(out / "part-00000.parquet")


def start(job: str, *args: object) -> subprocess.Popen[str]:
    """A job, as a user starts it."""
    environment = {**os.environ, "RAY_DEDUP_LOGS": "0"}
    environment |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        [sys.executable, str(JOBS / job), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def ended(process: subprocess.Popen[str], out: Path) -> pl.DataFrame:
    """What a job wrote, in the order of the log."""
    try:
        said, _ = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    assert process.returncode == 0, said
    return pl.read_parquet(sorted(out.rglob("*.parquet"))).sort("row")


def require_equal(found: pl.DataFrame, scores: pl.DataFrame, *, exact: bool) -> None:
    """The same rows and keys; scores to the last bit, or within 1e-6."""
    found = found.select(scores.columns).cast(dict(scores.schema))  # Spark has no unsigned integers
    assert_frame_equal(found.select(KEYS), scores.select(KEYS))
    columns = [column for column in scores.columns if column not in KEYS]
    for column in columns:
        ours, theirs = found[column].to_numpy(), scores[column].to_numpy()
        if exact:
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@needs_ray
@pytest.mark.parametrize(("batch_rows", "exact"), [(4096, True), (1_000, False)])
def test_ray_scores_as_the_command_does(
    batch_rows: int, exact: bool, run: Path, log: Path, scores: pl.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = ("ray_job.py", run, log, out, "--keep", ",".join(KEYS), "--actors", 1)
    found = ended(start(*job, "--batch-rows", batch_rows), out)
    require_equal(found, scores, exact=exact)


@needs_ray
def test_a_ray_actor_that_is_killed_is_replaced(
    run: Path, log: Path, scores: pl.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(
        *("ray_job.py", run, log, out, "--keep", ",".join(KEYS)),
        *("--actors", 1, "--batch-rows", 1_000),
    )
    kill_one(process, lambda child: "MapWorker" in words(child))
    require_equal(ended(process, out), scores, exact=False)


@needs_ray
def test_ray_adds_nothing_to_scores_that_are_there(run: Path, log: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    process = start("ray_job.py", run, log, tmp_path / "out", "--actors", 1)
    said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode != 0
    assert "already exists" in said
    assert list((tmp_path / "out").iterdir()) == []


@needs_ray
def test_ray_sends_a_scorer_to_its_tasks(run: Path, log: Path, scores: pl.DataFrame) -> None:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        call = ray.remote(lambda scorer, rows: scorer(rows))
        table = pl.read_parquet(log).to_arrow()
        found = ray.get(call.remote(BatchScorer(run, keep=KEYS), table))
    finally:
        ray.shutdown()
    require_equal(pl.DataFrame(found), scores, exact=False)


@needs_spark
@pytest.mark.parametrize(("batch_rows", "exact"), [(4096, True), (1_000, False)])
def test_spark_scores_as_the_command_does(
    batch_rows: int, exact: bool, run: Path, log: Path, scores: pl.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = ("spark_job.py", run, log, out, "--keep", ",".join(KEYS))
    found = ended(start(*job, "--batch-rows", batch_rows), out)
    assert (out / "_SUCCESS").exists()
    require_equal(found, scores, exact=exact)


@needs_spark
def test_the_task_of_a_spark_worker_that_is_killed_is_repeated(
    run: Path, log: Path, scores: pl.DataFrame, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(
        *("spark_job.py", run, log, out, "--keep", ",".join(KEYS)),
        *("--batch-rows", 1_000),
    )

    def is_worker(child: psutil.Process) -> bool:  # forked by a daemon of the same words
        parent = child.parent()
        return parent is not None and all("pyspark.daemon" in words(p) for p in (child, parent))

    kill_one(process, is_worker)
    require_equal(ended(process, out), scores, exact=False)


def words(process: psutil.Process) -> str:
    """What a process was started with, or calls itself."""
    return " ".join(process.cmdline())


def kill_one(process: subprocess.Popen[str], is_meant: Callable[[psutil.Process], bool]) -> None:
    """Kill -9 a process that a job started, as soon as it is there."""
    until = time.monotonic() + WAIT_S
    while process.poll() is None and time.monotonic() < until:
        with suppress(psutil.Error):  # one that is gone by now
            for child in psutil.Process(process.pid).children(recursive=True):
                if is_meant(child):
                    child.kill()
                    return
        time.sleep(0.05)
    pytest.fail(f"no such process was there: {process.communicate(timeout=WAIT_S)[0]}")
