"""Vector features in a tower's input, against numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from recmtl.batch import Batch
from recmtl.embeddings import PlainLookup, layout
from recmtl.models import TowerInputs, build_net, input_dims
from recmtl.scoring.net import ScoringNet
from recmtl.spec import Spec
from recmtl.towers import (
    ESMMConfig,
    FMConfig,
    FwFMConfig,
    InputDims,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    StackConfig,
)

SPEC = Spec.model_validate(
    {
        "name": "looks",
        "data": {"train": "train.parquet"},
        "features": (
            {"name": "look", "type": "vector", "dim": 5},
            {"name": "user", "type": "sparse", "hash": 10, "dim": 8},
            {"name": "price", "type": "dense"},
            {"name": "text.en", "type": "vector", "dim": 8, "normalize": "none"},
        ),
        "tasks": ({"name": "ctr", "label": "click"}, {"name": "cvr", "label": "buy"}),
    }
)
ENCODERS = SimpleNamespace(
    tables={"user": 11},
    single=("user",),
    bags=(),
    labels=("click", "buy"),
    base_rates={"ctr": 0.1, "cvr": 0.02},
    label_scales={},
)
LAYOUT = layout(SPEC, ENCODERS.tables, ENCODERS.single, ENCODERS.bags)


def lookup() -> PlainLookup:
    table = torch.randn(11, 8, generator=torch.Generator().manual_seed(0))
    return PlainLookup(LAYOUT, {"user": table})


def random_batch(rows: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        ids_FB=torch.randint(0, 11, (1, rows), generator=generator),
        dense_DB=torch.randn(1 + 5 + 8, rows, generator=generator),
        bags={},
        sequences={},
        labels_BK=torch.zeros(rows, 2),
        weight_B=torch.ones(rows),
        rows_B=torch.arange(rows),
    )


def test_components_follow_dense_features_in_the_vector() -> None:
    inputs = TowerInputs(SPEC, LAYOUT, requires=set(), field_dim=8, who="")
    batch = random_batch(6)
    vectors = lookup()(batch)
    x_BD = inputs(batch, vectors)
    assert inputs.is_plain
    assert inputs.dims == 1 + 5 + 8 + 8
    assert x_BD.shape == (6, inputs.dims)
    assert torch.equal(x_BD[:, :14], batch.dense_DB.T)
    assert torch.equal(x_BD[:, 14:], vectors["user"])
    assert torch.equal(x_BD[:, inputs.columns["price"]], batch.dense_DB[:1].T)
    assert torch.equal(x_BD[:, inputs.columns["look"]], batch.dense_DB[1:6].T)
    assert torch.equal(x_BD[:, inputs.columns["text.en"]], batch.dense_DB[6:].T)
    assert torch.equal(x_BD[:, inputs.columns["user"]], vectors["user"])


def test_a_field_is_a_linear_map_even_of_a_vector_of_its_width() -> None:
    inputs = TowerInputs(SPEC, LAYOUT, requires={"fields"}, field_dim=8, who="")
    batch = random_batch(6)
    found = inputs(batch, lookup()(batch))
    assert isinstance(inputs.dims, InputDims)
    assert (inputs.dims.x, inputs.dims.fields) == (22, ("look", "user", "price", "text.en"))
    weights = dict(inputs.named_parameters())
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        "dense_weight": (1, 8),
        "dense_bias": (1, 8),
        "maps.field_look.weight": (8, 5),
        "maps.field_text_2e_en.weight": (8, 8),
    }
    for b in range(6):
        look = weighted_sum(weights["maps.field_look.weight"], batch.dense_DB[1:6, b])
        text = weighted_sum(weights["maps.field_text_2e_en.weight"], batch.dense_DB[6:14, b])
        price = weights["dense_weight"][0] * batch.dense_DB[0, b] + weights["dense_bias"][0]
        torch.testing.assert_close(found.fields_BFE[b, 0], look)
        torch.testing.assert_close(found.fields_BFE[b, 2], price)
        torch.testing.assert_close(found.fields_BFE[b, 3], text)
    found.fields_BFE.sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in weights.values())


def weighted_sum(weight_EV: Tensor, value_V: Tensor) -> Tensor:
    return torch.stack([sum(w * v for w, v in zip(row, value_V, strict=True)) for row in weight_EV])


def test_vectors_alone_are_fields() -> None:
    features = [feature for feature in SPEC.features if feature.type == "vector"]
    spec = SPEC.model_copy(update={"features": tuple(features)})
    tables = layout(spec, {}, (), ())
    inputs = TowerInputs(spec, tables, requires={"fields"}, field_dim=4, who="")
    batch = random_batch(3)
    found = inputs(Batch(**{**fields_of(batch), "dense_DB": batch.dense_DB[1:]}), {})
    assert found.x_BD.shape == (3, 13)
    assert found.fields_BFE.shape == (3, 2, 4)


def fields_of(batch: Batch) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in Batch.__slots__}


TOWERS = [
    SharedBottomConfig(expert_widths=(8,), head_widths=(4,)),
    MMoEConfig(num_experts=3, expert_widths=(8, 4), head_widths=(4,)),
    PLEConfig(num_shared_experts=1, num_task_experts=2, expert_widths=(8, 4), head_widths=()),
    ESMMConfig(head_widths=(8,)),
    StackConfig(tower=MMoEConfig(num_experts=2, expert_widths=(8,)), wide=FwFMConfig()),
    StackConfig(tower=SharedBottomConfig(expert_widths=(8,)), wide=FMConfig()),
]


@pytest.mark.parametrize("tower", TOWERS, ids=repr)
@pytest.mark.parametrize("fold_bytes", [0, 2**24])
def test_scoring_gives_the_logits_of_the_net(tower: Any, fold_bytes: int) -> None:
    net, batch = build_net(SPEC, tower, ENCODERS, lookup()).eval(), random_batch(40)
    with torch.no_grad():
        expected = net(batch)
    found = ScoringNet(net, fold_bytes=fold_bytes)(batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    assert input_dims(SPEC, tower, LAYOUT) == net.inputs.dims
