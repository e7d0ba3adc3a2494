"""Fitting encoders: one pass over the training rows, piece by piece, within the memory budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from recmtl._checks import size_text
from recmtl._progress import Progress, silent_if_none
from recmtl.data.columns import needed_columns
from recmtl.data.dense import LARGEST, DenseFit, read_dense
from recmtl.data.dtypes import family, inner, is_list
from recmtl.data.fitted import Fitted, grown_counts
from recmtl.data.heap import keep_little, trim
from recmtl.data.labels import LabelCounts, label_problems, read_labels, read_weight
from recmtl.data.lists import alignment_problems, cut, flatten, flatten_weights
from recmtl.data.mappers import (
    BucketMapper,
    HashMapper,
    IdFamily,
    Mapper,
    RowCounter,
    VocabMapper,
    as_ids,
    quantile_borders,
)
from recmtl.data.problems import Problem, Tally
from recmtl.data.quantiles import QuantileSample
from recmtl.data.scan import Log, check_columns
from recmtl.data.vectors import VectorFit, read_vectors
from recmtl.data.vocab import VocabCounter, num_beyond_int64
from recmtl.errors import DataError
from recmtl.spec import SequenceFeature, SparseFeature, Spec

__all__ = ["SAMPLE_ROWS", "fit"]

SAMPLE_ROWS = 1_000_000
"""Training rows that quantiles are taken from."""
_FIRST_ROWS, _MAX_ROWS = 1 << 8, 1 << 18
_COUNT_BYTES = 16
_FINISHING = 6  # measured: the peak of making a vocabulary, over the memory of its counts


def fit(
    spec: Spec, log: Log, progress: Progress | None = None, *, before: Fitted | None = None
) -> Fitted:
    """Fit everything on the rows of `log`.

    Args:
        spec: data, features and tasks.
        log: the training rows.
        progress: shows how far it is.
        before: what was fitted on earlier rows, of the same features and tasks. Vocabularies grow,
            and counts are added up; borders, normalisations and the scales of labels stay.

    Raises:
        DataError: missing or unusable columns; values that the spec forbids, counted over the whole
            log; a vocabulary that does not fit into `data.memory`.
    """
    check_columns(log, spec, labels=True)
    run = _Run(spec, log, before)
    columns = needed_columns(spec, labels=True)
    log.require_room(columns, spec.data.memory_bytes)
    start, frame = 0, log.read(columns, 0, _FIRST_ROWS)  # says how large a row is
    if frame.estimated_size() * log.num_rows > spec.data.memory_bytes * frame.height:
        keep_little(spec.data.memory_bytes)
    with silent_if_none(progress)("fit encoders", log.num_rows, "rows") as bar:
        while start < log.num_rows:
            row_bytes = frame.estimated_size() / frame.height
            rows = int(min(max(spec.data.memory_bytes / (24 * row_bytes), 256), _MAX_ROWS))
            frame = log.read(columns, start, log.stop_after(start, rows))
            run.add(frame, start)
            bar.advance(frame.height)
            start += frame.height
    fitted = run.finish()
    del run, frame
    trim()
    return fitted


class _Run:
    """The state of one pass."""

    def __init__(self, spec: Spec, log: Log, before: Fitted | None) -> None:
        self.spec, self.log, self.before = spec, log, before
        lists = {f.name for f in spec.sparse if is_list(log.schema[f.name])}
        lists = lists if before is None else set(before.bags)
        self.single = tuple(f.name for f in spec.sparse if f.name not in lists)
        self.bags = tuple(f.name for f in spec.sparse if f.name in lists)
        owners = [spec.table_owner(table) for table in spec.tables]
        counted = [f.name for f in owners if f.vocab is not None]
        pending = spec.data.memory_bytes // (32 * _COUNT_BYTES * max(len(counted), 1))
        self.counters = {
            f.name: VocabCounter(f.vocab.min_count, pending_ids=min(max(pending, 1 << 12), 1 << 20))
            for f in owners
            if f.vocab is not None
        }
        for name, counts in {} if before is None else before.rare.items():
            self.counters[name].add_counts(counts())
        self.rows = {
            f.name: RowCounter(self._mapper(f))
            for f in owners
            if f.vocab is None and not (before is None and isinstance(f.buckets, int))
        }
        self.repeats = {  # a vocabulary counts rows, and an item may be in one several times
            f.name: VocabCounter(1, pending_ids=self.counters[f.name].pending_ids)
            for f in owners
            if f.vocab is not None and isinstance(f, SequenceFeature)
        }
        sampled = [f.name for f in owners if isinstance(f.buckets, int) and before is None]
        # All samples, and what it takes to sort one of them, in a quarter of the budget.
        size = spec.data.memory_bytes // (4 * 8 * (len(sampled) + 3))
        size = min(max(size, 1000), SAMPLE_ROWS)
        self.samples = {name: QuantileSample(log.num_rows, size) for name in sampled}
        self.dense = {f.name: DenseFit() for f in spec.dense}
        self.vectors = {f.name: VectorFit(f.dim) for f in spec.vectors if f.normalize == "standard"}
        self.items = dict.fromkeys((*self.bags, *(f.name for f in spec.sequences)), 0)
        self.labels = LabelCounts(spec)
        self.tally = Tally()

    def add(self, frame: pl.DataFrame, start: int) -> None:
        """Take the rows `start`, ... in."""
        features: list[SparseFeature | SequenceFeature] = [*self.spec.sparse, *self.spec.sequences]
        for feature in features:
            self._add_ids(feature, frame, start)
        self.tally.add(alignment_problems(self.spec, frame))
        for dense in self.spec.dense:
            filled = read_dense(dense, frame[dense.name])
            self.tally.add(filled.problems)
            if num_huge := int((np.abs(filled.values) > LARGEST).sum()):
                text = (
                    "values are too large for a float32. Repair the column, or use a `transform`."
                )
                self.tally.add([Problem(dense.name, "huge", num_huge, text)])
                continue
            self.dense[dense.name].add(filled.values)
        rows_B = np.arange(start, start + frame.height)
        for vector in self.spec.vectors:
            vectors = read_vectors(vector, frame[vector.name], rows_B)
            self.tally.add(vectors.problems)
            if vector.name in self.vectors:
                self.vectors[vector.name].add(vectors)
        labels_KB = read_labels(self.spec, frame)
        weight_B, problems = read_weight(self.spec, frame)
        self.tally.add(label_problems(self.spec, frame, labels_KB))
        self.tally.add(problems)
        self.labels.add(labels_KB, weight_B)
        self._check_memory(start + frame.height)

    def finish(self) -> Fitted:
        """What was learnt, or every problem that was met."""
        problems = self.tally.messages(self.log.name)
        # Labels that are wrong in themselves make what follows from them meaningless.
        problems = problems or self.labels.problems(self.log.name, unobserved=self.before is None)
        if problems:
            raise DataError.all_of(problems)
        before = self.before
        mappers = {table: self._mapper(self.spec.table_owner(table)) for table in self.spec.tables}
        for name, repeats in self.repeats.items():
            self.rows[name] = RowCounter(mappers[name])
            seen = repeats.finish()
            self.rows[name].add(seen.ids, seen.counts.to_numpy())
        rare = {name: counter.rare for name, counter in self.counters.items()}
        today = Fitted(
            spec=self.spec,
            mappers=mappers,
            scales={f.name: self.dense[f.name].scale(f) for f in self.spec.dense},
            counts={name: counter.result for name, counter in self.rows.items()},
            rare={name: frame.clone for name, frame in rare.items() if len(frame)},
            vector_scales={name: vectors.scale() for name, vectors in self.vectors.items()},
            single=self.single,
            bags=self.bags,
            mean_lengths={name: count / self.log.num_rows for name, count in self.items.items()},
            base_rates=self.labels.base_rates(),
            label_scales=self.labels.label_scales(),
            populations=self.labels.populations(),
            num_rows=self.log.num_rows,
        )
        if before is None:
            return today
        return replace(
            today,
            counts=grown_counts(before, today),
            scales=before.scales,
            vector_scales=before.vector_scales,
            base_rates={**before.base_rates, **today.base_rates},
            label_scales=before.label_scales,
        )

    def _add_ids(
        self, feature: SparseFeature | SequenceFeature, frame: pl.DataFrame, start: int
    ) -> None:
        column = frame[feature.name]
        num_nulls, values = column.null_count(), column
        if feature.name in self.items:
            column = cut(feature, column) if isinstance(feature, SequenceFeature) else column
            flat = flatten(column)
            self.items[feature.name] += len(flat.values)
            num_nulls, values = num_nulls + flat.values.null_count(), flat.values
            if isinstance(feature, SparseFeature) and feature.weights is not None:
                self.tally.add(flatten_weights(frame[feature.weights], flat)[1])
        if num_nulls and feature.nulls == "error":
            self.tally.add([null_problem(feature.name, num_nulls)])
        owner = self.spec.table_owner(self.spec.table_of(feature))
        may_be_wide = values.dtype == pl.UInt64 or values.dtype.is_decimal()
        if may_be_wide and owner.buckets is None and (num_lost := num_beyond_int64(values)):
            text = "values do not fit into Int64. Write them as strings."
            self.tally.add([Problem(feature.name, "wide", num_lost, text)])
            return
        if feature.name in self.rows:
            self.rows[feature.name].add(values)
        if feature.name in self.repeats:
            self.repeats[feature.name].add(as_ids(values, self._family(feature.name)))
        if feature.name in self.counters:
            if feature.name in self.items and is_list(column.dtype):
                values = flatten(column.list.unique()).values  # `min_count` counts rows
            self.counters[feature.name].add(as_ids(values, self._family(feature.name)))
        elif feature.name in self.samples:
            self.samples[feature.name].add(column, start)

    def _family(self, table: str) -> IdFamily:
        if self.before is not None:
            return self.before.mappers[table].family
        return "string" if family(inner(self.log.schema[table])) == "string" else "int"

    def _mapper(self, owner: SparseFeature | SequenceFeature) -> Mapper:
        before = None if self.before is None else self.before.mappers[owner.name]
        if owner.vocab is not None:
            grows = before.vocab if isinstance(before, VocabMapper) else None
            return VocabMapper(self.counters[owner.name].finish(grows))
        if before is not None:
            return before
        if owner.hash is not None:
            return HashMapper(owner.hash, self._family(owner.name))
        if not isinstance(owner.buckets, int):
            return BucketMapper(np.array(owner.buckets, np.float64))
        return BucketMapper(quantile_borders(self.samples[owner.name].finish(), owner.buckets))

    def _check_memory(self, rows_read: int) -> None:
        """Refuse vocabularies that cannot be fitted within the budget.

        Sorting and indexing them takes several times the memory of their counts.
        """
        room = self.spec.data.memory_bytes / _FINISHING
        if sum(counter.num_bytes for counter in self.counters.values()) <= room:
            return
        num_ids = {
            name: counter.num_ids for name, counter in self.counters.items()
        }  # merges what is pending
        sizes = {name: counter.num_bytes for name, counter in self.counters.items()}
        total = sum(sizes.values())
        if total <= room:
            return
        largest = max(sizes, key=lambda name: sizes[name])
        raise DataError(
            f"feature `{largest}`: {num_ids[largest]:,} different ids in {rows_read:,} of "
            f"{self.log.num_rows:,} rows make fitting all vocabularies take "
            f"{size_text(_FINISHING * total)} already (this one "
            f"{size_text(_FINISHING * sizes[largest])}), more than `data.memory` "
            f"({self.spec.data.memory}). "
            "Use `hash` instead of `vocab`, or raise `data.memory`."
        )


def null_problem(column: str, count: int) -> Problem:
    """Nulls in a feature whose rule forbids them."""
    return Problem(
        column,
        "null",
        count,
        "values are null, and `nulls` is `error`. Repair the column, or use `nulls: oov`.",
    )
