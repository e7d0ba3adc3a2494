"""Plots are inline SVG that shows every point, links nowhere and escapes every name."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from recmtl.report import plots

HOSTILE = "<script>$x_1$ & co"
BINS = {"mean_probs": [0.0, 0.01, 0.2], "base_rates": [0.0, 0.02, 0.15], "weights": [1, 1, 1]}
HISTOGRAM = {"edges": [-5.0, -3.0, 0.0], "positives": [1.0, 3.0], "negatives": [2.0, 0.0]}
NUMBERS = {"mean_predictions": [1.0, 2.0], "mean_labels": [1.5, 1.8], "low": [0, 1], "high": [3, 3]}
CLASSES = {
    "names": ["0", "1", "other"],
    "shares": [0.5, 0.3, 0.2],
    "mean_probs": [0.4, 0.4, 0.2],
    "confusion": [[0.9, 0.1, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]],
}
LOSS = {"mean": 0.02, "losses": [0.01, 0.02, 0.03]}
NO_CLASS = {"names": ["0"], "shares": [0.0], "mean_probs": [0.0], "confusion": [[0.0]]}
ALL: dict[str, Callable[[str], str]] = {
    "lines": lambda name: plots.lines_plot(name, [1, 2], {name: [0.5, None], "b": [0.1, 0.2]}),
    "reliability": lambda name: plots.reliability_plot(name, BINS),
    "histogram": lambda name: plots.histogram_plot(name, HISTOGRAM),
    "numbers": lambda name: plots.numbers_plot(name, NUMBERS),
    "shares": lambda name: plots.shares_plot(name, CLASSES),
    "confusion": lambda name: plots.confusion_plot(name, CLASSES),
    "importance": lambda name: plots.importance_plot(name, "auc", {name: LOSS, "b": LOSS}),
    "sureness": lambda name: plots.sureness_plot(name, BINS),
}


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg.replace("xlink:href", "href"))


@pytest.mark.parametrize("kind", ALL)
def test_a_plot_stands_on_its_own(kind: str) -> None:
    svg = ALL[kind]("ctr")
    root = parsed(svg)
    assert root.tag == "svg"
    assert "http" not in svg
    assert "<script" not in svg
    ids = re.findall(r' id="([^"]*)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"#([\w.-]+?)[\")]", svg)) - set(re.findall("#[0-9a-f]{6}", svg)) <= {
        *ids,
        *re.findall(r"#([0-9a-f]{6})", svg),
    }
    assert "ctr" in "".join(root.itertext())


@pytest.mark.parametrize("kind", ALL)
def test_a_plot_is_the_same_each_time(kind: str) -> None:
    assert ALL[kind]("ctr") == ALL[kind]("ctr")


@pytest.mark.parametrize("kind", ALL)
def test_names_are_escaped_and_shown_as_they_are(kind: str) -> None:
    svg = ALL[kind](HOSTILE)
    assert "<script" not in svg
    assert HOSTILE in "".join(parsed(svg).itertext())


def test_plots_are_of_one_size() -> None:
    boxes = {parsed(draw("x")).attrib["viewBox"] for draw in ALL.values()}
    assert len(boxes) == 1


def test_every_point_is_marked() -> None:
    svg = plots.lines_plot("auc", list(range(7)), {"a": [0.1] * 7, "b": [None] * 3 + [0.2] * 4})
    marks = [use for use in parsed(svg).iter() if use.tag == "use"]
    curve = plots.lines_plot("auc", list(range(500)), {"a": [0.1] * 500})
    axes = len([use for use in parsed(curve).iter() if use.tag == "use"])
    assert len(marks) >= 11
    assert axes < 20  # ticks alone: a long curve is a line


def test_every_share_of_a_confusion_is_written_in_its_place() -> None:
    texts = [t for t in parsed(plots.confusion_plot("x", CLASSES)).iter() if t.tag == "text"]
    numbers = ["".join(text.itertext()).strip() for text in texts]
    inside = [n for n in numbers if n.isdigit() and n not in ("0", "1")]
    assert inside == ["90", "10", "25", "50", "25", "100"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.shares_plot("x", NO_CLASS),
        lambda: plots.confusion_plot("x", NO_CLASS),
        lambda: plots.sureness_plot("x", {"mean_probs": [], "base_rates": []}),
        lambda: plots.lines_plot("x", [1], {"a": [None]}),
        lambda: plots.reliability_plot("x", {"mean_probs": [], "base_rates": []}),
        lambda: plots.reliability_plot("x", {"mean_probs": [1.0], "base_rates": [1.0]}),
        lambda: plots.histogram_plot(
            "x", {"edges": [0.0, 1.0], "positives": [0.0], "negatives": [0.0]}
        ),
        lambda: plots.histogram_plot(
            "x", {"edges": [-20.0, 20.0], "positives": [1.0], "negatives": [0.0]}
        ),
        lambda: plots.numbers_plot(
            "x", {"mean_predictions": [], "mean_labels": [], "low": [], "high": []}
        ),
        lambda: plots.numbers_plot(
            "x", {"mean_predictions": [1.0], "mean_labels": [1.0], "low": [1.0], "high": [1.0]}
        ),
    ],
)
def test_hardly_any_data_makes_a_plot_too(draw: Callable[[], str]) -> None:
    assert parsed(draw()).tag == "svg"


@pytest.mark.parametrize(
    ("low", "high"), [(1e-4, 0.3), (0.03, 0.5), (1e-8, 1 - 1e-8), (0.4, 0.999), (0.21, 0.22)]
)
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    ticks = plots._rate_ticks(low, high)
    assert len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_the_most_important_features_come_first_and_the_rest_is_left_out() -> None:
    features = {f"f{k}": {"mean": k / 100, "losses": [k / 100]} for k in range(30)}
    words = [*parsed(plots.importance_plot("ctr", "auc", features)).itertext()]
    assert [word for word in words if word.startswith("f")] == [f"f{k}" for k in range(29, 13, -1)]
    assert "AUC less when shuffled" in words
    assert "RMSE more when shuffled" in plots.importance_plot("dwell", "rmse", features)
