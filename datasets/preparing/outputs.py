"""Parquet files that are written block by block and appear together, at the end."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import polars as pl
import pyarrow.parquet as pq

from recmtl._files import atomic_path, exclusive, in_words, sweep_within
from recmtl.errors import DataError, RecMTLError

ROW_GROUP = 65_536
MAX_BYTES = 64 << 20  # of rows that wait for their row group


class Outputs:
    """Writes `out/<name>.parquet` for some names; none appears before all are written in full.

    Args:
        out: folder.
        names: files that come out, without their suffix.
        labels: columns whose ones are counted.
        absent: files that another preparation may have left there, and this one does not write.

    Attributes:
        rows: rows written to each file.
        positives: ones in each label of each file.

    Raises:
        DataError: one of `absent` is there; at the end, one of `names` has no rows.
    """

    def __init__(
        self, out: Path, names: Sequence[str], labels: Sequence[str], absent: Sequence[str] = ()
    ) -> None:
        """Nothing is written yet."""
        self.out, self.names, self.labels = out, names, labels
        self.rows: dict[str, int] = {}
        self.positives: dict[str, dict[str, int]] = {}
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._waiting: dict[str, list[pl.DataFrame]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}  # rows and bytes that wait
        self._paths: list[Path] = []
        self._stack = ExitStack()
        self._is_new = not out.exists()
        for path in (out / f"{name}.parquet" for name in absent):
            if path.exists():
                raise DataError(
                    f"{path}: is left from another preparation and would not fit the new files. "
                    "Delete it, or choose another OUT."
                )

    def __enter__(self) -> Self:
        return self

    def write(self, name: str, frame: pl.DataFrame) -> None:
        """Append rows to a file."""
        if not frame.height:
            return
        self._waiting.setdefault(name, []).append(frame)
        self.rows[name] = self.rows.get(name, 0) + frame.height
        counts = self.positives.setdefault(name, dict.fromkeys(self.labels, 0))
        for label in self.labels:
            counts[label] += int(frame[label].sum())
        rows, num_bytes = self._sizes.get(name, (0, 0))
        self._sizes[name] = (rows + frame.height, num_bytes + int(frame.estimated_size()))
        if rows + frame.height >= ROW_GROUP or num_bytes >= MAX_BYTES:
            self._flush(name)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            try:
                if error is None:
                    self._finish()
            finally:
                for writer in self._writers.values():
                    writer.close()
            if error is None:
                for (
                    path
                ) in self._paths:  # a disk that is full says so before the first has its name
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
        except BaseException as late:
            self._stack.__exit__(type(late), late, late.__traceback__)
            self._remove_if_empty()
            raise
        self._stack.__exit__(kind, error, trace)
        if error is not None:
            self._remove_if_empty()

    def _finish(self) -> None:
        for name in self.names:
            if name not in self.rows:
                raise DataError(f"{self.out / f'{name}.parquet'}: no row is left for this file.")
            self._flush(name)

    def _remove_if_empty(self) -> None:
        if self._is_new and self.out.is_dir() and not any(self.out.iterdir()):
            self.out.rmdir()

    def _flush(self, name: str) -> None:
        if not self._waiting[name]:
            return
        table = pl.concat(self._waiting[name]).to_arrow()
        self._waiting[name], self._sizes[name] = [], (0, 0)
        if name not in self._writers:
            path = self._stack.enter_context(atomic_path(self.out / f"{name}.parquet"))
            self._paths.append(path)
            self._writers[name] = pq.ParquetWriter(path, table.schema, compression="zstd")
        self._writers[name].write_table(table, row_group_size=ROW_GROUP)


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A hidden folder in `out` for what is needed on the way; it is removed.

    What a killed preparation left there goes first.
    """
    out.mkdir(parents=True, exist_ok=True)
    sweep_within(out)
    folder = out / f".preparing.{uuid.uuid4().hex[:8]}.tmp"
    folder.mkdir()
    try:
        with exclusive(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def summary(outputs: Outputs, dropped: dict[str, int]) -> list[str]:
    """What was written and what was left out, as lines of text."""
    lines = []
    for name, rows in outputs.rows.items():
        labels = ", ".join(f"{label} {n:,}" for label, n in outputs.positives[name].items())
        lines.append(f"{outputs.out / f'{name}.parquet'}: {rows:,} rows ({labels})")
    if not dropped:
        return [*lines, "dropped nothing"]
    return [*lines, *(f"dropped or changed: {n:,} {reason}" for reason, n in dropped.items())]


def documented(what: str, found: int, expected: int, *, digits: int) -> list[str]:
    """A warning if what seems to be the owner's full set has another size than the owner says.

    Args:
        what: what is counted.
        found: how many there are.
        expected: how many the owner counts.
        digits: how many digits of that are known.
    """
    unit = 10 ** max(0, len(str(expected)) - digits)
    if found < 0.5 * expected or abs(found - expected) <= unit:
        return []
    return [f"warning: {found:,} {what}; the owner's full set has {expected:,}"]


def run(prepare: Callable[[], list[str]]) -> int:
    """Prepare, say what was done, and return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        lines = prepare()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written\n")
        return 130
    except RecMTLError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{in_words(error)}\n")
        return 1
    sys.stdout.write("".join(line + "\n" for line in lines))
    return 0
