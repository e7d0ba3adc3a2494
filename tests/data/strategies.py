"""Hypothesis strategies for frames, and the spec that fits them."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
from hypothesis import strategies as st

from recmtl.spec import Spec

FEATURES: list[dict[str, Any]] = [
    {"name": "user", "type": "sparse", "vocab": {"min_count": 2}, "dim": 4},
    {"name": "city", "type": "sparse", "vocab": {}, "dim": 4},
    {"name": "item", "type": "sparse", "hash": 50, "dim": 4},
    {"name": "brand", "type": "sparse", "hash": 50, "dim": 4},
    {"name": "age", "type": "sparse", "buckets": [18, 30.5, 60], "dim": 4},
    {"name": "tags", "type": "sparse", "vocab": {}, "dim": 4, "weights": "tag_weights"},
    {"name": "history", "type": "sequence", "table": "item", "max_len": 3},
    {
        "name": "oldest",
        "type": "sequence",
        "behaviour": "early",
        "hash": 9,
        "dim": 4,
        "max_len": 2,
        "keep_last": False,
    },
    {"name": "look", "type": "vector", "dim": 3},
    {"name": "price", "type": "dense", "transform": "log1p", "fill": 1.5},
    {"name": "gap", "type": "dense", "transform": "signed_log1p", "normalize": "minmax"},
    {"name": "text", "type": "vector", "dim": 2, "normalize": "standard"},
]
TASKS: list[dict[str, Any]] = [
    {"name": "ctr", "label": "click"},
    {"name": "cvr", "label": "buy", "given": "click"},
    {"name": "dwell", "label": "dwell_s", "kind": "regression", "given": "click"},
]
SCHEMA = {
    "user": pl.Int64,
    "city": pl.String,
    "item": pl.Int64,
    "brand": pl.String,
    "age": pl.Float64,
    "tags": pl.List(pl.String),
    "tag_weights": pl.List(pl.Float64),
    "history": pl.List(pl.Int64),
    "oldest": pl.List(pl.Int64),
    "look": pl.List(pl.Float32),
    "price": pl.Float64,
    "gap": pl.Float64,
    "text": pl.List(pl.Float64),
    "click": pl.Int8,
    "buy": pl.Int8,
    "dwell_s": pl.Float64,
    "weight": pl.Float64,
}

_INTS = (
    st.none()
    | st.sampled_from([0, 1, -1, 2**24 + 1, 2**53 + 1, 2**63 - 1, -(2**63)])
    | st.integers(-9, 9)
)
_WORDS = st.none() | st.sampled_from(["", "a", "b", "ß", "a longer string than a view holds"])
_NUMBERS = st.none() | st.floats(-1e6, 1e6) | st.sampled_from([float("nan"), float("inf"), 0.0])
_COMPONENTS = st.floats(-1e3, 1e3, width=32) | st.just(0.0)
_BITS = st.none() | st.sampled_from([0, 1])


def make_spec(
    features: list[dict[str, Any]] | None = None,
    tasks: list[dict[str, Any]] | None = None,
    **data: Any,
) -> Spec:
    """A spec of these features and tasks (default: the ones above)."""
    content = {
        "name": "test",
        "data": {"train": "train.parquet", **data},
        "features": FEATURES if features is None else features,
        "tasks": TASKS if tasks is None else tasks,
    }
    return Spec.model_validate_json(json.dumps(content))


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """One row of a log in the columns of `SCHEMA`."""
    tags = draw(st.none() | st.lists(_WORDS, max_size=4))
    click = draw(_BITS)
    price = draw(_NUMBERS)
    return {
        "user": draw(_INTS),
        "city": draw(_WORDS),
        "item": draw(_INTS),
        "brand": draw(_WORDS),
        "age": draw(st.none() | st.sampled_from([float("nan"), 17.0, 18.0, 30.5, 99.0, -1e300])),
        "tags": tags,
        "tag_weights": None if tags is None else [draw(st.floats(-2, 2, width=32)) for _ in tags],
        "history": draw(st.none() | st.lists(_INTS, max_size=6)),
        "oldest": draw(st.none() | st.lists(_INTS, max_size=6)),
        "look": draw(st.none() | st.lists(_COMPONENTS, min_size=3, max_size=3)),
        "price": price if price is None else abs(price),
        "gap": draw(_NUMBERS),
        "text": draw(st.none() | st.lists(_COMPONENTS, min_size=2, max_size=2)),
        "click": click,
        "buy": 0 if click == 0 else draw(_BITS),
        "dwell_s": draw(st.none() | st.floats(-100, 100)),
        "weight": draw(st.sampled_from([0.0, 1.0, 2.5])),
    }


# Every task is observed on these rows, whatever is drawn beside them.
_ANCHOR = {"click": 1, "buy": 1, "dwell_s": 3.0, "weight": 1.0, "user": 5, "city": "a"}


@st.composite
def frames(draw: st.DrawFn, *, min_rows: int = 1, max_rows: int = 12) -> pl.DataFrame:
    """A log on which encoders can be fitted."""
    drawn = draw(st.lists(rows(), min_size=min_rows, max_size=max_rows))
    anchor = dict.fromkeys(SCHEMA) | _ANCHOR
    return pl.DataFrame([anchor, *drawn], schema=SCHEMA, orient="row")
