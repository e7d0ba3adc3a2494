"""Runs -> a table: means over seeds, paired differences, costs.

Shape letters: N rows, C classes, S seeds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmtl._progress import Progress, no_progress
from recmtl.spec import Task
from recmtl.studies.contestants import SINGLE_TASK, Contestant
from recmtl.studies.costs import Cost, summed
from recmtl.studies.intervals import difference_of, mean_of
from recmtl.studies.predictions import Observed, read_observed
from recmtl.studies.resampling import Resamples, resampled_auc, resampled_mean

__all__ = ["HEADLINE", "HIGHER_IS_BETTER", "Judged", "standings"]

HEADLINE = {"binary": "auc", "regression": "rmse", "multiclass": "logloss"}
"""The metric of which intervals are given, by kind of task."""
HIGHER_IS_BETTER = {
    **dict.fromkeys(("auc", "gauc", "accuracy"), True),
    **dict.fromkeys(("logloss", "ne", "ece", "rmse", "mae"), False),
}
"""Metrics of which one model can have the better one; `pcoc` is neither."""
_COUNTS = ("n", "positives")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """A finished run on the test rows."""

    predictions: Path
    metrics: Mapping[str, Any]
    """By task."""
    cost: Cost


@dataclass
class _Standing:
    """A contestant's metric of one task, by seed."""

    values: dict[int, float] = field(default_factory=dict)
    resampled: dict[int, Floats] = field(default_factory=dict)
    metrics: dict[int, Mapping[str, Any]] = field(default_factory=dict)


def standings(
    contestants: Sequence[Contestant],
    tasks: Sequence[Task],
    judged: Mapping[str, Judged],
    groups: Path,
    resamples: Resamples,
    *,
    seeds: int,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """The table of a comparison.

    Args:
        contestants: who is compared.
        tasks: what they predict.
        judged: by name of the run; runs that failed are absent.
        groups: file with the number of each row's group.
        resamples: draws of the groups.
        seeds: number of seeds.
        progress: shows models and tasks that are resampled.

    Returns:
        ``{"tasks": {task: {...}}, "contestants": [...]}``, ready for JSON.
    """
    found: dict[str, dict[str, _Standing]] = {c.name: {} for c in contestants}
    wanted = [
        (contestant, task, seed, name)
        for contestant in contestants
        for task in tasks
        for seed in range(seeds)
        if (name := _run_of(contestant, task.name, seed)) in judged
    ]
    with progress("resample", len(wanted), "models") as bar:
        for contestant, task, seed, name in wanted:
            run = judged[name]
            rows = read_observed(run.predictions, task.name, groups)
            value, value_R = _resampled(task.kind, rows, resamples)
            standing = found[contestant.name].setdefault(task.name, _Standing())
            standing.metrics[seed] = run.metrics[task.name]
            if not math.isnan(value):
                standing.values[seed], standing.resampled[seed] = value, value_R
            bar.advance(1, now=f"{name} {task.name}")
    about = {task.name: _about(task, found) for task in tasks}
    best = {task.name: _best(task, contestants, found) for task in tasks}
    for name, of_task in about.items():
        of_task["best"] = best[name]
    return {
        "tasks": about,
        "contestants": [_entry(c, tasks, found, best, judged, seeds) for c in contestants],
    }


def _run_of(contestant: Contestant, task: str, seed: int) -> str:
    model = (
        f"{SINGLE_TASK}-{task}" if contestant.name == SINGLE_TASK else next(iter(contestant.models))
    )
    return f"{model}-{seed}"


def _resampled(kind: str, rows: Observed, resamples: Resamples) -> tuple[float, Floats]:
    """The headline metric and that of each resample."""
    if kind == "binary":
        return resampled_auc(rows.predictions, rows.labels, rows.groups, resamples, rows.weights)
    if kind == "regression":
        squared_N = (rows.predictions.astype(np.float64) - rows.labels) ** 2
        mean, mean_R = resampled_mean(squared_N, rows.groups, resamples, rows.weights)
        return math.sqrt(mean), np.sqrt(mean_R)
    logits_NC = rows.predictions.astype(np.float64)
    total_N = np.logaddexp.reduce(logits_NC, axis=1)
    loss_N = total_N - logits_NC[np.arange(len(logits_NC)), rows.labels.astype(np.int64)]
    return resampled_mean(loss_N, rows.groups, resamples, rows.weights)


def _about(task: Task, found: Mapping[str, Mapping[str, _Standing]]) -> dict[str, Any]:
    metric = HEADLINE[task.kind]
    about: dict[str, Any] = {
        "kind": task.kind,
        "metric": metric,
        "higher_is_better": HIGHER_IS_BETTER[metric],
    }
    for by_task in found.values():
        for metrics in by_task[task.name].metrics.values() if task.name in by_task else ():
            return about | {name: metrics[name] for name in _COUNTS if name in metrics}
    return about


def _best(
    task: Task,
    contestants: Sequence[Contestant],
    found: Mapping[str, Mapping[str, _Standing]],
) -> str | None:
    """The multi-task contestant of the best mean."""
    sign = 1 if HIGHER_IS_BETTER[HEADLINE[task.kind]] else -1
    means = {
        c.name: sign * mean_of(list(standing.values.values())).value
        for c in contestants
        if not c.is_baseline
        and (standing := found[c.name].get(task.name)) is not None
        and standing.values
    }
    return max(means, key=means.__getitem__, default=None)


def _entry(
    contestant: Contestant,
    tasks: Sequence[Task],
    found: Mapping[str, Mapping[str, _Standing]],
    best: Mapping[str, str | None],
    judged: Mapping[str, Judged],
    seeds: int,
) -> dict[str, Any]:
    own = found[contestant.name]
    in_tasks = {}
    for task in tasks:
        standing = own.get(task.name)
        if standing is None:
            continue
        reference, leader = found.get(SINGLE_TASK, {}), best[task.name]
        mean = mean_of(list(standing.values.values())) if standing.values else None
        in_tasks[task.name] = {
            "mean": None if mean is None else mean.value,
            "half_width": None if mean is None else mean.half_width,
            "by_seed": {f"{seed}": value for seed, value in standing.values.items()},
            "metrics": _mean_metrics(list(standing.metrics.values())),
            "vs_single_task": None
            if contestant.name == SINGLE_TASK
            else _difference(task, standing, reference.get(task.name)),
            "vs_best": None
            if leader in (None, contestant.name)
            else _difference(task, standing, found[str(leader)].get(task.name)),
        }
    return {
        "name": contestant.name,
        "tower": contestant.tower,
        "objective": contestant.objective,
        "is_baseline": contestant.is_baseline,
        "tasks": in_tasks,
        "cost": _cost(contestant, judged, seeds),
    }


def _difference(task: Task, first: _Standing, second: _Standing | None) -> dict[str, Any] | None:
    """The paired difference over the seeds that both have, in numbers and in a word."""
    shared = [] if second is None else [s for s in first.values if s in second.values]
    if second is None or not shared:
        return None
    found = difference_of(
        [first.values[s] for s in shared],
        [second.values[s] for s in shared],
        np.stack([first.resampled[s] for s in shared]),
        np.stack([second.resampled[s] for s in shared]),
    )
    is_better = (found.value > 0) == HIGHER_IS_BETTER[HEADLINE[task.kind]]
    word = "tie" if found.is_tie else "better" if is_better else "worse"
    return {
        **{key: list(v) if isinstance(v, tuple) else v for key, v in asdict(found).items()},
        "verdict": word,
    }


def _mean_metrics(by_seed: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Each metric's mean over seeds; None where a seed leaves it undefined."""
    found: dict[str, float | int | None] = {}
    for name in by_seed[0]:
        values = [metrics[name] for metrics in by_seed]
        if None in values:
            found[name] = None
        else:
            found[name] = values[0] if len(set(values)) == 1 else sum(values) / len(values)
    return found


def _cost(
    contestant: Contestant, judged: Mapping[str, Judged], seeds: int
) -> dict[str, float | int] | None:
    """What the contestant takes, mean over the seeds of which every model is there."""
    by_seed = []
    for seed in range(seeds):
        names = [f"{model}-{seed}" for model in contestant.models]
        if all(name in judged for name in names):
            by_seed.append(asdict(summed([judged[name].cost for name in names])))
    if not by_seed:
        return None
    found = {key: sum(cost[key] for cost in by_seed) / len(by_seed) for key in by_seed[0]}
    return {
        key: round(value) if key.endswith("_parameters") else value for key, value in found.items()
    }
