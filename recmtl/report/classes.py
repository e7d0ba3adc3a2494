"""Columns of a multiclass task's plots. Shape letters: N rows, C classes, K bins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassCurves"]

_SHOWN = 20
_BINS = 20

Floats = NDArray[np.float64]


class ClassCurves:
    """What was said of each class and what came, summed over rows that are added piece by piece.

    Args:
        classes: number of classes C.

    Example:
        >>> curves = ClassCurves(2)
        >>> curves.add(np.log([[0.75, 0.25], [0.5, 0.5]]), np.array([0, 1]), np.ones(2))
        >>> found = curves.columns()
        >>> found["shares"], found["mean_probs"], found["confusion"]
        ([0.5, 0.5], [0.625, 0.375], [[1.0, 0.0], [1.0, 0.0]])
    """

    def __init__(self, classes: int) -> None:
        """Start with no row."""
        self._confusion_CC = np.zeros((classes, classes))
        self._prob_C = np.zeros(classes)
        self._bins_3K = np.zeros((3, _BINS))

    def add(self, logits_NC: Floats, labels_N: NDArray[Any], weights_N: Floats) -> None:
        """Take rows in.

        Args:
            logits_NC: logits whose softmax is the prediction.
            labels_N: class numbers.
            weights_N: sample weights, above 0.
        """
        classes, label_N = len(self._prob_C), labels_N.astype(np.int64)
        logits_NC = logits_NC.astype(np.float64)
        prob_NC = np.exp(logits_NC - np.logaddexp.reduce(logits_NC, axis=1, keepdims=True))
        likeliest_N = logits_NC.argmax(axis=1)
        pairs = np.bincount(label_N * classes + likeliest_N, weights_N, classes * classes)
        self._confusion_CC += pairs.reshape(classes, classes)
        self._prob_C += weights_N @ prob_NC
        sure_N = prob_NC[np.arange(len(label_N)), likeliest_N]
        bin_N = np.minimum((sure_N * _BINS).astype(np.int64), _BINS - 1)
        for k, number_N in enumerate((np.ones(len(sure_N)), sure_N, likeliest_N == label_N)):
            self._bins_3K[k] += np.bincount(bin_N, weights_N * number_N, _BINS)

    def columns(self) -> dict[str, Any]:
        """The plots' columns, ready for JSON.

        Returns:
            ``names`` of up to 20 classes, the commonest ones where there are more, with all others
            as ``other``; their ``shares`` and ``mean_probs``; ``confusion``, for each class (0
            without rows) the shares of the classes that its rows are taken for; ``reliability``,
            the mean probability of the likeliest class and the share of rows of that class
            (``base_rates``) in bins of equal width.
        """
        weight_C = self._confusion_CC.sum(axis=1)
        classes, total = len(weight_C), max(float(weight_C.sum()), 1e-300)
        shown = np.arange(classes)
        if classes > _SHOWN:
            shown = np.sort(np.argsort(-weight_C, kind="stable")[: _SHOWN - 1])
        other = np.setdiff1d(np.arange(classes), shown)
        groups = [*([c] for c in shown.tolist()), *([other.tolist()] if len(other) else [])]
        confusion = np.array([self._confusion_CC[group].sum(axis=0) for group in groups])
        confusion = np.array([confusion[:, group].sum(axis=1) for group in groups]).T
        rows = confusion.sum(axis=1, keepdims=True)
        weight_K, sure_K, right_K = self._bins_3K[:, self._bins_3K[0] > 0]
        return {
            "names": [*map(str, shown.tolist()), *(["other"] if len(other) else [])],
            "shares": [float(weight_C[group].sum() / total) for group in groups],
            "mean_probs": [float(self._prob_C[group].sum() / total) for group in groups],
            "confusion": (confusion / np.where(rows > 0, rows, 1)).tolist(),
            "reliability": {
                "mean_probs": (sure_K / weight_K).tolist(),
                "base_rates": (right_K / weight_K).tolist(),
            },
        }
