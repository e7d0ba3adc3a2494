"""The page's plots, as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

__all__ = ["gate_plot", "histogram_plot", "loss_plot", "metric_plot", "reliability_plot"]

_COLOURS = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#475569")
_INK = "#334155"


def loss_plot(steps: Sequence[int], losses: Mapping[str, Sequence[float | None]]) -> str:
    """Training loss of each task over steps."""
    figure, axes = _axes(3.4, 2.7)
    for colour, (task, values) in zip(_cycle(len(losses)), losses.items(), strict=True):
        points = [(s, v) for s, v in zip(steps, values, strict=True) if v is not None]
        axes.plot(
            [s for s, _ in points], [v for _, v in points], color=colour, label=task, linewidth=1.4
        )
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    _legend(axes)
    return _svg(figure)


def metric_plot(
    steps: Sequence[int], metrics: Mapping[str, Sequence[float | None]], name: str
) -> str:
    """A validation metric of each task over steps."""
    figure, axes = _axes(3.4, 2.7)
    for colour, (task, values) in zip(_cycle(len(metrics)), metrics.items(), strict=True):
        points = [(s, v) for s, v in zip(steps, values, strict=True) if v is not None]
        axes.plot(
            [s for s, _ in points],
            [v for _, v in points],
            "o-",
            color=colour,
            label=task,
            linewidth=1.4,
            markersize=4,
        )
    axes.set_xlabel("step")
    axes.set_ylabel(f"validation {name}")
    _legend(axes)
    return _svg(figure)


def reliability_plot(task: str, bins: Mapping[str, Sequence[float]]) -> str:
    """Observed rate against mean prediction in bins of equal mass, on logarithmic axes."""
    figure, axes = _axes(3.1, 2.9)
    points = [
        (p, r)
        for p, r in zip(bins["mean_probs"], bins["base_rates"], strict=True)
        if p > 0 and r > 0
    ]
    if points:
        low, high = min(map(min, points)) / 1.3, min(1.0, max(map(max, points)) * 1.3)
        axes.plot([low, high], [low, high], color="#94a3b8", linewidth=1, linestyle="--")
        axes.plot(
            [p for p, _ in points],
            [r for _, r in points],
            "o-",
            color=_COLOURS[0],
            markersize=3.5,
            linewidth=1,
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel("mean prediction")
    axes.set_ylabel("observed rate")
    axes.set_title(task, fontsize=9, color=_INK)
    return _svg(figure)


def histogram_plot(task: str, histogram: Mapping[str, Sequence[float]]) -> str:
    """Scores of one task's positives and negatives, each as shares of its class."""
    figure, axes = _axes(3.1, 2.9)
    for label, colour in (("negatives", _COLOURS[7]), ("positives", _COLOURS[0])):
        mass = histogram[label]
        total = sum(mass)
        if total > 0:
            axes.stairs(
                [m / total for m in mass],
                histogram["edges"],
                fill=True,
                color=colour,
                alpha=0.55,
                label=label,
            )
    axes.set_xlabel("score")
    axes.set_ylabel("share of class")
    _legend(axes)
    axes.set_title(task, fontsize=9, color=_INK)
    return _svg(figure)


def gate_plot(gates: Mapping[str, Sequence[float]]) -> str:
    """Mean weight of each expert in each gate, as a heat-map; narrower gates end in blanks."""
    width = max(len(weights) for weights in gates.values())
    figure, axes = _axes(1.6 + 0.55 * width, 0.9 + 0.42 * len(gates))
    rows = [[*weights, *[float("nan")] * (width - len(weights))] for weights in gates.values()]
    axes.imshow(rows, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for y, weights in enumerate(gates.values()):
        for x, weight in enumerate(weights):
            axes.text(
                x,
                y,
                f"{weight:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if weight > 0.5 else _INK,
            )
    axes.set_yticks(range(len(gates)), list(gates))
    axes.set_xticks(range(width))
    axes.set_xlabel("expert")
    return _svg(figure)


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7, colors=_INK)
    axes.xaxis.label.set_size(8)
    axes.yaxis.label.set_size(8)
    return figure, axes


def _cycle(number: int) -> list[str]:
    return [_COLOURS[k % len(_COLOURS)] for k in range(number)]


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
