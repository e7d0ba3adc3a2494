"""What a model loses when the values of a feature are shuffled among rows.

Shape letters: B rows, H logits, O columns of what is predicted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recmtl._progress import Progress, no_progress
from recmtl.analysis.features import feature_groups, with_values_of
from recmtl.batch import Batch
from recmtl.metrics import auc, multiclass_ne, rmse
from recmtl.scoring import BatchScorer
from recmtl.tasks import TaskSet

__all__ = ["SHUFFLES", "permutation_importance", "task_scores"]

SHUFFLES = 3
_METRIC = {"binary": "auc", "regression": "rmse", "multiclass": "ne"}


def permutation_importance(
    scorer: BatchScorer,
    batch: Batch,
    *,
    shuffles: int = SHUFFLES,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """How much worse each task's metric is when one feature says nothing of the row.

    AUC of a binary task, RMSE of a regression and NE of a multiclass one, on the rows where it is
    observed. The aligned sequences of a behaviour are shuffled together; features that share a
    table with the one that is shuffled stay as they are.

    Args:
        scorer: the run.
        batch: rows with labels.
        shuffles: how often each feature is shuffled.
        seed: of the shuffles; each feature has its own, whatever the other features are.
        progress: shows the rows done (see `recmtl._progress`).

    Returns:
        ``rows``, ``shuffles``, and ``tasks``: for each task ``metric``; ``base``, its value on
        these rows (None where they do not define it); and ``features``: feature -> ``mean`` loss
        over the shuffles (positive: the model is worse without the feature), its standard deviation
        ``std`` and each shuffle's ``losses``.

    Reference: Fisher et al., "All Models are Wrong, but Many are Useful", JMLR 2019, section 3.
    """
    groups = feature_groups(scorer.encoders)
    base = task_scores(scorer.tasks, scorer.logits(batch), batch)
    found: dict[str, dict[str, Any]] = {
        name: {"metric": metric, "base": value, "features": {}}
        for name, (metric, value) in base.items()
    }
    with progress("importance", len(groups) * shuffles * len(batch), "rows") as bar:
        for group in groups:
            losses: dict[str, list[float]] = {name: [] for name in base}
            for shuffle in range(shuffles):
                rng = np.random.default_rng([seed, shuffle, *group.name.encode()])
                index_B = torch.from_numpy(rng.permutation(len(batch)))
                shuffled = with_values_of(batch, group, batch, index_B, scorer.encoders)
                scores = task_scores(scorer.tasks, scorer.logits(shuffled), batch)
                bar.advance(len(batch))
                for name, (metric, before) in base.items():
                    after = scores[name][1]
                    if before is not None and after is not None:
                        losses[name].append(before - after if metric == "auc" else after - before)
            for name, values in losses.items():
                if values:
                    found[name]["features"][group.name] = {
                        "mean": float(np.mean(values)),
                        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                        "losses": values,
                    }
    return {"rows": len(batch), "shuffles": shuffles, "tasks": found}


def task_scores(
    tasks: TaskSet, logits_BH: Tensor, batch: Batch
) -> dict[str, tuple[str, float | None]]:
    """Each task's metric and its value on the rows where the task is observed."""
    odds_BO = tasks.log_odds(logits_BH).float().numpy()
    target_BT = tasks.targets(batch.labels_BK).numpy()
    observed_BT = tasks.observed(batch.labels_BK, batch.weight_B).numpy()
    weight_B = batch.weight_B.numpy()
    found: dict[str, tuple[str, float | None]] = {}
    for t, task in enumerate(tasks.tasks):
        seen, where = observed_BT[:, t], tasks.columns[task.name]
        said, labels, weights = odds_BO[seen, where], target_BT[seen, t], weight_B[seen]
        if task.kind == "multiclass":
            value = multiclass_ne(said, labels, weights, logits=True)
        else:
            value = (auc if task.kind == "binary" else rmse)(said[:, 0], labels, weights)
        found[task.name] = (_METRIC[task.kind], value)
    return found
