"""Multi-gate Mixture-of-Experts.

Shape letters: B rows, D input width, E experts, H expert width, T tasks, O logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recmtl._checks import require_fraction, require_not_empty, require_positive, require_widths
from recmtl.towers.expert_bank import ExpertBank, ExpertRef
from recmtl.towers.inputs import InputDims, TaskSlot
from recmtl.towers.layers import GateBank, HeadBank
from recmtl.towers.mixture import mixture
from recmtl.towers.tower import Tower, expert_statistics, named_gates

__all__ = ["MMoE", "MMoEConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MMoEConfig:
    """Sizes of an MMoE tower."""

    kind: Literal["mmoe"] = "mmoe"
    num_experts: int = 8
    """Number of experts; every task mixes all of them."""
    expert_widths: tuple[int, ...] = (256, 128)
    """Layer widths of each expert."""
    gate_widths: tuple[int, ...] = ()
    """Hidden widths of each gate; none for linear gates, as in the paper."""
    gate_bias: bool = False
    """Whether a gate's last layer has a bias; the paper's has none."""
    head_widths: tuple[int, ...] = (64,)
    """Hidden widths of each task's head; a last layer to its logits follows."""
    dropout: float = 0.0
    """Share of units dropped after each layer of experts and heads; gates are never dropped."""

    def __post_init__(self) -> None:
        require_positive(num_experts=self.num_experts)
        require_widths(
            expert_widths=self.expert_widths,
            gate_widths=self.gate_widths,
            head_widths=self.head_widths,
        )
        require_not_empty(expert_widths=self.expert_widths)
        require_fraction(dropout=self.dropout)


class MMoE(Tower):
    r"""Shared experts, mixed for each task by that task's own softmax gate.

    .. math:: z_t = h^t\Big(\sum_e g^t_e(x)\, f_e(x)\Big), \qquad
        g^t(x) = \operatorname{softmax}(W^t x)

    Reference: Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate
        Mixture-of-Experts", KDD 2018, equations (6)-(8). doi:10.1145/3219819.3220007
    Departures: None.
    Shape: ``(B, D)`` -> ``(B, O)`` logits, columns in the order of ``tasks``.

    Example:
        >>> tower = MMoE(MMoEConfig(), in_dim=16, tasks=("click", "like"))
        >>> tower(torch.zeros(3, 16)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, config: MMoEConfig, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        """Build the tower.

        Args:
            config: its sizes.
            in_dim: width D of the input.
            tasks: task names, or slots.
        """
        super().__init__(config, in_dim=in_dim, tasks=tasks)
        names, widths, dropout = self.task_names, config.expert_widths, config.dropout
        self.experts = ExpertBank(
            self.width, widths, tasks=names, num_shared_experts=config.num_experts, dropout=dropout
        )
        self.gates = GateBank(
            names,
            self.width,
            num_shared_experts=config.num_experts,
            widths=config.gate_widths,
            bias=config.gate_bias,
        )
        self.heads = HeadBank(self.tasks, widths[-1], config.head_widths, dropout=dropout)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits ``(B, O)``."""
        mixed_BTH = mixture(self.experts, self.gates, x_BD)  # equations (7) and (8)
        logits: Tensor = self.heads(mixed_BTH)  # equation (6)
        return logits

    @torch.no_grad()
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        """Gates of each task and statistics of each expert (see `Tower.explain`)."""
        gates = named_gates(self.task_names, self.gates(x_BD))
        return gates | expert_statistics(self.experts(x_BD))

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        """The experts, all shared."""
        return tuple(self.experts.refs("experts"))
