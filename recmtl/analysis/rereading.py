"""Rows with one feature read otherwise: encoded from a changed column, or changed afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmtl.batch import Batch, Ragged
from recmtl.data import Encoders
from recmtl.data.dense import DenseScale, normalise, read_dense
from recmtl.data.dtypes import family, inner, is_list
from recmtl.data.lists import cut, flatten
from recmtl.data.mappers import HashMapper, Mapper
from recmtl.spec import DenseFeature, SequenceFeature, SparseFeature

__all__ = [
    "ListFeature",
    "hashed_as",
    "with_ids",
    "with_lists",
    "with_number",
    "with_raw_vectors",
    "with_values",
    "with_zeros",
    "without_weights",
]

ListFeature = SparseFeature | SequenceFeature


def with_values(
    encoders: Encoders,
    name: str,
    frame: pl.DataFrame,
    batch: Batch,
    *,
    change: Callable[[pl.Series], pl.Series],
) -> Batch:
    """Rows encoded with a column changed, item by item in lists."""
    column = frame[name]
    if is_list(column.dtype):
        column = column.cast(pl.List(inner(column.dtype)))
        flat = flatten(column)
        changed = change(flat.values)
        column = _lists_of(changed, flat.lengths, column)
    else:
        column = change(column)
    return encoders.encode(frame.with_columns(column.alias(name)), labels=False)


def _lists_of(values: pl.Series, lengths: NDArray[np.int64], lists: pl.Series) -> pl.Series:
    """Items back in the lists that they came from; null lists stay null."""
    rows = np.repeat(np.arange(len(lists)), lengths)
    items = pl.DataFrame({"row": rows, "item": values})
    grouped = items.group_by("row", maintain_order=True).agg("item")
    all_rows = pl.DataFrame({"row": np.arange(len(lists)), "is_null": lists.is_null()})
    joined = all_rows.join(grouped, on="row", how="left", maintain_order="left")
    empty = pl.lit([], dtype=pl.List(values.dtype))
    filled = pl.when("is_null").then(None).otherwise(pl.col("item").fill_null(empty))
    return joined.select(filled.alias(lists.name)).to_series()


def with_lists(
    encoders: Encoders,
    names: tuple[str, ...],
    frame: pl.DataFrame,
    batch: Batch,
    *,
    change: Callable[[pl.Series, ListFeature], pl.Series],
) -> Batch:
    """Rows encoded with whole lists changed, those of a behaviour alike; weights go with items."""
    features = {f.name: f for f in encoders.spec.looked_up}
    columns = []
    for name in names:
        feature = features[name]
        weights = getattr(feature, "weights", None)
        for column in (name, *([weights] if weights is not None else [])):
            lists = frame[column]
            if not is_list(lists.dtype):
                continue
            lists = lists.cast(pl.List(inner(lists.dtype)))
            columns.append(change(lists, feature).alias(column))
    return encoders.encode(frame.with_columns(columns), labels=False)


def with_ids(
    encoders: Encoders,
    name: str,
    rows_of: Callable[[pl.Series], Tensor],
    frame: pl.DataFrame,
    batch: Batch,
) -> Batch:
    """Rows with other ids of a feature; lists are cut as they always are."""
    if name in encoders.single:
        ids_FB = batch.ids_FB.clone()
        ids_FB[encoders.single.index(name)] = rows_of(frame[name])
        return replace(batch, ids_FB=ids_FB)
    column = frame[name]
    sequence = next((f for f in encoders.spec.sequences if f.name == name), None)
    values = flatten(column if sequence is None else cut(sequence, column)).values
    lists = batch.sequences if sequence is not None else batch.bags
    before = lists[name]
    changed = {**lists, name: Ragged(rows_of(values), before.lengths_B, before.weights_N)}
    if sequence is not None:
        return replace(batch, sequences=changed)
    return replace(batch, bags=changed)


def hashed_as(
    mapper: Mapper,
    other: Literal["int", "string"],
    change: Callable[[pl.Series], pl.Series],
    values: pl.Series,
) -> Tensor:
    """Rows of values of the other family: those of their hash, or 0 where a vocabulary decides."""
    if not isinstance(mapper, HashMapper) or family(values.dtype) == "null":
        return torch.zeros(len(values), dtype=torch.int64)
    hashed = HashMapper(mapper.size, other)
    return torch.from_numpy(hashed(change(values)))


def without_weights(name: str, frame: pl.DataFrame, batch: Batch) -> Batch:
    """Rows with weights of 1 in a bag."""
    bag = batch.bags[name]
    ones = torch.ones(len(bag.values_N))
    return replace(batch, bags={**batch.bags, name: bag._replace(weights_N=ones)})


def with_number(
    encoders: Encoders,
    frame: pl.DataFrame,
    batch: Batch,
    *,
    feature: DenseFeature,
    scale: DenseScale,
) -> Batch:
    """Rows with a dense feature read by other rules."""
    dense_DB = batch.dense_DB.clone()
    out_B = np.empty(frame.height, np.float32)
    normalise(scale, read_dense(feature, frame[feature.name]).values, out_B)
    dense_DB[encoders.spec.dense_rows[feature.name]] = torch.from_numpy(out_B)
    return replace(batch, dense_DB=dense_DB)


def with_zeros(encoders: Encoders, name: str, frame: pl.DataFrame, batch: Batch) -> Batch:
    """Rows with zeros as the model's input."""
    dense_DB = batch.dense_DB.clone()
    dense_DB[encoders.spec.dense_rows[name]] = 0.0
    return replace(batch, dense_DB=dense_DB)


def with_raw_vectors(encoders: Encoders, name: str, frame: pl.DataFrame, batch: Batch) -> Batch:
    """Rows with vectors as they stand in the log; null ones are zeros."""
    dense_DB = batch.dense_DB.clone()
    flat = flatten(frame[name])
    rows = encoders.spec.dense_rows[name]
    values = flat.values.cast(pl.Float32).to_numpy().reshape(-1, rows.stop - rows.start)
    dense_DB[rows] = 0.0
    has_one = torch.from_numpy(flat.lengths > 0)
    dense_DB[rows, has_one] = torch.from_numpy(values.T.copy())
    return replace(batch, dense_DB=dense_DB)
