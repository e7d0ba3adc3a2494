"""Interactions: products of features, made before a tower reads them.

Shape letters: B rows, D input width, F fields, E embedding width, K blocks, H a block's width, R
rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from recmtl._checks import require_positive
from recmtl.towers.inputs import InputDims, TowerInput, input_width
from recmtl.towers.parameters import uniform_

__all__ = [
    "BiInteraction",
    "BiInteractionConfig",
    "CrossNet",
    "CrossNetConfig",
    "Interaction",
    "MaskNet",
    "MaskNetConfig",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossNetConfig:
    """Sizes of a cross network, DCN V2's."""

    kind: Literal["dcnv2"] = "dcnv2"
    num_layers: int = 2
    """Number of cross layers; each adds products of one more feature."""
    rank: int | None = None
    """Rank of each layer's matrix; by default it is full."""

    def __post_init__(self) -> None:
        require_positive(num_layers=self.num_layers)
        if self.rank is not None:
            require_positive(rank=self.rank)


@dataclass(frozen=True, kw_only=True, slots=True)
class BiInteractionConfig:
    """Products of all pairs of fields, added up to one vector."""

    kind: Literal["fm"] = "fm"


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskNetConfig:
    """Sizes of a parallel MaskNet."""

    kind: Literal["masknet"] = "masknet"
    num_blocks: int = 2
    """Number of blocks, side by side."""
    width: int = 64
    """Width of each block's output."""
    reduction: float = 2.0
    """How many times wider than the input the hidden layer of each mask is."""

    def __post_init__(self) -> None:
        require_positive(num_blocks=self.num_blocks, width=self.width)
        if self.width < 2:
            raise ValueError(
                "`width` must be at least 2: a layer norm over one unit is a constant, got "
                f"{self.width!r}."
            )
        if not self.reduction > 0:
            raise ValueError(f"`reduction` must be above 0, got {self.reduction!r}.")


class Interaction(nn.Module):
    """What all interactions have.

    Attributes:
        requires: what it needs beyond ``x_BD`` (fields of `TowerInput`).
        out_dim: width of what the tower reads.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    out_dim: int


class CrossNet(Interaction):
    r"""Cross layers of DCN V2: each multiplies a linear map with the input itself.

    .. math:: x_{l+1} = x_0 \odot (W_l x_l + b_l) + x_l

    with :math:`W_l = U_l V_l^\top` of a rank where one is given.

    Reference: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for
        Web-scale Learning to Rank Systems", WWW 2021, equations (1) and (2). arXiv:2008.13535
    Departures: None. The tower stands on the last layer (the stacked form).
    Shape: ``(B, D)`` -> ``(B, D)``.

    Example:
        >>> CrossNet(CrossNetConfig(num_layers=3), in_dim=4)(torch.ones(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(self, config: CrossNetConfig, *, in_dim: int | InputDims) -> None:
        """Build it.

        Args:
            config: its sizes.
            in_dim: width D of the input vector, or the sizes of a `TowerInput`.
        """
        super().__init__()
        dim = self.out_dim = input_width(in_dim)
        shape = (dim, dim) if config.rank is None else (dim, config.rank)
        self.weights = nn.ParameterList(
            uniform_(torch.empty(shape), fan_in=dim) for _ in range(config.num_layers)
        )
        self.up_weights = nn.ParameterList(
            uniform_(torch.empty(config.rank, dim), fan_in=config.rank)
            for _ in range(config.num_layers if config.rank is not None else 0)
            if config.rank is not None
        )
        self.biases = nn.ParameterList(torch.zeros(dim) for _ in range(config.num_layers))

    def forward(self, first_BD: Tensor) -> Tensor:
        """The last layer, ``(B, D)``."""
        out_BD = first_BD
        for i, (weight, bias_D) in enumerate(zip(self.weights, self.biases, strict=True)):
            if self.up_weights:
                mapped_BD = torch.addmm(bias_D, out_BD @ weight, self.up_weights[i])
            else:
                mapped_BD = torch.addmm(bias_D, out_BD, weight)
            out_BD = torch.addcmul(out_BD, first_BD, mapped_BD)
        return out_BD


class BiInteraction(Interaction):
    r"""The input, and beside it the products of all pairs of fields added up.

    .. math:: [x;\; \tfrac12 ((\textstyle\sum_i e_i)^2 - \sum_i e_i^2)]

    Reference: He and Chua, "Neural Factorization Machines for Sparse Predictive Analytics", SIGIR
        2017, equation (4). arXiv:1708.05027
    Departures: The input stays beside the products.
    Shape: `TowerInput` with fields -> ``(B, D + E)``.

    Example:
        >>> dims = InputDims(x=4, fields=("user", "item"), field_dim=2)
        >>> x = TowerInput(torch.ones(3, 4), fields_BFE=torch.ones(3, 2, 2))
        >>> BiInteraction(BiInteractionConfig(), in_dim=dims)(x).shape
        torch.Size([3, 6])
    """

    requires: ClassVar[frozenset[str]] = frozenset({"fields"})

    def __init__(self, config: BiInteractionConfig, *, in_dim: int | InputDims) -> None:
        """Build it.

        Args:
            config: which it is.
            in_dim: sizes of the input, with fields.
        """
        super().__init__()
        dims = _with_fields(in_dim)
        self.out_dim = dims.x + dims.field_dim

    def forward(self, x: TowerInput) -> Tensor:
        """Input and products."""
        assert x.fields_BFE is not None
        all_BE = x.fields_BFE.sum(dim=1).square()
        return torch.cat([x.x_BD, 0.5 * (all_BE - x.fields_BFE.square().sum(dim=1))], dim=1)


class MaskNet(Interaction):
    r"""Blocks side by side, each of which multiplies the fields with a mask made of all of them.

    .. math:: m_k = W^2_k \operatorname{relu}(W^1_k v + b^1_k) + b^2_k, \qquad
        o_k = \operatorname{relu}(\operatorname{LN}(W_k (m_k \odot \operatorname{LN}_e(v))))

    with v all fields side by side and :math:`\operatorname{LN}_e` a layer norm of each field.

    Reference: Wang et al., "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models
        by Instance-Guided Mask", DLP-KDD 2021, equations (2) to (7). arXiv:2102.07619
    Departures: None.
    Shape: `TowerInput` with fields -> ``(B, K * H)``.

    Example:
        >>> dims = InputDims(x=4, fields=("user", "item"), field_dim=2)
        >>> x = TowerInput(torch.ones(3, 4), fields_BFE=torch.ones(3, 2, 2))
        >>> MaskNet(MaskNetConfig(width=8), in_dim=dims)(x).shape
        torch.Size([3, 16])
    """

    requires: ClassVar[frozenset[str]] = frozenset({"fields"})

    def __init__(self, config: MaskNetConfig, *, in_dim: int | InputDims) -> None:
        """Build it.

        Args:
            config: its sizes.
            in_dim: sizes of the input, with fields.
        """
        super().__init__()
        dims = _with_fields(in_dim)
        self.num_blocks, self.width = config.num_blocks, config.width
        self.out_dim = config.num_blocks * config.width
        wide = len(dims.fields) * dims.field_dim
        hidden = max(1, round(config.reduction * wide))
        self.scale_FE = nn.Parameter(torch.ones(len(dims.fields), dims.field_dim))
        self.shift_FE = nn.Parameter(torch.zeros(len(dims.fields), dims.field_dim))
        self.down = nn.Linear(wide, config.num_blocks * hidden)
        self.up_KHD = uniform_(torch.empty(config.num_blocks, hidden, wide), fan_in=hidden)
        self.up_bias_KD = nn.Parameter(torch.zeros(config.num_blocks, wide))
        self.out_KDH = uniform_(torch.empty(config.num_blocks, wide, config.width), fan_in=wide)
        self.out_scale_KH = nn.Parameter(torch.ones(config.num_blocks, config.width))
        self.out_shift_KH = nn.Parameter(torch.zeros(config.num_blocks, config.width))

    def forward(self, x: TowerInput) -> Tensor:
        """The blocks' outputs, side by side."""
        assert x.fields_BFE is not None
        normal_BFE = nn.functional.layer_norm(x.fields_BFE, x.fields_BFE.shape[2:])
        normal_BD = torch.addcmul(self.shift_FE, normal_BFE, self.scale_FE).flatten(1)
        hidden_KBH = self.down(x.fields_BFE.flatten(1)).relu()
        hidden_KBH = hidden_KBH.unflatten(1, (self.num_blocks, -1)).transpose(0, 1)
        mask_KBD = torch.baddbmm(self.up_bias_KD.unsqueeze(1), hidden_KBH, self.up_KHD)
        out_KBH = nn.functional.layer_norm(
            torch.bmm(mask_KBD * normal_BD, self.out_KDH), (self.width,)
        )
        scaled_KBH = torch.addcmul(
            self.out_shift_KH.unsqueeze(1), out_KBH, self.out_scale_KH.unsqueeze(1)
        )
        return scaled_KBH.relu().transpose(0, 1).flatten(1)


def _with_fields(in_dim: int | InputDims) -> InputDims:
    if not isinstance(in_dim, InputDims) or not in_dim.fields:
        raise ValueError(f"`in_dim` must be `InputDims` with `fields`, got {in_dim!r}.")
    return in_dim
