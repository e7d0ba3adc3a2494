"""A click funnel on disk whose truth is known."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from recmtl._files import atomic_path, write_json
from recmtl._progress import Progress, silent_if_none
from recmtl.errors import SpecError
from recmtl.metrics import auc
from recmtl.simulate.additive import fit_additive, predict_additive
from recmtl.simulate.funnel_spec import FUNNEL_SPEC
from recmtl.simulate.log import days_of, draw_log
from recmtl.simulate.world import NUM_DAYS, NUM_ITEMS, NUM_USERS, Context, Ints, World, draw_context

__all__ = ["SimulationSummary", "simulate"]

MIN_ROWS = 100
MIN_USERS = MIN_ITEMS = 10
MAX_SIGNAL = 10.0
MAX_DAYS = 3650
SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
SUMMARY = "simulation.json"
ROW_GROUP_ROWS = 40_000
FRESH_ROWS = (40_000, 1_600_000)
"""Fewest and most impressions that the additive models are fitted on; else four times the rows."""
FRESH_ROWS_PER_ID = 8
"""Of each user and item on the average; a model fitted on fewer would be no bound."""
ADDED = {"users": NUM_USERS, "items": NUM_ITEMS, "signal": 1.0, "days": None, "drift": 0.0}
"""What a summary of an earlier version does not say, because it could not be changed."""


class _World(NamedTuple):
    """What decides the files, but for the code."""

    rows: int
    seed: int
    users: int
    items: int
    signal: float
    days: int | None
    drift: float

    def in_words(self, *, fully: bool) -> str:
        """As in "a simulation of 400 rows and seed 1"."""
        text = f"of {self.rows:,} rows and seed {self.seed}"
        if fully:
            text += f" with {self.users:,} users, {self.items:,} items and signal {self.signal:g}"
            text += f", {self.days or NUM_DAYS} days and drift {self.drift:g}"
        return text


@dataclass(frozen=True, slots=True)
class SimulationSummary:
    """What was written, and how well its test rows can be ranked.

    An AUC is None where the test rows lack a class; that of the best additive model too where users
    or items are too many to be met often enough (see `FRESH_ROWS_PER_ID`).
    """

    spec: Path
    """The spec to train on."""
    rows: int
    seed: int
    users: int
    """Users of the world; a short log does not hold all of them, nor all items."""
    items: int
    signal: float
    """How much tastes, reactions to prices and the time of day count."""
    days: int | None
    """Days of the log, where they were asked for: it has the column `day` then."""
    drift: float
    """Angle in radians by which tastes and biases of items turn in a day."""
    base_rates: dict[str, float]
    """Clicks and conversions (`ctcvr`) over all rows, and `cvr`, conversions over clicks."""
    bayes_auc: dict[str, float | None]
    """AUC of the true probabilities on the test rows; `cvr` is over all impressions, against
    `conversion_potential`."""
    additive_auc: dict[str, float | None]
    """The same of the best model without interactions; None in a world that drifts."""

    def to_dict(self) -> dict[str, object]:
        """The summary as plain values, ready for JSON."""
        return {**asdict(self), "spec": str(self.spec)}


def simulate(
    out: Path,
    *,
    rows: int = 400_000,
    seed: int = 0,
    users: int = NUM_USERS,
    items: int = NUM_ITEMS,
    signal: float = 1.0,
    days: int | None = None,
    drift: float = 0.0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SimulationSummary:
    """Write a simulated click funnel: `{train,valid,test}.parquet` and the `spec.yaml` to train on.

    The files hold 80, 10 and 10 % of the rows, in the order of time. The same arguments
    give the same files. The columns `p_ctr`, `p_cvr` and `conversion_potential` hold the truth.

    Args:
        out: folder, made if it is not there; the files of an earlier simulation are replaced.
        rows: number of impressions.
        seed: of the world and of everything drawn in it.
        users: number of users of the world, at least 10.
        items: number of its items, at least 10.
        signal: how much tastes, reactions to prices and the categories' time of day count in the
            logits, from 0 to 10; with 0 main effects alone are left, and no model can be better
            than the best additive one.
        days: number of days that the log is spread over (default: 30); the column `day`, a date, is
            there where they are given.
        drift: angle in radians by which users' tastes and items' biases turn from one day to the
            next, from 0 to pi / 2: what they are n days later correlates with what they were by
            cos(n drift).
        overwrite: write beside other files in `out` too.
        progress: shows what is under way; None for silence.

    Raises:
        SpecError: too few rows, users or items, a negative seed, a signal, days or a drift out of
            their range, or `out` holds something else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = simulate(Path(folder) / "funnel", rows=1_000, seed=1)
        ...     sorted(file.name for file in summary.spec.parent.iterdir())
        ['simulation.json', 'spec.yaml', 'test.parquet', 'train.parquet', 'valid.parquet']
    """
    asked = _World(rows, seed, users, items, float(signal), days, float(drift))
    _check_arguments(out, asked, overwrite=overwrite)
    with silent_if_none(progress)("simulate", total=3, unit="steps") as bar:
        world = World.draw(
            seed, num_users=users, num_items=items, signal=asked.signal, drift=asked.drift
        )
        rng = np.random.default_rng([seed, 1])
        seen = draw_context(world, rows, rng, num_days=days or NUM_DAYS)
        frame = draw_log(world, seen, rng)
        if days is not None:
            frame = frame.insert_column(1, days_of(seen))
        bar.advance(1)
        ends = [round(rows * SHARES["train"]), rows - round(rows * SHARES["test"])]
        summary = _summarise(out / "spec.yaml", asked, world, seen, frame, first_test_row=ends[1])
        bar.advance(1)
        _write(out, frame, ends, summary)
        bar.advance(1)
    return summary


def _check_arguments(out: Path, asked: _World, *, overwrite: bool) -> None:
    least = {"rows": MIN_ROWS, "seed": 0, "users": MIN_USERS, "items": MIN_ITEMS}
    problems = [
        f"`{name}` must be at least {low}, got {getattr(asked, name)}."
        for name, low in least.items()
        if getattr(asked, name) < low
    ]
    if not 0 <= asked.signal <= MAX_SIGNAL:  # NaN neither
        problems.append(f"`signal` must be between 0 and {MAX_SIGNAL:g}, got {asked.signal:g}.")
    if asked.days is not None and not 1 <= asked.days <= MAX_DAYS:
        problems.append(f"`days` must be between 1 and {MAX_DAYS:,}, got {asked.days}.")
    if not 0 <= asked.drift <= math.pi / 2:
        problems.append(f"`drift` must be between 0 and {math.pi / 2:.4f}, got {asked.drift:g}.")
    if out.exists() and not out.is_dir():
        problems.append(f"{out} is a file; name a folder to write the simulation to.")
    elif out.is_dir() and not overwrite:
        found = sorted(file.name for file in out.iterdir() if not file.name.startswith("."))
        if SUMMARY in found and (other := _another(out, asked)):
            problems.append(
                f"{out} holds a simulation {other}; name another folder or allow overwriting."
            )
        if found and SUMMARY not in found:
            problems.append(
                f"{out} holds `{found[0]}` and no simulation; "
                "name another folder or allow overwriting."
            )
    if problems:
        raise SpecError.all_of(problems)


def _another(out: Path, asked: _World) -> str | None:
    """In what a simulation that is there differs from the one that is asked for, in words."""
    try:
        spec = (out / "spec.yaml").read_text(encoding="utf-8")
        said = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        before = _World(said["rows"], said["seed"], *(said.get(k, v) for k, v in ADDED.items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # half of one
    if before != asked:
        return before.in_words(fully=before[2:] != asked[2:])
    return None if spec == FUNNEL_SPEC else "whose `spec.yaml` was edited"


def _summarise(
    spec: Path,
    asked: _World,
    world: World,
    seen: Context,
    frame: pl.DataFrame,
    *,
    first_test_row: int,
) -> SimulationSummary:
    """Base rates of the log, and the AUCs on its test rows.

    The additive models are told the true probabilities of fresh impressions of the same world.
    Their main effects are those of user, item, device and hour: every other column of the log is a
    function of the user or of the item, or, like the history, says nothing once the user is known,
    so that its main effect would be zero.
    """
    test = frame[first_test_row:]
    test_columns = _main_effects(Context(*(x_N[first_test_row:] for x_N in seen)))
    num_fresh = min(max(4 * frame.height, FRESH_ROWS[0]), FRESH_ROWS[1])
    is_seen = num_fresh >= FRESH_ROWS_PER_ID * max(asked.users, asked.items) and not asked.drift
    fresh = draw_context(world, num_fresh, np.random.default_rng([asked.seed, 2]))
    p_ctr_N, p_cvr_N = world.probs(fresh)
    truth_N = {"ctr": p_ctr_N, "cvr": p_cvr_N, "ctcvr": p_ctr_N * p_cvr_N}
    known = {"ctr": test["p_ctr"], "cvr": test["p_cvr"], "ctcvr": test["p_ctr"] * test["p_cvr"]}
    labels = {
        "ctr": test["click"],
        "cvr": test["conversion_potential"],
        "ctcvr": test["conversion"],
    }
    bayes: dict[str, float | None] = {}
    additive: dict[str, float | None] = {}
    for task, prob_N in truth_N.items():
        label_N = labels[task].to_numpy() == 1
        bayes[task] = auc(known[task].to_numpy(), label_N)
        additive[task] = None
        if is_seen:
            effects = fit_additive(_main_effects(fresh), prob_N)
            additive[task] = auc(predict_additive(effects, test_columns), label_N)
    clicks = frame.filter(pl.col("click") == 1)
    base_rates = {
        "ctr": _mean(frame["click"]),
        "cvr": _mean(clicks["conversion"]),
        "ctcvr": _mean(frame["conversion"]),
    }
    return SimulationSummary(
        spec=spec,
        **asked._asdict(),
        base_rates=base_rates,
        bayes_auc=bayes,
        additive_auc=additive,
    )


def _main_effects(seen: Context) -> list[Ints]:
    return [seen.user_N, seen.item_N, seen.device_N, seen.hour_N]


def _write(out: Path, frame: pl.DataFrame, ends: list[int], summary: SimulationSummary) -> None:
    """Write all files under temporary names; they take their places at the end."""
    out.mkdir(parents=True, exist_ok=True)
    bounds = [0, *ends, frame.height]
    with ExitStack() as stack:
        for name, start, end in zip(SHARES, bounds[:-1], bounds[1:], strict=True):
            path = stack.enter_context(atomic_path(out / f"{name}.parquet"))
            frame[start:end].write_parquet(path, row_group_size=ROW_GROUP_ROWS)
        path = stack.enter_context(atomic_path(summary.spec))
        path.write_text(FUNNEL_SPEC, encoding="utf-8")
    write_json(out / SUMMARY, {**summary.to_dict(), "spec": summary.spec.name})


def _mean(column: pl.Series) -> float:
    return float(column.cast(pl.Float64).sum()) / max(len(column), 1)
