"""What all plots have in common: colours, style, axes, and the way into a page."""

from __future__ import annotations

import io
import re
from typing import Any

from matplotlib.figure import Figure

__all__ = ["COLOURS", "GRID", "INK", "SIZE", "SOFT", "STYLE", "as_svg", "new_axes"]

COLOURS = ("#2563eb", "#ea8a0b", "#0d9467", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#475569")
INK, GRID, SOFT = "#334155", "#e9eef4", "#94a3b8"
SIZE = (3.75, 2.75)
STYLE: dict[Any, Any] = {  # matplotlib types its keys one by one
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "font.family": "sans-serif",
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "recmtl",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "ytick.color": INK,
    "ytick.labelsize": 8,
}


def new_axes(title: str) -> tuple[Figure, Any]:
    """A small figure with one titled pair of axes."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=2.5)
    return figure, axes


def as_svg(figure: Figure) -> str:
    """The figure as it stands in a page: no links, no metadata, no ids that nothing refers to."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    used = set(re.findall(r"#([\w.-]+)", text))
    return re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)
