"""Hierarchy of Multi-gate Experts.

Shape letters: B rows, D input width, T tasks, C groups of tasks, G = C + 1 blocks of the first
level (groups, then the shared one), M experts of each owner, S shared ones, E all experts of a
bank, H expert width, N experts that a task reads, O logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from recmtl._checks import (
    require_fraction,
    require_not_empty,
    require_one_of,
    require_positive,
    require_widths,
)
from recmtl.towers.chunked import is_free, is_watched
from recmtl.towers.expert_bank import ExpertBank, ExpertRef
from recmtl.towers.expert_norm import Activation, Norm
from recmtl.towers.feature_gates import FeatureGates
from recmtl.towers.inputs import InputDims, TaskSlot, groups_of
from recmtl.towers.layers import GateBank, HeadBank
from recmtl.towers.parameters import by_task
from recmtl.towers.tower import Tower, expert_statistics, named_gates

__all__ = ["HoME", "HoMEConfig"]


_PART_FLOATS = 1 << 20
"""Activations of the widest layer that are worked on at a time: 4 MiB of float32."""
_LEAST_ROWS = 512


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
        self.task_features = _feature_gates(config, width, names) if own else None
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
            _SelfGates(width, names, config.num_task_experts) if config.self_gates else None
        )
        self.by_group = _ByGroup(where, len(self.groups))
        self.heads = HeadBank(self.tasks, width, config.head_widths, dropout=config.dropout)
        banks = (self.first_level.experts, self.task_experts, self.group_experts)
        columns = max(bank.num_experts for bank in banks) * max(config.expert_widths)
        self._part_rows = max(_LEAST_ROWS, _PART_FLOATS // columns)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits ``(B, O)``."""
        if not self._can_split(x_BD):
            return self._logits(x_BD)
        return torch.cat([self._logits(part_BD) for part_BD in x_BD.split(self._part_rows)])

    def _logits(self, x_BD: Tensor) -> Tensor:
        logits_BO: Tensor = self.heads(self._mixed(self.first_level(x_BD)))
        return logits_BO

    def _can_split(self, x_BD: Tensor) -> bool:
        """Whether rows can be computed in parts, whose activations stay in a CPU's caches.

        Between its products the tower makes many passes over them.
        """
        if self.config.norm == "batch" or not is_free(x_BD):
            return False
        return len(x_BD) > self._part_rows and not is_watched(*self.children())

    def _mixed(self, z_BGH: Tensor) -> Tensor:
        """What each task's head reads, ``(B, T, H)``."""
        read = self._read(z_BGH)
        over_own_TMB, over_group_BTE, self_TMB = self._weights(read, z_BGH)
        own_EBH, group_BEH = self._experts(read, z_BGH)
        if self_TMB is not None:
            over_own_TMB = over_own_TMB + self_TMB
        own_TMBH = own_EBH.unflatten(0, (len(self.tasks), self.config.num_task_experts))
        mixed_TBH = (over_own_TMB.unsqueeze(3) * own_TMBH).sum(dim=1)
        mixed_BTH: Tensor = mixed_TBH.transpose(0, 1) + torch.bmm(over_group_BTE, group_BEH)
        return mixed_BTH

    def _read(self, z_BGH: Tensor) -> _Read:
        """What tasks' gates and features make of their groups' blocks, in one product."""
        z_CHB = z_BGH[:, : len(self.groups)].permute(1, 2, 0)
        weights, num_gate = [self.gates.own()], self.gates.num_read
        num_self = 0 if self.self_gates is None else self.self_gates.num_experts
        if self.self_gates is not None:
            weights.append(self.self_gates.own())
        if self.task_features is not None:
            weights.append(self.task_features.reads())
        out_TNB = self.by_group(z_CHB, torch.cat(weights, dim=2))
        rest_TNB = out_TNB[:, num_gate:]
        return _Read(
            out_TNB[:, :num_gate],
            rest_TNB[:, :num_self] if num_self else None,
            rest_TNB[:, num_self:] if self.task_features is not None else None,
        )

    def _experts(self, read: _Read, z_BGH: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of tasks' experts, ``(T * M, B, H)``, and of groups' and shared ones."""
        u_TBH = z_BGH.transpose(0, 1).index_select(0, self.group_of_T)
        if self.task_features is not None and read.features_TNB is not None:
            u_TBH = self.task_features.weigh(u_TBH, read.features_TNB)
        own_BEH: Tensor = self.task_experts(u_TBH.transpose(0, 1))
        group_BEH: Tensor = self.group_experts(self.group_features(z_BGH))
        return own_BEH.transpose(0, 1), group_BEH

    def _weights(self, read: _Read, z_BGH: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gates over tasks' own experts, over all of groups and shared ones, and self-gates."""
        weight_TNB = self.gates(read.gates_TNB, z_BGH[:, -1])
        num_own = self.config.num_task_experts
        own_TMB, rest_TNB = weight_TNB[:, :num_own], weight_TNB[:, num_own:]
        self_TMB = None if read.self_TMB is None else _shares(read.self_TMB, num_own, dim=1)
        rest_BTN = rest_TNB.permute(2, 0, 1).contiguous()  # products of strided ones are slow
        return own_TMB, self._over_group_experts(rest_BTN), self_TMB

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
        read = self._read(z_BGH)
        over_own_TMB, over_group_BTE, self_TMB = self._weights(read, z_BGH)
        own_EBH, group_BEH = self._experts(read, z_BGH)
        eye_TT1 = torch.eye(len(self.tasks), dtype=x_BD.dtype, device=x_BD.device).unsqueeze(2)
        over_own_BTE = (over_own_TMB.permute(2, 0, 1).unsqueeze(2) * eye_TT1).flatten(2)
        found |= named_gates(self.task_names, torch.cat([over_own_BTE, over_group_BTE], dim=2))
        if self_TMB is not None:
            found |= {f"self_gates/{name}": self_TMB[t].T for t, name in enumerate(self.task_names)}
        return found | expert_statistics(torch.cat([own_EBH.transpose(0, 1), group_BEH], dim=1))

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


class _Read(NamedTuple):
    """What reads a task's group's block: columns N of its gate, of its self-gate, its features."""

    gates_TNB: Tensor
    self_TMB: Tensor | None
    features_TNB: Tensor | None


class _ByGroup(nn.Module):
    """Each task's columns times its group's block: tasks of a group read it in one product.

    Shape: ``(C, H, B)`` and weights ``(T, H, N)`` -> ``(T, N, B)``. Groups of fewer tasks than the
    largest are filled up with columns that nobody reads.
    """

    task_of_S: Tensor
    slot_of_T: Tensor

    def __init__(self, group_of_T: Sequence[int], num_groups: int) -> None:
        super().__init__()
        tasks_of = [[t for t, g in enumerate(group_of_T) if g == c] for c in range(num_groups)]
        self.most = max(map(len, tasks_of))
        slots = [t for tasks in tasks_of for t in tasks + [0] * (self.most - len(tasks))]
        place = {t: c * self.most + i for c, ts in enumerate(tasks_of) for i, t in enumerate(ts)}
        where = [place[t] for t in range(len(group_of_T))]
        self.register_buffer("task_of_S", torch.tensor(slots), persistent=False)
        self.register_buffer("slot_of_T", torch.tensor(where), persistent=False)

    def forward(self, z_CHB: Tensor, weight_THN: Tensor) -> Tensor:
        """The products."""
        weight_SNH = weight_THN.transpose(1, 2).index_select(0, self.task_of_S)
        weight_CKH = weight_SNH.unflatten(0, (-1, self.most)).flatten(1, 2)
        out_SNB = torch.bmm(weight_CKH, z_CHB).unflatten(1, (self.most, -1)).flatten(0, 1)
        out_TNB: Tensor = out_SNB.index_select(0, self.slot_of_T)
        return out_TNB


class _TaskGates(nn.Module):
    """Each task's softmax over the experts it reads, from its group's block and the shared one.

    Shape: ``(T, N, B)``, what `own` made of the groups' blocks, and ``(B, H)`` -> ``(T, N, B)``.
    """

    def __init__(self, tasks: Sequence[str], width: int, num_read: int) -> None:
        super().__init__()
        self.width, self.num_tasks, self.num_read = width, len(tasks), num_read
        zeros = {task: nn.Parameter(torch.zeros(2 * width, num_read)) for task in tasks}
        self.task_weight = by_task(zeros)

    def own(self) -> Tensor:
        """Weights of the columns that read groups' blocks, ``(T, H, N)``."""
        return torch.stack(list(self.task_weight.values()))[:, : self.width]

    def forward(self, own_TNB: Tensor, shared_BH: Tensor) -> Tensor:
        """The weights."""
        weight_TDN = torch.stack(list(self.task_weight.values()))
        over_KH = weight_TDN[:, self.width :].transpose(1, 2).flatten(0, 1)
        over_TNB = (over_KH @ shared_BH.T).view(self.num_tasks, self.num_read, -1)
        weight_TNB: Tensor = (own_TNB + over_TNB).softmax(dim=1)
        return weight_TNB


class _SelfGates(nn.Module):
    """Each owner's weights of its own experts: a softmax, or a sigmoid over one expert.

    Shape: ``(B, D)`` -> ``(B, T, M)``.
    """

    def __init__(
        self, in_dim: int, owners: Sequence[str], num_experts: int, num_shared: int = 0
    ) -> None:
        super().__init__()
        self.num_owners, self.num_experts = len(owners), num_experts
        self.num_shared = num_shared
        zeros = {owner: nn.Parameter(torch.zeros(in_dim, num_experts)) for owner in owners}
        self.task_weight = by_task(zeros)
        self.shared_weight = nn.Parameter(torch.zeros(in_dim, num_shared)) if num_shared else None

    def own(self) -> Tensor:
        """Weights of the owners' columns, ``(T, D, M)``."""
        return torch.stack(list(self.task_weight.values()))

    def forward(self, x_BD: Tensor) -> Tensor:
        """The owners' weights."""
        logits_BN = x_BD @ torch.cat(list(self.task_weight.values()), dim=1)
        return _shares(logits_BN.view(-1, self.num_owners, self.num_experts), self.num_experts)

    def shared(self, x_BD: Tensor) -> Tensor:
        """The weights of what is shared."""
        assert self.shared_weight is not None
        return _shares(x_BD @ self.shared_weight, self.num_shared)


def _shares(logits: Tensor, count: int, dim: int = -1) -> Tensor:
    return logits.sigmoid() if count == 1 else logits.softmax(dim=dim)


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
        is_shared = ".task_weight." not in ref.parameters[0][0]
        name = ref.name if is_shared else f"group {ref.name}"
        yield ref._replace(name=name, tasks=tuple(task for task in tasks if task in found))
