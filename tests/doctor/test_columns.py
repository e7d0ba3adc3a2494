"""Columns that say nothing, and validation rows that training sees."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recmtl.config import RunConfig, load_spec
from recmtl.data import open_splits
from recmtl.doctor.columns import column_findings, overlap_findings
from tests.doctor.conftest import SPEC, Shop, shop_log


@pytest.mark.parametrize(
    ("change", "feature", "fragment"),
    [
        (pl.lit(None, pl.Float64).alias("price"), "price", "null in all of 4,000 rows"),
        (pl.lit(float("nan")).alias("price"), "price", "null in all"),
        (pl.lit(2.5).alias("price"), "price", "2.5 in all of 4,000 rows"),
        (pl.lit("acme").alias("brand"), "brand", "'acme' in all"),
        (pl.lit([], pl.List(pl.Int64)).alias("history"), "history", "lists are empty"),
        (pl.lit(None, pl.List(pl.Int64)).alias("history"), "history", "lists are empty"),
        (pl.int_range(pl.len()).alias("user_id"), "user_id", "a value of its own in 100 %"),
        (
            pl.when(pl.int_range(pl.len()) % 20 == 0).then("price").alias("price"),
            "price",
            "95.0 % of its values are null; what is missing is replaced by `fill`",
        ),
        (
            pl.when(pl.int_range(pl.len()) % 20 == 0).then("brand").alias("brand"),
            "brand",
            "shares row 0",
        ),
        (pl.lit(None, pl.List(pl.Float32)).alias("look"), "look", "null in all of 4,000 rows"),
        (pl.lit([0.5] * 8).alias("look"), "look", "the same vector in all of 4,000 rows"),
        (
            pl.when(pl.int_range(pl.len()) % 20 == 0).then("look").alias("look"),
            "look",
            "95.0 % of its lists are null; what is missing becomes zeros.",
        ),
        (
            pl.lit([0.0] * 7).list.concat(pl.int_range(1, pl.len() + 1) * 1.0).alias("look"),
            "look",
            "differ by 97 times (41 to 3.96e+03 in the middle 98 % of the rows)",
        ),
    ],
)
def test_a_column_that_says_nothing_is_a_warning(
    change: pl.Expr, feature: str, fragment: str, config: RunConfig
) -> None:
    (found,) = column_findings(shop_log().with_columns(change), config)
    assert (found.severity, found.where) == ("warning", f"feature `{feature}`")
    assert fragment in found.what
    assert found.advice


def test_columns_that_say_something_are_silent(config: RunConfig, shop: Shop) -> None:
    assert column_findings(shop_log(), config) == []
    assert column_findings(shop_log(0), config) == []
    wide = pl.lit([0.0] * 7).list.concat(pl.int_range(pl.len()) * 1.0).alias("look")
    normalised = load_spec(shop(), ["features.look.normalize=l2"])
    assert column_findings(shop_log().with_columns(wide), normalised) == []
    ragged = shop_log().with_columns(look=pl.lit([0.5]))  # fitting says so
    assert column_findings(ragged, config) == []
    fixed = shop_log().with_columns(history=pl.col("history").list.to_array(4))
    assert column_findings(fixed, config) == []


def test_a_file_in_training_and_validation_is_a_warning(shop: Shop) -> None:
    spec = shop(spec=SPEC.replace("train: train.parquet", "train: '*.parquet'"))
    config = load_spec(spec)
    (found,) = overlap_findings(open_splits(config.data, spec.parent), config)
    assert found.severity == "warning"
    assert "valid.parquet" in found.what


def test_copied_rows_are_a_warning(shop: Shop) -> None:
    spec = shop(valid=pl.concat([shop_log().tail(700), shop_log(300, seed=1)]))
    config = load_spec(spec)
    (found,) = overlap_findings(open_splits(config.data, spec.parent), config)
    assert "about 70 %" in found.what


def test_copied_rows_are_estimated_from_a_sample(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmtl.doctor.leakage.SAMPLE_ROWS", 2000)
    spec = shop(valid=shop_log().sample(1500, seed=0))
    config = load_spec(spec)
    (found,) = overlap_findings(open_splits(config.data, spec.parent), config)
    share = int(found.what.split()[1])
    assert 80 <= share <= 100


def test_other_rows_are_silent(shop: Shop, tmp_path: Path) -> None:
    spec = shop()
    config = load_spec(spec)
    assert overlap_findings(open_splits(config.data, tmp_path), config) == []
    few_values = shop_log().select(
        *(pl.lit(1).alias(c) for c in ("user_id", "item_id")),
        "brand",
        *(pl.lit([1]).alias(c) for c in ("tags", "tag_weights", "history")),
        pl.lit(0.5).alias("price"),
        pl.lit([0.5] * 8).alias("look"),
        "click",
        "buy",
    )
    shop(train=few_values, valid=few_values.head(1000))  # rows repeat whatever the split
    assert overlap_findings(open_splits(config.data, tmp_path), config) == []
    by_key = load_spec(spec, ["data.valid={fraction: 0.2, by: user_id}"])
    shop()
    assert overlap_findings(open_splits(by_key.data, tmp_path), by_key) == []
    alone = load_spec(spec, ["data.valid=null", "train.monitor=null"])
    assert overlap_findings(open_splits(alone.data, tmp_path), alone) == []
