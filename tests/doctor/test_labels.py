"""What labels say about tasks, against numbers counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recmtl.config import RunConfig, load_spec
from recmtl.data import open_log
from recmtl.doctor.labels import (
    LabelCount,
    count_labels,
    label_findings,
    product_findings,
    valid_findings,
)
from tests.doctor.conftest import SPEC, Shop, shop_log

DWELL = SPEC.replace(
    "tower:", "  - {name: dwell, label: dwell_s, kind: regression, given: click}\ntower:"
)


def counts_of(frame: pl.DataFrame, config: RunConfig, folder: Path) -> dict[str, LabelCount]:
    frame.write_parquet(folder / "labels.parquet")
    return count_labels(open_log(folder / "labels.parquet"), config)


def test_labels_are_counted_as_by_hand(shop: Shop, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "click": [1, 1, 1, 0, 0, 0, None],
            "buy": [1, 0, None, 0, 1, None, 1],
            "dwell_s": [2.0, 4.0, float("nan"), 9.0, None, 9.0, 9.0],
        }
    )
    counts = counts_of(frame, load_spec(shop(spec=DWELL)), tmp_path)
    assert counts["ctr"][:2] == (6, 3)
    assert counts["cvr"][:2] == (2, 1)
    assert counts["cvr"].impossible == 1
    assert counts["ctcvr"][:2] == (5, 3)
    assert (counts["ctcvr"].silent, counts["ctcvr"].unconditional) == (1, 3)
    assert counts["dwell"] == LabelCount(2, 2, 3.0, 1.0, 0, 0, 0)
    assert counts["ctr"].smaller_class == 3


def test_rare_and_missing_classes_are_warnings(shop: Shop, tmp_path: Path) -> None:
    config = load_spec(shop(spec=DWELL))
    frame = shop_log().with_columns(
        buy=pl.when(pl.int_range(pl.len()) < 100).then("buy").otherwise(0), dwell_s=pl.lit(3.0)
    )
    ctr, cvr, ctcvr, dwell = label_findings(config, counts_of(frame, config, tmp_path))
    rows, clicks = frame.height, int(frame["click"].sum())
    assert ctr.severity == "info"
    assert f"{clicks:,} positives in {rows:,} observed rows" in ctr.what
    assert [cvr.severity, ctcvr.severity, dwell.severity] == ["warning"] * 3
    assert "small" in cvr.advice
    assert "is 3" in dwell.what
    (one_class, *_) = label_findings(
        config, counts_of(frame.with_columns(click=pl.lit(1)), config, tmp_path)
    )
    assert "one class" in one_class.advice
    varied = frame.with_columns(dwell_s=pl.Series(np.arange(rows)))
    *_, dwell = label_findings(config, counts_of(varied, config, tmp_path))
    assert (dwell.severity, "standard deviation" in dwell.what) == ("info", True)


NULL_WITHOUT_CLICK = pl.when(pl.col("click") == 1).then("buy").alias("buy")


def test_a_product_that_only_clicked_rows_would_train_is_an_error(
    shop: Shop, tmp_path: Path
) -> None:
    config = load_spec(shop(), ["objective=entire_space"])
    counts = counts_of(shop_log().with_columns(NULL_WITHOUT_CLICK), config, tmp_path)
    (found,) = product_findings(config, counts)
    assert (found.severity, found.exit_code, found.where) == ("error", 3, "task `ctcvr`")
    assert "100 %" in found.what
    assert "Write 0 into `buy` where `click` is 0" in found.advice


def test_a_product_that_only_clicked_rows_would_judge_is_a_warning(
    shop: Shop, tmp_path: Path
) -> None:
    config = load_spec(shop())
    counts = counts_of(shop_log().with_columns(NULL_WITHOUT_CLICK), config, tmp_path)
    (found,) = product_findings(config, counts)
    assert (found.severity, found.exit_code) == ("warning", 0)
    half = pl.when(pl.int_range(pl.len()) % 2 == 0).then("buy").alias("buy")  # not matured yet
    entire = load_spec(shop(), ["objective=entire_space"])
    counts = counts_of(shop_log().with_columns(half), entire, tmp_path)
    assert [found.severity for found in product_findings(entire, counts)] == ["warning"]
    assert product_findings(config, counts_of(shop_log(), config, tmp_path)) == []


@pytest.mark.parametrize(
    ("change", "task", "fragment", "advice"),
    [
        (pl.lit(0, pl.Int8).alias("click"), "ctr", "not defined", "`train.monitor: ctr/auc`"),
        ((pl.int_range(pl.len()) < 9).cast(pl.Int8).alias("click"), "ctr", "noise", "monitor"),
        (pl.lit(1, pl.Int8).alias("buy"), "cvr", "although `click` is 0", "Repair"),
        ((pl.int_range(pl.len()) % 20 == 0).alias("click"), "ctr", "5 % of the", "sampled down"),
    ],
)
def test_validation_labels_that_mislead_are_warnings(
    change: pl.Expr, task: str, fragment: str, advice: str, config: RunConfig, tmp_path: Path
) -> None:
    train = counts_of(shop_log(), config, tmp_path)
    valid = counts_of(shop_log(1000, seed=1).with_columns(change), config, tmp_path)
    found = [f for f in valid_findings(config, train, valid) if f"`{task}`" in f.where]
    assert found[0].severity == "warning"
    assert fragment in found[0].what
    assert advice in found[0].advice


def test_validation_labels_like_those_of_training_are_silent(shop: Shop, tmp_path: Path) -> None:
    config = load_spec(shop(spec=DWELL))
    train, valid = (shop_log(n, seed=n).with_columns(dwell_s=1.0) for n in (4000, 1000))
    first, second = (counts_of(frame, config, tmp_path) for frame in (train, valid))
    assert valid_findings(config, first, second) == []
    few = counts_of(valid.head(30), config, tmp_path)
    assert any("dwell" in f.where and "noise" in f.what for f in valid_findings(config, first, few))


STARS = SPEC.replace(
    "tower:",
    "  - {name: rating, label: stars, kind: multiclass, classes: 3, given: click}\ntower:",
)


def stars(frame: pl.DataFrame, *values: int | None) -> pl.DataFrame:
    """The frame with these stars, again and again, on the rows with a click; 2 on the others."""
    number = pl.int_range(pl.len()).over("click") % len(values)
    labels = pl.Series(values, dtype=pl.Int8)
    given = number.map_batches(lambda n: labels.gather(n), return_dtype=pl.Int8)
    return frame.with_columns(stars=pl.when(pl.col("click") == 1).then(given).otherwise(2))


def test_rows_of_classes_are_counted_where_observed(shop: Shop, tmp_path: Path) -> None:
    config = load_spec(shop(spec=STARS))
    frame = stars(shop_log(), 0, 1, 1, None)
    counts = counts_of(frame, config, tmp_path)["rating"]
    seen = frame.filter(pl.col("click") == 1)["stars"]
    assert counts.classes == tuple(int((seen == c).sum()) for c in range(3))
    assert counts.rows == sum(counts.classes) == len(seen) - seen.null_count()
    odd = frame.with_columns(stars=pl.when(pl.col("click") == 1).then(7.5))
    assert counts_of(odd, config, tmp_path)["rating"].classes == (0, 0, 0)
    assert counts_of(frame, config, tmp_path)["ctr"].classes == ()


@pytest.mark.parametrize(
    ("values", "severity", "fragment", "advice"),
    [
        ((0, 1, 2), "info", "observed rows in 3 classes, from 33", None),
        ((0, 1), "warning", "1 of 3 classes never come in", "numbered from 0 on"),
        ((1, 1), "warning", "observed rows is 1.", "nothing to learn"),
        ((0, 2, *[1] * 30), "warning", "in 3 classes, from 3", "can hardly be learned"),
    ],
)
def test_classes_that_cannot_be_learned_are_warnings(
    values: tuple[int, ...],
    severity: str,
    fragment: str,
    advice: str | None,
    shop: Shop,
    tmp_path: Path,
) -> None:
    config = load_spec(shop(spec=STARS))
    *_, found = label_findings(config, counts_of(stars(shop_log(), *values), config, tmp_path))
    assert (found.severity, found.where) == (severity, "task `rating`")
    assert fragment in found.what
    assert (advice or "") in (found.advice or "")


def test_classes_that_drift_are_warnings(shop: Shop, tmp_path: Path) -> None:
    config = load_spec(shop(spec=STARS))
    train = counts_of(stars(shop_log(), 0, 1), config, tmp_path)
    valid = counts_of(stars(shop_log(1000, seed=1), 0, 1, 1, 1, 2), config, tmp_path)
    (found,) = valid_findings(config, train, valid)
    assert found.where == "task `rating`, validation"
    assert "% are class 0 (50 % in training), " in found.what
    assert "% are class 2 (0 % in training)." in found.what
    same = counts_of(stars(shop_log(1000, seed=1), 0, 1), config, tmp_path)
    assert valid_findings(config, train, same) == []
    few = counts_of(stars(shop_log(30, seed=1), 0, 1), config, tmp_path)
    noisy = [f for f in valid_findings(config, train, few) if "rating" in f.where]
    assert ["noise" in f.what for f in noisy] == [True]
