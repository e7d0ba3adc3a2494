"""Towers: from a row's input vector to one logit a task. Needs torch and nothing else.

Example:
    >>> import torch
    >>> tower = PLE(PLEConfig(num_levels=2), in_dim=256, tasks=("ctr", "cvr"))
    >>> tower(torch.zeros(3, 256)).shape
    torch.Size([3, 2])
"""

from __future__ import annotations

from collections.abc import Sequence

from recmtl.towers.cgc import CGC, CGCConfig
from recmtl.towers.esmm import ESMM, ESMMConfig
from recmtl.towers.expert_bank import ExpertRef
from recmtl.towers.inputs import InputDims, TaskSlot, TowerInput, task_slots
from recmtl.towers.mmoe import MMoE, MMoEConfig
from recmtl.towers.ple import PLE, PLEConfig
from recmtl.towers.shared_bottom import SharedBottom, SharedBottomConfig
from recmtl.towers.tower import Tower

__all__ = [
    "CGC",
    "ESMM",
    "PLE",
    "TOWERS",
    "CGCConfig",
    "ESMMConfig",
    "ExpertRef",
    "InputDims",
    "MMoE",
    "MMoEConfig",
    "PLEConfig",
    "SharedBottom",
    "SharedBottomConfig",
    "TaskSlot",
    "Tower",
    "TowerConfig",
    "TowerInput",
    "build_tower",
    "task_slots",
]

TowerConfig = SharedBottomConfig | MMoEConfig | CGCConfig | PLEConfig | ESMMConfig
"""The config of any registered tower; told apart by `kind`."""

TOWERS: dict[type, type[Tower]] = {
    SharedBottomConfig: SharedBottom,
    MMoEConfig: MMoE,
    CGCConfig: CGC,
    PLEConfig: PLE,
    ESMMConfig: ESMM,
}
"""Config class -> tower class."""


def build_tower(
    config: TowerConfig, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
) -> Tower:
    """The tower that a config describes.

    Args:
        config: the config of a registered tower.
        in_dim: width of the input vector, or the sizes of a `TowerInput`.
        tasks: task names or slots; the logits' columns are in their order.

    Example:
        >>> type(build_tower(MMoEConfig(), in_dim=8, tasks=("click",))).__name__
        'MMoE'
    """
    if type(config) not in TOWERS:
        known = ", ".join(f"`{known.__name__}`" for known in TOWERS)
        raise ValueError(f"`{type(config).__name__}` is no config of a registered tower: {known}.")
    return TOWERS[type(config)](config, in_dim=in_dim, tasks=tasks)
