"""Feature gates: each owner reads the input with its features re-weighted.

Shape letters: B rows, D input width, G owners (named ones, then the shared one), L low-rank gates
of each owner, R their rank, N = L * (R + 1) columns that read an owner's input.
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
        read_GDN = self.reads()
        if self.own_inputs:
            low_GNB = torch.bmm(read_GDN.transpose(1, 2), x.permute(1, 2, 0))
            return self.weigh(x.transpose(0, 1), low_GNB).transpose(0, 1)
        read_ND = read_GDN.transpose(1, 2).flatten(0, 1)
        low_GNB = (read_ND @ x.T).view(self.num_owners, read_GDN.shape[2], -1)
        return self.weigh(x.unsqueeze(0), low_GNB).transpose(0, 1)

    def reads(self) -> Tensor:
        """Weights of all N columns that read an owner's input, ``(G, D, N)``."""
        down_GDN = self._stacked("down").transpose(1, 2).flatten(2)
        if self.num_parts == 1:
            return down_GDN
        return torch.cat([down_GDN, self._stacked("mix")], dim=2)

    def weigh(self, x_GBD: Tensor, low_GNB: Tensor) -> Tensor:
        """The inputs re-weighted, ``(G, B, D)``, by what `reads` made of them.

        Rows come last: a softmax over a short last dimension takes ten times as long.
        """
        num_parts, rank, up_GLRD = self.num_parts, self.rank, self._stacked("up")
        parts = [
            torch.bmm(
                low_GNB[:, part * rank : (part + 1) * rank].transpose(1, 2), up_GLRD[:, part]
            ).sigmoid()
            for part in range(num_parts)
        ]
        if num_parts == 1:
            return 2.0 * parts[0] * x_GBD
        mix_GLB1 = (2.0 * low_GNB[:, num_parts * rank :].softmax(dim=1)).unsqueeze(3)
        factor_GBD = parts[0] * mix_GLB1[:, 0]
        for part in range(1, num_parts):
            factor_GBD = factor_GBD + parts[part] * mix_GLB1[:, part]
        return factor_GBD * x_GBD

    def _stacked(self, name: str) -> Tensor:
        parts = list(getattr(self, f"task_{name}").values())
        return torch.stack(
            [*parts, *([getattr(self, f"shared_{name}")] if self.has_shared else [])]
        )
