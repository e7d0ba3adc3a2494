"""Feature gates: each owner reads the input with its features re-weighted.

Shape letters: B rows, D input width, G owners (named ones, then the shared one), L low-rank gates
of each owner, R their rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recmtl.towers.parameters import by_task, uniform_

__all__ = ["FeatureGates"]


class FeatureGates(nn.Module):
    r"""The input of each owner, times a factor in (0, 2) for each feature, row and owner.

    .. math:: v \odot \sum_{l=1}^{L} \operatorname{softmax}(v W)_l \, 2\sigma((v B_l) A_l)

    with :math:`B_l` of D x R and :math:`A_l` of R x D. A starts at zero, so every factor starts at
    exactly 1.

    Shape: ``(B, D)`` or ``(B, G, D)`` -> ``(B, G, D)``.

    Example:
        >>> gates = FeatureGates(4, owners=("act", "watch"), has_shared=True, rank=2)
        >>> gates(torch.ones(1, 4)).shape
        torch.Size([1, 3, 4])
    """

    def __init__(
        self,
        in_dim: int,
        *,
        owners: Sequence[str],
        has_shared: bool = False,
        num_parts: int = 2,
        rank: int | None = None,
        own_inputs: bool = False,
    ) -> None:
        """Build it.

        Args:
            in_dim: width D of the input.
            owners: names of those that own a gate.
            has_shared: whether there is one more, that nobody owns.
            num_parts: low-rank gates L of each owner.
            rank: their rank R (default: D / 16, and 8 at least).
            own_inputs: True: the input is ``(B, G, D)``; False: all read ``(B, D)``.
        """
        super().__init__()
        self.own_inputs = own_inputs
        self.num_owners, self.has_shared = len(owners) + int(has_shared), has_shared
        self.num_parts = num_parts
        self.rank = rank = max(8, in_dim // 16) if rank is None else rank

        def down() -> nn.Parameter:
            return uniform_(torch.empty(num_parts, in_dim, rank), fan_in=in_dim)

        def up() -> nn.Parameter:
            return nn.Parameter(torch.zeros(num_parts, rank, in_dim))

        def mix() -> nn.Parameter:
            return nn.Parameter(torch.zeros(in_dim, num_parts))

        self.task_down = by_task({owner: down() for owner in owners})
        self.task_up = by_task({owner: up() for owner in owners})
        self.task_mix = by_task({owner: mix() for owner in owners if num_parts > 1})
        if has_shared:
            self.shared_down, self.shared_up = down(), up()
            if num_parts > 1:
                self.shared_mix = mix()

    def forward(self, x: Tensor) -> Tensor:
        """Each owner's input, ``(B, G, D)``."""
        num_owners, num_parts, rank = self.num_owners, self.num_parts, self.rank
        reads = [self._stacked("down").transpose(1, 2).flatten(2)]
        if num_parts > 1:
            reads.append(self._stacked("mix"))
        read_GDN = torch.cat(reads, dim=2)  # all that reads the input, in one product
        if self.own_inputs:
            x_GBD = x.transpose(0, 1)
            low_GBN = torch.bmm(x_GBD, read_GDN)
        else:
            x_GBD = x.unsqueeze(0)
            low_BN = x @ read_GDN.transpose(0, 1).flatten(1)
            low_GBN = low_BN.view(-1, num_owners, num_parts * (rank + (num_parts > 1)))
            low_GBN = low_GBN.transpose(0, 1)
        up_GLRD = self._stacked("up")
        parts = [
            torch.bmm(low_GBN[..., part * rank : (part + 1) * rank], up_GLRD[:, part]).sigmoid()
            for part in range(num_parts)
        ]
        if num_parts == 1:
            return (2.0 * parts[0] * x_GBD).transpose(0, 1)
        mix_GBL = 2.0 * low_GBN[..., num_parts * rank :].softmax(dim=2)
        factor_GBD = parts[0] * mix_GBL[..., :1]
        for part in range(1, num_parts):
            factor_GBD = torch.addcmul(factor_GBD, parts[part], mix_GBL[..., part : part + 1])
        return (factor_GBD * x_GBD).transpose(0, 1)

    def _stacked(self, name: str) -> Tensor:
        parts = list(getattr(self, f"task_{name}").values())
        return torch.stack(
            [*parts, *([getattr(self, f"shared_{name}")] if self.has_shared else [])]
        )
