"""What each user did before a moment: the last items, strictly earlier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from recmtl.data.hashing import splitmix64

Ints = NDArray[np.int64]
_EVENT = np.dtype([("user", np.int64), ("time", np.int64), ("item", np.int64)])


class Histories:
    """Events of users on disk, sorted by time, a part of the users at a time.

    Args:
        folder: an empty folder.
        parts: how many parts the users are spread over; memory holds the events of one.
        last: how many items a history has at most.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     histories = Histories(Path(folder), parts=2, last=2)
        ...     histories.add([1, 1, 1, 1], [10, 20, 20, 30], [7, 8, 9, 6])
        ...     histories.finish()
        ...     histories.before([1, 1, 1, 5], [20, 21, 99, 99]).to_list()
        [[7], [8, 9], [9, 6], []]
    """

    def __init__(self, folder: Path, *, parts: int, last: int) -> None:
        """Nothing is written yet."""
        self.folder, self.parts, self.last = folder, parts, last

    def add(self, users: Ints, times: Ints, items: Ints) -> None:
        """Take events in; those of one user and time stay in the order in which they come."""
        events = np.empty(len(users), _EVENT)
        events["user"], events["time"], events["item"] = users, times, items
        part = splitmix64(events["user"]) % np.uint64(self.parts)
        for p in np.unique(part):
            with self._part(int(p)).open("ab") as file:
                events[part == p].tofile(file)

    def finish(self) -> None:
        """Sort; from now on histories can be asked for."""
        users, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        paths = {name: self.folder / name for name in ("time", "item")}
        with paths["time"].open("wb") as times, paths["item"].open("wb") as items:
            for path in filter(Path.exists, map(self._part, range(self.parts))):
                events = np.fromfile(path, _EVENT)
                path.unlink()
                events = events[np.lexsort((events["time"], events["user"]))]  # a stable sort
                for file, name in ((times, "time"), (items, "item")):
                    np.ascontiguousarray(events[name]).tofile(file)
                found, count = np.unique(events["user"], return_counts=True)
                users.append(found)
                counts.append(count)
        stops = np.cumsum(np.concatenate(counts))
        starts = stops - np.concatenate(counts)
        order = np.argsort(np.concatenate(users))
        self._users = np.concatenate(users)[order]
        self._starts, self._stops = starts[order], stops[order]
        self._times, self._items = (
            np.memmap(path, np.int64, "r") if path.stat().st_size else np.empty(0, np.int64)
            for path in paths.values()
        )

    def before(self, users: Ints, times: Ints) -> pl.Series:
        """For each row the last items of its user before its time, oldest first."""
        users, times = np.asarray(users), np.asarray(times)
        if not len(self._users):
            return pl.Series([[]] * len(users), dtype=pl.List(pl.Int64))
        place = np.minimum(np.searchsorted(self._users, users), len(self._users) - 1)
        known = self._users[place] == users
        begin = np.where(known, self._starts[place], 0)
        low, high = begin.copy(), np.where(known, self._stops[place], 0)
        while (open_ := low < high).any():  # a binary search in every row at once
            middle = (low + high) // 2
            earlier = open_ & (self._times[np.minimum(middle, len(self._times) - 1)] < times)
            low = np.where(earlier, middle + 1, low)
            high = np.where(open_ & ~earlier, middle, high)
        begin = np.maximum(begin, low - self.last)
        lengths = low - begin
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)
        lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(self._items[index]))
        series = pl.from_arrow(lists)
        assert isinstance(series, pl.Series)
        return series

    def _part(self, p: int) -> Path:
        return self.folder / f"part-{p}"
