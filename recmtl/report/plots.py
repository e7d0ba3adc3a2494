"""The page's plots, as inline SVG: equal in size, with text that stays text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from recmtl.report.drawing import COLOURS, INK, SOFT, STYLE, as_svg, new_axes

__all__ = [
    "confusion_plot",
    "histogram_plot",
    "importance_plot",
    "lines_plot",
    "numbers_plot",
    "reliability_plot",
    "shares_plot",
    "sureness_plot",
]

_MAX_MARKED = 40
_MAX_NUMBERED = 10
_MOST_FEATURES = 16
_MOST_LETTERS = 22


def lines_plot(
    title: str, steps: Sequence[int], values: Mapping[str, Sequence[float | None]]
) -> str:
    """One number of each task over training steps; a legend tells them apart.

    Args:
        title: what the number is.
        steps: training steps.
        values: task -> the number at each step, None where it is not known.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(title)
        for k, (task, column) in enumerate(values.items()):
            points = [(s, v) for s, v in zip(steps, column, strict=True) if v is not None]
            style = "o-" if len(points) <= _MAX_MARKED else "-"
            axes.plot(
                *_columns(points),
                style,
                color=COLOURS[k % len(COLOURS)],
                label=task,
                linewidth=1.6,
                markersize=3.5,
            )
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        if len(values) > 1:
            axes.legend(frameon=False, ncols=min(3, len(values)), loc="best", handlelength=1.4)
        return as_svg(figure)


def reliability_plot(task: str, bins: Mapping[str, Sequence[float]]) -> str:
    """Observed rate against mean prediction in bins of equal mass, on logarithmic axes.

    Args:
        task: its name.
        bins: `mean_probs` and `base_rates` of each bin; bins without a positive are left out.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(task)
        pairs = zip(bins["mean_probs"], bins["base_rates"], strict=True)
        points = [(p, r) for p, r in pairs if p > 0 and r > 0]
        if points:
            low, high = min(map(min, points)) / 1.3, min(1.0, max(map(max, points)) * 1.3)
            axes.plot([low, high], [low, high], color=SOFT, linewidth=1, linestyle="--")
            axes.plot(*_columns(points), "o-", color=COLOURS[0], markersize=3.5, linewidth=1.2)
            axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
            ticks = _rate_ticks(low, high)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_minor_locator(NullLocator())
                axis.set_ticks(ticks, [_percent(tick) for tick in ticks])
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("observed rate")
        return as_svg(figure)


def histogram_plot(task: str, histogram: Mapping[str, Sequence[float]]) -> str:
    """Scores of one task's positives and negatives, each as shares of its class.

    Args:
        task: its name.
        histogram: `edges` of the bins in log-odds, `positives` and `negatives` in each.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(task)
        for label, colour in (("negatives", SOFT), ("positives", COLOURS[0])):
            mass, total = histogram[label], sum(histogram[label])
            if total > 0:
                shares = [m / total for m in mass]
                edges = histogram["edges"]
                axes.stairs(shares, edges, fill=True, color=colour, alpha=0.35)
                axes.stairs(shares, edges, color=colour, linewidth=1.3, label=label)
        low, high = histogram["edges"][0], histogram["edges"][-1]
        ticks = _rate_ticks(_probability(low), _probability(high))
        axes.set_xticks([math.log(p / (1 - p)) for p in ticks], [_percent(p) for p in ticks])
        axes.set_xlabel("predicted probability (log-odds scale)")
        axes.set_ylabel("share of class")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: _percent(share)))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, handlelength=1.4)
        return as_svg(figure)


def numbers_plot(task: str, bins: Mapping[str, Sequence[float]]) -> str:
    """Mean label against mean prediction of a regression, with the band of 8 in 10 labels.

    Args:
        task: its name.
        bins: see `number_bins`.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(task)
        x, y = bins["mean_predictions"], bins["mean_labels"]
        if x:
            ends = [min([*x, *y]), max([*x, *y])]
            axes.fill_between(x, bins["low"], bins["high"], color=COLOURS[0], alpha=0.13, lw=0)
            axes.plot(ends, ends, color=SOFT, linewidth=1, linestyle="--")
            axes.plot(x, y, "o-", color=COLOURS[0], markersize=3.5, linewidth=1.2)
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("mean label, band of 80 %")
        return as_svg(figure)


def shares_plot(task: str, classes: Mapping[str, Any]) -> str:
    """What share of the rows each class has, beside its mean predicted probability.

    Args:
        task: its name.
        classes: `names`, `shares` and `mean_probs` of the classes.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(task)
        names, places = classes["names"], range(len(classes["names"]))
        for key, label, shift, colour in (
            ("shares", "observed", -0.2, SOFT),
            ("mean_probs", "predicted", 0.2, COLOURS[0]),
        ):
            axes.bar(
                [place + shift for place in places], classes[key], 0.4, color=colour, label=label
            )
        axes.grid(visible=False, axis="x")
        _class_ticks(axes.xaxis, names)
        axes.set_xlabel("class")
        axes.set_ylabel("share of rows")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: _percent(share)))
        axes.margins(y=0.22)
        axes.legend(frameon=False, ncols=2, loc="upper center", handlelength=1.2)
        return as_svg(figure)


def confusion_plot(task: str, classes: Mapping[str, Any]) -> str:
    """Which class is the likeliest one, for the rows of each class.

    Args:
        task: its name.
        classes: `names` and `confusion`, whose rows are the classes that came.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(task)
        names, shares = classes["names"], classes["confusion"]
        colours = LinearSegmentedColormap.from_list("shares", ["#f8fafc", COLOURS[0]])
        axes.pcolormesh(shares, cmap=colours, vmin=0, vmax=1, edgecolors="white", linewidth=0.7)
        size = 8 if len(names) <= 6 else 5.5
        for i, row in enumerate(shares if len(names) <= _MAX_NUMBERED else ()):
            for j, share in enumerate(row):
                ink = "white" if share > 0.55 else INK
                text = f"{100 * share:.0f}"
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink, size=size)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
        for axis in (axes.xaxis, axes.yaxis):
            _class_ticks(axis, names, middle=0.5)
        axes.set_xlabel("likeliest class (% of the row's class)")
        axes.set_ylabel("class that came")
        return as_svg(figure)


def sureness_plot(task: str, bins: Mapping[str, Sequence[float]]) -> str:
    """How often the likeliest class comes, against its probability.

    Args:
        task: its name.
        bins: `mean_probs` and `base_rates` of each bin.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(task)
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle="--")
        x, y = bins["mean_probs"], bins["base_rates"]
        axes.plot(x, y, "o-", color=COLOURS[0], markersize=3.5, linewidth=1.2)
        axes.set(xlim=(min([*x, 1.0]) * 0.9, 1.02), ylim=(min([*x, *y, 1.0]) * 0.9, 1.02))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(FuncFormatter(lambda share, _: _percent(round(share, 4))))
        axes.set_xlabel("probability of the likeliest class")
        axes.set_ylabel("share where it came")
        return as_svg(figure)


def importance_plot(task: str, metric: str, features: Mapping[str, Mapping[str, Any]]) -> str:
    """What a task loses when a feature is shuffled, the most important ones first.

    Args:
        task: its name.
        metric: what is lost.
        features: feature -> `mean` loss and the `losses` of each shuffle, whose range is shown.
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_axes(task)
        shown = sorted(features.items(), key=lambda item: -item[1]["mean"])[:_MOST_FEATURES]
        places = range(len(shown))
        means = [found["mean"] for _, found in shown]
        axes.barh(places, means, 0.62, color=COLOURS[0], alpha=0.8)
        low = [min(found["losses"]) for _, found in shown]
        high = [max(found["losses"]) for _, found in shown]
        axes.hlines(places, low, high, color=INK, linewidth=1.3)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set_yticks(places, [_shortened(name) for name, _ in shown])
        axes.tick_params(axis="y", length=0, labelsize=8 if len(shown) <= 10 else 6)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        worse = "more" if metric != "auc" else "less"
        axes.set_xlabel(f"{metric.upper()} {worse} when shuffled")
        return as_svg(figure)


def _shortened(name: str) -> str:
    """A name that leaves room for bars.

    Example:
        >>> _shortened("device"), _shortened("number_of_purchases_last_week")
        ('device', 'number_of_purchases...')
    """
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 3]}..."


def _class_ticks(axis: Any, names: Sequence[str], *, middle: float = 0.0) -> None:
    """A tick for each class, without marks; slim ones where there are many."""
    axis.set_ticks([place + middle for place in range(len(names))], list(names))
    axis.set_tick_params(length=0, labelsize=8 if len(names) <= 12 else 5.5)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _probability(odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-odds))


def _rate_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round rates between two others, as many as fit.

    Example:
        >>> _rate_ticks(0.004, 0.3)
        [0.005, 0.01, 0.02, 0.05, 0.1, 0.2]
    """
    found = list[float]()
    for round_numbers in ((1, 2, 5), (1, 3), (1,)):
        found = [tick for tick in _round_rates(round_numbers) if low <= tick <= high]
        if len(found) <= most:
            break
    return found[:: -(-len(found) // most) or 1]


def _round_rates(round_numbers: Sequence[int]) -> Iterator[float]:
    for power in range(9, 1, -1):
        yield from (n / 10**power for n in round_numbers)
    yield from (0.1, 0.2, 0.5) if len(round_numbers) == 3 else (0.1, 0.5)
    yield from (0.8, 0.95, 0.99, 0.999)


def _percent(rate: float) -> str:
    """A rate for a tick, without digits that say nothing.

    Example:
        >>> _percent(0.2), _percent(0.005), _percent(0.999)
        ('20%', '0.5%', '99.9%')
    """
    return f"{100 * rate:.6g}%"
