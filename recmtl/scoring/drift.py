"""Drift: a log that was scored, beside the rows that the run was validated with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recmtl._files import sha256_of, write_text
from recmtl.checkpoint.sealed import read_sealed, sealed
from recmtl.data import FeatureCounts
from recmtl.errors import CheckpointError, SpecError
from recmtl.metrics.sketch import GROUPS, Distribution, psi, psi_by_chance
from recmtl.run import REFERENCE, Run
from recmtl.scoring.row_stats import RowStats
from recmtl.scoring.scorer import BatchScorer

__all__ = [
    "THRESHOLD",
    "Reference",
    "compare",
    "drift_lines",
    "read_reference",
    "require_reference",
    "write_reference",
]

THRESHOLD = 0.2
"""A population stability index above it is called a change by custom; below 0.1 it is none."""
_FORMAT = 1
_SHARES = (0.01, 0.1, 0.5, 0.9, 0.99)
_SHOWN = 20

RowsOf = Literal["validation", "training"]


@dataclass(frozen=True, slots=True)
class Reference:
    """What rows looked like when the run was trained."""

    rows_of: RowsOf
    stats: RowStats
    digest: str
    """sha256 of its file."""


def write_reference(run: Run, rows_of: RowsOf, stats: RowStats) -> None:
    """Keep in a run what later logs are compared with."""
    content = {"format": _FORMAT, "rows_of": rows_of, "stats": stats.to_dict()}
    write_text(run.path / REFERENCE, sealed(content))


def read_reference(scorer: BatchScorer) -> Reference | None:
    """What logs of a run are compared with; None in a run that has kept nothing for it.

    Raises:
        CheckpointError: it was changed, or is not of this run.
    """
    file = scorer.run.path / REFERENCE
    if not file.is_file():
        return None
    try:
        content = read_sealed(file)
        if content["format"] != _FORMAT:
            raise CheckpointError(
                f"{file}: has format {content['format']!r}, this version reads {_FORMAT}. Install "
                "the recmtl that wrote it, or remove it: then scores are compared with nothing."
            )
        stats = RowStats(scorer.encoders, scorer.tasks).restored(content["stats"])
        if scorer.run.calibration and not scorer.calibrated:  # the scores kept are calibrated
            stats.scores = RowStats(scorer.encoders, scorer.tasks).scores
        return Reference(content["rows_of"], stats, sha256_of(file))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{file}: does not hold what this run's features and tasks ask for ({error}). Restore "
            "it, or train again."
        ) from error


def require_reference(run: str | Path) -> None:
    """Require that logs of a run can be compared with something.

    Raises:
        SpecError: the run has kept nothing for it.
    """
    if not (Run(run).path / REFERENCE).is_file():
        raise SpecError(
            f"{run}: has no `{REFERENCE}` (it was made by an older version, or by `save_run`), so "
            "there is nothing that `--strict` could compare the log with. Leave it out, or train "
            "again."
        )


def compare(found: RowStats, reference: Reference | None, threshold: float) -> dict[str, Any]:
    """How far a log is from the reference.

    The population stability index (PSI) of a feature is the largest of those of its shares of
    nulls, unknown and known ids, of its values in the tenths of the reference (`dense`), and of
    its numbers of items; that of a task is of its scores in the tenths of the reference. More than
    the threshold is called drift where chance cannot explain it (see `psi_by_chance`), and so are
    scores that are no finite number.

    Returns:
        ``{"reference": {"rows": n, "rows_of": "validation"} or None, "threshold": t, "features":
        {name: {...}}, "scores": {task: {...}}, "over": [what drifted]}``. Each entry has `psi`
        (None where there is nothing to compare with), `is_over`, and the same of the `reference`.
    """
    expected, beside = None, None
    if reference is not None:
        expected = reference.stats
        beside = {"rows": expected.rows, "rows_of": reference.rows_of}
    features = {
        name: _entry(_of_feature, name, found, expected, threshold)
        for name in found.counts.features
    }
    scores = {
        name: _entry(_of_scores, name, found, expected, threshold)
        for name in (*found.scores, *found.classes)
    }
    over = [f"feature `{name}`" for name, entry in features.items() if entry["is_over"]]
    over += [f"scores of `{name}`" for name, entry in scores.items() if entry["is_over"]]
    return {
        "reference": beside,
        "threshold": threshold,
        "features": features,
        "scores": scores,
        "over": over,
    }


def drift_lines(report: Mapping[str, Any]) -> list[str]:
    """A report as lines of text: the features and tasks that moved most, first."""
    reference = report["reference"]
    if reference is None:
        title = "drift: the run has no reference to compare with (it was made by an older version,"
        title += " or by `save_run`)"
    else:
        title = f"drift: beside {reference['rows']:,} {reference['rows_of']} rows; `!` is a "
        title += f"stability index over {report['threshold']:g}"
    lines = [title]
    for what, columns in (
        ("features", ("null_rate", "oov_rate", "mean", "std")),
        ("scores", ("mean", "std", "0.1", "0.5", "0.9")),
    ):
        entries = sorted(report[what].items(), key=lambda item: -(item[1]["psi"] or 0.0))
        if entries:
            lines += ["", *_table(what, dict(entries[:_SHOWN]), columns)]
        if len(entries) > _SHOWN:
            lines.append(f"... and {len(entries) - _SHOWN:,} more in `manifest.json`")
    return lines


@dataclass(frozen=True, slots=True)
class _Measured:
    """Figures of a feature or task, and what a PSI can be made of."""

    figures: dict[str, Any]
    groups: tuple[NDArray[np.float64], ...] = ()
    """Weights of groups."""
    values: tuple[Distribution, ...] = ()
    count: int = 0
    """Rows or items that the groups are of."""


def _entry(
    measure: Callable[[str, RowStats], _Measured],
    name: str,
    found: RowStats,
    expected: RowStats | None,
    threshold: float,
) -> dict[str, Any]:
    ours = measure(name, found)
    entry = {**ours.figures, "psi": None, "is_over": bool(ours.figures.get("not_finite"))}
    if expected is None:
        return entry
    theirs = measure(name, expected)
    measured = [*_indices(ours, theirs)]
    if measured:
        entry["psi"] = max(index for index, _ in measured)
    entry["is_over"] |= any(index > threshold + chance for index, chance in measured)
    return {**entry, "reference": theirs.figures}


def _indices(ours: _Measured, theirs: _Measured) -> Iterator[tuple[float, float]]:
    """Each PSI, and what chance alone explains of it."""
    for found, expected in zip(ours.groups, theirs.groups, strict=True):
        if found.sum() and expected.sum():
            has_any = (found > 0) | (expected > 0)
            chance = psi_by_chance(int(has_any.sum()), ours.count, theirs.count)
            yield psi(expected[has_any], found[has_any]), chance
    for values, usual in zip(ours.values, theirs.values, strict=True):
        if values.count and usual.count:
            yield values.psi(usual), psi_by_chance(GROUPS, values.count, usual.count)


def _of_feature(name: str, stats: RowStats) -> _Measured:
    counts = stats.counts.features.get(name, FeatureCounts())
    known = max(counts.values - counts.nulls - counts.oov, 0)
    groups = np.array([counts.nulls, counts.oov, known], np.float64)
    total = int(groups.sum())
    figures: dict[str, Any] = {"null_rate": counts.nulls / total if total else None}
    values: tuple[Distribution, ...] = ()
    if name in stats.dense:
        values = (stats.dense[name],)
        figures |= _figures(stats.dense[name], *stats.scales[name])
    if name in stats.has_ids:
        figures["oov_rate"] = counts.oov / total if total else None
    if name in stats.lengths:
        values = (stats.lengths[name],)
        figures["length"] = _figures(stats.lengths[name])
    return _Measured(figures, (groups,), values, total)


def _of_scores(name: str, stats: RowStats) -> _Measured:
    if name in stats.scores:
        return _Measured(_figures(stats.scores[name]), values=(stats.scores[name],))
    sums_C = stats.classes[name]
    not_finite = int((~np.isfinite(sums_C)).sum())
    if not_finite:
        return _Measured({"not_finite": not_finite}, (np.zeros_like(sums_C),))
    means = (sums_C / max(stats.rows, 1)).tolist()
    return _Measured({"mean_of_classes": means, "not_finite": 0}, (sums_C,), count=stats.rows)


def _figures(values: Distribution, shift: float = 0.0, scale: float = 1.0) -> dict[str, Any]:
    """Figures in the unit that values had before `shift` was subtracted and `scale` divided by."""
    if not values.count:
        return {"not_finite": values.not_finite}

    def of(value: float) -> float:
        return value * scale + shift

    return {
        "mean": of(values.mean),
        "std": values.std * scale,
        "min": of(values.low),
        "max": of(values.high),
        "quantiles": {f"{share:g}": of(values.quantile(share)) for share in _SHARES},
        "not_finite": values.not_finite,
    }


def _table(what: str, entries: Mapping[str, Any], columns: tuple[str, ...]) -> list[str]:
    """A line an entry: each figure, and in brackets that of the reference."""
    shown = [c for c in columns if any(_cell(entry, c) != "-" for entry in entries.values())]
    rows = [[what, *shown, "psi"]]
    for name, entry in entries.items():
        cells = [_cell(entry, column) for column in shown]
        if "reference" in entry:
            usual = [_cell(entry["reference"], column) for column in shown]
            cells = [
                c if c == u == "-" else f"{c} ({u})" for c, u in zip(cells, usual, strict=True)
            ]
        index = "-" if entry["psi"] is None else f"{entry['psi']:.3f}"
        rows.append([name, *cells, f"{index}{' !' if entry['is_over'] else '  '}"])
    rows[0][-1] += "  "
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def _cell(entry: Mapping[str, Any], column: str) -> str:
    if column == "mean" and "length" in entry:
        entry = entry["length"]
    value = entry.get("quantiles", {}).get(column) if column[0].isdigit() else entry.get(column)
    return "-" if value is None else f"{value:.4g}"
