"""Wide parts, interactions, target attention, and a tower with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

from recmtl.testing import assert_tower_ok
from recmtl.towers import (
    FM,
    BiInteraction,
    BiInteractionConfig,
    CrossNet,
    CrossNetConfig,
    DTRNConfig,
    FMConfig,
    FwFM,
    FwFMConfig,
    InputDims,
    Linear,
    LinearConfig,
    MaskNet,
    MaskNetConfig,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    Stack,
    StackConfig,
    TargetAttention,
    TaskSlot,
    TowerInput,
    build_tower,
    requires_of,
)
from tests.reference import interactions as plain
from tests.towers.helpers import gradcheck_with_parameters, randomise, rows

TASKS = (TaskSlot("click"), TaskSlot("stars", outputs=2))
DIMS = InputDims(x=5, fields=("user", "item", "hour"), field_dim=2, sequences={"clicks": 3})


def inputs(count: int = 4) -> TowerInput:
    """Random rows."""
    fields_BFE = rows(count, 6, seed=2).view(count, 3, 2)
    return TowerInput(rows(count, 5), fields_BFE=fields_BFE)


def by_row(x: TowerInput, function: Any) -> Tensor:
    """A function of the vector and the fields, for each row."""
    assert x.fields_BFE is not None
    pairs = zip(x.x_BD.tolist(), x.fields_BFE.tolist(), strict=True)
    found = [function(vector, fields) for vector, fields in pairs]
    return torch.tensor(found, dtype=torch.float64)


def gradcheck(module: nn.Module, x: TowerInput) -> bool:
    """Finite differences against the gradients of vector, fields and parameters."""
    names = [name for name, _ in module.named_parameters()]
    given = [t.clone() for t in (x.x_BD, x.fields_BFE) if t is not None]
    tensors = [t.detach().clone().requires_grad_() for t in (*given, *module.parameters())]

    def out(x_BD: Tensor, fields_BFE: Tensor, *own: Tensor) -> Any:
        moved = TowerInput(x_BD, fields_BFE=fields_BFE)
        return functional_call(module, dict(zip(names, own, strict=True)), (moved,))

    return torch.autograd.gradcheck(out, tuple(tensors))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Linear, lambda state, names: lambda x, fields: plain.linear(state, x, names)),
        (FM, lambda state, names: lambda x, fields: plain.fm(state, x, fields, names)),
        (FwFM, lambda state, names: lambda x, fields: plain.fwfm(state, x, fields, names)),
    ],
)
def test_wide_parts_match_the_equations(make: Any, expected: Any) -> None:
    wide = randomise(make(in_dim=DIMS, tasks=TASKS))
    x, names = inputs(), [slot.name for slot in TASKS]
    found_BO = wide(x if wide.requires else x.x_BD)
    assert_close(found_BO, by_row(x, expected(wide.state_dict(), names)), rtol=1e-12, atol=1e-12)
    assert gradcheck(wide, inputs(2)) if wide.requires else gradcheck_with_parameters(wide, x.x_BD)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_cross_layers_match_the_equations(rank: int | None, num_layers: int) -> None:
    cross = randomise(CrossNet(CrossNetConfig(num_layers=num_layers, rank=rank), in_dim=DIMS))
    x = inputs()
    expected_BD = by_row(x, lambda x, _: plain.cross(cross.state_dict(), x, num_layers))
    assert_close(cross(x.x_BD), expected_BD, rtol=1e-12, atol=1e-12)
    assert cross.out_dim == 5


def test_products_of_pairs_match_the_equation() -> None:
    products, x = BiInteraction(BiInteractionConfig(), in_dim=DIMS), inputs()
    assert_close(products(x), by_row(x, plain.bi_interaction))
    assert products.out_dim == 7


def test_masks_match_the_equations() -> None:
    config = MaskNetConfig(num_blocks=3, width=4, reduction=0.5)
    masknet, x = randomise(MaskNet(config, in_dim=DIMS)), inputs()
    expected_BH = by_row(x, lambda _, fields: plain.masknet(masknet.state_dict(), fields, 3))
    assert_close(masknet(x), expected_BH, rtol=1e-11, atol=1e-11)
    assert gradcheck_with_parameters(CrossNet(CrossNetConfig(), in_dim=3).double(), rows(2, 3))
    assert masknet.out_dim == 12
    assert gradcheck(masknet, inputs(2))


def test_attention_matches_the_equation() -> None:
    attention = randomise(TargetAttention(4, behaviours=("clicks", "carts"), hidden=3))
    target_BE, lengths_B = rows(4, 4, seed=3), torch.tensor([0, 1, 3, 2])
    sequences = {
        name: (rows(4, 12, seed=i).view(4, 3, 4), lengths_B)
        for i, name in enumerate(("clicks", "carts"))
    }
    for j, found_BE in enumerate(attention(sequences, target_BE)):
        items_BLE = list(sequences.values())[j][0]
        expected = [
            plain.attention(
                attention.state_dict(),
                items_BLE[i, : lengths_B[i]].tolist(),
                target_BE[i].tolist(),
                j,
            )
            for i in range(4)
        ]
        assert_close(found_BE, torch.tensor(expected, dtype=torch.float64))
        assert not found_BE[0].any()


STACKS = [
    StackConfig(tower=MMoEConfig(), wide=LinearConfig()),
    StackConfig(tower=PLEConfig(), wide=FMConfig(), interaction=CrossNetConfig(rank=2)),
    StackConfig(interaction=MaskNetConfig(width=16), wide=FwFMConfig()),
    StackConfig(interaction=BiInteractionConfig()),
    StackConfig(tower=DTRNConfig(), wide=FwFMConfig()),
]


@pytest.mark.parametrize("config", STACKS, ids=repr)
def test_contract_of_stacks(config: StackConfig) -> None:
    assert_tower_ok(Stack(config, in_dim=DIMS, tasks=("click", "buy")))


def test_a_stack_is_the_sum_of_its_parts() -> None:
    config = StackConfig(
        tower=SharedBottomConfig(expert_widths=(4,), head_widths=()),
        interaction=CrossNetConfig(),
        wide=FwFMConfig(),
    )
    stack, x = randomise(build_tower(config, in_dim=DIMS, tasks=TASKS)), inputs()
    assert_close(stack(x), stack.tower(stack.interaction(x.x_BD)) + stack.wide(x))
    assert stack.requires == requires_of(config) == {"fields"}
    assert requires_of(StackConfig(tower=DTRNConfig())) == {"fields", "sequences", "target"}


def test_a_wide_part_starts_at_zero() -> None:
    for config in (LinearConfig(), FMConfig(), FwFMConfig()):
        stack = Stack(StackConfig(wide=config), in_dim=DIMS, tasks=TASKS).double()
        x = inputs()
        assert_close(stack(x if stack.requires else x.x_BD), stack.tower(x.x_BD))


def test_pairs_that_make_a_label_are_learned() -> None:
    """A label that is the sign of a dot product: a linear model cannot see it, pairs do."""
    torch.manual_seed(0)
    fields_BFE = torch.randn(2048, 3, 2)
    label_B = ((fields_BFE[:, 0] * fields_BFE[:, 2]).sum(1) > 0).float()
    x = TowerInput(fields_BFE.flatten(1), fields_BFE=fields_BFE)
    right = {}
    for make in (Linear, FwFM):
        wide = make(in_dim=DIMS._replace(x=6), tasks=("click",))
        given = x if wide.requires else x.x_BD
        optimizer = torch.optim.Adam(wide.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(wide(given)[:, 0], label_B)
            loss.backward()
            optimizer.step()
        right[make] = float(((wide(given)[:, 0] > 0) == (label_B > 0)).float().mean())
    assert right[FwFM] > 0.97
    assert right[Linear] < 0.6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StackConfig(tower=DTRNConfig(), interaction=CrossNetConfig()), "below `dtrn`"),
        (lambda: CrossNetConfig(num_layers=0), "`num_layers` must be a positive integer"),
        (lambda: CrossNetConfig(rank=0), "`rank` must be a positive integer"),
        (lambda: MaskNetConfig(width=1), "`width` must be at least 2"),
        (lambda: MaskNetConfig(reduction=0.0), r"`reduction` must be above 0, got 0\.0"),
        (lambda: FwFM(in_dim=5, tasks=TASKS), "with at least two `fields`, got 5"),
        (lambda: MaskNet(MaskNetConfig(), in_dim=5), "must be `InputDims` with `fields`, got 5"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
