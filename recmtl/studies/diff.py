"""Two models on the same labelled rows: which is better where, and what moved the scores."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recmtl._files import require_writable, write_json, write_text
from recmtl._progress import Progress, no_progress
from recmtl.analysis.features import feature_groups
from recmtl.analysis.moved import joined_groups, moved_features
from recmtl.data.codes import Aside
from recmtl.errors import SpecError
from recmtl.metrics.by_segment import Metrics, metrics_by_segment
from recmtl.metrics.spool import Spool
from recmtl.models.outcomes import Outcomes
from recmtl.run import versions
from recmtl.scoring import BatchScorer
from recmtl.spec import Task
from recmtl.studies.arguments import require_whole
from recmtl.studies.diff_pages import as_html, as_markdown
from recmtl.studies.intervals import difference_of
from recmtl.studies.machine import machine_text
from recmtl.studies.resampled_metrics import MOST_VALUES, Resampled, resampled_metrics
from recmtl.studies.resampling import Resamples
from recmtl.studies.same_rows import SameRows, Scorers, tasks_of
from recmtl.studies.shift import ScoreShift
from recmtl.studies.standings import HIGHER_IS_BETTER
from recmtl.studies.units import UNIT, Units, with_units

__all__ = ["diff"]

_COUNTS = ("n", "positives", "gauc_groups", "gauc_undefined_groups")
_MOST_RESAMPLES = 10_000
_MOST_SUMS = 1024
"""Values of a segment column times classes: so many sums of every unit are held."""
_SAMPLE_ROWS, _MOST_PASSES = 20_000, 1_200_000
"""Rows of all forward passes that ask for features: what is more takes more than a minute."""


def diff(
    run_a: str | Path,
    run_b: str | Path,
    data: Any,
    *,
    by: str | None = None,
    sampled: bool = False,
    out: str | Path | None = None,
    resamples: int = 1000,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Compare two runs on the same labelled rows; every difference is B less A.

    Tasks that both runs have, with one label and one population, are compared; features, towers and
    all else may differ. Labels, weights and thinning are those of A's spec, the group is that of
    A's `data.group_by` (of B's where A has none). Intervals hold 95 % of what other users would
    make of a difference, with the two models as they are: both are judged on the same resamples of
    whole groups. Of more than 4096 groups, 4096 random parts of them are drawn instead. Memory is
    bounded by `data.memory` of A as that of `evaluate`.

    Args:
        run_a: the folder of a run: what is there.
        run_b: the folder of another one: what may come.
        data: a path (file, folder or glob), a polars or pandas frame, a pyarrow table, or a dict of
            arrays.
        by: column whose values become segments (default: `data.segments` of both specs).
        sampled: whether the rows were thinned as `data.sampled` of A's spec says; each then counts
            as often as rows like it were drawn from.
        out: folder for `diff.json`, `diff.md` and `diff.html` (default: nothing is written).
        resamples: how many resamples the intervals are made of.
        progress: shows the rows done (see `recmtl._progress`).

    Returns:
        ``a`` and ``b`` (the runs), ``rows``, ``groups``, ``resamples``; ``tasks``: for each task
        its counts, ``metrics`` (metric -> ``a``, ``b``, ``difference``, ``interval`` and
        ``verdict``), ``scores`` (mean scores on all rows, labelled or not, the same way, with the
        ``ratio`` of B to A; of a multiclass task a list with an entry for each class), ``moves``
        (the distribution of score differences, see `ScoreShift.moves`), ``correlation`` of the
        scores, and ``features`` (feature -> share of the variance of the difference, see
        `recmtl.analysis.moved`); ``segments``: column -> value -> task -> the counts, ``metrics``
        and ``scores``; ``apart``: tasks that are not compared, and why; ``notes``.
        What is not defined is None.

    Raises:
        SpecError: no task can be compared, or an argument makes no sense.
        DataError: a column is missing or does not fit, or a label is neither 0 nor 1.
        CheckpointError: a run is corrupt.
    """
    require_whole("resamples", resamples, 2, _MOST_RESAMPLES)
    if out is not None:
        require_writable(Path(out))
    scorers = BatchScorer(run_a, keep=()), BatchScorer(run_b, keep=())
    if sampled and not scorers[0].tasks.thinnings:
        raise SpecError(
            f"{run_a}: its spec has no `data.sampled`, so nothing says how rows were thinned. "
            "Leave `sampled` out."
        )
    tasks = tasks_of(scorers)
    group, segments, notes = _columns_of(scorers, by)
    read = scorers[0].run.config.tasks if sampled else tasks.compared
    rows = SameRows.open(scorers, data, read, group=group, segments=segments)
    memory = scorers[0].run.config.data.memory_bytes
    aside, units = with_units(rows.aside(), rows.num_rows, memory=memory)
    shown = _shown(aside, tasks.compared, notes, by=by)
    study = _Study(scorers, tasks.compared, rows, aside, units, shown, memory)
    study.read(sampled=sampled, progress=progress)
    draws = Resamples(units.count, resamples, seed=0)
    summary = {
        "a": _about(scorers[0]),
        "b": _about(scorers[1]),
        "rows": rows.num_rows,
        "groups": {"by": group, "units": units.count, "is_part": units.is_part},
        "resamples": resamples,
        **study.compared(draws, progress=progress),
        "apart": tasks.apart,
        "notes": notes,
        "data": {"path": rows.name, "fingerprint": rows.fingerprint},
        "command": _command(run_a, run_b, rows.name, by, sampled, out),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine_text(),
        "versions": versions(),
    }
    if out is not None:
        write_json(Path(out) / "diff.json", summary)
        write_text(Path(out) / "diff.md", as_markdown(summary))
        write_text(Path(out) / "diff.html", as_html(summary))
    return summary


def _columns_of(scorers: Scorers, by: str | None) -> tuple[str | None, tuple[str, ...], list[str]]:
    """Group, segments, and what has to be said about specs that differ in them."""
    first, second = (scorer.run.config.data for scorer in scorers)
    notes = []
    group = first.group_by or second.group_by
    if group is None:
        notes.append(
            "Neither spec has `data.group_by`: rows are drawn one by one, and intervals are too"
            " narrow where users have several rows."
        )
    elif second.group_by not in (None, group):
        notes.append(f"Groups are those of `{group}`; B's spec groups by `{second.group_by}`.")
    if first.weight != second.weight:
        words = [
            f"`{weight}`" if weight else "no column" for weight in (first.weight, second.weight)
        ]
        notes.append(f"Rows are weighted by {words[0]}, as A's spec says; B's says {words[1]}.")
    segments = (
        (by,) if by is not None else tuple(dict.fromkeys((*first.segments, *second.segments)))
    )
    return group, segments, notes


def _shown(
    aside: Aside, tasks: Sequence[Task], notes: list[str], *, by: str | None
) -> tuple[str, ...]:
    """Segment columns of few enough values; the others are noted, or refused where asked for.

    Raises:
        SpecError: the column that was asked for has too many.
    """
    widest = max(task.classes or 1 for task in tasks)
    most = min(MOST_VALUES, max(_MOST_SUMS // widest, 1))
    shown = []
    for column, codes in aside.segments.items():
        if column == UNIT:
            continue
        if codes.num_codes <= most:
            shown.append(column)
            continue
        words = f"`{column}` has {codes.num_codes:,} values, and at most {most} are told apart."
        if by is not None:
            raise SpecError(f"by: {words} Take a coarser column, such as buckets of this one.")
        notes.append(f"{words} It is left out.")
    return tuple(shown)


class _Study:
    """What two runs said of the same rows, and what comes of it."""

    def __init__(
        self,
        scorers: Scorers,
        tasks: Sequence[Task],
        rows: SameRows,
        aside: Aside,
        units: Units,
        columns: tuple[str, ...],
        memory: int,
    ) -> None:
        self.scorers, self.tasks, self.rows = scorers, tasks, rows
        self.aside, self.units, self.columns = aside, units, columns
        self.outcomes = tuple(
            Outcomes(scorer.tasks, aside, memory=memory // 2) for scorer in scorers
        )
        spool = Spool(memory // 16)
        sizes = {column: aside.segments[column].num_codes for column in columns}
        self.shifts = {
            task.name: ScoreShift(
                rows.num_rows,
                task.classes or 1,
                sizes,
                units.count,
                spool=spool,
                memory=memory // 4,
            )
            for task in tasks
        }

    def read(self, *, sampled: bool, progress: Progress) -> None:
        """Score all rows with both runs."""
        first, second = self.scorers
        done = 0
        with progress("score", self.rows.num_rows, "rows") as bar:
            for batch in self.rows.batches():
                weight_B = batch.weight_B
                if sampled:
                    weight_B = first.tasks.weight_of_all(batch.labels_BK[0], weight_B)
                logits = first.logits(batch.first), second.logits(batch.second)
                for outcomes, said, labels_BK in zip(
                    self.outcomes, logits, batch.labels_BK, strict=True
                ):
                    outcomes.add(said, labels_BK, weight_B)
                stop = done + len(weight_B)
                self._add_scores(logits, weight_B.numpy(), np.arange(done, stop))
                bar.advance(stop - done)
                done = stop

    def _add_scores(self, logits: Any, weight_B: Any, numbers_B: Any) -> None:
        unit_B = self.aside.segments[UNIT].read(numbers_B)
        segments = {column: self.aside.segments[column].read(numbers_B) for column in self.columns}
        probs = [
            scorer.tasks.probs(said).numpy()
            for scorer, said in zip(self.scorers, logits, strict=True)
        ]
        for task in self.tasks:
            first, second = (
                probs_BO[:, scorer.tasks.columns[task.name]]
                for scorer, probs_BO in zip(self.scorers, probs, strict=True)
            )
            self.shifts[task.name].add(first, second, weight_B, unit_B, segments)

    def compared(self, draws: Resamples, *, progress: Progress) -> dict[str, Any]:
        """`tasks` and `segments`."""
        found: dict[str, Any] = {}
        values = {column: self.aside.segments[column].names for column in self.columns}
        segments: dict[str, Any] = {
            column: {value: {} for value in names} for column, names in values.items()
        }
        cuts = [None, *range(len(self.columns))]
        with progress("resample", len(self.tasks) * len(cuts), "cuts") as bar:
            for task in self.tasks:
                populations = [
                    outcomes.population(task.name, (*self.columns, UNIT))
                    for outcomes in self.outcomes
                ]
                plain = [
                    metrics_by_segment(outcomes.population(task.name, self.columns))
                    for outcomes in self.outcomes
                ]
                shift = self.shifts[task.name]
                for cut in cuts:
                    resampled = [
                        resampled_metrics(population, cut, self.units, draws)
                        for population in populations
                    ]
                    bar.advance(1, now=task.name)
                    if cut is None:
                        (means,) = shift.means(draws)
                        found[task.name] = {
                            "kind": task.kind,
                            **_differences(
                                plain[0].whole, plain[1].whole, resampled[0][0], resampled[1][0]
                            ),
                            "scores": _scores(means),
                            "moves": shift.moves(),
                            "correlation": shift.correlation,
                        }
                        continue
                    column = self.columns[cut]
                    by_value = shift.means(draws, column)
                    for v, value in enumerate(values[column]):
                        segments[column][value][task.name] = {
                            **_differences(
                                plain[0].columns[cut][v],
                                plain[1].columns[cut][v],
                                resampled[0][v],
                                resampled[1][v],
                            ),
                            "scores": _scores(by_value[v]),
                        }
        names = [task.name for task in self.tasks]
        groups = joined_groups([feature_groups(s.encoders) for s in self.scorers])
        sample = self.rows.sample(min(_SAMPLE_ROWS, _MOST_PASSES // (2 * len(groups))))
        moved = moved_features(self.scorers, sample, names, progress=progress)
        for name in names:
            found[name]["features"] = moved[name]
        return {
            "tasks": found,
            "segments": segments,
            "contradictions": {
                task.name: self.outcomes[0].contradictions.get(task.name, 0) for task in self.tasks
            },
            "sample_rows": len(sample[0]),
        }


def _differences(
    first: Metrics, second: Metrics, first_R: Resampled, second_R: Resampled
) -> dict[str, Any]:
    """Counts, and every metric of both with its difference."""
    metrics: dict[str, Any] = {}
    for name, a in first.items():
        b = second[name]
        if name in _COUNTS:
            continue
        entry: dict[str, Any] = {"a": a, "b": b}
        entry |= dict.fromkeys(("difference", "interval", "verdict"))
        if a is not None and b is not None:
            entry |= _difference(a, b, first_R[name], second_R[name])
            entry["verdict"] = _verdict(name, entry)
        metrics[name] = entry
    return {**{name: first[name] for name in _COUNTS if name in first}, "metrics": metrics}


def _difference(a: float, b: float, a_R: Any, b_R: Any) -> dict[str, Any]:
    found = difference_of([b], [a], b_R[None], a_R[None])
    return {
        "difference": found.value,
        "interval": None if found.interval is None else list(found.interval),
    }


def _verdict(metric: str, entry: Mapping[str, Any]) -> str | None:
    """Whether B is better than A in a metric."""
    if metric not in HIGHER_IS_BETTER:
        return None
    interval = entry["interval"]
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "tie"
    return "better" if (entry["difference"] > 0) == HIGHER_IS_BETTER[metric] else "worse"


def _scores(means: Sequence[tuple[Any, Any]]) -> Any:
    """Mean scores of both, of a task with one output or of each class."""
    found: list[dict[str, Any]] = []
    for first, second in means:
        a, b = float(first[0]), float(second[0])
        entry: dict[str, Any] = {"a": a, "b": b}
        if math.isnan(a):
            entry = dict.fromkeys(("a", "b", "difference", "interval", "ratio"))
        else:
            entry |= _difference(a, b, first[1:], second[1:])
            entry["ratio"] = b / a if a else None
        found.append(entry)
    return found[0] if len(found) == 1 else found


def _about(scorer: BatchScorer) -> dict[str, str]:
    return {"run": str(scorer.run.path), "model": scorer.fingerprint}


def _command(
    run_a: str | Path, run_b: str | Path, data: str, by: str | None, sampled: bool, out: Any
) -> str:
    """The command line that does the same."""
    words = ["recmtl", "diff", str(run_a), str(run_b), "--data", data]
    words += ["--by", by] if by is not None else []
    words += ["--sampled"] if sampled else []
    return shlex.join([*words, *(["--out", str(out)] if out is not None else [])])
