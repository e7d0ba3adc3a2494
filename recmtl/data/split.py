"""Training and validation rows: by file, by key or by time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl._checks import suggest
from recmtl.data.dtypes import family, inner, is_list
from recmtl.data.hashing import combine, splitmix64, xxh3_64
from recmtl.data.scan import Log, RowFilter, open_log
from recmtl.data.selection import kth_largest
from recmtl.data.thinning import thinned
from recmtl.data.vocab import as_int64
from recmtl.data.wanted import wanted_columns
from recmtl.errors import DataError
from recmtl.spec import DataSpec, Spec, SplitByKey, SplitByTime

__all__ = ["Splits", "open_splits"]

# With it, a key's side has nothing to do with its row in a hashed table.
_SALT = np.uint64(combine(0x53504C4954))


class Splits(NamedTuple):
    """The two parts of the data that training may see."""

    train: Log
    valid: Log | None

    @property
    def fingerprint(self) -> str:
        """Names the files and the rows of both parts."""
        return "-".join(log.fingerprint for log in self if log is not None)


def open_splits(
    spec: Spec | DataSpec,
    data_dir: Path,
    *,
    families: Mapping[str, str] | None = None,
    lists: Collection[str] = (),
) -> Splits:
    """Open training and validation rows.

    * A file, glob or folder in `valid`: those rows.
    * `{fraction: f, by: key}`: the rows whose key has a stable hash in the lowest part f of all
      hashes, so every row of a key falls on one side; rows without a key train.
    * `{last: f, by: time}`: the share f of the rows with the largest times. The border is the time
      of the first of them, and every row of that very time validates too, so the part can be larger
      than f.

    Of the training rows, `data.sample` then keeps a part; validation rows are all there.

    Args:
        spec: paths and split, and what is read of the rows; of `data` alone, all columns are, as
            what they are.
        data_dir: what relative paths are relative to.
        families: table -> family of its ids, where encoders have been fitted.
        lists: sparse features that were fitted on lists.

    Raises:
        DataError: see `open_log`; a column of the split that is missing or unusable; a part that
            would be empty.
    """
    data = spec if isinstance(spec, DataSpec) else spec.data
    columns = None
    if isinstance(spec, Spec):
        columns = wanted_columns(spec, labels=True, families=families, lists=lists)
    log = open_log(data.train, base=data_dir, columns=columns)
    if data.valid is None:
        splits = Splits(log, None)
    elif isinstance(data.valid, str):
        if isinstance(spec, Spec):
            families = _families(spec, log) if families is None else families
            columns = wanted_columns(spec, labels=True, families=families, lists=lists)
        splits = Splits(log, open_log(data.valid, base=data_dir, columns=columns))
    elif isinstance(data.valid, SplitByKey):
        splits = _by_key(log, data.valid)
    else:
        splits = _by_time(log, data.valid)
    if data.sample is None:
        return splits
    return splits._replace(train=thinned(splits.train, data.sample, of=log))


def _families(spec: Spec, log: Log) -> dict[str, str]:
    """Whether the ids of each table are integers or strings in a log."""
    owners = [table for table in spec.tables if table in log.schema]
    return {table: family(inner(log.schema[table])) for table in owners}


def _by_key(log: Log, split: SplitByKey) -> Splits:
    kind = _kind(log, split.by)
    if kind not in ("int", "string"):
        raise DataError(
            f"{log.name}: column `{split.by}` of `data.valid` is {log.schema[split.by]}, but a key "
            "is an integer or a string."
        )
    limit = np.uint64(math.floor(split.fraction * 2**64))

    def validates(keys: pl.Series) -> pl.Series:
        hashes = (
            xxh3_64(keys)
            if kind == "string"
            else splitmix64(as_int64(keys).fill_null(0).to_numpy())
        )
        chosen = splitmix64(hashes ^ _SALT) < limit
        return pl.Series(keys.name, chosen) & keys.is_not_null()

    return _split(log, split.by, validates, f"fraction {split.fraction!r} by {split.by}")


def _by_time(log: Log, split: SplitByTime) -> Splits:
    if _kind(log, split.by) not in ("int", "float") and not log.schema[split.by].is_temporal():
        raise DataError(
            f"{log.name}: column `{split.by}` of `data.valid` is {log.schema[split.by]}, but a "
            "time is a number, a date or a "
            "datetime."
        )
    missing = sum(
        times.null_count() + (int(times.is_nan().sum()) if times.dtype.is_float() else 0)
        for _, times in log.column_pieces(split.by)
    )
    if missing:
        raise DataError(
            f"{log.name}: column `{split.by}` of `data.valid` has {missing:,} rows without a time. "
            "Repair it."
        )
    num_last = max(1, math.ceil(split.last * log.num_rows))
    border = kth_largest(
        lambda: (_as_number(times).to_numpy() for _, times in log.column_pieces(split.by)), num_last
    )

    def validates(values: pl.Series) -> pl.Series:
        chosen: pl.Series = _as_number(values) >= border
        return chosen

    return _split(log, split.by, validates, f"last {split.last!r} by {split.by}")


def _as_number(times: pl.Series) -> pl.Series:
    """Times as they are stored: to the nanosecond, and as instants."""
    return times.cast(pl.Float64) if times.dtype.is_decimal() else times.to_physical()


def _kind(log: Log, column: str) -> str:
    if column not in log.schema:
        raise DataError(
            f"{log.name}: column `{column}` of `data.valid` is "
            f"missing.{suggest(column, log.schema)}"
        )
    dtype = log.schema[column]
    return "list" if is_list(dtype) else family(dtype)


def _split(
    log: Log, column: str, validates: Callable[[pl.Series], pl.Series], words: str
) -> Splits:
    sides: list[list[NDArray[np.uint8]]] = [[] for _ in log.files]
    for number, values in log.column_pieces(column):
        sides[number].append(np.packbits(validates(values).to_numpy()))
    bits = [np.concatenate([np.empty(0, np.uint8), *parts]) for parts in sides]

    def part(name: str, *, last: bool) -> Log:
        kept = log.filtered(RowFilter(f"{name}: {words}", tuple(b if last else ~b for b in bits)))
        if not kept.num_rows:
            raise DataError(f"{log.name}: {words} leaves no row for {name}. Change `data.valid`.")
        return kept

    return Splits(part("training", last=False), part("validation", last=True))
