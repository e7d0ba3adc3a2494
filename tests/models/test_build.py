"""Spec and encoders -> network and tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recmtl.embeddings import PlainLookup, layout
from recmtl.errors import SpecError
from recmtl.models import build_net, build_tasks, input_dims
from recmtl.towers import (
    BiInteractionConfig,
    DTRNConfig,
    ESMMConfig,
    FMConfig,
    FwFMConfig,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    StackConfig,
)
from tests.embeddings.world import DIMS, ENCODERS, ROWS, SPEC, random_rows, to_batch, world_layout

NUM_POOLED = 8 + 8 + 8 + 4 + 8 + 12 + 12 + 4


def plain_lookup(scale: float = 0.0) -> PlainLookup:
    tables = {name: torch.full((ROWS[name], DIMS[name]), scale) for name in ROWS}
    return PlainLookup(world_layout(), tables)


def test_one_logit_for_each_head_in_the_order_of_the_spec() -> None:
    batch = to_batch(random_rows(5, seed=0))
    for config in (MMoEConfig(), PLEConfig(), ESMMConfig(), SharedBottomConfig()):
        net = build_net(SPEC, config, ENCODERS, plain_lookup())
        assert [slot.name for slot in net.tower.tasks] == ["ctr", "cvr", "dwell"]
        assert net(batch).shape == (5, 3)


@pytest.mark.parametrize(
    "part",
    [{"wide": FMConfig()}, {"wide": FwFMConfig()}, {"interaction": BiInteractionConfig()}],
)
def test_pairs_need_two_fields(part: dict[str, Any]) -> None:
    spec = SPEC.model_copy(update={"features": (SPEC.features[1],)})
    tables = layout(spec, {"user": 3}, ("user",), ())
    with pytest.raises(SpecError, match=r"multiplies pairs of fields, and there is one, `user`\."):
        input_dims(spec, StackConfig(tower=MMoEConfig(), **part), tables)


def test_attention_heads_divide_the_width_of_fields() -> None:
    tower = DTRNConfig(encoder="self+target", num_attention_heads=4, field_dim=10)
    with pytest.raises(SpecError, match=r"num_attention_heads: must divide the field width 10"):
        input_dims(SPEC, tower, world_layout())


def test_width_of_the_input_vector() -> None:
    assert input_dims(SPEC, MMoEConfig(), world_layout()) == 1 + NUM_POOLED


def test_heads_start_at_the_base_rates() -> None:
    net = build_net(SPEC, MMoEConfig(head_widths=()), ENCODERS, plain_lookup())
    batch = to_batch(random_rows(4, seed=0))
    batch.dense_DB.zero_()
    probs_BH = net(batch).sigmoid()
    np.testing.assert_allclose(probs_BH[:, 0].detach(), 0.1, atol=1e-6)
    np.testing.assert_allclose(probs_BH[:, 1].detach(), 0.02, atol=1e-6)
    np.testing.assert_allclose(probs_BH[:, 2].detach(), 0.5, atol=1e-6)  # a regression: logit 0


def test_seed_decides_and_torchs_own_generator_is_left_alone() -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = build_net(SPEC, MMoEConfig(), ENCODERS, plain_lookup(), seed=4).dense_tensors()
    assert torch.equal(torch.rand(3), expected)
    second = build_net(SPEC, MMoEConfig(), ENCODERS, plain_lookup(), seed=4).dense_tensors()
    other = build_net(SPEC, MMoEConfig(), ENCODERS, plain_lookup(), seed=5).dense_tensors()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_tasks_of_the_spec() -> None:
    tasks = build_tasks(SPEC, "entire_space", "rows", ENCODERS)
    assert tasks.names == ("ctr", "cvr", "ctcvr", "dwell")
    assert tasks.heads == ("ctr", "cvr", "dwell")
    assert tasks.trained == ("ctr", "ctcvr", "dwell")
    dwell = next(task for task in tasks.tasks if task.name == "dwell")
    assert (dwell.mean, dwell.std) == (20.0, 5.0)
    probs_BT = tasks.probs(torch.tensor([[0.0, 0.0, 2.0]]))
    torch.testing.assert_close(probs_BT, torch.tensor([[0.5, 0.5, 0.25, 30.0]]))
