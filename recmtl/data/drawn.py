"""Rows drawn from fitted encoders: what a log could hold, where the log itself is gone."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recmtl.data.fitted import Fitted
from recmtl.data.mappers import BucketMapper, Mapper, VocabMapper
from recmtl.spec import DenseFeature, SequenceFeature, SparseFeature, VectorFeature

__all__ = ["draw_rows"]

_MOST_ITEMS = 5
_NULL_SHARE = 0.1


def draw_rows(fitted: Fitted, num_rows: int, *, seed: int) -> pl.DataFrame:
    """Rows with the columns that features need, each drawn apart from the others.

    Ids are those of the vocabulary, each as likely as another; a hashed id is any number. Numbers
    are normal around the mean of the training rows. One in ten single ids is null where nulls are
    allowed, and lists have up to five items.

    Args:
        fitted: what encoders know.
        num_rows: how many rows.
        seed: decides the rows.
    """
    return _Draw(fitted, num_rows, np.random.default_rng(seed)).frame()


class _Draw:
    def __init__(self, fitted: Fitted, num_rows: int, random: np.random.Generator) -> None:
        self.fitted, self.num_rows, self.random = fitted, num_rows, random
        self._lengths: dict[str, NDArray[np.int64]] = {}

    def frame(self) -> pl.DataFrame:
        columns: dict[str, pl.Series] = {}
        for feature in self.fitted.spec.features:
            columns[feature.name] = self._column(feature)
            if isinstance(feature, SparseFeature) and feature.weights is not None:
                lengths = self._lengths_of(feature)
                weights = pl.Series(self.random.random(int(lengths.sum())), dtype=pl.Float32)
                columns[feature.weights] = _lists(weights, lengths)
        return pl.DataFrame(columns)

    def _column(
        self, feature: SparseFeature | SequenceFeature | DenseFeature | VectorFeature
    ) -> pl.Series:
        if isinstance(feature, DenseFeature):
            return self._numbers(feature)
        if isinstance(feature, VectorFeature):
            return self._vectors(feature)
        if feature.name in self.fitted.single:
            return self._ids(feature, self.num_rows)
        lengths = self._lengths_of(feature)
        return _lists(self._ids(feature, int(lengths.sum())), lengths)

    def _lengths_of(self, feature: SparseFeature | SequenceFeature) -> NDArray[np.int64]:
        """Lists that belong together are of one length in each row."""
        key = f"of {feature.name}"
        if isinstance(feature, SequenceFeature):
            key = f"of behaviour {feature.behaviour}"
        if key not in self._lengths:
            self._lengths[key] = self.random.integers(0, _MOST_ITEMS + 1, self.num_rows)
        return self._lengths[key]

    def _ids(self, feature: SparseFeature | SequenceFeature, count: int) -> pl.Series:
        mapper = self.fitted.mappers[self.fitted.spec.table_of(feature)]
        values = self._values(mapper, count)
        if feature.nulls == "error" or feature.name not in self.fitted.single:
            return values
        is_there = pl.Series(self.random.random(count) >= _NULL_SHARE)
        return values.zip_with(is_there, _nulls(values.dtype, count))

    def _values(self, mapper: Mapper, count: int) -> pl.Series:
        if isinstance(mapper, VocabMapper):
            ids = mapper.vocab.ids
            if not len(ids):
                return _nulls(ids.dtype, count)
            return ids.gather(self.random.integers(0, len(ids), count))
        if isinstance(mapper, BucketMapper):
            borders = mapper.borders if len(mapper.borders) else np.zeros(1)
            return pl.Series(self.random.uniform(borders[0] - 1, borders[-1] + 1, count))
        numbers = pl.Series(self.random.integers(0, 2**31, count), dtype=pl.Int64)
        return numbers.cast(pl.String) if mapper.family == "string" else numbers

    def _numbers(self, feature: DenseFeature) -> pl.Series:
        scale = self.fitted.scales[feature.name]
        values = self.random.normal(size=self.num_rows) * scale.scale + scale.shift
        if feature.transform == "log1p":
            values = np.expm1(np.clip(values, 0.0, 80.0))
        elif feature.transform == "signed_log1p":
            values = np.copysign(np.expm1(np.minimum(np.abs(values), 80.0)), values)
        return pl.Series(values)

    def _vectors(self, feature: VectorFeature) -> pl.Series:
        values_BV = self.random.normal(size=(self.num_rows, feature.dim))
        scale = self.fitted.vector_scales.get(feature.name)
        if scale is not None:
            values_BV = values_BV * scale.scale_V + scale.shift_V
        return _lists(
            pl.Series(values_BV.ravel(), dtype=pl.Float32),
            np.full(self.num_rows, feature.dim),
        )


def _nulls(dtype: pl.DataType, count: int) -> pl.Series:
    return pl.Series([None], dtype=dtype).new_from_index(0, count)


def _lists(values: pl.Series, lengths: NDArray[np.int64]) -> pl.Series:
    rows = pl.Series(np.repeat(np.arange(len(lengths)), lengths), dtype=pl.Int64)
    frame = pl.DataFrame({"row": rows, "values": values})
    lists = frame.group_by("row", maintain_order=True).agg("values")
    every = pl.DataFrame({"row": pl.Series(np.arange(len(lengths)), dtype=pl.Int64)})
    found = every.join(lists, on="row", how="left", maintain_order="left")["values"]
    return found.fill_null([])
