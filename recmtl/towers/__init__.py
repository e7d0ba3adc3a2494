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
from recmtl.towers.din import TargetAttention
from recmtl.towers.dtrn import DTRN, DTRNConfig
from recmtl.towers.esmm import ESMM, ESMMConfig
from recmtl.towers.expert_bank import ExpertRef
from recmtl.towers.home import HoME, HoMEConfig
from recmtl.towers.inputs import InputDims, TaskSlot, TowerInput, task_slots
from recmtl.towers.interactions import (
    BiInteraction,
    BiInteractionConfig,
    CrossNet,
    CrossNetConfig,
    MaskNet,
    MaskNetConfig,
)
from recmtl.towers.mmoe import MMoE, MMoEConfig
from recmtl.towers.ple import PLE, PLEConfig
from recmtl.towers.registry import VECTOR_TOWERS, VectorTowerConfig
from recmtl.towers.shared_bottom import SharedBottom, SharedBottomConfig
from recmtl.towers.stack import (
    InteractionConfig,
    NoneConfig,
    Stack,
    StackConfig,
    WideConfig,
    requires_of,
)
from recmtl.towers.tower import Tower
from recmtl.towers.wide import FM, FMConfig, FwFM, FwFMConfig, Linear, LinearConfig

__all__ = [
    "CGC",
    "DTRN",
    "ESMM",
    "FM",
    "PLE",
    "TOWERS",
    "BiInteraction",
    "BiInteractionConfig",
    "CGCConfig",
    "CrossNet",
    "CrossNetConfig",
    "DTRNConfig",
    "ESMMConfig",
    "ExpertRef",
    "FMConfig",
    "FwFM",
    "FwFMConfig",
    "HoME",
    "HoMEConfig",
    "InputDims",
    "InteractionConfig",
    "Linear",
    "LinearConfig",
    "MMoE",
    "MMoEConfig",
    "MaskNet",
    "MaskNetConfig",
    "NoneConfig",
    "PLEConfig",
    "SharedBottom",
    "SharedBottomConfig",
    "Stack",
    "StackConfig",
    "TargetAttention",
    "TaskSlot",
    "Tower",
    "TowerConfig",
    "TowerInput",
    "WideConfig",
    "build_tower",
    "requires_of",
    "task_slots",
]

TowerConfig = VectorTowerConfig | DTRNConfig
"""The config of any registered tower; told apart by `kind`."""

TOWERS: dict[type, type[Tower]] = {**VECTOR_TOWERS, DTRNConfig: DTRN}
"""Config class -> tower class."""


def build_tower(
    config: TowerConfig | StackConfig,
    *,
    in_dim: int | InputDims,
    tasks: Sequence[str | TaskSlot],
) -> Tower:
    """The tower that a config describes.

    Args:
        config: the config of a registered tower, or a `StackConfig`.
        in_dim: width of the input vector, or the sizes of a `TowerInput`.
        tasks: task names or slots; the logits' columns are in their order.

    Example:
        >>> type(build_tower(MMoEConfig(), in_dim=8, tasks=("click",))).__name__
        'MMoE'
    """
    if isinstance(config, StackConfig):
        return Stack(config, in_dim=in_dim, tasks=tasks)
    if type(config) not in TOWERS:
        known = ", ".join(f"`{known.__name__}`" for known in TOWERS)
        raise ValueError(f"`{type(config).__name__}` is no config of a registered tower: {known}.")
    return TOWERS[type(config)](config, in_dim=in_dim, tasks=tasks)
