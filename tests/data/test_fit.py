from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recmtl.data import Encoders, fit
from recmtl.errors import DataError
from tests.data import plain_encoding as plain
from tests.data.strategies import make_spec
from tests.data.worlds import log_of

CTR = [{"name": "ctr", "label": "click"}]
BAGS = pl.List(pl.UInt64)


def fit_one(values: Any, feature: dict[str, Any], **data: Any) -> Encoders:
    series = pl.Series("x", values)
    frame = pl.DataFrame({"x": series, "click": np.arange(len(series)) % 2})
    return Encoders.fit(make_spec([{"name": "x", **feature}], CTR, **data), train=log_of(frame))


def test_many_pieces_fit_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "user": rng.zipf(1.5, 20_000) % 3000,
            "price": rng.lognormal(size=20_000),
            "age": rng.normal(size=20_000),
            "look": rng.normal(size=(20_000, 3)) * [1.0, 5.0, 0.1] + [9.0, 0.0, 1.0],
            "click": rng.integers(0, 2, 20_000),
        }
    )
    features = [
        {"name": "user", "type": "sparse", "vocab": {"min_count": 2}, "dim": 4},
        {"name": "age", "type": "sparse", "buckets": 8, "dim": 4},
        {"name": "price", "type": "dense"},
        {"name": "look", "type": "vector", "dim": 3, "normalize": "standard"},
    ]
    log = log_of(frame, group_rows=3000)
    many = Encoders.fit(make_spec(features, CTR), train=log)
    monkeypatch.setattr(fit, "_FIRST_ROWS", 1 << 20)
    one = Encoders.fit(make_spec(features, CTR), train=log)
    assert one.tables == many.tables
    vocab = plain.vocabulary([[u] for u in frame["user"]], 2)
    assert many.tables["user"] == len(vocab) + 1
    first, second = (e.encode(frame, labels=True) for e in (one, many))
    assert first.ids_FB.equal(second.ids_FB)
    np.testing.assert_allclose(first.dense_DB, second.dense_DB, rtol=1e-6)
    for first_B in first.dense_DB:
        assert first_B.mean().abs() < 1e-5
        assert abs(float(first_B.std()) - 1) < 1e-4


def test_quantile_buckets_are_equally_full() -> None:
    encoders = fit_one(
        np.random.default_rng(0).normal(size=4000), {"type": "sparse", "buckets": 8, "dim": 4}
    )
    frame = pl.DataFrame({"x": np.random.default_rng(0).normal(size=4000)})
    ids = encoders.encode(frame, labels=False).ids_FB[0]
    assert ids.bincount(minlength=9).tolist() == [0, *[500] * 8]


def test_quantiles_of_a_large_log_come_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SAMPLE_ROWS", 2000)
    values = np.sort(np.random.default_rng(0).normal(size=20_000))
    feature = {"type": "sparse", "buckets": 4, "dim": 4}
    encoders, again = fit_one(values, feature), fit_one(values, feature)
    frame = pl.DataFrame({"x": values})
    ids = encoders.encode(frame, labels=False).ids_FB[0]
    assert ids.equal(again.encode(frame, labels=False).ids_FB[0])
    shares = ids.bincount(minlength=5)[1:] / len(ids)
    assert ((shares - 0.25).abs() < 0.05).all()
    assert not (shares == 0.25).all()


def test_min_count_counts_rows_not_items() -> None:
    encoders = fit_one(
        [[7, 7, 7], [8], [8]], {"type": "sparse", "vocab": {"min_count": 2}, "dim": 4}
    )
    assert encoders.tables == {"x": 2}
    batch = encoders.encode(pl.DataFrame({"x": [[7, 8]]}), labels=False)
    assert batch.bags["x"].values_N.tolist() == [0, 1]


def test_items_that_are_cut_off_are_not_fitted() -> None:
    feature = {"type": "sequence", "vocab": {}, "dim": 4, "max_len": 1}
    assert fit_one([[1, 2], [3, 2]], feature).tables == {"x": 2}
    assert fit_one([[1, 2], [3, 2]], {**feature, "keep_last": False}).tables == {"x": 3}


def test_a_shared_table_is_fitted_on_its_owner_alone() -> None:
    features = [
        {"name": "item", "type": "sparse", "vocab": {}, "dim": 4},
        {"name": "seen", "type": "sequence", "table": "item", "max_len": 9},
    ]
    frame = pl.DataFrame({"item": [1, 2], "seen": [[1, 2, 3], None], "click": [0, 1]})
    encoders = Encoders.fit(make_spec(features, CTR), train=log_of(frame))
    assert encoders.tables == {"item": 3}
    batch = encoders.encode(frame, labels=False)
    assert batch.sequences["seen"].values_N.tolist() == [1, 2, 0]


def test_vocabulary_beyond_the_budget_names_the_feature() -> None:
    features = [
        {"name": "small", "type": "sparse", "vocab": {}, "dim": 4},
        {"name": "huge", "type": "sparse", "vocab": {}, "dim": 4},
    ]
    rows = 30_000
    frame = pl.DataFrame(
        {"small": [i % 5 for i in range(rows)], "huge": range(rows), "click": [0, 1] * (rows // 2)}
    )
    spec = make_spec(features, CTR, memory="256KiB")
    match = r"feature `huge`: [\d,]+ different ids in [\d,]+ of 30,000 rows .* Use `hash` instead"
    with pytest.raises(DataError, match=match):
        Encoders.fit(spec, train=log_of(frame, group_rows=10_000))


def test_problems_are_counted_over_the_whole_log() -> None:
    frame = pl.DataFrame({"x": [float(i % 3 - 1) for i in range(9000)], "click": [2, 0, 1] * 3000})
    spec = make_spec([{"name": "x", "type": "dense", "transform": "log1p"}], CTR)
    with pytest.raises(DataError, match="labels") as caught:
        Encoders.fit(spec, train=log_of(frame, group_rows=5000))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "column `x`: 3,000 values are negative" in lines[0]
    assert "column `click`: 3,000 labels are neither 0, 1 nor null" in lines[1]


def test_numbers_beyond_float32_are_refused() -> None:
    frame = pl.DataFrame(
        {
            "x": [1e308, -1e308, 1.0],
            "click": [0, 1, 1],
            "s": [1e39, 2.0, 3.0],
            "w": [1.0, 1e39, 1.0],
        }
    )
    tasks = [*CTR, {"name": "stay", "label": "s", "kind": "regression"}]
    with pytest.raises(DataError, match="column `x`: 2 values are too large") as caught:
        Encoders.fit(
            make_spec([{"name": "x", "type": "dense"}], tasks, weight="w"), train=log_of(frame)
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "column `s`: 1 labels are infinite or too large" in lines[1]
    assert "column `w`: 1 sample weights are" in lines[2]
    logs = make_spec([{"name": "x", "type": "dense", "transform": "signed_log1p"}], CTR)
    assert Encoders.fit(logs, train=log_of(frame)).encode(frame, labels=True).dense_DB[0, 0] > 0


@pytest.mark.parametrize("feature", [{"hash": 9, "dim": 4}, {"vocab": {}, "dim": 4}])
def test_ids_beyond_int64_are_refused_before_training(feature: dict[str, Any]) -> None:
    for values in (pl.Series([1, 2**63], dtype=pl.UInt64), pl.Series([[1], [2**63]], dtype=BAGS)):
        with pytest.raises(DataError, match="column `x`: 1 values do not fit into Int64"):
            fit_one(values, {"type": "sparse", **feature})


def test_all_ids_beyond_int64_are_counted_beside_other_problems() -> None:
    rows = 4000
    frame = pl.DataFrame(
        {
            "x": pl.Series([2**63] * (rows - 40) + [1] * 40, dtype=pl.UInt64),
            "price": [1e300] * rows,
            "click": [0, 1] * (rows // 2),
        }
    )
    features = [
        {"name": "x", "type": "sparse", "hash": 9, "dim": 4},
        {"name": "price", "type": "dense"},
    ]
    spec = make_spec(features, CTR, memory="16MiB")
    with pytest.raises(DataError) as caught:
        Encoders.fit(spec, train=log_of(frame, group_rows=500))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "column `x`: 3,960 values do not fit into Int64" in lines[0]
    assert "column `price`: 4,000 values are too large" in lines[1]


def test_rows_of_weight_zero_observe_nothing() -> None:
    frame = pl.DataFrame({"x": [1.0] * 4, "click": [1, 0, 1, 0], "w": [0.0, 1.0, 1.0, 2.0]})
    spec = make_spec([{"name": "x", "type": "dense"}], CTR, weight="w")
    assert Encoders.fit(spec, train=log_of(frame)).populations == {"ctr": (3, 1)}


def test_conversions_without_a_click_are_refused_pitfall_T22() -> None:
    tasks = [*CTR, {"name": "cvr", "label": "buy", "given": "click"}]
    frame = pl.DataFrame({"x": [1.0] * 4, "click": [0, 1, 0, 1], "buy": [1, 1, None, 0]})
    spec = make_spec([{"name": "x", "type": "dense"}], tasks)
    match = (
        "column `buy`: 1 rows are positive although `click` is 0, but task `cvr` is given `click`"
    )
    with pytest.raises(DataError, match=match):
        Encoders.fit(spec, train=log_of(frame))


def test_a_task_that_nothing_observes() -> None:
    tasks = [*CTR, {"name": "cvr", "label": "buy", "given": "click"}]
    frame = pl.DataFrame({"x": [1.0] * 2, "click": [0, 1], "buy": [0, None]})
    spec = make_spec([{"name": "x", "type": "dense"}], tasks)
    with pytest.raises(DataError, match="task `cvr`: no training row with a weight above 0"):
        Encoders.fit(spec, train=log_of(frame))


def test_base_rates_have_logits() -> None:
    frame = pl.DataFrame({"x": [1.0] * 4, "click": [1] * 4})
    encoders = Encoders.fit(make_spec([{"name": "x", "type": "dense"}], CTR), train=log_of(frame))
    assert encoders.base_rates == {"ctr": 1 - 0.5 / 4}


def test_fits_the_training_part_of_the_spec(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": range(100), "click": [0, 1] * 50})
    frame.write_parquet(tmp_path / "train.parquet")
    features = [{"name": "x", "type": "sparse", "vocab": {}, "dim": 4}]
    spec = make_spec(features, CTR, valid={"last": 0.25, "by": "x"})
    encoders = Encoders.fit(spec, tmp_path)
    assert (encoders.num_rows, encoders.tables) == (75, {"x": 76})


def test_progress_reaches_the_end() -> None:
    seen: list[Any] = []

    class Bar:
        def advance(self, n: int = 1, **shown: object) -> None:
            seen.append(n)

    @contextmanager
    def progress(description: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        seen.append((description, total, unit))
        yield Bar()

    frame = pl.DataFrame({"x": np.zeros(9000), "click": [0, 1, 1] * 3000})
    spec = make_spec([{"name": "x", "type": "dense"}], CTR)
    Encoders.fit(spec, train=log_of(frame), progress=progress)
    assert seen[0] == ("fit encoders", 9000, "rows")
    assert sum(seen[1:]) == 9000
