"""What is searched by default, what the command line settles, and a spec's own values."""

from __future__ import annotations

from pathlib import Path

import pytest

from recmtl import load_spec
from recmtl.config import RunConfig
from recmtl.studies.contestants import loaded_spec
from recmtl.studies.search import (
    Choices,
    Range,
    default_search,
    held_keys,
    is_own_section,
    override,
    value_of,
)
from recmtl.towers import TOWERS
from tests.studies.worlds import SPEC, write_world

SEQUENCE = "  - {name: past, type: sequence, table: item, max_len: 5}\ntasks:"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(
        tmp_path_factory.mktemp("world"), SPEC.replace("tasks:", SEQUENCE, 1), rows=8
    )


def searched(config: RunConfig) -> dict[str, Range | Choices]:
    return {key.key: key for key in default_search(config)}


def test_the_default_lies_around_the_spec(spec: Path) -> None:
    found = searched(load_spec(spec, ["train.embedding.prior=20"]))
    assert found == {
        "train.lr": Range("train.lr", 0.001, 0.1, log=True),
        "train.embedding.lr": Range("train.embedding.lr", 0.01, 1.0, log=True),
        "train.embedding.prior": Choices(
            "train.embedding.prior", (0.0, 3.0, 10.0, 20.0, 30.0, 100.0, 300.0)
        ),
        "train.embedding.init_scale": Range("train.embedding.init_scale", 0.001, 0.1, log=True),
        "tower.num_experts": Choices("tower.num_experts", (1, 2, 4)),
        "tower.expert_widths": Choices("tower.expert_widths", ([4], [8], [16])),
        "tower.dropout": Range("tower.dropout", 0.0, 0.5),
        "wide": Choices("wide", ("none", "linear", "fm", "fwfm")),
    }


@pytest.mark.parametrize("kind", [tower().kind for tower in TOWERS])
def test_every_value_of_the_default_is_one_that_the_schema_takes(spec: Path, kind: str) -> None:
    config = load_spec(spec, [f"tower={kind}"])
    keys = default_search(config)
    assert len({key.key for key in keys}) == len(keys) > 5
    for key in keys:
        assert key.holds(value_of(config, key.key)), key
        values = (key.low, key.high) if isinstance(key, Range) else key.values
        for value in values:
            changed = loaded_spec(config, [override(key.key, value)])
            assert value_of(changed, key.key) == value


def test_the_tower_under_dtrn_is_searched(spec: Path) -> None:
    config = load_spec(spec, ["tower={kind: dtrn, head: {kind: mmoe, dropout: 0.6}}"])
    assert searched(config)["tower.head.dropout"] == Range("tower.head.dropout", 0.0, 0.6)
    assert "tower.head.num_experts" in searched(config)


def test_what_cannot_take_effect_is_not_searched(tmp_path: Path) -> None:
    dense = SPEC.split("features:")[0] + "features: [{name: price, type: dense}]\n"
    rest = SPEC[SPEC.index("tasks:") :].replace("num_experts: 2", "num_experts: 1")
    found = searched(load_spec(write_world(tmp_path, dense + rest, rows=8)))
    assert not [key for key in found if key.startswith("train.embedding")]
    assert found["wide"] == Choices("wide", ("none", "linear"))  # one field has no pairs
    assert found["tower.num_experts"] == Choices("tower.num_experts", (1, 2))


def test_an_override_settles_its_key_and_the_sections_around_it(spec: Path) -> None:
    keys = default_search(load_spec(spec))
    assert held_keys(keys, ["tower=ple", "train.epochs=2"]) == {}
    assert held_keys(keys, ["wide.kind=fm"]) == {"wide": "wide.kind=fm"}
    several = ["tower={kind: mmoe, dropout: 0.1}", "train.embedding={lr: 0.1, prior: 0.0}"]
    assert held_keys(keys, several) == {
        "tower.dropout": several[0],
        "train.embedding.lr": several[1],
        "train.embedding.prior": several[1],
    }


def test_own_values_are_read_as_a_spec_shows_them(spec: Path) -> None:
    config = load_spec(spec, ["wide=fm"])
    assert value_of(config, "wide") == "fm"
    assert value_of(config, "tower.expert_widths") == [8]
    assert value_of(config, "features.item.dim") == 4
    assert value_of(config, "tasks.cvr.weight") == 1.0
    assert value_of(config, "tower.num_levels") is None
    assert value_of(config, "features.none.dim") is None
    assert is_own_section(config, "tower", "mmoe")
    assert not is_own_section(config, "tower", "ple")
    assert not is_own_section(config, "wide", "fm")  # it says nothing but its kind


def test_whole_and_four_digits_and_ends() -> None:
    assert Range("a", 1, 9, is_whole=True).settled(3) == 3
    assert Range("a", 1.00001, 2.0).settled(1.000012) == 1.00001
    assert Range("a", 0.0, 1.99999).settled(1.999989) == 1.99999
    assert not Range("a", 0, 1).holds(True)
    assert not Range("a", 0, 1).holds("0.5")
    assert not Choices("a", (0, 1)).holds(False)
    assert Choices("a", ("x", None)).holds(None)
