"""Processes that train: what they say, how they fail, and who ends them."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from recmtl._progress import PlainProgress
from recmtl.run import Run
from recmtl.studies.children import _EPOCH, Job, train_all
from tests.studies.worlds import write_world


def job(folder: Path, spec: Path, name: str = "a") -> Job:
    return Job(name, spec, folder / "runs" / name, folder / "logs" / f"{name}.log", epochs=2)


def test_progress_is_read_from_the_lines_that_training_writes() -> None:
    stream = io.StringIO()
    with PlainProgress(stream)("epoch 2 of 3, from step 24 on", total=4096, unit="rows") as bar:
        bar.advance(1024, loss=0.5)
    found = [
        match.groups() for line in stream.getvalue().splitlines() if (match := _EPOCH.match(line))
    ]
    assert found == [("2", "3", "1,024", "4,096")]
    with PlainProgress(stream)("validation", total=5, unit="batches"):
        pass
    assert not _EPOCH.match(stream.getvalue().splitlines()[-1])


@pytest.mark.slow
def test_runs_that_fail_say_why_and_the_others_go_on(tmp_path: Path) -> None:
    spec = write_world(tmp_path)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(spec.read_text().replace("label: click", "label: clack"))
    stream = io.StringIO()
    failures = train_all(
        [
            job(tmp_path, tmp_path / "none.yaml", "a"),
            job(tmp_path, wrong, "b"),
            job(tmp_path, spec, "c"),
        ],
        data_dir=tmp_path,
        at_once=3,
        threads=1,
        num_rows=1024,
        num_done=2,
        progress=PlainProgress(stream),
    )
    assert [(failure.name, failure.exit_code) for failure in failures] == [("a", 2), ("b", 3)]
    assert failures[0].message.startswith("SpecError: ")
    assert "none.yaml" in failures[0].message
    assert "column `clack`" in failures[1].message
    assert Run(tmp_path / "runs/c").finished
    assert "epoch 2 of 2" in (tmp_path / "logs/c.log").read_text()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train 3 of 5 runs: 6,144 rows"
    assert "6,144 of 6,144 rows (100 %)" in lines[-1]
    assert "done 5 of 5" in lines[-1]


def children_with(word: str) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (place / "cmdline").read_bytes().decode(errors="replace")
            if word in line and "child.py" in line:
                found.append(int(place.name))
    return [number for number in found if number != os.getpid()]


@pytest.mark.slow
def test_a_child_that_is_killed_is_named_with_its_signal(tmp_path: Path) -> None:
    spec = write_world(tmp_path)

    def kill() -> None:
        until = time.monotonic() + 60
        while not (found := children_with(str(tmp_path))) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(found[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    options: dict[str, Any] = {"data_dir": tmp_path, "at_once": 1, "threads": 1, "num_rows": 1024}
    (failure,) = train_all([job(tmp_path, spec)], **options)
    thread.join()
    assert failure.exit_code == 1
    assert failure.message.startswith("was killed by signal 9 (SIGKILL), as the system does when")


def test_nothing_to_train_starts_nothing(tmp_path: Path) -> None:
    assert train_all([], data_dir=tmp_path, at_once=1, threads=1, num_rows=0) == []
