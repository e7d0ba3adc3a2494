"""RowStats: what a log looked like while it was scored, in numbers that add up part by part.

Shape letters: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recmtl.batch import Batch
from recmtl.data import EncodeCounts, Encoders
from recmtl.metrics.sketch import Distribution
from recmtl.tasks import TaskSet

__all__ = ["RowStats"]

_BLOCK = 4096


class RowStats:
    """Counts of nulls and unknown ids, dense values, lengths of lists, and scores.

    Added up in the order of the rows, in pieces of whole blocks of 4,096 of them, they are the same
    to the last bit, whoever counted which piece.

    Attributes:
        has_ids: features that are ids, or lists of them.
        rows: how many were counted.
        counts: of each feature.
        dense: dense feature -> its values as the network sees them.
        scales: dense feature -> what normalised those.
        lengths: list-valued feature -> items of a row.
        scores: task -> probabilities of a binary task, predictions of a regression.
        classes: multiclass task -> sum of the probabilities of each class, [C].
    """

    def __init__(self, encoders: Encoders, tasks: TaskSet, like: RowStats | None = None) -> None:
        """Start with no row.

        Args:
            encoders: of the run.
            tasks: of the run.
            like: numbers are counted around its means (default: around 0, and predictions around
                the mean of the training rows' labels).
        """
        self._rows_of = encoders.spec.dense_rows
        self.scales = encoders.dense_scales
        sequences = [feature.name for feature in encoders.spec.sequences]
        self.has_ids = frozenset([*encoders.single, *encoders.bags, *sequences])
        self.rows = 0
        self.counts = EncodeCounts()
        dense = {} if like is None else like.dense
        scores = {} if like is None else like.scores
        self.dense: dict[str, Distribution] = {
            name: _around(dense.get(name), 0.0, 1.0) for name in self.scales
        }
        self.lengths = {name: Distribution("number") for name in (*encoders.bags, *sequences)}
        self.scores: dict[str, Distribution] = {}
        self.classes: dict[str, NDArray[np.float64]] = {}
        for task in tasks.tasks:
            where = tasks.columns[task.name]
            if task.kind == "multiclass":
                self.classes[task.name] = np.zeros(where.stop - where.start)
            elif task.kind == "regression":
                mean, std = encoders.label_scales[task.name]
                self.scores[task.name] = _around(scores.get(task.name), mean, std)
            else:
                self.scores[task.name] = Distribution("probability")

    def add(
        self, batch: Batch, scores: Mapping[str, NDArray[np.float32]], counts: EncodeCounts
    ) -> None:
        """Count encoded rows, what was met while they were encoded, and each task's scores."""
        self.rows += len(batch)
        self.counts.add(counts)
        for name, values in self.dense.items():
            (values_B,) = batch.dense_DB[self._rows_of[name]].numpy()
            values.add(values_B)
        lists = {**batch.bags, **batch.sequences}
        for name, lengths in self.lengths.items():
            lengths.add(lists[name].lengths_B.numpy().astype(np.float32))
        for name, distribution in self.scores.items():
            distribution.add(scores[name])
        for name, sums_C in self.classes.items():
            for start in range(0, len(batch), _BLOCK):
                sums_C += scores[name][start : start + _BLOCK].sum(axis=0, dtype=np.float64)

    def merge(self, other: RowStats) -> None:
        """Add what was counted of the rows that follow."""
        self.rows += other.rows
        self.counts.add(other.counts)
        for ours, theirs in self._pairs(other):
            ours.merge(theirs)
        for name, sums_C in self.classes.items():
            sums_C += other.classes[name]

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, ready for JSON."""
        return {
            "rows": self.rows,
            "features": self.counts.to_dict(),
            "dense": {name: d.to_dict() for name, d in self.dense.items()},
            "lengths": {name: d.to_dict() for name, d in self.lengths.items()},
            "scores": {name: d.to_dict() for name, d in self.scores.items()},
            "classes": {name: sums_C.tolist() for name, sums_C in self.classes.items()},
        }

    def restored(self, found: Mapping[str, Any]) -> Self:
        """These, with the numbers that `to_dict` gave.

        Raises:
            KeyError: it is not of these features and tasks.
        """
        self.rows = found["rows"]
        self.counts = EncodeCounts.from_dict(found["features"])
        for own, key in ((self.dense, "dense"), (self.lengths, "lengths"), (self.scores, "scores")):
            own |= {name: Distribution.from_dict(found[key][name]) for name in own}
        self.classes = {name: np.array(found["classes"][name]) for name in self.classes}
        return self

    def _pairs(self, other: RowStats) -> list[tuple[Distribution, Distribution]]:
        return [
            (ours[name], theirs[name])
            for ours, theirs in (
                (self.dense, other.dense),
                (self.lengths, other.lengths),
                (self.scores, other.scores),
            )
            for name in ours
        ]


def _around(usual: Distribution | None, shift: float, scale: float) -> Distribution:
    """A distribution of numbers whose bins are finest where they are usually found."""
    if usual is not None:
        shift, scale = usual.mean, usual.std
    return Distribution("number", shift=shift, scale=scale)
