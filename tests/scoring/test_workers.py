"""score with several workers: the same bytes, whoever scored what, and nothing left of any end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import torch
from polars.testing import assert_frame_equal

from recmtl._files import exclusive
from recmtl.errors import DataError, RecMTLError, SpecError
from recmtl.run import Run
from recmtl.scoring import score, writer
from recmtl.scoring.parts import Job, write_parts
from recmtl.scoring.workers import Shares
from tests.runs import score_differences

KEYS = ["row", "item_id"]
PARTS = 12


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 100)


@pytest.fixture(scope="module")
def log(funnel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of twelve small parts, each with a number of its own."""
    file = tmp_path_factory.mktemp("log") / "log.parquet"
    rows = pl.read_parquet(funnel / "train.parquet").head(100 * PARTS - 17)
    rows.with_row_index("row").write_parquet(file)
    return file


@pytest.fixture
def scores(run: Path, log: Path, tmp_path: Path) -> Path:
    """What one worker leaves."""
    score(run, log, tmp_path / "scores", keep=KEYS)
    return tmp_path / "scores"


class Hearing:
    """A bar that tells how often it moved."""

    def __init__(self, hear: Callable[[int], None]) -> None:
        self.hear, self.moves = hear, 0

    def advance(self, n: int = 1, **shown: object) -> None:
        self.moves += 1
        self.hear(self.moves)


def hearing(hear: Callable[[int], None]) -> Any:
    """A progress with such a bar."""
    return lambda *_, **__: nullcontext(Hearing(hear))


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def parts_of(folder: Path) -> list[int]:
    return sorted(int(file.stem[-5:]) for file in folder.glob("part-*.parquet"))


def others_first(out: Path, workers: int) -> Any:
    """This process waits until each of the others has written a part."""
    firsts = {PARTS * worker // workers for worker in range(1, workers)}

    def hear(moves: int) -> None:
        if moves == 1:
            until(lambda: firsts <= {*parts_of(out)})

    return hearing(hear)


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if any("scoring/worker.py" in word for word in child.cmdline())
    ]


def require_keys(out: Path, log: Path) -> None:
    """The rows and keys of the log, in its order."""
    written = pl.read_parquet(sorted(out.glob("part-*.parquet")))
    assert_frame_equal(written.select(KEYS), pl.read_parquet(log, columns=KEYS).select(KEYS))


def test_parts_are_dealt_out_once_and_in_stretches() -> None:
    shares = Shares(range(10), 3)
    assert [shares.take(1) for _ in range(3)] == [3, 4, 5]
    taken = [shares.take(worker) for worker in (0, 2, 1, 1, 1, 0, 2, 0)]
    assert taken == [0, 6, 8, 9, 2, 1, 7, None]
    assert [shares.in_work(worker) for worker in range(3)] == [2, 6, 2]
    shares.finish(0)
    assert shares.in_work(0) == 1


@pytest.mark.multiprocess
@pytest.mark.parametrize("workers", [2, 4])
def test_order_and_keys_are_the_same_for_one_two_and_four_workers_pitfall_T46(
    workers: int,
    run: Path,
    log: Path,
    scores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, jobs = tmp_path / "out", list[Job]()

    def watched(scorer: Any, log: Any, job: Job, *args: Any, **kwargs: Any) -> None:
        jobs.append(job)
        write_parts(scorer, log, job, *args, **kwargs)

    monkeypatch.setattr(writer, "write_parts", watched)
    progress = others_first(out, workers)
    result = score(run, log, out, keep=KEYS, workers=workers, progress=progress)
    assert (result.rows, result.parts) == (100 * PARTS - 17, PARTS)
    assert score_differences(out, scores) == {}
    require_keys(out, log)
    assert children() == []
    (job,) = jobs
    assert job.memory_bytes == Run(run).config.data.memory_bytes // workers
    assert job.threads == max(torch.get_num_threads() // workers, 1)


@pytest.mark.multiprocess
@pytest.mark.parametrize("again", [1, 3])
def test_a_killed_worker_ends_the_call_and_any_number_goes_on_pitfall_T46(
    again: int,
    run: Path,
    log: Path,
    scores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, record, killed = tmp_path / "out", writer._Call._record, threading.Event()

    def held(self: Any, path: Path, sha256: str) -> None:
        if path.name == "part-00006.parquet":  # its worker waits for an answer
            killed.wait(600)
        record(self, path, sha256)

    def kill_one(moves: int) -> None:
        if moves == 1:
            until(lambda: 6 in parts_of(out))
            (child,) = children()
            child.kill()
            killed.set()

    monkeypatch.setattr(writer._Call, "_record", held)
    with pytest.raises(
        RecMTLError, match=r"Worker 2 of 2 \(process \d+\) was killed by signal 9 \(SIGKILL\)"
    ):
        score(run, log, out, keep=KEYS, workers=2, progress=hearing(kill_one))
    assert children() == []
    assert not (out / "manifest.json").exists()
    assert {*os.listdir(out)} - {f"part-{part:05d}.parquet" for part in range(PARTS)} == {
        ".scoring.json"
    }
    assert 0 < len(parts_of(out)) < PARTS
    score(run, log, out, keep=KEYS, workers=again)
    assert score_differences(out, scores) == {}
    require_keys(out, log)


CALL = """
import sys
from recmtl.run import Run
from recmtl.scoring import score, writer
from recmtl.scoring.parts import Job, write_parts
writer.PART_ROWS = 100
score({run!r}, {log!r}, {out!r}, keep={keep!r}, workers=2, progress={progress})
"""
STUCK = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
from recmtl.scoring import writer
hold = Path(sys.argv[1])
class Bar:
    def advance(self, n=1, **shown):
        time.sleep(600)
@contextmanager
def stuck(*args, **kwargs):
    yield Bar()
record = writer._Call._record
def held(self, path, sha256):
    while path.name.endswith("6.parquet") and hold.exists():  # the other worker waits for an answer
        time.sleep(0.02)
    record(self, path, sha256)
writer._Call._record = held
"""


@pytest.mark.multiprocess
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_call_that_is_ended_leaves_no_worker_and_goes_on(
    number: signal.Signals, run: Path, log: Path, scores: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    text = STUCK + CALL.format(
        run=str(run), log=str(log), out=str(out), keep=KEYS, progress="stuck"
    )
    hold = tmp_path / "hold"
    hold.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", text, str(hold)], stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: 6 in parts_of(out) or process.poll() is not None)
        workers = children()
        assert len(workers) == 1
        process.send_signal(number)
        hold.unlink()
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode != 0
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    with exclusive(out):  # the lock went with the last of them
        pass
    score(run, log, out, keep=KEYS, workers=1)
    assert score_differences(out, scores) == {}


@pytest.mark.multiprocess
def test_what_a_worker_finds_wrong_is_said_as_one_worker_says_it(
    run: Path, log: Path, tmp_path: Path
) -> None:
    rows = pl.read_parquet(log)
    is_last = pl.col("row") == rows.height - 1
    rows.with_columns(price=pl.when(is_last).then(-5.0).otherwise("price")).write_parquet(
        tmp_path / "log.parquet"
    )
    said = []
    for workers in (1, 2):
        with pytest.raises(
            DataError, match=r"rows 1100 to 1182: column `price`: .* negative"
        ) as error:
            score(run, tmp_path / "log.parquet", tmp_path / f"{workers}", workers=workers)
        said.append(str(error.value))
    assert said[0] == said[1]
    assert children() == []


def test_there_are_no_more_workers_than_parts(
    run: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PART_ROWS", 100_000)
    started: list[int] = []
    score(
        run,
        log,
        tmp_path / "out",
        workers=8,
        progress=hearing(lambda _: started.append(len(children()))),
    )
    assert started == [0]


@pytest.mark.parametrize("workers", [0, -1, True, 1.5])
def test_workers_are_counted(run: Path, log: Path, tmp_path: Path, workers: Any) -> None:
    with pytest.raises(SpecError, match="`workers` must be a positive integer"):
        score(run, log, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out").exists()
