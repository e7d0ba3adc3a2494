"""Which columns a spec needs, and whether a table has them in a type that can be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import polars as pl

from recmtl._checks import suggest
from recmtl.data.dtypes import family, inner, is_list, is_list_of_numbers
from recmtl.data.values import is_value
from recmtl.spec import DenseFeature, Feature, SequenceFeature, SparseFeature, Spec, VectorFeature

__all__ = ["column_problems", "needed_columns"]


class _Need(NamedTuple):
    column: str
    role: str


def needed_columns(spec: Spec, *, labels: bool) -> list[str]:
    """Columns that encoding reads, each once.

    Features and weights of bags; with `labels` also labels and the sample weight.
    """
    columns = [f.name for f in spec.features]
    columns += [f.weights for f in spec.sparse if f.weights is not None]
    if labels:
        columns += spec.labels
        columns += [] if spec.data.weight is None else [spec.data.weight]
    return list(dict.fromkeys(columns))


def column_problems(
    where: str,
    schema: Mapping[str, pl.DataType],
    spec: Spec,
    *,
    labels: bool,
    why: Callable[[str, str], list[str]] | None = None,
) -> list[str]:
    """One sentence for each column that is missing or of a type that cannot be used.

    Args:
        where: what has the columns, for messages.
        schema: the columns.
        spec: what is needed.
        labels: also labels, conditions, sample weight, group and segments.
        why: says why a column is missing that is needed in some role.
    """
    problems: list[str] = []
    missing = why or (
        lambda column, role: [
            f"{where}: column `{column}` ({role}) is missing.{suggest(column, schema)}"
        ]
    )

    def lacking(need: _Need) -> list[str]:
        return [] if need.column in schema else missing(need.column, need.role)

    for feature in spec.features:
        problems += lacking(_Need(feature.name, f"feature `{feature.name}`"))
        if feature.name in schema:
            problems += _feature_problems(where, schema, feature, spec, labels=labels)
        if isinstance(feature, SparseFeature) and feature.weights is not None:
            problems += lacking(_Need(feature.weights, f"weights of feature `{feature.name}`"))
    if labels:
        needs = _label_needs(spec)
        first_roles = {need.column: need for need, _ in reversed(needs)}
        for need in reversed(first_roles.values()):
            problems += lacking(need)
        for need, kinds in needs:
            if need.column in schema:
                problems += _type_problems(where, need, schema[need.column], kinds)
    return list(dict.fromkeys(problems))


def _feature_problems(
    where: str,
    schema: Mapping[str, pl.DataType],
    feature: Feature,
    spec: Spec,
    *,
    labels: bool,
) -> list[str]:
    dtype = schema[feature.name]
    column = f"{where}: column `{feature.name}` is {dtype}"
    if isinstance(feature, DenseFeature):
        if is_list(dtype) or family(dtype) not in ("int", "float", "null"):
            remedy = (
                "Write it as a number, such as seconds."
                if dtype.is_temporal()
                else "Write it as a number, or declare it sparse."
            )
            return [f"{column}, the spec says dense (Float32). {remedy}"]
        return []
    if isinstance(feature, VectorFeature):
        return _vector_problems(column, feature, dtype)
    if isinstance(dtype, pl.Null) and not labels:
        return []  # a log that is only scored may have no value at all
    if isinstance(feature, SequenceFeature) and not is_list(dtype):
        return [
            f"{column}, the spec says sequence (a list). Write it as a list column, or declare it "
            "sparse."
        ]
    problems = _id_problems(column, feature, dtype, spec)
    if isinstance(feature, SparseFeature) and feature.weights is not None:
        problems += _weights_problems(where, schema, feature)
    if not problems and feature.table not in (None, feature.name):
        problems += _sharing_problems(column, schema, feature, spec)
    return problems


def _id_problems(
    column: str, feature: SparseFeature | SequenceFeature, dtype: pl.DataType, spec: Spec
) -> list[str]:
    if is_list(inner(dtype)):
        return [f"{column}: a list of lists. Write one list of ids a row."]
    kind = family(inner(dtype))
    owner = spec.table_owner(spec.table_of(feature))
    if owner.buckets is not None:
        usable = kind in ("int", "float", "null")
        return (
            []
            if usable
            else [
                f"{column}, but buckets need numbers. Write it as a number, or use `vocab` or "
                "`hash`."
            ]
        )
    if kind == "float":
        return [
            f"{column}, but ids are integers or strings: as a float an id loses digits. Cast it to "
            "Int64 (nulls may stay), or use `buckets`."
        ]
    if kind == "other":
        remedy = "Cast it to one of them."
        if isinstance(inner(dtype), pl.Struct):
            remedy = "Write each of its fields as a column, and name these as features."
        elif inner(dtype).is_temporal():
            remedy = "Write what the model shall see of it, such as the hour or the weekday."
        return [f"{column}, but ids are integers, strings or categories. {remedy}"]
    return []


def _vector_problems(column: str, feature: VectorFeature, dtype: pl.DataType) -> list[str]:
    if isinstance(dtype, pl.Null) or is_list_of_numbers(dtype):
        return []
    return [
        f"{column}, the spec says vector (lists of {feature.dim} numbers). Write it as a list "
        "column of numbers."
    ]


def _weights_problems(
    where: str, schema: Mapping[str, pl.DataType], feature: SparseFeature
) -> list[str]:
    assert feature.weights is not None
    if not is_list(schema[feature.name]):
        return [
            f"{where}: column `{feature.name}` is {schema[feature.name]}, but only lists can have "
            "`weights` "
            f"(`{feature.weights}`). Remove `weights`, or write it as a list column."
        ]
    problems = []
    dtype = schema.get(feature.weights)
    if dtype is not None and not is_list_of_numbers(dtype):
        problems.append(
            f"{where}: column `{feature.weights}` is {dtype}, but weights are a list of numbers."
        )
    return problems


def _sharing_problems(
    column: str,
    schema: Mapping[str, pl.DataType],
    feature: SparseFeature | SequenceFeature,
    spec: Spec,
) -> list[str]:
    owner = spec.table_owner(spec.table_of(feature))
    if owner.buckets is not None or owner.name not in schema:
        return []
    kinds = {family(inner(schema[name])) for name in (feature.name, owner.name)}
    if kinds != {"int", "string"}:
        return []
    return [
        f"{column}, but it shares the table of `{owner.name}`, which is {schema[owner.name]}: "
        "integers and strings never "
        "meet in one table. Write both in one type."
    ]


def _label_needs(spec: Spec) -> list[tuple[_Need, str]]:
    needs = []
    for task in spec.tasks:
        needs.append((_Need(task.label, f"label of task `{task.name}`"), "a number"))
        if task.given is not None:
            needs.append((_Need(task.given, f"condition of task `{task.name}`"), "a number"))
    data = spec.data
    needs += [] if data.weight is None else [(_Need(data.weight, "`data.weight`"), "a number")]
    needs += [] if data.group_by is None else [(_Need(data.group_by, "`data.group_by`"), "a value")]
    return needs + [(_Need(column, "`data.segments`"), "a value") for column in data.segments]


def _type_problems(where: str, need: _Need, dtype: pl.DataType, expected: str) -> list[str]:
    numbers = family(dtype) in ("int", "float", "null")
    if not is_value(dtype) or (expected == "a number" and not numbers):
        return [f"{where}: column `{need.column}` ({need.role}) is {dtype}, it must be {expected}."]
    return []
