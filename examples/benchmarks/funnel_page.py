"""What was found on the simulated funnel, as a page: all sentences follow from the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from funnel_contestants import ASKED, OURS
from funnel_figures import COUNT, TASKS, Figures
from funnel_world import World
from matplotlib.figure import Figure
from rounds import markdown

from recmtl import load_spec
from recmtl.studies.intervals import Difference

__all__ = ["draw", "page"]

NAMES = {"ctr": "CTR", "ctcvr": "CTCVR", "cvr": "CVR"}
Found = Mapping[World, Sequence[Figures]]

INTRODUCTION = """
CTR and CTCVR: AUC on all test impressions. CVR: AUC on all test impressions against
`conversion_potential`, which no log of a real shop holds; of a contestant that predicts CTR and
CTCVR alone it is that of CTCVR / CTR, with an asterisk. *closed*: share of the distance from the
best additive model to Bayes; the additive model is told the true probabilities, so it is a bound
and not an opponent. *CVR error*: mean absolute error against the true `p_cvr`, over all
impressions. Networks: mean over {seeds}.

Everybody reads user_id, item_id, age, gender, device, hour, category, brand and price of the same
training rows, and chooses on the same validation rows.

- **ours**: `recmtl train spec.yaml` with the spec that `recmtl simulate` writes, the same network
  twice: *clicks only* learns CVR on clicked rows (`objective=tasks`), *entire space* learns CTR and
  CTCVR on all rows (`objective=entire_space`). Reads the history. *Asked at random* is an
  experiment no shop can make: CVR learns from as many impressions as were clicked, drawn at random,
  and is told what a click on each would have led to; what it has ahead of *clicks only* is what
  the selection of clicks costs.
- **gradient boosting**: scikit-learn's histograms, one model a task; users and items are their mean
  labels (out of fold) and counts, and the history is its length.
- **matrix factorisation**: a bias, a weight for each value of each column (price in 20 buckets) and
  the product of a user's and an item's vector, with L2; one model a task. No history.
- **factorisation machine**: the same with the products of all pairs of columns.
- **torch-rechub MMoE**: its tutorial's sizes and its trainer, click and CTCVR as tasks; its best
  epoch of ten, by the mean AUC of both tasks. Reads the history as the mean of its items' vectors.

A difference is paired: its 95 % interval is of {count:,} resamples of the users of the test
rows{and_seeds}.
""".strip()


def page(found: Found, problems: Mapping[str, str], how: str, picture: str) -> str:
    """The page in Markdown; `how` says how it came about."""
    seeds = max(len(f.contestant.runs) for figures in found.values() for f in figures)
    text = INTRODUCTION.format(
        seeds="one training seed" if seeds == 1 else f"{seeds} training seeds",
        count=COUNT,
        and_seeds="" if seeds == 1 else " and of the networks' training seeds, variances added up",
    )
    lines = ["# The simulated funnel", "", f"{how}.", "", text, ""]
    lines += [f"**{name} could not be run**: {problem}." for name, problem in problems.items()]
    lines += ["" for _ in problems]
    lines += [f"![share of the distance from additive to Bayes]({picture})", ""]
    lines += ["Small points are training seeds; a CVR that is CTCVR / CTR is hollow.", ""]
    for world, figures in found.items():
        lines += [*_section(world, figures), ""]
    return "\n".join(lines)


def _section(world: World, figures: Sequence[Figures]) -> list[str]:
    shipped = _shipped(world, figures)
    said = [*_sentences(shipped, figures), *_selection(figures)]
    lines = [f"## {_title(world)}", "", *said, ""]
    lines.append(markdown(HEAD, _aucs(world, figures, shipped)))
    for one in figures:
        if one.contestant.is_ours:
            others = [other for other in figures if other is not one]
            head = [f"{one.contestant.name}, less", *NAMES.values()]
            lines.append(markdown(head, _differences(one, others)))
    lines += ["Chosen on the validation rows:", ""]
    for one in figures:
        if any(one.contestant.notes):
            lines.append(f"- {one.contestant.name}: {_in_words(one.contestant.notes)}.")
    return lines


HEAD = ["", "CTR", "closed", "CTCVR", "closed", "CVR", "closed", "CVR error"]


def _shipped(world: World, figures: Sequence[Figures]) -> Figures:
    """Ours with the objective of the spec as it stands."""
    objective = load_spec(world.data / "spec.yaml").objective.kind
    name = next(name for name, kind in OURS.items() if kind == objective)
    return next(f for f in figures if f.contestant.name == f"ours, {name}")


def _name(one: Figures, shipped: Figures) -> str:
    return one.contestant.name + (" (as shipped)" if one is shipped else "")


def _title(world: World) -> str:
    return (
        f"World {world.seed}: {world.rows:,} impressions, {world.users:,} users, {world.items:,} "
        f"items, signal {world.signal:g}"
    )


def _aucs(world: World, figures: Sequence[Figures], shipped: Figures) -> Iterable[list[str]]:
    for name, share in (("Bayes", "100 %"), ("additive", "0 %")):
        aucs = world.summary[f"{name.lower()}_auc"]
        cells = [cell for task in TASKS for cell in (f"{aucs[task]:.4f}", share)]
        yield ["best additive" if share == "0 %" else name, *cells, ""]
    for one in figures:
        cells = [_name(one, shipped)]
        for task in TASKS:
            mark = "" if task != "cvr" or one.has_cvr else "*"
            cells += [f"{one.mean(task):.4f}{mark}", f"{100 * np.mean(one.closed(task)):.0f} %"]
        error = one.cvr_error
        yield [*cells, "" if error is None else f"{np.mean(error[0]):.4f}"]


def _differences(one: Figures, others: Sequence[Figures]) -> Iterable[list[str]]:
    for other in others:
        cells = [_difference(one.less(other, task)) for task in TASKS]
        yield [other.contestant.name, *cells[:-1], cells[-1] + ("" if other.has_cvr else "*")]


def _difference(found: Difference) -> str:
    if found.interval is None:
        return f"{found.value:+.4f}"
    low, high = found.interval
    return f"{found.value:+.4f} [{low:+.4f}, {high:+.4f}]"


def _sentences(shipped: Figures, figures: Sequence[Figures]) -> list[str]:
    """For each task: whom the shipped spec is better than, cannot be told apart from, trails."""
    lines = []
    for task in TASKS:
        sides: dict[str, list[str]] = {"better": [], "tie": [], "worse": []}
        for other in figures:
            if not other.contestant.is_ours:
                found = shipped.less(other, task)
                side = "tie" if found.is_tie else "better" if found.value > 0 else "worse"
                sides[side].append(other.contestant.name)
        said = [
            f"{words} {_list(sides[side])}"
            for side, words in (
                ("better", "better by more than the interval than"),
                ("worse", "worse by more than the interval than"),
                ("tie", "not to be told apart from"),
            )
            if sides[side]
        ]
        known = [one for one in figures if one.contestant.name != ASKED]
        best = max(known, key=lambda one: one.mean(task))
        text = f"- **{NAMES[task]}**: the spec as shipped {_share(shipped, task)}"
        if best is not shipped:
            most = 100 * np.mean(best.closed(task))
            text += f" (the most: {most:.0f} %, {best.contestant.name})"
        lines.append(". It is ".join([text, "; ".join(said)]) + "." if said else text + ".")
    return lines


def _selection(figures: Sequence[Figures]) -> list[str]:
    """What the entire space wins for CVR over clicks, and what there is to win."""
    named = {one.contestant.name: one for one in figures}
    clicks, entire = (named[f"ours, {name}"] for name in OURS)
    asked = named.get(ASKED)
    if asked is None:
        return []
    auc, error = entire.less(clicks, "cvr"), entire.error_less(clicks)
    free, free_error = asked.less(clicks, "cvr"), asked.error_less(clicks)
    assert error is not None
    assert free_error is not None
    text = (
        f"- **CVR from the entire space instead of from clicks**: AUC {_difference(auc)}, error "
        f"{_difference(error)}. From impressions drawn at random, which no click selected: AUC "
        f"{_difference(free)}, error {_difference(free_error)}."
    )
    if free.is_tie and free.interval is not None:
        text += (
            " Even without any selection the order of rows gains no more than these rows can tell "
            f"({free.interval[1]:+.4f} at the most), so an objective against it has little to win."
        )
    elif not free.is_tie:
        text += f" The selection costs the order of rows {-free.value:+.4f}."
    beside = asked.less(entire, "cvr")
    if not beside.is_tie and beside.value > 0:
        text += (
            " Learning from rows drawn at random is better than learning from the entire space "
            f"({_difference(beside)}), which has to tell CVR from products alone."
        )
    if not free_error.is_tie and free_error.value < 0:
        text += f" The selection costs the calibration: {-free_error.value:.4f} of error."
        if not error.is_tie and error.value < 0:
            share = error.value / free_error.value
            text += f" The entire space wins back {100 * share:.0f} % of it."
        elif error.is_tie:
            text += " What the entire space wins back of it is less than its interval."
    return [text]


def _share(one: Figures, task: str) -> str:
    """What it closes of the distance between the bounds, in words."""
    share = 100 * np.mean(one.closed(task))
    if share >= 0:
        return f"closes {share:.0f} % of the distance"
    return f"stays {-share:.0f} % of the distance below the best additive model"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def _in_words(notes: Sequence[Mapping[str, Any]]) -> str:
    """Of each run or task what was chosen: "rounds 200, leaves 15"."""
    texts = []
    for note in notes:
        parts = [
            f"{NAMES[key]} {_in_words([value])}" if key in NAMES else f"{key} {_value(value)}"
            for key, value in note.items()
        ]
        texts.append(("; " if any(key in NAMES for key in note) else ", ").join(parts))
    return "; ".join(texts)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(v)}" for key, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw(found: Found, path: Path) -> None:
    """The share closed of the distance from additive to Bayes; a row of plots is a world."""
    mpl.use("Agg")
    most = max(len(figures) for figures in found.values())
    figure = Figure(figsize=(10, len(found) * (1.0 + 0.32 * most)), layout="constrained")
    axes = figure.subplots(len(found), len(TASKS), squeeze=False)
    for row, (world, figures) in zip(axes, found.items(), strict=True):
        shipped = _shipped(world, figures)
        names = [_name(one, shipped) for one in figures]
        for axis, task in zip(row, TASKS, strict=True):
            for x, label in ((0, "additive"), (100, "Bayes")):
                axis.axvline(x, color="#888888", lw=0.8)
                axis.annotate(
                    label,
                    (x, 1.0),
                    xycoords=("data", "axes fraction"),
                    xytext=(-3, 1),
                    textcoords="offset points",
                    ha="right",
                    fontsize=7,
                    color="#555555",
                )
            for y, one in enumerate(figures):
                colour = "#1f6fb4" if one.contestant.is_ours else "#555555"
                shares = 100 * np.asarray(one.closed(task))
                axis.plot(shares, np.full(len(shares), y), "o", ms=3, color=colour, alpha=0.4)
                is_own = task != "cvr" or one.has_cvr
                inside = colour if is_own else "white"
                axis.plot([shares.mean()], [y], "D", ms=6, mec=colour, mfc=inside)
            axis.set_ylim(len(figures) - 0.5, -0.5)
            axis.set_yticks(range(len(names)), names if task == TASKS[0] else [], fontsize=8)
            axis.set_title(NAMES[task], fontsize=9, loc="left")
            axis.tick_params(axis="x", labelsize=7)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(f"world {world.seed}", fontsize=8)
        row[1].set_xlabel("% of the distance from the best additive model to Bayes", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
