"""Which other reading of which features reproduces the scores that a server gave.

Shape letters: B rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from recmtl.analysis.features import with_values_of
from recmtl.analysis.variants import Candidate, candidates
from recmtl.batch import Batch
from recmtl.data.cutting import join_rows
from recmtl.errors import DataError
from recmtl.scoring import BatchScorer
from recmtl.scoring.scorer import FORWARD_ROWS

__all__ = ["Cause", "Causes", "Found", "Judge", "Scores", "ServedRows"]

_FLOOR = 1e-6
"""What is allowed besides the tolerance; of a regression, in standard deviations of the label."""
_LEAST_ROWS, _LEAST_SHARE = 2, 0.02
"""A cause explains so much of a sample, so that it is no coincidence; of one row, that one."""
_PROBES, _MOST_IN_PAIRS, _MOST_PROMISING = 12, 100, 64

Cause = tuple[Candidate, ...]
"""Another reading of a feature, or of two features at once."""
Mask = NDArray[np.bool_]
Scores = dict[str, NDArray[np.float64]]
"""Of each logged task, `[B, 1]` or, of classes, `[B, C]`."""


@dataclass(frozen=True)
class ServedRows:
    """Some rows of the log.

    Attributes:
        frame: the columns.
        batch: the same, encoded as the run does.
        served: the scores that the server gave; NaN where there are none.
    """

    frame: pl.DataFrame
    batch: Batch
    served: Scores


@dataclass(frozen=True)
class Found:
    """A cause of differences.

    Attributes:
        cause: the features, and how they were read.
        also: other readings that explain the same rows of the sample.
        contradicted: share of agreeing rows that would not agree if every row were read so; None
            where no row agrees, or the cause says nothing of every row.
    """

    cause: Cause
    also: tuple[Candidate, ...]
    contradicted: float | None


class Judge:
    """What the run says of rows, and whether that is what was served.

    Args:
        scorer: the run.
        tasks: those that were logged.
        tolerance: largest difference, as a part of the score.
    """

    def __init__(self, scorer: BatchScorer, tasks: Sequence[str], tolerance: float) -> None:
        self.scorer, self.tasks, self.tolerance = scorer, tuple(tasks), tolerance
        self._floor = {
            t.name: _FLOOR * (t.std if t.kind == "regression" else 1.0) for t in scorer.tasks.tasks
        }

    def said(self, batch: Batch) -> Scores:
        """The run's scores."""
        probs_BO = self.scorer.tasks.probs(self.scorer.logits(batch)).double().numpy()
        return {task: probs_BO[:, self.scorer.tasks.columns[task]] for task in self.tasks}

    def agrees(self, task: str, said: NDArray[np.float64], served: NDArray[np.float64]) -> Mask:
        """Which rows were served what the run says."""
        allowed = self.tolerance * np.abs(said) + self._floor[task]
        return np.asarray((np.abs(served - said) <= allowed).all(axis=1))

    def scored(
        self, readings: Iterable[tuple[Cause, Batch]]
    ) -> Iterator[tuple[Cause, Batch, Scores]]:
        """What the run says of several readings of some rows.

        Readings share forward passes: one of a few rows would be padded to a thousand.
        """
        waiting: list[tuple[Cause, Batch]] = []
        for cause, batch in readings:
            waiting.append((cause, batch))
            if len(waiting) * len(batch) >= FORWARD_ROWS:
                yield from self._scored_together(waiting)
                waiting = []
        if waiting:
            yield from self._scored_together(waiting)

    def _scored_together(
        self, readings: Sequence[tuple[Cause, Batch]]
    ) -> Iterator[tuple[Cause, Batch, Scores]]:
        said = self.said(join_rows([batch for _, batch in readings]))
        start = 0
        for cause, batch in readings:
            part = slice(start, start + len(batch))
            yield cause, batch, {task: scores[part] for task, scores in said.items()}
            start = part.stop

    def reproduced(
        self, readings: Iterable[tuple[Cause, Batch]], served: Scores
    ) -> Iterator[tuple[Cause, Mask]]:
        """For each of several readings of some rows, which of them get the scores as served."""
        for cause, batch, said in self.scored(readings):
            matches_B = np.ones(len(batch), np.bool_)
            for task, expected in served.items():
                there_B = ~np.isnan(expected).all(axis=1)
                matches_B &= self.agrees(task, said[task], expected) | ~there_B
            yield cause, matches_B


class Causes:
    """Readings of features that explain why rows were served other scores.

    Args:
        judge: says what agrees.
        agreeing: rows whose scores agree, None without any: they speak against a reading of every
            row that would change them.
    """

    def __init__(self, judge: Judge, agreeing: ServedRows | None) -> None:
        self._judge, self._agreeing = judge, agreeing
        self._encoders = judge.scorer.encoders
        self._candidates = candidates(self._encoders)

    def find(self, rows: ServedRows) -> list[Found]:
        """What explains most of some rows: single features first, then two at once."""
        count = len(rows.batch)
        least = max(min(_LEAST_ROWS, count), math.ceil(_LEAST_SHARE * count))
        singles = self._judge.reproduced(self._singles(rows), rows.served)
        return self._chosen(list(singles), least) or self._pairs(rows, least)

    def _singles(self, rows: ServedRows) -> Iterator[tuple[Cause, Batch]]:
        """The rows, with one feature read in one other way at a time."""
        for candidate in self._candidates:
            reading = self.read((candidate,), rows)
            if reading is not None:
                yield (candidate,), reading

    def _pairs(self, rows: ServedRows, least: int) -> list[Found]:
        """Two features at once: all pairs on a few rows, those that explain some of them on all."""
        count = len(rows.batch)
        probes = np.unique(np.linspace(0, count - 1, min(_PROBES, count)).astype(np.int64))
        few = ServedRows(
            rows.frame[probes],
            rows.batch.select(torch.from_numpy(probes)),
            {task: scores[probes] for task, scores in rows.served.items()},
        )
        readings = dict(self._nearest(few))
        every_B = torch.arange(len(probes))
        pairs = (
            ((one, other), self._put(reading, other, readings[other], every_B))
            for (one, reading), (other, _) in combinations(readings.items(), 2)
            if not set(one.group.members) & set(other.group.members)
        )
        enough = min(_LEAST_ROWS, len(probes))
        hits = [(int(m.sum()), pair) for pair, m in self._judge.reproduced(pairs, few.served)]
        hits = sorted((hit for hit in hits if hit[0] >= enough), key=lambda hit: -hit[0])
        whole = (
            (pair, reading)
            for _, pair in hits[:_MOST_PROMISING]
            if (reading := self.read(pair, rows)) is not None
        )
        masks = list(self._judge.reproduced(whole, rows.served))
        return self._chosen(masks, least)

    def _nearest(self, rows: ServedRows) -> list[tuple[Candidate, Batch]]:
        """Readings that change a score, each in its own way; so many that all pairs may be tried.

        Those are kept that come nearest to the scores that were served.
        """
        before = self._judge.said(rows.batch)
        known: dict[bytes, tuple[float, int, Candidate, Batch]] = {}
        unchanged = _bytes(before)
        for place, ((candidate,), reading, said) in enumerate(
            self._judge.scored(self._singles(rows))
        ):
            gap_B = np.zeros(len(rows.batch))
            for task, expected in rows.served.items():
                gap = np.abs(_log_odds(said[task]) - _log_odds(expected)).max(axis=1)
                gap_B = np.maximum(gap_B, np.nan_to_num(gap))
            known.setdefault(_bytes(said), (float(gap_B.min()), place, candidate, reading))
        known.pop(unchanged, None)
        nearest = sorted(known.values(), key=lambda entry: entry[:2])[:_MOST_IN_PAIRS]
        return [(candidate, reading) for _, _, candidate, reading in nearest]

    def _chosen(self, tried: Sequence[tuple[Cause, Mask]], least: int) -> list[Found]:
        """Of all causes, the one that explains most rows, then of the rows that are left, ..."""
        found: list[Found] = []
        if not tried:
            return found
        left = np.ones(len(tried[0][1]), np.bool_)
        while left.any():
            counts = [int((mask & left).sum()) for _, mask in tried]
            most = max(counts)
            if most < least:
                break
            equal = [i for i, count in enumerate(counts) if count == most]
            told = {i: self._contradicted(tried[i][0]) for i in equal}
            # Of equals, one that says how every row is read, if no row speaks against it.
            general = (i for i in equal if most > 1 and _is_general(tried[i][0]) and not told[i])
            best = next(general, min(equal, key=lambda i: (told[i] or 0.0, i)))
            same = dict.fromkeys(c for i in equal for c in tried[i][0] if c not in tried[best][0])
            found.append(Found(tried[best][0], tuple(same), told[best]))
            left &= ~tried[best][1]
        return found

    def _contradicted(self, cause: Cause) -> float | None:
        """See `Found.contradicted`."""
        if self._agreeing is None or not _is_general(cause):
            return None
        reading = self.read(cause, self._agreeing)
        if reading is None:
            return None
        ((_, mask),) = self._judge.reproduced([(cause, reading)], self._agreeing.served)
        return float(1 - mask.mean())

    def read(self, cause: Cause, rows: ServedRows) -> Batch | None:
        """The rows as they are if features are read so; None where they cannot be."""
        every_B = torch.arange(len(rows.batch))
        batch = rows.batch
        for candidate in cause:
            try:
                reading = candidate.variant.make(rows.frame, rows.batch)
            except (DataError, pl.exceptions.PolarsError):
                return None
            batch = self._put(batch, candidate, reading, every_B)
        return batch

    def _put(
        self, batch: Batch, candidate: Candidate, reading: Batch, every_B: torch.Tensor
    ) -> Batch:
        return with_values_of(batch, candidate.group, reading, every_B, self._encoders)


def _is_general(cause: Cause) -> bool:
    return len(cause) == 1 and cause[0].variant.is_general


def _bytes(said: Scores) -> bytes:
    """Equal where scores are, up to the rounding of forward passes."""
    return b"".join(np.round(scores, 6).tobytes() for scores in said.values())


def _log_odds(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances that do not shrink beside 0 and 1; numbers of a regression as they are."""
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.log(score) - np.log1p(-score)
    found: NDArray[np.float64] = np.where((score > 0) & (score < 1), odds, score)
    return found
