"""Plots of a search, in the manner of a run's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from recmtl.report.drawing import COLOURS, INK, SOFT, STYLE, as_svg, new_axes

__all__ = ["Point", "course_plot", "key_plot"]


class Point(NamedTuple):
    """A finished trial."""

    x: float
    value: float
    is_first: bool
    is_best: bool


def course_plot(what: str, points: Sequence[Point], best_so_far: Sequence[float]) -> str:
    """Values by number of the trial, and the best so far.

    Args:
        what: name of the values.
        points: in the order of their numbers, which are `x`.
        best_so_far: with each of them.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(f"{what} by trial")
        numbers = [point.x for point in points]
        axes.step(numbers, best_so_far, where="post", color=INK, linewidth=1.2)
        _dots(axes, points)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("trial")
        return as_svg(figure)


def key_plot(
    key: str,
    what: str,
    points: Sequence[Point],
    *,
    is_log: bool = False,
    labels: Sequence[str] | None = None,
) -> str:
    """Values against those of a key.

    Args:
        key: what was searched.
        what: name of the values.
        points: `x` is the key's value, or its position in `labels`.
        is_log: whether the key's axis is logarithmic.
        labels: the key's values, where it has few.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(key)
        _dots(axes, points)
        if labels is not None:
            axes.set_xticks(range(len(labels)), labels, rotation=0 if len(labels) < 4 else 20)
            axes.set_xlim(-0.5, len(labels) - 0.5)
        elif is_log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylabel(what)
        return as_svg(figure)


def _dots(axes: Any, points: Sequence[Point]) -> None:
    """The first and the best trial stand out, and above the others."""
    for point in sorted(points, key=lambda point: (point.is_best, point.is_first)):
        colour = COLOURS[1] if point.is_best else SOFT if point.is_first else COLOURS[0]
        size = 6.5 if point.is_best or point.is_first else 4
        axes.plot([point.x], [point.value], "o", color=colour, markersize=size)
    axes.yaxis.set_major_locator(MaxNLocator(5))
