"""What all towers have in common: arguments kept, base rates, hooks for reports and tests.

Shape letters: B rows, D input width, E experts, G gates, H expert width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from recmtl.towers.expert_bank import ExpertRef
from recmtl.towers.inputs import InputDims, TaskSlot, input_width, task_slots
from recmtl.towers.layers import HeadBank

__all__ = ["Tower", "expert_statistics", "named_gates"]


class Tower(nn.Module):
    """What every tower of this package has: its arguments, its heads and the hooks around them.

    A tower of your own need not inherit from it; `recmtl.testing.assert_tower_ok` says what counts.

    Attributes:
        config: the tower's frozen config.
        in_dim: as given.
        tasks: one slot a task, in the order of the logits.
        requires: what it needs beyond the vector ``x_BD`` (fields of `TowerInput`).
    """

    requires: frozenset[str] = frozenset()
    heads: HeadBank

    def __init__(
        self, config: Any, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        """Keep the arguments.

        Args:
            config: the tower's frozen config.
            in_dim: width D of the input vector, or the sizes of a `TowerInput`.
            tasks: task names, or slots.
        """
        super().__init__()
        self.config = config
        self.in_dim = in_dim
        self.tasks = task_slots(tasks)

    @property
    def width(self) -> int:
        """Width D of the input vector."""
        return input_width(self.in_dim)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(slot.name for slot in self.tasks)

    def set_base_rates(self, rates: Mapping[str, float | Sequence[float]]) -> None:
        """Let heads start at known rates: the last biases of each named task say them.

        Args:
            rates: task -> share of positives, whose logit becomes the bias of a task with one
                logit; or the share of each class, whose logarithms become the biases of a task with
                several. Shares are clipped to [1e-6, 1 - 1e-6]; not all tasks need them.
        """
        self.heads.set_base_rates(rates)

    def explain(self, x_BD: Tensor) -> dict[str, Tensor]:
        """Gates and expert statistics of a batch, without gradient; `forward` is not changed.

        Args:
            x_BD: what `forward` takes.

        Returns:
            ``gates/<task>``: ``(B, E)`` weights over all experts, 0 for those the task does not
            read; ``experts/mean``, ``experts/std`` and ``experts/zero_share`` (share of activations
            that are exactly 0): ``(E,)``, over rows and units. Experts are in the order of
            `expert_refs`. Levels below the last have the prefix ``level_<l>/``.
        """
        raise NotImplementedError

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        """Each expert's name, tasks and weights; the last level's in the order of `explain`."""
        return ()


def named_gates(tasks: Sequence[str], weight_BGE: Tensor, *, prefix: str = "") -> dict[str, Tensor]:
    """Entries of `Tower.explain` for the weights of a `GateBank`.

    Args:
        tasks: names of the tasks, in the order of the gates.
        weight_BGE: the bank's output; a gate beyond the tasks' is the shared one.
        prefix: what stands before each key.
    """
    gates = {f"{prefix}gates/{task}": weight_BGE[:, t] for t, task in enumerate(tasks)}
    if weight_BGE.shape[1] > len(tasks):
        gates[f"{prefix}shared_gate"] = weight_BGE[:, len(tasks)]
    return gates


def expert_statistics(expert_BEH: Tensor, *, prefix: str = "") -> dict[str, Tensor]:
    """Entries of `Tower.explain` for the outputs of an `ExpertBank`.

    Args:
        expert_BEH: the bank's output.
        prefix: what stands before each key.

    Example:
        >>> import torch
        >>> {k: v.tolist() for k, v in expert_statistics(torch.tensor([[[0.0, 2.0]]])).items()}
        {'experts/mean': [1.0], 'experts/std': [1.0], 'experts/zero_share': [0.5]}
    """
    return {
        f"{prefix}experts/mean": expert_BEH.mean(dim=(0, 2)),
        f"{prefix}experts/std": expert_BEH.std(dim=(0, 2), correction=0),
        f"{prefix}experts/zero_share": (expert_BEH == 0).to(expert_BEH.dtype).mean(dim=(0, 2)),
    }
