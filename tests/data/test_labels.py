"""Labels of tasks with several classes: read, refused, counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl._files import sha256_of
from recmtl.data import Encoders
from recmtl.errors import CheckpointError, DataError
from tests.data.strategies import make_spec
from tests.data.worlds import log_of

FEATURES = [{"name": "x", "type": "dense"}]
RATING = [
    {"name": "ctr", "label": "click"},
    {"name": "rating", "label": "stars", "kind": "multiclass", "classes": 4, "given": "click"},
]
SPEC = make_spec(FEATURES, RATING, weight="w")


def log(stars: Any, **columns: Any) -> pl.DataFrame:
    ones = dict.fromkeys(("x", "click", "w"), [1] * len(stars))
    return pl.DataFrame({**ones, "stars": stars, **columns})


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(0, 3), st.sampled_from([0, 1, None]), st.sampled_from([0, 1, 3])
        ),
        max_size=12,
    ),
    st.sampled_from([pl.Int8, pl.UInt64, pl.Float32, pl.Float64, pl.Int64]),
)
def test_shares_equal_a_plain_loop(rows: list[tuple[Any, Any, int]], dtype: Any) -> None:
    rows = [(2, 1, 1), *rows]  # one that is observed
    stars, click, weights = zip(*rows, strict=True)
    frame = log(pl.Series(stars, dtype=dtype), click=click, w=weights)
    encoders = Encoders.fit(SPEC, train=log_of(frame))
    seen = [(s, w) for s, c, w in rows if s is not None and c == 1 and w > 0]
    total = sum(w for _, w in seen)
    shares = [max(sum(w for s, w in seen if s == c) / total, 0.5 / len(seen)) for c in range(4)]
    expected = [share / sum(shares) for share in shares]
    assert encoders.base_rates["rating"] == pytest.approx(expected)
    assert encoders.populations["rating"] == (len(seen), sum(s > 0 for s, _ in seen))
    labels = encoders.encode(frame, labels=True).labels_BK[:, 1].tolist()
    for label, star in zip(labels, stars, strict=True):
        assert (label != label) if star is None else label == star


def test_shares_survive_saving(tmp_path: Path) -> None:
    encoders = Encoders.fit(SPEC, train=log_of(log([0, 3, 3, None])))
    encoders.save(tmp_path / "encoders")
    loaded = Encoders.load(tmp_path / "encoders")
    assert loaded.base_rates == encoders.base_rates
    assert isinstance(loaded.base_rates["rating"], tuple)
    assert loaded.spec == encoders.spec


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.5, 0.5, 0.5, 0.5], 0.5, [1.5, -0.5, 0.0, 0.0]])
def test_shares_that_cannot_be_are_corrupt(shares: Any, tmp_path: Path) -> None:
    folder = tmp_path / "encoders"
    Encoders.fit(SPEC, train=log_of(log([0, 3]))).save(folder)
    state = json.loads((folder / "encoders.json").read_text())
    state["base_rates"]["rating"] = shares
    (folder / "encoders.json").write_text(json.dumps(state))
    sums = json.loads((folder / "files.json").read_text())
    sums["encoders.json"] = sha256_of(folder / "encoders.json")
    (folder / "files.json").write_text(json.dumps(sums))
    with pytest.raises(CheckpointError, match=r"encoders\.json: .*base_rates"):
        Encoders.load(folder)


@pytest.mark.parametrize(
    ("stars", "count", "examples"),
    [
        ([0, 4, 5, 1, None], 2, "4, 5"),
        ([-1, 2, 3], 1, "-1"),
        ([0.5, 1.0, 2.5], 2, "0.5, 2.5"),
        ([float("inf"), 1.0], 1, "inf"),
        (pl.Series([2**63, 0], dtype=pl.UInt64), 1, "9.22337e+18"),
    ],
)
def test_what_is_no_class_is_refused_with_examples(stars: Any, count: int, examples: str) -> None:
    match = (
        rf"column `stars`: {count} labels are no class from 0 to 3 \(for example "
        rf"{examples.replace('+', '[+]')}\)\. Number the classes from 0 on, or raise `classes`\."
    )
    with pytest.raises(DataError, match=match):
        Encoders.fit(SPEC, train=log_of(log(stars)))
    encoders = Encoders.fit(SPEC, train=log_of(log([0, 1])))
    with pytest.raises(DataError, match=match):
        encoders.encode(log(stars), labels=True)


def test_nan_and_text_are_no_classes() -> None:
    with pytest.raises(DataError, match=r"column `stars`: 1 labels are NaN\. Write null"):
        Encoders.fit(SPEC, train=log_of(log([float("nan"), 1.0])))
    with pytest.raises(DataError, match=r"`stars` \(label of task `rating`\) is String"):
        Encoders.fit(SPEC, train=log_of(log(["good", "bad"])))


def test_the_narrower_of_two_tasks_on_one_column_decides() -> None:
    wide = {"name": "wide", "label": "stars", "kind": "multiclass", "classes": 9}
    number = {"name": "mean", "label": "stars", "kind": "regression"}
    spec = make_spec(FEATURES, [wide, *RATING, number])
    with pytest.raises(DataError, match="1 labels are no class from 0 to 3"):
        Encoders.fit(spec, train=log_of(log([8, 1])))
    encoders = Encoders.fit(spec, train=log_of(log([3, 1, 1])))
    assert np.shape(encoders.base_rates["wide"]) == (9,)
    assert encoders.label_scales["mean"][0] == pytest.approx(5 / 3)
