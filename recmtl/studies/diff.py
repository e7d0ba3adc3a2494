"""Two models on the same labelled rows: which is better where, and what moved the scores."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recmtl._files import require_writable, write_json, write_text
from recmtl._progress import Progress, no_progress
from recmtl.data.codes import Aside
from recmtl.errors import SpecError
from recmtl.scoring import BatchScorer
from recmtl.spec import Task
from recmtl.studies.arguments import require_whole
from recmtl.studies.diff_pages import as_html, as_markdown
from recmtl.studies.machine import made_on
from recmtl.studies.paired import Paired
from recmtl.studies.resampled_metrics import MOST_VALUES
from recmtl.studies.resampling import Resamples
from recmtl.studies.same_rows import SameRows, Scorers, tasks_of
from recmtl.studies.units import UNIT, with_units

__all__ = ["diff"]

_MOST_RESAMPLES = 10_000
_MOST_SUMS = 1024
"""Values of a segment column times classes: so many sums of every unit are held."""


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
    bounded by `data.memory` of A as that of `evaluate`; sums of every part and segment value come
    on top, some tens of MiB.

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
    paired = Paired(scorers, tasks.compared, rows, aside, units, shown)
    paired.read(sampled=sampled, progress=progress)
    draws = Resamples(units.count, resamples, seed=0)
    summary = {
        "a": _about(scorers[0]),
        "b": _about(scorers[1]),
        "rows": rows.num_rows,
        "groups": {"by": group, "units": units.count, "is_part": units.is_part},
        "resamples": resamples,
        **paired.compared(draws, progress=progress),
        "apart": tasks.apart,
        "notes": notes,
        "data": {"path": rows.name, "fingerprint": rows.fingerprint},
        "command": _command(run_a, run_b, rows.name, by, sampled, out),
        **made_on(),
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
