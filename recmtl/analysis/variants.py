"""Other ways in which a server may have read a feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recmtl.analysis.features import FeatureGroup, feature_groups
from recmtl.analysis.rereading import (
    ListFeature,
    hashed_as,
    with_ids,
    with_lists,
    with_number,
    with_raw_vectors,
    with_values,
    with_zeros,
    without_weights,
)
from recmtl.batch import Batch
from recmtl.data import Encoders
from recmtl.data.dense import DenseScale, read_dense
from recmtl.data.lists import cut
from recmtl.data.mappers import BucketMapper, HashMapper, Mapper, VocabMapper
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
    raw = partial(with_values, encoders, name)
    if isinstance(mapper, VocabMapper):
        unknown = partial(with_ids, encoders, name, _row_0)
        yield Variant("vocabulary", "was out-of-vocabulary (row 0, as a null is)", False, unknown)
    if not isinstance(mapper, BucketMapper):
        for words, step in (("before", -1), ("after", 1)):
            beside = partial(with_ids, encoders, name, partial(_row_beside, mapper, step))
            yield Variant("vocabulary", f"had the table row {words} its own", True, beside)
    if mapper.family == "int":
        texts: dict[str, Callable[[pl.Series], pl.Series]] = {"strings": _texts}
        if isinstance(mapper, HashMapper):
            texts["strings of floats, such as '12.0'"] = _float_texts
        for words, text in texts.items():
            strings = partial(hashed_as, mapper, "string", text)
            make = partial(with_ids, encoders, name, strings)
            yield Variant("type", f"was read as {words}", True, make)
        yield Variant("type", "was read as float32", True, partial(raw, change=_float32_ids))
        yield Variant("type", "was read as int32", True, partial(raw, change=_int32_ids))
    elif mapper.family == "string":
        yield Variant("type", "was read in lower case", True, partial(raw, change=_lower))
        yield Variant("type", "was read without spaces around", True, partial(raw, change=_strip))
        integers = partial(with_ids, encoders, name, partial(hashed_as, mapper, "int", _integers))
        yield Variant("type", "was read as integers", True, integers)
        floats = partial(raw, change=_float_texts)
        yield Variant("type", "was read as strings of floats, such as '12.0'", True, floats)
    else:
        yield Variant("type", "was read as float32", True, partial(raw, change=_float32))
        yield Variant("type", "was read as an integer", True, partial(raw, change=_whole))
    if feature.nulls == "oov" and not isinstance(mapper, VocabMapper):
        yield Variant("default", "was null", False, partial(raw, change=_nothing))
    for value in _TEXTS if mapper.family == "string" else _NUMBERS:
        change = partial(_constant, value=value)
        yield Variant("default", f"was {value!r}", False, partial(raw, change=change))
    if isinstance(feature, SparseFeature) and feature.weights is not None:
        yield Variant("default", "had weights of 1", True, partial(without_weights, name))


def _of_numbers(encoders: Encoders, feature: DenseFeature) -> Iterator[Variant]:
    name = feature.name
    raw = partial(with_values, encoders, name)
    plain = feature.model_copy(update={"transform": "none"})
    number = partial(with_number, encoders)
    scale = encoders.scales[name]
    has_scale = scale != DenseScale()
    if feature.transform != "none" and has_scale:
        words = f"was neither transformed ({feature.transform}) nor normalised"
        yield Variant("transform", words, True, partial(number, feature=plain, scale=DenseScale()))
    if feature.transform != "none":
        words = f"was not transformed ({feature.transform})"
        yield Variant("transform", words, True, partial(number, feature=plain, scale=scale))
        twice = partial(raw, change=partial(_transformed, feature=feature))
        yield Variant("transform", f"was transformed twice ({feature.transform})", True, twice)
    if has_scale:
        words = f"was not normalised ({feature.normalize})"
        bare = partial(number, feature=feature, scale=DenseScale())
        yield Variant("transform", words, True, bare)
        words = f"was normalised twice ({feature.normalize})"
        both = DenseScale(scale.shift * (1 + scale.scale), scale.scale**2)
        yield Variant("transform", words, True, partial(number, feature=feature, scale=both))
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
        zero = partial(with_zeros, encoders, name)
        yield Variant("default", "was 0 after normalisation", False, zero)
    yield Variant("type", "was read as float32", True, partial(raw, change=_float32))
    yield Variant("type", "was read as float16", True, partial(raw, change=_float16))
    yield Variant("type", "was read as an integer", True, partial(raw, change=_whole))


def _of_vectors(encoders: Encoders, name: str) -> Iterator[Variant]:
    raw = partial(with_values, encoders, name)
    (vector,) = (v for v in encoders.spec.vectors if v.name == name)
    if vector.normalize != "none":
        words = f"was not normalised ({vector.normalize})"
        yield Variant("transform", words, True, partial(with_raw_vectors, encoders, name))
    yield Variant("default", "was zeros", False, partial(with_zeros, encoders, name))
    yield Variant("type", "was read as float16", True, partial(raw, change=_float16))


def _of_lists(encoders: Encoders, group: FeatureGroup) -> Iterator[Variant]:
    raw = partial(with_lists, encoders, group.members)
    sequences = {f.name: f for f in encoders.spec.sequences}
    longest = max((sequences[m].max_len for m in group.members if m in sequences), default=0)
    yield Variant("default", "was empty", False, partial(raw, change=partial(_first, length=0)))
    if longest:
        words = "first" if sequences[group.members[0]].keep_last else "last"
        other = partial(raw, change=_other_end)
        yield Variant("list", f"was cut to the {words} items", True, other)
        yield Variant("list", "was cut, then reversed", True, partial(raw, change=_cut_reversed))
    yield Variant("list", "was in reverse order", True, partial(raw, change=_reversed))
    yield Variant("list", "lacked its last item", True, partial(raw, change=_without_last))
    yield Variant("list", "lacked its first item", True, partial(raw, change=_without_first))
    for length in _LENGTHS:
        if not longest or length < longest:
            last = partial(raw, change=partial(_last, length=length))
            first = partial(raw, change=partial(_first, length=length))
            yield Variant("list", f"was cut to its last {length}", True, last)
            yield Variant("list", f"was cut to its first {length}", True, first)


def _first(lists: pl.Series, feature: ListFeature, *, length: int) -> pl.Series:
    return lists.list.head(length)


def _last(lists: pl.Series, feature: ListFeature, *, length: int) -> pl.Series:
    return lists.list.tail(length)


def _reversed(lists: pl.Series, feature: ListFeature) -> pl.Series:
    return lists.list.reverse()


def _cut_reversed(lists: pl.Series, feature: ListFeature) -> pl.Series:
    assert isinstance(feature, SequenceFeature)
    return cut(feature, lists).list.reverse()


def _other_end(lists: pl.Series, feature: ListFeature) -> pl.Series:
    assert isinstance(feature, SequenceFeature)
    return cut(feature.model_copy(update={"keep_last": not feature.keep_last}), lists)


def _without_last(lists: pl.Series, feature: ListFeature) -> pl.Series:
    return _shorter(lists).select(pl.col("lists").list.head("length")).to_series()


def _without_first(lists: pl.Series, feature: ListFeature) -> pl.Series:
    return _shorter(lists).select(pl.col("lists").list.tail("length")).to_series()


def _shorter(lists: pl.Series) -> pl.DataFrame:
    """Lists beside lengths that are less by one."""
    length = (lists.list.len().cast(pl.Int64) - 1).clip(0)
    return pl.DataFrame({"lists": lists, "length": length})


def _row_0(values: pl.Series) -> Tensor:
    return torch.zeros(len(values), dtype=torch.int64)


def _row_beside(mapper: Mapper, step: int, values: pl.Series) -> Tensor:
    """Rows off by one, as of a server that leaves no row 0 or two; row 0 stays."""
    row_N = torch.from_numpy(mapper(values))
    return torch.where(row_N > 0, (row_N + step).clamp(0, mapper.rows - 1), 0)


def _nothing(values: pl.Series) -> pl.Series:
    return pl.Series(values.name, [None] * len(values), values.dtype)


def _constant(values: pl.Series, *, value: int | str) -> pl.Series:
    dtype = pl.String if isinstance(value, str) else pl.Int64
    return pl.Series(values.name, [value] * len(values), dtype)


def _transformed(values: pl.Series, *, feature: DenseFeature) -> pl.Series:
    return pl.Series(values.name, read_dense(feature, values).values)


def _float32(values: pl.Series) -> pl.Series:
    return values.cast(pl.Float32)


def _float16(values: pl.Series) -> pl.Series:
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


def _texts(values: pl.Series) -> pl.Series:
    return values.cast(pl.String)


def _integers(values: pl.Series) -> pl.Series:
    return values.cast(pl.Int64, strict=False)


def _float_texts(values: pl.Series) -> pl.Series:
    texts = _integers(values).cast(pl.Float64).cast(pl.String)
    return pl.select(pl.coalesce(texts, values.cast(pl.String))).to_series()


def _lower(values: pl.Series) -> pl.Series:
    return values.cast(pl.String).str.to_lowercase()


def _strip(values: pl.Series) -> pl.Series:
    return values.cast(pl.String).str.strip_chars()
