"""Shared bottom, or hard parameter sharing.

Shape letters: B rows, D input width, H bottom width, O logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recmtl._checks import require_fraction, require_not_empty, require_widths
from recmtl.towers.expert_bank import ExpertBank, ExpertRef
from recmtl.towers.inputs import InputDims, TaskSlot
from recmtl.towers.layers import HeadBank
from recmtl.towers.tower import Tower, expert_statistics

__all__ = ["SharedBottom", "SharedBottomConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedBottomConfig:
    """Sizes of a shared-bottom tower."""

    kind: Literal["shared_bottom"] = "shared_bottom"
    expert_widths: tuple[int, ...] = (256, 128)
    """Layer widths of the bottom, the one expert that every task reads."""
    head_widths: tuple[int, ...] = (64,)
    """Hidden widths of each task's head; a last layer to its logits follows."""
    dropout: float = 0.0
    """Share of units dropped after each layer of the bottom and of the heads."""

    def __post_init__(self) -> None:
        require_widths(expert_widths=self.expert_widths, head_widths=self.head_widths)
        require_not_empty(expert_widths=self.expert_widths)
        require_fraction(dropout=self.dropout)


class SharedBottom(Tower):
    r"""One network that every task reads, and a head for each.

    .. math:: z_t = h^t\big(f(x)\big)

    Reference: Caruana, "Multitask Learning", Machine Learning 28, 1997; as written in Ma et al.,
        "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts",
        KDD 2018, equation (1). doi:10.1145/3219819.3220007
    Departures: None.
    Shape: ``(B, D)`` -> ``(B, O)`` logits, columns in the order of ``tasks``.

    Example:
        >>> tower = SharedBottom(SharedBottomConfig(), in_dim=16, tasks=("click", "like"))
        >>> tower(torch.zeros(3, 16)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        config: SharedBottomConfig,
        *,
        in_dim: int | InputDims,
        tasks: Sequence[str | TaskSlot],
    ) -> None:
        """Build the tower.

        Args:
            config: its sizes.
            in_dim: width D of the input.
            tasks: task names, or slots.
        """
        super().__init__(config, in_dim=in_dim, tasks=tasks)
        widths, dropout = config.expert_widths, config.dropout
        self.experts = ExpertBank(
            self.width, widths, tasks=self.task_names, num_shared_experts=1, dropout=dropout
        )
        self.heads = HeadBank(
            self.tasks, widths[-1], config.head_widths, dropout=dropout, own_inputs=False
        )

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits ``(B, O)``."""
        logits: Tensor = self.heads(self.experts(x_BD).squeeze(1))
        return logits

    @torch.no_grad()
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        """Statistics of the bottom, as one expert; there are no gates."""
        return expert_statistics(self.experts(x_BD))

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        """The bottom, as one shared expert."""
        return tuple(self.experts.refs("experts"))
