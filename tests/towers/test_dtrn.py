from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from recmtl.testing import assert_tower_ok
from recmtl.towers import (
    DTRN,
    TOWERS,
    CGCConfig,
    DTRNConfig,
    HoMEConfig,
    InputDims,
    MMoEConfig,
    PLEConfig,
    SharedBottomConfig,
    TaskSlot,
    TowerInput,
    build_tower,
)
from tests.reference.dtrn import representations
from tests.towers.helpers import randomise, rows

TASKS = ("click", "buy", "add")
DIMS = InputDims(x=3, fields=("user", "item"), field_dim=4, sequences={"clicks": 3, "carts": 2})
BOTTOM = SharedBottomConfig(expert_widths=(3,), head_widths=())


def small(**sizes: Any) -> DTRNConfig:
    """A narrow head."""
    return DTRNConfig(**({"head": BOTTOM, "rank": 2, "reduction": 2} | sizes))


def inputs(count: int = 6, dims: InputDims = DIMS) -> TowerInput:
    """Random rows; lengths go from 0 to the longest."""
    sequences = {}
    for i, (behaviour, length) in enumerate(dims.sequences.items()):
        lengths_B = (torch.arange(count) + i) % (length + 1)
        is_item_BL1 = (torch.arange(length) < lengths_B.unsqueeze(1)).unsqueeze(2)
        items = rows(count, length * dims.field_dim, seed=i).view(count, length, -1)
        sequences[behaviour] = (items * is_item_BL1, lengths_B)
    fields = rows(count, len(dims.fields) * dims.field_dim, seed=8)
    return TowerInput(
        rows(count, dims.x, seed=9),
        fields_BFE=fields.view(count, len(dims.fields), dims.field_dim),
        sequences=sequences,
        target_BE=rows(count, dims.field_dim, seed=10),
    )


MODES = [
    small(),
    small(hyper_mode="lowrank"),
    small(hyper_mode="full"),
    small(encoder="self+target"),
    small(encoder="self+target", hyper_mode="lowrank", num_attention_heads=4),
    small(encoder="self+target", hyper_mode="full", num_attention_heads=1),
    small(refinement=False),
    small(gate="sigmoid", reduction=9),
    small(gate="relu"),
]


@pytest.mark.parametrize("config", MODES, ids=repr)
def test_matches_the_equations(config: DTRNConfig) -> None:
    tower, x = randomise(DTRN(config, in_dim=DIMS, tasks=TASKS)), inputs()
    expected = [
        representations(
            tower.state_dict(),
            x.fields_BFE[i].tolist(),
            [items[i, : lengths[i]].tolist() for items, lengths in x.sequences.values()],
            x.target_BE[i].tolist(),
            TASKS,
            config,
        )
        for i in range(len(x.x_BD))
    ]
    found_BTD = tower.representations(x)
    assert_close(found_BTD, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11)
    by_hand = torch.stack([tower.head(found_BTD[:, t])[:, t] for t in range(len(TASKS))], dim=1)
    assert_close(tower(x), by_hand)


@pytest.mark.parametrize("config", MODES, ids=repr)
def test_gradients_match_finite_differences(config: DTRNConfig) -> None:
    dims = DIMS._replace(field_dim=2)
    if config.num_attention_heads > 2:
        dims = dims._replace(field_dim=4)
    tower, x = randomise(DTRN(config, in_dim=dims, tasks=TASKS[:2])), inputs(3, dims)
    weights = [x.fields_BFE, x.target_BE, *(items for items, _ in x.sequences.values())]
    lengths = [lengths for _, lengths in x.sequences.values()]
    names = [name for name, _ in tower.named_parameters()]

    def logits(fields: Tensor, target: Tensor, clicks: Tensor, carts: Tensor, *own: Tensor) -> Any:
        moved = x._replace(
            fields_BFE=fields,
            target_BE=target,
            sequences=dict(
                zip(dims.sequences, zip((clicks, carts), lengths, strict=True), strict=True)
            ),
        )
        return torch.func.functional_call(tower, dict(zip(names, own, strict=True)), (moved,))

    tensors = [t.detach().clone().requires_grad_() for t in (*weights, *tower.parameters())]
    assert torch.autograd.gradcheck(logits, tuple(tensors))


@pytest.mark.parametrize(
    "head", [BOTTOM, PLEConfig(), HoMEConfig(), MMoEConfig(), CGCConfig()], ids=lambda h: h.kind
)
def test_contract_pitfall_T05_T06_T08_T11(head: Any) -> None:
    assert_tower_ok(DTRN(DTRNConfig(head=head), in_dim=DIMS, tasks=("click", "buy")))


@pytest.mark.slow
@pytest.mark.parametrize("config", MODES, ids=repr)
def test_contract_of_modes(config: DTRNConfig) -> None:
    slots = (TaskSlot("stars", outputs=3), TaskSlot("click"))
    assert_tower_ok(DTRN(config, in_dim=DIMS, tasks=slots))


@pytest.mark.parametrize("config", MODES, ids=repr)
def test_a_tasks_loss_leaves_what_others_own_alone(config: DTRNConfig) -> None:
    tower = randomise(DTRN(config, in_dim=DIMS, tasks=TASKS))
    tower(inputs())[:, 0].sum().backward()
    for name, weight in tower.named_parameters():
        if name.endswith((".buy", ".add")):
            assert weight.grad is None or not weight.grad.any(), name
    assert tower.get_parameter("head.heads.last.task_weight.click").grad.any()


@pytest.mark.parametrize("mode", ["film", "lowrank"])
def test_all_tasks_start_from_one_representation(mode: Any) -> None:
    config = small(hyper_mode=mode)
    tower = DTRN(config, in_dim=DIMS, tasks=TASKS).double()
    found_BTD = tower.representations(inputs())
    assert_close(found_BTD, found_BTD[:, :1].expand_as(found_BTD))
    plain = DTRN(small(hyper_mode=mode, refinement=False), in_dim=DIMS, tasks=TASKS).double()
    plain.load_state_dict(tower.state_dict(), strict=False)
    assert_close(plain.representations(inputs()), found_BTD)


def test_an_empty_sequence_is_no_interest() -> None:
    tower = randomise(DTRN(small(refinement=False), in_dim=DIMS, tasks=TASKS))
    x = inputs()
    nothing = {name: (items, torch.zeros_like(n)) for name, (items, n) in x.sequences.items()}
    found_BTKE = tower.representations(x._replace(sequences=nothing)).unflatten(2, (4, 4))
    assert not found_BTKE[:, :, 2:].any()
    assert found_BTKE.isfinite().all()


def test_what_lies_beyond_a_sequences_end_is_never_read() -> None:
    for config in MODES:
        tower = randomise(DTRN(config, in_dim=DIMS, tasks=TASKS))
        x = inputs()
        dirty = {
            name: (items + 1e3 * (torch.arange(items.shape[1]) >= n.unsqueeze(1)).unsqueeze(2), n)
            for name, (items, n) in x.sequences.items()
        }
        assert_close(tower(x._replace(sequences=dirty)), tower(x))


def test_numbers_of_weights() -> None:
    def interests(mode: Any, tasks: int, behaviours: int, encoder: Any = "target") -> int:
        dims = InputDims(
            x=1, fields=("a",), field_dim=8, sequences={f"s{j}": 2 for j in range(behaviours)}
        )
        tower = DTRN(
            small(hyper_mode=mode, encoder=encoder, rank=3),
            in_dim=dims,
            tasks=[f"t{i}" for i in range(tasks)],
        )
        return sum(weight.numel() for weight in tower.interests.parameters())

    for encoder, per_encoder in (("target", 64), ("self+target", 5 * 64)):
        assert interests("full", 3, 2, encoder) == 3 * 2 * per_encoder
        hyper = (2 * 16 * 32 + 32) + (32 * 16 + 16)
        assert interests("film", 3, 2, encoder) == 2 * per_encoder + hyper + (3 + 2) * 16
        hyper = (2 * 16 * 32 + 32) + (32 * 9 + 9)
        expected = 2 * per_encoder + hyper + (3 + 2) * 16 + 2 * 8 * 3
        assert interests("lowrank", 3, 2, encoder) == expected
        assert interests("film", 4, 2, encoder) - interests("film", 3, 2, encoder) == 16


def test_explain_tells_tasks_and_vectors_apart() -> None:
    tower, x = randomise(DTRN(small(head=PLEConfig()), in_dim=DIMS, tasks=TASKS)), inputs()
    found = tower.explain(x)
    assert tower.vectors == ("user", "item", "clicks", "carts")
    assert found["refinement/buy"].shape == (6, 4)
    x_BTD = tower.representations(x)
    expected_BE = tower.head.explain(x_BTD[:, 1])["gates/buy"]
    assert_close(found["gates/buy"], expected_BE)
    assert found["level_1/shared_gate"].shape[0] == 6
    assert tower.expert_refs()[0].parameters[0][0].startswith("head.levels.0.experts.")


def test_planted_interests_are_found() -> None:
    """Task a depends on clicks alone, task b on carts alone: whether the target is there."""
    dims = InputDims(x=8, fields=("item",), field_dim=8, sequences={"clicks": 6, "carts": 6})
    auc = {}
    for config in (DTRNConfig(head=SharedBottomConfig(expert_widths=(32,))), None):
        torch.manual_seed(0)
        x, labels_BT = planted(4096)
        if config is None:
            tower = build_tower(
                SharedBottomConfig(expert_widths=(32,)), in_dim=24, tasks=("a", "b")
            )
            read = lambda x: torch.cat(  # noqa: E731
                [x.fields_BFE.flatten(1), *(s.mean(1) for s, _ in x.sequences.values())], 1
            )
        else:
            tower, read = build_tower(config, in_dim=dims, tasks=("a", "b")), lambda x: x
        optimizer = torch.optim.Adam(tower.parameters(), lr=0.01)
        for _ in range(150):
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(tower(read(x)), labels_BT)
            loss.backward()
            optimizer.step()
        new, expected_BT = planted(4096, seed=1)
        auc[config] = mean_auc(tower(read(new)), expected_BT)
        if config is not None:
            found = tower.explain(new)
            clicks, carts = tower.vectors.index("clicks"), tower.vectors.index("carts")
            first, second = (found[f"refinement/{task}"].mean(0) for task in "ab")
            assert first[clicks] > first[carts]
            assert second[carts] > second[clicks]
    bottom, plain = auc.values()
    assert bottom > plain + 0.02


def planted(count: int, *, seed: int = 0) -> tuple[TowerInput, Tensor]:
    """Sequences of vectors of 50 items; a label says, with noise, whether the target is there."""
    random = torch.Generator().manual_seed(100 + seed)
    table_IE = torch.randn(50, 8, generator=torch.Generator().manual_seed(3))
    target_B = torch.randint(50, (count,), generator=random)
    sequences, labels = {}, []
    for name in ("clicks", "carts"):
        ids_BL = torch.randint(50, (count, 6), generator=random)
        is_there_B = torch.rand(count, generator=random) < 0.5
        ids_BL[:, 2] = torch.where(is_there_B, target_B, ids_BL[:, 2])
        sequences[name] = (table_IE[ids_BL], torch.full((count,), 6))
        is_there_B = (ids_BL == target_B.unsqueeze(1)).any(1)
        labels.append(torch.rand(count, generator=random) < torch.where(is_there_B, 0.8, 0.2))
    target_BE = table_IE[target_B]
    x = TowerInput(target_BE, target_BE.unsqueeze(1), sequences, target_BE)
    return x, torch.stack(labels, 1).float()


def mean_auc(logits_BT: Tensor, labels_BT: Tensor) -> float:
    """Share of pairs in order, over tasks."""
    shares = []
    for logits_B, labels_B in zip(logits_BT.T, labels_BT.T, strict=True):
        positive, negative = logits_B[labels_B == 1], logits_B[labels_B == 0]
        shares.append(float((positive.unsqueeze(1) > negative).double().mean()))
    return sum(shares) / len(shares)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"head": DTRNConfig()}, "`head` must be one of `SharedBottomConfig`, .*, got DTRNConfig"),
        ({"hyper_mode": "dense"}, "`hyper_mode` must be one of `film`, `lowrank`, `full`"),
        ({"reduction": 0}, "`reduction` must be a positive integer, got 0"),
        ({"gate": "tanh"}, "`gate` must be one of `2sigmoid`, `sigmoid`, `relu`, got 'tanh'"),
    ],
)
def test_config_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DTRNConfig(**wrong)


def test_it_needs_fields_and_sequences() -> None:
    with pytest.raises(ValueError, match="`in_dim` must be `InputDims` with `fields` and `seq"):
        DTRN(small(), in_dim=8, tasks=TASKS)
    with pytest.raises(ValueError, match="`num_attention_heads` must divide the field width 4"):
        DTRN(small(encoder="self+target", num_attention_heads=3), in_dim=DIMS, tasks=TASKS)


def test_every_other_tower_can_be_its_head() -> None:
    for config in TOWERS:
        if config is not DTRNConfig:
            assert DTRN(DTRNConfig(head=config()), in_dim=DIMS, tasks=TASKS).head.tasks
