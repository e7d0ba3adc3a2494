"""Plots of a comparison, in the manner of a run's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from recmtl.report.drawing import COLOURS, INK, SOFT, STYLE, as_svg, new_axes
from recmtl.studies.verdicts import short

__all__ = ["Dot", "cost_plot", "intervals_plot"]


class Dot(NamedTuple):
    """A number with its interval."""

    name: str
    value: float
    low: float | None
    high: float | None
    is_baseline: bool = False


def intervals_plot(title: str, what: str, dots: Sequence[Dot], zero: str | None = None) -> str:
    """A dot with its interval in each row.

    Args:
        title: of the plot.
        what: name of the numbers.
        dots: from top to bottom.
        zero: what stands at 0, which a line marks; None without a line.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(title)
        figure.set_size_inches(3.75, max(1.5, 0.75 + 0.24 * len(dots)))
        if zero is not None:
            axes.axvline(0.0, color=SOFT, linewidth=1, linestyle="--")
        for place, dot in enumerate(dots):
            colour = SOFT if dot.is_baseline else COLOURS[0]
            if dot.low is not None and dot.high is not None:
                axes.plot([dot.low, dot.high], [place, place], color=colour, linewidth=1.8)
            axes.plot([dot.value], [place], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(dots)), [dot.name for dot in dots])
        axes.set_ylim(len(dots) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(what if zero is None else f"{what} less that of {zero}")
        return as_svg(figure)


def cost_plot(title: str, what: str, dots: Sequence[Dot], costs: Sequence[float]) -> str:
    """Quality against operations a row, on a logarithmic axis.

    Args:
        title: of the plot.
        what: name of the quality.
        dots: the quality.
        costs: operations a row, above 0, of each.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(title)
        rising = sorted(zip(costs, dots, strict=True))
        for place, (cost, dot) in enumerate(rising):
            colour = SOFT if dot.is_baseline else COLOURS[0]
            if dot.low is not None and dot.high is not None:
                axes.plot([cost, cost], [dot.low, dot.high], color=colour, linewidth=1.2)
            axes.plot([cost], [dot.value], "o", color=colour, markersize=4.5)
            axes.annotate(
                dot.name,
                (cost, dot.value),
                xytext=(4, 4 if place % 2 else -9),  # neighbours on either side
                textcoords="offset points",
                fontsize=7,
                color=INK,
            )
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        is_narrow = rising[-1][0] < 1000 * rising[0][0]
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if is_narrow else (1.0,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: short(cost)))
        axes.margins(x=0.3, y=0.2)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("FLOPs a row of the dense part")
        axes.set_ylabel(what)
        return as_svg(figure)
