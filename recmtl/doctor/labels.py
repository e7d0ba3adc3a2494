"""What the labels of a log say about each task: classes, contradictions, drift to validation."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import polars as pl

from recmtl.config import RunConfig
from recmtl.data import Log
from recmtl.doctor.findings import Finding
from recmtl.spec import Spec, Task

__all__ = ["LabelCount", "count_labels", "label_findings", "product_findings", "valid_findings"]

_FEW, _FEW_VALID, _LISTED = 100, 20, 10
_DRIFT_RATIO, _DRIFT_SIGMAS = 1.5, 5.0
_NEARLY_ALL, _SOME = 0.99, 0.05


class LabelCount(NamedTuple):
    """A task's labels in a log."""

    rows: int
    """Rows on which the task is observed."""
    positives: int
    """Of those, rows whose label is above 0."""
    mean: float
    std: float
    impossible: int
    """Positive rows on which the condition is 0."""
    silent: int
    """Rows on which the condition of a factor is 0, and the label of the product is null."""
    unconditional: int
    """Rows on which the condition of a factor is 0."""
    classes: tuple[int, ...] = ()
    """Rows of each class of a multiclass task."""

    @property
    def smaller_class(self) -> int:
        """Rows of the rarer class of a binary task."""
        return min(self.positives, self.rows - self.positives)


def count_labels(log: Log, spec: Spec) -> dict[str, LabelCount]:
    """Count each task's labels over all rows of a log."""
    counts = [
        expression.alias(f"{t}/{field}")
        for t, task in enumerate(spec.tasks)
        for field, expression in zip(LabelCount._fields, _counts(spec, task), strict=True)
    ]
    row = log.aggregate(spec.labels, counts).row(0, named=True)
    found = {}
    for t, task in enumerate(spec.tasks):
        cells: dict[str, Any] = {field: row[f"{t}/{field}"] or 0 for field in LabelCount._fields}
        by_class = {entry["class"]: entry["count"] for entry in cells["classes"] or ()}
        cells["classes"] = tuple(by_class.get(c, 0) for c in range(task.classes or 0))
        found[task.name] = LabelCount(**cells)
    return found


def label_findings(spec: Spec, counts: dict[str, LabelCount]) -> list[Finding]:
    """How much there is to learn for each task."""
    return [_of_task(task, counts[task.name]) for task in spec.tasks]


def product_findings(config: RunConfig, counts: dict[str, LabelCount]) -> list[Finding]:
    """Products that would be learned or judged on the rows of their condition alone.

    The usual cause is a log that says null, not 0, for a conversion without a click.
    """
    findings = []
    for task in config.tasks:
        count = counts[task.name]
        share = count.silent / count.unconditional if count.unconditional else 0.0
        conditions = [c for c in _conditions(config, task) if task.product_of]
        if share < _SOME or not conditions:
            continue
        given = conditions[0]
        trained = config.objective.kind == "entire_space"
        what = (
            f"`{task.label}` is null on {100 * share:.0f} % of the rows where `{given}` is 0, so "
            f"that its {'loss and metrics see' if trained else 'metrics see'} little but rows "
            f"where `{given}` is 1."
        )
        advice = f"Write 0 into `{task.label}` where `{given}` is 0: there the outcome is known."
        if trained and share >= _NEARLY_ALL:
            findings.append(Finding("error", _place(task), what, advice, exit_code=3))
        else:
            findings.append(Finding("warning", _place(task), what, advice))
    return findings


def valid_findings(
    config: RunConfig, train: dict[str, LabelCount], valid: dict[str, LabelCount]
) -> list[Finding]:
    """Validation labels that make metrics undefined or noisy, contradict, or drifted."""
    findings = []
    monitored = (config.monitor or "").split("/")[0]
    for task in config.tasks:
        count, place = valid[task.name], f"{_place(task)}, validation"
        if count.impossible:
            what = (
                f"{count.impossible:,} rows of `{task.label}` are positive although "
                f"`{task.given}` is 0; they count nowhere."
            )
            findings.append(Finding("warning", place, what, "Repair the labels."))
        small = count.smaller_class if task.kind == "binary" else count.rows
        if small < _FEW_VALID:
            what = (
                f"{count.positives:,} positives in {count.rows:,} observed rows: "
                f"{'most metrics are not defined' if not small else 'metrics are mostly noise'}."
            )
            if task.kind != "binary":
                what = f"{count.rows:,} observed rows: metrics are mostly noise."
            advice = "Take more validation rows."
            if task.name == monitored:
                advice += f" `train.monitor: {config.monitor}` cannot choose a checkpoint by it."
            findings.append(Finding("warning", place, what, advice))
        elif task.kind == "binary" and _drifted(train[task.name], count):
            rates = [100 * c.positives / max(c.rows, 1) for c in (train[task.name], count)]
            what = (
                f"{rates[1]:.3g} % of the observed rows are positive, "
                f"{rates[0]:.3g} % of the training rows."
            )
            advice = (
                "Was one of the logs sampled down, or do labels of the last days still arrive? "
                "Predictions will be as far off."
            )
            findings.append(Finding("warning", place, what, advice))
        elif task.kind == "multiclass":
            findings += _drifted_classes(place, train[task.name], count)
    return findings


def _drifted_classes(place: str, train: LabelCount, valid: LabelCount) -> list[Finding]:
    """Classes that come much more or less often than in training, or only in validation."""
    found = []
    for c, (before, after) in enumerate(zip(train.classes, valid.classes, strict=True)):
        is_new = after > 0 and train.rows > 0 and not before
        if is_new or _drifted(train._replace(positives=before), valid._replace(positives=after)):
            shares = [100 * n / max(of.rows, 1) for n, of in ((before, train), (after, valid))]
            found.append(f"{shares[1]:.3g} % are class {c} ({shares[0]:.3g} % in training)")
    if not found:
        return []
    advice = "Was one of the logs sampled? Predictions will be as far off."
    return [Finding("warning", place, f"of the observed rows {', '.join(found)}.", advice)]


def _counts(spec: Spec, task: Task) -> list[pl.Expr]:
    """One expression for each field of `LabelCount`."""
    label = pl.col(task.label).cast(pl.Float64).fill_nan(None)
    observed, impossible = label.is_not_null(), pl.lit(value=False)
    if task.given is not None:
        given = pl.col(task.given).cast(pl.Float64)
        observed &= given == 1
        impossible = (given == 0) & (label > 0) if task.kind == "binary" else impossible
    seen, off = label.filter(observed), pl.lit(value=False)
    for column in _conditions(spec, task):
        off |= (pl.col(column).cast(pl.Float64) == 0).fill_null(value=False)
    silent = off & label.is_null()
    return [
        observed.fill_null(value=False).sum(),
        (seen > 0).sum(),
        seen.mean(),
        seen.std(ddof=0),
        impossible.fill_null(value=False).sum(),
        silent.sum(),
        off.sum(),
        _rows_of_classes(seen, task.classes),
    ]


def _rows_of_classes(seen: pl.Expr, classes: int | None) -> pl.Expr:
    """How many of the labels are each class, as a list; what is no class is an error elsewhere."""
    if classes is None:
        return pl.lit(None)
    known = seen.filter((seen >= 0) & (seen < classes) & (seen == seen.floor()))
    return known.cast(pl.Int32).alias("class").value_counts().implode()


def _conditions(spec: Spec, task: Task) -> list[str]:
    """Conditions of a product's factors."""
    given = {other.name: other.given for other in spec.tasks}
    return [column for factor in task.product_of or () if (column := given[factor]) is not None]


def _of_task(task: Task, count: LabelCount) -> Finding:
    rows = f"{count.rows:,} observed rows"
    if task.kind == "regression":
        if count.rows and not count.std:
            what = f"every label of the {rows} is {count.mean:g}."
            return Finding(
                "warning", _place(task), what, "There is nothing to learn: leave it out."
            )
        what = f"{rows}, mean {count.mean:.4g}, standard deviation {count.std:.4g}."
        return Finding("info", _place(task), what)
    if task.kind == "multiclass":
        return _of_classes(task, count)
    rate = 100 * count.positives / count.rows if count.rows else 0.0
    what = f"{count.positives:,} positives in {rows} ({rate:.3g} %)."
    if not count.smaller_class:
        advice = "With one class there is nothing to learn: repair the labels, or leave it out."
        return Finding("warning", _place(task), what, advice)
    if count.smaller_class < _FEW:
        advice = "A class this small can hardly be learned: take more rows, or leave it out."
        return Finding("warning", _place(task), what, advice)
    return Finding("info", _place(task), what)


def _of_classes(task: Task, count: LabelCount) -> Finding:
    seen = [c for c, rows in enumerate(count.classes) if rows]
    missing = [c for c, rows in enumerate(count.classes) if not rows]
    rows = f"{count.rows:,} observed rows"
    if len(seen) == 1:
        what = f"every label of the {rows} is {seen[0]}."
        return Finding("warning", _place(task), what, "There is nothing to learn: leave it out.")
    if missing and seen:
        listed = ", ".join(str(c) for c in missing[:_LISTED])
        listed += f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        what = (
            f"{len(missing)} of {len(count.classes)} classes never come in {rows}: class {listed}."
        )
        advice = "Classes are numbered from 0 on. Lower `classes`, or take rows that have them all."
        return Finding("warning", _place(task), what, advice)
    smallest = min(seen, key=lambda c: count.classes[c], default=0)
    what = (
        f"{rows} in {len(seen)} classes, from {100 * min(count.classes) / max(count.rows, 1):.3g} "
        f"to {100 * max(count.classes) / max(count.rows, 1):.3g} %."
    )
    if count.classes[smallest] < _FEW:
        advice = (
            f"Class {smallest} has {count.classes[smallest]} rows and can hardly be learned: take "
            "more rows."
        )
        return Finding("warning", _place(task), what, advice)
    return Finding("info", _place(task), what)


def _drifted(train: LabelCount, valid: LabelCount) -> bool:
    """Whether two positive rates differ by more than half, and by far more than by chance."""
    if not (train.rows and valid.rows and train.positives):
        return False
    first, second = train.positives / train.rows, valid.positives / valid.rows
    pooled = (train.positives + valid.positives) / (train.rows + valid.rows)
    sigma = math.sqrt(pooled * (1 - pooled) * (1 / train.rows + 1 / valid.rows))
    far = max(first, second) > _DRIFT_RATIO * min(first, second)
    return far and abs(first - second) > _DRIFT_SIGMAS * sigma


def _place(task: Task) -> str:
    return f"task `{task.name}`"
