"""As what a log's columns are to be read: a number, an id, a value to be kept, a list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple

from recmtl.spec import (
    DenseFeature,
    Feature,
    SequenceFeature,
    Spec,
    SplitByKey,
    SplitByTime,
    VectorFeature,
)

__all__ = ["Kind", "Want", "wanted_columns"]

Kind = Literal["number", "numbers", "id", "integer", "string", "list", "value", "time", "any"]
"""A number (dense features, labels, weights, what falls into buckets), or a list of them; an id of
either family; an id of a table that was fitted on integers, or on strings; a list of ids; a value
that is compared or copied; a time; anything, where no spec says what a column is."""


class Want(NamedTuple):
    """What a column is read for."""

    kind: Kind
    role: str
    """For messages."""
    table: str | None = None
    """Table of an id: its columns are read in one family."""


def wanted_columns(
    spec: Spec,
    *,
    labels: bool,
    keep: Iterable[str] = (),
    families: Mapping[str, str] | None = None,
    lists: Collection[str] = (),
) -> dict[str, Want]:
    """The columns that a spec reads.

    Args:
        spec: features, tasks and data.
        labels: also labels, conditions, sample weight, group, segments and the split's column.
        keep: further columns, to be copied.
        families: table -> "int" or "string", where encoders have been fitted.
        lists: sparse features that were fitted on lists.
    """
    found: dict[str, Want] = {}
    for feature in spec.features:
        found[feature.name] = _feature(spec, feature, families or {}, lists)
    for sparse in spec.sparse:
        if sparse.weights is not None:
            found.setdefault(sparse.weights, Want("numbers", f"weights of feature `{sparse.name}`"))
    if labels:
        for task in spec.tasks:
            found.setdefault(task.label, Want("number", f"label of task `{task.name}`"))
            if task.given is not None:
                found.setdefault(task.given, Want("number", f"condition of task `{task.name}`"))
        for column, want in _of_data(spec):
            found.setdefault(column, want)
    for column in keep:
        found.setdefault(column, Want("value", "to be kept"))
    return found


def _feature(
    spec: Spec,
    feature: Feature,
    families: Mapping[str, str],
    lists: Collection[str],
) -> Want:
    role = f"feature `{feature.name}`"
    if isinstance(feature, DenseFeature):
        return Want("number", role)
    if isinstance(feature, VectorFeature):
        return Want("numbers", role)
    table = spec.table_of(feature)
    in_buckets = spec.table_owner(table).buckets is not None
    if isinstance(feature, SequenceFeature) or feature.weights is not None or feature.name in lists:
        return Want("numbers" if in_buckets else "list", role)
    if in_buckets:
        return Want("number", role)
    kinds: dict[str | None, Kind] = {"int": "integer", "string": "string"}
    return Want(kinds.get(families.get(table), "id"), role, table)


def _of_data(spec: Spec) -> list[tuple[str, Want]]:
    data = spec.data
    found: list[tuple[str | None, Want]] = [
        (data.weight, Want("number", "`data.weight`")),
        (data.group_by, Want("value", "`data.group_by`")),
        *((column, Want("value", "`data.segments`")) for column in data.segments),
    ]
    if isinstance(data.valid, SplitByKey):
        found.append((data.valid.by, Want("value", "`data.valid`")))
    if isinstance(data.valid, SplitByTime):
        found.append((data.valid.by, Want("time", "`data.valid`")))
    return [(column, want) for column, want in found if column is not None]
