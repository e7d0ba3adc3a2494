"""Features that moved the scores: planted ones stand out, shares are those of shuffled frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recmtl.analysis.moved import moved_features
from recmtl.scoring import BatchScorer


def other_embedding(run: Path, table: str) -> BatchScorer:
    """The run, with the vectors of a table in another order."""
    scorer = BatchScorer(run, keep=())
    group, start = scorer.net.lookup.place(table)
    rows = scorer.encoders.tables[table]
    weight = scorer.net.lookup.get_buffer(group)
    with torch.no_grad():
        weight[start : start + rows] = 3 * weight[start : start + rows].flip(0)
    return scorer


def test_the_feature_whose_embedding_differs_stands_out(run: Path, funnel: Path) -> None:
    frame = pl.read_parquet(funnel / "valid.parquet")
    scorers = BatchScorer(run, keep=()), other_embedding(run, "category")
    batch = scorers[0].encoders.encode(frame, labels=False)
    found = moved_features(scorers, (batch, batch), ["ctr", "cvr", "ctcvr"], seed=4)
    for task, shares in found.items():
        names = list(shares)
        assert names[0] == "category"
        assert shares["category"] > 0.8
        assert shares["category"] > 1.2 * shares[names[1]]  # it acts together with others
        before = said(scorers, frame, task)
        for name in ("category", "price"):
            order = np.random.default_rng([4, *name.encode()]).permutation(frame.height)
            shuffled = frame.with_columns(frame[name].gather(order))
            moved = np.square(said(scorers, shuffled, task) - before).mean()
            assert shares[name] == pytest.approx(moved / (2 * before.var()), rel=2e-3)


def said(scorers: tuple[BatchScorer, BatchScorer], frame: pl.DataFrame, task: str) -> np.ndarray:
    """Log-odds of the second less those of the first, from probabilities."""
    first, second = (scorer(frame)[f"probs_{task}"].cast(pl.Float64) for scorer in scorers)
    return ((second / (1 - second)).log() - (first / (1 - first)).log()).to_numpy()
