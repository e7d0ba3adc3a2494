"""Scores that a server gave, against those of the run on the same rows: what it reads differently.

Shape letters: B rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from recmtl._progress import Progress, no_progress
from recmtl.analysis.features import with_values_of
from recmtl.analysis.served import ServedLog
from recmtl.analysis.variants import Candidate, candidates
from recmtl.batch import Batch
from recmtl.data.cutting import join_rows
from recmtl.data.hashing import splitmix64
from recmtl.errors import DataError, SpecError
from recmtl.metrics.spool import Spool, SpoolColumn
from recmtl.scoring import BatchScorer
from recmtl.scoring.scorer import FORWARD_ROWS

__all__ = ["TOLERANCE", "parity"]

TOLERANCE = 1e-4
"""Of a score's size; what is allowed besides is `_FLOOR`."""
_FLOOR = 1e-6
_SAMPLE_ROWS, _PROBES = 256, 12
_ROUNDS = 6
_LEAST_SHARE = 0.02
"""A cause explains so much of a sample, so that it is no coincidence."""
_MOST_IN_PAIRS, _MOST_PROMISING = 100, 64
_EXAMPLES = 5

Cause = tuple[Candidate, ...]
"""One reading of a feature, or of two features at once."""
Mask = NDArray[np.bool_]
Scores = dict[str, NDArray[np.float64]]
"""Of each logged task, `[B, 1]` or, of classes, `[B, C]`."""


def parity(
    run: str | Path,
    log: Any,
    *,
    scores_prefix: str | None = None,
    tolerance: float = TOLERANCE,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Score the rows of a server's log again, and name the features that it reads differently.

    A row differs where a served score is further from the run's than `tolerance` times the run's
    score plus 1e-6 (for a regression, 1e-6 standard deviations of the label). For rows that differ,
    every feature is read in other ways: as out-of-vocabulary or null, as a default, in another
    type, without its transform, with its list cut or turned. What reproduces all served scores of a
    row within the tolerance explains it. Causes are searched on samples of at most 256 unexplained
    rows, most frequent ones first, by one feature and then by two at once, and tried on all rows
    that differ; rows in which three features are at fault stay unexplained. Memory is bounded by
    `data.memory`.

    Args:
        run: the folder of a run.
        log: the columns of all features as they were served, and served scores: a path (file,
            folder or glob), a polars or pandas frame, a pyarrow table or a dict of arrays.
        scores_prefix: the columns of scores are called this and the task's name (default: as in the
            output of `score`).
        tolerance: largest difference, as a part of the score.
        progress: shows the rows done (see `recmtl._progress`).

    Returns:
        ``rows``; ``differ``, ``explained`` and ``unexplained`` (numbers of rows); ``tasks``: for
        each logged task its ``column``, the ``rows`` that have a score, how many ``differ``, the
        ``largest`` and the ``mean`` difference; ``not_logged``: the other tasks; ``causes``, most
        rows first: ``features`` (one or two, each with ``feature``, ``cause``, one of `type`,
        `vocabulary`, `default`, `transform` and `list`, and ``words``), the ``rows`` that they
        explain, ``examples`` (row numbers and the features' values), ``also`` (other readings that
        explain the same rows of the sample) and ``contradicted``, the share of a sample of agreeing
        rows that would not agree if every row were read so (None where nothing follows from it);
        ``unexplained_examples``; ``types``: columns that were logged in another type;
        ``tolerance``.

    Raises:
        DataError: a column is missing or cannot be read.
        SpecError: the tolerance makes no sense.
        CheckpointError: the run is corrupt.
    """
    if not 0 <= tolerance < 1:
        raise SpecError(f"tolerance: must be at least 0 and below 1, got {tolerance!r}.")
    scorer = BatchScorer(run, keep=())
    served = ServedLog(scorer, log, scores_prefix)
    search = _Search(scorer, served, tolerance)
    with progress("score", served.num_rows, "rows") as bar:
        for start, frame in served.blocks():
            search.compare(start, frame)
            bar.advance(frame.height)
    search.explain(progress)
    return search.result()


@dataclass
class _Compared:
    """A task's served scores against the run's."""

    rows: int = 0
    differ: int = 0
    largest: float = 0.0
    total: float = 0.0


@dataclass
class _Found:
    """A cause, and what it explains."""

    cause: Cause
    also: list[Candidate]
    contradicted: float | None
    rows: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


class _Sample:
    """The numbers of at most so many rows, chosen by a hash."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.numbers = np.empty(0, np.int64)

    def add(self, numbers: NDArray[np.int64]) -> None:
        """Take numbers in."""
        joined = np.concatenate([self.numbers, numbers])
        self.numbers = np.sort(joined[np.argsort(splitmix64(joined))[: self.most]])


@dataclass(frozen=True)
class _Rows:
    """Some rows of the log, encoded, and what was served for them."""

    frame: pl.DataFrame
    batch: Batch
    served: Scores


class _Search:
    """What is known of a log so far."""

    def __init__(self, scorer: BatchScorer, served: ServedLog, tolerance: float) -> None:
        self.scorer, self.served, self.tolerance = scorer, served, tolerance
        self.tasks = {task: _Compared() for task in served.columns}
        self.floor = {
            t.name: _FLOOR * (t.std if t.kind == "regression" else 1.0) for t in scorer.tasks.tasks
        }
        self.memory = scorer.run.config.data.memory_bytes
        self.unexplained = Spool(self.memory // 16).column(np.int64)
        self.agreeing = _Sample(_SAMPLE_ROWS)
        self.differ = 0
        self.found: list[_Found] = []
        self.candidates = candidates(scorer.encoders)

    def compare(self, start: int, frame: pl.DataFrame) -> None:
        """Score rows of the log, and keep the numbers of those that differ."""
        rows = self._rows(frame, f"rows {start} to {start + frame.height - 1}")
        said = self._said(rows.batch)
        differs_B = np.zeros(frame.height, np.bool_)
        has_score_B = np.zeros(frame.height, np.bool_)
        for task, compared in self.tasks.items():
            there_B = ~np.isnan(rows.served[task]).all(axis=1)
            gap_B = np.abs(rows.served[task] - said[task]).max(axis=1)
            wrong_B = there_B & ~self._agrees(task, said[task], rows.served[task])
            known = gap_B[there_B & np.isfinite(gap_B)]
            compared.rows += int(there_B.sum())
            compared.differ += int(wrong_B.sum())
            compared.largest = max(compared.largest, float(known.max(initial=0.0)))
            compared.total += float(known.sum())
            differs_B |= wrong_B
            has_score_B |= there_B
        self.differ += int(differs_B.sum())
        self.unexplained.append(start + np.flatnonzero(differs_B))
        self.agreeing.add(start + np.flatnonzero(has_score_B & ~differs_B))

    def explain(self, progress: Progress) -> None:
        """Search for causes and try them on all rows that differ, until nothing is found."""
        with progress("explain", self.differ, "rows") as bar:
            for _ in range(_ROUNDS):
                if not len(self.unexplained):
                    break
                sample = _Sample(_SAMPLE_ROWS)
                for numbers in self.unexplained.blocks():
                    sample.add(numbers)
                fresh = self._causes(self._take(sample.numbers))
                if not fresh:
                    break
                before = len(self.unexplained)
                self._apply(fresh)
                self.found += [found for found in fresh if found.rows]
                bar.advance(before - len(self.unexplained))

    def result(self) -> dict[str, Any]:
        """See `parity`."""
        unexplained = len(self.unexplained)
        first = self.unexplained.read(0, min(_EXAMPLES, unexplained)) if unexplained else []
        return {
            "run": str(self.scorer.run.path),
            "model": self.scorer.fingerprint,
            "log": self.served.name,
            "rows": self.served.num_rows,
            "differ": self.differ,
            "explained": self.differ - unexplained,
            "unexplained": unexplained,
            "tasks": {
                task: {
                    "column": self.served.columns[task],
                    "rows": compared.rows,
                    "differ": compared.differ,
                    "largest": compared.largest,
                    "mean": compared.total / compared.rows if compared.rows else None,
                }
                for task, compared in self.tasks.items()
            },
            "not_logged": [name for name in self.scorer.tasks.names if name not in self.tasks],
            "causes": [_told(found) for found in sorted(self.found, key=lambda f: -f.rows)],
            "unexplained_examples": [int(number) for number in first],
            "types": self.served.types,
            "tolerance": self.tolerance,
        }

    # Rows and scores.

    def _rows(self, frame: pl.DataFrame, where: str) -> _Rows:
        try:
            batch = self.scorer.encoders.encode(frame, labels=False)
        except DataError as error:
            raise error.at(f"{self.served.name}, {where}") from error
        return _Rows(frame, batch, self.served.scores(frame))

    def _take(self, numbers: NDArray[np.int64]) -> _Rows:
        return self._rows(self.served.take(numbers), f"rows {numbers[0]} to {numbers[-1]}")

    def _said(self, batch: Batch) -> Scores:
        probs_BO = self.scorer.tasks.probs(self.scorer.logits(batch)).double().numpy()
        return {task: probs_BO[:, self.scorer.tasks.columns[task]] for task in self.tasks}

    def _agrees(self, task: str, said: NDArray[np.float64], served: NDArray[np.float64]) -> Mask:
        allowed = self.tolerance * np.abs(said) + self.floor[task]
        agrees: Mask = (np.abs(served - said) <= allowed).all(axis=1)
        return agrees

    def _scored(
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
        said = self._said(join_rows([batch for _, batch in readings]))
        start = 0
        for cause, batch in readings:
            part = slice(start, start + len(batch))
            yield cause, batch, {task: scores[part] for task, scores in said.items()}
            start = part.stop

    def _reproduced(
        self, readings: Iterable[tuple[Cause, Batch]], served: Scores
    ) -> Iterator[tuple[Cause, Mask]]:
        """For each of several readings of some rows, which of them get the scores as served."""
        for cause, batch, said in self._scored(readings):
            matches_B = np.ones(len(batch), np.bool_)
            for task, expected in served.items():
                there_B = ~np.isnan(expected).all(axis=1)
                matches_B &= self._agrees(task, said[task], expected) | ~there_B
            yield cause, matches_B

    # Causes.

    def _causes(self, rows: _Rows) -> list[_Found]:
        """What explains most of some rows: single features first, then two at once."""
        least = max(1, math.ceil(_LEAST_SHARE * len(rows.batch)))
        singles = self._reproduced(self._singles(rows), rows.served)
        return self._chosen(list(singles), least) or self._pairs(rows, least)

    def _singles(self, rows: _Rows) -> Iterator[tuple[Cause, Batch]]:
        """The rows, with one feature read in one other way at a time."""
        for candidate in self.candidates:
            reading = self._read((candidate,), rows)
            if reading is not None:
                yield (candidate,), reading

    def _pairs(self, rows: _Rows, least: int) -> list[_Found]:
        """Two features at once: all pairs on a few rows, those that explain some of them on all."""
        count = len(rows.batch)
        probes = np.unique(np.linspace(0, count - 1, min(_PROBES, count)).astype(np.int64))
        few = _Rows(
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
        enough = min(2, len(probes))
        hits = [(int(m.sum()), pair) for pair, m in self._reproduced(pairs, few.served)]
        hits = sorted((hit for hit in hits if hit[0] >= enough), key=lambda hit: -hit[0])
        whole = (
            (pair, reading)
            for _, pair in hits[:_MOST_PROMISING]
            if (reading := self._read(pair, rows)) is not None
        )
        masks = list(self._reproduced(whole, rows.served))
        return self._chosen(masks, max(least, enough))

    def _nearest(self, rows: _Rows) -> list[tuple[Candidate, Batch]]:
        """Readings that change a score, each in its own way; so many that all pairs may be tried.

        Those are kept that come nearest to the scores that were served.
        """
        before = self._said(rows.batch)
        known: dict[bytes, tuple[float, int, Candidate, Batch]] = {}
        unchanged = _bytes(before)
        for place, ((candidate,), reading, said) in enumerate(self._scored(self._singles(rows))):
            gap_B = np.zeros(len(rows.batch))
            for task, expected in rows.served.items():
                gap = np.abs(_log_odds(said[task]) - _log_odds(expected)).max(axis=1)
                gap_B = np.maximum(gap_B, np.nan_to_num(gap))
            known.setdefault(_bytes(said), (float(gap_B.min()), place, candidate, reading))
        known.pop(unchanged, None)
        nearest = sorted(known.values(), key=lambda entry: entry[:2])[:_MOST_IN_PAIRS]
        return [(candidate, reading) for _, _, candidate, reading in nearest]

    def _chosen(self, tried: Sequence[tuple[Cause, Mask]], least: int) -> list[_Found]:
        """Of all causes, the one that explains most rows, then of the rows that are left, ..."""
        found: list[_Found] = []
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
            found.append(_Found(tried[best][0], list(same), told[best]))
            left &= ~tried[best][1]
        return found

    def _contradicted(self, cause: Cause) -> float | None:
        """Share of agreeing rows that would not agree if every row were read so.

        None where no row agrees, or the cause says nothing of every row.
        """
        if not _is_general(cause) or not len(self.agreeing.numbers):
            return None
        reading = self._read(cause, self._agreeing_rows)
        if reading is None:
            return None
        ((_, mask),) = self._reproduced([(cause, reading)], self._agreeing_rows.served)
        return float(1 - mask.mean())

    @cached_property
    def _agreeing_rows(self) -> _Rows:
        return self._take(self.agreeing.numbers)

    def _read(self, cause: Cause, rows: _Rows) -> Batch | None:
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
        return with_values_of(batch, candidate.group, reading, every_B, self.scorer.encoders)

    def _apply(self, fresh: Sequence[_Found]) -> None:
        """Try causes on all rows that are not explained yet."""
        left = Spool(self.memory // 16).column(np.int64)
        for numbers in self.unexplained.blocks(self.scorer.encoders.piece_rows):
            self._apply_to(numbers, fresh, left)
        self.unexplained = left

    def _apply_to(
        self, numbers: NDArray[np.int64], fresh: Sequence[_Found], left: SpoolColumn
    ) -> None:
        rows = self._take(numbers)
        open_B = np.ones(len(numbers), np.bool_)
        for found in fresh:
            reading = self._read(found.cause, rows)
            if reading is None:
                continue
            ((_, mask),) = self._reproduced([(found.cause, reading)], rows.served)
            hit = np.flatnonzero(mask & open_B)
            open_B &= ~mask
            found.rows += len(hit)
            for place in hit[: _EXAMPLES - len(found.examples)].tolist():
                found.examples.append(_example(int(numbers[place]), rows.frame[place], found.cause))
        left.append(numbers[open_B])


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


def _example(number: int, row: pl.DataFrame, cause: Cause) -> dict[str, Any]:
    names = dict.fromkeys(name for candidate in cause for name in candidate.group.members)
    return {"row": number, "values": {name: _plain(row[name].to_list()[0]) for name in names}}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and np.isfinite(value) else str(value)


def _told(found: _Found) -> dict[str, Any]:
    return {
        "features": [_words(candidate) for candidate in found.cause],
        "rows": found.rows,
        "examples": found.examples,
        "also": [_words(candidate) for candidate in found.also],
        "contradicted": found.contradicted,
    }


def _words(candidate: Candidate) -> dict[str, str]:
    return {
        "feature": candidate.group.name,
        "cause": candidate.variant.cause,
        "words": candidate.variant.words,
    }
