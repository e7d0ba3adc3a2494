"""Customized Gate Control.

Shape letters: B rows, D input width, T tasks, M experts of each task, S shared experts,
H expert width, O logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recmtl.towers.expert_bank import ExpertRef
from recmtl.towers.extraction import ExtractionLevel, check_extraction_sizes
from recmtl.towers.inputs import InputDims, TaskSlot
from recmtl.towers.layers import HeadBank
from recmtl.towers.tower import Tower

__all__ = ["CGC", "CGCConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CGCConfig:
    """Sizes of a CGC tower."""

    kind: Literal["cgc"] = "cgc"
    num_shared_experts: int = 4
    """Number of experts that every task reads; 0 for none."""
    num_task_experts: int = 2
    """Number of experts that each task has for itself; 0 for none."""
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
        check_extraction_sizes(self)


class CGC(Tower):
    r"""Experts of each task and shared ones; a task's gate mixes its own and the shared ones.

    .. math:: z_t = h^t\big(w^t(x)\, S^t(x)\big), \qquad w^t(x) = \operatorname{softmax}(W^t x),
        \qquad S^t = [E_{t,1}, \dots, E_{t,M}, E_{s,1}, \dots, E_{s,S}]

    Reference: Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model
        for Personalized Recommendations", RecSys 2020, equations (1)-(4).
        doi:10.1145/3383313.3412236
    Departures: None. Experts in the gate are in the paper's order, own then shared.
    Shape: ``(B, D)`` -> ``(B, O)`` logits, columns in the order of ``tasks``.

    Example:
        >>> tower = CGC(CGCConfig(), in_dim=16, tasks=("click", "like"))
        >>> tower(torch.zeros(3, 16)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, config: CGCConfig, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        """Build the tower.

        Args:
            config: its sizes.
            in_dim: width D of the input.
            tasks: task names, or slots.
        """
        super().__init__(config, in_dim=in_dim, tasks=tasks)
        self.level = ExtractionLevel(self.task_names, self.width, config)
        self.heads = HeadBank(
            self.tasks, config.expert_widths[-1], config.head_widths, dropout=config.dropout
        )

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits ``(B, O)``."""
        mixed_BTH = self.level(x_BD)  # equations (1)-(3)
        logits: Tensor = self.heads(mixed_BTH)  # equation (4)
        return logits

    @torch.no_grad()
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        """Gates of each task and statistics of each expert (see `Tower.explain`)."""
        return self.level.explain(x_BD)

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        """Each task's experts, then the shared ones."""
        return tuple(self.level.refs("level"))
