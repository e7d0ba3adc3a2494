"""CSV files that are read by the numbers of their rows: no copy, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from recmtl.data.csv_index import (
    BOM,
    MARK_ROWS,
    CsvIndex,
    Problems,
    read_blocks,
    read_header,
)
from recmtl.data.csv_types import TEXT, ColumnTypes, Reading, in_common
from recmtl.data.stamp import Stamp, is_settled, stamp_of
from recmtl.data.wanted import Want
from recmtl.errors import DataError

__all__ = ["CsvFile", "open_csv"]

_GROUP_ROWS = 64 * MARK_ROWS
_READ_BYTES = 2 << 20
_SCAN_ROWS = 16 * MARK_ROWS


@dataclass(frozen=True, slots=True)
class _Examined:
    """What one pass over a file found."""

    path: Path
    stamp: Stamp
    names: tuple[str, ...]
    index: CsvIndex
    left: dict[str, tuple[Reading, ...]]
    """Column that is read -> readings that fit all its values."""


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A CSV file whose values are known to fit the types of its columns."""

    path: Path
    stamp: Stamp
    index: CsvIndex
    readings: dict[str, Reading]
    """Every column, in the order of the file."""

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Its columns."""
        return {name: reading.dtype for name, reading in self.readings.items()}

    @property
    def group_rows(self) -> tuple[int, ...]:
        """Rows of each piece."""
        whole, rest = divmod(self.index.num_rows, _GROUP_ROWS)
        return (_GROUP_ROWS,) * whole + ((rest,) if rest else ())

    @property
    def digest(self) -> str:
        """sha256 of all bytes."""
        return self.index.digest

    def read(self, columns: Sequence[str], low: int, high: int) -> pl.DataFrame:
        """Rows `low` to `high` (exclusive); up to 1,023 rows before and behind are parsed too."""
        frames = []
        try:
            with self.path.open("rb") as file:
                if stamp_of(os.fstat(file.fileno())) != self.stamp:
                    raise DataError(
                        f"{self.path}: the file changed since it was opened. Start again."
                    )
                for first, last in self._stretches(low // MARK_ROWS, -(-high // MARK_ROWS)):
                    begin, end = self.index.offsets[[first, last]].tolist()
                    file.seek(begin)
                    texts = _texts(file.read(end - begin), list(self.readings), columns)
                    start = first * MARK_ROWS
                    rows = texts[max(low - start, 0) : high - start]
                    frames.append(
                        pl.DataFrame({c: self.readings[c].parse(rows[c]) for c in columns})
                    )
        except OSError as error:
            raise DataError(f"{self.path}: the file cannot be read ({error.strerror}).") from error
        return pl.concat(frames, rechunk=True)

    def scan(self) -> pl.LazyFrame:
        """All rows, lazily."""

        def source(
            columns: list[str] | None,
            predicate: pl.Expr | None,
            num_rows: int | None,
            _batch_size: int | None,
        ) -> Iterator[pl.DataFrame]:
            stop = self.index.num_rows if num_rows is None else min(num_rows, self.index.num_rows)
            for low in range(0, stop, _SCAN_ROWS):
                frame = self.read(columns or list(self.schema), low, min(low + _SCAN_ROWS, stop))
                yield frame if predicate is None else frame.filter(predicate)

        return register_io_source(source, schema=pl.Schema(self.schema))

    def _stretches(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Marks between which so many bytes lie that their texts need little memory."""
        offsets = self.index.offsets
        while first < last:
            stop = int(np.searchsorted(offsets, offsets[first] + _READ_BYTES, side="right")) - 1
            stop = min(max(stop, first + 1), last)
            yield first, stop
            first = stop


def open_csv(files: Sequence[Path], wants: Mapping[str, Want] | None) -> list[CsvFile]:
    """Read all files once: where their rows are, and of what type the columns are.

    Args:
        files: CSV files.
        wants: columns that will be read, and as what; None: all of them, as whatever they are.

    Raises:
        DataError: the problems of all files.
    """
    found, problems = [], []
    for file in files:
        try:
            found.append(_examine(file, wants))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError.all_of(problems)
    readings = _chosen(found, wants)
    return [
        CsvFile(f.path, f.stamp, f.index, {name: readings.get(name, TEXT) for name in f.names})
        for f in found
    ]


def _chosen(found: Sequence[_Examined], wants: Mapping[str, Want] | None) -> dict[str, Reading]:
    """The type of each column: one for all files, and of one family in each table."""
    left: dict[str, tuple[Reading, ...]] = {}
    problems = []
    for one in found:
        for name, readings in one.left.items():
            both = in_common([left.get(name, readings), readings])
            if not both:
                first = next(f for f in found if name in f.left)
                problems.append(
                    f"{one.path}: column `{name}` holds {readings[0].name}, in {first.path} "
                    f"{first.left[name][0].name}. Write it alike in every file."
                )
            left[name] = both or readings
    if problems:
        raise DataError.all_of(problems)
    tables: dict[str, list[str]] = {}
    for name, want in (wants or {}).items():
        if want.table is not None and name in left:
            tables.setdefault(want.table, []).append(name)
    for names in tables.values():
        shared = in_common([left[name] for name in names])
        left |= dict.fromkeys(names, shared) if shared else {}
    return {name: readings[0] for name, readings in left.items()}


def _examine(path: Path, wants: Mapping[str, Want] | None) -> _Examined:
    """One pass, or what it found before if the file has not been touched since."""
    try:
        status = path.stat()
        key = None if wants is None else tuple(wants.items())
        examine = _remembered if is_settled(status) else _pass_over
        return examine(path, stamp_of(status), key)
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror}).") from error


def _pass_over(path: Path, stamp: Stamp, wanted: tuple[tuple[str, Want], ...] | None) -> _Examined:
    header = read_header(path)
    problems = Problems(path)
    if wanted is None:
        wanted = tuple((name, Want("any", "column")) for name in header.names)
    lists = [
        f"{path}: column `{name}` ({want.role}) is a list, which CSV has no form for. Write the log"
        " as Parquet."
        for name, want in wanted
        if want.kind in ("list", "numbers") and name in header.names
    ]
    if lists:
        raise DataError.all_of(lists)
    columns = [ColumnTypes(name, want) for name, want in wanted if name in header.names]
    index = None
    for block in read_blocks(path, header, problems):
        if isinstance(block, CsvIndex):
            index = block
        elif columns:
            texts = _texts(block.data, header.names, [column.column for column in columns])
            for column in columns:
                column.add(texts[column.column], block, problems)
    for column in columns:
        column.finish(problems)
    if index is None or problems.texts:
        raise DataError.all_of(problems.messages())
    return _Examined(
        path, stamp, header.names, index, {column.column: column.left for column in columns}
    )


_remembered = lru_cache(maxsize=1024)(_pass_over)


def _texts(data: bytes, names: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of well-formed records."""
    places = {names.index(column): column for column in columns}
    frame = pl.read_csv(
        BOM + data if data.startswith(BOM) else data,  # of two, one is taken for no text
        has_header=False,
        columns=sorted(places),
        infer_schema=False,
    )
    frame.columns = [places[place] for place in sorted(places)]
    return frame
