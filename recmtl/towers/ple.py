"""Progressive Layered Extraction.

Shape letters: B rows, D input width, T tasks, G streams between levels (the tasks' and the shared
one), H expert width, O logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from recmtl._checks import require_positive
from recmtl.towers.expert_bank import ExpertRef
from recmtl.towers.extraction import ExtractionLevel, check_extraction_sizes
from recmtl.towers.inputs import InputDims, TaskSlot
from recmtl.towers.layers import HeadBank
from recmtl.towers.tower import Tower

__all__ = ["PLE", "PLEConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PLEConfig:
    """Sizes of a PLE tower; every level has the same."""

    kind: Literal["ple"] = "ple"
    num_levels: int = 2
    """Number of levels of experts and gates; one makes it CGC."""
    num_shared_experts: int = 4
    """Number of experts of a level that every task reads; 0 for none."""
    num_task_experts: int = 2
    """Number of experts of a level that each task has for itself; 0 for none."""
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
        require_positive(num_levels=self.num_levels)
        check_extraction_sizes(self)


class PLE(Tower):
    r"""Levels of task experts and shared experts; each level reads what the one below extracted.

    .. math:: g_{t,0} = g_{s,0} = x, \qquad
        g_{t,j} = \operatorname{softmax}(W_{t,j}\, g_{t,j-1})\, S_{t,j}, \qquad
        g_{s,j} = \operatorname{softmax}(W_{s,j}\, g_{s,j-1})\, S_{s,j}, \qquad z_t = h^t(g_{t,N})

    with :math:`S_{t,j}` task t's experts of level j, then the shared ones; :math:`S_{s,j}` all
    experts [task 1 ... task T; shared]; task experts read :math:`g_{t,j-1}`, shared ones
    :math:`g_{s,j-1}`. The last level has no shared gate.

    Reference: Tang et al., "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model
        for Personalized Recommendations", RecSys 2020, equations (5)-(7).
        doi:10.1145/3383313.3412236
    Departures: None. The order of the experts in the shared gate is not stated there.
    Shape: ``(B, D)`` -> ``(B, O)`` logits, columns in the order of ``tasks``.

    Example:
        >>> tower = PLE(PLEConfig(), in_dim=16, tasks=("click", "like"))
        >>> tower(torch.zeros(3, 16)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, config: PLEConfig, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        """Build the tower.

        Args:
            config: its sizes.
            in_dim: width D of the input.
            tasks: task names, or slots.
        """
        super().__init__(config, in_dim=in_dim, tasks=tasks)
        num_levels, width = config.num_levels, config.expert_widths[-1]
        has_shared_stream = config.num_shared_experts > 0
        self.levels = nn.ModuleList(
            ExtractionLevel(
                self.task_names,
                self.width if j == 0 else width,
                config,
                shared_gate=has_shared_stream and j < num_levels - 1,
                own_inputs=j > 0,
            )
            for j in range(num_levels)
        )
        self.heads = HeadBank(self.tasks, width, config.head_widths, dropout=config.dropout)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits ``(B, O)``."""
        stream = x_BD
        for level in self.levels:
            stream = level(stream)  # (B, G, H): equation (5), and (6) for the shared stream
        logits: Tensor = self.heads(stream)  # equation (7)
        return logits

    @torch.no_grad()
    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        """Gates and expert statistics of every level (see `Tower.explain`).

        The last level's keys have no prefix; those below have ``level_1/``, ``level_2/``, ... and
        a ``shared_gate`` beside ``gates/<task>``.
        """
        stream, found = x_BD, dict[str, Tensor]()
        for j, level in self._numbered():
            found |= level.explain(stream, prefix="" if j == len(self.levels) else f"level_{j}/")
            stream = level(stream)
        return found

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        """Level by level, each task's experts, then the shared ones.

        Below the last level a task's experts reach the other tasks, through the shared gate.
        """
        refs: list[ExpertRef] = []
        for j, level in self._numbered():
            mixed = j < len(self.levels) and self.config.num_shared_experts > 0
            refs += level.refs(f"levels.{j - 1}", level=j, mixed=mixed)
        return tuple(refs)

    def _numbered(self) -> Iterator[tuple[int, ExtractionLevel]]:
        for j, level in enumerate(self.levels, start=1):
            assert isinstance(level, ExtractionLevel)
            yield j, level
