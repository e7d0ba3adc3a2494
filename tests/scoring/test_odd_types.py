"""Columns of odd types: kept as they are in scores, and named exactly as segments."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from recmtl.errors import DataError
from recmtl.scoring import evaluate, score

NOON = datetime(2024, 1, 1, 12)
VALUES: dict[str, tuple[pl.Series, list[str]]] = {
    "dates": (pl.Series([NOON.date(), None]), ["2024-01-01", "null"]),
    "instants": (
        pl.Series([NOON, NOON + timedelta(microseconds=1)]).dt.replace_time_zone("Asia/Tokyo"),
        ["2024-01-01 12:00:00+09:00", "2024-01-01 12:00:00.000001+09:00"],
    ),
    "nanoseconds": (
        pl.Series([1, 2]).cast(pl.Datetime("ns")),
        ["1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000002"],
    ),
    "times": (pl.Series([1, 2]).cast(pl.Time), ["00:00:00.000000001", "00:00:00.000000002"]),
    "durations": (pl.Series([1, 60_000]).cast(pl.Duration("ms")), ["PT0.001S", "PT1M"]),
    "decimals": (pl.Series(["10.50", None]).cast(pl.Decimal(30, 2)), ["10.50", "null"]),
    "large integers": (
        pl.Series([2**53, 2**53 + 1]),
        ["9007199254740992", "9007199254740993"],
    ),
    "flags": (pl.Series([True, None]), ["True", "null"]),
    "categories": (pl.Series(["b", None], dtype=pl.Categorical), ["b", "null"]),
    "enums": (pl.Series(["b", "a"], dtype=pl.Enum(["b", "a"])), ["a", "b"]),
    "nothing": (pl.Series([None, None]), ["null"]),
}
UNNAMED: dict[str, pl.Series] = {
    "lists": pl.Series([[1], []], dtype=pl.List(pl.Int64)),
    "fields": pl.Series([{"a": 1}, {"a": None}]),
    "bytes": pl.Series([b"\x00", None]),
}


@pytest.fixture(scope="module")
def rows(funnel: Path) -> pl.DataFrame:
    """Twice as many rows as a value has, with a column for each type."""
    rows = pl.read_parquet(funnel / "test.parquet")
    every_other = pl.Series(range(len(rows))) % 2
    odd = {name: values for name, (values, _) in VALUES.items()} | UNNAMED
    return rows.with_columns(values.gather(every_other).alias(name) for name, values in odd.items())


def test_segments_have_exact_names(run: Path, rows: pl.DataFrame, tmp_path: Path) -> None:
    rows.write_parquet(tmp_path / "log.parquet")
    for name, (_, expected) in VALUES.items():
        found = evaluate(run, tmp_path / "log.parquet", by=name)["segments"][name]
        assert sorted(found) == sorted(expected), name
        assert sum(metrics["ctr"]["n"] for metrics in found.values()) == len(rows)
    frame = evaluate(run, rows, by="decimals")["segments"]
    assert frame == evaluate(run, tmp_path / "log.parquet", by="decimals")["segments"]


@pytest.mark.parametrize("name", UNNAMED)
def test_what_cannot_be_a_segment(run: Path, rows: pl.DataFrame, tmp_path: Path, name: str) -> None:
    rows.write_parquet(tmp_path / "log.parquet")
    words = rf"`{name}` \(`data.segments`\) is .*, it must be a value"
    with pytest.raises(DataError, match=words):
        evaluate(run, tmp_path / "log.parquet", by=name)
    with pytest.raises(DataError, match="groups and segments are single values"):
        evaluate(run, rows, by=name)


def test_kept_columns_keep_type_and_value(run: Path, rows: pl.DataFrame, tmp_path: Path) -> None:
    half = len(rows) // 2
    (tmp_path / "log").mkdir()
    rows[:half].write_parquet(tmp_path / "log" / "a.parquet")
    rows[half:].with_columns(pl.col("instants").dt.convert_time_zone("UTC")).write_parquet(
        tmp_path / "log" / "b.parquet"
    )
    odd = [*VALUES, *UNNAMED]
    score(run, tmp_path / "log", tmp_path / "out", keep=odd)
    found = pl.read_parquet(tmp_path / "out" / "*.parquet").select(odd)
    expected = rows.select(odd).with_columns(
        pl.col("categories", "enums").cast(pl.String),
        pl.col("instants").dt.convert_time_zone("UTC"),  # one zone for files of two
    )
    assert found.schema == expected.schema
    assert found.equals(expected)
