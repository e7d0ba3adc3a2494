"""Target attention over sequences, as in DIN.

Shape letters: B rows, L sequence length, E embedding width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl.towers.parameters import uniform_

__all__ = ["TargetAttention"]


class TargetAttention(nn.Module):
    r"""Each behaviour's items, added up with weights that say how they go with the target.

    .. math:: r = \sum_l a(k_l, q)\, k_l, \qquad
        a(k, q) = w^\top \operatorname{relu}(W [q; k; q - k; q \odot k] + b) + c

    Reference: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018,
        equation (3). arXiv:1706.06978
    Departures: q - k and the products stand where the paper's outer product stands, as in its
        authors' code; ReLU instead of Dice. Weights are not normalised, as there.
    Shape: sequences of ``(B, L, E)`` and lengths ``(B,)``, target ``(B, E)`` -> one ``(B, E)`` for
        each behaviour; zero where a sequence is empty.

    Example:
        >>> attention = TargetAttention(4, behaviours=("clicks",))
        >>> sequences = {"clicks": (torch.ones(2, 3, 4), torch.tensor([0, 3]))}
        >>> [pooled_BE.shape for pooled_BE in attention(sequences, torch.ones(2, 4))]
        [torch.Size([2, 4])]
    """

    def __init__(self, dim: int, *, behaviours: Sequence[str], hidden: int = 36) -> None:
        """Build it.

        Args:
            dim: width E of items and target.
            behaviours: names of the sequences.
            hidden: width H of the network that weighs.
        """
        super().__init__()
        self.behaviours = tuple(behaviours)
        count, wide = len(self.behaviours), 4 * dim
        self.weight_MDH = uniform_(torch.empty(count, wide, hidden), fan_in=wide)
        self.bias_MH = nn.Parameter(torch.zeros(count, hidden))
        self.out_MH = uniform_(torch.empty(count, hidden), fan_in=hidden)
        self.out_bias_M = nn.Parameter(torch.zeros(count))

    def forward(
        self, sequences: Mapping[str, tuple[Tensor, Tensor]], target_BE: Tensor
    ) -> list[Tensor]:
        """The pooled sequences, in the order of the behaviours."""
        return [
            self._pooled(*sequences[behaviour], target_BE, j)
            for j, behaviour in enumerate(self.behaviours)
        ]

    def _pooled(self, items_BLE: Tensor, lengths_B: Tensor, target_BE: Tensor, j: int) -> Tensor:
        # W [q; k; q - k; q * k] = (W1 + W3) q + (W2 - W3) k + W4 (q * k): nothing is put together.
        query_EH, key_EH, difference_EH, product_EH = self.weight_MDH[j].chunk(4)
        row_BH = torch.addmm(self.bias_MH[j], target_BE, query_EH + difference_EH)
        hidden_BLH = items_BLE @ (key_EH - difference_EH) + row_BH.unsqueeze(1)
        hidden_BLH = hidden_BLH + (items_BLE * target_BE.unsqueeze(1)) @ product_EH
        weight_BL = hidden_BLH.relu() @ self.out_MH[j] + self.out_bias_M[j]
        positions_L = torch.arange(items_BLE.shape[1], device=lengths_B.device)
        weight_BL = weight_BL * (positions_L < lengths_B.unsqueeze(1))
        return torch.bmm(weight_BL.unsqueeze(1), items_BLE).squeeze(1)
