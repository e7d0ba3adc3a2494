"""The rows of a task's population, to be read block by block, as often as it takes.

Shape letters: N rows, C classes, V distinct values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recmtl.metrics._columns import Columns, Floats
from recmtl.metrics.spool import BLOCK_ROWS

__all__ = [
    "Codes",
    "Kind",
    "Population",
    "Rows",
    "blocks_of",
    "float32_codes",
    "float32_values",
    "population_of",
]

Codes = NDArray[np.uint32]
Kind = Literal["binary", "regression", "multiclass"]


class Rows(NamedTuple):
    """Some rows of a population; all of a weight above 0."""

    predictions: NDArray[np.floating[Any]]
    """[N], or [N, C] of a multiclass task."""
    labels: NDArray[Any]
    weights: NDArray[np.floating[Any]] | None
    """None if all rows of the population count alike."""
    order: Codes | None = None
    """Numbers that are ordered and equal as the predictions of a binary task are."""
    groups: Codes | None = None
    segments: tuple[Codes, ...] = ()
    """Number of the value in each segment column."""


def float32_codes(score_N: NDArray[np.float32]) -> Codes:
    """Unsigned integers in the order of the scores; 0.0 and -0.0 are equal.

    Example:
        >>> codes = float32_codes(np.float32([-2.0, -0.0, 0.0, 1e-45, 3.0]))
        >>> np.diff(codes.astype(np.int64)).tolist(), float32_values(codes).tolist()
        ([1073741825, 0, 1, 1077936127], [-2.0, 0.0, 0.0, 1.401298464324817e-45, 3.0])
    """
    bit_N = (score_N + np.float32(0)).view(np.uint32)
    # Negative floats count downwards: all their bits turn. Positive ones go above them.
    mask_N = (bit_N.view(np.int32) >> 31).view(np.uint32) | np.uint32(0x80000000)
    return bit_N ^ mask_N


def float32_values(code_N: Codes) -> Floats:
    """The scores of `float32_codes`, in float64."""
    mask_N = ((code_N ^ np.uint32(0x80000000)).view(np.int32) >> 31).view(np.uint32)
    return (code_N ^ (mask_N | np.uint32(0x80000000))).view(np.float32).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Population:
    """The rows where a task is observed, to be read again and again in blocks."""

    kind: Kind
    blocks: Callable[[], Iterator[Rows]]
    """Reads them; the same blocks each time."""
    num_rows: int
    """At most so many rows."""
    classes: int = 0
    """Of a multiclass task."""
    is_weighted: bool = False
    logits: bool = False
    """Whether predictions are logits; probabilities otherwise."""
    num_groups: int = 0
    """Groups are numbered below it; 0 without groups."""
    segments: tuple[int, ...] = ()
    """How many values each segment column has."""
    scores: Callable[[Codes], Floats] = float32_values
    """From `Rows.order` back to predictions."""
    memory: int | None = None
    """Bytes to sort in."""


def blocks_of(
    rows: Columns,
    order: Codes | None = None,
    groups: Codes | None = None,
    segments: Codes | None = None,
) -> Iterator[Rows]:
    """Checked columns in memory, and codes beside them, block by block."""
    for start in range(0, len(rows.labels), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        yield Rows(
            rows.predictions[part],
            rows.labels[part],
            None if rows.weights is None else rows.weights[part],
            None if order is None else order[part],
            None if groups is None else groups[part],
            () if segments is None else (segments[part],),
        )


def population_of(
    rows: Columns,
    *,
    kind: Kind = "binary",
    logits: bool = False,
    groups: Codes | None = None,
    segments: Codes | None = None,
    num_segments: int = 0,
) -> Population:
    """The population of checked columns in memory; codes stand beside the rows that are kept."""
    order_N, scores = None, float32_values
    if kind == "binary" and rows.predictions.dtype == np.float32:
        order_N = float32_codes(rows.predictions)
    elif kind == "binary":
        values_V, rank_N = np.unique(rows.predictions, return_inverse=True)
        order_N = rank_N.astype(np.uint32)

        def scores(code_N: Codes) -> Floats:
            score_N: Floats = values_V[code_N].astype(np.float64)
            return score_N

    return Population(
        kind=kind,
        blocks=partial(blocks_of, rows, order_N, groups, segments),
        num_rows=len(rows.labels),
        is_weighted=rows.weights is not None,
        logits=logits,
        num_groups=0 if groups is None else int(groups.max(initial=0)) + 1,
        segments=() if segments is None else (num_segments,),
        classes=rows.predictions.shape[1] if rows.predictions.ndim > 1 else 0,
        scores=scores,
    )
