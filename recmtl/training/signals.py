"""Ctrl-C and SIGTERM end training after the batch and a checkpoint; a second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest", "TrainingInterrupted"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(BaseException):
    """Training was asked to stop, and stopped at a checkpoint.

    Not a `KeyboardInterrupt`: Lightning would end the process on that one.
    """


class StopRequest:
    """Whether someone asked to stop; between two batches, where nothing is half done.

    Example:
        >>> stop = StopRequest()
        >>> with stop.on_signals():
        ...     signal.raise_signal(signal.SIGTERM)
        >>> stop.requested
        True
    """

    def __init__(self, *, is_led: bool = False) -> None:
        """Nobody has asked yet.

        Args:
            is_led: whether another process started this one. Then a second signal says nothing
                new (it comes to the group, and from the leader, who ends what takes too long), and
                one that is ignored stays so.
        """
        self.requested = False
        self.is_led = is_led

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to SIGINT and SIGTERM inside the block, in the main thread (others get none)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._on_signal)
            for number in _SIGNALS
            if not (self.is_led and signal.getsignal(number) == signal.SIG_IGN)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self.is_led:
            raise KeyboardInterrupt
        self.requested = True
