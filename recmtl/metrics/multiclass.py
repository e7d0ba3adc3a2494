"""One class out of several: how good its probabilities are, and what is taken for what.

Shape letters: N rows, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from recmtl.metrics._columns import Columns, Floats, columns

__all__ = [
    "ClassSums",
    "ClassTable",
    "accuracy",
    "class_columns",
    "class_table",
    "multiclass_logloss",
    "multiclass_ne",
]

_SUM_DIGITS = 1e-3


class ClassSums:
    """Sums over rows that every metric of a multiclass task is read from.

    Rows may be added piece by piece: the metrics are those of all of them together.

    Args:
        classes: number of classes C.

    Attributes:
        rows: rows of a weight above 0.
        loss: weighted sum of their losses.
        right: weight of the rows whose likeliest class is their label.
        weight_C: weight of the rows of each class.

    Example:
        >>> sums = ClassSums(2)
        >>> sums.add([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]], [0, 1, 1])
        >>> sums.rows, sums.accuracy, round(sums.logloss, 4)
        (3, 0.6666666666666666, 0.4228)
    """

    def __init__(self, classes: int) -> None:
        """Start with no row."""
        self.rows = 0
        self.loss = 0.0
        self.right = 0.0
        self.weight_C: Floats = np.zeros(classes)

    def add(
        self,
        predictions: ArrayLike,
        labels: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        logits: bool = False,
    ) -> None:
        """Take rows in; see `multiclass_logloss` for the arguments."""
        rows = class_columns(predictions, labels, weights, logits=logits)
        if rows.predictions.shape[1] != len(self.weight_C):
            raise ValueError(
                f"`predictions` must have a column for each of {len(self.weight_C)} classes, got "
                f"{rows.predictions.shape[1]}."
            )
        weight_N = np.ones(len(rows.labels)) if rows.weights is None else rows.weights
        right_N = rows.predictions.argmax(axis=1) == rows.labels
        self.rows += len(rows.labels)
        self.loss += float(weight_N @ _losses(rows, logits=logits))
        self.right += float(weight_N[right_N].sum())
        self.weight_C += np.bincount(rows.labels, weight_N, len(self.weight_C))

    @property
    def logloss(self) -> float | None:
        """Mean negative log-likelihood; None without rows."""
        return self.loss / float(self.weight_C.sum()) if self.rows else None

    @property
    def ne(self) -> float | None:
        """Logloss over the entropy of the classes' shares; None unless there are two classes."""
        share_C = self.weight_C[self.weight_C > 0] / max(float(self.weight_C.sum()), 1e-300)
        if self.logloss is None or len(share_C) < 2:
            return None
        return float(self.logloss / -(share_C @ np.log(share_C)))

    @property
    def accuracy(self) -> float | None:
        """Share of the rows whose likeliest class is their label; None without rows."""
        return self.right / float(self.weight_C.sum()) if self.rows else None

    def metrics(self) -> dict[str, float | int | None]:
        """`n` (number of rows), `logloss`, `ne` and `accuracy`."""
        return {
            "n": self.rows,
            "logloss": self.logloss,
            "ne": self.ne,
            "accuracy": self.accuracy,
        }


class ClassTable(NamedTuple):
    """What was said of each class, and what came."""

    shares: Floats
    """Share of each class among the rows."""
    mean_probs: Floats
    """Mean predicted probability of each class."""
    confusion: Floats
    """Weight of the rows of each class (first axis) by their likeliest class (second axis)."""


def multiclass_logloss(
    predictions: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    logits: bool = False,
) -> float | None:
    r"""Mean negative log-likelihood of the classes that came: :math:`-\overline{\log p_y}`.

    From logits it is exact. Probabilities are clipped to [eps, 1 - eps], with the eps of their
    dtype (as in scikit-learn).

    Args:
        predictions: a column for each class: probabilities, or logits whose softmax they are.
        labels: class numbers from 0 on.
        weights: sample weights; rows of weight 0 do not count.
        logits: whether the predictions are logits.

    Returns:
        The mean, or None without rows.

    Example:
        >>> round(multiclass_logloss([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], [0, 1]), 4)
        1.0397
    """
    return _sums(predictions, labels, weights, logits=logits).logloss


def multiclass_ne(
    predictions: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    logits: bool = False,
) -> float | None:
    """Normalised entropy: logloss over that of always saying the classes' shares.

    With two classes it is `ne` of the second one's probability.

    Args:
        predictions: a column for each class; see `multiclass_logloss`.
        labels: class numbers from 0 on.
        weights: sample weights; rows of weight 0 do not count.
        logits: whether the predictions are logits.

    Returns:
        The ratio, or None unless at least two classes are there.

    Example:
        >>> multiclass_ne([[0.5, 0.25, 0.25]] * 4, [0, 0, 1, 2])
        1.0
    """
    return _sums(predictions, labels, weights, logits=logits).ne


def accuracy(
    predictions: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None
) -> float | None:
    """Share of the rows whose likeliest class (of equal ones the first) is their label.

    Args:
        predictions: a column for each class: probabilities or logits.
        labels: class numbers from 0 on.
        weights: sample weights; rows of weight 0 do not count.

    Returns:
        The share, or None without rows.

    Example:
        >>> accuracy([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], [0, 1])
        0.5
    """
    return _sums(predictions, labels, weights, logits=True).accuracy


def class_table(
    predictions: ArrayLike,
    labels: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    logits: bool = False,
) -> ClassTable:
    """Shares and mean probabilities of the classes, and which was taken for which.

    Args:
        predictions: a column for each class; see `multiclass_logloss`.
        labels: class numbers from 0 on.
        weights: sample weights; rows of weight 0 do not count.
        logits: whether the predictions are logits.

    Returns:
        The table; without rows, zeros.

    Example:
        >>> table = class_table([[0.7, 0.3], [0.6, 0.4]], [0, 1])
        >>> table.mean_probs.round(2).tolist(), table.confusion.tolist()
        ([0.65, 0.35], [[1.0, 0.0], [1.0, 0.0]])
    """
    rows = class_columns(predictions, labels, weights, logits=logits)
    classes = rows.predictions.shape[1]
    prob_NC = rows.predictions.astype(np.float64)
    likeliest_N = prob_NC.argmax(axis=1)
    if logits:
        prob_NC = np.exp(prob_NC - np.logaddexp.reduce(prob_NC, axis=1, keepdims=True))
    weight_N = np.ones(len(rows.labels)) if rows.weights is None else rows.weights
    total = max(float(weight_N.sum()), 1e-300)
    confusion = np.bincount(rows.labels * classes + likeliest_N, weight_N, classes * classes)
    confusion_CC = confusion.reshape(classes, classes).astype(np.float64)
    return ClassTable(confusion_CC.sum(axis=1) / total, weight_N @ prob_NC / total, confusion_CC)


def class_columns(
    predictions: ArrayLike, labels: ArrayLike, weights: ArrayLike | None, *, logits: bool
) -> Columns:
    """Check rows of a column for each class, as `columns` does; labels become integers."""
    prediction_NC = np.asarray(predictions)
    if prediction_NC.ndim != 2 or prediction_NC.shape[1] < 2:
        raise ValueError(
            "`predictions` must have a row for each prediction and a column for each of at least "
            f"two classes, got shape {prediction_NC.shape}."
        )
    if prediction_NC.dtype.kind != "f" or prediction_NC.dtype.itemsize < 4:
        prediction_NC = prediction_NC.astype(np.float64)
    classes = prediction_NC.shape[1]
    # The extremes of a row stand for it where its columns are checked.
    checked = columns(prediction_NC.min(axis=1), labels, weights, binary=False, probs=not logits)
    columns(prediction_NC.max(axis=1), labels, weights, binary=False, probs=not logits)
    total_N = prediction_NC.sum(axis=1, dtype=np.float64)
    if not logits and (np.abs(total_N - 1) > _SUM_DIGITS).any():
        row = int(np.abs(total_N - 1).argmax())
        raise ValueError(
            f"`predictions` of a row must add up to 1, got {total_N[row]:g} in row {row}. Are they "
            "logits?"
        )
    label_N = checked.labels.astype(np.int64)
    wrong_N = (label_N != checked.labels) | (label_N < 0) | (label_N >= classes)
    if wrong_N.any():
        row = int(wrong_N.argmax())
        raise ValueError(
            f"`labels` must be classes from 0 to {classes - 1}, got {checked.labels[row]} "
            f"({int(wrong_N.sum())} such rows)."
        )
    if checked.kept is not None:
        prediction_NC = prediction_NC[checked.kept]
    return Columns(prediction_NC, label_N, checked.weights, checked.kept)


def _losses(rows: Columns, *, logits: bool) -> Floats:
    """Negative log-likelihood of each row's label."""
    prediction_NC = rows.predictions.astype(np.float64)
    own = (np.arange(len(rows.labels)), rows.labels)
    if not logits:
        eps = float(np.finfo(rows.predictions.dtype).eps)
        loss_N: Floats = -np.log(prediction_NC[own].clip(eps, 1 - eps))
        return loss_N
    gap_NC = prediction_NC - prediction_NC[own][:, None]
    gap_NC[own] = -np.inf
    losses: Floats = np.logaddexp(0.0, np.logaddexp.reduce(gap_NC, axis=1))
    return losses


def _sums(
    predictions: ArrayLike, labels: ArrayLike, weights: ArrayLike | None, *, logits: bool
) -> ClassSums:
    sums = ClassSums(np.shape(predictions)[1] if np.ndim(predictions) == 2 else 2)
    sums.add(predictions, labels, weights, logits=logits)
    return sums
