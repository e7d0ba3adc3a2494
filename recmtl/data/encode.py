"""Encoders: fitted on training rows, they turn a frame into a Batch.

Shape letters: B rows, F single-valued sparse features, D dense features and components of vectors
(V of one of them), K label columns, N items of a list column.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmtl._checks import suggest
from recmtl._progress import Progress
from recmtl.batch import Batch, Ragged
from recmtl.data import store
from recmtl.data.columns import needed_columns
from recmtl.data.counts import EncodeCounts
from recmtl.data.dense import normalise, read_dense
from recmtl.data.dtypes import family, inner, is_list, is_list_of_numbers
from recmtl.data.fit import Fitted, fit, null_problem
from recmtl.data.labels import Population, Rate, label_problems, read_labels, read_weight
from recmtl.data.lists import FlatList, alignment_problems, cut, flatten, flatten_weights
from recmtl.data.mappers import IdFamily, VocabMapper, fits, wrong_family
from recmtl.data.pools import RowFormat
from recmtl.data.problems import Problem, raise_all
from recmtl.data.scan import Log
from recmtl.data.split import open_splits
from recmtl.data.vectors import normalise_vectors, read_vectors
from recmtl.data.wanted import Want, wanted_columns
from recmtl.errors import DataError
from recmtl.spec import SequenceFeature, SparseFeature, Spec

__all__ = ["Encoders"]

_MAX_PIECE_ROWS = 1 << 17


class Encoders:
    """Vocabularies, borders, statistics: everything between a column and a model's input.

    A table that several features share is fitted on the column of its owner alone.

    Attributes:
        spec: what they were fitted for.
        tables: table -> number of rows, row 0 (out-of-vocabulary) included; order of `spec.tables`.
        single: single-valued sparse features, the rows of `Batch.ids_FB`.
        bags: list-valued sparse features.
        labels: the columns of `Batch.labels_BK`.
        base_rates: binary task without `product_of` -> weighted positive rate on observed training
            rows; multiclass task -> weighted share of each class there.
        label_scales: regression task -> weighted mean and standard deviation on observed training
            rows.
        populations: task -> observed training rows and positives among them.
        num_rows: training rows.
    """

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted
        self.spec = fitted.spec
        self.tables: dict[str, int] = {
            table: mapper.rows for table, mapper in fitted.mappers.items()
        }
        self.single: tuple[str, ...] = fitted.single
        self.bags: tuple[str, ...] = fitted.bags
        self.labels: tuple[str, ...] = fitted.spec.labels
        self.base_rates: dict[str, Rate] = fitted.base_rates
        self.label_scales: dict[str, tuple[float, float]] = fitted.label_scales
        self.populations: dict[str, Population] = fitted.populations
        self.num_rows: int = fitted.num_rows
        sparse = {feature.name: feature for feature in fitted.spec.sparse}
        self._single = [sparse[name] for name in fitted.single]
        self._bags = [sparse[name] for name in fitted.bags]
        features: list[SparseFeature | SequenceFeature] = [*self.spec.sparse, *self.spec.sequences]
        self._id_columns = {f.name: self.spec.table_of(f) for f in features}
        self._lists = {*self.bags, *(f.name for f in self.spec.sequences)}

    @classmethod
    def fit(
        cls,
        spec: Spec,
        data_dir: Path | str | None = None,
        *,
        progress: Progress | None = None,
        train: Log | None = None,
    ) -> Encoders:
        """Fit on the training rows, in one pass.

        Args:
            spec: data, features and tasks (a `RunConfig` is one).
            data_dir: what paths of the spec are relative to (default: the working directory).
            progress: shows how far it is.
            train: training rows that are open already, instead of those the spec names.

        Raises:
            DataError: see `open_log`, `check_columns` and the rules of the features.
        """
        log = train if train is not None else open_splits(spec, Path(data_dir or ".")).train
        plain = Spec(**{name: getattr(spec, name) for name in Spec.model_fields})
        return cls(fit(plain, log, progress))

    def save(self, folder: str | Path) -> None:
        """Write them to a folder, which appears whole or not at all."""
        store.save(self._fitted, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Encoders:
        """Read them from a folder.

        Raises:
            CheckpointError: a file is missing or corrupt.
        """
        return cls(store.load(Path(folder)))

    def counts(self, table: str) -> NDArray[Any]:
        """How often each row of a table is looked up by the table's owner in the training rows.

        Buckets whose borders are quantiles have even shares; the rest was counted (of a list-valued
        sparse feature's vocabulary, the rows that an id is in).
        """
        mapper = self._fitted.mappers[table]
        if table in self._fitted.counts:
            return self._fitted.counts[table]()
        num_items = round(self.num_rows * self._fitted.mean_lengths.get(table, 1.0))
        if not isinstance(mapper, VocabMapper):
            return np.full(mapper.rows, num_items // max(mapper.rows - 1, 1))
        known = mapper.vocab.counts.to_numpy()
        return np.concatenate([[max(num_items - int(known.sum()), 0)], known])

    def columns(self, *, labels: bool) -> list[str]:
        """Columns that `encode` needs."""
        return needed_columns(self.spec, labels=labels)

    @property
    def families(self) -> dict[str, IdFamily]:
        """Table -> of what family its values were when it was fitted."""
        return {table: mapper.family for table, mapper in self._fitted.mappers.items()}

    def wanted(self, *, labels: bool, keep: Iterable[str] = ()) -> dict[str, Want]:
        """What `open_log` has to know to read columns as they were when these were fitted.

        Args:
            labels: whether labels are read, and what metrics need beside them.
            keep: further columns to be read.
        """
        return wanted_columns(
            self.spec, labels=labels, keep=keep, families=self.families, lists=self.bags
        )

    @property
    def piece_rows(self) -> int:
        """Rows that are read and encoded at a time: a small part of the budget."""
        raw_bytes = 4 * self.row_bytes + 64
        return int(min(max(self.spec.data.memory_bytes / 12 / raw_bytes, 256), _MAX_PIECE_ROWS))

    @property
    def row_format(self) -> RowFormat:
        """How a training row lies in a pool."""
        words_per_id = 1 if max(self.tables.values(), default=0) < 2**31 else 2
        num_dense = self.spec.num_dense_rows
        return RowFormat(len(self.single), num_dense, len(self.labels), words_per_id)

    @property
    def row_bytes(self) -> float:
        """Memory of a training row in a pool, on the average."""
        weighted = {f.name for f in self._bags if f.weights is not None}
        id_bytes = 4 * self.row_format.words_per_id
        size = float(self.row_format.num_bytes)
        for name, length in self._fitted.mean_lengths.items():
            # 16: where its items end, and how many they are while the pool is put together.
            size += 16 + (id_bytes + 4 * (name in weighted)) * length
        return size

    def encode(
        self,
        frame: pl.DataFrame,
        *,
        labels: bool,
        rows: NDArray[np.int64] | None = None,
        counts: EncodeCounts | None = None,
    ) -> Batch:
        """Encode all rows of a frame.

        Args:
            frame: has at least `columns(labels=labels)`.
            labels: whether to read labels and sample weights; without them K is 0 and every weight
                1.
            rows: numbers of the rows in their log (default: from 0).
            counts: where values, nulls and out-of-vocabulary ids are counted.

        Raises:
            DataError: missing columns, other types than when fitted, values that the spec forbids;
                all of them at once.
        """
        self._check(frame, labels=labels)
        rows = np.arange(frame.height) if rows is None else rows
        work = _Encoding(self._fitted, frame, rows, counts)
        ids_FB = np.empty((len(self._single), frame.height), np.int64)
        for f, feature in enumerate(self._single):
            ids_FB[f] = work.ids(feature, frame[feature.name])
        dense_DB = work.dense()
        bags = {feature.name: work.bag(feature) for feature in self._bags}
        sequences = {feature.name: work.sequence(feature) for feature in self.spec.sequences}
        labels_BK, weight_B = (
            work.labels() if labels else (np.empty((frame.height, 0), np.float32), None)
        )
        raise_all(work.problems)
        if counts is not None:
            counts.add(work.counts)
        return Batch(
            ids_FB=_tensor(ids_FB),
            dense_DB=_tensor(dense_DB),
            bags=bags,
            sequences=sequences,
            labels_BK=_tensor(labels_BK),
            weight_B=torch.ones(frame.height) if weight_B is None else _tensor(weight_B),
            rows_B=torch.from_numpy(rows.copy()),
        )

    def _check(self, frame: pl.DataFrame, *, labels: bool) -> None:
        schema = frame.schema
        problems = [
            f"column `{column}` is missing.{suggest(column, schema)}"
            for column in self.columns(labels=labels)
            if column not in schema
        ]
        for name, table in self._id_columns.items():
            expected = self._fitted.mappers[table].family
            problems += _id_problems(name, schema.get(name), expected, in_lists=name in self._lists)
        numbers = [(feature.name, "dense features are") for feature in self.spec.dense]
        if labels:
            numbers += [(column, "labels are") for column in self.labels]
            weight = self.spec.data.weight
            numbers += [] if weight is None else [(weight, "sample weights are")]
        for column, words in numbers:
            dtype = schema.get(column, pl.Null())
            if is_list(dtype) or family(dtype) not in ("int", "float", "null"):
                problems.append(f"column `{column}` is {dtype}, but {words} numbers. Cast it.")
        for vector in self.spec.vectors:
            dtype = schema.get(vector.name, pl.Null())
            if not (isinstance(dtype, pl.Null) or is_list_of_numbers(dtype)):
                problems.append(
                    f"column `{vector.name}` is {dtype}, but it was fitted on lists of {vector.dim}"
                    " numbers. Write it as in training."
                )
        for feature in self._bags:
            dtype = schema.get(feature.weights or "", pl.Null())
            if family(inner(dtype)) not in ("int", "float", "null"):
                problems.append(
                    f"column `{feature.weights}` is {dtype}, but weights are a list of numbers."
                )
        if problems:
            raise DataError.all_of(problems)


def _id_problems(
    column: str, dtype: pl.DataType | None, expected: IdFamily, *, in_lists: bool
) -> list[str]:
    if dtype is None or family(dtype) == "null":
        return []
    if is_list(dtype) != in_lists:
        fitted = "lists" if in_lists else "single values"
        return [
            f"column `{column}` is {dtype}, but it was fitted on {fitted}. Write it as in training."
        ]
    return [] if fits(inner(dtype), expected) else [wrong_family(column, dtype, expected)]


class _Encoding:
    """One frame under way: its columns become arrays, problems and counts are gathered."""

    def __init__(
        self,
        fitted: Fitted,
        frame: pl.DataFrame,
        rows: NDArray[np.int64],
        counts: EncodeCounts | None,
    ) -> None:
        self.fitted, self.frame, self.rows = fitted, frame, rows
        self.counting = counts is not None
        self.counts = EncodeCounts()
        self.problems: list[Problem] = alignment_problems(fitted.spec, frame)

    def ids(
        self, feature: SparseFeature | SequenceFeature, values: pl.Series, num_null_lists: int = 0
    ) -> NDArray[np.int64]:
        """The row of each value in the feature's table."""
        mapper = self.fitted.mappers[self.fitted.spec.table_of(feature)]
        rows = mapper(values)
        if self.counting or feature.nulls == "error":
            num_zero = len(rows) - int(np.count_nonzero(rows))
            # Buckets and hashes send nothing but nulls (and NaN) to row 0.
            num_nulls = values.null_count() if isinstance(mapper, VocabMapper) else num_zero
            oov = num_zero - num_nulls
            num_nulls += num_null_lists
            self.counts.count(feature.name, values=len(rows), nulls=num_nulls, oov=oov)
            if num_nulls and feature.nulls == "error":
                self.problems.append(null_problem(feature.name, num_nulls))
        return rows

    def dense(self) -> NDArray[np.float32]:
        """All dense features and vectors, [D, B]."""
        fitted, rows_of = self.fitted, self.fitted.spec.dense_rows
        dense_DB = np.empty((fitted.spec.num_dense_rows, self.frame.height), np.float32)
        for feature in fitted.spec.dense:
            filled = read_dense(feature, self.frame[feature.name])
            (out_B,) = dense_DB[rows_of[feature.name]]
            normalise(fitted.scales[feature.name], filled.values, out_B)
            self.problems += filled.problems
            self.counts.count(feature.name, values=self.frame.height, nulls=filled.num_filled)
        for vector in fitted.spec.vectors:
            vectors = read_vectors(vector, self.frame[vector.name], self.rows)
            scale, out_VB = fitted.vector_scales.get(vector.name), dense_DB[rows_of[vector.name]]
            normalise_vectors(vector, scale, vectors, out_VB)
            self.problems += vectors.problems
            self.counts.count(vector.name, values=self.frame.height, nulls=vectors.num_nulls)
        return dense_DB

    def bag(self, feature: SparseFeature) -> Ragged:
        """A list-valued sparse feature."""
        flat = flatten(self.frame[feature.name])
        weights_N = None
        if feature.weights is not None:
            numbers, problems = flatten_weights(self.frame[feature.weights], flat)
            self.problems += problems
            weights_N = _tensor(numbers)
        return self._ragged(feature, flat, weights_N)

    def sequence(self, feature: SequenceFeature) -> Ragged:
        """A sequence, cut to `max_len`."""
        return self._ragged(feature, flatten(cut(feature, self.frame[feature.name])), None)

    def labels(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Labels [B, K] and sample weights [B]."""
        spec = self.fitted.spec
        labels_KB = read_labels(spec, self.frame)
        self.problems += label_problems(spec, self.frame, labels_KB)
        weight_B, problems = read_weight(spec, self.frame)
        self.problems += problems
        return np.ascontiguousarray(labels_KB.T, np.float32), weight_B.astype(np.float32)

    def _ragged(
        self, feature: SparseFeature | SequenceFeature, flat: FlatList, weights_N: Tensor | None
    ) -> Ragged:
        values = self.ids(feature, flat.values, flat.num_null_lists)
        return Ragged(_tensor(values), _tensor(flat.lengths), weights_N)


def _tensor(array: NDArray[np.generic]) -> Tensor:
    """The array as a tensor; copied only where it is a view of what polars owns."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
