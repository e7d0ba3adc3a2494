"""The plot of a backtest, in the manner of a run's page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.ticker import MaxNLocator

from recmtl.report.drawing import COLOURS, SOFT, STYLE, as_svg, new_axes
from recmtl.studies.backtest_runs import FROZEN

__all__ = ["days_plot"]

_MOST_NAMES = 5


def days_plot(
    title: str, what: str, days: Sequence[str], lines: Mapping[str, Sequence[float | None]]
) -> str:
    """A line for each contestant over the days; it is broken where a day defines no value.

    Args:
        title: of the plot.
        what: name of the values.
        days: names of the days, in order.
        lines: contestant -> its value on each day.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(title)
        colours = iter(COLOURS)
        for who, values in lines.items():
            colour = SOFT if who == FROZEN else next(colours)
            y = [math.nan if value is None else value for value in values]
            axes.plot(
                range(len(y)), y, "o-", color=colour, markersize=3.5, linewidth=1.5, label=who
            )
        step = math.ceil(len(days) / _MOST_NAMES)
        shown = range(0, len(days), step)
        is_long = sum(len(days[place]) for place in shown) > 30
        axes.set_xticks(shown, [days[place] for place in shown], rotation=20 if is_long else 0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylabel(what)
        axes.legend(frameon=False)
        return as_svg(figure)
