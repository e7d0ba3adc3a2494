"""Vector features that say nothing, or whose norms say too much.

Shape letters: B rows, N rows that have a vector, V components.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from recmtl.data.vectors import read_vectors
from recmtl.doctor.findings import Finding
from recmtl.spec import VectorFeature

__all__ = ["vector_finding"]

_MOSTLY = 0.9
_WIDE_NORMS = 10.0
_LOW, _HIGH = 1, 99
"""Percentiles of the norms that are compared."""


def vector_finding(column: pl.Series, feature: VectorFeature) -> Finding | None:
    """A warning on vectors that are null, constant, or of very different norms.

    Values that the spec forbids are not looked at: fitting says what is wrong with them.

    Args:
        column: some training rows.
        feature: what the spec says of it.
    """
    vectors, rows = read_vectors(feature, column), len(column)
    where = f"feature `{feature.name}`"
    if vectors.problems:
        return None
    if vectors.num_nulls == rows:
        return Finding("warning", where, f"it is null in all of {rows:,} rows.", _USELESS_ADVICE)
    value_NV = vectors.values_BV
    if vectors.num_nulls:
        value_NV = value_NV[~vectors.is_null_B]
    if (value_NV == value_NV[0]).all() and not vectors.num_nulls:
        what = f"it is the same vector in all of {rows:,} rows."
        return Finding("warning", where, what, _USELESS_ADVICE)
    if vectors.num_nulls >= _MOSTLY * rows:
        share = 100 * vectors.num_nulls / rows
        what = f"{share:.1f} % of its lists are null; what is missing becomes zeros."
        return Finding("warning", where, what, "Is the column written as it should be?")
    if feature.normalize == "none":
        norm_N = np.linalg.norm(value_NV.astype(np.float64), axis=1)
        low, high = np.percentile(norm_N[norm_N > 0], (_LOW, _HIGH)) if norm_N.any() else (1.0, 1.0)
        if high > _WIDE_NORMS * low:
            what = (
                f"norms of its vectors differ by {high / low:,.0f} times ({low:.3g} to {high:.3g} "
                f"in the middle {_HIGH - _LOW} % of the rows): large ones drown small ones."
            )
            advice = "Use `normalize: l2`, or `standard`, unless the norm means something."
            return Finding("warning", where, what, advice)
    return None


_USELESS_ADVICE = "It says nothing: remove the feature, or repair the column."
