"""What the examples share: a small click log, drawn at random, and the lines that they print.

Shape letters: B rows, K label columns, T tasks, U users, I items. Needs torch and numpy alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.metrics import task_metrics
from recmtl.tasks import LossTerms, TaskDef, TaskSet

__all__ = ["LABELS", "NUM_ITEMS", "NUM_USERS", "TASKS", "Meter", "Rows", "auc_line", "draw"]

NUM_USERS, NUM_ITEMS = 200, 50
LABELS = ("click", "purchase")
TASKS = (
    TaskDef(name="ctr", label="click"),
    TaskDef(name="cvr", label="purchase", given="click"),
    TaskDef(name="ctcvr", label="purchase", product_of=("ctr", "cvr")),
)
"""Two tasks with heads, and their product."""


class Rows(NamedTuple):
    """Impressions: an item that was shown to a user at a price."""

    user_B: Tensor
    item_B: Tensor
    price_B: Tensor
    labels_BK: Tensor
    """1 where the user clicked; 1 where the user bought."""

    @property
    def weight_B(self) -> Tensor:
        """Every row counts once."""
        return torch.ones(len(self.user_B))

    def at(self, rows: Tensor | slice) -> Rows:
        """Some of the rows."""
        return Rows(*(column[rows] for column in self))

    def batches(self, size: int, *, seed: int) -> Iterator[Rows]:
        """Shuffled batches of one size; rows that are left over wait for the next epoch."""
        order = torch.randperm(len(self.user_B), generator=torch.Generator().manual_seed(seed))
        return (self.at(order[end - size : end]) for end in range(size, len(order) + 1, size))


def draw(num_rows: int = 20_000, num_held_out: int = 5_000) -> tuple[Rows, Rows]:
    """Rows to train on, and rows to judge by; the same ones each time."""
    dice = torch.Generator().manual_seed(1)
    size = num_rows + num_held_out
    user_B = torch.randint(NUM_USERS, (size,), generator=dice)
    item_B = torch.randint(NUM_ITEMS, (size,), generator=dice)
    price_B = torch.randn(size, generator=dice)
    taste_KU = torch.randn(2, NUM_USERS, generator=dice)
    appeal_KI = torch.randn(2, NUM_ITEMS, generator=dice)
    liking_KB = taste_KU[:, user_B] + appeal_KI[:, item_B]
    click_B = torch.rand(size, generator=dice) < (liking_KB[0] - 1).sigmoid()
    wish_B = torch.rand(size, generator=dice) < (liking_KB[1] - price_B - 1).sigmoid()
    labels_BK = torch.stack([click_B, click_B & wish_B], dim=1).float()
    rows = Rows(user_B, item_B, price_B, labels_BK)
    return rows.at(slice(num_rows)), rows.at(slice(num_rows, size))


class Meter:
    """Mean losses of one epoch, and its speed."""

    def __init__(self, tasks: TaskSet) -> None:
        """Start the clock."""
        self.names = tasks.trained
        self.sums_T = torch.zeros(len(self.names))
        self._steps = self._rows = 0
        self._start_s = time.perf_counter()

    def add(self, terms: LossTerms, rows: Rows) -> None:
        """Count a step."""
        self.sums_T += torch.stack([terms.by_task[name].detach() for name in self.names])
        self._steps, self._rows = self._steps + 1, self._rows + len(rows.user_B)

    def line(self, epoch: int) -> str:
        """What the epoch came to."""
        rows_per_s = self._rows / (time.perf_counter() - self._start_s)
        means = zip(self.names, (self.sums_T / self._steps).tolist(), strict=True)
        losses = ", ".join(f"{name} {mean:.4f}" for name, mean in means)
        return f"epoch {epoch}: loss {losses}; {rows_per_s:,.0f} rows/s\n"


def auc_line(tasks: TaskSet, probs_BT: Tensor, rows: Rows) -> str:
    """AUC of each task on the rows where its outcome is known."""
    observed_BT = tasks.observed(rows.labels_BK, rows.weight_B)
    target_BT = tasks.targets(rows.labels_BK)
    found = [
        task_metrics("binary", probs_BT[:, t], target_BT[:, t], observed=observed_BT[:, t])
        for t in range(len(tasks.names))
    ]
    said = ", ".join(f"{name} {m['auc']:.4f}" for name, m in zip(tasks.names, found, strict=True))
    return f"AUC on {len(rows.user_B):,} held-out rows: {said}\n"
