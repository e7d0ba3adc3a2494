"""Progress of long work on standard error: a live bar, a line now and then, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.text import Text

__all__ = [
    "Bar",
    "PlainProgress",
    "Progress",
    "RichProgress",
    "SilentProgress",
    "no_progress",
    "silent_if_none",
    "terminal_progress",
]


class Bar(Protocol):
    """One piece of work that is under way."""

    def advance(self, n: int = 1, **shown: object) -> None:
        """`n` more units are done; `shown` are values to show beside them, such as losses."""


class Progress(Protocol):
    """Announces work: ``with progress("train", total=1000, unit="rows") as bar: ...``."""

    def __call__(
        self, description: str, total: int, unit: str, *, done: int = 0
    ) -> AbstractContextManager[Bar]:
        """Announce work of `total` units, of which `done` were done before (after a restart)."""


class SilentProgress:
    """Shows nothing.

    Example:
        >>> with SilentProgress()("encode", total=2, unit="rows") as bar:
        ...     bar.advance(2, loss=0.5)
    """

    @contextmanager
    def __call__(self, description: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        """Announce work of `total` units to nobody."""
        yield _SilentBar()


class _SilentBar:
    def advance(self, n: int = 1, **shown: object) -> None:
        """Nothing to do."""


class PlainProgress:
    """A line when work begins, every `every_s` seconds, and when it ends: for logs and pipes.

    Example:
        >>> with PlainProgress(sys.stdout)("train", total=2048, unit="rows") as bar:
        ...     bar.advance(2048, ctr=0.25)  # doctest: +ELLIPSIS
        train: 2,048 rows
        train: 2,048 of 2,048 rows (100 %), ... rows/s, ctr 0.2500
    """

    def __init__(self, stream: TextIO | None = None, *, every_s: float = 10.0) -> None:
        self.stream = stream
        self.every_s = every_s

    @contextmanager
    def __call__(self, description: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        """Announce work of `total` units, of which `done` were done before."""
        bar = _PlainBar(self.stream or sys.stderr, self.every_s, description, total, unit, done)
        bar.write(f"{description}: {total:,} {unit}" + (f", {done:,} done before" if done else ""))
        yield bar
        bar.report()


class _PlainBar:
    def __init__(
        self, stream: TextIO, every_s: float, description: str, total: int, unit: str, done: int
    ) -> None:
        self.stream, self.every_s = stream, every_s
        self.description, self.total, self.unit = description, total, unit
        self.done = self.done_before = done
        self.shown: dict[str, object] = {}
        self.start_s = self.reported_s = time.monotonic()

    def advance(self, n: int = 1, **shown: object) -> None:
        self.done += n
        self.shown.update(shown)
        if self.done < self.total and time.monotonic() - self.reported_s >= self.every_s:
            self.report()

    def report(self) -> None:
        self.reported_s = time.monotonic()
        rate = (self.done - self.done_before) / max(self.reported_s - self.start_s, 1e-9)
        share = 100 * self.done // self.total if self.total else 100
        words = [f"{self.description}: {self.done:,} of {self.total:,} {self.unit} ({share} %)"]
        words.append(f"{rate:,.0f} {self.unit}/s")
        if self.done < self.total and rate > 0:
            words.append(f"{(self.total - self.done) / rate:,.0f} s left")
        words += [shown_pair(name, value) for name, value in self.shown.items()]
        self.write(", ".join(words))

    def write(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()


class RichProgress:
    """A live bar with speed, values and time left, for terminals."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream) if stream is not None else Console(stderr=True)

    @contextmanager
    def __call__(self, description: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        """Announce work of `total` units, of which `done` were done before."""
        bars = RichBars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
            console=self.console,
            transient=False,
        )
        with bars:
            task = bars.add_task(description, total=total, completed=done, unit=unit, shown="")
            yield _RichBar(bars, task)


class _RichBar:
    def __init__(self, bars: RichBars, task: TaskID) -> None:
        self.bars, self.task = bars, task
        self.shown: dict[str, object] = {}

    def advance(self, n: int = 1, **shown: object) -> None:
        self.bars.advance(self.task, n)
        if shown:
            self.shown.update(shown)
            text = "  ".join(shown_pair(name, value) for name, value in self.shown.items())
            self.bars.update(self.task, shown=text)


class _Rate(ProgressColumn):
    """Units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {task.fields['unit']}/s")


def shown_pair(name: str, value: object) -> str:
    """A value to be shown beside a bar.

    Example:
        >>> shown_pair("ctr", 0.125), shown_pair("epoch", 2)
        ('ctr 0.1250', 'epoch 2')
    """
    return f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"


def terminal_progress(stream: TextIO | None = None) -> Progress:
    """What suits `stream` (standard error): live bars on a terminal, plain lines elsewhere.

    Example:
        >>> import io
        >>> type(terminal_progress(io.StringIO())).__name__
        'PlainProgress'
    """
    target = stream or sys.stderr
    return RichProgress(stream) if target.isatty() else PlainProgress(stream)


no_progress: Progress = SilentProgress()
"""Shows nothing."""


def silent_if_none(progress: Progress | None) -> Progress:
    """`progress`, or one that shows nothing.

    Example:
        >>> silent_if_none(None) is no_progress
        True
    """
    return no_progress if progress is None else progress
