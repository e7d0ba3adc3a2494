"""KuaiRand without towers: one model a task on the same columns, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import boosting
import numpy as np
import polars as pl
from boosting import Columns, Data, Grid
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from recmtl import load_spec
from recmtl.spec import DenseFeature

__all__ = ["Data", "boosted", "frequency", "linear"]

IDS = {"user_id": 5, "video_id": 20}  # and how many training rows a value needs, as in the spec


def linear(data: Data, tasks: Sequence[str], spec: Path) -> dict[str, float]:
    """Logistic regression on one-hot columns and the mean of the history; C by validation."""
    x_train, x_valid, x_test = (one_hot(data.train, frame, spec) for frame in data)
    result = {}
    for task in tasks:
        fitted = [
            LogisticRegression(C=c, max_iter=2_000).fit(x_train, data.train[task])
            for c in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
        ]
        best = max(fitted, key=lambda m: auc_of(data.valid[task], m.predict_proba(x_valid)))
        result[task] = auc_of(data.test[task], best.predict_proba(x_test))
    return result


def one_hot(train: pl.DataFrame, frame: pl.DataFrame, spec: Path) -> sparse.csr_matrix:
    """The spec's columns: an indicator a value, log1p of numbers, and the mean of the history."""
    blocks: list[sparse.spmatrix] = []
    for feature in load_spec(spec).features:
        name = feature.name
        if isinstance(feature, DenseFeature):
            ours, theirs = (np.log1p(f[name].fill_null(0).to_numpy()) for f in (frame, train))
            blocks.append(sparse.csr_matrix((ours - theirs.mean())[:, None] / theirs.std()))
            continue
        column, known = frame[name], pl.Series(range(32))
        if name == "duration_ms":
            borders = np.quantile(train[name], np.linspace(0, 1, 33)[1:-1])
            column = pl.Series(np.searchsorted(borders, column.to_numpy()))
        else:
            source = "video_id" if name == "history" else name
            counts = train[source].drop_nulls().value_counts()
            known = counts.filter(pl.col("count") >= IDS.get(source, 1))[source].sort()
        place = {value: k for k, value in enumerate(known.to_list())}
        lists = [v if isinstance(v, list) else [v] for v in column.to_list()]
        cells = [
            (1.0 / len(items), r, place[item])
            for r, items in enumerate(lists)
            for item in items
            if item in place
        ]
        values, rows, columns = np.array(cells).T if cells else np.zeros((3, 0))
        shape = (frame.height, max(len(place), 1))
        blocks.append(sparse.csr_matrix((values, (rows.astype(int), columns.astype(int))), shape))
    return sparse.hstack(blocks).tocsr()


def boosted(data: Data, tasks: Sequence[str], spec: Path) -> dict[str, float]:
    """Gradient boosting; users and videos are their mean labels, the history its length."""
    names = [f.name for f in load_spec(spec).features if f.name not in (*IDS, "history")]
    found = boosting.boosted(data, tasks, Columns(names=names, keys=tuple(IDS)), Grid())
    return {
        task: float(roc_auc_score(data.test[task], model.test_probs))
        for task, model in found.items()
    }


def frequency(data: Data, tasks: Sequence[str]) -> dict[str, float]:
    """What the number of a video's training rows says alone."""
    counts = data.train["video_id"].value_counts()
    found = data.test.join(counts, on="video_id", how="left", maintain_order="left")
    return {
        task: float(roc_auc_score(data.test[task], found["count"].fill_null(0))) for task in tasks
    }


def auc_of(labels: pl.Series, probs: np.ndarray) -> float:
    """Of the probability of the positive class."""
    return float(roc_auc_score(labels, probs[:, 1]))
