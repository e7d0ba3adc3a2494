"""`recmtl train` with several real processes: the result of one, and one end for all of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from torch.distributed import HashStore

from recmtl import api
from recmtl.checkpoint import read_index
from recmtl.config import load_spec
from recmtl.data import Encoders, open_splits
from recmtl.data.order import EpochOrder
from recmtl.data.streams import TrainStreams
from recmtl.errors import CheckpointError, DataError, RecMTLError, SpecError
from recmtl.run import Run
from recmtl.training import TrainResult
from recmtl.training.failures import OtherRankError, as_record, from_record, is_lost_peer
from recmtl.training.team import Team, require_devices
from recmtl.training.torchrun import follow, leading, said_once
from tests.training.conftest import click_log

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

TIMEOUT_S = 300
LONG = ("train.epochs=6", "train.loggers=[]")


class Command:
    """A command that runs, with its children, and whatever is left of it at the end."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = [folder / "stdout", folder / "stderr"]
        with self.files[0].open("wb") as out, self.files[1].open("wb") as err:
            self.process = psutil.Popen(
                [sys.executable, "-m", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.family: list[psutil.Process] = []

    def ranks(self, count: int, ready: Callable[[], bool]) -> list[psutil.Process]:
        """Its `count` children, once `ready`."""
        wait(lambda: ready() or self.process.poll() is not None)
        assert self.process.poll() is None, self.stderr
        self.family = self.process.children()
        assert len(self.family) == count
        return self.family

    def end(self) -> int:
        """Its exit code, once no child of it is left either."""
        code = self.process.wait(TIMEOUT_S)
        _, alive = psutil.wait_procs(self.family, TIMEOUT_S)
        assert alive == []
        return int(code)

    @property
    def stdout(self) -> str:
        return self.files[0].read_text()

    @property
    def stderr(self) -> str:
        return self.files[1].read_text()

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that are an error's."""
        return [line for line in self.stderr.splitlines() if "Error" in line.split(" ")[0]]


def wait(until: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not until():
        assert time.monotonic() - start < TIMEOUT_S
        time.sleep(0.02)


@pytest.fixture
def train(log_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """`train("devices=2", ...)` starts `recmtl train` into `tmp_path / "run"`."""
    started = []

    def start(*overrides: str, launcher: tuple[str, ...] = (), log: Path = log_dir) -> Command:
        folder = tmp_path / f"command-{len(started)}"
        run = ["--out", tmp_path / "run", "--json", *overrides]
        command = Command(folder, *launcher, "recmtl", "train", log / "spec.yaml", *run)
        started.append(command)
        return command

    yield start
    for command in started:
        for process in [*command.family, command.process]:
            if process.is_running():
                process.kill()


@pytest.fixture(scope="module")
def alone(log_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """What one process finds."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return api.train(log_dir / "spec.yaml", out=out, overrides=LONG)


def assert_same_result(found: dict[str, Any], expected: TrainResult) -> None:
    assert found["epochs"] == expected.epochs
    assert found["best"] == pytest.approx(expected.best, abs=1e-4, nan_ok=True)


def has_checkpoint(run: Path) -> bool:
    return (run / "checkpoints" / "index.json").is_file()


def test_killed_stopped_and_continued_with_other_numbers_of_devices(
    train: Callable[..., Command], tmp_path: Path, alone: TrainResult, log_dir: Path
) -> None:
    run = tmp_path / "run"
    killed = train(*LONG, "train.devices=2")
    (child,) = killed.ranks(1, lambda: has_checkpoint(run))
    child.kill()
    assert killed.end() == 1
    assert killed.stdout == ""
    (error,) = killed.errors
    assert "Process 1 of the training was killed by signal 9 (SIGKILL)" in error
    before = read_index(run / "checkpoints").last

    stopped = train(*LONG, "train.devices=4", "train.sharding={item: table_wise}")
    stopped.ranks(3, lambda: read_index(run / "checkpoints").last != before)
    os.killpg(stopped.process.pid, signal.SIGTERM)  # as service managers do
    assert stopped.end() == 130
    assert stopped.stdout == ""
    assert "recmtl: interrupted; the same command goes on from here." in stopped.stderr
    assert stopped.errors == []
    assert not list((run / "checkpoints").glob(".*"))

    result = api.train(log_dir / "spec.yaml", out=run, overrides=LONG)
    assert_same_result({"best": result.best, "epochs": result.epochs}, alone)


def test_no_process_outlives_a_parent_that_is_killed(
    train: Callable[..., Command], tmp_path: Path, alone: TrainResult
) -> None:
    run = tmp_path / "run"
    killed = train(*LONG, "train.devices=2")
    killed.ranks(1, lambda: has_checkpoint(run))
    killed.process.kill()
    assert killed.end() == -signal.SIGKILL

    again = train(*LONG, "train.devices=2")
    again.ranks(1, lambda: "2 processes train, all on the CPU (gloo)." in again.stderr)
    assert again.end() == 0
    assert_same_result(json.loads(again.stdout), alone)
    assert "rank:1/cpu" in (run / "plan.txt").read_text()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps.count(60) == 2  # losses and metrics, by one process


def test_torchrun_trains_a_run_and_stops_it(
    train: Callable[..., Command], tmp_path: Path, alone: TrainResult
) -> None:
    run = tmp_path / "run"
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    stopped = train(*LONG, launcher=torchrun)
    stopped.ranks(2, lambda: has_checkpoint(run))
    os.killpg(stopped.process.pid, signal.SIGINT)  # Ctrl-C reaches every process of a terminal
    stopped.end()
    assert stopped.stderr.count("recmtl: interrupted") == 1
    assert stopped.errors == []

    again = train(*LONG, launcher=torchrun)
    assert again.end() == 0, again.stderr
    assert_same_result(json.loads(again.stdout), alone)
    assert again.stderr.count("2 processes train") == 1


def test_bad_rows_that_only_another_process_reads_end_all_of_them(
    train: Callable[..., Command], log_dir: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    shutil.copytree(log_dir, log)
    click_log(1_200, seed=0).write_parquet(log / "train.parquet", row_group_size=32)
    overrides = ("data.memory=96KiB", "train.devices=2")
    config = load_spec(log / "spec.yaml", overrides)
    splits, encoders = open_splits(config.data, log), Encoders.fit(config, log)
    groups = [groups_of(rank, splits.train, encoders, config) for rank in (0, 1)]
    spoil(log / "train.parquet", min(groups[1] - groups[0]))
    spoilt = open_splits(config.data, log).fingerprint
    Run.create(tmp_path / "run", config, encoders, data_fingerprint=spoilt)
    failed = train(*overrides, "--debug", log=log)
    assert failed.end() == 3
    assert failed.stdout == ""
    assert "recmtl.errors.DataError: " in failed.stderr
    assert "In process 1:" in failed.stderr


def groups_of(rank: int, log: Any, encoders: Encoders, config: Any) -> set[int]:
    """The row groups that a rank reads for its first batch."""
    streams = TrainStreams(
        log,
        encoders,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        memory_bytes=config.data.memory_bytes,
        rank=rank,
        world_size=2,
    )
    assert not streams.plan.in_memory
    order = EpochOrder(streams.plan, config.train.seed, epoch=0)
    pieces = [piece for stream in range(rank, 8, 2) for piece in order.pool(stream, 0)[0].pieces]
    ends = [(piece.start, piece.start + piece.size - 1) for piece in pieces]
    return {group for first, last in ends for group in range(first // 32, last // 32 + 1)}


def spoil(file: Path, group: int) -> None:
    """Overwrite the columns of a row group; the footer stays as it is."""
    about = pq.ParquetFile(file).metadata.row_group(group)
    columns = [about.column(i) for i in range(about.num_columns)]
    starts = [c.dictionary_page_offset or c.data_page_offset for c in columns]
    with file.open("r+b") as bytes_:
        bytes_.seek(min(starts))
        bytes_.write(b"\xff" * sum(column.total_compressed_size for column in columns))


def test_numbers_of_devices_that_do_not_fit_are_refused() -> None:
    five = Team(rank=1, world_size=5, local_world_size=5)
    assert require_devices(None, five) == require_devices(5, five) == 5
    with pytest.raises(SpecError, match=r"train\.devices: is 2, but torchrun started 5"):
        require_devices(2, five)


@pytest.mark.usefixtures("gloo")
def test_a_process_that_is_in_a_group_already_cannot_lead_one() -> None:
    assert require_devices(1, None) == 1
    with pytest.raises(SpecError, match=r"is in a torch\.distributed process group already"):
        require_devices(2, None)


def test_under_torchrun_the_first_error_is_the_only_one() -> None:
    store = HashStore()
    first, second = (Team(rank=rank, world_size=2, store=store) for rank in (0, 1))
    with pytest.raises(DataError, match=r"^a\.parquet: empty\.$"), said_once(first):
        raise DataError("a.parquet: empty.")
    for lost in (OSError(104, "reset"), RuntimeError("closed by peer"), KeyboardInterrupt()):
        with (
            pytest.raises(
                OtherRankError, match=r"^process 0 failed: a\.parquet: empty\.$"
            ) as error,
            said_once(second),
        ):
            raise lost
        assert error.value.code == 3
    with pytest.raises(OtherRankError, match="process 0 failed"):
        follow(second)


def test_under_torchrun_a_process_that_was_killed_is_an_error() -> None:
    alone = Team(rank=0, world_size=2, store=HashStore())
    with pytest.raises(RecMTLError, match="ended without a word"), said_once(alone):
        raise RuntimeError("gloo/transport/tcp/pair.cc: Connection closed by peer")
    with leading(replace(alone, store=HashStore())) as team:
        follow(replace(team, rank=1))


def test_an_error_is_the_same_in_another_process() -> None:
    full = OSError(28, "No space left on device", "/disk/a")
    for error in (CheckpointError("a: corrupt."), DataError("b: empty."), full):
        again = from_record(json.loads(json.dumps(as_record(error))), rank=1)
        assert type(again) is type(error)
        assert (str(again), again.args) == (str(error), error.args)
    assert as_record(full)["code"] == 1
    bug = from_record(as_record(ZeroDivisionError("by zero")), rank=3)
    assert str(bug) == "process 3 failed: ZeroDivisionError: by zero"


def test_only_the_loss_of_another_process_is_taken_for_one() -> None:
    assert is_lost_peer(RuntimeError("[/gloo/gloo/transport/tcp/pair.cc:553] Connection closed"))
    assert not is_lost_peer(DataError("a.parquet: connection closed by peer"))
    assert not is_lost_peer(OSError(104, "reset by peer"))
    assert OtherRankError("process 0 failed", 3).code == 3
