"""Files as one table: rows have numbers, from 0 in file order, and are read by them."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl._checks import suggest
from recmtl.data.columns import column_problems
from recmtl.data.csv_file import open_csv
from recmtl.data.drift import Merged, merge_schemas
from recmtl.data.files import (
    LogFile,
    ParquetFile,
    find_files,
    first_line,
    is_csv,
    open_parquet,
)
from recmtl.data.forward import page_bytes
from recmtl.data.wanted import Want
from recmtl.errors import DataError
from recmtl.spec import Spec

__all__ = ["Log", "RowFilter", "RowGroup", "check_columns", "open_log"]

_STRETCH_ROWS, _PIECE_ROWS = 1 << 13, 1 << 17
_LEAST_ROOM = 16 << 20  # reading takes some MiB, however small the budget is
_OPENED_AT_ONCE = 8
_ROW = "recmtl: row"


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A piece of a file that is stored, and best read, together."""

    file: Path
    index: int
    """Number of the row group in its file."""
    start: int
    """Number in the log of its first row."""
    num_rows: int
    """Rows of the log in it (those that the filter keeps)."""


class RowFilter(NamedTuple):
    """Which rows of the files belong to a log."""

    words: str
    """What is kept, for messages and the fingerprint."""
    bits: tuple[NDArray[np.uint8], ...]
    """One bit a row of each file (`numpy.packbits`), 1 for the rows that are kept."""


class _Piece(NamedTuple):
    """A row group: rows `start`, ... of the log are among rows `physical`, ... of its file."""

    file: int
    physical: int
    physical_rows: int
    start: int
    num_rows: int
    number: int


class Log:
    """Some files as one table, of which a filter may keep a part. `open_log` opens one.

    Attributes:
        name: what it was opened as, for messages.
        schema: every column that all files have, in the type in which it is read: categories as
            strings, integers of several widths as the widest.
        left_out: rows that `data.sample` leaves out.
    """

    def __init__(
        self,
        name: str,
        parts: tuple[LogFile, ...],
        columns: Merged,
        row_filter: RowFilter | None = None,
    ) -> None:
        self.name = name
        self.schema = columns.schema
        self._columns = columns
        self._parts = parts
        self.left_out = 0
        self._filter = row_filter
        self._pieces = tuple(_pieces(parts, row_filter))
        self._starts = [piece.start for piece in self._pieces]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(part.path for part in self._parts)

    @property
    def empty_files(self) -> tuple[Path, ...]:
        """Files without rows; nothing is asked of their columns."""
        return tuple(part.path for part in self._parts if not sum(part.group_rows))

    @property
    def num_rows(self) -> int:
        """Rows that the filter keeps."""
        return self._pieces[-1].start + self._pieces[-1].num_rows if self._pieces else 0

    @property
    def row_groups(self) -> tuple[RowGroup, ...]:
        """Row groups that have rows, in order."""
        return tuple(
            RowGroup(self._parts[p.file].path, p.number, p.start, p.num_rows) for p in self._pieces
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the files' names and digests (of all bytes), and the filter's words."""
        words = [f"{part.path.name}\n{part.digest}" for part in self._parts]
        words += [] if self._filter is None else [self._filter.words]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()

    def require_room(self, columns: Sequence[str], memory_bytes: int, *, readers: int = 1) -> None:
        """Require half of a budget to hold what reading a Parquet file takes.

        Args:
            columns: what is read.
            memory_bytes: the budget.
            readers: processes that share it; each reads other rows.

        Raises:
            DataError: names the file with the largest row group, and says what to do.
        """
        parts = [part for part in self._parts if isinstance(part, ParquetFile) and part.group_rows]
        if not parts:
            return
        widest = max(parts, key=lambda part: max(part.group_rows))
        rows = max(widest.group_rows)
        needed = 2 * page_bytes(widest.path, columns, rows)
        if needed > max(memory_bytes // readers, _LEAST_ROOM):
            fitting = max(1000, rows * memory_bytes // readers // needed // 1000 * 1000)
            shared, fewer = "", ""
            if readers > 1:
                shared, fewer = f", which {readers} workers share", " or fewer workers"
            raise DataError(
                f"{widest.path}: a row group has {rows:,} rows, and to read {len(columns)} columns "
                f"of it takes about {needed / 2 / 2**20:,.0f} MiB: too much for `data.memory` of "
                f"{memory_bytes / 2**20:,.0f} MiB{shared}. Use at least `data.memory="
                f"{-(-readers * needed // 2**20)}MiB`{fewer}, or write the file with smaller row "
                f"groups (`row_group_size={fitting}`)."
            )

    def filtered(self, row_filter: RowFilter) -> Log:
        """The rows of this log that `row_filter` keeps, numbered anew."""
        if self._filter is not None:
            both = zip(self._filter.bits, row_filter.bits, strict=True)
            row_filter = RowFilter(
                f"{self._filter.words}; {row_filter.words}", tuple(a & b for a, b in both)
            )
        return Log(self.name, self._parts, self._columns, row_filter)

    def read(self, columns: Sequence[str], start: int, stop: int) -> pl.DataFrame:
        """Rows `start` to `stop` (exclusive, cut to the log); no other row group is read."""
        self._require(columns)
        start, stop = max(start, 0), min(stop, self.num_rows)
        frames = [
            self._read(file, columns, low, high) for file, low, high in self._ranges(start, stop)
        ]
        return self._joined(frames, columns)

    def take(self, columns: Sequence[str], rows: NDArray[np.int64]) -> pl.DataFrame:
        """The rows of these numbers, which rise."""
        self._require(columns)
        frames = []
        for file, wanted in self._physical_rows(rows):
            low, high = int(wanted[0]), int(wanted[-1]) + 1
            offsets = None if len(wanted) == high - low else wanted - low
            frames.append(self._of_file(file, columns, low, high, offsets))
        return self._joined(frames, columns)

    def stop_after(self, start: int, most: int) -> int:
        """Where a read from `start` on of at most `most` rows ends best: at a row group's end."""
        stop = min(start + most, self.num_rows)
        piece = bisect_right(self._starts, stop) - 1
        if stop < self.num_rows and self._starts[piece] > start:
            return self._starts[piece]
        return stop

    def _joined(self, frames: Sequence[pl.DataFrame], columns: Sequence[str]) -> pl.DataFrame:
        return (
            pl.concat(frames)
            if frames
            else pl.DataFrame(schema={c: self.schema[c] for c in columns})
        )

    def lazy(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """All rows, in order, as a lazy frame."""
        wanted = list(self.schema) if columns is None else list(columns)
        self._require(wanted)
        scans = [
            part.scan() if self._filter is None else _kept(part.scan(), self._filter.bits[number])
            for number, part in enumerate(self._parts)
            if sum(part.group_rows)
        ]
        return pl.concat([s.select(pl.col(c).cast(self.schema[c]) for c in wanted) for s in scans])

    def aggregate(self, columns: Sequence[str], expressions: Sequence[pl.Expr]) -> pl.DataFrame:
        """What expressions make of some columns of all rows, in bounded memory if they do."""
        try:
            return self.lazy(columns).select(expressions).collect(engine="streaming")
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise DataError(
                f"{self.name}: a file is corrupt or changed while it was read "
                f"({first_line(error)})."
            ) from error

    def column_pieces(self, column: str) -> Iterator[tuple[int, pl.Series]]:
        """A column piece by piece, with the number of each piece's file; without a filter alone.

        Pieces end where files do, others at a multiple of eight rows of their file.
        """
        assert self._filter is None
        self._require([column])
        for number, part in enumerate(self._parts):
            rows = sum(part.group_rows)
            for low in range(0, rows, _PIECE_ROWS):
                yield (
                    number,
                    self._read(number, [column], low, min(low + _PIECE_ROWS, rows))[column],
                )

    def _require(self, columns: Sequence[str]) -> None:
        missing = [c for c in columns if c not in self.schema]
        if missing:
            raise DataError.all_of([text for c in missing for text in self.why_missing(c)])

    def why_missing(self, column: str, role: str | None = None) -> list[str]:
        """Why the schema lacks a column: files differ in it, or none has it."""
        if column in self._columns.unread:
            return self._columns.unread[column]
        words = f"column `{column}`" if role is None else f"column `{column}` ({role})"
        return [f"{self.name}: {words} is missing.{suggest(column, self.schema)}"]

    def _ranges(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """File number and range of its rows, one for each file that holds some of the rows."""
        ranges: dict[int, tuple[int, int]] = {}
        number = max(bisect_right(self._starts, start) - 1, 0)
        while start < stop and number < len(self._pieces) and self._pieces[number].start < stop:
            piece = self._pieces[number]
            low = self._physical(piece, max(start - piece.start, 0))
            high = self._physical(piece, min(stop - piece.start, piece.num_rows) - 1) + 1
            ranges[piece.file] = (ranges.get(piece.file, (low, high))[0], high)
            number += 1
        return [(file, low, high) for file, (low, high) in ranges.items()]

    def _physical(self, piece: _Piece, kept: int) -> int:
        """The row of the file that is row `kept` of the piece."""
        if piece.physical_rows == piece.num_rows:
            return piece.physical + kept
        keeps = self._keeps(piece.file, piece.physical, piece.physical + piece.physical_rows)
        return piece.physical + int(np.flatnonzero(keeps)[kept])

    def _physical_rows(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """File number and rows of the file, for each file that holds some of rising row numbers."""
        found: dict[int, list[NDArray[np.int64]]] = {}
        number = max(bisect_right(self._starts, int(rows[0])) - 1, 0) if len(rows) else 0
        while len(rows):
            piece = self._pieces[number]
            count = int(np.searchsorted(rows, piece.start + piece.num_rows))
            kept = rows[:count] - piece.start
            if count and piece.physical_rows != piece.num_rows:
                stop = piece.physical + piece.physical_rows
                kept = np.flatnonzero(self._keeps(piece.file, piece.physical, stop))[kept]
            if count:
                found.setdefault(piece.file, []).append(piece.physical + kept)
            rows, number = rows[count:], number + 1
        return ((file, np.concatenate(parts)) for file, parts in found.items())

    def _keeps(self, file: int, low: int, high: int) -> np.ndarray:
        assert self._filter is not None
        return _unpack(self._filter.bits[file], low, high)

    def _read(self, file: int, columns: Sequence[str], low: int, high: int) -> pl.DataFrame:
        frame = self._of_file(file, columns, low, high, None)
        if self._filter is not None:
            keeps = self._keeps(file, low, high)
            frame = frame if keeps.all() else frame.filter(pl.Series(keeps))
        return frame

    def _of_file(
        self,
        file: int,
        columns: Sequence[str],
        low: int,
        high: int,
        offsets: NDArray[np.int64] | None,
    ) -> pl.DataFrame:
        """Rows `low` to `high` of a file, those at rising `offsets` or all, in the log's types."""
        part = self._parts[file]
        if offsets is None:
            frame = part.read(columns, low, high)
        elif isinstance(part, ParquetFile):
            frame = part.take(columns, low, high, offsets)
        else:
            frame = _thinned(part, columns, low, high, offsets)
        expected = high - low if offsets is None else len(offsets)
        if len(frame) != expected:
            raise DataError(
                f"{part.path}: {expected} rows were expected at row {low}, {len(frame)} are there: "
                "it changed."
            )
        found = frame.schema
        casts = [pl.col(c).cast(t) for c in columns if found[c] != (t := self.schema[c])]
        try:
            return frame.with_columns(casts) if casts else frame
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{part.path}: {first_line(error)}.") from error


def open_log(
    path: str | Path, *, base: Path | None = None, columns: Mapping[str, Want] | None = None
) -> Log:
    """Open Parquet or CSV files as one table.

    Args:
        path: a file, a folder (every `*.parquet`, or every `*.csv`, below it, sorted; names that
            begin with `.` or `_` are left out), or a glob.
        base: what a relative `path` is relative to (default: the working directory).
        columns: what will be read, and as what (see `wanted_columns`); other columns may differ
            between files. CSV is read once to the end: each of these columns is checked in every
            row. Without it, the types of CSV columns are guessed from all rows.

    Raises:
        DataError: no file; a file that is empty, truncated, corrupt or of another format; no rows;
            values of CSV that are not what they should be; columns that differ between files.
    """
    files = find_files(Path(path) if base is None else base / path)
    parts: Sequence[LogFile]
    parts = open_csv(files, columns) if is_csv(files[0]) else _open_each(files)
    name = str(files[0] if len(files) == 1 else path)
    if not any(sum(part.group_rows) for part in parts):
        what = "the file has no rows"
        if len(files) > 1:
            what = f"none of {len(files):,} files has rows"
        raise DataError(f"{name}: {what}. Write rows to it, or take another path.")
    return Log(name, tuple(parts), merge_schemas(parts, columns or {}))


def _open_each(files: Sequence[Path]) -> list[ParquetFile]:
    def opened(file: Path) -> ParquetFile | DataError:
        try:
            return open_parquet(file)
        except DataError as error:
            return error

    with ThreadPoolExecutor(max_workers=_OPENED_AT_ONCE) as threads:
        found = list(threads.map(opened, files))
    problems = [str(part) for part in found if isinstance(part, DataError)]
    if problems:
        raise DataError.all_of(problems)
    return [part for part in found if isinstance(part, ParquetFile)]


def check_columns(log: Log, spec: Spec, *, labels: bool) -> None:
    """Require every column that the spec needs to be there and of a usable type.

    Args:
        log: where the columns should be.
        spec: what is needed: features and the weights of bags.
        labels: also labels, conditions, sample weight, group and segments.

    Raises:
        DataError: all problems, one a line.
    """
    problems = column_problems(log.name, log.schema, spec, labels=labels, why=log.why_missing)
    if problems:
        raise DataError.all_of(problems)


def _thinned(
    part: LogFile, columns: Sequence[str], low: int, high: int, offsets: NDArray[np.int64]
) -> pl.DataFrame:
    """Rows at rising offsets, read a stretch at a time."""
    frames = []
    for start in range(0, high - low, _STRETCH_ROWS):
        stop = min(start + _STRETCH_ROWS, high - low)
        first, last = np.searchsorted(offsets, [start, stop])
        frame = part.read(columns, low + start, low + stop)
        frames.append(frame[offsets[first:last] - start])
    return pl.concat(frames)


def _kept(scan: pl.LazyFrame, bits: NDArray[np.uint8]) -> pl.LazyFrame:
    """The rows of a file whose bits are 1."""

    def keeps(rows: pl.Series) -> pl.Series:
        row_N = rows.to_numpy()
        bit_N = bits[row_N >> 3] >> (7 - (row_N & 7)).astype(np.uint8) & 1
        return pl.Series(rows.name, bit_N.astype(bool))

    predicate = pl.col(_ROW).map_batches(keeps, return_dtype=pl.Boolean, is_elementwise=True)
    return scan.with_row_index(_ROW).filter(predicate)


def _pieces(parts: Sequence[LogFile], row_filter: RowFilter | None) -> list[_Piece]:
    pieces: list[_Piece] = []
    start = 0
    for number, part in enumerate(parts):
        ends = list(accumulate(part.group_rows))
        for index, (end, rows) in enumerate(zip(ends, part.group_rows, strict=True)):
            kept = rows
            if row_filter is not None:
                kept = int(_unpack(row_filter.bits[number], end - rows, end).sum())
            if kept:
                pieces.append(_Piece(number, end - rows, rows, start, kept, index))
            start += kept
    return pieces


def _unpack(bits: np.ndarray, low: int, high: int) -> np.ndarray:
    first = low // 8
    keeps = np.unpackbits(bits[first : -(-high // 8)])[low - 8 * first : high - 8 * first]
    return keeps.astype(bool)
