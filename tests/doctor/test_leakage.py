"""Columns that give a label away are found; columns that merely predict it are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recmtl.config import RunConfig, load_spec
from recmtl.data import open_log
from recmtl.doctor.findings import Finding
from recmtl.doctor.leakage import (
    LogSample,
    _standard_error,
    find_leaks,
    read_sample,
    sampled_columns,
    sampled_rows,
)
from tests.doctor.conftest import SPEC, Shop, shop_log

CLICK = pl.col("click").cast(pl.Float64)
BUY = pl.col("buy").cast(pl.Float64)
NOISE = pl.Series(np.random.default_rng(5).random(4000))
LEAKS: dict[str, tuple[str, pl.Expr]] = {
    "the label": ("price", CLICK),
    "its opposite": ("price", 1 - CLICK),
    "a monotone transform with noise": ("price", -((CLICK * 3 + NOISE) ** 3)),
    "a copy as text": ("brand", pl.when(CLICK == 1).then(pl.lit("yes")).otherwise(pl.lit("no"))),
    "missing where clicked": ("price", pl.when(CLICK == 0).then(NOISE)),
    "missing where not clicked": ("brand", pl.when(CLICK == 1).then("brand")),
    "NaN where clicked": ("price", pl.when(CLICK == 0).then(NOISE).otherwise(float("nan"))),
    "one number among many": ("price", pl.when(BUY == 1).then(0.5).otherwise(NOISE)),
    "an order id": ("item_id", pl.when(BUY == 1).then(1000 + pl.int_range(pl.len())).otherwise(0)),
    "a band of numbers": ("price", pl.when(CLICK == 1).then(4 + NOISE).otherwise(9 * NOISE % 4)),
    "an item in a list": (
        "tags",
        pl.when(CLICK == 1).then(pl.concat_list(pl.lit(77), "user_id")).otherwise("tags"),
    ),
    "lengths of lists": (
        "tags",
        pl.when(CLICK == 1).then("tags").otherwise(pl.col("tags").list.head(1)),
    ),
    "null lists": ("history", pl.when(CLICK == 0).then("history")),
    "a history with the clicked item": (
        "history",
        pl.when(CLICK == 1).then(pl.concat_list("history", "item_id")).otherwise("history"),
    ),
    "a component of a vector": (
        "look",
        pl.concat_list(CLICK + 0.1 * NOISE, pl.col("look").arr.to_list().list.tail(7)),
    ),
    "a sum of components": (
        "look",
        pl.concat_list(NOISE + CLICK, -NOISE, pl.col("look").arr.to_list().list.tail(6)),
    ),
    "null vectors": ("look", pl.when(CLICK == 0).then("look")),
    "weights of a bag": ("tag_weights", pl.col("tag_weights").list.eval(pl.element() * 0) + CLICK),
}


def leaks(frame: pl.DataFrame, config: RunConfig) -> list[Finding]:
    return find_leaks(frame, config)


@pytest.mark.parametrize("kind", LEAKS)
def test_a_column_that_says_the_label_is_an_error_pitfall_T22(kind: str, config: RunConfig) -> None:
    column, leak = LEAKS[kind]
    frame = shop_log().with_columns(leak.alias(column))
    (found,) = leaks(frame, config)
    assert (found.severity, found.exit_code) == ("error", 3)
    assert found.where == f"column `{column}`"
    assert "task `c" in found.what
    feature = "tags" if column == "tag_weights" else column
    assert f"data.accept_leaks: [{feature}]" in found.advice


def test_a_leak_of_the_conditional_task_is_found_on_its_rows(config: RunConfig) -> None:
    chance = (NOISE < 0.3).cast(pl.Float64)
    frame = shop_log().with_columns(price=pl.when(CLICK == 1).then(BUY).otherwise(chance))
    (found,) = leaks(frame, config)
    assert found.severity == "error"
    assert "`cvr`" in found.what
    assert "`ctr`" not in found.what


def test_nearly_a_leak_is_a_warning_pitfall_T22(config: RunConfig) -> None:
    flipped = np.random.default_rng(9).random(4000) < 0.015
    frame = shop_log().with_columns(price=(CLICK - pl.Series(flipped.astype(float))).abs())
    (found,) = leaks(frame, config)
    assert (found.severity, found.exit_code) == ("warning", 0)
    assert found.advice


def test_an_accepted_leak_is_a_note(shop: Shop) -> None:
    config = load_spec(shop(spec=SPEC.replace("group_by", "accept_leaks: [price], group_by")))
    (found,) = leaks(shop_log().with_columns(price=CLICK), config)
    assert (found.severity, found.exit_code) == ("info", 0)
    assert "accept_leaks" in found.advice


def test_a_leak_of_a_regression_label_is_found(shop: Shop) -> None:
    spec = SPEC.replace("tower:", "  - {name: dwell, label: dwell_s, kind: regression}\ntower:")
    dwell = np.random.default_rng(2).exponential(size=4000)
    frame = shop_log().with_columns(dwell_s=dwell, price=-np.sqrt(dwell))
    (found,) = leaks(frame, load_spec(shop(spec=spec)))
    assert found.severity == "error"
    assert "`dwell`" in found.what
    constant = frame.with_columns(dwell_s=pl.lit(1.0))
    assert leaks(constant, load_spec(shop(spec=spec))) == []
    mostly_zero = dwell * (dwell > 2)
    frame = shop_log().with_columns(dwell_s=mostly_zero, price=mostly_zero)
    assert len(leaks(frame, load_spec(shop(spec=spec)))) == 1


@pytest.mark.parametrize("seed", range(5))
def test_few_positives_and_ids_of_one_row_raise_no_alarm(seed: int, config: RunConfig) -> None:
    rng = np.random.default_rng(seed)
    rows = 4000
    click = np.zeros(rows)
    click[rng.choice(rows, 30, replace=False)] = 1
    frame = shop_log(seed=seed).with_columns(
        user_id=pl.Series(rng.permutation(rows)),
        brand=pl.Series(rng.permutation(rows)).cast(pl.String),
        price=pl.Series(rng.normal(size=rows) + 1.5 * click),
        click=pl.Series(click.astype(np.int8)),
        buy=pl.Series((click * (rng.random(rows) < 0.5)).astype(np.int8)),
    )
    assert leaks(frame, config) == []


def test_a_strong_honest_column_raises_no_alarm(config: RunConfig) -> None:
    strong = pl.Series(np.random.default_rng(0).normal(size=4000)) + 2 * CLICK  # AUC .92
    assert leaks(shop_log().with_columns(price=strong), config) == []


def test_the_funnel_raises_no_alarm(funnel: Path) -> None:
    config = load_spec(funnel / "spec.yaml")
    log = open_log(funnel / "train.parquet")
    assert leaks(read_sample(log, sampled_columns(config)), config) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.head(15),
        lambda f: f.head(0),
        lambda f: f.with_columns(click=pl.lit(0)),
        lambda f: f.with_columns(click=pl.lit(None, pl.Int8)),
        lambda f: f.with_columns(click=pl.lit(7)),
    ],
)
def test_labels_that_cannot_be_judged_are_left_to_other_checks(
    change: Callable[[pl.DataFrame], pl.DataFrame], config: RunConfig
) -> None:
    assert leaks(change(shop_log().with_columns(price=CLICK)), config) == []


def test_the_standard_error_is_that_of_the_paper() -> None:
    """Hanley and McNeil (1982), with Q1 and Q2 of the negative exponential model."""
    value, positives, negatives = 0.9, 30, 500
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    spread = value * (1 - value) + (positives - 1) * (q1 - value**2)
    spread += (negatives - 1) * (q2 - value**2)
    expected = math.sqrt(spread / (positives * negatives))
    assert _standard_error(value, positives, negatives) == pytest.approx(expected, rel=1e-12)
    assert _standard_error(1.0, positives, negatives) == 0.0


def test_a_sample_is_spread_over_the_log(tmp_path: Path) -> None:
    pl.DataFrame({"n": np.arange(10_000)}).write_parquet(tmp_path / "log.parquet")
    log = open_log(tmp_path / "log.parquet")
    assert read_sample(log, ["n"])["n"].to_list() == list(range(10_000))
    rows = read_sample(log, ["n"], 200)["n"].to_numpy()
    assert len(set(rows)) == 200
    assert (rows.min(), rows.max()) == (0, 9_999)
    assert np.diff(rows).max() < 600


def test_a_column_that_gives_one_class_away_is_found_pitfall_T22(shop: Shop) -> None:
    rng = np.random.default_rng(5)
    stars = rng.choice(4, 4000, p=[0.1, 0.5, 0.3, 0.1])
    spec = SPEC.replace(
        "tower:", "  - {name: rating, label: stars, kind: multiclass, classes: 4}\ntower:"
    )
    frame = shop_log().with_columns(stars=stars, price=np.where(stars == 3, 1.0, -1.0))
    config = load_spec(shop(frame, frame, spec))
    (found,) = find_leaks(frame, config)
    assert (found.severity, found.exit_code, found.where) == ("error", 3, "column `price`")
    assert "it alone reaches AUC 1.0000 for class 3 of task `rating` on rows" in found.what
    equal = frame.with_columns(price=pl.Series(stars).cast(pl.Float64))
    (found,) = find_leaks(equal, config)
    assert found.what.count("AUC") == 1
    assert find_leaks(frame.with_columns(price=rng.normal(size=4000)), config) == []


@pytest.mark.parametrize("memory_bytes", [1, 1 << 20, 1 << 30])
def test_a_sample_is_the_same_in_any_budget(
    shop: Shop, config: RunConfig, memory_bytes: int
) -> None:
    log = open_log(shop().with_name("train.parquet"))
    sample = LogSample(log, config, memory_bytes)
    columns = sampled_columns(config)
    for column in (*columns, *reversed(columns)):
        expected = read_sample(log, [column], sample.height).to_series()
        assert sample[column].equals(expected)


def test_fewer_rows_of_wide_vectors_are_looked_at(shop: Shop) -> None:
    wide = load_spec(shop(), ["features.look.dim=4096", "data.memory=256MiB"])
    assert sampled_rows(wide) == (256 << 20) // (24 * 4096)
    log = open_log(shop().with_name("train.parquet"))
    assert LogSample(log, wide, 256 << 20).height == 2720  # in 20 stretches
    assert sampled_rows(load_spec(shop())) == 1 << 17
    assert sampled_rows(load_spec(shop(), ["features.look.dim=4096", "data.memory=1MiB"])) == 1000
