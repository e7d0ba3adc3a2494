"""What the page shows about the validation rows, computed once when training ends.

Shape letters: B rows, H logits, K label columns, T tasks, O columns of what is predicted,
E experts.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmtl._files import write_json
from recmtl._progress import Progress, no_progress
from recmtl.batch import Batch
from recmtl.data import Log, batches_in_order
from recmtl.data.cutting import cut_rows
from recmtl.metrics import reliability_bins, score_histogram
from recmtl.models import outcome_metrics
from recmtl.report.classes import ClassCurves
from recmtl.run import Run
from recmtl.scoring import BatchScorer
from recmtl.scoring.evaluate import gather_outcomes

__all__ = ["SUMMARY", "number_bins", "summarise"]

SUMMARY = "validation.json"
_EXPLAINED_ROWS = 8_192
_BINS = 20
_MAX_LOG_ODDS = 20.0

Floats = NDArray[np.float64]


def summarise(run: Run, valid: Log, *, progress: Progress = no_progress) -> dict[str, Any]:
    """Metrics, curves and gates of the best checkpoint on the validation rows.

    It is computed through the scoring path and written to `RUN/validation.json`: ``rows``,
    ``tasks`` and ``segments`` as `evaluate` gives them; ``curves``, for each task the columns of
    its plots; ``gates``, for each level of experts their names, the mean weight of each in each
    gate, and the share of their activations that are 0.
    """
    scorer = BatchScorer(run.path, keep=())
    data = run.config.data
    batches = batches_in_order(valid, scorer.encoders, batch_size=65_536, labels=True)
    first = next(batches)
    (explained,) = cut_rows(first, [min(len(first), _EXPLAINED_ROWS)])
    gates = _gates(scorer, explained)
    with progress("validation summary", valid.num_rows, "rows") as bar:
        outcomes = gather_outcomes(scorer, itertools.chain([first], batches), bar)
    logits_BH, labels_BK, weight_B = outcomes
    columns = list(dict.fromkeys(c for c in (data.group_by, *data.segments) if c is not None))
    aside = valid.lazy(columns).collect() if columns else None
    metrics = outcome_metrics(
        scorer.tasks,
        logits_BH,
        labels_BK,
        weight_B,
        groups=aside[data.group_by] if aside is not None and data.group_by else None,
        segments={column: aside[column] for column in data.segments} if aside is not None else {},
    )
    odds_BO = scorer.tasks.log_odds(logits_BH).double().numpy()
    observed_BT = scorer.tasks.observed(labels_BK, weight_B).numpy()
    targets_BT = scorer.tasks.targets(labels_BK).double().numpy()
    kinds = {task.name: task.kind for task in run.config.tasks}
    curves: dict[str, Any] = {}
    for t, name in enumerate(scorer.tasks.names):
        rows = observed_BT[:, t]
        odds = odds_BO[:, scorer.tasks.columns[name]][rows]
        labels, weights = targets_BT[rows, t], weight_B.double().numpy()[rows]
        if kinds[name] == "multiclass":
            classes = ClassCurves(odds.shape[1])
            classes.add(odds, labels, weights)
            curves[name] = {"classes": classes.columns()}
            continue
        seen = (odds[:, 0], labels, weights)
        if kinds[name] == "regression":
            curves[name] = {"numbers": number_bins(*seen)}
        else:
            curves[name] = _curves(*seen)
    summary = {**metrics, "curves": curves, "gates": gates}
    write_json(run.path / SUMMARY, summary)
    return summary


def number_bins(
    predictions: Floats, labels: Floats, weights: Floats, *, bins: int = _BINS
) -> dict[str, list[float]]:
    """A regression in up to `bins` bins of equally many rows, in the order of its predictions.

    Args:
        predictions: what was predicted.
        labels: what came.
        weights: sample weights, above 0.
        bins: how many bins.

    Returns:
        For each bin `mean_predictions`, `mean_labels`, and `low` and `high`, between which 8 of 10
        of its labels lie (weights aside).

    Example:
        >>> bins = number_bins(*np.array([[1.0, 2, 3, 4], [1, 3, 3, 5], [1, 1, 1, 1]]), bins=2)
        >>> bins["mean_predictions"], bins["mean_labels"]
        ([1.5, 3.5], [2.0, 4.0])
    """
    order = np.argsort(predictions, kind="stable")
    found: dict[str, list[float]] = {
        name: [] for name in ("mean_predictions", "mean_labels", "low", "high")
    }
    for rows in np.array_split(order, min(bins, len(order))) if len(order) else ():
        low, high = np.quantile(labels[rows], [0.1, 0.9])
        found["mean_predictions"].append(
            float(np.average(predictions[rows], weights=weights[rows]))
        )
        found["mean_labels"].append(float(np.average(labels[rows], weights=weights[rows])))
        found["low"].append(float(low))
        found["high"].append(float(high))
    return found


def _curves(odds: Floats, labels: Floats, weights: Floats) -> dict[str, dict[str, list[float]]]:
    """Reliability of the probabilities, and the distribution of the log-odds."""
    odds = odds.clip(-_MAX_LOG_ODDS, _MAX_LOG_ODDS)
    reliability = reliability_bins(1.0 / (1.0 + np.exp(-odds)), labels, weights, bins=_BINS)
    histogram = score_histogram(odds, labels, weights)
    return {
        "reliability": {name: column.tolist() for name, column in reliability._asdict().items()},
        "histogram": {name: column.tolist() for name, column in histogram._asdict().items()},
    }


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
