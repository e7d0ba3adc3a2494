"""Vector features: list columns whose lists have one length, as rows of numbers.

Shape letters: B rows, V components of a vector, N rows that have one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.dense import LARGEST
from recmtl.data.lists import flatten
from recmtl.data.problems import Problem
from recmtl.spec import VectorFeature

__all__ = ["VectorFit", "VectorScale", "Vectors", "normalise_vectors", "read_vectors"]

_LEAST_SQUARE, _MOST_SQUARE = 1e-30, 1e30
"""Outside, a sum of squares has lost digits of float32, or all of them."""


class Vectors(NamedTuple):
    """A column, each row's list as a row of numbers; zeros where there is none."""

    values_BV: NDArray[Any]
    """float64 where a mean is to be subtracted, float32 elsewhere; maybe the column's own
    memory."""
    is_null_B: NDArray[np.bool_]
    problems: list[Problem]
    """What the feature's rule forbids."""

    @property
    def num_nulls(self) -> int:
        """Rows without a list."""
        return int(np.count_nonzero(self.is_null_B))


class VectorScale(NamedTuple):
    """What is subtracted from each component, and what the difference is divided by."""

    shift_V: NDArray[np.float64]
    scale_V: NDArray[np.float64]


def read_vectors(
    feature: VectorFeature, column: pl.Series, rows: NDArray[np.int64] | None = None
) -> Vectors:
    """Take a list column apart.

    Args:
        feature: says how long each list is.
        column: lists of numbers, or nothing but nulls.
        rows: numbers of the rows in their log, for messages (default: from 0).

    Example:
        >>> feature = VectorFeature(name="image", type="vector", dim=2)
        >>> vectors = read_vectors(feature, pl.Series([[3.0, 4.0], None]))
        >>> vectors.values_BV.tolist(), vectors.num_nulls
        ([[3.0, 4.0], [0.0, 0.0]], 1)
    """
    is_null_B = column.is_null().to_numpy()
    flat = flatten(column)
    fits_B = flat.lengths == feature.dim
    fits = bool(fits_B.all())
    items = flat.values if fits else flatten(column.filter(pl.Series(fits_B))).values
    dtype = pl.Float64() if feature.normalize == "standard" else pl.Float32()
    value_NV: NDArray[Any] = items.cast(dtype).to_numpy().reshape(-1, feature.dim)
    numbers_B = np.arange(len(column)) if rows is None else rows
    problems = _null_problems(feature, flat.num_null_lists)
    problems += _length_problems(feature, flat.lengths, ~fits_B & ~is_null_B, numbers_B)
    if value_NV.size and not (value_NV.max() <= LARGEST and value_NV.min() >= -LARGEST):
        wrong_NV = ~(np.abs(value_NV) <= LARGEST)
        wrong_N = wrong_NV.any(axis=1)
        first = numbers_B[fits_B][wrong_N][0]
        text = (
            "lists hold a null, NaN or a number that is infinite or too large for a float32 (for "
            f"example in row {first}). Repair them, or write a null in place of such a list."
        )
        problems.append(Problem(feature.name, "inside", int(wrong_N.sum()), text))
        value_NV = np.where(wrong_NV, 0, value_NV)
    if fits:
        return Vectors(value_NV, is_null_B, problems)
    value_BV = np.zeros((len(column), feature.dim), value_NV.dtype)
    value_BV[fits_B] = value_NV
    return Vectors(value_BV, is_null_B, problems)


def normalise_vectors(
    feature: VectorFeature, scale: VectorScale | None, vectors: Vectors, out_VB: NDArray[np.float32]
) -> None:
    """Write vectors to `out_VB`, feature-major and normalised; null lists as zeros.

    Args:
        feature: says how they are normalised.
        scale: what `VectorFit` found, for `standard`.
        vectors: what was read.
        out_VB: where they go.
    """
    value_VB = vectors.values_BV.T
    if feature.normalize == "none":
        out_VB[:] = value_VB
    elif feature.normalize == "l2":
        _divide_by_norm(vectors.values_BV, out_VB)
    else:
        assert scale is not None
        with np.errstate(over="ignore"):  # infinite is clipped
            scaled_VB = (value_VB - scale.shift_V[:, None]) / scale.scale_V[:, None]
        np.clip(scaled_VB, -LARGEST, LARGEST, out=out_VB, casting="same_kind")
        out_VB[:, vectors.is_null_B] = 0.0


class VectorFit:
    """Mean and variance of each component, piece by piece, in float64 (Chan et al., 1983)."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean_V = np.zeros(dim)
        self.squares_V = np.zeros(dim)
        self.low_V = np.full(dim, np.inf)
        self.high_V = np.full(dim, -np.inf)

    def add(self, vectors: Vectors) -> None:
        """Take one piece in; null lists say nothing."""
        value_NV = vectors.values_BV
        if vectors.is_null_B.any():
            value_NV = value_NV[~vectors.is_null_B]
        if not len(value_NV):
            return
        count, mean_V = len(value_NV), value_NV.mean(axis=0)
        squares_V = np.square(value_NV - mean_V).sum(axis=0)
        total = self.count + count
        gap_V = mean_V - self.mean_V
        self.squares_V += squares_V + gap_V * gap_V * self.count * count / total
        self.mean_V += gap_V * count / total
        self.count = total
        self.low_V = np.minimum(self.low_V, value_NV.min(axis=0))
        self.high_V = np.maximum(self.high_V, value_NV.max(axis=0))

    def scale(self) -> VectorScale:
        """What normalises the column; the divisor of a constant component is 1."""
        # A constant component's deviation is rounding, not spread.
        std_V = np.sqrt(self.squares_V / max(self.count, 1)) * (self.high_V > self.low_V)
        return VectorScale(self.mean_V, np.where(std_V > 0, std_V, 1.0))


def _divide_by_norm(value_BV: NDArray[np.float32], out_VB: NDArray[np.float32]) -> None:
    square_B = np.einsum("bv,bv->b", value_BV, value_BV)
    is_odd_B = ~((square_B >= _LEAST_SQUARE) & (square_B <= _MOST_SQUARE))
    inverse_B = 1.0 / np.sqrt(np.where(is_odd_B, 1.0, square_B))
    np.multiply(value_BV.T, inverse_B.astype(np.float32), out=out_VB)
    if is_odd_B.any():
        odd_NV = value_BV[is_odd_B].astype(np.float64)
        norm_N = np.sqrt(np.einsum("nv,nv->n", odd_NV, odd_NV))
        out_VB[:, is_odd_B] = odd_NV.T / np.where(norm_N > 0, norm_N, 1.0)


def _null_problems(feature: VectorFeature, num_nulls: int) -> list[Problem]:
    if not num_nulls or feature.nulls == "zeros":
        return []
    text = "lists are null, and `nulls` is `error`. Repair the column, or use `nulls: zeros`."
    return [Problem(feature.name, "null", num_nulls, text)]


def _length_problems(
    feature: VectorFeature,
    length_B: NDArray[np.int64],
    differs_B: NDArray[np.bool_],
    numbers_B: NDArray[np.int64],
) -> list[Problem]:
    """Lists of another length than `dim`."""
    if not differs_B.any():
        return []
    lengths = length_B[differs_B]
    text = (
        f"lists have another length than `dim`, {feature.dim} (for example {lengths[0]} in row "
        f"{numbers_B[differs_B][0]}). Write lists of one length, and this length as `dim`."
    )
    return [Problem(feature.name, "length", len(lengths), text)]
