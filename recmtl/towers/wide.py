"""Wide parts: logits of low-order models, added to a tower's.

Shape letters: B rows, D input width, F fields, E embedding width, O logits of all tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recmtl.towers.inputs import InputDims, TaskSlot, TowerInput, input_width, task_slots
from recmtl.towers.parameters import by_task

__all__ = ["FM", "FMConfig", "FwFM", "FwFMConfig", "Linear", "LinearConfig", "Wide"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearConfig:
    """A linear model beside the tower."""

    kind: Literal["linear"] = "linear"


@dataclass(frozen=True, kw_only=True, slots=True)
class FMConfig:
    """A factorisation machine beside the tower: all products of two fields have one weight."""

    kind: Literal["fm"] = "fm"


@dataclass(frozen=True, kw_only=True, slots=True)
class FwFMConfig:
    """A field-weighted factorisation machine beside the tower."""

    kind: Literal["fwfm"] = "fwfm"


class Wide(nn.Module):
    """What all wide parts have: a linear model of the input vector, for each logit.

    Weights start at zero, so that the tower starts as it is without; a task's are kept under its
    name.

    Attributes:
        requires: what it needs beyond ``x_BD`` (fields of `TowerInput`).
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]) -> None:
        """Build it.

        Args:
            in_dim: width D of the input vector, or the sizes of a `TowerInput`.
            tasks: task names, or slots.
        """
        super().__init__()
        self.tasks = task_slots(tasks)
        self.task_linear = self._by_task(input_width(in_dim))

    def _by_task(self, *shape: int) -> nn.ParameterDict:
        """Zeros ``(*shape, N)`` for the N logits of each task."""
        return by_task(
            {slot.name: nn.Parameter(torch.zeros(*shape, slot.outputs)) for slot in self.tasks}
        )

    def linear(self, x_BD: Tensor) -> Tensor:
        """The linear model's logits, ``(B, O)``."""
        return x_BD @ torch.cat(list(self.task_linear.values()), dim=1)


class Linear(Wide):
    r"""A linear model of the input vector, embeddings included.

    .. math:: z_t = w_t^\top x

    Reference: Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016.
        arXiv:1606.07792
    Departures: No crossed features, and no weight of its own for each id: an id counts through its
        embedding.
    Shape: ``(B, D)`` -> ``(B, O)`` logits.

    Example:
        >>> Linear(in_dim=4, tasks=("click", "buy"))(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    def forward(self, x_BD: Tensor) -> Tensor:
        """Logits ``(B, O)``."""
        return self.linear(x_BD)


class FM(Wide):
    r"""A factorisation machine: linear terms, and the products of all pairs of fields.

    .. math:: z_t = w_t^\top x + a_t \sum_{i<j} \langle e_i, e_j \rangle

    Reference: Rendle, "Factorization Machines", ICDM 2010, equations (1) and (3).
    Departures: Embeddings are the tower's, so each task weighs the sum of products by one number.
    Shape: `TowerInput` with fields -> ``(B, O)`` logits.

    Example:
        >>> dims = InputDims(x=4, fields=("user", "item"), field_dim=2)
        >>> x = TowerInput(torch.ones(3, 4), fields_BFE=torch.ones(3, 2, 2))
        >>> FM(in_dim=dims, tasks=("click", "buy"))(x).shape
        torch.Size([3, 2])
    """

    requires: ClassVar[frozenset[str]] = frozenset({"fields"})

    def __init__(self, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]) -> None:
        """Build it (see `Wide`)."""
        super().__init__(in_dim=in_dim, tasks=tasks)
        self.task_pairs = self._by_task(1)

    def forward(self, x: TowerInput) -> Tensor:
        """Logits ``(B, O)``."""
        assert x.fields_BFE is not None
        all_B = x.fields_BFE.sum(dim=1).square().sum(dim=1)
        pairs_B1 = 0.5 * (all_B - x.fields_BFE.square().sum(dim=(1, 2))).unsqueeze(1)
        return self.linear(x.x_BD) + pairs_B1 @ torch.cat(list(self.task_pairs.values()), dim=1)


class FwFM(Wide):
    r"""A field-weighted factorisation machine: each pair of fields has a weight for each task.

    .. math:: z_t = w_t^\top x + \sum_{i<j} r_{t,i,j} \langle e_i, e_j \rangle

    Reference: Pan et al., "Field-weighted Factorization Machines for Click-Through Rate Prediction
        in Display Advertising", WWW 2018, equation (6). arXiv:1806.03514
    Departures: Embeddings are the tower's; the linear terms are those of the paper's FeLV, of the
        embedding vectors.
    Shape: `TowerInput` with fields -> ``(B, O)`` logits.

    Example:
        >>> dims = InputDims(x=4, fields=("user", "item"), field_dim=2)
        >>> x = TowerInput(torch.ones(3, 4), fields_BFE=torch.ones(3, 2, 2))
        >>> FwFM(in_dim=dims, tasks=("click", "buy"))(x).shape
        torch.Size([3, 2])
    """

    requires: ClassVar[frozenset[str]] = frozenset({"fields"})
    place_FF: Tensor
    half_FF: Tensor

    def __init__(self, *, in_dim: int | InputDims, tasks: Sequence[str | TaskSlot]) -> None:
        """Build it (see `Wide`)."""
        super().__init__(in_dim=in_dim, tasks=tasks)
        num_fields = len(in_dim.fields) if isinstance(in_dim, InputDims) else 0
        if num_fields < 2:
            raise ValueError(
                f"`in_dim` must be `InputDims` with at least two `fields`, got {in_dim!r}."
            )
        row_P, column_P = torch.triu_indices(num_fields, num_fields, offset=1)
        self.task_pairs = self._by_task(len(row_P))
        # Products of all pairs are one batched product; both halves of it get half of a weight.
        place_FF = torch.zeros(num_fields, num_fields, dtype=torch.long)
        place_FF[row_P, column_P] = place_FF[column_P, row_P] = torch.arange(len(row_P))
        self.register_buffer("place_FF", place_FF, persistent=False)
        half_FF = 0.5 * (1.0 - torch.eye(num_fields))
        self.register_buffer("half_FF", half_FF, persistent=False)

    def forward(self, x: TowerInput) -> Tensor:
        """Logits ``(B, O)``."""
        assert x.fields_BFE is not None
        product_BFF = torch.bmm(x.fields_BFE, x.fields_BFE.transpose(1, 2))
        weight_PO = torch.cat(list(self.task_pairs.values()), dim=1)
        weight_FFO = weight_PO[self.place_FF] * self.half_FF.unsqueeze(2)
        pairs_BO: Tensor = product_BFF.flatten(1) @ weight_FFO.flatten(0, 1)
        return self.linear(x.x_BD) + pairs_BO
