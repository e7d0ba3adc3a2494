"""One level of experts and gates, as CGC has one and PLE several.

Shape letters: B rows, D input width, T tasks, E = all experts, G gates, H expert width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

from recmtl._checks import (
    require_fraction,
    require_not_empty,
    require_not_negative,
    require_widths,
)
from recmtl.towers.expert_bank import ExpertBank, ExpertRef
from recmtl.towers.layers import GateBank
from recmtl.towers.mixture import mixture
from recmtl.towers.tower import expert_statistics, named_gates

__all__ = ["ExtractionLevel", "ExtractionSizes", "check_extraction_sizes"]


class ExtractionSizes(Protocol):
    """The fields that `CGCConfig` and `PLEConfig` have in common."""

    @property
    def num_shared_experts(self) -> int:
        """Experts that every task reads."""

    @property
    def num_task_experts(self) -> int:
        """Experts that each task has for itself."""

    @property
    def expert_widths(self) -> tuple[int, ...]:
        """Layer widths of each expert."""

    @property
    def gate_widths(self) -> tuple[int, ...]:
        """Hidden widths of each gate."""

    @property
    def gate_bias(self) -> bool:
        """Whether a gate's last layer has a bias."""

    @property
    def head_widths(self) -> tuple[int, ...]:
        """Hidden widths of each head."""

    @property
    def dropout(self) -> float:
        """Share of units dropped."""


def check_extraction_sizes(sizes: ExtractionSizes) -> None:
    """Raise ValueError where a count, a width or the dropout makes no sense."""
    require_not_negative(
        num_shared_experts=sizes.num_shared_experts, num_task_experts=sizes.num_task_experts
    )
    if sizes.num_shared_experts + sizes.num_task_experts == 0:
        raise ValueError(
            "`num_shared_experts` and `num_task_experts` are both 0; every task needs an expert."
        )
    require_widths(
        expert_widths=sizes.expert_widths,
        gate_widths=sizes.gate_widths,
        head_widths=sizes.head_widths,
    )
    require_not_empty(expert_widths=sizes.expert_widths)
    require_fraction(dropout=sizes.dropout)


class ExtractionLevel(nn.Module):
    """Experts of each task and shared ones, mixed by each task's gate: one level of CGC and PLE.

    Shape: ``(B, D)`` or ``(B, G, D)`` -> ``(B, G', H)``, G' = T and one more with a shared gate.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        in_dim: int,
        sizes: ExtractionSizes,
        *,
        shared_gate: bool = False,
        own_inputs: bool = False,
    ) -> None:
        """Build it.

        Args:
            tasks: names of the tasks.
            in_dim: width D of the input.
            sizes: a `CGCConfig` or `PLEConfig`.
            shared_gate: whether a last, shared gate mixes all experts for the next level.
            own_inputs: True: the input is ``(B, G, D)``, one for each task and a last one for what
                is shared; False: all read ``(B, D)``.
        """
        super().__init__()
        self.experts = ExpertBank(
            in_dim,
            sizes.expert_widths,
            tasks=tasks,
            num_task_experts=sizes.num_task_experts,
            num_shared_experts=sizes.num_shared_experts,
            dropout=sizes.dropout,
            own_inputs=own_inputs,
        )
        self.gates = GateBank(
            tasks,
            in_dim,
            num_task_experts=sizes.num_task_experts,
            num_shared_experts=sizes.num_shared_experts,
            widths=sizes.gate_widths,
            bias=sizes.gate_bias,
            shared_gate=shared_gate,
            own_inputs=own_inputs,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Each gate's mixture, ``(B, G', H)``."""
        return mixture(self.experts, self.gates, x)

    def explain(self, x: Tensor, *, prefix: str = "") -> dict[str, Tensor]:
        """Gates and expert statistics (see `Tower.explain`)."""
        gates = named_gates(self.experts.tasks, self.gates(x), prefix=prefix)
        return gates | expert_statistics(self.experts(x), prefix=prefix)

    def refs(self, prefix: str, *, level: int = 1, mixed: bool = False) -> Iterator[ExpertRef]:
        """Where each expert's weights are (see `ExpertBank.refs`)."""
        return self.experts.refs(f"{prefix}.experts", level=level, mixed=mixed)
