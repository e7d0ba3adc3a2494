"""Columns that differ between the files of a log, and columns of odd types."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recmtl.data import Encoders, Log, check_columns, open_log, open_splits
from recmtl.data.wanted import wanted_columns
from recmtl.errors import DataError
from tests.data.strategies import make_spec

FEATURES = [
    {"name": "user", "type": "sparse", "vocab": {}, "dim": 4},
    {"name": "item", "type": "sparse", "hash": 50, "dim": 4},
    {"name": "age", "type": "sparse", "buckets": [18, 30], "dim": 4},
    {"name": "history", "type": "sequence", "table": "item", "max_len": 3},
    {"name": "price", "type": "dense"},
]
TASKS = [{"name": "ctr", "label": "click"}]
SPEC = make_spec(FEATURES, TASKS, weight="weight", segments=["city"])
BASE = pl.DataFrame(
    {
        "user": [1, 2],
        "item": [3, 4],
        "age": [20, 40],
        "history": [[3], [4, 3]],
        "price": [0.5, 1.5],
        "click": [0, 1],
        "weight": [1.0, 2.0],
        "city": ["x", "y"],
        "note": ["p", "q"],
        "ts": [1, 2],
    }
)
UTC, TOKYO = "UTC", "Asia/Tokyo"
NOON = datetime(2024, 1, 1, 12)


def of(values: Sequence[Any], dtype: Any) -> pl.Series:
    return pl.Series("", values, dtype)


def log_of(folder: Path, column: str, *parts: pl.Series) -> Log:
    """A file for each part of a column."""
    for name, part in zip("abcd", parts, strict=False):
        BASE.with_columns(part.alias(column)).write_parquet(folder / f"{name}.parquet")
    return opened(folder)


def opened(folder: Path) -> Log:
    columns = wanted_columns(SPEC, labels=True, keep=["note"])
    log = open_log(folder, columns=columns)
    check_columns(log, SPEC, labels=True)
    return log


INT = of([1, 0], pl.Int8)
BOOL = of([True, False], pl.Boolean)
WORDS = of(["m", "n"], pl.String)
MERGED = {
    "int32 and int64": ("user", of([1, 2], pl.Int32), of([3, 4], pl.Int64), [1, 2, 3, 4]),
    "int32 and uint32": ("user", of([1, 2], pl.Int32), of([3, 2**32 - 1], pl.UInt32), None),
    "int and float numbers": ("price", of([1, 2], pl.Int32), of([0.5, 0.1], pl.Float32), None),
    "bool and float labels": ("click", BOOL, of([0.0, None], pl.Float64), [1.0, 0.0, 0.0, None]),
    "bool and int8 labels": ("click", BOOL, INT, [1, 0, 1, 0]),
    "decimal numbers": (
        "price",
        of([Decimal("1.25"), None], pl.Decimal(9, 2)),
        of([Decimal("0.125"), Decimal(2)], pl.Decimal(9, 3)),
        [1.25, None, 0.125, 2.0],
    ),
    "decimal and int labels": (
        "click",
        of([Decimal(1), Decimal(0)], pl.Decimal(3, 0)),
        INT,
        [1, 0, 1, 0],
    ),
    "decimal weights and floats": (
        "weight",
        of([Decimal("0.5"), Decimal(1)], pl.Decimal(9, 1)),
        of([2.5, 0.0], pl.Float32),
        [0.5, 1.0, 2.5, 0.0],
    ),
    "decimal ids without places": (
        "user",
        of([Decimal(7), Decimal(2**60 + 1)], pl.Decimal(38, 0)),
        of([1, 2], pl.UInt16),
        [7, 2**60 + 1, 1, 2],
    ),
    "category and string": ("user", WORDS.cast(pl.Categorical), WORDS, ["m", "n", "m", "n"]),
    "enum and category": (
        "user",
        WORDS.cast(pl.Enum(["m", "n"])),
        WORDS.cast(pl.Categorical),
        ["m", "n", "m", "n"],
    ),
    "nulls and ids": ("user", of([None, None], pl.Null), of([1, 2], pl.Int16), [None, None, 1, 2]),
    "nulls and lists": (
        "history",
        of([[None], []], pl.List(pl.Null)),
        of([[1], None], pl.List(pl.Int64)),
        [[None], [], [1], None],
    ),
    "nulls and numbers": ("price", of([None, None], pl.Null), of([1, 2], pl.Int16), None),
    "arrays and lists": (
        "history",
        of([[1, 2], [3, 4]], pl.Array(pl.Int64, 2)),
        of([[5], None], pl.List(pl.Int32)),
        [[1, 2], [3, 4], [5], None],
    ),
    "kept times of two zones": (
        "note",
        of([NOON, None], pl.Datetime("ms")).dt.replace_time_zone(UTC),
        of([NOON, NOON], pl.Datetime("us")).dt.replace_time_zone(TOKYO),
        None,
    ),
    "kept bytes": ("note", of([b"\x00", None], pl.Binary), of([b"b", b""], pl.Binary), None),
    "kept fields": (
        "note",
        of([{"a": 1}, None], pl.Struct({"a": pl.Int64})),
        of([{"a": 2}, None], pl.Struct({"a": pl.Int64})),
        [{"a": 1}, None, {"a": 2}, None],
    ),
    "kept decimals": (
        "note",
        of([Decimal("1.25"), None], pl.Decimal(9, 2)),
        of([Decimal("9999.25"), None], pl.Decimal(20, 2)),
        None,
    ),
}


@pytest.mark.parametrize("case", MERGED)
def test_what_goes_together(tmp_path: Path, case: str) -> None:
    column, first, second, expected = MERGED[case]
    log = log_of(tmp_path, column, first, second)
    found = log.read([column], 0, 4)[column].to_list()
    assert found == (first.to_list() + second.to_list() if expected is None else expected)
    assert log.lazy([column]).collect()[column].to_list() == found
    assert log_of(tmp_path, column, second, first).schema == log.schema
    if not str(log.schema["note"]).startswith(("Struct", "Binary")):
        Encoders.fit(SPEC, train=log)


NAIVE = "Datetime(time_unit='us', time_zone=None)"
ZONED = "Datetime(time_unit='us', time_zone='UTC')"
ONE_TYPE = "Write it in one type."
DIGITS = "As a float an integer loses digits: write it as an integer in every file."
REFUSED = {
    "ids as integers and as floats": (
        "user",
        [of([1, 2], pl.Int64), of([1.0, None], pl.Float64)],
        f"{{b}}: column `user` is Float64, in {{a}} it is Int64. {DIGITS}",
    ),
    "lists of integers and of floats": (
        "history",
        [of([[1], []], pl.List(pl.Int64)), of([[1.0], None], pl.List(pl.Float64))],
        f"{{b}}: column `history` is List(Float64), in {{a}} it is List(Int64). {DIGITS}",
    ),
    "kept integers and floats": (
        "note",
        [of([1, 2], pl.Int64), of([1.0, None], pl.Float32)],
        f"{{b}}: column `note` is Float32, in {{a}} it is Int64. {DIGITS}",
    ),
    "integers and strings": (
        "user",
        [of([1, 2], pl.Int64), of(["1", "x"], pl.String)],
        "{b}: column `user` is String, in {a} it is Int64. Write it as integers in every file, or "
        "as strings in every file.",
    ),
    "numbers and strings": (
        "price",
        [of([1, 2], pl.Int64), of(["1", "x"], pl.String)],
        f"{{b}}: column `price` is String, in {{a}} it is Int64. {ONE_TYPE}",
    ),
    "values and lists": (
        "user",
        [of([1, 2], pl.Int64), of([[1], []], pl.List(pl.Int64))],
        f"{{b}}: column `user` is List(Int64), in {{a}} it is Int64. {ONE_TYPE}",
    ),
    "bytes and strings": (
        "note",
        [of(["a", "b"], pl.String), of([b"a", b"b"], pl.Binary)],
        f"{{b}}: column `note` is Binary, in {{a}} it is String. {ONE_TYPE}",
    ),
    "with and without a time zone": (
        "note",
        [of([NOON] * 2, pl.Datetime("us", UTC)), of([NOON] * 2, pl.Datetime("us"))],
        f"{{b}}: column `note` is {NAIVE}, in {{a}} it is {ZONED}. Write it with a time zone in "
        "every file, or in none.",
    ),
    "decimals of several places": (
        "note",
        [of([Decimal(1), None], pl.Decimal(9, 2)), of([1, 2], pl.Decimal(9, 3))],
        "{b}: column `note` is Decimal(precision=9, scale=3), in {a} it is Decimal(precision=9, "
        f"scale=2). {ONE_TYPE}",
    ),
    "dates among three files": (
        "note",
        [of([1, 2], pl.Int64), of([NOON.date()] * 2, pl.Date), of([NOON] * 2, pl.Datetime("us"))],
        f"{{b}}: column `note` is Date, in {{a}} it is Int64. {ONE_TYPE}\n"
        f"{{c}}: column `note` is {NAIVE}, in {{a}} it is Int64. {ONE_TYPE}",
    ),
}
IDS = "but ids are integers, strings or categories."
SEEN = "Write what the model shall see of it, such as the hour or the weekday."
UNUSABLE: dict[str, tuple[str, pl.Series, str]] = {
    "float ids": (
        "user",
        of([1.0, 2.0], pl.Float32),
        "column `user` is Float32, but ids are integers or strings: as a float an id loses digits. "
        "Cast it to Int64 (nulls may stay), or use `buckets`.",
    ),
    "decimal ids with places": (
        "item",
        of([Decimal(1), None], pl.Decimal(9, 2)),
        "column `item` is Decimal(precision=9, scale=2), but ids are integers or strings: as a "
        "float an id loses digits. Cast it to Int64 (nulls may stay), or use `buckets`.",
    ),
    "lists of lists": (
        "history",
        of([[[1]], []], pl.List(pl.List(pl.Int64))),
        "column `history` is List(List(Int64)): a list of lists. Write one list of ids a row.",
    ),
    "fields": (
        "user",
        of([{"a": 1}] * 2, pl.Struct({"a": pl.Int64})),
        f"column `user` is Struct({{'a': Int64}}), {IDS} Write each of its fields as a column, and "
        "name these as features.",
    ),
    "bytes": (
        "user",
        of([b"a", b"b"], pl.Binary),
        f"column `user` is Binary, {IDS} Cast it to one of them.",
    ),
    "dates": ("user", of([NOON.date()] * 2, pl.Date), f"column `user` is Date, {IDS} {SEEN}"),
    "times of day": ("user", of([time(3)] * 2, pl.Time), f"column `user` is Time, {IDS} {SEEN}"),
    "durations": (
        "price",
        of([timedelta(1)] * 2, pl.Duration("us")),
        "column `price` is Duration(time_unit='us'), the spec says dense (Float32). Write it as a "
        "number, such as seconds.",
    ),
    "instants": (
        "price",
        of([NOON] * 2, pl.Datetime("us", UTC)),
        f"column `price` is {ZONED}, the spec says dense (Float32). Write it as a number, such as "
        "seconds.",
    ),
    "dates in buckets": (
        "age",
        of([date(2024, 1, 1)] * 2, pl.Date),
        "column `age` is Date, but buckets need numbers. Write it as a number, or use `vocab` or "
        "`hash`.",
    ),
    "labels that are texts": (
        "click",
        of(["0", "1"], pl.String),
        "column `click` (label of task `ctr`) is String, it must be a number.",
    ),
    "segments that are lists": (
        "city",
        of([[1], []], pl.List(pl.Int64)),
        "column `city` (`data.segments`) is List(Int64), it must be a value.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together(tmp_path: Path, case: str) -> None:
    column, parts, message = REFUSED[case]
    with pytest.raises(DataError, match="column") as caught:
        log_of(tmp_path, column, *parts)
    places = {name: tmp_path / f"{name}.parquet" for name in "abc"}
    assert str(caught.value) == message.format(**places)


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used(tmp_path: Path, case: str) -> None:
    column, values, message = UNUSABLE[case]
    with pytest.raises(DataError, match="column") as caught:
        log_of(tmp_path, column, values)
    assert str(caught.value) == f"{tmp_path / 'a.parquet'}: {message}"


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "user",
            of([Decimal(2**63), Decimal(1)], pl.Decimal(38, 0)),
            "column `user`: 1 values do not fit into Int64. Write them as strings.",
        ),
        (
            "item",
            of([Decimal(2**63), Decimal(1)], pl.Decimal(38, 0)),
            "column `item`: 1 values do not fit into Int64. Write them as strings.",
        ),
        (
            "item",
            of([2**63, 1], pl.UInt64),
            "column `item`: 1 values do not fit into Int64. Write them as strings.",
        ),
    ],
)
def test_ids_beyond_int64(tmp_path: Path, column: str, values: pl.Series, message: str) -> None:
    log = log_of(tmp_path, column, values)
    with pytest.raises(DataError, match="Int64") as caught:
        Encoders.fit(SPEC, train=log)
    assert str(caught.value) == f"{log.name}: {message}"


def test_a_value_that_the_common_type_cannot_hold(tmp_path: Path) -> None:
    log = log_of(tmp_path, "user", of([1, 2], pl.Int8), of([2**63, 1], pl.UInt64))
    with pytest.raises(DataError, match=r"b\.parquet: conversion from `u64` to `i64` failed"):
        log.read(["user"], 0, 4)


def test_columns_that_nobody_reads_may_differ(tmp_path: Path) -> None:
    a = BASE.with_columns(extra=pl.lit("x"), odd=pl.lit(1))
    b = BASE.select(reversed(a.columns[:-2])).with_columns(odd=pl.lit("one"))
    a.write_parquet(tmp_path / "a.parquet")
    b.write_parquet(tmp_path / "b.parquet")
    log = opened(tmp_path)
    assert log.schema.names() == BASE.columns
    whole = pl.concat([BASE, BASE])
    assert log.read(BASE.columns, 0, 4).equals(whole)
    assert log.lazy().collect().equals(whole)
    problem = r"b\.parquet: column `extra` is missing, .*a\.parquet has it\."
    with pytest.raises(DataError, match=problem):
        open_log(tmp_path, columns=wanted_columns(SPEC, labels=True, keep=["extra"]))
    with pytest.raises(DataError, match=problem):
        log.read(["extra"], 0, 1)
    spec = make_spec(FEATURES, TASKS, weight="extra")
    with pytest.raises(DataError, match=problem):
        check_columns(log, spec, labels=True)


def test_a_column_that_many_files_lack(tmp_path: Path) -> None:
    BASE.write_parquet(tmp_path / "a.parquet")
    for number in range(9):
        BASE.drop("price").write_parquet(tmp_path / f"b{number}.parquet")
    with pytest.raises(DataError, match="column") as caught:
        opened(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "column `price` is missing in 4 more files."


def test_files_without_rows_are_counted_not_asked(tmp_path: Path) -> None:
    BASE.write_parquet(tmp_path / "b.parquet")
    BASE[:0].select("user").cast({"user": pl.String}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame().write_parquet(tmp_path / "c.parquet")
    (tmp_path / "_SUCCESS").write_bytes(b"")
    (tmp_path / ".part.parquet.crc").write_bytes(b"crc")
    for path in (tmp_path, tmp_path / "*"):
        log = opened(path)
        assert [file.name for file in log.empty_files] == ["a.parquet", "c.parquet"]
        assert log.schema == BASE.schema
        assert log.read(BASE.columns, 0, 9).equals(BASE)
        assert log.lazy().collect().equals(BASE)
    valid = {"fraction": 0.5, "by": "user"}
    spec = make_spec(FEATURES, TASKS, train=str(tmp_path), valid=valid)
    splits = open_splits(spec, tmp_path)
    assert splits.valid is not None
    assert splits.train.num_rows + splits.valid.num_rows == 2
    (tmp_path / "b.parquet").unlink()
    with pytest.raises(DataError, match=r": none of 2 files has rows\. Write rows to it"):
        opened(tmp_path)


def test_partitions_are_not_read(tmp_path: Path) -> None:
    for day in (1, 2):
        (tmp_path / f"city={day}").mkdir()
        BASE.drop("city").write_parquet(tmp_path / f"city={day}" / "part.parquet")
    with pytest.raises(DataError, match="column") as caught:
        opened(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/city=1/part.parquet: column `city` (`data.segments`) is missing: it is only "
        "in the name of the folder `city=1`, which is not read. Write it into the files."
    )
    for day in (1, 2):
        BASE.write_parquet(tmp_path / f"city={day}" / "part.parquet")
    assert opened(tmp_path).read(["city"], 0, 4)["city"].to_list() == ["x", "y", "x", "y"]


def test_times_are_compared_as_instants(tmp_path: Path) -> None:
    zoned = of([NOON, NOON + timedelta(hours=2)], pl.Datetime("ms"))
    log_of(
        tmp_path,
        "ts",
        zoned.dt.replace_time_zone(UTC),  # 12:00 and 14:00
        zoned.dt.replace_time_zone(TOKYO),  # 3:00 and 5:00
        zoned.cast(pl.Datetime("ns")).dt.replace_time_zone("Europe/Berlin"),  # 11:00 and 13:00
    )
    valid = {"last": 0.5, "by": "ts"}
    splits = open_splits(make_spec(FEATURES, TASKS, train=str(tmp_path), valid=valid), tmp_path)
    assert splits.valid is not None
    expected = [NOON, NOON + timedelta(hours=2), NOON + timedelta(hours=1)]
    found = splits.valid.read(["ts"], 0, 6)["ts"]
    assert found.dt.replace_time_zone(None).to_list() == expected
    assert splits.valid.lazy(["ts"]).collect()["ts"].equals(found)


def test_nanoseconds_decide(tmp_path: Path) -> None:
    log_of(tmp_path, "ts", of([7, 6], pl.Int64).cast(pl.Datetime("ns")))
    valid = {"last": 0.5, "by": "ts"}
    splits = open_splits(make_spec(FEATURES, TASKS, train=str(tmp_path), valid=valid), tmp_path)
    assert splits.valid is not None
    assert splits.valid.read(["user"], 0, 2)["user"].to_list() == [1]


def test_encodings_of_pyarrow(tmp_path: Path) -> None:
    table = BASE.to_arrow(compat_level=pl.CompatLevel.oldest())
    types = [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
    if hasattr(pa, "string_view"):
        types.append(pa.string_view())
    for number, dtype in enumerate(types):
        words = pa.array(["m", None], pa.string())
        column = words.dictionary_encode() if pa.types.is_dictionary(dtype) else words.cast(dtype)
        whole = pa.array([5, 6]).dictionary_encode()
        stamp = pa.array([1, None], pa.timestamp("us"))
        part = table.set_column(0, "user", column).set_column(1, "item", whole)
        part = part.drop_columns(["note"]).append_column("note", stamp)
        pq.write_table(
            part,
            tmp_path / f"{number}.parquet",
            use_deprecated_int96_timestamps=True,
            store_schema=number > 1,
        )
    log = opened(tmp_path)
    rows = log.read(["user", "item", "note"], 0, 99)
    assert rows["user"].to_list() == ["m", None] * len(types)
    assert rows["item"].to_list() == [5, 6] * len(types)
    assert rows["note"].dtype == pl.Datetime("ns")
    assert rows["note"][0] == datetime(1970, 1, 1, 0, 0, 0, 1)
    Encoders.fit(SPEC, train=log)
