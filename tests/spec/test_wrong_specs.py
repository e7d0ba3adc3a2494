"""Every kind of wrong spec: what is changed in a right one, and all that the error then says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recmtl.config import RunConfig
from recmtl.errors import SpecError
from recmtl.spec import parse_yaml

RIGHT = """\
name: shop
data:
  train: train.parquet
  valid: valid.parquet
  weight: w
features:
  - {name: user_id, type: sparse, vocab: {min_count: 2}, dim: 16}
  - {name: item_id, type: sparse, hash: 1_000, dim: 16}
  - {name: history, type: sequence, table: item_id, max_len: 50}
  - {name: price, type: dense}
tasks:
  - {name: ctr, label: click}
  - {name: cvr, label: buy, given: click}
  - {name: ctcvr, label: buy, product_of: [ctr, cvr]}
tower: {kind: mmoe, num_experts: 8}
train:
  {lr: 0.001, monitor: cvr/auc, embedding: {lr: 0.05}}
"""


def read_cases() -> Iterator[tuple[str, str, list[str]]]:
    """What stands in the right spec, what is written instead, and the lines of the error."""
    text = Path(__file__).with_name("wrong_specs.txt").read_text(encoding="utf-8")
    for block in text.split("\n\n"):
        if block.startswith("- "):
            there, instead, *expected = block.strip().split("\n")
            yield unescape(there[2:]), unescape(instead[2:]), expected


def unescape(text: str) -> str:
    return text.encode().decode("unicode_escape")


CASES = list(read_cases())


def test_the_right_spec_is_right() -> None:
    assert parse_yaml(RunConfig, RIGHT).name == "shop"


@pytest.mark.parametrize(("there", "instead", "expected"), CASES, ids=lambda case: case[:30])
def test_wrong_spec(there: str, instead: str, expected: list[str]) -> None:
    assert there in RIGHT
    with pytest.raises(SpecError, match=r"^shop\.yaml:\d+: ") as caught:
        parse_yaml(RunConfig, RIGHT.replace(there, instead, 1), source="shop.yaml")
    assert str(caught.value).split("\n") == [f"shop.yaml:{line}" for line in expected]
    assert caught.value.exit_code == 2


def test_all_problems_at_once() -> None:
    text = RIGHT
    changes = ["wieght: w", "hash: 0", "max_len: 50, keep_last: 1", "given: ctr", "warmup: 100"]
    chosen = [case for case in CASES if case[1] in changes]
    assert len(chosen) == len(changes)
    for there, instead, _ in chosen:
        text = text.replace(there, instead, 1)
    with pytest.raises(SpecError, match="wieght") as caught:
        parse_yaml(RunConfig, text, source="shop.yaml")
    expected = sorted((case[2][0] for case in chosen), key=lambda line: int(line.split(":")[0]))
    assert str(caught.value).split("\n") == [f"shop.yaml:{line}" for line in expected]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n", "is not a mapping of keys to values"),
        ("shop\n", "is not a mapping of keys to values"),
    ],
)
def test_no_spec_at_all(text: str, what: str) -> None:
    with pytest.raises(SpecError, match=r"^shop\.yaml:1: the file is") as caught:
        parse_yaml(RunConfig, text, source="shop.yaml")
    assert str(caught.value) == f"shop.yaml:1: the file {what}. It must have the keys of a spec."


def test_missing_sections_are_all_named() -> None:
    with pytest.raises(SpecError, match="missing key `tower`") as caught:
        parse_yaml(RunConfig, "name: shop\n", source="shop.yaml")
    missing = [line.split("`")[1] for line in str(caught.value).split("\n")]
    assert missing == ["data", "features", "tasks", "tower"]


def test_calibration_needs_validation_rows() -> None:
    text = RIGHT.replace("  valid: valid.parquet\n", "").replace("monitor: cvr/auc, ", "")
    text = text.replace("label: click}", "label: click, calibration: platt}")
    with pytest.raises(SpecError) as caught:
        parse_yaml(RunConfig, text, source="shop.yaml")
    assert str(caught.value) == (
        "shop.yaml:11: task `ctr`: `calibration` is fitted to validation rows. Write `data.valid`,"
        " or remove it."
    )
