"""How well scores order positives above negatives.

Shape letters: N rows, V runs of equal rows, G groups.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recmtl.metrics._columns import (
    Columns,
    TieTable,
    class_sums,
    columns,
    run_starts,
    tie_table,
)

__all__ = ["GroupedAUC", "auc", "auc_of", "gauc", "gauc_of", "group_codes"]


def auc(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    r"""Area under the ROC curve: the chance that a positive scores above a negative.

    .. math::
        \frac{\sum_{i: y_i=1} \sum_{j: y_j=0} w_i w_j ([s_i > s_j] + \tfrac12 [s_i = s_j])}
        {\sum_{i: y_i=1} w_i \sum_{j: y_j=0} w_j}

    Exact, and a tie counts half; without weights the sums are integers.

    Args:
        scores: probabilities, logits or any other scores.
        labels: 0 or 1.
        weights: sample weights; rows of weight 0 do not count.

    Returns:
        The area, or None unless both classes are there.

    Example:
        >>> auc([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])
        0.875
        >>> auc([0.1, 0.2], [0, 0]) is None
        True
    """
    rows = columns(scores, labels, weights)
    return auc_of(tie_table(rows)) if len(rows.labels) else None


def auc_of(table: TieTable) -> float | None:
    """AUC of a tie table."""
    positives, negatives = table.positives_V.sum(), table.negatives_V.sum()
    if not positives or not negatives:
        return None
    below_V = np.cumsum(table.negatives_V) - table.negatives_V
    twice_area = (table.positives_V * (2 * below_V + table.negatives_V)).sum()
    return float(twice_area / (2 * positives * negatives))


class GroupedAUC(NamedTuple):
    """The mean of the groups' AUCs, and how many groups it speaks for."""

    value: float | None
    """None if no group has both classes."""
    groups: int
    """Groups with both classes: those that are averaged."""
    undefined_groups: int
    """Groups with one class: they have no AUC."""


def gauc(
    scores: ArrayLike, labels: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None
) -> GroupedAUC:
    """AUC within each group (a user, a request), averaged with the groups' weights.

    A group weighs as much as its rows: their number, or the sum of their weights. Groups without
    both classes are counted, not averaged. Missing keys (None, NaN) are one group of their own.

    Args:
        scores: probabilities, logits or any other scores.
        labels: 0 or 1.
        groups: key of each row: integers, strings or any other values; integers are fastest.
        weights: sample weights; rows of weight 0 do not count.

    Returns:
        The mean and the number of groups with and without an AUC.

    Example:
        >>> gauc([0.1, 0.9, 0.5, 0.3, 0.2], [0, 1, 1, 0, 1], ["a", "a", "b", "b", "b"])
        GroupedAUC(value=0.7, groups=2, undefined_groups=0)
    """
    rows = columns(scores, labels, weights)
    return gauc_of(rows, np.argsort(rows.predictions, kind="stable"), groups)


def gauc_of(rows: Columns, order_N: NDArray[np.intp], groups: ArrayLike) -> GroupedAUC:
    """GAUC of checked columns in a known order by score; `groups` has all rows given."""
    key_N = group_codes(groups)
    shape = rows.labels.shape if rows.kept is None else rows.kept.shape
    if key_N.shape != shape:
        raise ValueError(
            f"`groups` must be one column with a key for each row: expected shape {shape}, "
            f"got {key_N.shape}."
        )
    if rows.kept is not None:
        key_N = key_N[rows.kept]
    if not len(key_N):
        return GroupedAUC(None, 0, 0)
    key_N = key_N[order_N]
    by_group_N = np.argsort(key_N, kind="stable")  # within a group still by score
    key_N, order_N = key_N[by_group_N], order_N[by_group_N]
    score_N = rows.predictions[order_N]
    new_group = _differs(key_N[1:], key_N[:-1])
    starts_V = run_starts(new_group | (score_N[1:] != score_N[:-1]))
    starts_G = np.searchsorted(starts_V, run_starts(new_group))  # each group's first run
    positives_V, negatives_V = class_sums(rows, order_N, starts_V)
    positives_G = np.add.reduceat(positives_V, starts_G)
    negatives_G = np.add.reduceat(negatives_V, starts_G)
    below_V = np.cumsum(negatives_V) - negatives_V
    below_V -= np.repeat(below_V[starts_G], np.diff(starts_G, append=len(starts_V)))
    twice_area_G = np.add.reduceat(positives_V * (2 * below_V + negatives_V), starts_G)
    defined_G = (positives_G > 0) & (negatives_G > 0)
    count = int(defined_G.sum())
    if not count:
        return GroupedAUC(None, 0, len(defined_G))
    weight_G = (positives_G + negatives_G)[defined_G]
    auc_G = twice_area_G[defined_G] / (2 * positives_G[defined_G] * negatives_G[defined_G])
    value = float((weight_G * auc_G).sum() / weight_G.sum())
    return GroupedAUC(value, count, len(defined_G) - count)


def group_codes(groups: ArrayLike) -> NDArray[Any]:
    """Keys that sort quickly: numbers and times as they are, a number for each string or object.

    `gauc` does it for itself; do it once where many tasks and segments share a column of strings.

    Args:
        groups: key of each row.

    Returns:
        One key for each row, equal where the keys given are equal.

    Example:
        >>> group_codes(["b", "a", "b"])
        array([0, 1, 0])
    """
    key_N = np.asarray(groups)
    if key_N.dtype.kind in "biufmM":
        return key_N
    keys = key_N.tolist()
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return np.fromiter(map(codes.__getitem__, keys), dtype=np.int64, count=len(keys))


def _differs(left_N: NDArray[Any], right_N: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether keys differ, two missing ones (NaN, NaT) being equal."""
    both_missing_N = (left_N != left_N) & (right_N != right_N)
    different_N: NDArray[np.bool_] = (left_N != right_N) & ~both_missing_N
    return different_N
