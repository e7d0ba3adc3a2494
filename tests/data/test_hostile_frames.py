"""Whatever a log holds, it is encoded, or refused in words that name the column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing.parametric import column, dataframes

from recmtl.data import Encoders, open_splits
from recmtl.doctor import guess_spec
from recmtl.errors import DataError
from tests.data.strategies import SCHEMA, frames, make_spec
from tests.data.worlds import log_of

DTYPES: list[Any] = [
    *(pl.Int8, pl.Int64, pl.UInt64, pl.Float32, pl.Float64, pl.Boolean, pl.String, pl.Null),
    *(pl.Categorical, pl.Binary, pl.Date, pl.Time, pl.Datetime("us"), pl.Datetime("ms", "UTC")),
    *(pl.Duration("us"), pl.Decimal(10, 2), pl.Enum(["a", "b"])),
    *(pl.List(pl.Int64), pl.List(pl.String), pl.List(pl.Float64), pl.List(pl.List(pl.Int64))),
    *(pl.Array(pl.Int64, 2), pl.Struct({"a": pl.Int64}), pl.List(pl.Struct({"a": pl.String}))),
]
SPEC = make_spec()
QUICK = settings(
    max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@st.composite
def hostile(draw: st.DrawFn) -> tuple[pl.DataFrame, list[str]]:
    """A log on which all is right but one to three columns, and the names of those."""
    right = draw(frames(min_rows=2, max_rows=6))
    names = draw(st.lists(st.sampled_from(sorted(SCHEMA)), min_size=1, max_size=3, unique=True))
    drawn = draw(
        dataframes(
            [column(name, dtype=draw(st.sampled_from(DTYPES)), allow_null=True) for name in names],
            min_size=right.height,
            max_size=right.height,
        )
    )
    return right.with_columns(drawn), names


def refused(error: DataError, names: list[str]) -> None:
    """The refusal names a column, and says something of each problem."""
    for line in str(error).splitlines():
        assert any(f"`{name}`" in line or f" by {name}" in line for name in (*names, *SCHEMA)), line
        assert len(line) < 2_000


@QUICK
@given(hostile())
def test_fitting_encodes_or_names_the_column(case: tuple[pl.DataFrame, list[str]]) -> None:
    frame, names = case
    try:
        encoders = Encoders.fit(SPEC, train=log_of(frame))
    except DataError as error:
        refused(error, names)
        return
    batch = encoders.encode(frame, labels=True)
    for f, feature in enumerate(encoders.single):
        table = SPEC.table_of(next(one for one in SPEC.sparse if one.name == feature))
        assert 0 <= int(batch.ids_FB[f].min()) <= int(batch.ids_FB[f].max())
        assert int(batch.ids_FB[f].max()) < encoders.tables[table]
    assert bool(batch.dense_DB.isfinite().all())


@QUICK
@given(frames(min_rows=2, max_rows=6), hostile())
def test_new_rows_are_encoded_or_name_the_column(
    train: pl.DataFrame, case: tuple[pl.DataFrame, list[str]]
) -> None:
    frame, names = case
    encoders = Encoders.fit(SPEC, train=log_of(train))
    try:
        batch = encoders.encode(frame, labels=False)
    except DataError as error:
        refused(error, names)
        return
    assert len(batch) == frame.height


@pytest.mark.slow
@QUICK
@given(hostile())
def test_a_spec_is_guessed_or_refused(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[pl.DataFrame, list[str]]
) -> None:
    frame, _ = case
    folder: Path = tmp_path_factory.mktemp("log")
    frame.write_parquet(folder / "log.parquet")
    try:
        text = guess_spec(folder / "log.parquet")
    except DataError:
        return
    assert "features:" in text


@QUICK
@given(hostile(), st.sampled_from(["fraction", "last"]), st.sampled_from(sorted(SCHEMA)))
def test_a_split_is_made_or_names_the_column(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[pl.DataFrame, list[str]],
    kind: str,
    by: str,
) -> None:
    frame, _ = case
    folder = tmp_path_factory.mktemp("log")
    frame.write_parquet(folder / "train.parquet")
    spec = make_spec(valid={kind: 0.5, "by": by})
    try:
        splits = open_splits(spec.data, folder)
    except DataError as error:
        refused(error, [by])
        return
    assert splits.valid is not None
    assert splits.train.num_rows + splits.valid.num_rows == frame.height
