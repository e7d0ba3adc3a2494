"""Plots of two runs' difference, in the manner of a run's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.ticker import MaxNLocator, PercentFormatter

from recmtl.report.drawing import COLOURS, SOFT, STYLE, as_svg, new_axes

__all__ = ["features_plot", "moves_plot"]


def moves_plot(task: str, histogram: Mapping[str, Sequence[float]]) -> str:
    """How far scores moved: rows by B's score less A's.

    Args:
        task: its name.
        histogram: `edges` of the bins, and the `rows` in each.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(task)
        axes.stairs(histogram["rows"], histogram["edges"], fill=True, color=COLOURS[0], alpha=0.8)
        axes.axvline(0.0, color=SOFT, linewidth=1, linestyle="--")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("score of B less that of A, 1 to 99 %")
        axes.set_ylabel("rows")
        return as_svg(figure)


def features_plot(task: str, shares: Mapping[str, float]) -> str:
    """What moved the scores, the first one on top.

    Args:
        task: its name.
        shares: feature -> share of the variance of the difference.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(task)
        places = range(len(shares))
        axes.barh(places, list(shares.values()), 0.62, color=COLOURS[0], alpha=0.8)
        axes.set_yticks(places, list(shares))
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("share in the variance of the difference")
        return as_svg(figure)
