"""Matrix factorisation and the factorisation machine, with L2, in plain PyTorch: one label at once.

    python funnel_factorisation.py DATA OUT --kind mf --label click

Reads `DATA/{train,valid,test}.parquet`; tries sizes and penalties, each for some epochs, and keeps
the epoch with the best AUC on the validation rows. `OUT.parquet` holds its logits of the test rows,
`OUT.json` what was chosen, `OUT.trials` every setting: what stands there is not tried again.

Shape letters: B rows, F columns, V values of all columns, D numbers of a vector.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Factorised", "encode", "fit"]

COLUMNS = ("user_id", "item_id", "age", "gender", "device", "hour", "category", "brand")
PRICE_BUCKETS = 20
DIMS = (8, 16)
PENALTIES = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05)
FIXED = {"lr": 0.003, "batch_size": 2048, "epochs": 16, "patience": 4}
"""Patience: epochs without a better validation AUC after which a setting is given up."""


class Factorised(nn.Module):
    r"""A bias, a weight for each value of each column, and products of vectors.

    .. math:: z = b + \sum_f w[x_f] + \sum_{(f, g)} \langle v[x_f], v[x_g] \rangle

    `mf`: the one pair of user and item. `fm`: all pairs of columns (Rendle, ICDM 2010, equation 1,
    with the products summed up as in its lemma 3.1).

    Shape: ``(B, F)`` -> logits ``(B,)`` and the squared size of what was looked up, ``(B,)``.
    """

    def __init__(self, kind: str, num_values: int, dim: int, base_rate: float) -> None:
        super().__init__()
        self.kind = kind
        self.bias = nn.Parameter(torch.tensor(math.log(base_rate / (1 - base_rate))))
        self.weights = nn.Embedding(num_values, 1)
        self.vectors = nn.Embedding(num_values, dim)
        nn.init.zeros_(self.weights.weight)
        nn.init.normal_(self.vectors.weight, std=0.1)

    def forward(self, x_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and what the penalty is of."""
        weight_BF = self.weights(x_BF).squeeze(-1)
        if self.kind == "mf":
            vector_BFD = self.vectors(x_BF[:, :2])
            product_B = (vector_BFD[:, 0] * vector_BFD[:, 1]).sum(dim=1)
        else:
            vector_BFD = self.vectors(x_BF)
            square_BD = vector_BFD.sum(dim=1).square() - vector_BFD.square().sum(dim=1)
            product_B = square_BD.sum(dim=1) / 2
        size_B = weight_BF.square().sum(dim=1) + vector_BFD.square().sum(dim=(1, 2))
        return self.bias + weight_BF.sum(dim=1) + product_B, size_B


def encode(train: pl.DataFrame, frame: pl.DataFrame) -> tuple[Tensor, list[int]]:
    """Numbers of the values ``(B, F)`` of one common table, and those of unknown values.

    The price is the number of its bucket; the buckets are quantiles of the training rows.
    """
    parts, unknown, first = [], [], 0
    for name in COLUMNS:
        values, known = frame[name].to_numpy(), np.unique(train[name].to_numpy())
        place = np.searchsorted(known, values).clip(max=len(known) - 1)
        parts.append(first + np.where(known[place] == values, place, len(known)))
        first += len(known) + 1
        unknown.append(first - 1)
    borders = np.quantile(train["price"], np.linspace(0, 1, PRICE_BUCKETS + 1)[1:-1])
    parts.append(first + np.searchsorted(borders, frame["price"].to_numpy()))
    return torch.from_numpy(np.stack(parts, axis=1)), [*unknown, first + PRICE_BUCKETS]


def fit(
    kind: str, data: dict[str, tuple[Tensor, Tensor]], unknown: list[int], dim: int, penalty: float
) -> tuple[float, int, Tensor]:
    """Train one setting.

    Args:
        kind: `mf` or `fm`.
        data: part -> values ``(B, F)`` and labels ``(B,)``.
        unknown: numbers of the values that no training row has, and V last.
        dim: size of a vector.
        penalty: half of it times the squared size of what a row looks up joins the row's loss.

    Returns:
        The best validation AUC, its epoch, and the logits of the test rows then.
    """
    torch.manual_seed(0)
    x_BF, y_B = data["train"]
    model = Factorised(kind, unknown[-1], dim, float(y_B.mean()))
    with torch.no_grad():
        model.vectors.weight[unknown[:-1]] = 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=FIXED["lr"])
    best = (0.0, -1, torch.empty(0))
    for epoch in range(int(FIXED["epochs"])):
        for rows in torch.randperm(len(y_B)).split(int(FIXED["batch_size"])):
            logit_b, size_b = model(x_BF[rows])
            loss = functional.binary_cross_entropy_with_logits(logit_b, y_B[rows])
            optimizer.zero_grad()
            (loss + penalty / 2 * size_b.mean()).backward()
            optimizer.step()
        with torch.no_grad():
            auc = float(roc_auc_score(data["valid"][1], model(data["valid"][0])[0]))
            if auc > best[0]:
                best = (auc, epoch, model(data["test"][0])[0])
        if epoch - best[1] >= FIXED["patience"]:
            break
    return best


def main() -> None:
    """Try what has not been tried; the best so far is on disk after every setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, help="without an ending")
    parser.add_argument("--kind", choices=("mf", "fm"), required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trials = args.out.with_name(args.out.name + ".trials")
    tried = _read(trials)
    settings = [{"dim": dim, "l2": l2} for dim, l2 in itertools.product(DIMS, PENALTIES)]
    left = [s for s in settings if all(trial["setting"] != s for trial in tried)]
    data, unknown = _data(args.data, args.label) if left else ({}, [])
    for setting in left:
        auc, epoch, logit_B = fit(args.kind, data, unknown, setting["dim"], setting["l2"])
        trial = {"setting": setting, "valid_auc": auc, "epoch": epoch + 1}
        if auc > max((t["valid_auc"] for t in tried), default=0.0):
            whole = args.out.with_name(args.out.name + ".part")
            pl.DataFrame({"logit": logit_B.numpy()}).write_parquet(whole)
            os.replace(whole, args.out.with_name(args.out.name + ".parquet"))
        tried.append(trial)
        with trials.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(trial))  # a torn last line stays alone
        sys.stderr.write(f"{args.kind} {args.label} {json.dumps(trial)}\n")
    best = max(tried, key=lambda trial: float(trial["valid_auc"]))
    chosen = best.pop("setting") | best
    args.out.with_name(args.out.name + ".json").write_text(json.dumps(chosen), encoding="utf-8")


def _data(folder: Path, label: str) -> tuple[dict[str, tuple[Tensor, Tensor]], list[int]]:
    """Values and labels of each part, and the numbers of unknown values."""
    frames = {p: pl.read_parquet(folder / f"{p}.parquet") for p in ("train", "valid", "test")}
    data, unknown = {}, [0]
    for part, frame in frames.items():
        x_BF, unknown = encode(frames["train"], frame)
        data[part] = x_BF, torch.tensor(frame[label].to_numpy().astype(np.float32))
    return data, unknown


def _read(trials: Path) -> list[dict[str, Any]]:
    """What was tried of this grid; those of another one are forgotten."""
    grid = json.dumps({"dims": DIMS, "l2": PENALTIES, **FIXED})
    lines = trials.read_text(encoding="utf-8").splitlines() if trials.is_file() else []
    if lines[:1] != [grid]:
        trials.write_text(grid, encoding="utf-8")
        return []
    found = []
    for line in lines[1:]:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


if __name__ == "__main__":
    main()
