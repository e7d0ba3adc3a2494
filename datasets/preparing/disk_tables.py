"""Tables on disk that rows are joined to by key: users, videos, common features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from recmtl.data.hashing import xxh3_64
from recmtl.errors import DataError

Ints = NDArray[np.int64]


class DiskTable:
    """Rows by key. They lie in a memory-mapped file, so that memory holds 16 bytes a row.

    Args:
        path: file to create.
        key: column of the key, of integers or strings.

    Attributes:
        repeated: rows that were left out because an earlier one has their key.
        differing: those of them that said something else than the earlier one.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = DiskTable(Path(folder) / "users", "user")
        ...     table.append(pl.DataFrame({"user": ["a", "b"], "age": [30, 40]}))
        ...     table.finish()
        ...     table.join(pl.DataFrame({"user": ["b", "c"]}))["age"].to_list()
        [40, None]
    """

    def __init__(self, path: Path, key: str) -> None:
        """Nothing is written yet."""
        self.path, self.key = path, key
        self.repeated = self.differing = 0
        self._hashes: list[NDArray[np.uint64]] = []
        self._writer: pa.RecordBatchFileWriter | None = None
        self._schema = pl.Schema()

    def append(self, frame: pl.DataFrame) -> None:
        """Write rows."""
        if not frame.height:
            return
        table = frame.to_arrow().combine_chunks()
        if self._writer is None:
            self._schema = frame.schema
            self._writer = pa.ipc.new_file(self.path, table.schema)
        # One batch for each call: `starts` and the batches of the file must stay in step.
        self._writer.write_table(table, max_chunksize=frame.height)
        self._hashes.append(_hashes(frame[self.key]))

    def finish(self) -> None:
        """Sort the keys; from now on rows can be joined."""
        assert self._writer is not None
        self._writer.close()
        reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(len(hashes) for hashes in self._hashes)])
        hashes = np.concatenate(self._hashes)
        self._hashes = []
        order = np.argsort(hashes, kind="stable")  # equal keys stay in the file's order
        hashes = hashes[order]
        first = np.ones(len(hashes), dtype=bool)
        first[1:] = hashes[1:] != hashes[:-1]
        self.repeated = int((~first).sum())
        if self.repeated:
            group = np.cumsum(first) - 1
            again, kept = order[~first], order[first][group[~first]]
            for start in range(0, len(again), 65_536):
                one, other = (self._take(rows[start : start + 65_536]) for rows in (again, kept))
                self._require_equal_keys(one[self.key], other[self.key])
                same = pl.DataFrame(
                    [one[name].eq_missing(other[name]).alias(name) for name in one.columns]
                )
                self.differing += int((~same.select(pl.all_horizontal(pl.all())).to_series()).sum())
        self._keys, self._rows = hashes[first], order[first].astype(np.int64)
        self._joined = np.zeros(len(order), dtype=bool)

    @property
    def unused(self) -> int:
        """Keys that no row was joined to."""
        return len(self._keys) - int(self._joined.sum())

    def find(self, keys: pl.Series) -> Ints:
        """The row of each key, -1 where the table does not have it."""
        hashes = _hashes(keys)
        place = np.minimum(np.searchsorted(self._keys, hashes), len(self._keys) - 1)
        return np.where(self._keys[place] == hashes, self._rows[place], -1)

    def join(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with the table's columns; null where the key is not in the table."""
        rows = self.find(frame[self.key])
        found = rows >= 0
        self._joined[rows[found]] = True
        taken = self._take(rows[found])
        self._require_equal_keys(frame[self.key].filter(pl.Series(found)), taken[self.key])
        place = np.full(len(rows), -1, np.int64)
        place[found] = np.arange(found.sum())
        index = pl.Series(place).replace(-1, None)
        return frame.hstack(taken.drop(self.key).select(pl.all().gather(index)))

    def _take(self, rows: Ints) -> pl.DataFrame:
        """Rows by number, in that order; each batch of the file is touched once."""
        if not len(rows):
            return self._schema.to_frame()
        batch = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(batch, kind="stable")
        touched, begins = np.unique(batch[order], return_index=True)
        parts = [
            self._batches[b].take(pa.array(rows[chosen] - self._starts[b]))
            for b, chosen in zip(touched, np.split(order, begins[1:]), strict=True)
        ]
        frame = pl.from_arrow(pa.Table.from_batches(parts))
        assert isinstance(frame, pl.DataFrame)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return frame[back]

    def _require_equal_keys(self, one: pl.Series, other: pl.Series) -> None:
        if not (one == other).all():
            raise DataError(f"{self.path.name}: two different keys share a 64-bit hash.")


def _hashes(keys: pl.Series) -> NDArray[np.uint64]:
    """Strings by their hash, integers as they are."""
    if keys.dtype == pl.String:
        return xxh3_64(keys)
    return keys.cast(pl.Int64).to_numpy().view(np.uint64)
