"""State of loops and callbacks as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recmtl.errors import CheckpointError
from recmtl.training.state import from_json, to_json

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
KEYS = st.text(max_size=5) | st.integers()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_reads_back_what_was_written(value: object) -> None:
    text = json.dumps(to_json(value, where="x"), allow_nan=False)
    assert from_json(json.loads(text)) == value


def test_keeps_nan_paths_and_tensors() -> None:
    state = {
        "nan": math.nan,
        "path": Path("a/b"),
        "best": torch.tensor([[1.5, math.inf]], dtype=torch.float64),
    }
    back = from_json(json.loads(json.dumps(to_json(state, where="x"), allow_nan=False)))
    assert math.isnan(back["nan"])
    assert back["path"] == Path("a/b")
    assert back["best"].dtype == torch.float64
    assert torch.equal(back["best"], state["best"])


def test_refuses_what_would_need_a_pickle() -> None:
    with pytest.raises(CheckpointError, match=r"callback `Mine`: its state holds a `function`"):
        to_json({"f": lambda: None}, where="callback `Mine`")


def test_refuses_large_tensors() -> None:
    with pytest.raises(CheckpointError, match=r"a float32 tensor of 20,000 values"):
        to_json([torch.zeros(20_000)], where="callback `Mine`")
