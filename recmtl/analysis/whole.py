"""Everything that needs validation rows once more: conflict between tasks, and importance."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from recmtl._progress import Progress, no_progress
from recmtl.analysis.conflict import gradient_conflict
from recmtl.analysis.features import feature_groups
from recmtl.analysis.importance import SHUFFLES, permutation_importance
from recmtl.analysis.rows import NoRowsError, read_sample, validation_log
from recmtl.run import Run
from recmtl.scoring import BatchScorer

__all__ = ["Analysis", "analyse"]

_CONFLICT_ROWS = 4096
_MOST_ROWS = 20_000
_MOST_PASSES = 1_200_000
"""Rows of all forward passes together: what is more takes more than a minute."""


class Analysis(NamedTuple):
    """What `analyse` found."""

    conflict: dict[str, Any] | None = None
    """See `gradient_conflict`."""
    importance: dict[str, Any] | None = None
    """See `permutation_importance`."""
    missing: str | None = None
    """Why there is neither, in a sentence."""


def analyse(
    run: str | Path | Run, *, data: str | Path | None = None, progress: Progress = no_progress
) -> Analysis:
    """Conflict between tasks, and importance of features, on validation rows of a finished run.

    Args:
        run: the folder of a run.
        data: folder of the data (default: where it was in training).
        progress: shows the rows done (see `recmtl._progress`).

    Raises:
        DataError: `data` does not hold the rows that the run was validated with.
        CheckpointError: the run is corrupt.
    """
    opened = run if isinstance(run, Run) else Run(run)
    if not opened.finished:
        return Analysis(missing="The run is not finished.")
    try:
        valid = validation_log(opened, data)
    except NoRowsError as error:
        return Analysis(missing=str(error))
    scorer = BatchScorer(opened.path, keep=())
    conflict = gradient_conflict(
        scorer.net, scorer.tasks, read_sample(valid, scorer.encoders, _CONFLICT_ROWS)
    )
    passes = SHUFFLES * len(feature_groups(scorer.encoders))
    sample = read_sample(valid, scorer.encoders, min(_MOST_ROWS, _MOST_PASSES // passes))
    return Analysis(conflict, permutation_importance(scorer, sample, progress=progress))
