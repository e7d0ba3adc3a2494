"""Training rows thinned while they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recmtl.data import open_splits
from recmtl.errors import DataError
from recmtl.spec import DataSpec

ROWS = 40_000
KEEP = {"buy": 1.0, "click": 0.5, "else": 0.1}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files; labels are null now and then, and one of them is a boolean."""
    folder = tmp_path_factory.mktemp("log")
    rng = np.random.default_rng(0)
    click = rng.random(ROWS) < 0.3
    frame = pl.DataFrame(
        {
            "row": np.arange(ROWS),
            "user": rng.integers(0, 500, ROWS),
            "click": click,
            "buy": (click & (rng.random(ROWS) < 0.2)).astype(np.int8),
        }
    ).with_columns(buy=pl.when(pl.col("row") % 50 == 0).then(None).otherwise(pl.col("buy")))
    frame[:13_001].write_parquet(folder / "a.parquet", row_group_size=5_000)
    frame[13_001:].write_parquet(folder / "b.parquet")
    return folder


def spec(**keys: object) -> DataSpec:
    return DataSpec.model_validate({"train": ".", "sample": {"keep": KEEP}, **keys})


def test_each_row_is_kept_at_the_rate_of_its_first_label_that_is_1(log: Path) -> None:
    splits = open_splits(spec(), log)
    kept = splits.train.lazy().collect()
    every = pl.read_parquet(log / "*.parquet")
    assert splits.train.left_out == ROWS - kept.height == ROWS - splits.train.num_rows
    assert kept.equals(every.filter(pl.col("row").is_in(kept["row"].implode())))
    assert splits.train.read(["row"], 0, ROWS)["row"].equals(kept["row"])
    bought, clicked = pl.col("buy").eq_missing(1), pl.col("click")
    for share, which in ((1.0, bought), (0.5, clicked & ~bought), (0.1, ~clicked)):
        total = every.filter(which).height
        spread = 4 * np.sqrt(total * share * (1 - share)) + 1e-9
        assert abs(kept.filter(which).height - share * total) <= spread


def test_the_same_rows_are_kept_each_time_and_others_with_another_seed(log: Path) -> None:
    first, again = (open_splits(spec(), log) for _ in range(2))
    other = open_splits(spec(sample={"keep": KEEP, "seed": 1}), log)
    rows = [s.train.lazy(["row"]).collect()["row"] for s in (first, again, other)]
    assert rows[0].equals(rows[1])
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    # Two draws of the rows that are kept by a rate of 0.1 have a tenth of them in common.
    plain = pl.read_parquet(log / "*.parquet").filter(~pl.col("click"))["row"]
    one, two = (set(r.filter(r.is_in(plain.implode()))) for r in (rows[0], rows[2]))
    assert len(one & two) == pytest.approx(0.1 * len(one), rel=0.25)


def test_rows_that_come_behind_change_nothing_for_those_before(log: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(log / "a.parquet")
    frame.write_parquet(tmp_path / "a.parquet")
    short = open_splits(spec(), tmp_path).train.lazy(["row"]).collect()["row"]
    whole = open_splits(spec(), log).train.lazy(["row"]).collect()["row"]
    assert whole[: len(short)].equals(short)
    assert whole[len(short)] >= frame.height


@pytest.mark.parametrize("valid", [{"fraction": 0.2, "by": "user"}, {"last": 0.2, "by": "row"}])
def test_validation_rows_that_are_split_off_are_all_there(
    log: Path, valid: dict[str, object]
) -> None:
    whole = open_splits(DataSpec.model_validate({"train": ".", "valid": valid}), log)
    splits = open_splits(spec(valid=valid), log)
    assert splits.valid is not None
    assert whole.valid is not None
    assert splits.valid.lazy().collect().equals(whole.valid.lazy().collect())
    kept, every = (s.train.lazy(["row"]).collect()["row"] for s in (splits, whole))
    assert kept.is_in(every.implode()).all()
    assert splits.train.left_out == len(every) - len(kept)
    alone = open_splits(spec(), log).train.lazy(["row"]).collect()["row"]
    assert kept.equals(alone.filter(alone.is_in(every.implode())))


def test_labels_that_are_missing_or_words_are_named(log: Path, tmp_path: Path) -> None:
    pl.DataFrame({"click": ["yes"], "x": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        open_splits(spec(), tmp_path)
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[2] for line in lines] == [
        "column `buy` (label) is missing.",
        "column `click` of `data.sample` is String, but a label is 0 or 1.",
    ]


def test_a_log_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"click": [0, 0, 0]}).write_parquet(tmp_path / "a.parquet")
    keep = {"click": 1.0, "else": 1e-6}
    with pytest.raises(DataError, match="leaves none of 3 training rows"):
        open_splits(spec(sample={"keep": keep}), tmp_path)
