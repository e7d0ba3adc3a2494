"""TowerInput: fields, sequences and targets against numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recmtl.embeddings import PlainLookup, layout
from recmtl.errors import SpecError
from recmtl.models import TowerInputs
from recmtl.models.inputs import commonest_dim
from recmtl.spec import Spec
from tests.embeddings.world import (
    DIMS,
    ROWS,
    SPEC,
    random_rows,
    to_batch,
    world_layout,
)

ALL = frozenset({"fields", "sequences", "target"})


@pytest.fixture
def world() -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    tables = {n: torch.randn(ROWS[n], DIMS[n], generator=generator) for n in ROWS}
    batch = to_batch(random_rows(6, seed=1))
    torch.manual_seed(0)
    inputs = TowerInputs(SPEC, world_layout(), requires=ALL, field_dim=8, who="tower: `dtrn`")
    vectors = PlainLookup(world_layout(), tables)(batch)
    return SimpleNamespace(batch=batch, vectors=vectors, inputs=inputs)


def test_sizes_match_what_the_tower_gets(world: SimpleNamespace) -> None:
    dims, found = world.inputs.dims, world.inputs(world.batch, world.vectors)
    assert dims.fields == ("price", "user", "item.id", "type", "tags", "topics", "words")
    assert (dims.field_dim, dict(dims.sequences)) == (8, {"history": 4})
    assert found.x_BD.shape == (6, dims.x)
    assert found.fields_BFE.shape == (6, len(dims.fields), 8)
    sequence_BLE, lengths_B = found.sequences["history"]
    assert (sequence_BLE.shape, lengths_B.shape) == ((6, 4, 8), (6,))
    assert found.target_BE.shape == (6, 8)


def test_sequences_stay_out_of_the_vector(world: SimpleNamespace) -> None:
    found = world.inputs(world.batch, world.vectors)
    names = ("user", "item.id", "type", "tags", "topics", "words")
    expected = torch.cat([world.batch.dense_DB.T, *(world.vectors[n] for n in names)], dim=1)
    torch.testing.assert_close(found.x_BD, expected)


def test_fields_are_mapped_only_where_their_width_is_another(world: SimpleNamespace) -> None:
    fields_BFE = world.inputs(world.batch, world.vectors).fields_BFE
    price_BE = (
        world.batch.dense_DB[0].unsqueeze(1) * world.inputs.dense_weight[0]
        + world.inputs.dense_bias[0]
    )
    torch.testing.assert_close(fields_BFE[:, 0], price_BE)
    torch.testing.assert_close(fields_BFE[:, 1], world.vectors["user"])
    mapped = world.vectors["type"] @ world.inputs.maps["field_type"].weight.T
    torch.testing.assert_close(fields_BFE[:, 3], mapped)


def test_aligned_features_are_one_sequence_with_zero_padding(world: SimpleNamespace) -> None:
    sequence_BLE, lengths_B = world.inputs(world.batch, world.vectors).sequences["history"]
    aligned = torch.cat([world.vectors["history"], world.vectors["gaps"]], dim=2)
    weight = world.inputs.maps["sequence_history"].weight
    torch.testing.assert_close(sequence_BLE, aligned @ weight.T)
    for row, length in zip(sequence_BLE, lengths_B.tolist(), strict=True):
        assert not row[length:].any()


def test_target_is_the_feature_that_shares_the_table(world: SimpleNamespace) -> None:
    target_BE = world.inputs(world.batch, world.vectors).target_BE
    torch.testing.assert_close(target_BE, world.vectors["item.id"])


def test_every_map_is_trained(world: SimpleNamespace) -> None:
    found = world.inputs(world.batch, world.vectors)
    (
        found.fields_BFE.sum() + found.sequences["history"][0].sum() + found.target_BE.sum()
    ).backward()
    assert all(p.grad is not None and p.grad.any() for p in world.inputs.parameters())


def test_names_with_dots_are_fine() -> None:
    inputs = TowerInputs(
        SPEC, world_layout(), requires={"fields"}, field_dim=16, who="tower: `multitab`"
    )
    assert "field_item_2e_id" in inputs.maps


def test_commonest_width() -> None:
    assert commonest_dim(SPEC) == 8


def spec_of(*features: dict[str, Any]) -> Spec:
    tasks = ({"name": "ctr", "label": "click"},)
    data = {"train": "a.parquet"}
    return Spec.model_validate({"name": "s", "data": data, "features": features, "tasks": tasks})


def build(spec: Spec, single: tuple[str, ...], **arguments: Any) -> TowerInputs:
    tables = layout(spec, dict.fromkeys(spec.tables, 3), single, ())
    return TowerInputs(spec, tables, field_dim=4, who="tower: `dtrn`", **arguments)


USER = {"name": "user", "type": "sparse", "hash": 2, "dim": 4}
HISTORY = {"name": "history", "type": "sequence", "hash": 2, "dim": 4, "max_len": 3}


def test_missing_sequence_says_what_to_add() -> None:
    with pytest.raises(
        SpecError, match=r"`dtrn` needs a behaviour sequence\. Add a feature of `ty"
    ):
        build(spec_of(USER), ("user",), requires={"sequences", "target"})


def test_missing_target_says_what_to_add() -> None:
    with pytest.raises(SpecError, match=r"needs a target .* owns or shares the table `history`"):
        build(spec_of(USER, HISTORY), ("user",), requires={"sequences", "target"})


def test_each_behaviour_needs_a_target_of_its_own() -> None:
    clicks = HISTORY | {"target": "user"}
    other = HISTORY | {"name": "shops", "behaviour": "visit"}
    aligned = HISTORY | {"name": "gaps"}  # its behaviour has a target
    with pytest.raises(SpecError, match=r"items of behaviour `visit` .* name one as `target` of"):
        build(spec_of(USER, clicks, aligned, other), ("user",), requires={"sequences", "target"})
    build(spec_of(USER, clicks, aligned), ("user",), requires={"sequences", "target"})


def test_a_target_holds_no_lists() -> None:
    spec = spec_of(USER, HISTORY | {"target": "user"})
    tables = layout(spec, dict.fromkeys(spec.tables, 3), (), ("user",))
    with pytest.raises(SpecError, match="`target` of `history` must be single-valued"):
        TowerInputs(spec, tables, field_dim=4, who="", requires={"sequences", "target"})


def test_a_target_that_is_named_is_taken() -> None:
    spec = spec_of(USER, HISTORY | {"target": "user"})
    inputs = build(spec, ("user",), requires={"sequences", "target"})
    assert dict(inputs.dims.sequences) == {"history": 3}


def test_missing_fields_and_unknown_requirements_are_all_named() -> None:
    expected = r"`dtrn` needs fields\..*\n.*`dtrn` requires `task_x`, which a spec cannot give yet"
    with pytest.raises(SpecError, match=expected):
        build(spec_of(HISTORY), (), requires={"fields", "sequences", "task_x"})


def test_attention_brings_sequences_into_the_vector_and_the_fields(world: SimpleNamespace) -> None:
    torch.manual_seed(1)
    plain = TowerInputs(SPEC, world_layout(), requires=set(), field_dim=8, who="")
    attends = TowerInputs(SPEC, world_layout(), requires=set(), field_dim=8, who="", attends=True)
    (x_BD, mean_BD) = (part(world.batch, world.vectors) for part in (attends, plain))
    assert attends.dims == x_BD.shape[1]
    assert (plain.is_plain, attends.is_plain) == (True, False)
    lengths_B = world.batch.sequences["history"].lengths_B
    items_BLE = torch.cat([world.vectors["history"], world.vectors["gaps"]], dim=2)
    mapped_BLE = attends.maps["sequence_history"](items_BLE)
    target_BE = world.vectors["item.id"]  # as wide as a field
    (expected_BE,) = attends.attention({"history": (mapped_BLE, lengths_B)}, target_BE)
    torch.testing.assert_close(x_BD[:, -8:], expected_BE)
    assert mean_BD.shape[1] - (x_BD.shape[1] - 8) == items_BLE.shape[2]
    both = TowerInputs(SPEC, world_layout(), requires={"fields"}, field_dim=8, who="", attends=True)
    found = both(world.batch, world.vectors)
    assert both.fields[-1] == "history"
    assert found.sequences is None
    torch.testing.assert_close(found.x_BD[:, -8:], found.fields_BFE[:, -1])


def test_a_sequences_mean_is_a_field_too(world: SimpleNamespace) -> None:
    inputs = TowerInputs(SPEC, world_layout(), requires={"fields"}, field_dim=8, who="")
    found = inputs(world.batch, world.vectors)
    assert "history" in inputs.fields
    sequence_BLE, lengths_B = world.vectors["history"], world.batch.sequences["history"].lengths_B
    pairs = zip(sequence_BLE, lengths_B.tolist(), strict=True)
    expected = torch.stack([items[:n].sum(0) / max(n, 1) for items, n in pairs])
    torch.testing.assert_close(found.fields_BFE[:, inputs.fields.index("history")], expected)


def test_attention_needs_a_sequence() -> None:
    with pytest.raises(SpecError, match=r"^sequence: `din` needs a behaviour sequence"):
        build(spec_of(USER), ("user",), requires=set(), attends=True)
