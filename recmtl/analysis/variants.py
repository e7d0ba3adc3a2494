"""Other ways in which a server may have read a feature, each as the rows encoded so.

A variant encodes all features at once in its way; what is asked about is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recmtl.analysis.features import FeatureGroup, feature_groups
from recmtl.batch import Batch, Ragged
from recmtl.data import Encoders
from recmtl.data.dense import DenseScale, normalise, read_dense
from recmtl.data.dtypes import family, inner, is_list
from recmtl.data.lists import cut, flatten
from recmtl.data.mappers import HashMapper, Mapper, VocabMapper
from recmtl.spec import DenseFeature, SequenceFeature, SparseFeature

__all__ = ["Candidate", "Variant", "candidates"]

_LENGTHS = (*range(1, 21), 25, 30, 32, 40, 50, 64, 75, 100, 128, 150, 200, 250, 256, 500, 512, 1000)
"""Lengths that lists are cut to."""
_TEXTS = ("", "0", "-1", "unknown", "null", "None", "nan", "NaN", "NULL", "other")
_NUMBERS = (0, -1)


@dataclass(frozen=True)
class Variant:
    """A way of reading rows.

    Attributes:
        cause: `type`, `vocabulary`, `default`, `transform` or `list`.
        words: what it does, after the name of the feature.
        is_general: whether a server that reads a column so reads every row so; another one falls
            upon single values.
        make: rows as they are read so, from the columns and from what they are encoded to.
    """

    cause: str
    words: str
    is_general: bool
    make: Callable[[pl.DataFrame, Batch], Batch]


@dataclass(frozen=True)
class Candidate:
    """A feature, and a way in which it may have been read.

    Attributes:
        group: the feature; the aligned sequences of a behaviour together where lists are cut.
        variant: the way.
    """

    group: FeatureGroup
    variant: Variant


def candidates(encoders: Encoders) -> list[Candidate]:
    """Every way in which a feature of a run may have been read, the likelier ones first."""
    spec = encoders.spec
    found = []
    for feature in spec.looked_up:
        mapper = encoders.mappers[spec.table_of(feature)]
        group = FeatureGroup(feature.name, (feature.name,))
        found += [Candidate(group, variant) for variant in _of_ids(encoders, feature, mapper)]
    for dense in spec.dense:
        group = FeatureGroup(dense.name, (dense.name,))
        found += [Candidate(group, variant) for variant in _of_numbers(encoders, dense)]
    for vector in spec.vectors:
        group = FeatureGroup(vector.name, (vector.name,))
        found += [Candidate(group, variant) for variant in _of_vectors(encoders, vector.name)]
    lists = {*encoders.bags, *(feature.name for feature in spec.sequences)}
    for group in feature_groups(encoders):
        if lists.issuperset(group.members):
            found += [Candidate(group, variant) for variant in _of_lists(encoders, group)]
    return found


def _of_ids(
    encoders: Encoders, feature: SparseFeature | SequenceFeature, mapper: Mapper
) -> Iterator[Variant]:
    name = feature.name
    raw = partial(_encoded, encoders, name)
    if isinstance(mapper, VocabMapper):
        unknown = partial(_with_ids, encoders, name, lambda values: torch.zeros(len(values)).long())
        yield Variant("vocabulary", "was out-of-vocabulary (row 0, as a null is)", False, unknown)
    if mapper.family == "int":
        for words, text in (
            ("as strings", lambda v: v.cast(pl.String)),
            ("as strings of floats, such as '12.0'", lambda v: v.cast(pl.Float64).cast(pl.String)),
        ):
            strings = partial(
                _with_ids, encoders, name, partial(_mapped_as, mapper, "string", text)
            )
            yield Variant("type", f"was read {words}", True, strings)
        yield Variant("type", "was read as float32", True, partial(raw, change=_float32_ids))
        yield Variant("type", "was read as int32", True, partial(raw, change=_int32_ids))
    elif mapper.family == "string":
        numbers = partial(_mapped_as, mapper, "int", lambda v: v.cast(pl.Int64, strict=False))
        integers = partial(_with_ids, encoders, name, numbers)
        yield Variant("type", "was read as integers", True, integers)
        floats = partial(raw, change=_as_float_texts)
        yield Variant("type", "was read as strings of floats, such as '12.0'", True, floats)
        yield Variant("type", "was read in lower case", True, partial(raw, change=_lower))
        yield Variant("type", "was read without spaces around", True, partial(raw, change=_strip))
    else:
        yield Variant("type", "was read as float32", True, partial(raw, change=_float32))
        yield Variant("type", "was read as an integer", True, partial(raw, change=_whole))
    if feature.nulls == "oov" and not isinstance(mapper, VocabMapper):
        yield Variant("default", "was null", False, partial(raw, change=_nothing))
    for value in _TEXTS if mapper.family == "string" else _NUMBERS:
        change = partial(_constant, value=value)
        yield Variant("default", f"was {value!r}", False, partial(raw, change=change))
    if isinstance(feature, SparseFeature) and feature.weights is not None:
        yield Variant("default", "had weights of 1", True, partial(_unweighted, name))


def _of_numbers(encoders: Encoders, feature: DenseFeature) -> Iterator[Variant]:
    name = feature.name
    raw = partial(_encoded, encoders, name)
    plain = replace_transform(feature)
    number = partial(_with_number, encoders)
    scale = encoders.scales[name]
    has_scale = scale != DenseScale()
    if feature.transform != "none" and has_scale:
        words = f"was neither transformed ({feature.transform}) nor normalised"
        yield Variant("transform", words, True, partial(number, feature=plain, scale=DenseScale()))
    if feature.transform != "none":
        words = f"was not transformed ({feature.transform})"
        yield Variant("transform", words, True, partial(number, feature=plain, scale=scale))
    if has_scale:
        words = f"was not normalised ({feature.normalize})"
        bare = partial(number, feature=feature, scale=DenseScale())
        yield Variant("transform", words, True, bare)
    if feature.transform == "none":
        words = "was transformed by log1p"
        logged = feature.model_copy(update={"transform": "signed_log1p"})
        yield Variant("transform", words, True, partial(number, feature=logged, scale=scale))
    if feature.fill is not None:
        words = f"was null (filled with {feature.fill:g})"
        yield Variant("default", words, False, partial(raw, change=_nothing))
    for value in _NUMBERS:
        if value != feature.fill:
            change = partial(_constant, value=value)
            yield Variant("default", f"was {value}", False, partial(raw, change=change))
    if has_scale:
        zero = partial(_zero_inputs, encoders, name)
        yield Variant("default", "was 0 after normalisation", False, zero)
    yield Variant("type", "was read as float32", True, partial(raw, change=_float32))
    yield Variant("type", "was read as float16", True, partial(raw, change=_float16))
    yield Variant("type", "was read as an integer", True, partial(raw, change=_whole))


def replace_transform(feature: DenseFeature) -> DenseFeature:
    """The feature without its transform."""
    return feature.model_copy(update={"transform": "none"})


def _of_vectors(encoders: Encoders, name: str) -> Iterator[Variant]:
    raw = partial(_encoded, encoders, name)
    (vector,) = (v for v in encoders.spec.vectors if v.name == name)
    if vector.normalize != "none":
        words = f"was not normalised ({vector.normalize})"
        yield Variant("transform", words, True, partial(_raw_vectors, encoders, name))
    yield Variant("default", "was zeros", False, partial(_zero_inputs, encoders, name))
    yield Variant("type", "was read as float16", True, partial(raw, change=_float16))
    yield Variant("list", "was in reverse order", True, partial(raw, change=_reversed))


def _of_lists(encoders: Encoders, group: FeatureGroup) -> Iterator[Variant]:
    raw = partial(_encoded_lists, encoders, group.members)
    sequences = {f.name: f for f in encoders.spec.sequences}
    longest = max((sequences[m].max_len for m in group.members if m in sequences), default=0)
    yield Variant("default", "was empty", False, partial(raw, change=lambda v, _: v.list.head(0)))
    yield Variant(
        "list", "was in reverse order", True, partial(raw, change=lambda v, _: v.list.reverse())
    )
    if longest:
        yield Variant(
            "list",
            "was cut, then reversed",
            True,
            partial(raw, change=lambda v, feature: cut(feature, v).list.reverse()),
        )
        words = (
            f"was cut to the {'first' if sequences[group.members[0]].keep_last else 'last'} items"
        )
        yield Variant("list", words, True, partial(raw, change=_other_end))
    yield Variant(
        "list",
        "lacked its last item",
        True,
        partial(raw, change=lambda v, _: _without(v, last=True)),
    )
    yield Variant(
        "list",
        "lacked its first item",
        True,
        partial(raw, change=lambda v, _: _without(v, last=False)),
    )
    for length in _LENGTHS:
        if not longest or length < longest:
            last = partial(raw, change=lambda v, _, n=length: v.list.tail(n))
            first = partial(raw, change=lambda v, _, n=length: v.list.head(n))
            yield Variant("list", f"was cut to its last {length}", True, last)
            yield Variant("list", f"was cut to its first {length}", True, first)


# Columns changed.


def _encoded(
    encoders: Encoders,
    name: str,
    frame: pl.DataFrame,
    batch: Batch,
    *,
    change: Callable[[pl.Series], pl.Series],
) -> Batch:
    """Rows encoded with a column changed, item by item in lists."""
    column = frame[name]
    if is_list(column.dtype) and change is not _reversed:
        column = column.cast(pl.List(inner(column.dtype)))
        flat = flatten(column)
        changed = change(flat.values)
        column = _lists_of(changed, flat.lengths, column)
    else:
        column = change(column)
    return encoders.encode(frame.with_columns(column.alias(name)), labels=False)


def _lists_of(values: pl.Series, lengths: np.ndarray, lists: pl.Series) -> pl.Series:
    """Items back in the lists that they came from; null lists stay null."""
    rows = np.repeat(np.arange(len(lists)), lengths)
    items = pl.DataFrame({"row": rows, "item": values})
    grouped = items.group_by("row", maintain_order=True).agg("item")
    all_rows = pl.DataFrame({"row": np.arange(len(lists)), "is_null": lists.is_null()})
    joined = all_rows.join(grouped, on="row", how="left", maintain_order="left")
    empty = pl.lit([], dtype=pl.List(values.dtype))
    filled = pl.when("is_null").then(None).otherwise(pl.col("item").fill_null(empty))
    return joined.select(filled.alias(lists.name)).to_series()


def _encoded_lists(
    encoders: Encoders,
    names: tuple[str, ...],
    frame: pl.DataFrame,
    batch: Batch,
    *,
    change: Callable[[pl.Series, SequenceFeature], pl.Series],
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
            columns.append(change(lists, feature).alias(column))  # type: ignore[arg-type]
    return encoders.encode(frame.with_columns(columns), labels=False)


def _other_end(lists: pl.Series, feature: SequenceFeature) -> pl.Series:
    return cut(feature.model_copy(update={"keep_last": not feature.keep_last}), lists)


def _without(lists: pl.Series, *, last: bool) -> pl.Series:
    length = (lists.list.len().cast(pl.Int64) - 1).clip(0)
    frame = pl.DataFrame({"lists": lists, "length": length})
    column = pl.col("lists").list
    return frame.select(column.head("length") if last else column.tail("length")).to_series()


def _nothing(values: pl.Series) -> pl.Series:
    return pl.Series(values.name, [None] * len(values), values.dtype)


def _constant(values: pl.Series, *, value: int | str) -> pl.Series:
    dtype = pl.String if isinstance(value, str) else pl.Int64
    return pl.Series(values.name, [value] * len(values), dtype)


def _float32(values: pl.Series) -> pl.Series:
    return values.cast(pl.Float32)


def _float16(values: pl.Series) -> pl.Series:
    if is_list(values.dtype):
        return values.cast(pl.List(pl.Float32))
    with np.errstate(over="ignore"):
        rounded = values.cast(pl.Float64).to_numpy().astype(np.float16).astype(np.float64)
    return pl.Series(values.name, rounded).fill_nan(None)


def _whole(values: pl.Series) -> pl.Series:
    return values.cast(pl.Float64).fill_nan(None).cast(pl.Int64, strict=False)


def _float32_ids(values: pl.Series) -> pl.Series:
    return values.cast(pl.Float32).cast(pl.Float64).cast(pl.Int64, strict=False)


def _int32_ids(values: pl.Series) -> pl.Series:
    wrapped = values.cast(pl.Int64).fill_null(0).to_numpy().astype(np.int32).astype(np.int64)
    return pl.select(
        pl.when(values.is_not_null()).then(pl.Series(values.name, wrapped)).otherwise(None)
    ).to_series()


def _as_float_texts(values: pl.Series) -> pl.Series:
    numbers = values.cast(pl.Int64, strict=False)
    texts = numbers.cast(pl.Float64).cast(pl.String)
    return pl.select(pl.coalesce(texts, values.cast(pl.String))).to_series()


def _lower(values: pl.Series) -> pl.Series:
    return values.cast(pl.String).str.to_lowercase()


def _strip(values: pl.Series) -> pl.Series:
    return values.cast(pl.String).str.strip_chars()


def _reversed(values: pl.Series) -> pl.Series:
    return values.cast(pl.List(inner(values.dtype))).list.reverse()


# What columns are encoded to, changed.


def _with_ids(
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


def _mapped_as(
    mapper: Mapper, other: str, change: Callable[[pl.Series], pl.Series], values: pl.Series
) -> Tensor:
    """Rows of values of the other family: those of their hash, or 0 where a vocabulary decides."""
    if not isinstance(mapper, HashMapper) or family(values.dtype) == "null":
        return torch.zeros(len(values)).long()
    hashed = HashMapper(mapper.size, "string" if other == "string" else "int")
    return torch.from_numpy(hashed(change(values)))


def _unweighted(name: str, frame: pl.DataFrame, batch: Batch) -> Batch:
    bag = batch.bags[name]
    ones = torch.ones(len(bag.values_N))
    return replace(batch, bags={**batch.bags, name: bag._replace(weights_N=ones)})


def _with_number(
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


def _zero_inputs(encoders: Encoders, name: str, frame: pl.DataFrame, batch: Batch) -> Batch:
    dense_DB = batch.dense_DB.clone()
    dense_DB[encoders.spec.dense_rows[name]] = 0.0
    return replace(batch, dense_DB=dense_DB)


def _raw_vectors(encoders: Encoders, name: str, frame: pl.DataFrame, batch: Batch) -> Batch:
    dense_DB = batch.dense_DB.clone()
    flat = flatten(frame[name])
    rows = encoders.spec.dense_rows[name]
    values = flat.values.cast(pl.Float32).to_numpy().reshape(-1, rows.stop - rows.start)
    dense_DB[rows] = 0.0
    has_one = torch.from_numpy(flat.lengths > 0)
    dense_DB[rows, has_one] = torch.from_numpy(values.T.copy())
    return replace(batch, dense_DB=dense_DB)
