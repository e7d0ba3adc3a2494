"""Labels and sample weights: read, checked, and counted on training rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.dense import LARGEST, DenseFit
from recmtl.data.problems import Problem
from recmtl.spec import Spec, Task

__all__ = [
    "LabelCounts",
    "Population",
    "WeightedMoments",
    "label_problems",
    "read_labels",
    "read_weight",
]


class Population(NamedTuple):
    """Training rows on which a task is observed."""

    rows: int
    positives: int
    """Of those, rows whose label is 1 (binary) or above 0 (regression)."""


def read_labels(spec: Spec, frame: pl.DataFrame) -> NDArray[np.float64]:
    """Label columns as they are, [K, B]; NaN where null."""
    labels_KB = np.empty((len(spec.labels), frame.height), np.float64)
    for k, column in enumerate(spec.labels):
        labels_KB[k] = frame[column].cast(pl.Float64).to_numpy()
    return labels_KB


def label_problems(
    spec: Spec, frame: pl.DataFrame, labels_KB: NDArray[np.float64]
) -> list[Problem]:
    """What label columns hold that they must not."""
    binary = {t.label for t in spec.tasks if t.kind == "binary"} | {
        t.given for t in spec.tasks if t.given is not None
    }
    problems = []
    for label_B, column in zip(labels_KB, spec.labels, strict=True):
        known_B = ~np.isnan(label_B)
        num_nan = len(label_B) - int(known_B.sum()) - frame[column].null_count()
        if num_nan:
            text = "labels are NaN. Write null where a label is not known."
            problems.append(Problem(column, "nan", num_nan, text))
        if column in binary:
            wrong = label_B[known_B & (label_B != 0) & (label_B != 1)]
            if len(wrong):
                text = (
                    f"labels are neither 0, 1 nor null (for example {wrong[0]:g}). A binary label "
                    "is 0 or 1; a number is "
                    "`kind: regression`."
                )
                problems.append(Problem(column, "binary", len(wrong), text))
        elif num_inf := int((np.abs(label_B) > LARGEST).sum()):
            text = "labels are infinite or too large for a float32. Repair the column."
            problems.append(Problem(column, "inf", num_inf, text))
    return problems


def read_weight(spec: Spec, frame: pl.DataFrame) -> tuple[NDArray[np.float64], list[Problem]]:
    """The sample weight of each row (1 without a column), and what is wrong with it."""
    column = spec.data.weight
    if column is None:
        return np.ones(frame.height), []
    weight_B = frame[column].cast(pl.Float64).to_numpy()
    bad_B = ~((weight_B >= 0) & (weight_B <= LARGEST))
    if not bad_B.any():
        return weight_B, []
    text = "sample weights are null, NaN, infinite or negative. Repair the column."
    return np.where(bad_B, 0.0, weight_B), [Problem(column, "weight", int(bad_B.sum()), text)]


class WeightedMoments:
    """Weighted sums of a label, piece by piece: total weight, mean, squared deviations."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.mean = 0.0
        self.squares = 0.0

    def add(self, values: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        """Take one piece in."""
        weight = float(weights.sum())
        if not weight:
            return
        mean = float(weights @ values) / weight
        squares = float(weights @ np.square(values - mean))
        total = self.weight + weight
        gap = mean - self.mean
        self.squares += squares + gap * gap * self.weight * weight / total
        self.mean += gap * weight / total
        self.weight = total


class LabelCounts:
    """Base rates and label scales of all tasks, and contradictions, piece by piece."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.moments = {task.name: WeightedMoments() for task in spec.tasks}
        self.rows = dict.fromkeys(self.moments, 0)
        self.positives = dict.fromkeys(self.moments, 0)
        self.ranges = {task.name: DenseFit() for task in spec.tasks}
        self.impossible = dict.fromkeys(self.moments, 0)

    def add(self, labels_KB: NDArray[np.float64], weight_B: NDArray[np.float64]) -> None:
        """Take the labels of one piece in."""
        columns = dict(zip(self.spec.labels, labels_KB, strict=True))
        for task in self.spec.tasks:
            label_B = columns[task.label]
            observed_B = np.isfinite(label_B) & (weight_B > 0)
            if task.given is not None:
                given_B = columns[task.given]
                if task.kind == "binary":
                    self.impossible[task.name] += int(((given_B == 0) & (label_B == 1)).sum())
                observed_B &= given_B == 1
            seen = label_B[observed_B]
            self.rows[task.name] += len(seen)
            self.positives[task.name] += int((seen > 0).sum())
            self.moments[task.name].add(seen, weight_B[observed_B])
            self.ranges[task.name].add(seen)

    def problems(self, where: str) -> list[str]:
        """Contradictions, and tasks that no row observes, each after the place."""
        problems = []
        for task in self.spec.tasks:
            if count := self.impossible[task.name]:
                problems.append(
                    f"{where}: column `{task.label}`: {count:,} rows are positive although "
                    f"`{task.given}` is 0, but task `{task.name}` "
                    f"is given `{task.given}`. Repair the labels, or remove `given`."
                )
            if not self.moments[task.name].weight:
                given = "" if task.given is None else f" and `{task.given}` is 1"
                problems.append(
                    f"{where}: task `{task.name}`: no training row with a weight above 0 observes "
                    f"it (`{task.label}` is not null{given}). Add such rows, or remove the task."
                )
        return problems

    def populations(self) -> dict[str, Population]:
        """Observed rows and positives of every task."""
        return {name: Population(rows, self.positives[name]) for name, rows in self.rows.items()}

    def base_rates(self) -> dict[str, float]:
        """Weighted positive rate of every binary task without `product_of`.

        Kept at least half a row away from 0 and 1, so that it has a logit.
        """
        rates = {}
        for task in self._heads("binary"):
            margin = 0.5 / self.rows[task.name]
            rates[task.name] = min(max(self.moments[task.name].mean, margin), 1.0 - margin)
        return rates

    def label_scales(self) -> dict[str, tuple[float, float]]:
        """Weighted mean and standard deviation of every regression label; 1 for a constant one."""
        scales = {}
        for task in self._heads("regression"):
            moments, span = self.moments[task.name], self.ranges[task.name]
            std = math.sqrt(moments.squares / moments.weight) if span.high > span.low else 0.0
            scales[task.name] = (moments.mean, std or 1.0)
        return scales

    def _heads(self, kind: str) -> list[Task]:
        return [task for task in self.spec.tasks if task.kind == kind and task.product_of is None]
