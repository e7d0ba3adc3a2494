"""What the page shows about the validation rows, computed once when training ends.

Shape letters: B rows, H logits, K label columns, T tasks, O columns of what is predicted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recmtl._files import write_json
from recmtl._progress import Progress, no_progress
from recmtl.analysis.experts import expert_health
from recmtl.analysis.rows import read_sample
from recmtl.data import EncodeCounts, Log
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

    They are those of the network: calibrators, which are fitted to these rows, are left out. It is
    computed through the scoring path and written to `RUN/validation.json`: ``rows``,
    ``tasks`` and ``segments`` as `evaluate` gives them; ``curves``, for each task the columns of
    its plots; ``gates`` and ``refinement``, each level of experts and each task's weights of its
    input's vectors (see `expert_health`), and ``counts``, for each feature values, nulls and ids
    that the vocabulary does not have: these three on up to 8,192 rows that lie evenly spread.
    """
    scorer = BatchScorer(run.path, keep=(), calibrated=False)
    data = run.config.data
    counts = EncodeCounts()
    some = read_sample(valid, scorer.encoders, _EXPLAINED_ROWS, labels=False, counts=counts)
    gates, refinement = expert_health(scorer.net, some)
    del some
    aside = read_aside(valid, data.group_by, data.segments, memory=data.memory_bytes)
    outcomes = Outcomes(scorer.tasks, aside, memory=data.memory_bytes)
    with progress("validation summary", valid.num_rows, "rows") as bar:
        gather_outcomes(scorer, labelled_batches(valid, scorer), outcomes, bar, sampled=True)
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
    summary = {**found.table, "curves": curves, "gates": gates, "refinement": refinement}
    summary["counts"] = counts.to_dict()
    write_json(run.path / SUMMARY, summary)
    return summary


def _curves(population: Population, metrics: MetricsBySegment) -> dict[str, Any]:
    """Reliability of the probabilities, and the distribution of the log-odds."""
    assert metrics.reliability is not None
    histogram = histogram_of(population.blocks, within=_MAX_LOG_ODDS)
    return {"reliability": _lists(metrics.reliability), "histogram": _lists(histogram)}


def _lists(columns: Reliability | Histogram | NumberBins) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in columns._asdict().items()}
