"""A torch-rechub model: PLE in place of MMoE's experts, gates and towers, above its own embeddings.

pip install recmtl torch-rechub==0.9.0
python examples/stacks/torch_rechub_model.py
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from clicks import LABELS, NUM_ITEMS, NUM_USERS, TASKS, Meter, Rows, auc_line, draw
from torch import Tensor, nn
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import MMOE

from recmtl.tasks import TaskSet
from recmtl.towers import PLE, PLEConfig


def rechub_model() -> MMOE:
    """What was there before."""
    features = [
        SparseFeature("user", vocab_size=NUM_USERS, embed_dim=16),
        SparseFeature("item", vocab_size=NUM_ITEMS, embed_dim=16),
        DenseFeature("price"),
    ]
    layers = {"dims": [64, 32]}
    return MMOE(features, ["classification"] * 2, 4, layers, [{"dims": [16]}] * 2)


class WithPLE(nn.Module):
    """A model of torch-rechub that keeps its embeddings. Shape letters: B rows, H logits, T tasks.

    It takes and gives what models of torch-rechub do, so `MTLTrainer.predict` and `evaluate`, with
    a task type for each column, work as before.
    """

    def __init__(self, model: MMOE, tasks: TaskSet) -> None:
        """Take the embeddings over."""
        super().__init__()
        self.features, self.embedding, self.tasks = model.features, model.embedding, tasks
        config = PLEConfig(num_levels=1, expert_widths=(64, 32), head_widths=(16,))
        self.tower = PLE(config, in_dim=model.input_dims, tasks=tasks.heads)

    def logits(self, x: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[B, H]``, for the loss."""
        logits_BH: Tensor = self.tower(self.embedding(x, self.features, squeeze_dim=True))
        return logits_BH

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """Probabilities ``[B, T]``, products included."""
        return self.tasks.probs(self.logits(x))


def columns(rows: Rows) -> dict[str, Tensor]:
    """Rows as torch-rechub takes them."""
    return {"user": rows.user_B, "item": rows.item_B, "price": rows.price_B}


def main() -> None:
    """Train, and judge on held-out rows."""
    torch.manual_seed(0)
    train, held_out = draw()
    tasks = TaskSet(TASKS, labels=LABELS, objective="entire_space")
    model = WithPLE(rechub_model(), tasks)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(3):
        meter = Meter(tasks)
        for rows in train.batches(512, seed=epoch):
            terms = tasks.loss(model.logits(columns(rows)), rows.labels_BK, rows.weight_B)
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
            meter.add(terms, rows)
        sys.stdout.write(meter.line(epoch))
    model.eval()
    with torch.inference_mode():
        probs_BT = model(columns(held_out))
    sys.stdout.write(auc_line(tasks, probs_BT, held_out))


if __name__ == "__main__":
    main()
