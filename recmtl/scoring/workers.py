"""Several processes for `recmtl score`: this one scores too, the others are its children.

A child's stdin is a pipe that this process holds: through it come the numbers of its parts, and
when it closes, by whatever end this process comes to, the child leaves at once. What a child has to
say goes through another pipe, as JSON lines: that it wants a part, that it scored rows, that a part
has its name, that it is done, or why it failed. Children inherit the lock on the output's folder:
it is free when the last of them is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Self

from recmtl._processes import environment, from_record, how_it_ended
from recmtl.errors import RecMTLError

__all__ = ["Shares", "Workers"]

_WORKER = Path(__file__).with_name("worker.py")
_LEAVE_S = 10.0
_POLL_S = 0.1
_STDERR_CHARS = 2000


class Shares:
    """Parts dealt out: a stretch for each worker; who is done takes half of what the last has left.

    A log is read best from front to back, so each worker's parts follow one another.

    Example:
        >>> shares = Shares([0, 1, 2, 3, 4, 5], 2)
        >>> shares.take(0), shares.take(1), shares.take(1), shares.take(1), shares.take(1)
        (0, 3, 4, 5, 2)
    """

    def __init__(self, parts: Sequence[int], workers: int) -> None:
        ends = [len(parts) * worker // workers for worker in range(workers + 1)]
        self._left = [list(parts[low:high]) for low, high in pairwise(ends)]
        self._in_work = [0] * workers
        self._lock = threading.Lock()

    def take(self, worker: int) -> int | None:
        """The next part of a worker, None where there is no more."""
        with self._lock:
            if not self._left[worker]:
                longest = max(self._left, key=len)
                half = len(longest) // 2
                self._left[worker], longest[half:] = longest[half:], []
            if not self._left[worker]:
                return None
            self._in_work[worker] += 1
            return self._left[worker].pop(0)

    def finish(self, worker: int) -> None:
        """One of the parts that a worker took has its name."""
        with self._lock:
            self._in_work[worker] -= 1

    def in_work(self, worker: int) -> int:
        """How many parts a worker took and has not finished."""
        with self._lock:
            return self._in_work[worker]

    def of(self, worker: int) -> Iterator[int]:
        """The parts of a worker, each taken when it is asked for."""
        while (part := self.take(worker)) is not None:
            yield part


class Workers:
    """Children that score parts; whatever ends the block ends them.

    Args:
        shares: the parts; this process is worker 0.
        job: what a child needs to know, as JSON.
        count: how many children.
        lock: descriptor that holds the output's folder.
        on_written: told number and sha256 of each part that has its name, by other threads.
    """

    def __init__(
        self,
        shares: Shares,
        job: dict[str, Any],
        *,
        count: int,
        lock: int,
        on_written: Callable[[int, str], None],
    ) -> None:
        self._children: list[_Child] = []
        self._count, self._shares, self._job = count, shares, job
        self._lock, self._on_written = lock, on_written

    def __enter__(self) -> Self:
        try:
            for number in range(1, self._count + 1):
                name = f"Worker {number + 1} of {self._count + 1}"
                child = _Child(name, number, self._shares, self._job, self._lock, self._on_written)
                self._children.append(child)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.ask_to_leave()
        for child in self._children:
            child.end()

    def new_rows(self) -> int:
        """Rows that they scored since this was asked last.

        Raises:
            RecMTLError: why one failed.
        """
        for child in self._children:
            if child.has_failed:
                raise child.error()
        return sum(child.new_rows() for child in self._children)

    def wait(self) -> Iterator[int]:
        """Wait until all parts that they took are done; gives new rows from time to time.

        This process has found no more parts to take. A child that is only starting is not waited
        for.

        Raises:
            RecMTLError: why one failed.
        """
        while any(child.is_at_work for child in self._children):
            time.sleep(_POLL_S)
            yield self.new_rows()
        if rows := sum(child.new_rows() for child in self._children):
            yield rows


class _Child:
    """A process, and a thread that listens to it."""

    def __init__(
        self,
        name: str,
        number: int,
        shares: Shares,
        job: dict[str, Any],
        lock: int,
        on_written: Callable[[int, str], None],
    ) -> None:
        self.name = name
        self.ended = threading.Event()
        self._number, self._shares, self._on_written = number, shares, on_written
        self._failure: Exception | None = None
        self._is_done = False
        self._rows = self._told = 0
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        receiving, sending = os.pipe()
        # By path: with `-m`, the package would be imported before a line of the file runs.
        command = [sys.executable, "-P", str(_WORKER), json.dumps(job), f"{sending}"]
        threads = f"{job['threads']}"
        # Ctrl-C reaches the children too: blocked until they ignore it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[sending, lock],
                env=environment(
                    OMP_NUM_THREADS="1",
                    OMP_WAIT_POLICY="PASSIVE",
                    POLARS_MAX_THREADS=threads,
                    ARROW_DEFAULT_MEMORY_POOL="system",
                ),
            )
        except BaseException:
            os.close(receiving)
            self._stderr.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(sending)
        self._thread = threading.Thread(
            target=self._listen, args=(receiving,), name=f"recmtl-worker-{number}", daemon=True
        )
        self._thread.start()

    def _listen(self, receiving: int) -> None:
        try:
            with os.fdopen(receiving, encoding="utf-8") as reports:
                for line in reports:
                    with suppress(json.JSONDecodeError):  # of one that was killed in mid-word
                        self._hear(json.loads(line))
        except Exception as error:  # the disk is full: the main thread has to know
            self._failure = error
            self.process.kill()
        finally:
            self.process.wait()
            self.ended.set()

    def _hear(self, said: dict[str, Any]) -> None:
        if "wants" in said:
            part = self._shares.take(self._number)
            assert self.process.stdin is not None
            with suppress(OSError, ValueError):  # it is gone, or asked to leave
                self.process.stdin.write(f"{-1 if part is None else part}\n".encode())
                self.process.stdin.flush()
        elif "rows" in said:
            self._rows += said["rows"]
        elif "part" in said:
            self._on_written(said["part"], said["sha256"])
            self._shares.finish(self._number)
        elif "failure" in said:
            self._failure = from_record(said["failure"], self.name)
        else:
            self._is_done = True

    @property
    def is_at_work(self) -> bool:
        """Whether it has parts to finish."""
        return self._shares.in_work(self._number) > 0

    @property
    def has_failed(self) -> bool:
        """Whether it ended, or said that it would, without being done."""
        return self._failure is not None or (self.ended.is_set() and not self._is_done)

    def new_rows(self) -> int:
        """Rows that it scored since this was asked last."""
        rows = self._rows - self._told
        self._told += rows
        return rows

    def error(self) -> Exception:
        """Why it failed."""
        if self._failure is not None:
            return self._failure
        how = how_it_ended(self.process.wait())
        fewer = "; fewer workers need less" if "memory" in how else ""
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()[-_STDERR_CHARS:]
        return RecMTLError(
            f"{self.name} (process {self.process.pid}) {how}{fewer}. All of them were ended; the "
            "same call goes on from here." + (f" It said:\n{said}" if said else "")
        )

    def ask_to_leave(self) -> None:
        """Close the pipe that it lives by."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def end(self) -> None:
        """Make sure that it is gone."""
        if not self.ended.wait(_LEAVE_S):
            self.process.kill()
        self.ended.wait()
        self._thread.join()
        self._stderr.close()
