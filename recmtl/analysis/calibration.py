"""Calibration of a run's tasks on its validation rows, and what it is worth on rows not fitted to.

Shape letters: B rows, H logits, K label columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmtl._progress import Progress, no_progress
from recmtl.analysis.calibrators import fit_isotonic, fit_platt
from recmtl.batch import Batch
from recmtl.config import RunConfig
from recmtl.data import Encoders, Log
from recmtl.metrics.by_segment import metrics_by_segment
from recmtl.metrics.population import Population, Rows
from recmtl.models import build_tasks
from recmtl.models.outcomes import Outcomes
from recmtl.run import Run
from recmtl.scoring import BatchScorer
from recmtl.scoring.evaluate import gather_outcomes, labelled_batches
from recmtl.tasks import Calibrator, TaskSet

__all__ = ["calibrate"]

_SHOWN = ("n", "positives", "logloss", "ne", "pcoc", "ece")
"""Metrics that calibration is about."""
_FOLDS = 5
_LEAST = 20
_FITS: Mapping[str, Callable[[Population], Calibrator | None]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


def calibrate(
    run: Run,
    valid: Log,
    *,
    progress: Progress = no_progress,
    notify: Callable[[str], None] | None = None,
) -> None:
    """Fit the calibrators that the run's spec asks for, and keep them as `RUN/calibration.json`.

    They are fitted to the validation rows, after the correction of a thinned log. What they are
    worth is told by rows that they have not seen: each fifth of the rows (every fifth row) is
    calibrated by a fit to the others.

    The file has ``tasks``, for each calibrated task ``method`` and ``calibrator``; and ``before``
    and ``after``, for every task that changes, products too, ``metrics`` and ``reliability``.

    Args:
        run: a run whose training ended.
        valid: its validation rows.
        progress: shows the rows done (see `recmtl._progress`).
        notify: told in a sentence of a task that could not be calibrated.
    """
    methods = {t.name: t.calibration for t in run.config.tasks if t.calibration != "none"}
    if not methods:
        return
    scorer = BatchScorer(run.path, keep=(), calibrated=False)
    memory = run.config.data.memory_bytes
    folds = _Folds(scorer.tasks, memory)
    with progress("calibrate", valid.num_rows, "rows") as bar:
        gather_outcomes(scorer, labelled_batches(valid, scorer), folds, bar, sampled=True)
    tell = notify or _nothing
    tasks = dict[str, Any]()
    by_fold: list[dict[str, Calibrator]] = [{} for _ in range(_FOLDS)]
    for name, method in methods.items():
        fit, everything = _FITS[method], folds.population(name)
        problem = _too_few(everything)
        calibrator = None if problem else fit(everything)
        if calibrator is None:
            problem = problem or "what it predicts does not rise with what comes"
            tell(f"task `{name}` is left uncalibrated: {problem}.")
            continue
        tasks[name] = {"method": method, "calibrator": calibrator._asdict()}
        for fold, calibrators in enumerate(by_fold):
            others = folds.population(name, without=fold)
            fitted = None if _too_few(others) else fit(others)
            if fitted is not None:
                calibrators[name] = fitted
    changed = [
        name
        for name in scorer.tasks.names
        if not tasks.keys().isdisjoint(scorer.tasks.factors.get(name, (name,)))
    ]
    unseen = _CrossFitted(scorer, by_fold)
    after = Outcomes(unseen.final, memory=memory)
    with progress("judge calibration", valid.num_rows, "rows") as bar:
        gather_outcomes(unseen, labelled_batches(valid, scorer), after, bar, sampled=True)
    found: dict[str, Any] = {
        "tasks": tasks,
        "before": {name: _judged(folds.population(name)) for name in changed},
        "after": {name: _judged(after.population(name)) for name in changed},
    }
    run.write_calibration(found)
    for name in changed:
        tell(_in_words(name, *(found[when][name]["metrics"] for when in ("before", "after"))))


def _nothing(said: str) -> None:
    """Tells nobody."""


def _in_words(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    said = [
        f"{metric.upper()} {before[metric]:.4f} before, {after[metric]:.4f} after"
        for metric in ("ece", "pcoc")
        if before[metric] is not None
    ]
    return f"task `{name}` is calibrated: {'; '.join(said)}, on rows that were not fitted to."


class _CrossFitted:
    """What a run says of its validation rows, each calibrated by a fit that has not seen it."""

    def __init__(self, scorer: BatchScorer, by_fold: Sequence[Mapping[str, Calibrator]]) -> None:
        self.tasks = scorer.tasks
        self._scorer = scorer
        run = scorer.run
        self._by_fold = [_tasks_of(run.config, run.encoders, found) for found in by_fold]
        all_there_are = run.config.data.model_copy(update={"sampled": None, "sample": None})
        config = run.config.model_copy(update={"data": all_there_are})
        self.final = _tasks_of(config, run.encoders, {})
        """Tasks whose logits need neither correction nor calibration."""

    def logits(self, batch: Batch) -> Tensor:
        """Corrected and calibrated logits ``[B, H]``."""
        raw_BH = self._scorer.logits(batch)
        found_BH = torch.empty_like(raw_BH)
        for fold, tasks in enumerate(self._by_fold):
            own_B = batch.rows_B % _FOLDS == fold
            found_BH[own_B] = tasks.corrected(raw_BH[own_B])
        return found_BH


def _tasks_of(
    config: RunConfig, encoders: Encoders, calibrators: Mapping[str, Calibrator]
) -> TaskSet:
    return build_tasks(config, config.objective.kind, config.train.normalize, encoders, calibrators)


class _Folds:
    """Outcomes in five parts, by the numbers of their rows."""

    def __init__(self, tasks: TaskSet, memory: int) -> None:
        self._parts = [Outcomes(tasks, memory=memory // _FOLDS) for _ in range(_FOLDS)]

    def add(self, logits_BH: Tensor, labels_BK: Tensor, weight_B: Tensor, rows_B: Tensor) -> None:
        for fold, part in enumerate(self._parts):
            own = torch.nonzero(rows_B % _FOLDS == fold)[:, 0]
            part.add(logits_BH[own], labels_BK[own], weight_B[own], rows_B[own])

    def population(self, name: str, *, without: int | None = None) -> Population:
        """The rows where a task is observed, all of them or those of four parts."""
        parts = [part.population(name) for fold, part in enumerate(self._parts) if fold != without]

        is_weighted = any(part.is_weighted for part in parts)

        def blocks() -> Iterator[Rows]:
            for rows in (rows for part in parts for rows in part.blocks()):
                if is_weighted and rows.weights is None:
                    yield rows._replace(weights=np.ones(len(rows.labels), np.float32))
                else:
                    yield rows

        return replace(
            parts[0],
            blocks=blocks,
            num_rows=sum(part.num_rows for part in parts),
            is_weighted=is_weighted,
        )


def _too_few(population: Population) -> str | None:
    """Why there is nothing to fit."""
    positives = rows = 0
    for block in population.blocks():
        rows += len(block.labels)
        positives += int((block.labels == 1).sum())
    counts = (positives, rows - positives)
    for count, word in zip(counts, ("positive", "negative"), strict=True):
        if count < _LEAST:
            return f"it has {count} {word} validation rows, and {_LEAST} are needed"
    return None


def _judged(population: Population) -> dict[str, Any]:
    found = metrics_by_segment(population)
    assert found.reliability is not None
    return {
        "metrics": {name: found.whole[name] for name in _SHOWN},
        "reliability": {name: c.tolist() for name, c in found.reliability._asdict().items()},
    }
