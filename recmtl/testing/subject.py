"""The tower under test: built again from its config with other tasks and sizes, and fed.

Shape letters: B rows, D input width, F fields, E embedding width, L sequence length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recmtl.towers import ExpertRef, InputDims, TaskSlot, TowerInput, task_slots

__all__ = ["NotApplicable", "Subject", "changed", "close", "tensors_of"]

Input = Tensor | TowerInput


class NotApplicable(Exception):  # noqa: N818 - no error: the check has nothing to look at
    """Raised by a check that a tower gives nothing to look at; says why."""


class Subject:
    """A tower to be tested; it is never changed itself, only built again.

    Attributes:
        tower: the one given.
        config: its config.
        names: its tasks' names, with more of them where there are fewer than two.
        added: the name of one more.
    """

    def __init__(self, tower: nn.Module) -> None:
        """Read the tower's arguments.

        Args:
            tower: keeps `config`, `in_dim` and `tasks`.
        """
        for name in ("config", "in_dim", "tasks", "requires", "explain", "set_base_rates"):
            assert hasattr(tower, name), (
                f"contract: the tower has no `{name}`; every tower keeps `config`, `in_dim` and "
                "`tasks`, and has `requires`, `explain` and `set_base_rates`."
            )
        self.tower: Any = tower
        self.config: Any = tower.config
        tasks: Any = tower.tasks
        given = [slot.name for slot in task_slots(tasks)]
        names = [f"added_{i}" for i in range(len(given) + 3)]
        self.added, *spare = [name for name in names if name not in given]
        self.names = given + spare[: max(0, 2 - len(given))]

    def build(
        self, tasks: Sequence[str | TaskSlot] | None = None, *, config: Any = None, seed: int = 0
    ) -> Any:
        """The same tower with other tasks or another config, and fresh weights.

        Args:
            tasks: default: the tower's own.
            config: default: the tower's own.
            seed: of the initial weights.
        """
        torch.manual_seed(seed)
        return type(self.tower)(
            self.config if config is None else config,
            in_dim=self.tower.in_dim,
            tasks=self.tower.tasks if tasks is None else tasks,
        )

    def awake(self, tower: Any) -> Any:
        """The tower with small random values where weights start at zero.

        Behind such a weight, as of a gate that starts as the identity, nothing has a gradient.
        """
        with torch.no_grad():
            for weight in tower.parameters():
                if not weight.any():
                    weight.normal_(std=0.1)
        return tower

    def has(self, *fields: str) -> bool:
        """Whether the config has all of these fields."""
        return set(fields) <= {field.name for field in dataclasses.fields(self.config)}

    def sized(self, **sizes: Any) -> Any:
        """The config with other sizes, as far as it has such fields, narrow and without dropout.

        Raises:
            NotApplicable: the config refuses them.
        """
        known = {name: value for name, value in sizes.items() if self.has(name)}
        try:
            return dataclasses.replace(self.lively(), **known)
        except ValueError as refusal:
            raise NotApplicable(f"the config refuses {known}: {refusal}") from refusal

    def lively(self) -> Any:
        """The config with 2 to 4 of everything, 8 to 16 units a layer, and no dropout.

        A gate over one expert, or a layer of one unit, may rightly have no gradient. The config as
        it is, where it refuses these sizes.
        """
        sizes = self._each(
            lambda count: min(max(count, 2), 4),
            lambda widths: tuple(min(max(width, 8), 16) for width in widths),
        )
        if self.has("dropout"):
            sizes["dropout"] = 0.0
        try:
            return dataclasses.replace(self.config, **sizes)
        except ValueError:
            return self.config

    def smallest(self) -> Any:
        """The config with one of everything and one unit a layer.

        Raises:
            NotApplicable: the config refuses that.
        """
        sizes = self._each(lambda _: 1, lambda widths: (1,) * min(len(widths), 1))
        try:
            return dataclasses.replace(self.config, **sizes)
        except ValueError as refusal:
            raise NotApplicable(f"the config refuses {sizes}: {refusal}") from refusal

    def _each(
        self, count: Callable[[int], int], widths: Callable[[tuple[int, ...]], tuple[int, ...]]
    ) -> dict[str, Any]:
        sizes: dict[str, Any] = {}
        for field in dataclasses.fields(self.config):
            value = getattr(self.config, field.name)
            if field.name.startswith("num_") and isinstance(value, int):
                sizes[field.name] = count(value)
            elif field.name.endswith("_widths"):
                sizes[field.name] = widths(tuple(value))
        return sizes

    def refs(self, tower: Any) -> tuple[ExpertRef, ...]:
        """The tower's experts.

        Raises:
            NotApplicable: it does not say where they are.
        """
        refs: tuple[ExpertRef, ...] = tower.expert_refs() if hasattr(tower, "expert_refs") else ()
        if not refs:
            raise NotApplicable("the tower has no `expert_refs()` that says where experts are")
        return refs

    def rows(self, count: int, *, seed: int = 0) -> Input:
        """Random input of some rows: a tensor, or a `TowerInput` where the tower requires more."""
        dims, random = self.tower.in_dim, torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape, generator=random)

        if not isinstance(dims, InputDims):
            return normal(dims)
        if not self.tower.requires:
            return normal(dims.x)
        sequences = {}
        for behaviour, length in dims.sequences.items():
            lengths_B = torch.randint(1, length + 1, (count,), generator=random)
            kept_BL = torch.arange(length) < lengths_B.unsqueeze(1)
            sequences[behaviour] = (
                normal(length, dims.field_dim) * kept_BL.unsqueeze(-1),
                lengths_B,
            )
        return TowerInput(
            x_BD=normal(dims.x),
            fields_BFE=normal(len(dims.fields), dims.field_dim) if dims.fields else None,
            sequences=sequences or None,
            target_BE=normal(dims.field_dim) if sequences else None,
        )


def tensors_of(x: Any) -> list[Tensor]:
    """All tensors of an input, in a fixed order."""
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, dict):
        x = x.values()
    return [tensor for part in x or () for tensor in tensors_of(part)]


def close(actual: Tensor, expected: Tensor) -> bool:
    """Equal up to what float32 and another order of summation leave open."""
    return torch.allclose(actual, expected, rtol=1e-4, atol=1e-5)


def changed(before_BO: Tensor, after_BO: Tensor, slots: Sequence[TaskSlot]) -> tuple[str, ...]:
    """The tasks whose logits differ, in order."""
    widths = [slot.outputs for slot in slots]
    pairs = zip(torch.split(before_BO, widths, 1), torch.split(after_BO, widths, 1), strict=True)
    differ = [not close(before, after) for before, after in pairs]
    return tuple(slot.name for slot, moved in zip(slots, differ, strict=True) if moved)
