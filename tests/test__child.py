"""A child says things and hears things, and is gone when it should be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from recmtl._child import Child

_TALKS = """
import json, os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
with os.fdopen(int(sys.argv[-1]), "w") as reports:
    for line in sys.stdin:
        reports.write(line)
        reports.flush()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "talks.py"
    path.write_text(_TALKS)
    return path


def start(script: Path, heard: list[Any], **options: Any) -> Child:
    return Child(script, environment=dict(os.environ), hear=heard.append, **options)


def test_what_is_said_both_ways_is_heard_before_it_has_ended(script: Path) -> None:
    heard: list[Any] = []
    ended = threading.Event()
    child = start(script, heard, on_end=ended.set)
    for number in range(100):
        child.say({"row": number})
    child.ask_to_leave()
    assert child.ended.wait(60)
    assert heard == [{"row": number} for number in range(100)]
    assert child.how_it_ended() == ("ended with exit code 0", "")
    child.end(1.0)
    assert ended.is_set()
    child.say("too late")  # and nothing happens


def test_signals_of_the_terminal_do_not_reach_it(script: Path) -> None:
    heard: list[Any] = []
    child = start(script, heard)
    for number in (signal.SIGINT, signal.SIGTERM):  # it may not even run yet
        child.process.send_signal(number)
    child.say("still here")
    child.ask_to_leave()
    assert child.ended.wait(60)
    assert (heard, child.process.returncode) == (["still here"], 0)
    child.end(1.0)


def test_one_that_does_not_leave_is_killed_and_its_last_words_are_kept(tmp_path: Path) -> None:
    script = tmp_path / "stays.py"
    script.write_text(
        "import os, sys, time\n"
        "print('not shown')\n"
        "print('a warning', file=sys.stderr, flush=True)\n"
        'os.write(int(sys.argv[-1]), b\'{"ready": true}\\n{"cut o\')\n'
        "time.sleep(600)\n"
    )
    ready = threading.Event()
    child = Child(script, environment=dict(os.environ), hear=lambda _: ready.set())
    assert ready.wait(60)
    child.process.kill()
    how, said = child.how_it_ended()
    assert how.startswith("was killed by signal 9 (SIGKILL)")
    assert said == " It said:\na warning"
    child.end(1.0)
    other = Child(script, environment=dict(os.environ), hear=lambda _: None)
    other.end(0.1)
    assert other.process.returncode == -signal.SIGKILL


def test_who_cannot_be_listened_to_is_ended(script: Path) -> None:
    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    child = Child(script, environment=dict(os.environ), hear=full)
    child.say(1)
    assert child.ended.wait(60)
    assert isinstance(child.failure, OSError)
    assert child.process.returncode == -signal.SIGKILL
    child.end(1.0)


def test_it_leaves_when_its_parent_is_killed(script: Path, tmp_path: Path) -> None:
    parent = (
        "import os, pathlib, sys\n"
        "from recmtl._child import Child\n"
        "child = Child(pathlib.Path(sys.argv[1]), environment=dict(os.environ), hear=print)\n"
        "print(child.process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, str(script)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process.stdout.read() == ""  # nobody holds that pipe any more but who has ended
    assert process.returncode == -signal.SIGKILL
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists():
            return
        threading.Event().wait(0.1)
    pytest.fail("The child is still there.")
