"""Columns that give a label away: one column alone predicts a task almost perfectly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data import Log
from recmtl.data.dtypes import is_list
from recmtl.data.vectors import read_vectors
from recmtl.doctor.findings import Finding
from recmtl.doctor.single_column import (
    Halves,
    ItemColumn,
    ValueColumn,
    VectorColumn,
    column_views,
)
from recmtl.spec import Feature, SequenceFeature, SparseFeature, Spec, Task, VectorFeature

__all__ = ["LogSample", "find_leaks", "read_sample", "sampled_columns"]

ERROR_AUC = 0.999
WARNING_AUC = 0.97
SAMPLE_ROWS = 1 << 17
_FEWEST_ROWS = 1000
_CHUNKS = 20
_BYTES_PER_ROW, _BYTES_PER_SINGLE, _BYTES_PER_COMPONENT = 2048, 256, 24
"""What a column of long lists, its items and their numbers take; what one without lists takes; what
a component of a vector takes."""
_MIN_OF_EACH_CLASS = 10
_MAX_CLASSES = 10

View = ValueColumn | ItemColumn | VectorColumn


def find_leaks(frame: pl.DataFrame | LogSample, spec: Spec) -> list[Finding]:
    """Findings on every column that alone reaches AUC .999 (error) or .97 (warning) for a task.

    The mean label of each value (and the ranks of numbers) is fitted on one half of the rows and
    judged on the other half. A list is judged by its items, by its length, and, where the spec has
    an item to compare it with, by whether it holds that item; a vector by the linear function of
    its components that fits best, and by whether it is there. A regression is judged by whether
    its label is above the median, a multiclass task by each of its ten commonest classes against
    the others. An AUC between the two bounds is reported if it exceeds .97 by
    its standard error, so that a handful of positives raises no alarm.

    Args:
        frame: training rows, see `read_sample` and `LogSample`.
        spec: features and tasks.
    """
    half_N = np.random.default_rng(0).permutation(frame.height) % 2 == 0
    judged = {o: halves for task in _judged(spec) for o, halves in _halves(frame, task, half_N)}
    findings = []
    for feature in spec.features if judged else ():
        for column in _columns_of(feature):
            views = _views(frame[column], feature)
            if isinstance(feature, SequenceFeature) and (target := _target(spec, feature)):
                views.append(ValueColumn(_holds(frame[column], frame[target])))
            reached = {outcome: _best(views, halves) for outcome, halves in judged.items()}
            findings += _findings(spec, feature.name, column, reached, judged)
    return findings


def sampled_columns(spec: Spec) -> list[str]:
    """Columns that a sample has: features, weights of bags, labels and conditions."""
    inputs = [column for feature in spec.features for column in _columns_of(feature)]
    return list(dict.fromkeys([*inputs, *spec.labels]))


def sampled_rows(spec: Spec) -> int:
    """How many rows of all those columns are read at once: fewer of wide vectors."""
    return _rows_in(spec.data.memory_bytes, sum(feature.dim for feature in spec.vectors))


class LogSample:
    """What `read_sample` reads, some columns at a time: fewer rows in a small budget.

    Args:
        log: the rows.
        spec: features and labels, whose columns are read together as far as they fit.
        memory_bytes: what columns and what is made of them may take.
    """

    def __init__(self, log: Log, spec: Spec, memory_bytes: int) -> None:
        """Nothing is read yet."""
        self._log = log
        widest = max((feature.dim for feature in spec.vectors), default=0)
        rows = max(memory_bytes // _BYTES_PER_ROW, _FEWEST_ROWS)
        self._rows = min(rows, _rows_in(memory_bytes, widest))
        used = dict.fromkeys([*spec.labels, *sampled_columns(spec)])  # in the order of their use
        self._single = [column for column in used if not is_list(log.schema[column])]
        self._at_once = max(memory_bytes // (_BYTES_PER_SINGLE * self._rows), 1)
        self._read = pl.DataFrame()

    @property
    def height(self) -> int:
        """Number of rows."""
        return _sampled_rows(self._log, self._rows)

    def __getitem__(self, column: str) -> pl.Series:
        """A column, read anew unless it was read with the last one."""
        if column not in self._read.columns:
            self._read = pl.DataFrame()
            self._read = read_sample(self._log, self._with(column), self._rows)
        return self._read[column]

    def _with(self, column: str) -> list[str]:
        if column not in self._single:
            return [column]
        start = self._single.index(column)
        return self._single[start : start + self._at_once]


def read_sample(log: Log, columns: list[str], most_rows: int = SAMPLE_ROWS) -> pl.DataFrame:
    """About 131,072 rows in evenly spaced stretches of a log, or all of a smaller one."""
    if log.num_rows <= most_rows:
        return log.read(columns, 0, log.num_rows)
    rows = most_rows // _CHUNKS
    starts = [k * (log.num_rows - rows) // (_CHUNKS - 1) for k in range(_CHUNKS)]
    return pl.concat([log.read(columns, start, start + rows) for start in starts])


def _rows_in(memory_bytes: int, num_components: int) -> int:
    """Rows of vectors that a budget has room for."""
    if not num_components:
        return SAMPLE_ROWS
    rows = memory_bytes // (_BYTES_PER_COMPONENT * num_components)
    return min(max(rows, _FEWEST_ROWS), SAMPLE_ROWS)


def _sampled_rows(log: Log, most_rows: int) -> int:
    return log.num_rows if log.num_rows <= most_rows else most_rows // _CHUNKS * _CHUNKS


def _columns_of(feature: Feature) -> list[str]:
    """Columns that a model sees of a feature."""
    weights = feature.weights if isinstance(feature, SparseFeature) else None
    return [feature.name] if weights is None else [feature.name, weights]


def _judged(spec: Spec) -> list[Task]:
    """Every task but products that share the label of one of their factors."""
    labels = {task.name: task.label for task in spec.tasks}
    return [
        task
        for task in spec.tasks
        if task.label not in {labels[factor] for factor in task.product_of or ()}
    ]


class _Outcome(NamedTuple):
    """A yes or no that a column may give away."""

    task: str
    class_number: int | None = None
    """Of a multiclass task: whether it is this class."""

    def __str__(self) -> str:
        of = f"task `{self.task}`"
        return of if self.class_number is None else f"class {self.class_number} of {of}"


def _halves(
    frame: pl.DataFrame | LogSample, task: Task, half_N: NDArray[np.bool_]
) -> Iterator[tuple[_Outcome, Halves]]:
    """The task's rows in two parts, for each yes or no of it that both have a yes and a no of."""
    label = frame[task.label].cast(pl.Float64)
    # Any other label is an error elsewhere.
    seen = label.is_in([0.0, 1.0]) if task.kind == "binary" else label.is_finite()
    seen = seen.fill_null(value=False)
    if task.given is not None:
        seen &= frame[task.given].cast(pl.Float64).fill_null(0.0) == 1.0
    seen_N, labels_N = seen.to_numpy(), label.fill_null(0.0).fill_nan(0.0).to_numpy()
    if task.kind == "regression" and seen_N.any():
        middle, top = np.median(labels_N[seen_N]), labels_N[seen_N].max()
        labels_N = (labels_N > min(middle, np.nextafter(top, -np.inf))).astype(np.float64)
    outcomes = {_Outcome(task.name): labels_N}
    if task.classes is not None:
        seen_N &= (labels_N >= 0) & (labels_N < task.classes)
        counts = np.bincount(labels_N[seen_N].astype(np.int64), minlength=task.classes)
        commonest = np.argsort(-counts, kind="stable")[:_MAX_CLASSES].tolist()
        outcomes = {_Outcome(task.name, c): (labels_N == c).astype(np.float64) for c in commonest}
    for outcome, is_yes_N in outcomes.items():
        halves = Halves(is_yes_N, seen_N & half_N, seen_N & ~half_N)
        fewest = min(*halves.classes(halves.fit_N), *halves.classes(halves.test_N))
        if fewest >= _MIN_OF_EACH_CLASS:
            yield outcome, halves


def _views(column: pl.Series, feature: Feature) -> list[View]:
    """The ways to look at a column of a feature."""
    if not isinstance(feature, VectorFeature):
        return list(column_views(column))
    vectors = read_vectors(feature, column)
    # Values that the spec forbids are an error elsewhere.
    fitting: list[View] = [] if vectors.problems else [VectorColumn(vectors.values_BV)]
    return [*fitting, ValueColumn(column.is_null())]


def _target(spec: Spec, sequence: SequenceFeature) -> str | None:
    """The single-valued feature that the items of a sequence are compared with."""
    table = spec.table_of(sequence)
    sharing = (f.name for f in spec.sparse if spec.table_of(f) == table)
    return sequence.target or next(sharing, None)


def _holds(lists: pl.Series, values: pl.Series) -> pl.Series:
    """Whether each list holds the value of its row; null where one of them is not single."""
    dtype: Any = lists.dtype
    if isinstance(values.dtype, pl.List | pl.Array):
        return pl.Series([None] * len(lists), dtype=pl.Boolean)
    frame = pl.DataFrame({"list": lists.cast(pl.List(dtype.inner)), "value": values})
    value = pl.col("value").cast(dtype.inner, strict=False)
    return frame.select(pl.col("list").list.contains(value)).to_series()


def _best(views: Sequence[View], halves: Halves) -> float:
    return max((value for view in views for value in view.aucs(halves)), default=0.0)


def _standard_error(value: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC (Hanley and McNeil, Radiology 1982)."""
    square = value * value
    spread = (positives - 1) * (value / (2 - value) - square)
    spread += (negatives - 1) * (2 * square / (1 + value) - square)
    return math.sqrt(max(value * (1 - value) + spread, 0.0) / (positives * negatives))


def _findings(
    spec: Spec,
    feature: str,
    column: str,
    reached: dict[_Outcome, float],
    judged: dict[_Outcome, Halves],
) -> list[Finding]:
    """At most one finding on a column, about every task that it gives away."""
    found: dict[_Outcome, float] = {}
    for outcome, value in reached.items():
        error = _standard_error(value, *judged[outcome].classes(judged[outcome].test_N))
        if value >= ERROR_AUC or value - error >= WARNING_AUC:
            same = next((other for other in found if other.task == outcome.task), None)
            if same is None or value > found[same]:
                found.pop(same or outcome, None)
                found[outcome] = value
    if not found:
        return []
    each = " and ".join(f"AUC {value:.4f} for {outcome}" for outcome, value in found.items())
    where = f"column `{column}`"
    what = f"it alone reaches {each} on rows that it was not fitted on."
    if feature in spec.data.accept_leaks:
        return [Finding("info", where, what, "Accepted by `data.accept_leaks`.")]
    if max(found.values()) < ERROR_AUC:
        advice = "Is it known before the outcome? If not, remove the feature."
        return [Finding("warning", where, what, advice)]
    advice = (
        "It is most likely written after the outcome: remove the feature, or accept it with"
        f" `data.accept_leaks: [{feature}]`."
    )
    return [Finding("error", where, what, advice, exit_code=3)]
