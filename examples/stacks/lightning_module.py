"""A Lightning module of your own: PLE in place of its head. Needs `lightning` beside `recmtl`.

python examples/stacks/lightning_module.py
"""

from __future__ import annotations

import sys

import torch
from clicks import LABELS, NUM_ITEMS, NUM_USERS, TASKS, Meter, Rows, auc_line, draw
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recmtl.tasks import TaskSet
from recmtl.towers import PLE, PLEConfig


class ClickModule(LightningModule):
    """Yours, but for three lines. Shape letters: B rows, H logits, T tasks."""

    def __init__(self, dim: int = 16) -> None:
        """Tables of `dim` columns."""
        super().__init__()
        self.user = nn.Embedding(NUM_USERS, dim)
        self.item = nn.Embedding(NUM_ITEMS, dim)
        # The three lines: the tasks, a tower for them, and (below) their loss.
        self.tasks = TaskSet(TASKS, labels=LABELS, objective="entire_space")
        config = PLEConfig(num_levels=1, expert_widths=(64, 32), head_widths=(16,))
        self.head = PLE(config, in_dim=2 * dim + 1, tasks=self.tasks.heads)

    def forward(self, rows: Rows) -> Tensor:
        """Logits ``[B, H]``."""
        parts = [self.user(rows.user_B), self.item(rows.item_B), rows.price_B.unsqueeze(1)]
        logits_BH: Tensor = self.head(torch.cat(parts, dim=1))
        return logits_BH

    def training_step(self, rows: Rows, batch_idx: int) -> Tensor:
        """The joint loss, each task's part of it logged."""
        terms = self.tasks.loss(self(rows), rows.labels_BK, rows.weight_B)
        self.log_dict({f"train/{name}": term for name, term in terms.by_task.items()})
        self.meter.add(terms, rows)
        return terms.total

    def predict_step(self, rows: Rows, batch_idx: int) -> Tensor:
        """Probabilities ``[B, T]``, products included."""
        return self.tasks.probs(self(rows))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer for tables and tower."""
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def on_train_epoch_start(self) -> None:
        """Start the clock."""
        self.meter = Meter(self.tasks)

    def on_train_epoch_end(self) -> None:
        """Say what the epoch came to."""
        sys.stdout.write(self.meter.line(self.current_epoch))


def main() -> None:
    """Train, and judge on held-out rows."""
    seed_everything(0, verbose=False)
    train, held_out = draw()
    loader = DataLoader(
        range(len(train.user_B)),
        batch_size=512,
        shuffle=True,
        drop_last=True,
        collate_fn=lambda ids: train.at(torch.tensor(ids)),
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=3, enable_checkpointing=False, **quiet
    )
    module = ClickModule()
    trainer.fit(module, loader)
    probs_BT = torch.cat(trainer.predict(module, DataLoader([held_out], batch_size=None)))
    sys.stdout.write(auc_line(module.tasks, probs_BT, held_out))


if __name__ == "__main__":
    main()
