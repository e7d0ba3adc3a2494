"""What the page shows about the validation rows, computed once when training ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recmtl._files import write_json
from recmtl._progress import Progress, no_progress
from recmtl.data import Log, batches_in_order
from recmtl.metrics import Histogram, Reliability, reliability_bins, score_histogram
from recmtl.models import outcome_metrics
from recmtl.run import Run
from recmtl.scoring import BatchScorer

__all__ = ["SUMMARY", "summarise"]

SUMMARY = "validation.json"
_EXPLAINED_ROWS = 8_192


def summarise(run: Run, valid: Log, *, progress: Progress = no_progress) -> dict[str, Any]:
    """Metrics, curves and gates of the best checkpoint on the validation rows.

    It is computed through the scoring path and written to `RUN/validation.json`.
    """
    scorer = BatchScorer(run.path, keep=())
    data = run.config.data
    logits, labels, weights, gates = [], [], [], {}
    with progress("validation summary", valid.num_rows, "rows") as bar:
        for batch in batches_in_order(valid, scorer.encoders, batch_size=65_536, labels=True):
            if not logits:
                gates = _gates(scorer, batch.select(torch.arange(min(len(batch), _EXPLAINED_ROWS))))
            logits.append(scorer.logits(batch))
            labels.append(batch.labels_BK)
            weights.append(batch.weight_B)
            bar.advance(len(batch))
    logits_BH, labels_BK, weight_B = torch.cat(logits), torch.cat(labels), torch.cat(weights)
    columns = list(dict.fromkeys(c for c in (data.group_by, *data.segments) if c is not None))
    aside = valid.lazy(columns).collect() if columns else None
    summary = outcome_metrics(
        scorer.tasks,
        logits_BH,
        labels_BK,
        weight_B,
        groups=aside[data.group_by] if aside is not None and data.group_by else None,
        segments={column: aside[column] for column in data.segments} if aside is not None else {},
    )
    probs_BT = scorer.tasks.probs(logits_BH).numpy()
    observed_BT = scorer.tasks.observed(labels_BK, weight_B).numpy()
    targets_BT = scorer.tasks.targets(labels_BK).numpy()
    kinds = {task.name: task.kind for task in run.config.tasks}
    curves = {}
    for t, name in enumerate(scorer.tasks.names):
        if kinds[name] == "regression":
            continue
        rows = observed_BT[:, t]
        seen = (probs_BT[rows, t], targets_BT[rows, t], weight_B.numpy()[rows])
        curves[name] = {
            "reliability": _columns(reliability_bins(*seen)),
            "histogram": _columns(score_histogram(*seen)),
        }
    summary = {**summary, "curves": curves, "gates": gates}
    write_json(run.path / SUMMARY, summary)
    return summary


def _columns(curve: Reliability | Histogram) -> dict[str, list[float]]:
    return {name: column.tolist() for name, column in curve._asdict().items()}


@torch.inference_mode()
def _gates(scorer: BatchScorer, batch: Any) -> dict[str, list[float]]:
    """Mean weight of each expert in each gate."""
    explained = scorer.net.explain(batch)
    return {
        name.removeprefix("gates/"): np.asarray(weights_BE.float().mean(dim=0)).tolist()
        for name, weights_BE in explained.items()
        if name.startswith("gates/")
    }
