"""Two runs' outcomes on the same rows, metric by metric, for all rows and for each segment.

Shape letters: R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recmtl._progress import Bar, Progress
from recmtl.analysis.features import feature_groups
from recmtl.analysis.moved import joined_groups, moved_features
from recmtl.data.codes import Aside
from recmtl.metrics.by_segment import Metrics, metrics_by_segment
from recmtl.metrics.spool import Spool
from recmtl.models.outcomes import Outcomes
from recmtl.spec import Task
from recmtl.studies.intervals import difference_of
from recmtl.studies.resampled_metrics import Resampled, resampled_metrics
from recmtl.studies.resampling import Resamples
from recmtl.studies.same_rows import SameRows, Scorers
from recmtl.studies.shift import ScoreShift
from recmtl.studies.standings import HIGHER_IS_BETTER
from recmtl.studies.units import UNIT, Units

__all__ = ["Paired"]

_COUNTS = ("n", "positives", "gauc_groups", "gauc_undefined_groups")
_SAMPLE_ROWS, _MOST_PASSES = 20_000, 1_200_000
"""Rows of all forward passes that ask for features: what is more takes more than a minute."""


class Paired:
    """What two runs said of the same rows, and what comes of it.

    Args:
        scorers: the runs.
        tasks: those that are compared.
        rows: the rows.
        aside: groups, segments and units beside them.
        units: which groups are drawn together.
        columns: segment columns that are shown.
    """

    def __init__(
        self,
        scorers: Scorers,
        tasks: Sequence[Task],
        rows: SameRows,
        aside: Aside,
        units: Units,
        columns: tuple[str, ...],
    ) -> None:
        """Make room for what will be read."""
        memory = rows.judge.data.memory_bytes
        self.scorers, self.tasks, self.rows = scorers, tasks, rows
        self.aside, self.units, self.columns = aside, units, columns
        self.outcomes = tuple(
            Outcomes(scorer.tasks, aside, memory=memory // 2) for scorer in scorers
        )
        spool = Spool(memory // 16)
        sizes = {column: aside.segments[column].num_codes for column in columns}
        self.shifts = {
            task.name: ScoreShift(
                rows.num_rows,
                task.classes or 1,
                sizes,
                units.count,
                spool=spool,
                memory=memory // 4,
            )
            for task in tasks
        }

    def read(self, *, sampled: bool, progress: Progress) -> None:
        """Score all rows with both runs."""
        first, second = self.scorers
        done = 0
        with progress("score", self.rows.num_rows, "rows") as bar:
            for batch in self.rows.batches():
                weight_B = batch.weight_B
                if sampled:
                    weight_B = first.tasks.weight_of_all(batch.labels_BK[0], weight_B)
                logits = first.logits(batch.first), second.logits(batch.second)
                for outcomes, said, labels_BK in zip(
                    self.outcomes, logits, batch.labels_BK, strict=True
                ):
                    outcomes.add(said, labels_BK, weight_B)
                stop = done + len(weight_B)
                self._add_scores(logits, weight_B.numpy(), np.arange(done, stop))
                bar.advance(stop - done)
                done = stop

    def _add_scores(self, logits: Any, weight_B: Any, numbers_B: Any) -> None:
        unit_B = self.aside.segments[UNIT].read(numbers_B)
        segments = {column: self.aside.segments[column].read(numbers_B) for column in self.columns}
        probs = [
            scorer.tasks.probs(said).numpy()
            for scorer, said in zip(self.scorers, logits, strict=True)
        ]
        for task in self.tasks:
            first, second = (
                probs_BO[:, scorer.tasks.columns[task.name]]
                for scorer, probs_BO in zip(self.scorers, probs, strict=True)
            )
            self.shifts[task.name].add(first, second, weight_B, unit_B, segments)

    def compared(self, draws: Resamples, *, progress: Progress) -> dict[str, Any]:
        """`tasks`, `segments` and `contradictions` of `diff`; and `sample_rows`, for features."""
        found: dict[str, Any] = {}
        names = {column: self.aside.segments[column].names for column in self.columns}
        segments: dict[str, Any] = {
            column: {value: {} for value in values} for column, values in names.items()
        }
        with progress("resample", len(self.tasks) * (1 + len(names)), "cuts") as bar:
            for task in self.tasks:
                whole, *by_column = self._cuts(task, draws, bar)
                shift = self.shifts[task.name]
                moved = {"moves": shift.moves(), "correlation": shift.correlation}
                found[task.name] = {"kind": task.kind, **whole[0], **moved}
                for (column, values), cut in zip(names.items(), by_column, strict=True):
                    for value, told in zip(values, cut, strict=True):
                        segments[column][value][task.name] = told
        shares, sample_rows = self._features(progress)
        for name, by_feature in shares.items():
            found[name]["features"] = by_feature
        known = self.outcomes[0].contradictions
        contradictions = {task.name: known.get(task.name, 0) for task in self.tasks}
        return {
            "tasks": found,
            "segments": segments,
            "contradictions": contradictions,
            "sample_rows": sample_rows,
        }

    def _cuts(self, task: Task, draws: Resamples, bar: Bar) -> Iterator[list[dict[str, Any]]]:
        """What is said of a task on all rows, then by each column: an entry for each value."""
        plain = [
            metrics_by_segment(outcomes.population(task.name, self.columns))
            for outcomes in self.outcomes
        ]
        populations = [
            outcomes.population(task.name, (*self.columns, UNIT)) for outcomes in self.outcomes
        ]
        for cut, column in enumerate(("", *self.columns)):
            first, second = (
                [metrics.whole] if not column else metrics.columns[cut - 1] for metrics in plain
            )
            first_R, second_R = (
                resampled_metrics(population, cut - 1 if column else None, self.units, draws)
                for population in populations
            )
            means = self.shifts[task.name].means(draws, column)
            yield [
                {**_differences(*metrics, *resampled), "scores": _scores(scores)}
                for metrics, resampled, scores in zip(
                    zip(first, second, strict=True),
                    zip(first_R, second_R, strict=True),
                    means,
                    strict=True,
                )
            ]
            bar.advance(1, now=task.name)

    def _features(self, progress: Progress) -> tuple[dict[str, dict[str, float]], int]:
        """What moved the scores, and on how many rows that was found."""
        groups = joined_groups([feature_groups(scorer.encoders) for scorer in self.scorers])
        sample = self.rows.sample(min(_SAMPLE_ROWS, _MOST_PASSES // (2 * len(groups))))
        names = [task.name for task in self.tasks]
        return moved_features(self.scorers, sample, names, progress=progress), len(sample[0])


def _differences(
    first: Metrics, second: Metrics, first_R: Resampled, second_R: Resampled
) -> dict[str, Any]:
    """Counts, and every metric of both with its difference."""
    metrics: dict[str, Any] = {}
    for name, a in first.items():
        b = second[name]
        if name in _COUNTS:
            continue
        entry: dict[str, Any] = {"a": a, "b": b}
        entry |= dict.fromkeys(("difference", "interval", "verdict"))
        if a is not None and b is not None:
            entry |= _difference(a, b, first_R[name], second_R[name])
            entry["verdict"] = _verdict(name, entry)
        metrics[name] = entry
    return {**{name: first[name] for name in _COUNTS if name in first}, "metrics": metrics}


def _difference(a: float, b: float, a_R: Any, b_R: Any) -> dict[str, Any]:
    found = difference_of([b], [a], b_R[None], a_R[None])
    return {
        "difference": found.value,
        "interval": None if found.interval is None else list(found.interval),
    }


def _verdict(metric: str, entry: Mapping[str, Any]) -> str | None:
    """Whether B is better than A in a metric."""
    if metric not in HIGHER_IS_BETTER:
        return None
    interval = entry["interval"]
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "tie"
    return "better" if (entry["difference"] > 0) == HIGHER_IS_BETTER[metric] else "worse"


def _scores(means: Sequence[tuple[Any, Any]]) -> Any:
    """Mean scores of both, of a task with one output or of each class."""
    found: list[dict[str, Any]] = []
    for first, second in means:
        a, b = float(first[0]), float(second[0])
        entry: dict[str, Any] = {"a": a, "b": b}
        if math.isnan(a):
            entry = dict.fromkeys(("a", "b", "difference", "interval", "ratio"))
        else:
            entry |= _difference(a, b, first[1:], second[1:])
            entry["ratio"] = b / a if a else None
        found.append(entry)
    return found[0] if len(found) == 1 else found
