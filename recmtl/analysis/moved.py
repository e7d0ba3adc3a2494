"""Which features make two models say different things of the same rows.

Shape letters: B rows, O columns of what is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recmtl._progress import Progress, no_progress
from recmtl.analysis.features import FeatureGroup, feature_groups, with_values_of
from recmtl.batch import Batch
from recmtl.scoring import BatchScorer

__all__ = ["joined_groups", "moved_features", "said_of"]

Floats = NDArray[np.float64]


def moved_features(
    scorers: tuple[BatchScorer, BatchScorer],
    batches: tuple[Batch, Batch],
    tasks: Sequence[str],
    *,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, dict[str, float]]:
    r"""Share of the variance of the difference that each feature takes part in, by task.

    With :math:`\Delta(x)` the second model's score less the first's, and :math:`x'` the row with
    another row's values of the feature, in both models, it is the feature's total-effect index

    .. math::
        \frac{E[(\Delta(x) - \Delta(x'))^2]}{2 \operatorname{Var} \Delta(x)}

    A feature that only one of the models reads counts like any other. The score is the log-odds of
    a binary task, the prediction of a regression, and the probabilities of all classes together of
    a multiclass task. Features that act together each get the whole of what they do together, so
    shares may add up to more than 1; where features depend on each other, rows are made that never
    occur, and shares are those of the models on such rows.

    Reference: Jansen, "Analysis of variance designs for model output", Computer Physics
        Communications 117 (1999), equation (6); Saltelli et al., "Variance based sensitivity
        analysis of model output", Computer Physics Communications 181 (2010), table 2 (f).

    Args:
        scorers: the two runs.
        batches: the same rows, encoded by either.
        tasks: tasks of both runs.
        seed: of the shuffles; each feature has its own, whatever the other features are.
        progress: shows the rows done (see `recmtl._progress`).

    Returns:
        Task -> feature -> share, the largest first; nothing for a task whose difference is the same
        in all rows.
    """
    groups = joined_groups([feature_groups(scorer.encoders) for scorer in scorers])
    before = _difference(scorers, batches, tasks)
    spread = {name: float(2 * value.var(axis=0).sum()) for name, value in before.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in tasks}
    num_rows = len(batches[0])
    with progress("features", 2 * len(groups) * num_rows, "rows") as bar:
        for group in groups:
            rng = np.random.default_rng([seed, *group.name.encode()])
            index_B = torch.from_numpy(rng.permutation(num_rows))
            shuffled = tuple(
                with_values_of(batch, group, batch, index_B, scorer.encoders)
                for scorer, batch in zip(scorers, batches, strict=True)
            )
            after = _difference(scorers, (shuffled[0], shuffled[1]), tasks)
            bar.advance(2 * num_rows)
            for name in tasks:
                if spread[name] > 0:
                    moved = float(np.square(after[name] - before[name]).mean(axis=0).sum())
                    found[name][group.name] = moved / spread[name]
    return {
        name: dict(sorted(shares.items(), key=lambda item: -item[1]))
        for name, shares in found.items()
    }


def joined_groups(by_run: Sequence[Sequence[FeatureGroup]]) -> list[FeatureGroup]:
    """Features of several runs; those that belong together in one of them stay together.

    Example:
        >>> first = [FeatureGroup("a", ("a",)), FeatureGroup("b", ("b",))]
        >>> second = [FeatureGroup("b + c", ("b", "c"))]
        >>> [group.name for group in joined_groups([first, second])]
        ['a', 'b + c']
    """
    joined: list[dict[str, None]] = []
    for group in (group for groups in by_run for group in groups):
        together = dict.fromkeys(group.members)
        apart = []
        for members in joined:
            if members.keys() & together.keys():
                together = members | together
            else:
                apart.append(members)
        place = next((i for i, m in enumerate(joined) if m.keys() & together.keys()), len(joined))
        joined = [*apart[:place], together, *apart[place:]]
    return [FeatureGroup(" + ".join(members), tuple(members)) for members in joined]


def said_of(scorer: BatchScorer, batch: Batch, tasks: Sequence[str]) -> dict[str, Floats]:
    """Log-odds, numbers, or the probabilities of all classes, ``[B, O]`` for each task."""
    logits = scorer.logits(batch)
    odds, probs = scorer.tasks.log_odds(logits), scorer.tasks.probs(logits)
    kinds = {task.name: task.kind for task in scorer.tasks.tasks}
    return {
        name: (probs if kinds[name] == "multiclass" else odds)[:, scorer.tasks.columns[name]]
        .double()
        .numpy()
        for name in tasks
    }


def _difference(
    scorers: tuple[BatchScorer, BatchScorer], batches: tuple[Batch, Batch], tasks: Sequence[str]
) -> Mapping[str, Floats]:
    first, second = (
        said_of(scorer, batch, tasks) for scorer, batch in zip(scorers, batches, strict=True)
    )
    return {name: second[name] - first[name] for name in tasks}
