"""Spool: columns that grow, in memory while they are small and in a nameless file beyond that."""

from __future__ import annotations

import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from recmtl.errors import RecMTLError

__all__ = ["BLOCK_ROWS", "Spool", "SpoolColumn"]

BLOCK_ROWS = 1 << 16
"""Rows that are worked on at a time. Sums are made block by block, so the numbers do not depend on
how much memory there is."""


class Spool:
    """Columns of numbers that share a number of bytes of memory, and beyond it a file.

    The file is made when it is needed, in the folder for temporary files (`TMPDIR`), and has no
    name there: whatever happens to the process, nothing is left behind.

    Args:
        memory: bytes to keep in memory, None for all.

    Example:
        >>> spool = Spool(memory=0)
        >>> column = spool.column(np.float32)
        >>> column.append(np.arange(3)), column.append(np.arange(2))
        (None, None)
        >>> column.read(2, 5).tolist()
        [2.0, 0.0, 1.0]
        >>> spool.close()
    """

    def __init__(self, memory: int | None = None) -> None:
        """Start without columns."""
        self._memory = memory
        self._held = 0
        self._written = 0
        self._columns: list[SpoolColumn] = []
        self._file: IO[bytes] | None = None

    def column(self, dtype: DTypeLike, width: int | None = None) -> SpoolColumn:
        """A new column; of `width` numbers a row, or of one."""
        made = SpoolColumn(self, np.dtype(dtype), width)
        self._columns.append(made)
        return made

    def close(self) -> None:
        """Give memory and file back."""
        self._columns = []
        if self._file is not None:
            self._file.close()
            self._file = None

    def held(self, piece: NDArray[Any]) -> None:
        """Count a piece that a column holds; write all pieces when they are too many."""
        self._held += piece.nbytes
        if self._memory is None or self._held <= self._memory:
            return
        for column in self._columns:
            column.flush(self._write)
        self._held = 0

    def _write(self, piece: NDArray[Any]) -> int:
        """Where in the file the piece now lies."""
        start = self._written
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # outlives this
                weakref.finalize(self, self._file.close)
            self._file.seek(start)
            rest = piece.reshape(-1).view(np.uint8).data
            while len(rest):
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise RecMTLError(
                f"{tempfile.gettempdir()}: outcomes that are too many for `data.memory` are kept "
                f"here for the time being, but it cannot be written to ({error.strerror}, after "
                f"{start:,} bytes). Make room, set TMPDIR to another folder, or raise "
                "`data.memory`."
            ) from error
        self._written += piece.nbytes
        return start

    def fill(self, start: int, into: NDArray[Any]) -> None:
        """Read what lies at `start` in the file."""
        assert self._file is not None
        self._file.seek(start)
        rest = into.reshape(-1).view(np.uint8).data
        while len(rest):
            count = self._file.readinto(rest)  # type: ignore[attr-defined]  # unbuffered: a FileIO
            assert count, "the file is shorter than what was written"
            rest = rest[count:]


class _Piece(NamedTuple):
    """Consecutive rows of a column: an array, or where in the file it lies."""

    at: NDArray[Any] | int
    rows: int


class SpoolColumn:
    """Numbers of one type, appended at the end and read by row range."""

    def __init__(self, spool: Spool, dtype: np.dtype[Any], width: int | None) -> None:
        """See `Spool.column`."""
        self.dtype = dtype
        self._spool = spool
        self._shape = () if width is None else (width,)
        self._pieces: list[_Piece] = []
        self._starts: list[int] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def append(self, values: NDArray[Any]) -> None:
        """Copy rows to the end."""
        if not len(values):
            return
        piece = np.array(values, self.dtype, order="C")
        self._pieces.append(_Piece(piece, len(piece)))
        self._starts.append(self._rows)
        self._rows += len(piece)
        self._spool.held(piece)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop` (exclusive); an array of its own."""
        found = np.empty((stop - start, *self._shape), self.dtype)
        row_bytes = self.dtype.itemsize * (self._shape[0] if self._shape else 1)
        number = bisect_right(self._starts, start) - 1
        done = 0
        while done < len(found):
            (at, rows), low = self._pieces[number], start + done - self._starts[number]
            into = found[done : done + rows - low]
            if isinstance(at, int):
                self._spool.fill(at + low * row_bytes, into)
            else:
                into[...] = at[low : low + len(into)]
            done += len(into)
            number += 1
        return found

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[NDArray[Any]]:
        """All rows, in order, `rows` at a time."""
        for start in range(0, self._rows, rows):
            yield self.read(start, min(start + rows, self._rows))

    def flush(self, write: Any) -> None:
        """Move what is in memory to where `write` puts it."""
        for number, (at, rows) in enumerate(self._pieces):
            if not isinstance(at, int):
                self._pieces[number] = _Piece(write(at), rows)
