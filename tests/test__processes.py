"""What processes tell one another: errors come out as they went in, and ends have words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import recmtl
from recmtl._processes import as_record, environment, from_record, how_it_ended
from recmtl.errors import CheckpointError, DataError


class OddError(DataError):
    """Of a class that only one of the processes knows."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CheckpointError("a: corrupt."), CheckpointError("a: corrupt.")),
        (OddError("b: odd."), DataError("b: odd.")),
        (OSError(28, "No space left", "/disk/a"), OSError(28, "No space left", "/disk/a")),
        (OSError(5, "Input/output error"), OSError(5, "Input/output error")),
        (ZeroDivisionError("zero"), RuntimeError("Worker 2 failed: ZeroDivisionError: zero")),
        (OSError("only words"), RuntimeError("Worker 2 failed: OSError: only words")),
    ],
    ids=["ours", "of ours", "file", "no file", "bug", "words"],
)
def test_an_error_is_the_same_in_another_process(error: Exception, expected: Exception) -> None:
    again = from_record(json.loads(json.dumps(as_record(error))), "Worker 2")
    assert type(again) is type(expected)
    assert (again.args, str(again)) == (expected.args, str(expected))
    assert again.__notes__[0].startswith("In Worker 2:\n")


def test_another_process_finds_this_package(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-P", "-c", "import os, recmtl; print(recmtl.__file__, os.environ['X'])"],
        cwd=tmp_path,
        env=environment(X="mine"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == [recmtl.__file__, "mine"]
    assert "X" not in os.environ


def test_a_signal_has_its_name() -> None:
    assert how_it_ended(-11) == "was killed by signal 11 (SIGSEGV)"
    assert how_it_ended(-35) == "was killed by signal 35 (real-time)"
    assert how_it_ended(-9).endswith("(SIGKILL), as the system does when memory runs out")
    assert how_it_ended(3) == "ended with exit code 3"
