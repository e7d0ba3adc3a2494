"""The network of the Entire Space Multi-task Model.

Shape letters: B rows, D input width, O logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recmtl._checks import require_fraction, require_widths
from recmtl.towers.expert_bank import ExpertBank, ExpertRef
from recmtl.towers.inputs import InputDims, TaskSlot
from recmtl.towers.layers import HeadBank
from recmtl.towers.tower import Tower, expert_statistics

__all__ = ["ESMM", "ESMMConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ESMMConfig:
    """Sizes of an ESMM tower."""

    kind: Literal["esmm"] = "esmm"
    head_widths: tuple[int, ...] = (256, 128, 64)
    """Hidden widths of each task's own network; a last layer to its logits follows."""
    dropout: float = 0.0
    """Share of units dropped after each hidden layer."""

    def __post_init__(self) -> None:
        require_widths(head_widths=self.head_widths)
        require_fraction(dropout=self.dropout)


class ESMM(Tower):
    r"""A network of its own for each task; the tasks share the input, that is the embeddings.

    .. math:: z_t = h^t(x)

    The products of probabilities that make it an entire-space model are not part of the tower:
    the tasks declare them, and the objective `entire_space` trains through them.

    Reference: Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating
        Post-Click Conversion Rate", SIGIR 2018, section 2.3 and figure 2.
        doi:10.1145/3209978.3210104
    Departures: One logit and a sigmoid for each task, where the paper has a softmax over two.
    Shape: ``(B, D)`` -> ``(B, O)`` logits, columns in the order of ``tasks``.

    Example:
        >>> tower = ESMM(ESMMConfig(), in_dim=16, tasks=("ctr", "cvr"))
        >>> tower(torch.zeros(3, 16)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, config: ESMMConfig, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        """Build the tower.

        Args:
            config: its sizes.
            in_dim: width D of the input.
            tasks: task names, or slots.
        """
        super().__init__(config, in_dim=in_dim, tasks=tasks)
        self.heads = HeadBank(
            self.tasks, self.width, config.head_widths, dropout=config.dropout, own_inputs=False
        )

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits ``(B, O)``."""
        logits: Tensor = self.heads(x_BD)
        return logits

    @torch.no_grad()
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        """Statistics of each task's last hidden layer, as one expert a task; there are no gates."""
        if not self.config.head_widths:
            return {}
        return expert_statistics(self.heads.hidden(x_BD))

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        """The hidden layers of each task's network, as one expert a task."""
        if not isinstance(self.heads.hidden, ExpertBank):
            return ()
        return tuple(self.heads.hidden.refs("heads.hidden"))
