"""The kit passes honest towers and finds every planted fault."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, fx, nn

from recmtl.testing import assert_tower_ok
from recmtl.towers import (
    CGC,
    PLE,
    CGCConfig,
    ExpertRef,
    InputDims,
    MMoE,
    MMoEConfig,
    PLEConfig,
    SharedBottom,
    SharedBottomConfig,
    TaskSlot,
)
from tests.testing.towers import FieldConfig, FieldTower, LoopConfig, LoopTower, LoopTowerWithRefs

TASKS = ("ctr", "cvr")


def test_an_honest_tower_without_refs_passes() -> None:
    results = assert_tower_ok(LoopTower(LoopConfig(), in_dim=5, tasks=TASKS))
    skipped = {name: why for name, why in results.items() if why != "passed"}
    no_refs = "does not apply: the tower has no `expert_refs()` that says where experts are"
    assert skipped == {
        "check_expert_owners": no_refs,
        "check_shared_gate": "does not apply: `explain` has no `level_1/shared_gate`",
        "check_every_level_is_alive": "does not apply: the config has no `num_levels`",
    }


def test_an_honest_tower_with_refs_passes() -> None:
    config = LoopConfig(dropout=0.3)
    results = assert_tower_ok(LoopTowerWithRefs(config, in_dim=5, tasks=("ctr",)))
    assert results["check_expert_owners"] == "passed"


def test_an_honest_tower_over_fields_and_sequences_passes() -> None:
    dims = InputDims(x=3, fields=("user_id", "item_id"), field_dim=4, sequences={"click": 6})
    results = assert_tower_ok(FieldTower(FieldConfig(), in_dim=dims, tasks=TASKS))
    assert results["check_export"] == "passed"
    assert results["check_gates"] == "does not apply: `explain` returns no gates"


def test_neither_the_tower_nor_the_random_state_is_changed() -> None:
    tower = MMoE(MMoEConfig(num_experts=2), in_dim=5, tasks=TASKS)
    state, random = copy.deepcopy(tower.state_dict()), torch.get_rng_state()
    assert_tower_ok(tower)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in tower.state_dict().items())
    assert all(weight.grad is None for weight in tower.parameters())
    assert tower.training


# Planted faults. Each is one mistake in a tower that is honest otherwise.


class AllAlike(SharedBottom):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for weight in self.parameters():
            nn.init.constant_(weight, 0.1)


class CopiedExperts(MMoE):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            for layer in self.experts.layers:
                layer.shared_weight.copy_(layer.shared_weight[:1].clone())
                layer.shared_weight += 1e-3 * torch.randn_like(layer.shared_weight)


class OneExpertTooMany(MMoE):
    def __init__(self, config: MMoEConfig, **kwargs: Any) -> None:
        more = MMoEConfig(num_experts=config.num_experts + 1, expert_widths=config.expert_widths)
        super().__init__(more, **kwargs)
        self.config = config


class ReadsOthersExperts(CGC):
    def forward(self, x_BD: Tensor) -> Tensor:
        leak_BH = self.level.experts(x_BD).mean(dim=1, keepdim=True)
        return self.heads(self.level(x_BD) + 0.1 * leak_BH)


class SharedWeights(LoopTowerWithRefs):
    def expert_refs(self) -> tuple[ExpertRef, ...]:
        first, *others = super().expert_refs()
        return (first, *(other._replace(parameters=first.parameters) for other in others))


class IgnoresTheCount(LoopTower):
    def __init__(self, config: LoopConfig, **kwargs: Any) -> None:
        super().__init__(LoopConfig(), **kwargs)
        self.config = config


class NarrowSharedGate(PLE):
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        found = super().explain(x_BD)
        if "level_1/shared_gate" in found:
            shared = found["level_1/shared_gate"][:, -self.config.num_shared_experts :]
            found["level_1/shared_gate"] = shared / shared.sum(dim=1, keepdim=True)
        return found


class NoSharedGate(PLE):
    """Task experts of level 1 do not reach the other tasks, whatever `expert_refs` says."""

    def forward(self, x_BD: Tensor) -> Tensor:
        stream = x_BD
        for level in self.levels:
            expert_BEH = level.experts(stream)
            gate_BGE = level.gates(stream)
            num_own = expert_BEH.shape[1] - self.config.num_shared_experts
            tasks_BTH = gate_BGE[:, : len(self.tasks)] @ expert_BEH
            if gate_BGE.shape[1] == len(self.tasks):
                return self.heads(tasks_BTH)
            kept_BEH = torch.cat([expert_BEH[:, :num_own].detach(), expert_BEH[:, num_own:]], 1)
            stream = torch.cat([tasks_BTH, gate_BGE[:, -1:] @ kept_BEH], dim=1)
        raise AssertionError


class TwoLevelsAtMost(PLE):
    def __init__(self, config: PLEConfig, **kwargs: Any) -> None:
        fewer = {field: getattr(config, field) for field in config.__dataclass_fields__}
        super().__init__(PLEConfig(**fewer | {"num_levels": min(config.num_levels, 2)}), **kwargs)
        self.config = config


class SelectsByPrefix(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        expert_BEH, weights, logits = self.expert_outputs(x_BD), self.weights(x_BD), []
        for slot in self.tasks:
            own = next(name for name in sorted(weights) if slot.name.startswith(name))
            mixed_BH = (weights[own].unsqueeze(-1) * expert_BEH).sum(dim=1)
            logits.append(self.heads[slot.name](mixed_BH))
        return torch.cat(logits, dim=1)


class DropsAfterTheSoftmax(LoopTower):
    def weights(self, x_BD: Tensor) -> dict[str, Tensor]:
        weights = super().weights(x_BD)
        return {n: nn.functional.dropout(w, 0.5, self.training) for n, w in weights.items()}


class SigmoidGates(LoopTower):
    def weights(self, x_BD: Tensor) -> dict[str, Tensor]:
        return {name: gate(x_BD).sigmoid() for name, gate in self.gates.items()}


class NegativeWeights(LoopTower):
    def weights(self, x_BD: Tensor) -> dict[str, Tensor]:
        return {
            name: 3 * w - 2 * w.mean(1, keepdim=True) for name, w in super().weights(x_BD).items()
        }


class NormalisesGatesOverTheBatch(LoopTower):
    def weights(self, x_BD: Tensor) -> dict[str, Tensor]:
        if not self.training:
            return super().weights(x_BD)
        return super().weights(x_BD - 0.5 * x_BD.mean(dim=0))


class SilentDropout(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x_BD), 0.5, self.training)


class GatesInAList(LoopTower):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.hidden_gates = [dict(self.gates)]
        self.gates = nn.ModuleDict()

    def weights(self, x_BD: Tensor) -> dict[str, Tensor]:
        return {name: gate(x_BD).softmax(dim=-1) for name, gate in self.hidden_gates[0].items()}


class StaleGates(LoopTower):
    """`explain` shows gates that no loss reaches."""

    @torch.no_grad()
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        even = torch.full((len(x_BD), self.config.num_experts), 1 / self.config.num_experts)
        return {f"gates/{slot.name}": even for slot in self.tasks}


class BatchNorm(LoopTower):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = nn.BatchNorm1d(self.in_dim)

    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(self.norm(x_BD))


class Squeezes(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD).squeeze(0)


class DeadParameter(LoopTower):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unused = nn.Linear(3, 3)


class DetachedGates(LoopTower):
    def weights(self, x_BD: Tensor) -> dict[str, Tensor]:
        return {name: 0 * w + w.detach() for name, w in super().weights(x_BD).items()}


COMMON = nn.Parameter(torch.ones(5))


class OneCopyForAll(LoopTower):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.common = nn.Parameter(torch.zeros(5))
        self.common.data = COMMON.data

    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD * self.common)


class HeadsByPosition(LoopTower):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shift = nn.ParameterList(torch.randn(slot.outputs) for slot in self.tasks)

    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD) + torch.cat(list(self.shift))


class SortsTasks(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        columns = super().forward(x_BD).split([slot.outputs for slot in self.tasks], dim=1)
        named = {slot.name: part for slot, part in zip(self.tasks, columns, strict=True)}
        return torch.cat([named[name] for name in sorted(named)], dim=1)


class AcceptsCircles(LoopTower):
    def __init__(self, config: LoopConfig, *, in_dim: int, tasks: Sequence[Any]) -> None:
        slots = [TaskSlot(task) if isinstance(task, str) else task for task in tasks]
        super().__init__(config, in_dim=in_dim, tasks=[slot._replace(after=()) for slot in slots])


class NeedsTwoExperts(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD) / min(self.config.num_experts - 1, 1)


class ForgetsConfig(LoopTower):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.config


class KeepsAnotherConfig(LoopTower):
    def __init__(self, config: LoopConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.config = LoopConfig(num_experts=config.num_experts + 1)


@dataclass(kw_only=True)
class LooseConfig:
    kind: Literal["loop"] = "loop"
    num_experts: int = 3
    expert_widths: tuple[int, ...] = (8,)
    dropout: float = 0.0


class OpenConfig(LoopConfig):
    def __init__(self, *, no_such_key: int = 0, **known: Any) -> None:
        super().__init__(**known)


class OneLogitForEach(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        columns = super().forward(x_BD).split([slot.outputs for slot in self.tasks], dim=1)
        return torch.cat([part[:, :1] for part in columns], dim=1)


class CentresTheBatch(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD - x_BD.mean(dim=0))


class ChangesItsInput(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD.clamp_(-1, 1))


class BranchesOnData(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD if x_BD.abs().sum() >= 0 else -x_BD)


class KeepsAWeightFromBefore(LoopTower):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = nn.Parameter(torch.ones(self.in_dim))

    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD * dict(self.named_parameters())["scale"].exp())


@fx.wrap
def positive_rows(x_BD: Tensor) -> Tensor:
    """A leaf for torch.fx that torch.export cannot follow."""
    return x_BD if bool((x_BD.sum(dim=1) ** 2 >= 0).all()) else -x_BD


class HidesABranch(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(positive_rows(x_BD))


class PackedHeads(LoopTower):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = nn.Parameter(torch.ones(sum(slot.outputs for slot in self.tasks)))

    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD) * self.scale


class NumberedKeys(LoopTower):
    """State keys that hold the number of tasks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heads_of = nn.ModuleDict({f"all{len(self.tasks)}": nn.Linear(1, 1)})

    def forward(self, x_BD: Tensor) -> Tensor:
        (shift,) = self.heads_of.values()
        return super().forward(x_BD) + shift(x_BD[:, :1])


class OneHeadForAll(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        logits_BO = super().forward(x_BD)
        return logits_BO + 0.1 * logits_BO.mean(dim=1, keepdim=True)


class SwappedHeads(LoopTower):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = [slot.name for slot in self.tasks]
        self.shift = nn.ParameterDict({name: torch.randn(1) for name in names})
        self.other = dict(zip(names, names[1:] + names[:1], strict=True))

    def forward(self, x_BD: Tensor) -> Tensor:
        columns = super().forward(x_BD).split([slot.outputs for slot in self.tasks], dim=1)
        shifted = [
            part + self.shift[self.other[slot.name]]
            for slot, part in zip(self.tasks, columns, strict=True)
        ]
        return torch.cat(shifted, dim=1)


class Sigmoid(LoopTower):
    def forward(self, x_BD: Tensor) -> Tensor:
        return super().forward(x_BD).sigmoid()


class IgnoresBaseRates(LoopTower):
    def set_base_rates(self, rates: Mapping[str, float]) -> None:
        pass


class AcceptsUnknownRates(LoopTower):
    def set_base_rates(self, rates: Mapping[str, float]) -> None:
        super().set_base_rates({k: v for k, v in rates.items() if k in self.heads})


class IgnoresClassRates(LoopTower):
    def set_base_rates(self, rates: Mapping[str, float | Sequence[float]]) -> None:
        super().set_base_rates({k: v for k, v in rates.items() if not isinstance(v, tuple)})


class ExplainSwitchesMode(LoopTower):
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        return self.train().__class__.__mro__[1].explain(self, x_BD)


class ExplainKeepsGradients(LoopTower):
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        return {f"gates/{name}": weight_BE for name, weight_BE in self.weights(x_BD).items()}


FAULTS: list[tuple[Callable[..., nn.Module], Any, str]] = [
    (AllAlike, SharedBottomConfig(), r"T01: after 20 steps all units of `.*` are still alike"),
    (CopiedExperts, MMoEConfig(), r"T01: .* experts `shared 1` and `shared 2` .* same weights"),
    (OneExpertTooMany, MMoEConfig(), r"T02: level 1 has 2 experts .* num_experts=1, expected 1\."),
    (ReadsOthersExperts, CGCConfig(), r"T02: changing expert `click 1` .* expected `click`\."),
    (SharedWeights, LoopConfig(), r"T02: experts `shared 1` and `shared 2` share `experts\.0\.w"),
    (
        IgnoresTheCount,
        LoopConfig(),
        r"T02: with `num_experts` 2, 3 and 4 the tower has \[(\d+), \1",
    ),
    (NarrowSharedGate, PLEConfig(), r"T03: the shared gate of level 1 has 3 outputs .* expected 9"),
    (NoSharedGate, PLEConfig(), r"T03: no gradient of task `like` reaches expert `click 1`"),
    (TwoLevelsAtMost, PLEConfig(), r"T04: .* experts stand on levels \[1, 2\], expected 1, 2 and"),
    (SelectsByPrefix, LoopConfig(), r"T05: .* something selects by a part of the name"),
    (DropsAfterTheSoftmax, LoopConfig(), r"T06: the weights of `gates/ctr` do not sum to 1 in tra"),
    (SigmoidGates, LoopConfig(), r"T06: the weights of `gates/ctr` do not sum to 1 in eval mode"),
    (NegativeWeights, LoopConfig(), r"T06: `gates/ctr` has negative weights"),
    (NormalisesGatesOverTheBatch, LoopConfig(), r"T06: .* other rows of the batch in train mode"),
    (SilentDropout, LoopConfig(), r"T06: with `dropout=0` two passes .* differ"),
    (GatesInAList, LoopConfig(), r"T07: a tower with this tower's state loaded gives other logits"),
    (StaleGates, LoopConfig(), r"T07: `gates/ctr` does not change after a step"),
    (BatchNorm, LoopConfig(), r"T08: the check \(a batch of one row .*\) ended with ValueError"),
    (Squeezes, LoopConfig(), r"T08: one row gives logits of shape \(2,\), expected \(1, 2\)"),
    (DeadParameter, LoopConfig(), r"T09: parameter `unused\.weight` gets no gradient"),
    (
        DetachedGates,
        LoopConfig(),
        r"heads: parameter `gates\.ctr\.weight` is not moved by .* `ctr`",
    ),
    (OneCopyForAll, LoopConfig(), r"T10: .* share the storage of \['common'\]"),
    (HeadsByPosition, LoopConfig(), r"T11: .* logits are not the same columns in that order"),
    (AcceptsCircles, LoopConfig(), r"T11: tasks that come after one another in a circle are not"),
    (NeedsTwoExperts, LoopConfig(), r"T12: logits of random rows are not finite"),
    (ForgetsConfig, LoopConfig(), r"contract: the tower has no `config`"),
    (KeepsAnotherConfig, LoopConfig(), r"contract: building the tower again .* other parameters"),
    (LoopTower, LooseConfig(), r"config: it can be changed; declare it with `frozen=True`"),
    (LoopTower, OpenConfig(), r"config: it accepts the unknown key `no_such_key`"),
    (OneLogitForEach, LoopConfig(), r"outputs: slots of 3, 1 and 2 outputs give .* \(6, 3\)"),
    (SortsTasks, LoopConfig(), r"outputs: the column of `cvr` is not where 3 outputs"),
    (CentresTheBatch, LoopConfig(), r"rows: in eval mode a row's logits change with the other"),
    (ChangesItsInput, LoopConfig(), r"input: `forward` changes its input"),
    (BranchesOnData, LoopConfig(), r"trace: the check \(.*\) ended with TraceError"),
    (KeepsAWeightFromBefore, LoopConfig(), r"trace: the tower traced by torch.fx gives other log"),
    (HidesABranch, LoopConfig(), r"export: the check \(.*\) ended with"),
    (PackedHeads, LoopConfig(), r"keys: state key `scale` changes its shape from \(2,\) to \(3,\)"),
    (NumberedKeys, LoopConfig(), r"keys: state key `heads_of\.all2\.weight` is gone"),
    (OneHeadForAll, LoopConfig(), r"base rates: .* and no other task's"),
    (SwappedHeads, LoopConfig(), r"heads: parameter `shift\.\w+` is not moved by the loss of"),
    (Sigmoid, LoopConfig(), r"base rates: from 0\.5 to 0\.02 .* no sigmoid follows"),
    (IgnoresBaseRates, LoopConfig(), r"base rates: from 0\.5 to 0\.02"),
    (AcceptsUnknownRates, LoopConfig(), r"base rates: that of an unknown task is not refused"),
    (IgnoresClassRates, LoopConfig(), r"class rates: from \(0\.25, 0\.25, 0\.5\) to"),
    (ExplainSwitchesMode, LoopConfig(), r"explain: it changes the tower, its mode"),
    (ExplainKeepsGradients, LoopConfig(), r"explain: its tensors must carry no gradient"),
]


@pytest.mark.parametrize(
    ("fault", "config", "message"),
    FAULTS,
    ids=[f"{fault.__name__}-{type(config).__name__}" for fault, config, _ in FAULTS],
)
def test_a_planted_fault_is_found(
    fault: Callable[..., nn.Module], config: Any, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_tower_ok(fault(config, in_dim=5, tasks=TASKS))
