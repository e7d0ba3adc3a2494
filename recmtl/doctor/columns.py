"""Feature columns that say nothing, and rows that stand in training and validation alike."""

from __future__ import annotations

import polars as pl

from recmtl.data import Log, Splits
from recmtl.doctor.findings import Finding
from recmtl.doctor.leakage import read_sample, sampled_rows
from recmtl.doctor.vectors import vector_finding
from recmtl.spec import DenseFeature, Feature, SparseFeature, Spec, VectorFeature

__all__ = ["column_findings", "overlap_findings"]

_MOSTLY = 0.9
_UNIQUE, _UNIQUE_ROWS = 0.99, 1000
_REPEATED, _SELF_REPEATED = 0.5, 0.25


def column_findings(frame: pl.DataFrame, spec: Spec) -> list[Finding]:
    """Warnings on features that are null, constant, or new in each row.

    Args:
        frame: training rows.
        spec: the features.
    """
    found = (_of_feature(frame[f.name], f) for f in spec.features if frame.height)
    return [finding for finding in found if finding is not None]


def overlap_findings(splits: Splits, spec: Spec) -> list[Finding]:
    """Warnings on validation rows that training sees too: whole files, or equal rows."""
    if splits.valid is None:
        return []
    if isinstance(spec.data.valid, str):
        files = {file.resolve() for file in splits.train.files}
        both = sorted(str(file) for file in splits.valid.files if file.resolve() in files)
        if both:
            what = f"{len(both)} validation files are training files too, first {both[0]}."
            return [Finding("warning", "validation rows", what, _OVERLAP_ADVICE)]
    share = _repeated_share(splits.train, splits.valid, spec)
    if share < _REPEATED:
        return []
    what = (
        f"about {100 * min(share, 1.0):.0f} % of them are equal to a training row in every column."
    )
    return [Finding("warning", "validation rows", what, _OVERLAP_ADVICE)]


_OVERLAP_ADVICE = (
    "Metrics on them say nothing about new rows: validate on later rows, or on other users."
)


def _of_feature(column: pl.Series, feature: Feature) -> Finding | None:
    if isinstance(feature, VectorFeature):
        return vector_finding(column, feature)
    where, rows = f"feature `{feature.name}`", len(column)
    is_list = isinstance(column.dtype, pl.List | pl.Array)
    if is_list:
        lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
        column = lists.explode()
    if column.dtype.is_float():
        column = column.fill_nan(None)
    values = column.drop_nulls()
    if values.is_empty():
        nothing = "its lists are empty" if is_list else "it is null"
        return Finding("warning", where, f"{nothing} in all of {rows:,} rows.", _USELESS_ADVICE)
    missing = 1.0 - len(values) / len(column)
    num_unique = values.n_unique()
    if num_unique == 1 and not missing and not is_list:
        what = f"it is {values[0]!r} in all of {rows:,} rows."
        return Finding("warning", where, what, _USELESS_ADVICE)
    if missing >= _MOSTLY:
        rule = "is replaced by `fill`" if isinstance(feature, DenseFeature) else "shares row 0"
        what = f"{100 * missing:.1f} % of its values are null; what is missing {rule}."
        return Finding("warning", where, what, "Is the column written as it should be?")
    is_id = isinstance(feature, SparseFeature) and feature.buckets is None and not is_list
    if is_id and rows >= _UNIQUE_ROWS and num_unique >= _UNIQUE * rows:
        what = f"it has a value of its own in {100 * num_unique / rows:.0f} % of {rows:,} rows."
        advice = "An id that does not come back teaches nothing: remove it, or use `data.keep`."
        return Finding("warning", where, what, advice)
    return None


_USELESS_ADVICE = "It says nothing: remove the feature, or repair the column."


def _repeated_share(train: Log, valid: Log, spec: Spec) -> float:
    """Estimated share of validation rows that training has too; 0 where rows repeat anyway."""
    columns = [*(feature.name for feature in spec.features), *spec.labels]
    rows = sampled_rows(spec)
    first = read_sample(train, columns, rows)
    types = pl.Schema({column: first.schema[column] for column in columns})
    second = read_sample(valid, columns, rows).cast(types, strict=False)
    train_rows, valid_rows = first.hash_rows(), second.hash_rows()
    inside = 1.0 - train_rows.n_unique() / max(len(train_rows), 1)
    if inside > _SELF_REPEATED:
        return 0.0
    seen = len(train_rows) / train.num_rows
    return float(valid_rows.is_in(train_rows.implode()).mean() or 0.0) / seen  # type: ignore[arg-type]  # a mean of booleans
