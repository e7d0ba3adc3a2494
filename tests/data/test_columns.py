from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recmtl.data.columns import needed_columns
from recmtl.data.scan import Log, check_columns, open_log
from recmtl.errors import DataError
from tests.data.strategies import SCHEMA, make_spec


def test_needed_columns_come_once() -> None:
    spec = make_spec(weight="weight", group_by="user")
    features = ["user", "city", "item", "brand", "age", "tags", "history", "oldest"]
    features += ["look", "price", "gap", "text"]
    assert needed_columns(spec, labels=False) == [*features, "tag_weights"]
    labels = ["click", "buy", "dwell_s", "weight"]
    assert needed_columns(spec, labels=True) == [*features, "tag_weights", *labels]


def log_of(tmp_path: Path, **columns: pl.DataType) -> Log:
    schema = {**SCHEMA, **columns}
    frame = pl.DataFrame({name: pl.Series([None], dtype=t) for name, t in schema.items() if t})
    frame.write_parquet(tmp_path / "log.parquet")
    return open_log(tmp_path / "log.parquet")


def test_columns_that_fit(tmp_path: Path) -> None:
    check_columns(log_of(tmp_path), make_spec(weight="weight", group_by="user"), labels=True)
    schema = {"click": None, "weight": None}
    check_columns(log_of(tmp_path, **schema), make_spec(weight="weight"), labels=False)
    nothing = {"history": pl.Null, "tags": pl.Null, "text": pl.Null}  # in a log to be scored
    check_columns(log_of(tmp_path, **nothing), make_spec(), labels=False)


@pytest.mark.parametrize(
    ("column", "dtype", "words"),
    [
        ("history", pl.Null, r"`history` is Null, the spec says sequence \(a list\)"),
        ("price", pl.String, r"`price` is String, the spec says dense \(Float32\)"),
        ("price", pl.List(pl.Float32), r"`price` is List\(Float32\), the spec says dense"),
        ("user", pl.Float64, "`user` is Float64, but ids are integers or strings"),
        ("user", pl.Date, "`user` is Date, but ids are integers, strings or categories"),
        ("age", pl.String, "`age` is String, but buckets need numbers"),
        ("history", pl.Int64, r"`history` is Int64, the spec says sequence \(a list\)"),
        ("history", pl.List(pl.String), "it shares the table of `item`, which is Int64"),
        ("history", pl.List(pl.List(pl.Int64)), "a list of lists"),
        ("tags", pl.String, "only lists can have `weights`"),
        ("tag_weights", pl.List(pl.String), "`tag_weights` is .* weights are a list of numbers"),
        ("tag_weights", pl.Float64, "`tag_weights` is .* weights are a list of numbers"),
        ("tag_weights", None, r"`tag_weights` \(weights of feature `tags`\) is missing"),
        ("brand", None, r"`brand` \(feature `brand`\) is missing"),
        ("click", pl.String, r"`click` \(label of task `ctr`\) is String, it must be a number"),
        ("click", None, r"`click` \(label of task `ctr`\) is missing"),
        ("weight", pl.String, r"`weight` \(`data.weight`\) is String, it must be a number"),
    ],
)
def test_columns_that_do_not_fit(
    tmp_path: Path, column: str, dtype: pl.DataType, words: str
) -> None:
    spec = make_spec(weight="weight", group_by="city", segments=["age"])
    with pytest.raises(DataError, match=words):
        check_columns(log_of(tmp_path, **{column: dtype}), spec, labels=True)


def test_all_columns_in_one_error(tmp_path: Path) -> None:
    log = log_of(tmp_path, price=pl.String, user=pl.Float64, click=None)
    with pytest.raises(DataError, match=r"log\.parquet: column") as caught:
        check_columns(log, make_spec(group_by="who", segments=["wher"]), labels=True)
    # `click` is asked for by three tasks, and told once.
    assert len(str(caught.value).splitlines()) == 2 + 1 + 2
