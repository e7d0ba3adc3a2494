"""One thread that works ahead of its consumer, and leaves when the consumer does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

__all__ = ["prefetched"]

T = TypeVar("T")
_POLL_S = 0.1


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Ended:
    pass


def prefetched(source: Iterable[T], *, ahead: int = 4) -> Iterator[T]:
    """The items of `source`, made by a thread that is up to `ahead` items ahead.

    An exception of the source is raised here, in its place. The thread ends when the source does,
    when this iterator is closed or collected, and when the interpreter exits.

    Example:
        >>> list(prefetched(range(3)))
        [0, 1, 2]
    """
    worker = _Worker(source, ahead)
    worker.thread.start()
    try:
        while True:
            item = worker.ready.get()
            if isinstance(item, _Ended):
                return
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        worker.stop.set()
        worker.thread.join()


class _Worker(Generic[T]):
    def __init__(self, source: Iterable[T], ahead: int) -> None:
        self.source = source
        self.ready: queue.Queue[T | _Failed | _Ended] = queue.Queue(ahead)
        self.stop = threading.Event()
        # Not a daemon: a daemon thread inside polars or torch can crash the interpreter's exit.
        self.thread = threading.Thread(target=self._run, name="recmtl-prefetch", daemon=False)

    def _run(self) -> None:
        try:
            for item in self.source:
                if not self._put(item):
                    return
        except BaseException as error:  # handed to the consumer, whatever it is
            self._put(_Failed(error))
            return
        self._put(_Ended())

    def _put(self, item: T | _Failed | _Ended) -> bool:
        """Hand an item over; false when nobody will take it."""
        while not self.stop.is_set() and threading.main_thread().is_alive():
            try:
                self.ready.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False
