"""How good predictions are where the truth is known, and how sure a difference of two is.

Shape letters: N test rows, R resamples, S training seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from funnel_contestants import Contestant
from funnel_world import World
from numpy.typing import NDArray

from recmtl.studies.intervals import Difference, difference_of
from recmtl.studies.resampling import Resamples, resampled_auc, resampled_mean

__all__ = ["COUNT", "TASKS", "Figures"]

TASKS = ("ctr", "ctcvr", "cvr")
LABELS = {"ctr": "click", "ctcvr": "conversion", "cvr": "conversion_potential"}
COUNT = 1_000
"""Resamples R of the users."""


@dataclass(frozen=True)
class Figures:
    """Metrics of one contestant on the test rows of a world, by seed and by resample."""

    contestant: Contestant
    world: World

    @property
    def has_cvr(self) -> bool:
        """Whether it says what a click leads to; else `cvr` is CTCVR / CTR, at most 1."""
        return "cvr" in self.contestant.runs[0].columns

    @cached_property
    def aucs(self) -> dict[str, tuple[list[float], NDArray[np.float64]]]:
        """Task -> AUC of each seed, and of each seed and resample ``[S, R]``."""
        group_N, resamples = self._users
        result = {}
        for task in TASKS:
            label_N = self.world.test[LABELS[task]].to_numpy()
            found = [
                resampled_auc(_score(frame, task), label_N, group_N, resamples)
                for frame in self.contestant.runs
            ]
            result[task] = [auc for auc, _ in found], np.stack([auc_R for _, auc_R in found])
        return result

    @cached_property
    def cvr_error(self) -> tuple[list[float], NDArray[np.float64]] | None:
        """Mean absolute error of CVR against the truth over all impressions, as `aucs`."""
        if not self.has_cvr:
            return None
        group_N, resamples = self._users
        truth_N = self.world.test["p_cvr"].to_numpy()
        found = [
            resampled_mean(np.abs(_score(frame, "cvr") - truth_N), group_N, resamples)
            for frame in self.contestant.runs
        ]
        return [error for error, _ in found], np.stack([error_R for _, error_R in found])

    def mean(self, task: str) -> float:
        """AUC, mean over seeds."""
        return float(np.mean(self.aucs[task][0]))

    def closed(self, task: str) -> list[float]:
        """Share of the distance from the best additive model to Bayes, of each seed."""
        low, high = (self.world.summary[f"{name}_auc"][task] for name in ("additive", "bayes"))
        return [(auc - low) / (high - low) for auc in self.aucs[task][0]]

    def less(self, other: Figures, task: str) -> Difference:
        """AUC of this one less that of another, on the same resamples of the users.

        Another that has one run is the same for all seeds of this one, so that the seeds' share of
        the interval is that of this one alone.
        """
        (first, first_SR), (second, second_SR) = self.aucs[task], other.aucs[task]
        times = len(first) // len(second)
        return difference_of(first, second * times, first_SR, np.tile(second_SR, (times, 1)))

    def error_less(self, other: Figures) -> Difference | None:
        """CVR error of this one less that of another, as `less`; both must predict CVR."""
        if self.cvr_error is None or other.cvr_error is None:
            return None
        (first, first_SR), (second, second_SR) = self.cvr_error, other.cvr_error
        return difference_of(first, second, first_SR, second_SR)

    @cached_property
    def _users(self) -> tuple[NDArray[np.int64], Resamples]:
        group_N = self.world.test["user_id"].rank("dense").to_numpy().astype(np.int64) - 1
        return group_N, Resamples(int(group_N.max()) + 1, COUNT, seed=0)


def _score(frame: pl.DataFrame, task: str) -> NDArray[np.float64]:
    if task in frame.columns:
        return frame[task].to_numpy().astype(np.float64)
    return (frame["ctcvr"] / frame["ctr"]).clip(0.0, 1.0).to_numpy().astype(np.float64)
