"""A model of your own, in torch alone: HoME in place of the layers above its embeddings.

python examples/stacks/plain_module.py
"""

from __future__ import annotations

import sys

import torch
from clicks import LABELS, NUM_ITEMS, NUM_USERS, TASKS, Meter, Rows, auc_line, draw
from torch import Tensor, nn

from recmtl.tasks import TaskSet
from recmtl.towers import HoME, HoMEConfig, TaskSlot


class Ranker(nn.Module):
    """What was there before: tables and a head. Shape letters: B rows, H logits."""

    def __init__(self, dim: int = 16) -> None:
        """Tables of `dim` columns."""
        super().__init__()
        self.user = nn.Embedding(NUM_USERS, dim)
        self.item = nn.Embedding(NUM_ITEMS, dim)
        self.width = 2 * dim + 1
        self.head: nn.Module = nn.Sequential(nn.Linear(self.width, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, rows: Rows) -> Tensor:
        """Logits ``[B, H]``."""
        parts = [self.user(rows.user_B), self.item(rows.item_B), rows.price_B.unsqueeze(1)]
        logits_BH: Tensor = self.head(torch.cat(parts, dim=1))
        return logits_BH


def main() -> None:
    """Train, and judge on held-out rows."""
    torch.manual_seed(0)
    train, held_out = draw()
    model = Ranker()

    # The three lines: what the tasks are, a tower for them, and the tower in the head's place.
    tasks = TaskSet(TASKS, labels=LABELS, objective="entire_space")
    slots = [TaskSlot("ctr", group="look"), TaskSlot("cvr", group="buy")]
    model.head = HoME(HoMEConfig(expert_widths=(64, 32)), in_dim=model.width, tasks=slots)

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(3):
        meter = Meter(tasks)
        for rows in train.batches(512, seed=epoch):
            terms = tasks.loss(model(rows), rows.labels_BK, rows.weight_B)
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
            meter.add(terms, rows)
        sys.stdout.write(meter.line(epoch))
    model.eval()
    with torch.inference_mode():
        probs_BT = tasks.probs(model(held_out))  # ctr, cvr, and ctcvr, their product
    sys.stdout.write(auc_line(tasks, probs_BT, held_out))


if __name__ == "__main__":
    main()
