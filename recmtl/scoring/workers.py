"""Several processes for `recmtl score`: this one scores too, the others are its children.

A child is told its job and the numbers of its parts. It says that it wants a part, that it scored
rows, that a part has its name, that it is done, or why it failed. Children inherit the lock on the
output's folder: it is free when the last of them is gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from recmtl._child import Child
from recmtl._processes import environment, from_record
from recmtl.errors import RecMTLError

__all__ = ["Shares", "Workers"]

_WORKER = Path(__file__).with_name("worker.py")
_LEAVE_S = 10.0
_POLL_S = 0.1


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
        self._workers: list[_Worker] = []
        self._count, self._shares, self._job = count, shares, job
        self._lock, self._on_written = lock, on_written

    def __enter__(self) -> Self:
        try:
            for number in range(1, self._count + 1):
                name = f"Worker {number + 1} of {self._count + 1}"
                self._workers.append(
                    _Worker(name, number, self._shares, self._job, self._lock, self._on_written)
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.child.ask_to_leave()
        for worker in self._workers:
            worker.child.end(_LEAVE_S)

    def new_rows(self) -> int:
        """Rows that they scored since this was asked last.

        Raises:
            RecMTLError: why one failed.
        """
        for worker in self._workers:
            if (failure := worker.failure()) is not None:
                raise failure
        return sum(worker.new_rows() for worker in self._workers)

    def wait(self) -> Iterator[int]:
        """Wait until all parts that they took are done; gives new rows from time to time.

        This process has found no more parts to take. A child that is only starting is not waited
        for.

        Raises:
            RecMTLError: why one failed.
        """
        while any(worker.is_at_work for worker in self._workers):
            time.sleep(_POLL_S)
            yield self.new_rows()
        if rows := sum(worker.new_rows() for worker in self._workers):
            yield rows


class _Worker:
    """A child that scores parts."""

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
        self._number, self._shares, self._on_written = number, shares, on_written
        self._failure: Exception | None = None
        self._is_done = False
        self._rows = self._told = 0
        self.child = Child(
            _WORKER,
            environment=environment(
                OMP_NUM_THREADS="1",
                OMP_WAIT_POLICY="PASSIVE",
                POLARS_MAX_THREADS=f"{job['threads']}",
                ARROW_DEFAULT_MEMORY_POOL="system",
            ),
            hear=self._hear,
            inherited=[lock],
        )
        self.child.say(job)

    def _hear(self, said: dict[str, Any]) -> None:
        if "wants" in said:
            self.child.say(self._shares.take(self._number))
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

    def new_rows(self) -> int:
        """Rows that it scored since this was asked last."""
        rows = self._rows - self._told
        self._told += rows
        return rows

    def failure(self) -> Exception | None:
        """Why it ended, or will, without being done."""
        has_ended = self.child.ended.is_set()  # first: what is heard before it stands by then
        known = self._failure or self.child.failure
        if known is not None or self._is_done or not has_ended:
            return known
        how, said = self.child.how_it_ended()
        fewer = "; fewer workers need less" if "memory" in how else ""
        return RecMTLError(
            f"{self.name} (process {self.child.process.pid}) {how}{fewer}. All of them were ended; "
            f"the same call goes on from here.{said}"
        )
