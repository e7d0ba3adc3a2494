"""How far two models' scores are apart on all rows, labelled or not.

Shape letters: B rows, O columns of what is predicted, U units, R resamples, X sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recmtl.metrics.population import float32_codes, float32_values
from recmtl.metrics.sorting import Sorter
from recmtl.metrics.spool import Spool
from recmtl.studies.resampling import Resamples, ratio, resampled_sums

__all__ = ["QUANTILES", "ScoreShift", "Shift"]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_HISTOGRAM_BINS = 40
_SAME = 1e-6
"""Scores of one model in batches of other sizes are as close."""

Floats = NDArray[np.float64]
Shift = dict[str, Any]


class ScoreShift:
    """Mean scores of two models and the distribution of the differences, for one task.

    Args:
        num_rows: number of rows that will come, at most.
        outputs: columns of what is predicted: 1, or the number of classes.
        sizes: segment column -> number of its values.
        num_units: number of units U.
        spool: where differences are kept.
        memory: bytes to sort in, None for as many as it takes.
    """

    def __init__(
        self,
        num_rows: int,
        outputs: int,
        sizes: Mapping[str, int],
        num_units: int,
        *,
        spool: Spool,
        memory: int | None,
    ) -> None:
        """Start with no row."""
        self._num_rows, self._outputs, self._num_units = num_rows, outputs, num_units
        self._memory = memory
        # Of every segment value and unit: weight, then what each model said.
        width = 1 + 2 * outputs
        self._sums = {
            column: np.zeros((width, size * num_units))
            for column, size in [("", 1), *sizes.items()]
        }
        self._moves = spool.column(np.float32)
        self._products = np.zeros(6)

    def add(
        self,
        first_BO: NDArray[np.floating[Any]],
        second_BO: NDArray[np.floating[Any]],
        weight_B: NDArray[np.floating[Any]],
        unit_B: NDArray[np.integer],
        segments: Mapping[str, NDArray[np.integer]],
    ) -> None:
        """Take rows in: probabilities or numbers; rows of weight 0 do not count."""
        kept = weight_B > 0
        first_BO, second_BO = first_BO[kept].astype(np.float64), second_BO[kept].astype(np.float64)
        weight_B, unit_B = weight_B[kept].astype(np.float64), unit_B[kept].astype(np.int64)
        for column, sums in self._sums.items():
            cell_B = unit_B
            if column:
                cell_B = segments[column][kept].astype(np.int64) * self._num_units + unit_B
            size = sums.shape[1]
            sums[0] += np.bincount(cell_B, weight_B, size)
            for o in range(self._outputs):
                sums[1 + o] += np.bincount(cell_B, weight_B * first_BO[:, o], size)
                second = np.bincount(cell_B, weight_B * second_BO[:, o], size)
                sums[1 + self._outputs + o] += second
        if self._outputs == 1:
            self._moves.append((second_BO - first_BO)[:, 0])
            x, y = first_BO[:, 0], second_BO[:, 0]
            products = (np.ones(len(x)), x, y, x * x, y * y, x * y)
            self._products += np.array([(weight_B * column).sum() for column in products])
        else:
            self._moves.append(np.abs(second_BO - first_BO).sum(axis=1) / 2)

    def means(self, resamples: Resamples, column: str = "") -> list[list[tuple[Floats, Floats]]]:
        """Mean scores of both models, of each value of a segment column and of each output.

        Each is an array whose first entry is of all rows, and the others of the resamples; NaN
        without rows.
        """
        size = self._sums[column].shape[1] // self._num_units
        found = []
        for sums_XU in np.split(self._sums[column], size, axis=1):
            whole_X, resampled_RX = resampled_sums(sums_XU.T, resamples)
            sums_RX = np.concatenate([whole_X[None], resampled_RX])
            mean_OR = [ratio(column_R, sums_RX[:, 0]) for column_R in sums_RX.T[1:]]
            half = self._outputs
            found.append(list(zip(mean_OR[:half], mean_OR[half:], strict=True)))
        return found

    @property
    def correlation(self) -> float | None:
        """Pearson's correlation of the two models' scores; None of classes, or of a constant."""
        n, x, y, xx, yy, xy = self._products
        spread = (n * xx - x * x) * (n * yy - y * y)
        return float((n * xy - x * y) / np.sqrt(spread)) if spread > 0 else None

    def moves(self) -> Shift:
        """The distribution of the differences: exact quantiles, a histogram between 1 and 99 %.

        Of classes it is half of the sum of the absolute differences of their probabilities. Rows
        count alike, whatever their weight.
        """
        count = len(self._moves)
        if not count:
            return {"rows": 0}
        sorter = Sorter(count, np.uint32, memory=self._memory)
        up = down = 0
        total = 0.0
        for moves in self._moves.blocks():
            sorter.add(float32_codes(moves))
            up, down = up + int((moves > _SAME).sum()), down + int((moves < -_SAME).sum())
            total += float(np.abs(moves.astype(np.float64)).sum())
        places = [0, *(round(q * (count - 1)) for q in QUANTILES), count - 1]
        at = np.empty(len(places))
        start = 0
        for block in sorter.blocks():
            for i, place in enumerate(places):
                if start <= place < start + len(block.keys):
                    at[i] = float32_values(block.keys[place - start : place - start + 1])[0]
            start += len(block.keys)
        edges = np.linspace(at[1], at[-2], _HISTOGRAM_BINS + 1)
        inside = np.zeros(_HISTOGRAM_BINS, np.int64)
        if at[-2] > at[1]:
            for moves in self._moves.blocks():
                inside += np.histogram(moves.astype(np.float64), edges)[0]
        return {
            "rows": count,
            "mean_absolute": total / count,
            "up": up / count,
            "down": down / count,
            "quantiles": {
                f"{q:g}": value for q, value in zip(QUANTILES, at[1:-1].tolist(), strict=True)
            },
            "least": float(at[0]),
            "most": float(at[-1]),
            "histogram": {"edges": edges.tolist(), "rows": inside.tolist()},
        }
