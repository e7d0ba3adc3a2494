"""Put a tower into a PyTorch model of your own. Needs torch alone.

python examples/03_tower_in_plain_pytorch.py
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from recmtl.towers import PLE, PLEConfig


class Ranker(nn.Module):
    """Two embeddings and a PLE that predicts click and purchase."""

    def __init__(self, num_users: int, num_items: int, dim: int = 16) -> None:
        """Tables of `dim` columns."""
        super().__init__()
        self.user = nn.Embedding(num_users, dim)
        self.item = nn.Embedding(num_items, dim)
        config = PLEConfig(num_levels=1, expert_widths=(64, 32), head_widths=(16,))
        self.tower = PLE(config, in_dim=2 * dim, tasks=("click", "purchase"))

    def forward(self, user_B: Tensor, item_B: Tensor) -> Tensor:
        """Logits ``[B, 2]``, columns in the order of the tasks."""
        return self.tower(torch.cat([self.user(user_B), self.item(item_B)], dim=1))


def main() -> None:
    """Train on random taste and print the loss before and after."""
    torch.manual_seed(0)
    model = Ranker(num_users=200, num_items=100)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    user_B, item_B = torch.randint(200, (8192,)), torch.randint(100, (8192,))
    taste_BT = torch.randn(200, 2)[user_B] * torch.randn(100, 2)[item_B]
    labels_BT = (torch.rand(8192, 2) < taste_BT.sigmoid()).float()
    losses = []
    for _ in range(60):
        loss = binary_cross_entropy_with_logits(model(user_B, item_B), labels_BT)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    sys.stdout.write(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}\n")


if __name__ == "__main__":
    main()
