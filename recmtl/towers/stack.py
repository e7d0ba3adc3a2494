"""An interaction below a tower and a wide part beside it, as one tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from recmtl._checks import ByKind
from recmtl.towers.dtrn import DTRN, DTRNConfig
from recmtl.towers.expert_bank import ExpertRef
from recmtl.towers.inputs import InputDims, TaskSlot
from recmtl.towers.interactions import (
    BiInteraction,
    BiInteractionConfig,
    CrossNet,
    CrossNetConfig,
    Interaction,
    MaskNet,
    MaskNetConfig,
)
from recmtl.towers.registry import VECTOR_TOWERS, VectorTowerConfig
from recmtl.towers.shared_bottom import SharedBottomConfig
from recmtl.towers.tower import Tower
from recmtl.towers.wide import FM, FMConfig, FwFM, FwFMConfig, Linear, LinearConfig, Wide

__all__ = ["InteractionConfig", "NoneConfig", "Stack", "StackConfig", "WideConfig", "requires_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoneConfig:
    """Nothing."""

    kind: Literal["none"] = "none"


InteractionConfig = NoneConfig | CrossNetConfig | BiInteractionConfig | MaskNetConfig
"""The config of any interaction; told apart by `kind`."""
WideConfig = NoneConfig | LinearConfig | FMConfig | FwFMConfig
"""The config of any wide part; told apart by `kind`."""

_INTERACTIONS: dict[type, type[Any]] = {
    CrossNetConfig: CrossNet,
    BiInteractionConfig: BiInteraction,
    MaskNetConfig: MaskNet,
}
_TOWERS: dict[type, type[Tower]] = {**VECTOR_TOWERS, DTRNConfig: DTRN}
_WIDES: dict[type, type[Wide]] = {LinearConfig: Linear, FMConfig: FM, FwFMConfig: FwFM}


@dataclass(frozen=True, kw_only=True, slots=True)
class StackConfig:
    """What stands on and beside each other."""

    kind: Literal["stack"] = "stack"
    tower: Annotated[VectorTowerConfig | DTRNConfig, ByKind()] = field(
        default_factory=SharedBottomConfig
    )
    """The tower."""
    interaction: Annotated[InteractionConfig, ByKind()] = field(default_factory=NoneConfig)
    """Products of features that the tower reads."""
    wide: Annotated[WideConfig, ByKind()] = field(default_factory=NoneConfig)
    """A model of low order whose logits are added to the tower's."""

    def __post_init__(self) -> None:
        is_bottom = isinstance(self.tower, DTRNConfig)
        if is_bottom and not isinstance(self.interaction, NoneConfig):
            raise ValueError(
                f"`interaction` must be `none` below `{self.tower.kind}`, which reads fields and no"
                f" vector, got `{self.interaction.kind}`."
            )


def requires_of(config: Any) -> frozenset[str]:
    """What a tower, an interaction, a wide part or a stack of them needs beyond ``x_BD``.

    Example:
        >>> sorted(requires_of(StackConfig(wide=FwFMConfig())))
        ['fields']
    """
    if isinstance(config, StackConfig):
        parts = (config.tower, config.interaction, config.wide)
        return frozenset().union(*(requires_of(part) for part in parts))
    known: Any = (_TOWERS | _INTERACTIONS | _WIDES).get(type(config))
    return frozenset() if known is None else known.requires


class Stack(Tower):
    r"""A tower that reads an interaction of the features, and a wide part beside it.

    .. math:: z = \operatorname{tower}(\operatorname{interaction}(x)) + \operatorname{wide}(x)

    Shape: ``(B, D)``, or `TowerInput` where a part requires more -> ``(B, O)`` logits.

    Example:
        >>> config = StackConfig(interaction=CrossNetConfig(), wide=LinearConfig())
        >>> Stack(config, in_dim=8, tasks=("click", "buy"))(torch.zeros(3, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, config: StackConfig, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]
    ) -> None:
        """Build the parts.

        Args:
            config: the parts.
            in_dim: width D of the input vector, or the sizes of a `TowerInput`.
            tasks: task names, or slots.
        """
        super().__init__(config, in_dim=in_dim, tasks=tasks)
        tower_dim: int | InputDims = in_dim
        self.interaction: Interaction | None = None
        if type(config.interaction) in _INTERACTIONS:
            make = _INTERACTIONS[type(config.interaction)]
            self.interaction = make(config.interaction, in_dim=in_dim)
            tower_dim = self.interaction.out_dim
        make = _TOWERS[type(config.tower)]
        self.tower: Tower = make(config.tower, in_dim=tower_dim, tasks=self.tasks)
        self.wide: Wide | None = None
        if type(config.wide) in _WIDES:
            self.wide = _WIDES[type(config.wide)](in_dim=in_dim, tasks=self.tasks)
        self.requires = requires_of(config)

    def forward(self, x: Any) -> Tensor:
        """Logits ``(B, O)``."""
        logits_BO: Tensor = self.tower(self._below(x))
        return logits_BO if self.wide is None else logits_BO + self.wide(self._for(self.wide, x))

    def _below(self, x: Any) -> Any:
        """What the tower reads."""
        if self.interaction is None:
            return self._for(self.tower, x)
        return self.interaction(self._for(self.interaction, x))

    def _for(self, part: Interaction | Tower | Wide, x: Any) -> Any:
        """The input of a part: all of it, or the vector alone."""
        return x.x_BD if self.requires and not part.requires else x

    def set_base_rates(self, rates: Mapping[str, float | Sequence[float]]) -> None:
        """Let heads start at known rates (see `Tower.set_base_rates`)."""
        self.tower.set_base_rates(rates)

    @torch.no_grad()
    def explain(self, x: Any) -> dict[str, Tensor]:
        """The tower's gates and experts."""
        return self.tower.explain(self._below(x))

    def expert_refs(self) -> tuple[ExpertRef, ...]:
        """The tower's experts."""
        return tuple(
            ref._replace(parameters=tuple((f"tower.{key}", i) for key, i in ref.parameters))
            for ref in self.tower.expert_refs()
        )
