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
    "Rate",
    "WeightedMoments",
    "label_problems",
    "read_labels",
    "read_weight",
]


Rate = float | tuple[float, ...]
"""Share of positives, or of each class of a multiclass task."""


class Population(NamedTuple):
    """Training rows on which a task is observed."""

    rows: int
    positives: int
    """Of those, rows whose label is 1 (binary) or above 0 (regression, multiclass)."""


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
    classes: dict[str, int] = {}
    for task in spec.tasks:
        if task.classes is not None:
            classes[task.label] = min(task.classes, classes.get(task.label, task.classes))
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
        elif column in classes:
            wrong = label_B[known_B & ~_is_class(label_B, classes[column])]
            if len(wrong):
                text = (
                    f"labels are no class from 0 to {classes[column] - 1} (for example "
                    f"{', '.join(f'{value:g}' for value in np.unique(wrong[:1000])[:3])}). Number "
                    "the classes from 0 on, or raise `classes`."
                )
                problems.append(Problem(column, "classes", len(wrong), text))
        elif num_inf := int((np.abs(label_B) > LARGEST).sum()):
            text = "labels are infinite or too large for a float32. Repair the column."
            problems.append(Problem(column, "inf", num_inf, text))
    return problems


def _is_class(label_B: NDArray[np.float64], classes: int) -> NDArray[np.bool_]:
    """Whether each label is a whole number from 0 on, below the number of classes."""
    inside_B = (label_B >= 0) & (label_B < classes)
    is_class_B: NDArray[np.bool_] = inside_B & (label_B == np.floor(label_B))
    return is_class_B


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
        self.classes = {t.name: np.zeros(t.classes) for t in spec.tasks if t.classes is not None}
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
            if task.classes is not None:
                is_class_B = observed_B & _is_class(label_B, task.classes)  # others are problems
                class_B = label_B[is_class_B].astype(np.int64)
                self.classes[task.name] += np.bincount(class_B, weight_B[is_class_B], task.classes)

    def problems(self, where: str, *, unobserved: bool = True) -> list[str]:
        """Contradictions, and tasks that no row observes, each after the place.

        Args:
            where: the place.
            unobserved: whether a task that no row observes is a problem.
        """
        problems = []
        for task in self.spec.tasks:
            if count := self.impossible[task.name]:
                problems.append(
                    f"{where}: column `{task.label}`: {count:,} rows are positive although "
                    f"`{task.given}` is 0, but task `{task.name}` "
                    f"is given `{task.given}`. Repair the labels, or remove `given`."
                )
            if unobserved and not self.moments[task.name].weight:
                given = "" if task.given is None else f" and `{task.given}` is 1"
                problems.append(
                    f"{where}: task `{task.name}`: no training row with a weight above 0 observes "
                    f"it (`{task.label}` is not null{given}). Add such rows, or remove the task."
                )
        return problems

    def populations(self) -> dict[str, Population]:
        """Observed rows and positives of every task."""
        return {name: Population(rows, self.positives[name]) for name, rows in self.rows.items()}

    def base_rates(self) -> dict[str, Rate]:
        """Weighted positive rate of every binary task without `product_of`.

        Kept at least half a row away from 0 and 1, so that it has a logit. The share of each class
        of a multiclass task, with at least half a row for each. Tasks that no row observes are left
        out.
        """
        rates: dict[str, Rate] = {}
        for task in self._heads("binary"):
            if not self.moments[task.name].weight:
                continue
            margin = 0.5 / self.rows[task.name]
            rates[task.name] = min(max(self.moments[task.name].mean, margin), 1.0 - margin)
        for name, weight_C in self.classes.items():
            if not weight_C.sum():
                continue
            share_C = np.maximum(weight_C / weight_C.sum(), 0.5 / self.rows[name])
            rates[name] = tuple((share_C / share_C.sum()).tolist())
        return rates

    def label_scales(self) -> dict[str, tuple[float, float]]:
        """Weighted mean and standard deviation of regression labels; 1 for a constant one."""
        scales = {}
        for task in self._heads("regression"):
            moments, span = self.moments[task.name], self.ranges[task.name]
            if not moments.weight:
                continue
            std = math.sqrt(moments.squares / moments.weight) if span.high > span.low else 0.0
            scales[task.name] = (moments.mean, std or 1.0)
        return scales

    def _heads(self, kind: str) -> list[Task]:
        return [task for task in self.spec.tasks if task.kind == kind and task.product_of is None]
