"""Gradient boosting on a click log, by scikit-learn: ids enter as their mean labels.

What is left to be chosen (rounds, leaves, learning rate) is chosen on the validation rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

__all__ = ["Boosted", "Columns", "Data", "Grid", "boosted", "mean_labels"]

PRIOR = 20.0  # rows of the base rate that a mean label is drawn to
FOLDS = 5
MOST_CATEGORIES = 250  # scikit-learn takes 255


class Data(NamedTuple):
    """The three parts."""

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the trees see of a log."""

    names: Sequence[str]
    """Categories where there are fewer than 250 values, and numbers."""
    keys: Sequence[str]
    """Ids, which enter as the mean label of their training rows."""
    numeric: Sequence[str] = ()
    """Names that are numbers however few values there are."""
    counts: bool = False
    """Whether the number of an id's training rows is seen too."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is tried."""

    rounds: Sequence[int] = (50, 100, 200)
    leaves: Sequence[int] = (15,)
    rates: Sequence[float] = (0.05,)
    early_stopping: bool | Literal["auto"] = "auto"
    """As scikit-learn's: "auto" keeps a tenth of many training rows to end the rounds early."""


class Boosted(NamedTuple):
    """The model that the validation rows chose."""

    chosen: dict[str, float]
    valid_auc: float
    test_probs: np.ndarray


def boosted(data: Data, labels: Sequence[str], seen: Columns, grid: Grid) -> dict[str, Boosted]:
    """One model a label; the history enters as its length.

    A model of fewer rounds is the beginning of one of more, so each setting is fitted once.
    """
    coded = [name for name in seen.names if _is_coded(data.train, name, seen)]
    columns = [_plain(frame, data.train, seen, coded) for frame in data]
    categorical = [1 + seen.names.index(name) for name in coded]
    result = {}
    for label in labels:
        x_train, x_valid, x_test = (
            np.column_stack([*plain, *_of_keys(data.train, frame, label, seen)])
            for plain, frame in zip(columns, data, strict=True)
        )
        best: Boosted | None = None
        for leaves, rate in itertools.product(grid.leaves, grid.rates):
            model = HistGradientBoostingClassifier(
                max_iter=max(grid.rounds),
                learning_rate=rate,
                max_leaf_nodes=leaves,
                l2_regularization=10.0,
                categorical_features=categorical,
                early_stopping=grid.early_stopping,
                random_state=0,
            ).fit(x_train, data.train[label])
            asked = {min(rounds, model.n_iter_) for rounds in grid.rounds}
            for rounds, probs in enumerate(model.staged_predict_proba(x_valid), 1):
                if rounds not in asked:
                    continue
                auc = float(roc_auc_score(data.valid[label], probs[:, 1]))
                if best is None or auc > best.valid_auc:
                    staged = itertools.islice(model.staged_predict_proba(x_test), rounds)
                    *_, test = staged
                    chosen = {"rounds": rounds, "leaves": leaves, "rate": rate}
                    best = Boosted(chosen, auc, test[:, 1])
        assert best is not None
        result[label] = best
    return result


def mean_labels(train: pl.DataFrame, frame: pl.DataFrame, label: str, key: str) -> np.ndarray:
    """The mean training label of a row's `key`, drawn to the base rate.

    Of a training row, over the other four fifths of the training rows.
    """
    base = float(train[label].to_numpy().mean())

    def means(rows: pl.DataFrame, asked: pl.DataFrame) -> np.ndarray:
        mean = (pl.col(label).sum() + PRIOR * base) / (pl.len() + PRIOR)
        found = rows.group_by(key).agg(mean.alias("mean"))
        joined = asked.select(key).join(found, on=key, how="left", maintain_order="left")
        return joined["mean"].fill_null(base).to_numpy()

    if frame is not train:
        return means(train, frame)
    fold = np.random.default_rng(0).integers(0, FOLDS, train.height)
    values = np.empty(train.height)
    for k in range(FOLDS):
        values[fold == k] = means(train.filter(fold != k), train.filter(fold == k))
    return values


def _is_coded(train: pl.DataFrame, name: str, seen: Columns) -> bool:
    return name not in seen.numeric and train[name].n_unique() < MOST_CATEGORIES


def _plain(
    frame: pl.DataFrame, train: pl.DataFrame, seen: Columns, coded: Sequence[str]
) -> list[np.ndarray]:
    """The length of the history, and the named columns: codes of categories, and numbers."""
    parts = [frame["history"].list.len().to_numpy().astype(float)]
    for name in seen.names:
        values = frame[name].to_list()
        if name in coded:
            known = train[name].drop_nulls().unique().sort().to_list()
            place = {value: k for k, value in enumerate(known)}
            values = [place.get(value, np.nan) for value in values]
        parts.append(np.array(values, float))
    return parts


def _of_keys(
    train: pl.DataFrame, frame: pl.DataFrame, label: str, seen: Columns
) -> list[np.ndarray]:
    parts = [mean_labels(train, frame, label, key) for key in seen.keys]
    for key in seen.keys if seen.counts else ():
        found = train[key].value_counts()
        joined = frame.select(key).join(found, on=key, how="left", maintain_order="left")
        parts.append(joined["count"].fill_null(0).to_numpy().astype(float))
    return parts
