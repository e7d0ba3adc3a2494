from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from recmtl.data.split import Splits, open_splits
from recmtl.errors import DataError
from recmtl.spec import DataSpec
from tests.data import plain_encoding as plain

SALT = plain.splitmix64(0x53504C4954)


def write(folder: Path, frame: pl.DataFrame) -> None:
    half = frame.height // 2
    (folder / "log").mkdir()
    frame[:half].write_parquet(folder / "log" / "a.parquet", row_group_size=7)
    frame[half:].write_parquet(folder / "log" / "b.parquet", row_group_size=100)


def split(folder: Path, valid: object) -> Splits:
    import json

    return open_splits(
        DataSpec.model_validate_json(json.dumps({"train": "log", "valid": valid})), folder
    )


def ids(splits: Splits) -> tuple[list[int], list[int]]:
    assert splits.valid is not None
    parts = []
    for log in splits:
        numbers = log.read(["row"], 0, log.num_rows)["row"].to_list()
        assert log.lazy(["row"]).collect()["row"].to_list() == numbers
        parts.append(numbers)
    return parts[0], parts[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = 400
    users = [None if i % 50 == 0 else (i * i) % 97 - 40 for i in range(rows)]
    frame = pl.DataFrame(
        {
            "row": range(rows),
            "user": users,
            "name": [None if u is None else f"user {u}" for u in users],
            "ts": [(i * 7919) % rows // 2 for i in range(rows)],
            "when": [
                datetime(2024, 1, 1) + timedelta(hours=(i * 7919) % rows) for i in range(rows)
            ],
            "gap": [None if i == 3 else 0.5 for i in range(rows)],
        }
    )
    write(tmp_path, frame)
    frame[:9].write_parquet(tmp_path / "valid.parquet")
    return tmp_path


def test_no_validation(folder: Path) -> None:
    splits = split(folder, None)
    assert splits.valid is None
    assert splits.train.num_rows == 400


def test_by_file(folder: Path) -> None:
    train, valid = ids(split(folder, "valid.parquet"))
    assert (len(train), valid) == (400, list(range(9)))


def test_by_key_goes_by_a_stable_hash(folder: Path) -> None:
    train, valid = ids(split(folder, {"fraction": 0.3, "by": "user"}))
    frame = pl.read_parquet(folder / "log" / "*.parquet")
    expected = []
    for row, user in zip(frame["row"], frame["user"], strict=True):
        if user is not None:
            first = plain.splitmix64(user % 2**64)
            if plain.splitmix64(first ^ SALT) < math.floor(0.3 * 2**64):
                expected.append(row)
    assert valid == expected
    assert sorted(train + valid) == list(range(400))
    assert 0.1 < len(valid) / 400 < 0.5


def test_by_string_key_keeps_keys_together(folder: Path) -> None:
    splits = split(folder, {"fraction": 0.3, "by": "name"})
    train, valid = (log.lazy(["name"]).collect()["name"] for log in splits if log is not None)
    assert not set(train.drop_nulls()) & set(valid)
    assert train.null_count() == 8
    assert len(train) + len(valid) == 400


def test_by_time_keeps_ties_together(folder: Path) -> None:
    frame = pl.read_parquet(folder / "log" / "*.parquet")
    train, valid = ids(split(folder, {"last": 0.1, "by": "ts"}))
    border = sorted(frame["ts"], reverse=True)[40 - 1]
    assert valid == [r for r, t in zip(frame["row"], frame["ts"], strict=True) if t >= border]
    assert len(valid) == 40
    assert sorted(train + valid) == list(range(400))
    # 41 rows would cut a pair of equal times: both of them validate.
    assert len(ids(split(folder, {"last": 41 / 400, "by": "ts"}))[1]) == 42


def test_by_datetime(folder: Path) -> None:
    train, valid = ids(split(folder, {"last": 0.25, "by": "when"}))
    frame = pl.read_parquet(folder / "log" / "*.parquet").sort("when")
    assert sorted(valid) == sorted(frame["row"][300:])
    assert len(train) == 300


def test_parts_have_fingerprints_of_their_own(folder: Path) -> None:
    a = split(folder, {"last": 0.25, "by": "when"})
    b = split(folder, {"last": 0.5, "by": "when"})
    assert a.valid is not None
    assert len({a.train.fingerprint, a.valid.fingerprint, b.train.fingerprint}) == 3


@pytest.mark.parametrize(
    ("valid", "words"),
    [
        ({"last": 0.1, "by": "tss"}, r"column `tss` of `data.valid` is missing. Did you mean `ts`"),
        ({"last": 0.1, "by": "name"}, "is String, but a time is a number, a date or a datetime"),
        ({"last": 0.1, "by": "gap"}, "has 1 rows without a time"),
        ({"fraction": 0.1, "by": "gap"}, "is Float64, but a key is an integer or a string"),
        ({"fraction": 1e-9, "by": "user"}, "leaves no row for validation"),
        ({"last": 0.999, "by": "ts"}, "leaves no row for training"),
        ("nowhere", "there is no such file or folder"),
    ],
)
def test_splits_that_cannot_be(folder: Path, valid: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        split(folder, valid)
