"""Whatever is wrong with a spec, the answer is a SpecError that says where."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl.config import RunConfig
from recmtl.errors import SpecError
from recmtl.spec import parse_yaml

RIGHT = {
    "name": "shop",
    "data": {
        "train": "a",
        "valid": {"fraction": 0.1, "by": "u"},
        "weight": "w",
        "group_by": "u",
        "segments": ["os"],
        "keep": ["u"],
        "accept_leaks": ["u"],
    },
    "features": [
        {"name": "u", "type": "sparse", "vocab": {"min_count": 2}, "dim": 16},
        {"name": "i", "type": "sparse", "buckets": [1.0, 2.0], "dim": 16, "weights": "iw"},
        {"name": "h", "type": "sequence", "table": "i", "max_len": 5, "target": "u"},
        {
            "name": "g",
            "type": "sequence",
            "hash": 9,
            "dim": 4,
            "max_len": 5,
            "behaviour": "history",
        },
        {"name": "p", "type": "dense", "fill": 0.0},
        {"name": "v", "type": "vector", "dim": 8, "normalize": "standard"},
    ],
    "tasks": [
        {"name": "ctr", "label": "click"},
        {"name": "cvr", "label": "buy", "given": "click"},
        {"name": "both", "label": "buy", "product_of": ["ctr", "cvr"]},
        {"name": "dwell", "label": "s", "kind": "regression"},
    ],
    "tower": {"kind": "mmoe", "expert_widths": [8]},
    "objective": {"kind": "entire_space"},
    "train": {
        "batch_size": 64,
        "streams": 8,
        "monitor": "cvr/gauc",
        "patience": 1,
        "precision": "32-true",
        "sharding": {"i": "row_wise"},
        "loggers": ["csv"],
        "embedding": {"lr": 0.1},
    },
}

_words = st.sampled_from(
    [
        "u",
        "i",
        "ctr",
        "cvr",
        "click",
        "buy",
        "w",
        "",
        "type",
        "kind",
        "sparse",
        "ple",
        "vector",
        "a/b",
    ]
)
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 99), st.sampled_from([0.5, -1.5, 1e30]), _words
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=4,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into `data`, the root left out."""
    inside = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in inside:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


PLACES = list(places(RIGHT))


def change(data: Any, path: tuple[Any, ...], value: Any) -> None:
    """Put `value` at a path, or take the key away with `...`; paths that are gone are left."""
    for key in path[:-1]:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(data, dict) and value is ...:
        data.pop(path[-1], None)
    elif isinstance(data, dict) or (isinstance(data, list) and path[-1] in range(len(data))):
        data[path[-1]] = None if value is ... else value


def read(text: str, overrides: list[str]) -> str:
    """The whole error, or nothing."""
    try:
        parse_yaml(RunConfig, text, source="x.yaml", overrides=overrides)
    except SpecError as error:
        return str(error)
    return ""


def test_the_right_one_is_right() -> None:
    assert read(json.dumps(RIGHT), []) == ""


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.just(...) | _values), max_size=4))
def test_any_changes(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    data = json.loads(json.dumps(RIGHT))
    for path, value in changes:
        change(data, path, value)
    for line in filter(None, read(json.dumps(data, indent=1), []).split("\n")):
        assert re.match(r"x\.yaml:\d+: .+[.?]$", line)
        assert "is wrong" not in line  # a message that was not translated
        assert "pydantic" not in line


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(PLACES), _values), max_size=3))
def test_any_overrides(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    overrides = [f"{'.'.join(map(str, path))}={json.dumps(value)}" for path, value in changes]
    for line in filter(None, read(json.dumps(RIGHT), overrides).split("\n")):
        assert re.match(r"(x\.yaml:\d+|override `.*`): .+[.?]$", line)
