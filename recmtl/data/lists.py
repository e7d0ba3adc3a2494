"""List columns: flat values and the length of each row's list."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.dtypes import inner, is_list
from recmtl.data.problems import Problem
from recmtl.spec import SequenceFeature, Spec

__all__ = ["FlatList", "alignment_problems", "cut", "flatten", "flatten_weights"]


class FlatList(NamedTuple):
    """The items of row 0, then those of row 1, and so on; a null list has none."""

    values: pl.Series
    lengths: NDArray[np.int64]
    num_null_lists: int


def flatten(lists: pl.Series) -> FlatList:
    """Take a list column apart.

    Example:
        >>> flat = flatten(pl.Series([[1, None], None, [], [2]]))
        >>> flat.values.to_list(), flat.lengths.tolist()
        ([1, None, 2], [2, 0, 0, 1])
    """
    if not is_list(lists.dtype):  # a column of nothing but nulls
        return FlatList(
            pl.Series(lists.name, [], pl.Null), np.zeros(len(lists), np.int64), len(lists)
        )
    if isinstance(lists.dtype, pl.Array):
        lists = lists.cast(pl.List(inner(lists.dtype)))
    values = lists.explode(empty_as_null=False, keep_nulls=False)
    return FlatList(values, _lengths(lists), lists.null_count())


def cut(feature: SequenceFeature, lists: pl.Series) -> pl.Series:
    """The last (or first) `max_len` items of each list.

    Example:
        >>> feature = SequenceFeature(name="seen", type="sequence", table="item", max_len=2)
        >>> cut(feature, pl.Series([[1, 2, 3], [4]])).to_list()
        [[2, 3], [4]]
    """
    if not is_list(lists.dtype):
        return lists
    if isinstance(lists.dtype, pl.Array):
        lists = lists.cast(pl.List(inner(lists.dtype)))
    return (
        lists.list.tail(feature.max_len) if feature.keep_last else lists.list.head(feature.max_len)
    )


def flatten_weights(
    weights: pl.Series, items: FlatList
) -> tuple[NDArray[np.float32], list[Problem]]:
    """The weights of a bag's items, and what is wrong with them."""
    flat = flatten(weights)
    differ = np.flatnonzero(flat.lengths != items.lengths)
    if len(differ):
        first = int(differ[0])
        text = (
            f"rows have another number of weights than `{items.values.name}` has items (for "
            f"example {flat.lengths[first]} "
            f"for {items.lengths[first]}). Write one weight for each item."
        )
        return np.zeros(len(items.values), np.float32), [
            Problem(weights.name, "lengths", len(differ), text)
        ]
    numbers = flat.values.cast(pl.Float32).to_numpy()
    num_bad = int((~np.isfinite(numbers)).sum())
    text = "weights are null, NaN or infinite. Repair the column."
    return numbers, [Problem(weights.name, "weights", num_bad, text)] if num_bad else []


def alignment_problems(spec: Spec, frame: pl.DataFrame) -> list[Problem]:
    """Rows in which the sequences of one behaviour, which are aligned, differ in length."""
    problems = []
    firsts: dict[str, str] = {}
    for feature in spec.sequences:
        first = firsts.setdefault(feature.behaviour, feature.name)
        if first == feature.name:
            continue
        lengths, expected = _lengths(frame[feature.name]), _lengths(frame[first])
        differ = np.flatnonzero(lengths != expected)
        if len(differ):
            row = int(differ[0])
            text = (
                f"rows have another length than `{first}`, which belongs to the same sequence "
                f"`{feature.behaviour}` (for example {lengths[row]} and {expected[row]}). Write one"
                " item for each item of the other."
            )
            problems.append(Problem(feature.name, "aligned", len(differ), text))
    return problems


def _lengths(lists: pl.Series) -> NDArray[np.int64]:
    if not is_list(lists.dtype):  # a column of nothing but nulls
        return np.zeros(len(lists), np.int64)
    lengths = lists.arr.len() if isinstance(lists.dtype, pl.Array) else lists.list.len()
    return lengths.fill_null(0).cast(pl.Int64).to_numpy()
