"""What the page shows about the validation rows, computed once when training ends.

Shape letters: B rows, H logits, K label columns, T tasks, O columns of what is predicted,
E experts.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from recmtl._files import write_json
from recmtl._progress import Progress, no_progress
from recmtl.batch import Batch
from recmtl.data import Log
from recmtl.data.codes import read_aside
from recmtl.metrics.by_segment import MetricsBySegment
from recmtl.metrics.curves import Histogram, Reliability, histogram_of
from recmtl.metrics.numbers import NumberBins, number_bins
from recmtl.metrics.population import Population
from recmtl.models.outcomes import Outcomes
from recmtl.report.classes import ClassCurves
from recmtl.run import Run
from recmtl.scoring import BatchScorer
from recmtl.scoring.evaluate import gather_outcomes, labelled_batches

__all__ = ["SUMMARY", "summarise"]

SUMMARY = "validation.json"
_EXPLAINED_ROWS = 8_192
_MAX_LOG_ODDS = 20.0


def summarise(run: Run, valid: Log, *, progress: Progress = no_progress) -> dict[str, Any]:
    """Metrics, curves and gates of the best checkpoint on the validation rows.

    It is computed through the scoring path and written to `RUN/validation.json`: ``rows``,
    ``tasks`` and ``segments`` as `evaluate` gives them; ``curves``, for each task the columns of
    its plots; ``gates``, for each level of experts their names, the mean weight of each in each
    gate, and the share of their activations that are 0.
    """
    scorer = BatchScorer(run.path, keep=())
    data = run.config.data
    columns = scorer.encoders.columns(labels=False)
    some = valid.read(columns, 0, _EXPLAINED_ROWS)
    gates = _gates(scorer, scorer.encoders.encode(some, labels=False))
    aside = read_aside(valid, data.group_by, data.segments, memory=data.memory_bytes)
    outcomes = Outcomes(scorer.tasks, aside, memory=data.memory_bytes)
    with progress("validation summary", valid.num_rows, "rows") as bar:
        gather_outcomes(scorer, labelled_batches(valid, scorer), outcomes, bar)
    found = outcomes.metrics()
    curves: dict[str, Any] = {}
    for name, metrics in found.by_task.items():
        population = outcomes.population(name)
        if population.kind == "multiclass":
            classes = ClassCurves(population.classes)
            for rows in population.blocks():
                weight_N = np.ones(len(rows.labels))
                if rows.weights is not None:
                    weight_N = rows.weights.astype(np.float64)
                classes.add(rows.predictions.astype(np.float64), rows.labels, weight_N)
            curves[name] = {"classes": classes.columns()}
        elif population.kind == "regression":
            curves[name] = {"numbers": _lists(number_bins(population))}
        else:
            curves[name] = _curves(population, metrics)
    summary = {**found.table, "curves": curves, "gates": gates}
    write_json(run.path / SUMMARY, summary)
    return summary


def _curves(population: Population, metrics: MetricsBySegment) -> dict[str, Any]:
    """Reliability of the probabilities, and the distribution of the log-odds."""
    assert metrics.reliability is not None
    histogram = histogram_of(population.blocks, within=_MAX_LOG_ODDS)
    return {"reliability": _lists(metrics.reliability), "histogram": _lists(histogram)}


def _lists(columns: Reliability | Histogram | NumberBins) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in columns._asdict().items()}


def _gates(scorer: BatchScorer, batch: Batch) -> list[dict[str, Any]]:
    """Mean weights of each level's gates over the rows of a batch, and its experts."""
    explained = scorer.net.explain(batch)
    refs = scorer.net.tower.expert_refs()
    last = max((ref.level for ref in refs), default=1)
    levels: dict[int, dict[str, Any]] = {}
    for key, value in explained.items():
        found = re.fullmatch(r"(?:level_(\d+)/)?(gates/(?P<task>.+)|shared_gate)", key)
        if found is None:
            continue
        level = int(found[1] or last)
        name = found["task"] or "shared gate"
        entry = levels.setdefault(level, {"level": level, "gates": {}})
        entry["gates"][name] = value.double().mean(dim=0).tolist()
    for level, entry in levels.items():
        prefix = "" if level == last else f"level_{level}/"
        num_experts = max(len(weights) for weights in entry["gates"].values())
        names = [ref.name for ref in refs if ref.level == level]
        numbers = [str(e + 1) for e in range(num_experts)]
        entry["experts"] = names if len(names) == num_experts else numbers
        zero = explained.get(f"{prefix}experts/zero_share")
        entry["zero_share"] = None if zero is None else zero.double().tolist()
    return [levels[level] for level in sorted(levels)]
