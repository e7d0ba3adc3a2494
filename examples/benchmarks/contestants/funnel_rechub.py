"""torch-rechub's MMoE on the simulated funnel, as its tutorial has it; runs in its environment.

    python funnel_rechub.py DATA OUT --seed 0

Sizes and rates are those of `examples/ranking/run_ali_ccp_multi_task.py` of torch-rechub: tables of
4 numbers, 8 experts of 16, heads of 8, batches of 1024; the Adam is the default of its MTLTrainer
(1e-3, weight decay 1e-5), and so are its 10 epochs. The tasks are click, and click and
conversion, on all rows. After each epoch the validation rows are scored; the epoch with the best
mean AUC of both tasks is kept (`MTLTrainer.fit` would look at one task, and takes the last epoch
unless it stops early).

`OUT.parquet` holds the probabilities of the test rows, `OUT.json` the AUC of each epoch.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.multi_task import MMOE
from torch_rechub.trainers import MTLTrainer

COLUMNS = ("user_id", "item_id", "age", "gender", "device", "hour", "category", "brand")
LABELS = ("click", "conversion")
DIM, NUM_EXPERTS, EXPERT, HEAD = 4, 8, [16], [8]
BATCH_SIZE = 1024
HISTORY = 20
"""Newest clicks of a history that are read, as many as the simulator's spec reads."""

Inputs = dict[str, Tensor]


class Batches:
    """Batches as the trainer takes them, mixed anew in every epoch where they are of training.

    Its own loader fetches row after row; batches cut from whole columns are the same, and come at
    once.
    """

    def __init__(self, x: Inputs, y: Tensor, *, is_mixed: bool) -> None:
        self.x, self.y, self.is_mixed = x, y, is_mixed

    def __len__(self) -> int:
        return -(-len(self.y) // BATCH_SIZE)

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        order = torch.randperm(len(self.y)) if self.is_mixed else torch.arange(len(self.y))
        for rows in order.split(BATCH_SIZE):
            yield {name: column[rows] for name, column in self.x.items()}, self.y[rows]


def main() -> None:
    """Train one seed and write its predictions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, help="without an ending")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tables = {p: pq.read_table(args.data / f"{p}.parquet") for p in ("train", "valid", "test")}
    x = {part: inputs(tables["train"], table) for part, table in tables.items()}
    y = {
        part: torch.from_numpy(np.stack([table[name].to_numpy() for name in LABELS], axis=1))
        for part, table in tables.items()
    }
    trainer = MTLTrainer(
        model_of(tables["train"]),
        ["classification"] * 2,
        n_epoch=args.epochs,
        model_path=tempfile.gettempdir(),
    )
    train = Batches(x["train"], y["train"], is_mixed=True)
    valid = Batches(x["valid"], y["valid"], is_mixed=False)
    aucs: list[list[float]] = []
    best, weights = 0.0, None
    for _ in range(args.epochs):
        trainer.train_one_epoch(train)
        aucs.append([float(auc) for auc in trainer.evaluate(trainer.model, valid)])
        if np.mean(aucs[-1]) > best:
            best, weights = float(np.mean(aucs[-1])), copy.deepcopy(trainer.model.state_dict())
    assert weights is not None
    trainer.model.load_state_dict(weights)
    test = [batch for batch, _ in Batches(x["test"], y["test"], is_mixed=False)]
    probs = np.array(trainer.predict(trainer.model, test))
    write(args.out, probs, {"valid_auc": best, "epoch": 1 + aucs.index(max(aucs, key=np.mean))})


def model_of(train: pa.Table) -> MMOE:
    """The tutorial's MMoE; the history is the mean of its items' vectors, of the item's table."""
    sizes = {name: 1 + len(np.unique(train[name].to_numpy())) for name in COLUMNS}
    features: list[Any] = [SparseFeature(n, size, embed_dim=DIM) for n, size in sizes.items()]
    shared = {"pooling": "mean", "shared_with": "item_id", "padding_idx": 0}
    features.append(SequenceFeature("history", sizes["item_id"], embed_dim=DIM, **shared))
    features.append(DenseFeature("price"))
    heads = [{"dims": HEAD} for _ in LABELS]
    return MMOE(features, ["classification"] * 2, NUM_EXPERTS, {"dims": EXPERT}, heads)


def inputs(train: pa.Table, table: pa.Table) -> Inputs:
    """Columns as tensors: values are numbered from 1, 0 is unknown and pads histories."""
    known = {name: np.unique(train[name].to_numpy()) for name in COLUMNS}
    x = {name: numbered(known[name], table[name].to_numpy()) for name in COLUMNS}
    lists = table["history"].combine_chunks()
    ends, starts = (np.asarray(lists.offsets)[k] for k in (slice(1, None), slice(-1)))
    place = ends[:, None] - 1 - np.arange(HISTORY)
    is_there = place >= starts[:, None]
    items = np.asarray(lists.values)
    x["history"] = np.zeros(place.shape, np.int64)
    x["history"][is_there] = numbered(known["item_id"], items[place[is_there]])
    price, of_train = (np.log1p(t["price"].to_numpy()) for t in (table, train))
    x["price"] = ((price - of_train.mean()) / of_train.std()).astype(np.float32)
    return {name: torch.from_numpy(column) for name, column in x.items()}


def numbered(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Place of each value among the known ones, from 1; 0 where it is not among them."""
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[place] == values, place + 1, 0)


def write(out: Path, probs: np.ndarray, notes: dict[str, float]) -> None:
    """Both files; the notes come last."""
    part = out.with_name(out.name + ".part")
    pd.DataFrame(probs, columns=["ctr", "ctcvr"]).to_parquet(part)
    os.replace(part, out.with_name(out.name + ".parquet"))
    out.with_name(out.name + ".json").write_text(json.dumps(notes), encoding="utf-8")


if __name__ == "__main__":
    main()
