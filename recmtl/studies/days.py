"""The days of a log: the values of a column in order, and the rows of each in a file of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recmtl._files import atomic_folder
from recmtl._progress import Progress
from recmtl.config import RunConfig
from recmtl.data import Log, check_columns, open_log
from recmtl.data.columns import needed_columns
from recmtl.data.dtypes import normal
from recmtl.data.wanted import wanted_columns
from recmtl.errors import DataError

__all__ = ["Day", "Days", "day_file", "find_days", "open_days", "write_days"]

_MOST_DAYS = 400
_FIRST_ROWS, _MAX_ROWS = 1 << 8, 1 << 18
_SHARE = 24  # one part in so many of the budget is read at a time; to write it takes more


@dataclass(frozen=True)
class Day:
    """A day that has rows.

    Attributes:
        value: of the column.
        name: the value as text.
        rows: how many there are.
    """

    value: date | int | str
    name: str
    rows: int


@dataclass(frozen=True)
class Days:
    """A log by days.

    Attributes:
        days: in order: dates, or text that is one, by the calendar; numbers, or text that is one,
            by their size; other text by its letters.
        missing: days without rows between the first and the last one, of dates and numbers; those
            in a row as one.
        num_null: rows that have no day.
    """

    days: tuple[Day, ...]
    missing: tuple[str, ...]
    num_null: int


def open_days(config: RunConfig, data_dir: Path, by: str) -> Log:
    """Open the rows of `data.train`, with a column that says their day.

    Raises:
        DataError: see `open_log` and `check_columns`; the column is missing, or of a type whose
            values are no days.
    """
    columns = wanted_columns(config, labels=True, keep=[by])
    log = open_log(config.data.train, base=data_dir, columns=columns)
    check_columns(log, config, labels=True)
    if by not in log.schema:
        raise DataError.all_of(log.why_missing(by, "the day"))
    dtype = normal(log.schema[by])
    if not (dtype.is_integer() or isinstance(dtype, pl.String | pl.Date)):
        raise DataError(
            f"{log.name}: column `{by}` is {dtype}, but a day is a date, an integer or a string. "
            "Write a column of dates, such as a time that is cast to Date."
        )
    return log


def find_days(log: Log, by: str, *, least: int) -> Days:
    """The days of a log.

    Args:
        log: its rows, in any order.
        by: column of the day.
        least: how many days there have to be.

    Raises:
        DataError: there are fewer, or too many to be days.
    """
    counts: Counter[Any] = Counter()
    for start in range(0, log.num_rows, _MAX_ROWS):
        values = log.read([by], start, start + _MAX_ROWS)[by].value_counts()
        counts.update(dict(values.iter_rows()))
        if len(counts) > _MOST_DAYS + 1:
            raise DataError(
                f"{log.name}: column `{by}` has more than {_MOST_DAYS} values in"
                f" {start + _MAX_ROWS:,} rows: too many for days. Name a column of days."
            )
    num_null = counts.pop(None, 0)
    if len(counts) < least:
        found = f"{len(counts)} {'value' if len(counts) == 1 else 'values'}"
        raise DataError(
            f"{log.name}: column `{by}` has {found} in {log.num_rows:,} rows ({num_null:,} of them"
            f" null), and at least {least} days are needed: one to score for each that was trained"
            " on."
        )
    order = _order(list(counts))
    in_order = sorted(counts, key=lambda value: order[value])
    days = tuple(Day(value, str(value), counts[value]) for value in in_order)
    return Days(days, tuple(_missing([order[day.value] for day in days])), num_null)


def write_days(
    log: Log, days: Sequence[Day], by: str, config: RunConfig, folder: Path, progress: Progress
) -> None:
    """Write the rows of each day to a file of their own, all of them or none.

    Only columns are written that training and evaluation read.

    Args:
        log: the rows.
        days: its days.
        by: column of the day.
        config: what is needed of the log, and how much memory there is.
        folder: where the files appear.
        progress: shows rows.
    """
    data = config.data
    more = (data.group_by, *data.segments, by)
    columns = [*needed_columns(config, labels=True), *(name for name in more if name is not None)]
    with (
        atomic_folder(folder) as temporary,
        ExitStack() as stack,
        progress("write days", log.num_rows, "rows") as bar,
    ):
        files: dict[Any, pq.ParquetWriter] = {}
        for frame in _pieces(log, list(dict.fromkeys(columns)), data.memory_bytes):
            for (value,), part in frame.partition_by(by, as_dict=True, maintain_order=True).items():
                if value is None:
                    continue
                table: pa.Table = part.to_arrow()
                if value not in files:
                    path = temporary / day_file(_place(days, value))
                    files[value] = stack.enter_context(pq.ParquetWriter(path, table.schema))
                files[value].write_table(table)
            bar.advance(frame.height)


def day_file(number: int) -> str:
    """Name of the file of a day, by its number from 0.

    Example:
        >>> day_file(7)
        'day-0007.parquet'
    """
    return f"day-{number:04d}.parquet"


def _place(days: Sequence[Day], value: Any) -> int:
    return next(number for number, day in enumerate(days) if day.value == value)


def _pieces(log: Log, columns: Sequence[str], memory_bytes: int) -> Iterator[pl.DataFrame]:
    start, rows = 0, _FIRST_ROWS
    while start < log.num_rows:
        frame = log.read(columns, start, start + rows)
        yield frame
        start += frame.height
        row_bytes = max(frame.estimated_size() / frame.height, 1)
        rows = int(min(max(memory_bytes / (_SHARE * row_bytes), _FIRST_ROWS), _MAX_ROWS))


def _order(values: Sequence[date | int | str]) -> dict[Any, Any]:
    """What each day is sorted by: dates, numbers or text, whichever all of them are.

    Example:
        >>> _order(["10", "9"]), _order(["20250131"])
        ({'10': 10, '9': 9}, {'20250131': datetime.date(2025, 1, 31)})
    """
    kinds: tuple[Callable[[str], Any], ...] = (date.fromisoformat, int)
    for kind in kinds:
        try:
            return {value: kind(str(value)) for value in values}
        except ValueError:
            continue
    return {value: value for value in values}


def _missing(days: Sequence[Any]) -> Iterator[str]:
    """Days between the first and the last one that are not there, those in a row as one.

    Example:
        >>> list(_missing([1, 2, 4, 8])), list(_missing(["mon", "tue"]))
        (['3', '5 to 7'], [])
    """
    if isinstance(days[0], str):
        return
    step = timedelta(days=1) if isinstance(days[0], date) else 1
    for before, after in pairwise(days):
        first, last = before + step, after - step
        if first <= last:
            yield f"{first}" if first == last else f"{first} to {last}"
