"""Runs in processes of their own, some at a time: memory and crashes stay in there."""

from __future__ import annotations

import os
import re
import signal
import site
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import recmtl
from recmtl._files import exclusive
from recmtl._progress import Progress, no_progress
from recmtl.errors import CheckpointError, DataError, MissingExtraError, RecMTLError, SpecError

__all__ = ["Children", "Ended", "Failure", "Job", "error_of", "train_all"]

_CHILD = Path(__file__).with_name("child.py")
_EPOCH = re.compile(r"epoch (\d+) of (\d+)\b.*?: ([\d,]+) of ([\d,]+) rows")
_ERROR = re.compile(r"\w*Error: ")
_KEPT_LINES, _SHOWN_LINES = 400, 12
_POLL_S = 0.1
_LEAVE_S = 60.0
_OTHERS_S = 30.0
_BY_CODE: Mapping[int, type[RecMTLError]] = {
    error.exit_code: error for error in (SpecError, DataError, MissingExtraError, CheckpointError)
}


@dataclass(frozen=True)
class Job:
    """A run to train.

    Attributes:
        name: for messages.
        spec: its spec file.
        run: its folder.
        log: where what it says is written.
        epochs: that it will train.
        arguments: further ones of `recmtl train`.
    """

    name: str
    spec: Path
    run: Path
    log: Path
    epochs: int
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a run failed."""

    name: str
    message: str
    exit_code: int


@dataclass(frozen=True)
class Ended:
    """A run whose process is gone.

    Attributes:
        job: what it was to train.
        failure: why it failed, if it did.
        rows_left: training rows that were announced and did not come.
        seconds: that the process lived.
    """

    job: Job
    failure: Failure | None
    rows_left: int
    seconds: float


def train_all(
    jobs: Sequence[Job],
    *,
    data_dir: Path,
    at_once: int,
    threads: int,
    num_rows: int,
    num_done: int = 0,
    progress: Progress = no_progress,
) -> list[Failure]:
    """Train every run; those that fail do not keep the others from going on.

    Args:
        jobs: what to train.
        data_dir: folder of the data.
        at_once: how many processes train at a time.
        threads: OpenMP threads of each.
        num_rows: training rows of an epoch.
        num_done: runs that were finished before.
        progress: shows rows, which run of how many it is, and the time left.

    Returns:
        The failures, in the order of the jobs.
    """
    if not jobs:
        return []
    total = sum(job.epochs for job in jobs) * num_rows
    waiting = deque(jobs)
    failures: dict[str, Failure] = {}
    ended = 0
    runs = len(jobs) + num_done
    with (
        progress(f"train {len(jobs)} of {runs} runs", total, "rows") as bar,
        Children(data_dir, threads=threads, num_rows=num_rows) as children,
    ):
        while waiting or children:
            while waiting and len(children) < at_once:
                children.start(waiting.popleft())
            for one in children.wait():
                ended += 1
                if one.failure is not None:
                    failures[one.job.name] = one.failure
                bar.advance(one.rows_left)
            now = children.now()
            rows = sum(rows for _, rows in children.new_rows())
            bar.advance(rows, done=f"{num_done + ended} of {runs}", **({"now": now} if now else {}))
    return [failures[job.name] for job in jobs if job.name in failures]


def error_of(exit_code: int) -> type[RecMTLError]:
    """The error that a command ends with by such a code.

    Example:
        >>> error_of(3).__name__, error_of(1).__name__
        ('DataError', 'RecMTLError')
    """
    return _BY_CODE.get(exit_code, RecMTLError)


class Children:
    """Processes that train, a run each; those that still do when the block ends are stopped.

    Args:
        data_dir: folder of the data.
        threads: OpenMP threads of each.
        num_rows: training rows of an epoch.
    """

    def __init__(self, data_dir: Path, *, threads: int, num_rows: int) -> None:
        self._data_dir, self._threads, self._num_rows = data_dir, threads, num_rows
        self._active: list[_Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._active:
            child.ask_to_stop()
        for child in self._active:
            child.close()

    def __len__(self) -> int:
        """How many train."""
        return len(self._active)

    def start(self, job: Job) -> None:
        """Begin to train a run, or go on with it."""
        self._active.append(_Child(job, self._data_dir, self._threads, self._num_rows))

    def wait(self) -> list[Ended]:
        """Those that ended, after a moment."""
        time.sleep(_POLL_S)
        found = []
        for child in [child for child in self._active if child.has_ended]:
            failure = child.failure()
            self._active.remove(child)
            child.close()
            found.append(Ended(child.job, failure, child.rows_left(), child.seconds))
        return found

    def new_rows(self) -> Iterator[tuple[Job, int]]:
        """Rows that each has trained since this was asked last."""
        for child in self._active:
            yield child.job, child.new_rows()

    def now(self) -> str:
        """Who trains, and how far each is."""
        return ", ".join(f"{child.job.name} ({child.where()})" for child in self._active)


class _Child:
    """A process that trains one run, and a thread that listens to it."""

    def __init__(self, job: Job, data_dir: Path, threads: int, num_rows: int) -> None:
        self.job = job
        self.total = job.epochs * num_rows
        self._num_rows = num_rows
        self._rows = self._told = 0
        self._epoch = ""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._since_s = time.monotonic()
        _wait_until_free(job.run)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-P", str(_CHILD), "train", str(job.spec)]
        command += ["--data", str(data_dir), "--out", str(job.run), *job.arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(threads),
            start_new_session=True,  # Ctrl-C comes through `ask_to_stop` alone
        )
        self._thread = threading.Thread(target=self._listen, name=f"recmtl-{job.name}", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as said, self.job.log.open("a", encoding="utf-8") as log:
            for raw in said:
                line = raw.decode(errors="replace").rstrip("\n")
                log.write(line + "\n")
                log.flush()
                self._lines.append(line)
                self._hear(line)

    def _hear(self, line: str) -> None:
        if found := _EPOCH.match(line):
            epoch, epochs, done, rows = (int(n.replace(",", "")) for n in found.groups())
            self._rows = min(self.total, (epoch - 1) * self._num_rows + done)
            self._epoch = f"epoch {epoch} of {epochs}, {100 * done // max(rows, 1)} %"

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._since_s

    def where(self) -> str:
        """How far it is, in words."""
        seconds = f"{self.seconds:,.0f} s"
        return f"{self._epoch}, {seconds}" if self._epoch else seconds

    def new_rows(self) -> int:
        """Rows that it trained since this was asked last."""
        rows = self._rows - self._told
        self._told += rows
        return rows

    def rows_left(self) -> int:
        """Rows that were announced and will not come."""
        return self.total - self._told

    def failure(self) -> Failure | None:
        """Why it failed, if it did, in its own words."""
        code = self.process.wait()
        self._thread.join(_LEAVE_S)
        if code == 0:
            return None
        lines = list(self._lines)
        starts = [n for n, line in enumerate(lines) if _ERROR.match(line)]
        said = "\n".join(lines[starts[-1] :] if starts else lines[-_SHOWN_LINES:]).strip()
        if code < 0:
            how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
            if code == -signal.SIGKILL:
                how += ", as the system does when memory runs out; a smaller `--jobs` needs less"
            said = f"{how}."
        return Failure(self.job.name, said or f"ended with exit code {code}.", max(code, 1))

    def ask_to_stop(self) -> None:
        """Let it save a checkpoint and leave."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def close(self) -> None:
        """Make sure that it is gone."""
        try:
            self.process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self._thread.join(_LEAVE_S)


def _wait_until_free(run: Path) -> None:
    """Children of a killed call leave at once, but not in no time."""
    until = time.monotonic() + _OTHERS_S
    while run.is_dir() and time.monotonic() < until:
        try:
            with exclusive(run):
                return
        except SpecError:
            time.sleep(_POLL_S)


def _environment(threads: int) -> Mapping[str, str]:
    """That of this process, with a number of threads, and the place of this very package."""
    own = {"OMP_NUM_THREADS": f"{threads}", "PYTHONUNBUFFERED": "1"}
    home = str(Path(recmtl.__file__).resolve().parent.parent)
    if home not in {str(Path(folder).resolve()) for folder in site.getsitepackages()}:
        paths = [os.environ.get("PYTHONPATH"), home]
        own["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return {**os.environ, **own}
