"""Hierarchy of Multi-gate Experts.

Shape letters: B rows, D input width, T tasks, C groups of tasks, G = C + 1 blocks of the first
level (groups, then the shared one), M experts of each owner, S shared ones, E all experts of a
bank, H expert width, N experts that a task reads, O logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from recmtl._checks import (
    require_fraction,
    require_not_empty,
    require_one_of,
    require_positive,
    require_widths,
)
from recmtl.towers.chunked import is_free
from recmtl.towers.expert_bank import ExpertBank, ExpertRef
from recmtl.towers.expert_norm import Activation, Norm
from recmtl.towers.feature_gates import FeatureGates
from recmtl.towers.inputs import InputDims, TaskSlot, groups_of
from recmtl.towers.layers import GateBank, HeadBank
from recmtl.towers.parameters import by_task
from recmtl.towers.tower import Tower, expert_statistics, named_gates

__all__ = ["HoME", "HoMEConfig"]


_PART_ROWS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class HoMEConfig:
    """Sizes of a HoME tower, and a switch for each of its parts."""

    kind: Literal["home"] = "home"
    num_shared_experts: int = 2
    """Number of experts that every task reads, on each of the two levels."""
    num_group_experts: int = 2
    """Number of experts that each group of tasks has for itself, on each of the two levels."""
    num_task_experts: int = 1
    """Number of experts that each task has for itself, on the second level."""
    expert_widths: tuple[int, ...] = (256, 128)
    """Layer widths of each expert."""
    norm: Norm = "layer"
    """What normalises each layer of an expert before its activation: `layer` over the units of a
    row, `batch` over the rows of a batch (in one process alone), `none`."""
    activation: Activation = "swish"
    """What follows each layer of an expert: `swish` or `relu`."""
    hierarchy: bool = True
    """Whether a group's gate, and its tasks' gates, weigh no experts of other groups."""
    feature_gates: bool = True
    """Whether each owner of experts re-weighs the features of what it reads."""
    feature_gate_rank: int | None = None
    """Rank of each part of a feature gate; by default a sixteenth of its width, 8 at least."""
    num_feature_gate_parts: int = 2
    """Number of low-rank gates that a feature gate mixes."""
    self_gates: bool = True
    """Whether what an owner's own experts make is added to each mixture, by a gate of its own."""
    head_widths: tuple[int, ...] = (64,)
    """Hidden widths of each task's head; a last layer to its logits follows."""
    dropout: float = 0.0
    """Share of units dropped after each layer of experts and heads; gates are never dropped."""

    def __post_init__(self) -> None:
        require_positive(
            num_shared_experts=self.num_shared_experts,
            num_group_experts=self.num_group_experts,
            num_task_experts=self.num_task_experts,
            num_feature_gate_parts=self.num_feature_gate_parts,
        )
        if self.feature_gate_rank is not None:
            require_positive(feature_gate_rank=self.feature_gate_rank)
        require_widths(expert_widths=self.expert_widths, head_widths=self.head_widths)
        require_not_empty(expert_widths=self.expert_widths)
        require_one_of(("layer", "batch", "none"), norm=self.norm)
        require_one_of(("swish", "relu"), activation=self.activation)
        if self.norm == "layer" and min(self.expert_widths) < 2:
            raise ValueError(
                "`expert_widths` must be at least 2 each where `norm` is `layer`, which makes a "
                f"constant of one unit, got {self.expert_widths!r}."
            )
        require_fraction(dropout=self.dropout)


class HoME(Tower):
    r"""Two levels of normalised experts: of groups of tasks, then of tasks; gates over each.

    First level, for each group g and what is shared, s:

    .. math:: v_g = v \odot F_g(v), \qquad S = \{f^s_k(v_s)\}, \qquad M_g = \{f^g_k(v_g)\}

    .. math:: z_g = G_g(v)\,[M_g; S] + Q_g(v)\,M_g, \qquad
        z_s = G_s(v)\,[M_1; \dots; M_C; S] + Q_s(v)\,S

    Second level, for each task t of group g:

    .. math:: u_s = z_s \odot F'_s(z_s), \qquad u_g = z_g \odot F'_g(z_g), \qquad
        u_t = z_g \odot F'_t(z_g)

    .. math:: h_t = G_t([z_g; z_s])\,[E_t; E_g; E_s] + Q_t(z_g)\,E_t, \qquad
        E_a = \{f'^a_k(u_a)\}, \qquad \text{logit}_t = h^t(h_t)

    with experts f of layers Linear, normalisation, Swish; feature gates F (see `FeatureGates`);
    gates G: softmax; self-gates Q: softmax, or a sigmoid over one expert. Experts that several
    tasks read are computed once.

    Reference: Wang et al., "HoME: Hierarchy of Multi-Gate Experts for Multi-Task Learning at
        Kuaishou", KDD 2025. arXiv:2408.05430
    Departures: A reconstruction: of the paper its abstract and introduction were at hand, the rest
        from public re-implementations that do not agree in all. Experts are normalised over the
        units of a row (`norm: layer`), so that a row's logits do not depend on other rows, padded
        ones, or the number of processes; `norm: batch` is theirs. Gates of the first level read v
        itself; those of the second [z_g; z_s], before any feature gate; self-gates read v and
        z_g. The rank of feature gates is a size of its own. Feature gates start at 1, all gates at
        equal weights. `hierarchy: false` lets gates weigh the experts of all groups.
    Shape: ``(B, D)`` -> ``(B, O)`` logits, columns in the order of ``tasks``.

    Example:
        >>> tasks = (TaskSlot("click", group="act"), TaskSlot("stay", group="watch"))
        >>> tower = HoME(HoMEConfig(), in_dim=16, tasks=tasks)
        >>> tower(torch.zeros(3, 16)).shape
        torch.Size([3, 2])
    """

    group_of_T: Tensor

    def __init__(
        self, config: HoMEConfig, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        """Build the tower.

        Args:
            config: its sizes and switches.
            in_dim: width D of the input.
            tasks: task names, or slots, which say each task's group.
        """
        super().__init__(config, in_dim=in_dim, tasks=tasks)
        names, width = self.task_names, config.expert_widths[-1]
        self.groups = groups_of(self.tasks)
        where = [self.groups.index(slot.group) for slot in self.tasks]
        self.register_buffer("group_of_T", torch.tensor(where), persistent=False)
        self.first_level = _FirstLevel(self.groups, self.width, config)
        own = config.feature_gates
        self.task_features = _feature_gates(config, width, names) if own else nn.Identity()
        self.group_features = (
            _feature_gates(config, width, self.groups, has_shared=True) if own else nn.Identity()
        )
        self.task_experts = _experts(config, width, names, config.num_task_experts)
        self.group_experts = _experts(
            config, width, self.groups, config.num_group_experts, config.num_shared_experts
        )
        num_group = config.num_group_experts * (1 if config.hierarchy else len(self.groups))
        num_read = config.num_task_experts + num_group + config.num_shared_experts
        self.gates = _TaskGates(names, width, num_read)
        self.self_gates = (
            _SelfGates(width, names, config.num_task_experts, own_inputs=True)
            if config.self_gates
            else None
        )
        self.heads = HeadBank(self.tasks, width, config.head_widths, dropout=config.dropout)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits ``(B, O)``."""
        if not self._can_split(x_BD):
            return self._logits(x_BD)
        return torch.cat([self._logits(part_BD) for part_BD in x_BD.split(_PART_ROWS)])

    def _logits(self, x_BD: Tensor) -> Tensor:
        logits_BO: Tensor = self.heads(self._mixed(self.first_level(x_BD)))
        return logits_BO

    def _can_split(self, x_BD: Tensor) -> bool:
        """Whether rows can be computed in parts, whose activations stay in a CPU's caches.

        Between its products the tower makes many passes over them.
        """
        return self.config.norm != "batch" and is_free(x_BD) and len(x_BD) > _PART_ROWS

    def _mixed(self, z_BGH: Tensor) -> Tensor:
        """What each task's head reads, ``(B, T, H)``."""
        z_BTH = z_BGH.index_select(1, self.group_of_T)
        own_BEH, group_BEH = self._experts(z_BGH, z_BTH)
        weight_BTN = self._weights(z_BGH, z_BTH)
        num_own = self.config.num_task_experts
        own_BTM = weight_BTN[..., :num_own]
        if self.self_gates is not None:
            own_BTM = own_BTM + self.self_gates(z_BTH)
        own_BTMH = own_BEH.unflatten(1, (-1, num_own))
        over_BTE = self._over_group_experts(weight_BTN[..., num_own:])
        mixed_BTH: Tensor = (own_BTM.unsqueeze(3) * own_BTMH).sum(dim=2)
        return mixed_BTH + over_BTE @ group_BEH

    def _experts(self, z_BGH: Tensor, z_BTH: Tensor) -> tuple[Tensor, Tensor]:
        own_BEH: Tensor = self.task_experts(self.task_features(z_BTH))
        group_BEH: Tensor = self.group_experts(self.group_features(z_BGH))
        return own_BEH, group_BEH

    def _weights(self, z_BGH: Tensor, z_BTH: Tensor) -> Tensor:
        weight_BTN: Tensor = self.gates(z_BTH, z_BGH[:, -1])
        return weight_BTN

    def _over_group_experts(self, weight_BTN: Tensor) -> Tensor:
        """Weights over all experts of groups and the shared ones, 0 for those of other groups."""
        if not self.config.hierarchy or len(self.groups) == 1:
            return weight_BTN
        num_group = self.config.num_group_experts
        is_own_TC = nn.functional.one_hot(self.group_of_T, len(self.groups)).to(weight_BTN.dtype)
        own_BTE = (is_own_TC.unsqueeze(2) * weight_BTN[:, :, None, :num_group]).flatten(2)
        return torch.cat([own_BTE, weight_BTN[..., num_group:]], dim=2)

    @torch.no_grad()
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        """Gates and expert statistics of both levels (see `Tower.explain`).

        Keys of the first level have the prefix ``level_1/`` and groups' names; ``self_gates/``
        stand beside ``gates/`` and weigh an owner's own experts.
        """
        found = self.first_level.explain(x_BD)
        z_BGH = self.first_level(x_BD)
        z_BTH = z_BGH.index_select(1, self.group_of_T)
        experts = self._experts(z_BGH, z_BTH)
        weight_BTN = self._weights(z_BGH, z_BTH)
        num_own, num_tasks = self.config.num_task_experts, len(self.tasks)
        eye_TT1 = torch.eye(num_tasks, dtype=x_BD.dtype, device=x_BD.device).unsqueeze(2)
        own_BTE = (weight_BTN[:, :, None, :num_own] * eye_TT1).flatten(2)
        over_BTE = torch.cat([own_BTE, self._over_group_experts(weight_BTN[..., num_own:])], dim=2)
        found |= named_gates(self.task_names, over_BTE)
        if self.self_gates is not None:
            self_BTM = self.self_gates(z_BTH)
            found |= {
                f"self_gates/{name}": self_BTM[:, t] for t, name in enumerate(self.task_names)
            }
        return found | expert_statistics(torch.cat(experts, dim=1))

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        """The first level's experts: groups', then shared ones; the second's: tasks', then those.

        All tasks reach every expert of the first level, through the shared block.
        """
        by_group = {
            group: tuple(slot.name for slot in self.tasks if slot.group == group)
            for group in self.groups
        }
        every = dict.fromkeys(self.groups, self.task_names)
        first = self.first_level.experts.refs("first_level.experts")
        refs = [*_of_groups(first, every, self.task_names)]
        refs += self.task_experts.refs("task_experts", level=2)
        reached = by_group if self.config.hierarchy else every
        last = self.group_experts.refs("group_experts", level=2)
        return (*refs, *_of_groups(last, reached, self.task_names))


class _FirstLevel(nn.Module):
    """Experts of groups and shared ones, and what each block's gates make of them.

    Shape: ``(B, D)`` -> ``(B, G, H)``: the groups' blocks, then the shared one.
    """

    eye_CC1: Tensor

    def __init__(self, groups: Sequence[str], in_dim: int, config: HoMEConfig) -> None:
        super().__init__()
        self.groups, num_group = groups, config.num_group_experts
        num_all = len(groups) * num_group + config.num_shared_experts
        self.num_group_experts, self.num_shared_experts = num_group, config.num_shared_experts
        self.features = (
            _feature_gates(config, in_dim, groups, has_shared=True, own_inputs=False)
            if config.feature_gates
            else nn.Identity()
        )
        self.experts = _experts(
            config,
            in_dim,
            groups,
            num_group,
            config.num_shared_experts,
            own_inputs=config.feature_gates,
        )
        self.gates = GateBank(
            groups,
            in_dim,
            num_task_experts=num_group if config.hierarchy else 0,
            num_shared_experts=config.num_shared_experts if config.hierarchy else num_all,
            shared_gate=True,
        )
        self.self_gates = (
            _SelfGates(in_dim, groups, num_group, config.num_shared_experts)
            if config.self_gates
            else None
        )
        self.register_buffer("eye_CC1", torch.eye(len(groups)).unsqueeze(-1), persistent=False)
        for weight in self.gates.parameters():
            nn.init.zeros_(weight)

    def forward(self, x_BD: Tensor) -> Tensor:
        """What each block extracts."""
        weight_BGE: Tensor = self.gates(x_BD)
        if self.self_gates is not None:
            own_BCM, shared_BS = self.self_gates(x_BD), self.self_gates.shared(x_BD)
            weight_BGE = weight_BGE + self._over_all(own_BCM, shared_BS)
        expert_BEH: Tensor = self.experts(self.features(x_BD))
        return weight_BGE @ expert_BEH

    def _over_all(self, own_BCM: Tensor, shared_BS: Tensor) -> Tensor:
        own_BCE = (own_BCM.unsqueeze(2) * self.eye_CC1).flatten(2)
        own_BCE = nn.functional.pad(own_BCE, (0, self.num_shared_experts))
        num_own = len(self.groups) * self.num_group_experts
        return torch.cat([own_BCE, nn.functional.pad(shared_BS, (num_own, 0)).unsqueeze(1)], dim=1)

    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        """Gates and expert statistics under ``level_1/``."""
        found = named_gates(self.groups, self.gates(x_BD), prefix="level_1/")
        if self.self_gates is not None:
            own_BCM, shared_BS = self.self_gates(x_BD), self.self_gates.shared(x_BD)
            found |= {f"level_1/self_gates/{g}": own_BCM[:, i] for i, g in enumerate(self.groups)}
            found["level_1/shared_self_gate"] = shared_BS
        return found | expert_statistics(self.experts(self.features(x_BD)), prefix="level_1/")


class _TaskGates(nn.Module):
    """Each task's softmax over the experts it reads, from its group's block and the shared one.

    Shape: ``(B, T, H)`` and ``(B, H)`` -> ``(B, T, N)``.
    """

    def __init__(self, tasks: Sequence[str], width: int, num_read: int) -> None:
        super().__init__()
        self.width, self.num_tasks, self.num_read = width, len(tasks), num_read
        zeros = {task: nn.Parameter(torch.zeros(2 * width, num_read)) for task in tasks}
        self.task_weight = by_task(zeros)

    def forward(self, z_BTH: Tensor, shared_BH: Tensor) -> Tensor:
        """The weights."""
        weight_TDN = torch.stack(list(self.task_weight.values()))
        own_THN, over_THN = weight_TDN.split(self.width, dim=1)
        own_BTN = torch.bmm(z_BTH.transpose(0, 1), own_THN).transpose(0, 1)
        over_BN = shared_BH @ over_THN.transpose(0, 1).flatten(1)
        logits_BTN: Tensor = own_BTN + over_BN.view(-1, self.num_tasks, self.num_read)
        return logits_BTN.softmax(dim=2)


class _SelfGates(nn.Module):
    """Each owner's weights of its own experts: a softmax, or a sigmoid over one expert.

    Shape: ``(B, D)`` or ``(B, T, D)`` -> ``(B, T, M)``.
    """

    def __init__(
        self,
        in_dim: int,
        owners: Sequence[str],
        num_experts: int,
        num_shared: int = 0,
        *,
        own_inputs: bool = False,
    ) -> None:
        super().__init__()
        self.num_owners, self.own_inputs = len(owners), own_inputs
        self.num_experts, self.num_shared = num_experts, num_shared
        zeros = {owner: nn.Parameter(torch.zeros(in_dim, num_experts)) for owner in owners}
        self.task_weight = by_task(zeros)
        self.shared_weight = nn.Parameter(torch.zeros(in_dim, num_shared)) if num_shared else None

    def forward(self, x: Tensor) -> Tensor:
        """The owners' weights."""
        weights = list(self.task_weight.values())
        if self.own_inputs:
            logits_BTM = torch.bmm(x.transpose(0, 1), torch.stack(weights)).transpose(0, 1)
        else:
            logits_BN = x @ torch.cat(weights, dim=1)
            logits_BTM = logits_BN.view(-1, self.num_owners, self.num_experts)
        return _shares(logits_BTM, self.num_experts)

    def shared(self, x_BD: Tensor) -> Tensor:
        """The weights of what is shared."""
        assert self.shared_weight is not None
        return _shares(x_BD @ self.shared_weight, self.num_shared)


def _shares(logits: Tensor, count: int) -> Tensor:
    return logits.sigmoid() if count == 1 else logits.softmax(dim=-1)


def _experts(
    config: HoMEConfig,
    in_dim: int,
    owners: Sequence[str],
    num_own: int,
    num_shared: int = 0,
    *,
    own_inputs: bool = True,
) -> ExpertBank:
    return ExpertBank(
        in_dim,
        config.expert_widths,
        tasks=owners,
        num_task_experts=num_own,
        num_shared_experts=num_shared,
        dropout=config.dropout,
        own_inputs=own_inputs,
        norm=config.norm,
        activation=config.activation,
    )


def _feature_gates(
    config: HoMEConfig,
    in_dim: int,
    owners: Sequence[str],
    *,
    has_shared: bool = False,
    own_inputs: bool = True,
) -> FeatureGates:
    return FeatureGates(
        in_dim,
        owners=owners,
        has_shared=has_shared,
        num_parts=config.num_feature_gate_parts,
        rank=config.feature_gate_rank,
        own_inputs=own_inputs,
    )


def _of_groups(
    refs: Iterable[ExpertRef], reached: Mapping[str, Sequence[str]], tasks: Sequence[str]
) -> Iterator[ExpertRef]:
    """Experts whose owners are groups: the tasks that they reach."""
    for ref in refs:
        found = {task for group in ref.tasks for task in reached[group]}
        is_shared = ref.parameters[0][0].endswith("shared_weight")
        name = ref.name if is_shared else f"group {ref.name}"
        yield ref._replace(name=name, tasks=tuple(task for task in tasks if task in found))
